"""`nestbed feasibility` and `nestbed worklist`: is it possible, and what has to be written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app
from actors.sources import code_lines
from protocol.arch import architectures, load


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "110", "NO_COLOR": "1"})


def said(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == exit_codes.OK, result.stderr
    return json.loads(result.stdout)


def test_all_architectures_stand_side_by_side() -> None:
    lines = run("feasibility", "--brief").stdout.splitlines()
    assert lines[0].split() == list(architectures())
    (calls,) = [line.split() for line in lines if line.startswith("calls")]
    assert calls[1:] == [str(len(load(name).calls)) for name in architectures()]


def test_one_architecture_is_answered_line_by_line() -> None:
    text = run("feasibility", "pef").stdout
    assert "pef: the nested path needs a changed Trusted Entity" in text
    assert "NOT" in text and "MET" in text, "one of its requirements is met by nothing that is known"
    for row in load("pef").calls.values():
        assert row.name in text
    assert "create_config" not in text


def test_json_has_every_line_with_its_source() -> None:
    (one,) = said("feasibility", "tdx")
    assert one["realism"] == "software"
    for lines in (*one["calls"].values(), one["fenced"], one["requirements"], one["tables"]):
        assert all(line["source"] and line["realism"] for line in lines)


@pytest.mark.parametrize("arch", architectures())
def test_a_worklist_says_how_much_and_what(arch: str) -> None:
    own, everything = said("worklist", arch), said("worklist", arch, "--all")
    assert all(item["own"] for item in own["items"])
    counts = {each["kind"]: each for each in own["counts"]}
    for kind, each in counts.items():
        of_kind = [item["own"] for item in everything["items"] if item["kind"] == kind]
        assert (each["own"], each["inherited"]) == (of_kind.count(True), of_kind.count(False))
    split = {each["part"]: each for each in own["split"]}
    assert {part: each["talk"] for part, each in split.items()} == {"interface": 80, "memory": 10, "vcpu": 10}
    assert 98 <= sum(each["percent"] for each in split.values()) <= 102
    assert all(each["lines"] > 0 for each in split.values())


def test_a_worklist_is_a_plan_call_by_call() -> None:
    text = run("worklist", "s390").stdout
    assert "set_params" in text and "header not accessible" in text
    assert "customer key" not in text, "that is the Ultravisor's own business"
    assert "customer key" in run("worklist", "s390", "--all").stdout


def test_an_unknown_architecture_is_an_error_with_a_hint() -> None:
    for command in ("feasibility", "worklist"):
        result = run(command, "s39")
        assert result.exit_code == exit_codes.USAGE
        assert "did you mean s390?" in result.stderr


def test_lines_of_code_are_those_on_which_code_stands() -> None:
    docstring = '"""A docstring\nof two lines."""'
    text = f'{docstring}\n\n# a remark\nX = (\n    1,\n)\n\ndef f():\n    """Says."""\n    return X\n'
    assert code_lines(text) == 5
