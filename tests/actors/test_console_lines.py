"""The console's lines, with a keyboard that answers anything: limits, what is no JSON, the end."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import console as c
from actors import exit_codes
from actors import keyboard as k

Json = dict[str, Any]


class Echo:
    """A keyboard that answers with what it was asked."""

    def answer(self, request: Json) -> Json:
        return {"id": request.get("id"), "ok": {"heard": request}}


class Ends(io.BytesIO):
    """An output whose reader goes away after the first answer."""

    def write(self, data: Any) -> int:
        if self.getvalue():
            raise BrokenPipeError
        return super().write(data)


def said(lines: bytes, to: BinaryIO | None = None, heard: c.Heard | None = None) -> list[Json]:
    """The answers to what is on the input."""
    answers = to or io.BytesIO()
    c.serve(Echo(), io.BytesIO(lines), answers, heard)
    answers.seek(0)
    return [json.loads(line) for line in answers.read().splitlines()]


def codes(lines: bytes) -> list[str]:
    return [answer["error"]["code"] if "error" in answer else "ok" for answer in said(lines)]


def test_each_line_has_one_answer_in_order() -> None:
    answers = said(b'{"id": 1}\n{"id": "two"}\r\n{"id": [3]}')
    assert [answer["id"] for answer in answers] == [1, "two", [3]]


def test_an_answer_is_one_line_and_ascii() -> None:
    to = io.BytesIO()
    c.serve(Echo(), io.BytesIO(b'{"id": "a\\nb\\u2028\xc3\xa9\\ud800"}\n'), to)
    assert to.getvalue().count(b"\n") == 1
    assert to.getvalue().isascii()
    assert json.loads(to.getvalue())["id"] == "a\nb\u2028\xe9\ud800"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b'{"id": 1} x',
        b"\x00",
        b"\xff\xfe",
        b"NaN",
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": -1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
    ],
    ids=lambda line: repr(line[:12]),
)
def test_what_is_no_json_is_called_so_and_the_next_line_is_answered(line: bytes) -> None:
    assert codes(line + b'\n{"id": 1}\n') == ["bad_json", "ok"]


@pytest.mark.parametrize("line", [b"[]", b"5", b"null", b'"text"', b"true"])
def test_what_is_no_object_is_no_request(line: bytes) -> None:
    assert codes(line + b"\n") == ["bad_request"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_may_have_eight_mib_and_not_one_byte_more(end: bytes) -> None:
    whole = b'{"id": 1' + b" " * (c.LINE_BYTES - 9) + b"}"
    assert len(whole) == c.LINE_BYTES
    assert codes(whole + end) == ["ok"]
    assert codes(b" " + whole + end) == ["limit"]


def test_a_line_over_the_limit_is_skipped_to_its_end() -> None:
    assert codes(b"x" * (3 * c.LINE_BYTES) + b'\n{"id": 1}\n') == ["limit", "ok"]
    assert codes(b"x" * (2 * c.LINE_BYTES)) == ["limit"]


@pytest.mark.parametrize("inside", [b"[%b]", b'{"a": %b}'], ids=["lists", "objects"])
def test_nesting_has_a_limit_and_within_it_everything_works(inside: bytes) -> None:
    """What is let in must come out again: in the answer, and one deeper in a transcript."""
    from actors.record import Transcript

    def nested(levels: int) -> bytes:
        value = b"1"
        for _ in range(levels):
            value = inside.replace(b"%b", value)
        return b'{"id": ' + value + b"}\n"

    written = io.BytesIO()
    heard = Transcript(written, {}).heard
    most = k.NESTING - 1
    (answer,) = said(nested(most), heard=heard)
    assert "ok" in answer
    assert codes(nested(most + 1)) == ["bad_json"]
    assert codes(nested(900)) == ["bad_json"]
    assert len(written.getvalue().splitlines()) == 2


def test_many_things_side_by_side_are_not_nested() -> None:
    assert codes(b'{"id": [' + b"[],{}," * 1000 + b"[]]}\n") == ["ok"]


def test_the_listener_hears_requests_lines_and_answers() -> None:
    heard: list[tuple[Json | None, bytes | None, str]] = []
    lines = b'{"id": 1}\nno\n' + b"x" * (c.LINE_BYTES + 1) + b"\n"
    said(lines, heard=lambda request, line, answer: heard.append((request, line, next(iter(answer)))))
    assert [(request, line) for request, line, _ in heard] == [
        ({"id": 1}, b'{"id": 1}\n'),
        (None, b"no\n"),
        (None, None),
    ]


def test_a_reader_that_goes_away_is_an_error_of_its_own() -> None:
    with pytest.raises(BrokenPipeError):
        said(b'{"id": 1}\n{"id": 2}\n', Ends())


@given(st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line)))
def test_any_input_has_exactly_one_answer_for_each_line(lines: list[bytes]) -> None:
    answers = said(b"".join(line + b"\n" for line in lines))
    assert len(answers) == len(lines)
    for answer in answers:
        assert len({"ok", "fault", "error"} & set(answer)) == 1
        assert "id" in answer


# -- options -----------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (k.Options("vax"), "--arch vax: no such architecture; allowed: .*s390"),
        (k.Options("s390", depth=4), "--depth 4: allowed: 0 to 3"),
        (k.Options("s390", depth=-1), "--depth -1"),
        (k.Options("s390", hosts=0), "--hosts 0: allowed: 1 to 64"),
        (k.Options("s390", memory_mib=0), "--memory 0"),
        (k.Options("s390", cpus=65), "--cpus 65: allowed: 1 to 64"),
        (k.Options("s390", seed=-1), "--seed -1"),
        (k.Options("s390", profile="huge"), "--profile huge: no such profile; allowed: small"),
        (k.Options("s390", memory_mib=1), "."),
    ],
    ids=str,
)
def test_options_that_name_no_machine_say_what_is_allowed(options: k.Options, why: str) -> None:
    with pytest.raises(k.WrongOptions, match=why):
        k.keyboard(options)


def test_the_options_reach_the_machine() -> None:
    keys = k.keyboard(k.Options("s390", depth=1, hosts=2, memory_mib=2100, cpus=2))
    request, answer = k.answer_line(keys, b'{"id": 1, "op": "info"}')
    assert request == {"id": 1, "op": "info"}
    info: Json = answer["ok"]  # type: ignore[assignment]
    assert (info["depth"], info["hosts"], info["memory"], info["cpus"]) == (1, 2, 2100 << 20, 2)


def test_numbers_may_be_given_in_any_base() -> None:
    given = c.parser().parse_args(["--arch", "s390", "--depth", "0x1", "--seed", "0b101"])
    assert (given.depth, given.seed) == (1, 5)


def test_every_option_has_its_help_and_the_help_has_an_example() -> None:
    text = c.parser().format_help()
    for name, help_ in c.HELP.items():
        assert f"--{name}" in text
        assert " ".join(help_.split()) in " ".join(text.split())
    assert "Example:" in text


# -- as a process ------------------------------------------


def run(*arguments: str, lines: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "nestbed", "console", *arguments]
    return subprocess.run(command, input=lines, capture_output=True, timeout=60, check=False)


@pytest.mark.slow
def test_a_wrong_option_ends_with_2_and_says_nothing_on_stdout() -> None:
    for arguments in (
        ["--arch", "vax"],
        ["--arch", "s390", "--depth", "many"],
        ["--arch", "s390", "--deep", "1"],
        [],
    ):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (exit_codes.USAGE, b""), arguments
        assert done.stderr


@pytest.mark.slow
def test_a_transcript_that_cannot_be_written_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("--arch", "s390", "--record", str(tmp_path / "file" / "said.jsonl"))
    assert done.returncode == exit_codes.ENVIRONMENT
    assert b"--record" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_said_without_a_traceback() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "nestbed", "console", "--arch", "s390"]
        done = subprocess.run(
            command,
            input=b'{"id": 1, "op": "info"}\n',
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == exit_codes.ENVIRONMENT
    assert b"Traceback" not in done.stderr
    assert b"No space left" in done.stderr


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    command = [sys.executable, "-m", "nestbed", "console", "--arch", "s390"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b'{"id": 1, "op": "info"}\n')
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b'{"id": 2, "op": "info"}\n')
        process.stdin.close()
        assert process.wait(timeout=60) == exit_codes.FAILED
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_it_starts_without_anything_that_is_slow_to_import() -> None:
    program = (
        "import sys, io; sys.argv = ['nestbed', 'console', '--arch', 's390']\n"
        "from nestbed.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('trio', 'typer', 'pydantic', 'rich', 'prometheus_client') if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input="", capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
