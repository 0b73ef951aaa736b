"""`nestbed compare` whole, as a shell starts it: a real run, its bundle, its gates, its interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from actors import exit_codes

pytestmark = pytest.mark.slow
NESTBED = [sys.executable, "-m", "nestbed"]
SETTINGS = ("l1.count=1", "guest.per_l1=1", "guest.touch_pages=8", "guest.image_pages=8", "run.swap_pages=6")
SMALL = ["--arch", "s390", *(word for setting in SETTINGS for word in ("--set", setting))]

Json = dict[str, Any]


def run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NESTBED, "compare", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_a_run_answers_reports_and_can_be_compared_with_itself(tmp_path: Path) -> None:
    first = run(tmp_path, *SMALL)
    assert first.returncode == exit_codes.OK, first.stderr
    head = " ".join(first.stdout[:1000].split())
    assert re.search(r" s390: exits that arrive at L0.*direct [\d,]+; nested [\d,]+ \(", head)
    assert max(map(len, first.stdout.splitlines())) <= 100
    bundle = tmp_path / "nestbed-default"
    ElementTree.fromstring((bundle / "report.html").read_text())
    again = run(tmp_path, *SMALL, "--json", "--diff", str(bundle))
    assert again.returncode == exit_codes.OK, again.stderr
    assert json.loads(again.stdout)["results"] == json.loads((bundle / "run.json").read_text())["results"]
    other = run(tmp_path, *SMALL, "--json", "--diff", str(bundle), "--set", "run.page_changes=3")
    assert other.returncode == exit_codes.MISSED
    assert "other setting: run.page_changes: 8 -> 3" in other.stderr or "changed: " in other.stderr


def test_totals_of_phases_are_the_totals_of_the_run(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *SMALL,
        "--json",
        "--path",
        "direct",
        "--path",
        "nested",
        "--path",
        "hosted",
        "--path",
        "mixed",
        "--set",
        "guest.per_l1=2",
    )
    assert done.returncode == exit_codes.OK, done.stderr
    for result in json.loads(done.stdout)["results"]:
        for family in ("exits", "te_calls", "entries"):
            in_phases = sum((counts or {}).get(family, 0) for counts in result["phases"].values())
            assert result["counts"].get(family, 0) == in_phases, (result["path"], family)
        lacking = {f"phases.{name}" for name, counts in result["phases"].items() if counts is None}
        assert lacking == set(result["absent"])


# A shell's background jobs ignore Ctrl-C; these must not.
HEARS = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from nestbed.__main__ import main; main()\n"
)


def started(cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """A long run."""
    long = ["--set", "guest.touch_pages=1500", "--set", "run.exits.wait=200000"]
    return subprocess.Popen(
        [sys.executable, "-c", HEARS, "compare", *long, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], what: str) -> str:
    """Read standard error up to a line that says `what`."""
    assert process.stderr is not None
    seen = ""
    while what not in seen:
        line = process.stderr.readline()
        assert line, f"ended without saying {what}: {seen}"
        seen += line
    return seen


def test_the_first_interrupt_stops_a_real_run_and_still_reports(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        wait_for(process, "direct: host setup")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == exit_codes.INTERRUPTED, err
    assert "Traceback" not in err
    assert "stopping after this step" in err
    assert "STOPPED before its end" in out
    assert json.loads((tmp_path / "nestbed-default" / "run.json").read_text())["interrupted"] is True


def test_the_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        wait_for(process, "direct")
        process.send_signal(signal.SIGINT)
        wait_for(process, "stopping after this step")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED, err
    assert "Traceback" not in err


def test_metrics_stay_as_long_as_one_asks_for(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        HEARS,
        "compare",
        *SMALL,
        "--path",
        "nested",
        "--metrics-port",
        "0",
        "--linger",
        "120",
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        address = re.search(r"http://\S+", wait_for(process, "metrics on"))
        assert address is not None
        wait_for(process, "metrics stay for 120 s")
        with urllib.request.urlopen(address[0], timeout=30) as answer:
            text = answer.read().decode()
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == exit_codes.OK, err
    exits = re.findall(r'^nestbed_exits_total\{.*path="nested".*\} ([\d.e+]+)$', text, re.MULTILINE)
    assert sum(map(float, exits)) > 100
    assert "nested" in out


def test_what_hosts_said_replays(tmp_path: Path) -> None:
    done = run(tmp_path, *SMALL, "--json", "--path", "nested", "--record", "said")
    assert done.returncode == exit_codes.OK, done.stderr
    files = sorted((tmp_path / "said").iterdir())
    assert files or "nothing was recorded" in done.stderr
    for file in files:
        replayed = subprocess.run(
            [*NESTBED, "replay", file], capture_output=True, text=True, timeout=300, check=False
        )
        assert replayed.returncode == exit_codes.OK, (file, replayed.stdout, replayed.stderr)
