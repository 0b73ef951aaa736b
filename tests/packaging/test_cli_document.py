"""docs/cli.md says what the program's own help says: every command, option, example and exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from actors import exit_codes
from actors.cli import COMMANDS, EXAMPLES, app


@cache
def program() -> Any:
    """All commands: it takes Typer long to make them."""
    return typer.main.get_command(app)


def command(name: str) -> Any:
    at: Any = program()
    for word in name.split():
        at = at.commands[word]
    return at


def rows(name: str) -> Iterator[str]:
    """The table rows of a command's arguments and options."""
    for parameter in command(name).params:
        if parameter.name == "help":
            continue
        if parameter.param_type_name == "argument":
            shown = parameter.metavar or parameter.name.upper()
            said = f"{shown}..." if parameter.multiple or parameter.nargs == -1 else shown
        else:
            said = ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {parameter.metavar}")
        notes = [str(parameter.default)] if parameter.default and parameter.default is not True else []
        if parameter.required and parameter.param_type_name == "option":
            notes.append("required")
        yield f"| `{said}` | {parameter.help}{' (' + ', '.join(notes) + ')' if notes else ''} |"


@pytest.fixture(scope="module")
def sections(root: Path) -> dict[str, str]:
    """What stands under each heading `## nestbed COMMAND`."""
    text = (root / "docs" / "cli.md").read_text()
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return {
        heading.removeprefix("nestbed "): body for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def section(sections: dict[str, str], name: str) -> str:
    """Commands that are one under two names may share a section."""
    return next(body for heading, body in sections.items() if name in heading.split(", nestbed "))


def test_the_document_has_the_commands_of_the_program_and_no_other(sections: dict[str, str]) -> None:
    documented = [name for heading in sections for name in heading.split(", nestbed ")]
    assert sorted(name for name in documented if name in COMMANDS) == sorted(COMMANDS)
    others = ["What goes where", "Completion", "Exit codes"]
    assert [name for name in documented if name not in COMMANDS] == others


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_described_in_the_words_of_its_help(sections: dict[str, str], name: str) -> None:
    body = " ".join(section(sections, name).split())
    for paragraph in command(name).help.split("\n\n"):
        assert paragraph in body


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_options_and_no_other(sections: dict[str, str], name: str) -> None:
    table = re.findall(r"^\| `.*\|$", section(sections, name), re.MULTILINE)
    assert table == list(rows(name))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_examples(sections: dict[str, str], name: str) -> None:
    lines = section(sections, name).splitlines()
    assert [example for example in EXAMPLES[name] if f"$ {example}" not in lines] == []


def test_every_exit_code_is_explained(sections: dict[str, str]) -> None:
    codes = {value for name, value in vars(exit_codes).items() if name.isupper()}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", sections["Exit codes"], re.MULTILINE)} == codes
