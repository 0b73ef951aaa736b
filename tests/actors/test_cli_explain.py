"""`nestbed explain` at the command line: words on standard output, complaints elsewhere, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app
from actors.keyboard import Options, WrongOptions, _explaining, keyboard
from protocol.arch import architectures, load


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})


@pytest.mark.parametrize("question", ["0x0104", "unpack:0x010A", "0x0300:0x0108:0x0005", "verify:0x0003"])
def test_a_code_is_explained_in_words(question: str) -> None:
    result = run("s390", question)
    assert result.exit_code == exit_codes.OK
    for word in ("means", "looked at", "basis", "fact sheet"):
        assert word in result.stdout


def test_json_says_the_same() -> None:
    (meaning,) = json.loads(run("s390", "0x0300:0x0108:0x0005", "--json").stdout)["meanings"]
    assert (meaning["call"], meaning["code"], meaning["reason"]) == ("set_params", "0x0108", "0x0005")
    assert meaning["check"] == "no slot for this machine"
    assert meaning["place"] == "check 11 of 14 of this call"
    assert meaning["basis"] == "source"
    assert any("QEMU" in note for note in meaning["notes"])


def test_an_unknown_code_lists_what_the_call_answers() -> None:
    result = run("s390", "unpack:0x0042")
    assert (result.exit_code, result.stdout) == (exit_codes.USAGE, "")
    assert "unpack:0x010A  page not mapped" in result.stderr
    assert "unpack does not answer 0x0042" in result.stderr


def test_what_is_no_question_says_what_is_allowed() -> None:
    for question in ("unpack:", "nosuchcall:1", "unpack:one", "a:b:c:d"):
        result = run("s390", question)
        assert (result.exit_code, result.stdout) == (exit_codes.USAGE, "")
        assert "allowed" in result.stderr


@pytest.mark.parametrize("arch", architectures())
def test_every_architecture_explains_its_table(arch: str) -> None:
    """Without a word of its own, too."""
    row = next(row for row in load(arch).calls.values() if row.checks)
    result = run(arch, f"{row.name}:{row.checks[0].code:#x}")
    assert result.exit_code == exit_codes.OK, result.stderr
    assert " ".join(row.checks[0].text.split()[:3]) in result.stdout


# -- the console that explains itself ----------------------------------------


class Silent:
    """A slice that cannot say who answered."""


def test_an_architecture_that_cannot_explain_names_those_that_can() -> None:
    with pytest.raises(WrongOptions, match=r"allowed: pef, s390, sev, tdx"):
        _explaining(Silent(), keyboard(Options("s390")))


@pytest.mark.slow
def test_a_transcript_holds_no_explanation_and_is_replayed_as_any_other(tmp_path: Path) -> None:
    requests = [
        {"id": 1, "op": "alloc", "len": 4096},
        {"id": 2, "op": "write", "addr": "0x100000", "hex": "00400101"},
        {"id": 3, "op": "call", "r2": "0x100000"},
    ]
    said = tmp_path / "said.jsonl"
    command = [
        sys.executable,
        "-m",
        "nestbed",
        "console",
        "--arch",
        "s390",
        "--explain",
        "--record",
        str(said),
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    last = json.loads(ran.stdout.splitlines()[-1])
    assert last["ok"] == {"cc": 1}
    assert last["explain"]["check"] == "Ultravisor not initialised"
    assert "explain" not in said.read_text()
    replayed = CliRunner().invoke(app, ["replay", str(said), "--depth", "2"])
    assert replayed.exit_code == exit_codes.OK, replayed.output
