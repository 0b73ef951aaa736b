"""docs/wire.md says what the program does, field by field and byte by byte."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from protocol import wire
from protocol.hosting import Identity, Limits, Service
from protocol.hosting.errors import ERRORS
from protocol.hosting.kinds import declared
from protocol.hosting.limits import CHUNK_BYTES, CONTROL_PORT, FRAME_BYTES
from protocol.hosting.messages import MESSAGES, SpecOnWire
from protocol.hosting.replies import ANSWERS, EVENTS, Failure, QuotaRow
from protocol.hosting.states import LEGAL
from protocol.wire import FrameDecoder, pack_frame

DOCUMENT = (Path(__file__).parents[3] / "docs" / "wire.md").read_text()


def section(title: str) -> str:
    """The text under `title`, up to the next one of its rank or above."""
    rank = "#" * (3 if title in MESSAGES else 2)
    found = re.search(rf"^{rank} {re.escape(title)}\n(.*?)(?=^##? |^{rank} |\Z)", DOCUMENT, re.M | re.S)
    assert found, f"no section {title}"
    return found[1]


def in_words(default: object) -> str:
    if default is MISSING:
        return "required"
    if default is None:
        return "nil"
    if default in (b"", ()):
        return "empty"
    return f'"{default}"' if isinstance(default, str) else str(default).lower()


def rows(of: type) -> list[str]:
    return [
        f"| `{f.name}` | {f.metadata['kind'].text.replace('|', 'or')} | {in_words(f.default)} |"
        for f in fields(of)
    ]


def told(text: str) -> list[str]:
    return re.findall(r"^\| `.*$", text, re.M)


def table(text: str, title: str) -> list[str]:
    """The rows under the head that begins with `title`."""
    found = re.search(rf"^\| {re.escape(title)} \| type \| \|\n(.*?)^$", text, re.M | re.S)
    assert found, f"no table of {title}"
    return told(found[1])


def answered(of: type) -> list[str]:
    """The rows of an answer: one that has a default may be left out."""
    return [
        f"| `{name}` | {f.metadata['kind'].text.replace('|', 'or')} |"
        + (" |" if f.default is MISSING else " may be left out |")
        for name, f in declared(of).items()
    ]


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_of_every_message_is_described(name):
    text = section(name)
    request = re.split(r"^\| (?:answer|row|event)", text, maxsplit=1, flags=re.M)[0]
    assert told(request) == rows(MESSAGES[name]) + (rows(SpecOnWire) if name == "start" else [])
    if not fields(MESSAGES[name]):
        assert "The body is an empty map." in text


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_of_every_answer_is_described(name):
    titles = (
        {of: f"event `{kind}`" for kind, of in EVENTS.items()}
        if name == "watch"
        else {
            QuotaRow if name == "quota.get" else ANSWERS[name]: "row of the answer"
            if name == "quota.get"
            else "answer"
        }
    )
    for of, title in titles.items():
        if fields(of):
            assert table(section(name), title) == answered(of)


def test_every_field_of_an_error_is_described():
    assert table(section("Errors"), "error") == answered(Failure)


@pytest.mark.parametrize("code", ERRORS)
def test_every_error_is_described(code):
    row = ERRORS[code]
    detail = ", ".join(f"`{name}`" for name in row.detail) or "-"
    again = "yes" if row.retryable else "no"
    assert f"| {int(code)} | {code.name} | {row.text} | {again} | {row.who} | {detail} |" in section("Errors")


@pytest.mark.parametrize("state", LEGAL)
def test_every_state_says_what_may_become_of_it(state):
    found = re.search(rf"^\| {state} \| .* \| (.*) \|$", section("States"), re.M)
    assert found
    words = set(re.findall(r"[A-Z]{4,}", found[1]))
    if "the state before" in found[1]:
        words |= {"RESERVED", "READY", "FAILED"}
    assert words == {str(after) for after in LEGAL[state]}


def test_limits_and_the_port_are_the_programs_own():
    text = section("Frames") + section("Where it is")
    for value in (FRAME_BYTES, wire.FRAME_LIMIT, wire.DEPTH, wire.ARRAY_LIMIT, wire.MAP_LIMIT):
        assert f"| {value:,} |" in text
    assert f"port {CONTROL_PORT}," in text
    assert f"at most {CHUNK_BYTES:,} bytes" in section("image.put")
    assert (Limits().lease, Limits().renew) == (30_000, 10_000)


def test_the_example_is_what_happens():
    blocks = [bytes.fromhex(block) for block in re.findall(r"```hex\n(.*?)```", DOCUMENT, re.S)]
    service = Service()
    for asked, answered in zip(blocks[::2], blocks[1::2], strict=True):
        (frame,) = FrameDecoder(FRAME_BYTES).feed(asked)
        step = service.handle(Identity(3, 1), frame, 0)
        with pytest.raises(StopIteration) as ended:
            next(step)
        assert pack_frame(ended.value.value, FRAME_BYTES) == answered
