"""Sampled traces of a comparison: in its directory, in its report, beside its metrics."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app
from actors.compare.tracing import Tracing, sampled
from actors.runtime.actor import open_runtime
from protocol.ledger import Ledger
from protocol.plan import operations as op

SMALL = (
    "--arch",
    "s390",
    "--set",
    "guest.image_pages=4",
    "--set",
    "guest.touch_pages=4",
    "--set",
    "guest.share_pages=2",
)
SMALL += ("--set", "run.swap_pages=2", "--path", "nested", "--path", "hosted")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a traced comparison leaves behind."""
    folder = tmp_path_factory.mktemp("traced")
    result = run("compare", "--quiet", "--trace", "1000000", "--out", str(folder), *SMALL)
    assert result.exit_code == exit_codes.OK, result.output
    return folder


@pytest.mark.slow
def test_one_of_each_operation_is_followed(left: Path) -> None:
    traces = json.loads((left / "run.json").read_text())["traces"]
    names = Counter((trace["path"], trace["operation"].split()[0]) for trace in traces)
    assert set(names.values()) == {1}
    assert {name for path, name in names if path == "nested"} >= {
        "create",
        "load",
        "start",
        "destroy",
        "reboot",
    }


@pytest.mark.slow
def test_modelled_time_and_wall_time_are_not_mixed(left: Path) -> None:
    events = json.loads((left / "trace.json").read_text())["traceEvents"]
    processes = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    assert set(processes.values()) == {
        f"s390 {path}, {time} time" for path in ("nested", "hosted") for time in ("modelled", "wall")
    }
    assert len(processes) == 4


@pytest.mark.slow
def test_calls_name_a_trace_in_which_they_were_made(left: Path) -> None:
    text = (left / "metrics.om").read_text()
    named = set(re.findall(r'nestbed_te_calls_total\{.*# \{trace_id="(\w{32})"\}', text))
    traced = {each["trace_id"] for each in json.loads((left / "run.json").read_text())["traces"]}
    assert named and named <= traced


@pytest.mark.slow
def test_the_report_draws_them(left: Path) -> None:
    text = (left / "report.html").read_text()
    assert "One operation of each kind, message by message" in text
    assert "uvc create_config at l0.kvm, modified" in text


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["1", "2"])
def test_messages_are_followed_into_other_processes(tmp_path: Path, depth: str) -> None:
    """What was counted over there is in the trace, below the message that caused it."""
    small = (*SMALL[:-4], "--path", "nested", "--depth", depth, "--set", "guest.per_l1=1")
    found = []
    for processes in ("1", "2"):
        flags = ("--quiet", "--trace", "1", "--processes", processes, "--out", str(tmp_path / processes))
        result = run("compare", *flags, *small)
        assert result.exit_code == exit_codes.OK, result.output
        events = json.loads((tmp_path / processes / "trace.json").read_text())["traceEvents"]
        counts: Counter[str] = Counter()
        for event in events:
            if event["ph"] == "b" and event["pid"] == 1:
                counts.update(event["args"]["counts"])
        found.append(counts)
    assert found[0]["exits"] > 100
    assert not found[1] - found[0], "nothing is found twice"
    # Stores that trap come by a connection of their own, and are no messages.
    less = found[0] - found[1]
    assert less["exits"] == less["exits.1.table_write.kernel"] == less["entries.1"]
    assert {name.split(".")[0] for name in less} == {"exits", "entries", "table_ops"}


def test_what_cannot_be_followed_is_said() -> None:
    result = run("compare", "--trace", "1", "--fidelity", "bulk")
    assert result.exit_code == exit_codes.USAGE
    assert "--trace: " in result.output


async def test_failures_and_the_slowest_are_kept_though_nobody_followed_them() -> None:
    now = iter([0, 30, 100, 190, 200, 210, 300, 305])
    tracing = Tracing(sampled(1_000), clock=lambda: next(now))
    async with open_runtime(lambda: 0.0) as runtime:
        tracing.begin("s390", "nested", runtime, Ledger())
        guests: list[Any] = [op.Destroy(guest) for guest in range(3)]
        for guest in guests:  # the first is followed, the second took 90, the third 10
            with tracing.operation(0, guest):
                pass
        with pytest.raises(ValueError, match="no"), tracing.operation(0, guests[0]):
            raise ValueError("no")
    assert [traced.root.what for traced in tracing.found] == ["destroy guest=0"]
    failed, slowest = tracing.noted
    assert (failed.root.error, failed.wall_ns) == ("ValueError", 5)
    assert (slowest.root.what, slowest.wall_ns) == ("destroy guest=1", 90)
