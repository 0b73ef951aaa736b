"""The command line: what is listed, what is said where, which exit code, which hints."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import nestbed
from actors import console, exit_codes, keyboard
from actors.cli import COMMANDS, EXAMPLES, app
from actors.record import Transcript, header_of
from protocol.arch import architectures, kinds, load

Json = dict[str, Any]
ALL = [name.split() for name in COMMANDS]


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    """Run a command in this process. Not wide: what is cut here is cut for people."""
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "100", "NO_COLOR": "1"} | (env or {}))


@cache
def help_of(command: str) -> str:
    return said(run(*command.split(), "--help"))


def said(result: Result) -> str:
    """The output with every run of white space as one blank, frames taken off."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


@pytest.mark.parametrize("command", [[], ["scenario"], ["arch"], *ALL], ids=" ".join)
def test_help_of_every_command_says_what_it_does(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == exit_codes.OK
    assert run(*command, "-h").output == result.output


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_help_of_every_command_has_an_example(command: list[str]) -> None:
    text = help_of(" ".join(command))
    for example in EXAMPLES[" ".join(command)]:
        assert " ".join(example.split()) in text


def test_every_example_is_of_its_command_and_of_options_that_exist() -> None:
    for name, examples in EXAMPLES.items():
        for example in examples:
            assert f"nestbed {name}" in example or name == "nestbed"
            for option in re.findall(r"--[a-z-]+", example):
                assert option in help_of("" if name == "nestbed" else name), (name, option)


def test_without_arguments_it_says_what_there_is() -> None:
    result = run()
    assert "compare" in result.output
    assert result.exit_code in (exit_codes.OK, exit_codes.USAGE)


def test_the_version_is_the_same_however_one_asks() -> None:
    for arguments in (["--version"], ["-V"], ["version"]):
        assert run(*arguments).stdout == f"nestbed {nestbed.__version__}\n"


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (["compre"], "compare"),
        (["scenario", "chek"], "check"),
        (["compare", "--jsn"], "--json"),
        (["calls", "s39"], "s390"),
        (["calls", "s390", "create_confg"], "create_config"),
        (["scenario", "show", "defualt"], "default"),
        (["compare", "--set", "guest.vcpu=3"], "guest.vcpus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_nearly_right_is_guessed(wrong: list[str], hint: str) -> None:
    result = run(*wrong)
    assert result.exit_code == exit_codes.USAGE
    assert result.stdout == "", "a complaint is no result"
    assert re.search(rf"(did you mean|possible options:) '?{hint}", said(result), re.IGNORECASE)


# -- architectures and their calls -------------------------


@pytest.mark.parametrize("command", [["architectures"], ["arch", "list"]], ids=" ".join)
def test_architectures_are_listed(command: list[str]) -> None:
    listed = json.loads(run(*command, "--json").stdout)
    assert [each["name"] for each in listed] == list(kinds())
    for each in listed:
        architecture = load(each["name"])
        assert (each["title"], each["realism"]) == (architecture.title, architecture.realism)
        assert each["calls"] == len(architecture.calls)
        assert each["comparison"] is (getattr(architecture, "comparison", None) is not None)
        assert each["name"] in run(*command).stdout


@pytest.mark.parametrize("arch", architectures())
def test_the_call_table_is_shown_whole(arch: str) -> None:
    text = " ".join(run("calls", arch).stdout.split())
    for row in load(arch).calls.values():
        for fact in (row.name, row.title, row.why.removeprefix("order: "), row.states, row.source):
            assert " ".join(fact.split()) in text, (row.name, fact)
        for check in row.checks:
            assert f"0x{check.code:04X}" in text
            assert check.text in text


@pytest.mark.parametrize("arch", architectures())
def test_the_call_table_as_json_has_one_object_for_each_call(arch: str) -> None:
    rows = json.loads(run("calls", arch, "--json").stdout)
    calls = load(arch).calls
    assert [int(row["code"], 16) for row in rows] == list(calls)
    for row, spec in zip(rows, calls.values(), strict=True):
        assert (row["name"], row["category"], row["treatment"]) == (spec.name, spec.category, spec.treatment)
        assert (row["length"], row["basis"], row["source"]) == (spec.length, spec.basis, spec.source)
        assert [int(check["code"], 16) for check in row["checks"]] == [check.code for check in spec.checks]
        assert [area["donation"] for area in row["donations"]] == [area.donation for area in spec.donated]


@pytest.mark.parametrize("arch", architectures())
def test_the_brief_table_has_one_line_for_each_call_and_fits(arch: str) -> None:
    lines = run("calls", arch, "--brief").stdout.splitlines()
    assert len(lines) == 1 + len(load(arch).calls)
    assert max(map(len, lines)) <= 100
    assert "…" not in "".join(lines)


def test_calls_can_be_picked_by_name_and_by_code() -> None:
    by_name = run("calls", "s390", "create_config")
    assert by_name.stdout == run("calls", "s390", "0x100").stdout == run("calls", "s390", "256").stdout
    assert "destroy_config" not in by_name.stdout
    assert "0x010D  SCA not accessible" in by_name.stdout
    assert "0x0103  no further configuration possible (guess)" in by_name.stdout
    assert "conf_base_stor_origin (conf_base_phys_stor_len): swapped" in by_name.stdout
    assert [row["name"] for row in json.loads(run("calls", "s390", "0x100", "--json").stdout)] == [
        "create_config"
    ]


# -- scenarios ---------------------------------------------


def test_scenarios_are_listed_with_what_they_are_for() -> None:
    from actors.scenario import shipped

    listed = json.loads(run("scenario", "list", "--json").stdout)
    assert {each["name"]: each["text"] for each in listed} == shipped()
    text = " ".join(run("scenario", "list").stdout.split())
    assert all(f"{name} {what}" in text for name, what in shipped().items())


def test_a_shown_scenario_is_a_scenario(tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    copy.write_text(run("scenario", "show", "mixed").stdout)
    found = json.loads(run("scenario", "check", str(copy), "--json").stdout)
    assert found["scenario"] == json.loads(run("scenario", "check", "mixed", "--json").stdout)["scenario"]


def test_check_shows_every_value_and_where_it_came_from() -> None:
    from protocol.plan.scenario import Scenario, leaves

    result = run("scenario", "check", "--depth", "2", env={"NESTBED_GUEST_VCPUS": "4"})
    assert result.exit_code == exit_codes.OK
    rows = [line.split() for line in result.stdout.splitlines()]
    for path, _, _ in leaves(Scenario()):
        assert any(row[:1] == [path] for row in rows), path
    assert ["depth", "2", "flag", "--depth"] in rows
    assert ["guest.vcpus", "4", "environment", "NESTBED_GUEST_VCPUS"] in rows
    assert ["guest.touch_pages", "128", "pages", "file"] in rows
    assert ["strategy.handles", "passed", "default"] in rows
    assert ["secure", "vcpus", "16"] in rows


def test_check_shows_thresholds(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[thresholds]\n"counts.nested.exits" = "< 5"\n"counts.direct.reflections" = "== 0"\n')
    text = run("scenario", "check", str(path)).stdout
    assert "counts.nested.exits < 5" in text
    assert "counts.direct.reflections == 0" in text


def test_a_broken_scenario_lists_every_mistake_on_stderr(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('depth = 9\ncolour = "red"\n[guest]\nvcpus = "two"\n')
    for command in (["scenario", "check"], ["compare"]):
        result = run(*command, str(path), "--path", "nestd")
        assert (result.exit_code, result.stdout) == (exit_codes.USAGE, "")
        assert result.stderr.splitlines()[0] == f"nestbed: {path}: 4 mistakes"
        for what in (
            "depth = 9",
            'colour = "red"',
            'guest.vcpus = "two"',
            "(flag --path)",
            "did you mean nested?",
        ):
            assert what in result.stderr


def test_settings_without_a_value_are_refused() -> None:
    result = run("scenario", "check", "--set", "guest.vcpus")
    assert result.exit_code == exit_codes.USAGE
    assert "--set guest.vcpus: allowed: --set NAME=VALUE" in result.stderr


def test_a_flag_of_its_own_wins_over_set() -> None:
    found = json.loads(run("scenario", "check", "--set", "depth=3", "--depth", "2", "--json").stdout)
    assert found["scenario"]["depth"] == 2


def test_an_odd_variable_is_noted_and_does_not_hurt() -> None:
    result = run("scenario", "list", env={"NESTBED_SEEED": "5"})
    assert result.exit_code == exit_codes.OK
    result = run("scenario", "check", env={"NESTBED_SEEED": "5"})
    assert result.exit_code == exit_codes.OK
    assert "did you mean NESTBED_SEED?" in result.stderr


# -- transcripts -------------------------------------------


def transcript(path: Path, *requests: Json, change: Json | None = None) -> str:
    """What a console would have written; the last answer may be changed."""
    options = keyboard.Options("s390")
    keys = keyboard.keyboard(options)
    with Transcript.create(path, header_of(options)) as written:
        for place, request in enumerate(requests):
            answer = keys.answer(request)
            if change is not None and place == len(requests) - 1:
                answer = {**answer, "ok": change}
            written.say(0, request, answer)
    return str(path)


INFO = {"id": 1, "op": "info"}
ALLOC = {"id": 2, "op": "alloc", "len": 4096}


def test_a_transcript_of_the_same_machine_replays(tmp_path: Path) -> None:
    result = run("replay", transcript(tmp_path / "said", INFO, ALLOC))
    assert (result.exit_code, result.stdout) == (exit_codes.OK, "2 answers are the same\n")


def test_the_first_answer_that_differs_is_shown_and_ends_with_1(tmp_path: Path) -> None:
    result = run("replay", transcript(tmp_path / "said", INFO, ALLOC, change={"addr": "0x0"}))
    assert result.exit_code == exit_codes.FAILED
    assert result.stdout.splitlines()[:2] == [
        "1 answer is the same, then",
        "line 3: the answers differ at ok.addr",
    ]
    assert "[" not in result.stdout.splitlines()[1]


def test_two_transcripts_are_compared_without_asking_anybody(tmp_path: Path) -> None:
    one, same = transcript(tmp_path / "one", INFO, ALLOC), transcript(tmp_path / "same", INFO, ALLOC)
    other = transcript(tmp_path / "other", INFO)
    assert run("replay", one, "--diff", same).exit_code == exit_codes.OK
    result = run("replay", one, "--diff", other)
    assert result.exit_code == exit_codes.FAILED
    assert "one transcript is longer" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], [".", "--depth", "1"], ["{said}", "--depth", "9"], ["{said}", "--diff", "nothing"]],
    ids=str,
)
def test_what_cannot_be_replayed_ends_with_2(arguments: list[str], tmp_path: Path) -> None:
    path = transcript(tmp_path / "said", INFO)
    result = run("replay", *(argument.format(said=path) for argument in arguments))
    assert (result.exit_code, result.stdout) == (exit_codes.USAGE, "")
    assert result.stderr.startswith("nestbed: ")


def test_depth_and_diff_exclude_each_other(tmp_path: Path) -> None:
    path = transcript(tmp_path / "said", INFO)
    result = run("replay", path, "--diff", path, "--depth", "1")
    assert result.exit_code == exit_codes.USAGE
    assert "do not go together" in result.stderr


# -- the console, as listed --------------------------------


def test_the_console_has_the_same_options_here_and_there() -> None:
    import typer

    listed = typer.main.get_command(app).commands["console"].params  # type: ignore[attr-defined]
    here = {
        option.name: (option.opts, option.help, option.default) for option in listed if option.name != "help"
    }
    there = {
        action.dest: (list(action.option_strings), action.help, action.default)
        for action in console.parser()._actions
        if action.dest != "help"
    }
    assert {name: facts[:2] for name, facts in here.items()} == {
        name: facts[:2] for name, facts in there.items()
    }
    for name, (_, _, default) in here.items():
        assert default == there[name][2], name


def test_the_console_refuses_here_as_it_does_there() -> None:
    result = run("console", "--arch", "vax")
    assert result.exit_code == exit_codes.USAGE
    assert "no such architecture; allowed: " in result.stderr


def test_every_setting_is_listed_with_what_it_accepts() -> None:
    from protocol.plan.scenario import Scenario, leaves

    listed = {each["setting"]: each for each in json.loads(run("scenario", "settings", "--json").stdout)}
    text = run("scenario", "settings").stdout
    for path, _, kind in leaves(Scenario()):
        assert (listed[path]["meaning"], listed[path]["allowed"]) == (kind.help, kind.allowed())
        assert kind.help
        assert f"{path} = " in text
        assert " ".join(kind.allowed().split()) in " ".join(text.split())
