"""Transcripts: written, read, asked again, compared."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nestbed
from actors import record as r
from actors.console import serve
from actors.keyboard import Options, WrongOptions, keyboard

Json = dict[str, Any]
OPTIONS = Options("s390", 1, 1, None, None, "small", 7)


class Scripted:
    """A keyboard with one answer for each op; it forgets nothing and is never wrong."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def answer(self, request: Json) -> Json:
        return {"id": request.get("id"), "ok": self.answers.get(str(request.get("op")), {})}


def recorded(path: Path, keys: Any, lines: bytes, options: Options = OPTIONS) -> r.Reading:
    """What a console on `keys` would have written."""
    with r.Transcript.create(path, r.header_of(options)) as transcript:
        serve(keys, io.BytesIO(lines), io.BytesIO(), transcript.heard)
    return r.read(path)


def line(op: str, **fields: Any) -> bytes:
    return json.dumps({"id": 1, "op": op, **fields}).encode() + b"\n"


def test_the_header_says_what_was_asked() -> None:
    assert r.header_of(OPTIONS) == {
        "format": "nestbed transcript 1",
        "nestbed": nestbed.__version__,
        "arch": "s390",
        "depth": 1,
        "options": {
            "hosts": 1,
            "memory_mib": None,
            "cpus": None,
            "profile": "small",
            "seed": 7,
            "shares": 1,
            "strategy": {},
        },
    }


def test_a_transcript_of_before_hosts_shared_a_machine_is_read(tmp_path: Path) -> None:
    header = r.header_of(OPTIONS)
    options = {k: v for k, v in header["options"].items() if k not in ("shares", "strategy")}  # type: ignore[attr-defined]
    path = tmp_path / "said.jsonl"
    path.write_text(json.dumps(header | {"options": options}) + "\n")
    assert r.read(path).options == OPTIONS


@pytest.mark.parametrize("arch", ["pef", "s390"])
@pytest.mark.parametrize(
    "wrong",
    [{"shares": 0}, {"shares": 65}, {"strategy": (("nothing", "x"),)}, {"strategy": (("handles", "x"),)}],
)
def test_levels_that_cannot_be_are_refused_with_what_is_allowed(arch: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(WrongOptions, match="allowed"):
        keyboard(Options(arch, 1, **wrong))


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    reading = recorded(tmp_path / "new" / "said.jsonl", Scripted(), line("a", host=3) + b"what?\n")
    assert reading.options == OPTIONS
    first, second = reading.entries()
    assert (first.number, first.request) == (2, {"id": 1, "op": "a", "host": 3})
    assert (second.request, second.line) == (None, "what?\n")
    assert json.loads((tmp_path / "new" / "said.jsonl").read_text().splitlines()[1])["host"] == 3


def test_every_entry_is_in_the_file_at_once(tmp_path: Path) -> None:
    transcript = r.Transcript.create(tmp_path / "said.jsonl", {})
    transcript.say(0, {"op": "a"}, {"ok": {}})
    assert len((tmp_path / "said.jsonl").read_text().splitlines()) == 2
    transcript.close()


def test_the_same_machine_gives_the_same_answers(tmp_path: Path) -> None:
    lines = (
        line("info") + line("alloc", len=4096) + line("nonsense") + b"[]\n" + line("read", addr="0x0", len=8)
    )
    reading = recorded(tmp_path / "said.jsonl", keyboard(OPTIONS), lines)
    assert r.replay(reading, keyboard(OPTIONS), 1) == (5, None)


def test_the_first_answer_that_differs_is_found_with_its_place(tmp_path: Path) -> None:
    reading = recorded(tmp_path / "said.jsonl", Scripted(b={"x": [1, 2]}), line("a") + line("b") + line("c"))
    same, difference = r.replay(reading, Scripted(b={"x": [1, 3]}), 1)
    assert same == 1
    assert difference is not None
    assert (difference.number, difference.at) == (3, "ok.x[1]")
    assert difference.text().splitlines() == [
        "line 3: the answers differ at ok.x[1]",
        '  request  {"id": 1, "op": "b"}',
        '  recorded {"id": 1, "ok": {"x": [1, 2]}}',
        '  now      {"id": 1, "ok": {"x": [1, 3]}}',
    ]


@pytest.mark.parametrize(("one", "other"), [(0, False), (1, True), (1, 1.0), ("1", 1), (None, 0)], ids=repr)
def test_answers_are_compared_to_the_letter(one: Any, other: Any, tmp_path: Path) -> None:
    """Python holds some of these to be equal; a client in another language does not."""
    reading = recorded(tmp_path / "said.jsonl", Scripted(a={"cc": [one]}), line("a"))
    _, difference = r.replay(reading, Scripted(a={"cc": [other]}), 1)
    assert difference is not None
    assert difference.at == "ok.cc[0]"


def test_at_another_depth_only_what_is_of_the_depth_may_differ(tmp_path: Path) -> None:
    here = Scripted(
        info={"depth": 1, "cpus": 3}, counts={"uvc": 1, "machine": 3}, audit={"hosts": [{"tracked": 1}]}
    )
    there = Scripted(
        info={"depth": 2, "cpus": 3}, counts={"uvc": 1, "machine": 7}, audit={"hosts": [{"tracked": 9}]}
    )
    reading = recorded(tmp_path / "said.jsonl", here, line("info") + line("counts") + line("audit"))
    assert r.replay(reading, there, 2) == (3, None)
    same, difference = r.replay(reading, there, 1)
    assert (same, difference and difference.at) == (0, "ok.depth")
    there.answers["counts"] = {"uvc": 2, "machine": 7}
    same, difference = r.replay(reading, there, 2)
    assert (same, difference and difference.at) == (1, "ok.uvc")


@given(st.lists(st.binary(max_size=30).filter(lambda each: b"\n" not in each), max_size=6))
def test_lines_that_are_no_request_are_asked_again_byte_for_byte(lines: list[bytes]) -> None:
    """Also those that are not UTF-8: their complaint names the byte."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        path = Path(folder) / "said.jsonl"
        reading = recorded(path, Scripted(), b"".join(each + b"\n" for each in lines))
        assert r.replay(reading, Scripted(), 1) == (len(lines), None)
        assert r.diff(reading, r.read(path)) == (len(lines), None)


def test_a_line_over_the_limit_is_not_kept_and_not_asked_again(tmp_path: Path) -> None:
    reading = recorded(tmp_path / "said.jsonl", Scripted(), b"x" * (8 << 20) + b"xx\n" + line("a"))
    assert [entry.line for entry in reading.entries()] == [None, None]
    assert r.replay(reading, Scripted(), 1) == (1, None)


# -- two transcripts ---------------------------------------


def test_equal_transcripts_have_no_difference(tmp_path: Path) -> None:
    one = recorded(tmp_path / "one", Scripted(), line("a") + b"?\n")
    other = recorded(tmp_path / "other", Scripted(), line("a") + b"?\n")
    assert r.diff(one, other) == (2, None)


def test_transcripts_differ_in_an_answer_a_request_or_their_end(tmp_path: Path) -> None:
    one = recorded(tmp_path / "one", Scripted(), line("a") + line("b"))
    answer = recorded(tmp_path / "answer", Scripted(b={"x": 1}), line("a") + line("b"))
    request = recorded(tmp_path / "request", Scripted(), line("a") + line("c"))
    shorter = recorded(tmp_path / "shorter", Scripted(), line("a"))
    found = [r.diff(one, other) for other in (answer, request, shorter)]
    assert [same for same, _ in found] == [1, 1, 1]
    assert [difference and difference.at for _, difference in found] == [
        "ok.x",
        "the request",
        "the end: one transcript is longer",
    ]
    _, back = r.diff(shorter, one)
    assert back is not None
    assert (back.expected, back.found) == (None, {"id": 1, "ok": {}})


def test_long_values_are_cut_where_they_are_shown() -> None:
    assert len(r.shortened("x" * 10_000)) < 450
    assert r.shortened({"a": 1}) == '{"a": 1}'


# -- files that are none -----------------------------------


HEADER = r.header_of(OPTIONS)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "empty"),
        (["x"], ":1: not JSON"),
        (["[]"], ":1: not an object"),
        ([{"format": "other"}], ":1: no header"),
        ([HEADER | {"arch": 5}], ":1: arch is a name"),
        ([HEADER | {"depth": True}], ":1: arch is a name, depth a number"),
        ([HEADER | {"options": {}}], ":1: options are hosts"),
        ([HEADER | {"options": {**HEADER["options"], "seed": "7"}}], "options.seed is '7'"),  # type: ignore[dict-item]
        ([HEADER | {"options": {**HEADER["options"], "strategy": {"pages": 1}}}], "strategy has words"),  # type: ignore[dict-item]
        ([HEADER, "x"], ":2: not JSON"),
        ([HEADER, {"answer": 5, "line": ""}], ":2: neither"),
        ([HEADER, {"answer": {}}], ":2: neither"),
        ([HEADER, {"answer": {}, "line": "\ud800"}], ":2: the line holds a character"),
        (["[" * 100_000], "not JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_transcript_is_refused_with_file_and_line(
    lines: list[Any], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    with pytest.raises(r.BadTranscript, match=why) as refusal:
        list(r.read(path).entries())
    assert str(refusal.value).startswith(str(path))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(r.BadTranscript, match="No such file"):
        r.read(tmp_path / "nothing")
    with pytest.raises(r.BadTranscript, match="Is a directory"):
        r.read(tmp_path)


def test_a_run_has_a_transcript_for_each_path(tmp_path: Path) -> None:
    transcripts = r.Transcripts(tmp_path)
    for path, host in (("nested", 0), ("direct", 0), ("nested", 1)):
        transcripts.of(path, OPTIONS).say(host, {"op": "a"}, {"ok": {}})
    transcripts.close()
    transcripts.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s390-direct.jsonl", "s390-nested.jsonl"]
    assert len(list(r.read(tmp_path / "s390-nested.jsonl").entries())) == 2


SMALL = st.none() | st.booleans() | st.integers(0, 2) | st.text("ab", max_size=1)
VALUES = st.recursive(
    SMALL,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner),
    max_leaves=8,
)


@given(VALUES, st.data())
def test_where_names_a_place_exactly_if_the_values_differ(one: Any, data: st.DataObject) -> None:
    other = data.draw(st.just(one) | VALUES)
    place = r.where({"at": one}, {"at": other})
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert place == "" if same else place.startswith("at")
