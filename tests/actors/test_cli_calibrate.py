"""`nestbed calibrate` and `nestbed predict` at the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app
from actors.costs import load

LINE = "pages,seconds\n" + "".join(f"{n},{0.25 + 3e-6 * n + n % 7 / 1e6}\n" for n in range(1000, 9000, 500))
CALIBRATE = ("--slope", "s390.te_page_reclaim_dead", "--source", "our z16")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_measurements_become_an_overlay_that_is_laid_over_the_table(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(LINE)
    out = tmp_path / "own.toml"
    both = (*CALIBRATE, "--intercept", "s390.te_vm_destroy", "--out", str(out))
    done = run("calibrate", str(tmp_path / "m.csv"), *both)
    assert done.exit_code == exit_codes.OK, done.stderr
    assert "a page: 3 us (3 us to 3 us)  -> s390.te_page_reclaim_dead" in done.stdout
    costs = load(out)
    assert costs.of("s390", "te_page_reclaim_dead").value == pytest.approx(3000, rel=0.01)
    assert costs.of("s390", "te_vm_destroy").value == pytest.approx(0.25e9, rel=0.01)
    assert costs.of("s390", "te_vm_destroy").source == "our z16"


@pytest.mark.slow
def test_this_machine_is_measured_and_says_what_stands_for_what(tmp_path: Path) -> None:
    out = tmp_path / "here.toml"
    done = run("calibrate", "--here", "--json", "--out", str(out))
    assert done.exit_code == exit_codes.OK, done.stderr
    said = json.loads(done.stdout)
    assert {row["what"]: bool(row["cost"]) for row in said["measured"]}["start and end of a process"] is False
    assert {"common.copy_page", "common.aes_page"} <= set(said["entries"])
    assert all(0 < row["low_ns"] <= row["value_ns"] <= row["high_ns"] for row in said["measured"])
    assert load(out).of("s390", "copy_page").basis == "measured"


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        (LINE, (), "say what the line is"),
        (LINE, ("--slope", "s390.te_page_secure"), "--source TEXT"),
        (LINE, ("--slope", "s390.what", "--source", "x"), "no such cost"),
        ("1,2\n", CALIBRATE, "at least 3"),
        (LINE, ("--here",), "or --here"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(
    tmp_path: Path, text: str, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "m.csv").write_text(text)
    done = run("calibrate", str(tmp_path / "m.csv"), *arguments)
    assert done.exit_code == exit_codes.USAGE
    assert said in done.stderr


def test_a_prediction_says_what_is_lost_with_range_and_what_matters(tmp_path: Path) -> None:
    (tmp_path / "exits.txt").write_text("hlt 20000\n")
    done = run("predict", str(tmp_path / "exits.txt"), "--arch", "snp", "--memory", "1024", "--vcpus", "2")
    assert done.exit_code == exit_codes.OK, done.stderr
    said = " ".join(done.stdout.split())
    assert "nested: exits take 9.7% of each VCPU (5.7% to 19.0%)" in said
    assert "hosted: exits take 2.3% of each VCPU" in said
    assert "nested: touching all memory once adds 7.5 s two fault" in said
    assert "matters most: exit_nested (derived)" in said


@pytest.mark.parametrize(
    ("text", "arch", "said"),
    [
        ("VM-EXIT Samples\nHLT 1 1% 1%\n", "s390", "(--seconds)"),
        ("hlt\n", "s390", "line 1"),
        ("hlt 1\n", "mars", "no such architecture"),
    ],
)
def test_what_cannot_be_predicted_is_refused(tmp_path: Path, text: str, arch: str, said: str) -> None:
    (tmp_path / "exits.txt").write_text(text)
    done = run("predict", str(tmp_path / "exits.txt"), "--arch", arch, "--memory", "1024")
    assert done.exit_code == exit_codes.USAGE
    assert said in done.stderr
