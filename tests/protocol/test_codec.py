"""What may cross a link, and what a peer that sends something else gets."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import Codec
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.wire import FrameDecoder, pack_frame


class Point(NamedTuple):
    x: int
    name: str


@dataclass(frozen=True, slots=True)
class Box:
    corner: Point | None
    items: tuple[int, ...] = ()
    raw: bytes = b""
    open: bool = False


@dataclass(slots=True)
class Queue:
    waiting: deque[int] = field(default_factory=deque)

    @classmethod
    def from_fields(cls, waiting: tuple[int, ...]) -> Queue:
        return cls(deque(waiting))


CODEC = Codec((Point, Box, Queue))

plain = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary()
points = st.builds(Point, st.integers(0, (1 << 64) - 1), st.text())
boxes = st.builds(Box, st.none() | points, st.lists(st.integers(0, 9)).map(tuple), st.binary(), st.booleans())
values = st.recursive(
    plain | points | boxes,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


def across(value: object) -> Any:
    """What arrives of `value` at the other end of a wire."""
    (frame,) = FrameDecoder().feed(pack_frame([CODEC.encode(value)]))
    assert isinstance(frame, list)
    return CODEC.decode(frame[0])


@given(values)
def test_what_is_sent_arrives(value: object) -> None:
    assert across(value) == value
    assert type(across(value)) is type(value)


def test_a_record_may_say_how_it_is_restored() -> None:
    queue = across(Queue(deque((1, 2))))
    assert type(queue.waiting) is deque
    assert list(queue.waiting) == [1, 2]


@pytest.mark.parametrize(
    "value",
    [1 << 64, -(1 << 63) - 1, object(), {1, 2}, (1, [object()])],
    ids=["too large", "too small", "an object", "a set", "an object inside"],
)
def test_what_has_no_form_is_our_own_mistake(value: object) -> None:
    with pytest.raises(LocalProtocolError):
        CODEC.encode(value)


@pytest.mark.parametrize(
    "form",
    [
        [],
        ["Nobody"],
        [None, 1],
        [1.5],
        [True],
        ["Point", 1],
        ["Point", 1, "a", 2],
        ["Point", "1", "a"],
        ["Point", True, "a"],
        ["Point", 1, b"a"],
        ["Box", 5, [0], b"", False],
        ["Box", None, [0, "one"], b"", False],
        ["Box", None, 5, b"", False],
        ["Box", None, [0], "", False],
        ["Box", None, [0], b"", 0],
        [0, ["Point"]],
    ],
    ids=repr,
)
def test_a_form_that_is_none_is_the_peers_violation(form: object) -> None:
    with pytest.raises(RemoteProtocolError, match="shape"):
        CODEC.decode(form)


def test_two_records_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="Point"):
        Codec((Point, Point))


class Colour(Enum):
    RED = 1


def test_a_name_crosses_as_its_value_and_a_set_in_its_order() -> None:
    assert across((Colour.RED, frozenset((3, 1, 2)))) == (1, (1, 2, 3))


def test_a_class_that_is_no_record_has_no_fields_to_send() -> None:
    with pytest.raises(TypeError, match="Colour is neither a dataclass nor a named tuple"):
        Codec((Colour,))
