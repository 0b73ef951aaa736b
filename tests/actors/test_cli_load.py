"""`nestbed load` as a shell starts it: what it prints, its gate, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app

SMALL = (
    "arch=s390",
    "l1.count=1",
    "guest.per_l1=2",
    "guest.touch_pages=4",
    "guest.image_pages=4",
    "run.swap_pages=2",
    "paths=nested,hosted",
    "load.duration_s=1",
    "load.pairs=4",
)
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nestbed", "load", *SETTINGS, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_virtual_load_is_the_same_each_time_and_says_what_it_is(tmp_path: Path) -> None:
    pytest.importorskip("simpy", reason="queueing needs the extra `model`")
    one, other = (run(tmp_path, "--virtual", "--out", name) for name in ("a", "b"))
    assert one.returncode == exit_codes.OK, one.stderr
    assert one.stdout == other.stdout
    assert "s390: nested is slower than hosted" in one.stdout
    assert "virtual time" in one.stdout
    assert "open model" in one.stdout
    assert (tmp_path / "a" / "load.json").read_text() == (tmp_path / "b" / "load.json").read_text()


@pytest.mark.slow
def test_a_threshold_that_breaks_is_the_exit_code(tmp_path: Path) -> None:
    pytest.importorskip("simpy", reason="queueing needs the extra `model`")
    text = 'name = "gate"\n[thresholds]\n"load.nested.p99_ms" = "< {}"\n"counts.nested.exits" = "< 1"\n'
    for bound, code in (("1000", exit_codes.OK), ("0.001", exit_codes.MISSED)):
        (tmp_path / "gate.toml").write_text(text.format(bound))
        done = run(tmp_path, "gate.toml", "--virtual", "--json")
        assert done.returncode == code, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        assert [each["what"] for each in document["thresholds"]] == ["load.nested.p99_ms"]


@pytest.mark.slow
def test_processes_share_the_load_and_their_percentiles_are_merged(tmp_path: Path) -> None:
    shorter = ("--set", "load.warm_up=none", "--set", "load.pairs=1")
    done = run(tmp_path, "--processes", "2", "--json", "--quiet", *shorter)
    assert done.returncode == exit_codes.OK, done.stderr
    document = json.loads(done.stdout)
    assert (document["clock"], set(document["load"]["s390"]["paths"])) == ("wall", {"nested", "hosted"})
    whole = sum(side["measured"] for side in document["load"]["s390"]["paths"].values())
    parts = 0
    for shard in ("0/2", "1/2"):
        said = json.loads(run(tmp_path, "--shard", shard, *shorter).stdout)
        parts += sum(side["measured"] for side in said["s390"].values())
    assert whole == parts, "the same seed sends the same requests"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shard", "2/2"), "allowed: K/N"),
        (("--virtual", "--processes", "2"), "--virtual: virtual time needs one process"),
        (("--set", "load.arrivals=replay"), "allowed: with --replay FILE"),
        (("--replay", "none.txt"), "--replay none.txt: No such file"),
        (("--set", "run.page_changes=3"), "allowed: an even number"),
        (("--set", "load.model=half"), "one of: open, closed"),
        (("--deployment", "lab.toml", "--virtual"), "--deployment: allowed beside it"),
        (("--deployment", "none.toml"), "none.toml: cannot be read"),
        (("--arch", "tdx", "--set", "load.mix.swap=1"), "load.mix.swap: tdx: "),
        (
            ("--set", "load.mix.run=0", "--set", "load.mix.restart=0", "--set", "load.mix.page_change=0"),
            "every weight is 0",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(arguments: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(app, ["load", *SETTINGS, *arguments])
    assert (done.exit_code, done.stdout) == (exit_codes.USAGE, "")
    assert said in done.stderr


def test_a_replay_is_times_in_order(tmp_path: Path) -> None:
    for text, said in (("0.1\nx\n", "times.txt:2: 'x'"), ("2\n1\n", "in order")):
        times = tmp_path / "times.txt"
        times.write_text(text)
        done = CliRunner().invoke(app, ["load", *SETTINGS, "--replay", str(times)])
        assert done.exit_code == exit_codes.USAGE
        assert said in done.stderr
