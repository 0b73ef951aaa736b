"""A guest host with 50 guests reboots, and the dashboards and alerts tell of it: recorded, then asked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards.recorded import MISSING, PROMETHEUS, PROMTOOL, Server, recorded

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules" / "nestbed.yml"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMTOOL is None or PROMETHEUS is None, reason=MISSING),
]
GUESTS = 50
FLAGS = {
    "arch": "s390",
    "paths": "nested",
    "profile": "full",  # the small one has eight guests for a host
    "l1.count": "1",
    "guest.per_l1": str(GUESTS),
    "guest.memory_mib": "1",
    "guest.vcpus": "1",
    "guest.image_pages": "4",
    "guest.touch_pages": "4",
    "guest.share_pages": "2",
    "run.swap_pages": "2",
    "run.reboots": "1",
    "run.deaths": "0",
    "strategy.teardown": "async",
}
STEP_S = 0.02
QUIET_S = 10
Points = list[tuple[float, float]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with recorded(tmp_path_factory.mktemp("story"), "default", FLAGS) as made:
        yield made


def line(server: Server, query: str) -> Points:
    """The changes of one line: when, and to what."""
    (series,) = server.series(query, once=False, step=STEP_S)
    found: Points = []
    for at, value in series["values"]:
        if not found or found[-1][1] != float(value):
            found.append((float(at), float(value)))
    return found


def records(kind: str) -> str:
    return f'sum(nestbed_tracking_records{{kind="{kind}",holder="l0"}})'


@pytest.fixture(scope="module")
def rebooted(server: Server) -> float:
    """When the first item was torn down, in Unix time."""
    start, first, *_ = line(server, 'sum(nestbed_teardown_items_total{cause="l1_reboot"})')
    assert start[1] == 0 < first[1]
    return first[0]


def test_the_guests_go_and_the_host_stays(server: Server, rebooted: float) -> None:
    guests = line(server, records("vm_map"))
    assert [n for at, n in guests if at < rebooted][-1] == GUESTS, "they were there until then"
    assert [n for at, n in guests if at >= rebooted] == [0]
    assert line(server, records("te_context"))[-1][1] == 1


def test_what_is_left_to_tear_down_rises_and_falls_to_nothing(server: Server, rebooted: float) -> None:
    before, left, end = line(server, records("pending_teardown"))
    assert (before[1], end[1]) == (0, 0)
    assert left[1] > GUESTS
    assert left[0] == pytest.approx(rebooted, abs=2 * STEP_S), "the host is back while they still go"


def test_the_annotation_stands_at_the_right_second(server: Server, rebooted: float) -> None:
    board = json.loads((ROOT / "dashboards" / "memory-and-tracking.json").read_text())
    gone = next(each for each in board["annotations"]["list"] if each["name"] == "Guest host gone")
    marks = [
        (float(at), series["metric"])
        for series in server.series(gone["expr"], once=False, step=STEP_S)
        for at, _ in series["values"]
    ]
    assert marks[0][0] == pytest.approx(rebooted, abs=2 * STEP_S)
    assert {metric["cause"] for _, metric in marks} == {"l1_reboot"}


def _labels(metric: Json) -> str:
    return ",".join(f'{name}="{value}"' for name, value in metric.items() if name != "__name__")


def test_the_alert_fires(server: Server, rebooted: float, tmp_path: Path) -> None:
    """The recorded series, a second apart, under the rules that are shipped.

    A fast machine reboots in the first second of its run: the series stands still for QUIET_S before.
    """
    series = server.series("nestbed_teardown_items_total", once=False, step=1)
    inputs = [
        {
            "series": f"nestbed_teardown_items_total{{{_labels(each['metric'])}}}",
            "values": " ".join(value for _, value in [each["values"][0]] * QUIET_S + each["values"]),
        }
        for each in series
    ]
    second = QUIET_S + round(rebooted - server.began) + 2
    at = {"eval_time": f"{second}s", "alertname": "NestbedOwnerGone"}
    fires = {
        **at,
        "exp_alerts": [
            {
                "exp_labels": {"severity": "info", "arch": "s390", "path": "nested", "cause": "l1_reboot"},
                "exp_annotations": {
                    "summary": "s390 nested: a guest host went away with guests (l1_reboot)",
                    "description": "L0 releases what an owner held that rebooted, crashed or left: a step, "
                    "then nothing more.",
                    "runbook": "docs/runbook.md#nestbedownergone",
                    "dashboard": "nestbed-tracking",
                },
            }
        ],
    }
    quiet = {"eval_time": f"{second - 4}s", "alertname": "NestbedOwnerGone", "exp_alerts": []}
    test: Json = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1s",
        "tests": [{"interval": "1s", "input_series": inputs, "alert_rule_test": [quiet, fires]}],
    }
    file = tmp_path / "story.yml"
    file.write_text(json.dumps(test))
    assert PROMTOOL is not None
    said = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
