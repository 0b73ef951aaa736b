"""`nestbed compare` around a run that is made up: what is written where, what is judged, how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from actors import exit_codes
from actors.commands.compare import Wanted, perform
from actors.compare.outcome import Outcome
from actors.compare.progress import Progress
from actors.scenario import Resolved, known_architectures, load
from protocol.plan.scenario import Scenario

Json = dict[str, Any]
KNOWN = known_architectures()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs leave their files in a place of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


@pytest.fixture
def run(results: list[Json], claims: list[Json]) -> Callable[..., Outcome]:
    """A run that has the synthetic results."""

    def made(
        scenario: Scenario, progress: Progress, transcripts: Any = None, processes: int = 1, costs: Any = None
    ) -> Outcome:
        progress.start(3)
        for place, result in enumerate(results):
            progress.phase(result["path"], "boot", place, 3)
            progress.result(result)
        progress.end()
        return Outcome(results, claims, wall={"seconds": 0.1})

    return made


def resolved(tmp_path: Path, thresholds: str = "") -> Resolved:
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\n[thresholds]\n{thresholds}\n')
    return load(str(path), known=KNOWN)


QUIET = Wanted(quiet=True)


def test_it_prints_the_answer_and_leaves_a_bundle_and_a_report(
    here: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(resolved(here), QUIET, run) == exit_codes.OK
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "scenario mine, seed 1, hosts at depth 1"
    assert "nested 267 (2.0x" in out
    assert err == "nestbed: report: nestbed-mine/report.html\n"
    bundle = json.loads((here / "nestbed-mine" / "run.json").read_text())
    assert [result["path"] for result in bundle["results"]] == ["hosted", "direct", "nested"]
    ElementTree.fromstring((here / "nestbed-mine" / "report.html").read_text())
    assert sorted(path.name for path in (here / "nestbed-mine").iterdir()) == [
        "metrics.om",
        "report.html",
        "run.json",
    ]


def test_as_json_there_is_one_object_on_stdout_and_no_file(
    here: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(resolved(here), Wanted(as_json=True, quiet=True), run) == exit_codes.OK
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert list(document) == ["nestbed", "seed", "scenario", "results", "claims", "breakeven", "wall"]
    assert err == ""
    assert [path.name for path in here.iterdir()] == ["mine.toml"]


def test_as_json_a_bundle_is_left_where_one_is_asked_for(here: Path, run: Any) -> None:
    wanted = Wanted(as_json=True, out=here / "deep" / "er", quiet=True)
    assert perform(resolved(here), wanted, run) == exit_codes.OK
    assert (here / "deep" / "er" / "report.html").is_file()


def test_progress_goes_to_stderr(here: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    perform(resolved(here), Wanted(as_json=True), run)
    out, err = capsys.readouterr()
    json.loads(out)
    assert err == "nestbed: 0/3 hosted: boot\n"


def test_a_bundle_can_be_said_again(here: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from actors.cli import app

    perform(resolved(here), QUIET, run)
    said = capsys.readouterr().out
    page = (here / "nestbed-mine" / "report.html").read_text()
    (here / "nestbed-mine" / "report.html").unlink()
    for arguments in (["nestbed-mine"], ["nestbed-mine/run.json", "--out", "again.html"]):
        again = CliRunner().invoke(app, ["report", *arguments])
        assert (again.exit_code, again.stdout) == (exit_codes.OK, said)
    assert (here / "nestbed-mine" / "report.html").read_text() == page == (here / "again.html").read_text()


def test_the_output_as_json_can_be_said_as_well(
    here: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from actors.cli import app

    perform(resolved(here), Wanted(as_json=True, quiet=True), run)
    (here / "base.json").write_text(capsys.readouterr().out)
    again = CliRunner().invoke(app, ["report", "base.json"])
    assert again.exit_code == exit_codes.OK
    assert "nested 267 (2.0x" in again.stdout
    assert "revision not known" in (here / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nothing"], exit_codes.USAGE), (["base", "--out", "mine.toml/x"], exit_codes.ENVIRONMENT)],
    ids=str,
)
def test_what_cannot_be_said_again_is_refused(arguments: list[str], code: int, here: Path, run: Any) -> None:
    from typer.testing import CliRunner

    from actors.cli import app

    perform(resolved(here), Wanted(out=here / "base", quiet=True), run)
    refused = CliRunner().invoke(app, ["report", *arguments])
    assert refused.exit_code == code
    assert refused.stderr.startswith("nestbed: ")


# -- judgements --------------------------------------------


def test_thresholds_that_hold_end_with_0(here: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bounds = '"counts.nested.exits" = "< 1000"\n"phases.direct.run.exits" = "== 80"\n'
    assert perform(resolved(here, bounds), QUIET, run) == exit_codes.OK
    out = capsys.readouterr().out
    assert out.splitlines()[1] == "threshold counts.nested.exits < 1000 on s390: holds (307)"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_threshold_that_fails_ends_with_99_and_is_said(
    as_json: bool, here: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds = '"counts.nested.exits" = "< 10"\n'
    wanted = Wanted(as_json=as_json, quiet=True)
    assert perform(resolved(here, bounds), wanted, run) == exit_codes.MISSED
    out, err = capsys.readouterr()
    assert re.search(r"counts\.nested\.exits < 10.*FAILED", err if as_json else out)
    if as_json:
        assert json.loads(out)["thresholds"][0]["holds"] is False


def test_a_count_that_changed_ends_with_99_and_is_named(
    here: Path, run: Any, results: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    perform(resolved(here), Wanted(out=here / "base", quiet=True), run)
    results[1]["counts"]["exits"] += 1
    capsys.readouterr()
    assert perform(resolved(here), Wanted(diff=here / "base", quiet=True), run) == exit_codes.MISSED
    out = capsys.readouterr().out
    assert "changed: s390 direct depth 0: counts.exits: 152 -> 153 (+1)\n" in out
    assert "1 count changed against" in out


def test_equal_counts_end_with_0(here: Path, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    perform(resolved(here), Wanted(as_json=True, quiet=True), run)
    (here / "base.json").write_text(capsys.readouterr().out)
    wanted = Wanted(as_json=True, diff=here / "base.json", quiet=True)
    assert perform(resolved(here), wanted, run) == exit_codes.OK
    out, err = capsys.readouterr()
    json.loads(out)
    assert err.startswith("nestbed: no count changed against ")


def test_a_long_or_odd_name_stays_on_one_line_as_it_is(
    here: Path, run: Any, results: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    perform(resolved(here), Wanted(out=here / "base", quiet=True), run)
    name = "exits.1.[bold]:smile:" + "x" * 100 + ".kernel"
    results[1]["counts"][name] = 1
    capsys.readouterr()
    perform(resolved(here), Wanted(diff=here / "base", quiet=True), run)
    assert f"changed: s390 direct depth 0: counts.{name}: 0 -> 1 (+1)\n" in capsys.readouterr().out


def test_many_changes_are_not_all_listed(
    here: Path, run: Any, results: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    perform(resolved(here), Wanted(out=here / "base", quiet=True), run)
    results[1]["counts"] |= {f"new{n}": 1 for n in range(200)}
    capsys.readouterr()
    perform(resolved(here), Wanted(diff=here / "base", quiet=True), run)
    out = capsys.readouterr().out
    assert out.count("changed: ") == 50
    assert "... and 150 more\n200 counts changed against " in out


# -- how it can fail ---------------------------------------


def refused(code: int, wanted: Wanted, here: Path) -> None:
    """What makes no sense is refused before anything runs."""
    import typer

    def never(*_: Any) -> Outcome:
        raise AssertionError("it ran")

    with pytest.raises(typer.Exit) as end:
        perform(resolved(here), wanted, never)
    assert end.value.exit_code == code


def test_a_base_that_is_none_ends_with_2_before_the_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(exit_codes.USAGE, Wanted(diff=here / "nothing", quiet=True), here)
    assert "--diff" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["out", "record"])
def test_a_directory_that_cannot_be_written_ends_with_3_before_the_run(
    option: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(exit_codes.ENVIRONMENT, Wanted(**{option: here / "mine.toml" / "x"}, quiet=True), here)
    assert f"--{option}" in capsys.readouterr().err


def test_a_port_that_is_taken_ends_with_3_before_the_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused(exit_codes.ENVIRONMENT, Wanted(metrics_port=taken.getsockname()[1], quiet=True), here)
    assert "the port is taken" in capsys.readouterr().err


def test_a_run_that_fails_reports_what_was_finished_and_ends_with_1(
    here: Path, results: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(
        scenario: Scenario, progress: Progress, transcripts: Any = None, processes: int = 1, costs: Any = None
    ) -> Outcome:
        progress.result(results[1])
        raise AssertionError("a page has two owners")

    assert perform(resolved(here), QUIET, breaks) == exit_codes.FAILED
    out, err = capsys.readouterr()
    assert "direct 152" in out
    assert "AssertionError: a page has two owners" in err
    bundle = json.loads((here / "nestbed-mine" / "run.json").read_text())
    assert (bundle["interrupted"], len(bundle["results"])) == (True, 1)


def interrupting(results: list[Json], times: int) -> Callable[..., Outcome]:
    """A run in whose second path somebody presses Ctrl-C."""

    def made(
        scenario: Scenario, progress: Progress, transcripts: Any = None, processes: int = 1, costs: Any = None
    ) -> Outcome:
        progress.result(results[1])
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
        progress.phase("nested", "boot", 1, 3)
        raise AssertionError("nobody stopped it")

    return made


def test_one_interrupt_reports_what_is_finished_and_ends_with_130(
    here: Path, results: list[Json], capfd: pytest.CaptureFixture[str]
) -> None:
    bounds = '"counts.nested.exits" = "< 10"\n'
    assert perform(resolved(here, bounds), QUIET, interrupting(results, 1)) == exit_codes.INTERRUPTED
    out, err = capfd.readouterr()
    assert "STOPPED" in out
    assert "FAILED" not in out, "what did not run cannot fail"
    assert "stopping after this step" in err
    assert "The run was stopped" in (here / "nestbed-mine" / "report.html").read_text()


def test_an_interrupted_run_is_compared_as_far_as_it_came(
    here: Path, run: Any, results: list[Json], capfd: pytest.CaptureFixture[str]
) -> None:
    perform(resolved(here), Wanted(out=here / "base", quiet=True), run)
    wanted = Wanted(diff=here / "base", quiet=True)
    assert perform(resolved(here), wanted, interrupting(results, 1)) == exit_codes.INTERRUPTED
    assert "no count changed" in capfd.readouterr().out


def test_two_interrupts_end_at_once(here: Path, results: list[Json]) -> None:
    with pytest.raises(KeyboardInterrupt):
        perform(resolved(here), QUIET, interrupting(results, 2))


# -- records and metrics -----------------------------------


def test_what_hosts_said_can_be_recorded(here: Path, results: list[Json]) -> None:
    from actors.keyboard import Options
    from actors.record import Transcripts, read

    def talks(
        scenario: Scenario,
        progress: Progress,
        transcripts: Transcripts | None = None,
        processes: int = 1,
        costs: Any = None,
    ) -> Outcome:
        assert transcripts is not None
        transcripts.of("nested", Options("s390", 1)).say(0, {"op": "info"}, {"ok": {}})
        return Outcome(results)

    assert perform(resolved(here), Wanted(record=here / "said", quiet=True), talks) == exit_codes.OK
    assert len(list(read(here / "said" / "s390-nested.jsonl").entries())) == 1


def test_an_empty_record_is_said_to_be_empty(
    here: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert perform(resolved(here), Wanted(record=here / "said", quiet=True), run) == exit_codes.OK
    assert "nothing was recorded" in capsys.readouterr().err


def test_metrics_are_served_while_it_runs_and_not_afterwards(
    here: Path, results: list[Json], capsys: pytest.CaptureFixture[str]
) -> None:
    import urllib.request

    from protocol.ledger import Ledger
    from protocol.tracking import Book

    scraped: list[str] = []

    def watched(
        scenario: Scenario, progress: Progress, transcripts: Any = None, processes: int = 1, costs: Any = None
    ) -> Outcome:
        ledger = Ledger()
        progress.attach("s390", "nested", ledger, [Book(ledger, "l0")])
        ledger.trap(2, "sie")
        address = re.search(r"http://\S+", capsys.readouterr().err)
        assert address is not None
        scraped.append(address[0])
        with urllib.request.urlopen(address[0], timeout=30) as answer:
            scraped.append(answer.read().decode())
        return Outcome(results)

    assert perform(resolved(here), Wanted(metrics_port=0, quiet=True), watched) == exit_codes.OK
    assert re.search(r'^nestbed_exits_total\{.*path="nested".*\} 1\.0$', scraped[1], re.MULTILINE)
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(scraped[0], timeout=30)
