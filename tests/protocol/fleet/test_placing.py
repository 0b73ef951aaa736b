"""Where a guest of a fleet is started: a machine with room, and never two machines for one number."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import NotDelivered, OutcomeUnknown, RemoteProtocolError
from protocol.fleet.entry import EPOCHS, Entry
from protocol.fleet.placing import (
    ANSWER_BYTES,
    KEY_BYTES,
    PLACEMENT_BYTES,
    TRIES,
    Answer,
    Ask,
    Bring,
    List,
    NoRoom,
    Placement,
    open_answer,
    open_placement,
    pack_answer,
    pack_placement,
    placed,
    placement_key,
    turn_of,
)
from protocol.fleet.subjects import ANY
from protocol.wire import REASONS, pack_body

OK: Mapping[str, Any] = {"t": "ok", "b": {"child": b"c"}}


def refusal(name: str) -> dict[str, Any]:
    return {"t": "err", "b": {"name": name}}


def answers(*script: tuple[Any, Any]) -> Answer:
    """Drive a start: each pair is what it must yield, and what comes of it. Returns what it returns."""
    steps, found = placed(), None
    for expected, answer in script:
        assert steps.send(found) == expected
        found = answer
    with pytest.raises(StopIteration) as end:
        steps.send(found)
    result: Answer = end.value.value
    return result


def test_any_machine_with_room_takes_it() -> None:
    assert answers((Ask(ANY), Answer("l0-1", 3, OK))).machine == "l0-1"


def test_a_full_machine_refuses_and_the_one_with_most_room_is_next() -> None:
    listed = Answer("l0-0", 1, machines=(("l0-0", 9), ("l0-1", 1), ("l0-2", 4)))
    done = answers(
        (Ask(ANY), Answer("l0-0", 1, refusal("QUOTA"))),
        (List(), listed),
        (Ask("l0-2"), Answer("l0-2", 1, refusal("NO_RESOURCE"))),
        (List(), listed),
        (Ask("l0-1"), Answer("l0-1", 1, OK)),
    )
    assert done.machine == "l0-1"


def test_where_all_are_full_nothing_was_started() -> None:
    steps = placed()
    steps.send(None)
    steps.send(Answer("l0-0", 1, refusal("QUOTA")))
    with pytest.raises(NoRoom, match="l0-0"):
        steps.send(Answer("l0-0", 1, machines=(("l0-0", 0),)))


def test_the_machine_that_has_the_number_is_asked_and_no_other() -> None:
    done = answers((Ask(ANY), Answer("l0-0", 1, to="l0-2")), (Ask("l0-2"), Answer("l0-2", 1, OK)))
    assert done.machine == "l0-2"
    steps = placed()
    steps.send(None)
    steps.send(Answer("l0-0", 1, to="l0-2"))
    with pytest.raises(OutcomeUnknown, match="l0-2 has the number"):
        steps.send(NotDelivered("nobody"))


def test_an_image_is_brought_to_the_machine_that_lacks_it() -> None:
    done = answers(
        (Ask(ANY), Answer("l0-1", 1, refusal("NOT_FOUND"))),
        (Bring("l0-1"), None),
        (Ask("l0-1"), Answer("l0-1", 1, OK)),
    )
    assert done.machine == "l0-1"


def test_an_outcome_that_is_unknown_is_asked_for_again_and_not_for_ever() -> None:
    unknown = OutcomeUnknown("no answer")
    assert answers((Ask(ANY), unknown), (Ask(ANY), Answer("l0-0", 1, OK))).machine == "l0-0"
    steps = placed()
    assert [steps.send(found) for found in (None, unknown, unknown, unknown)] == [Ask(ANY)] * 4
    with pytest.raises(OutcomeUnknown):
        steps.send(unknown)


def test_a_machine_that_did_nothing_is_asked_again_and_not_for_ever() -> None:
    undone = Answer("l0-0", 1)
    assert answers((Ask(ANY), undone), (Ask(ANY), Answer("l0-1", 1, OK))).machine == "l0-1"
    steps = placed()
    assert [steps.send(found) for found in (None, *[undone] * 16)] == [Ask(ANY)] * 17
    with pytest.raises(NotDelivered):
        steps.send(undone)


def test_a_refusal_of_another_kind_is_the_answer() -> None:
    assert answers((Ask(ANY), Answer("l0-0", 1, refusal("TE_ERROR")))).error == "TE_ERROR"


# -- whose turn it is ------------------------------------------


@pytest.mark.parametrize(
    ("found", "entries", "turn"),
    [
        (None, {}, "l0-0"),
        (Placement("", 0), {}, "l0-0"),
        (Placement("l0-0", 5), {}, "l0-0"),  # a repetition
        (Placement("l0-0", 4), {}, "l0-0"),  # its guests went with that life
        (Placement("l0-0", 6), {}, ""),  # we are the one that is over
        (Placement("l0-1", 2), {}, "l0-1"),  # the directory was lost: it may live
        (Placement("l0-1", 2), {"l0-1": Entry("x", 2)}, "l0-1"),
        (Placement("l0-1", 2), {"l0-1": Entry("x", 3)}, "l0-0"),
        (Placement("l0-1", 2), {"l0-1": Entry("", 2)}, "l0-0"),
    ],
)
def test_whose_turn_it_is(found: Placement | None, entries: dict[str, Entry], turn: str) -> None:
    assert turn_of(found, "l0-0", 5, entries) == turn


@given(st.integers(0, 1 << 32))
def test_whatever_the_order_one_number_makes_one_guest(seed: int) -> None:
    """Three machines and a directory with compare and set; any of their steps may come between two others.

    A machine that finds no room gives the number back; sometimes one dies, and its next life has no guests.
    """
    draw = Random(seed)
    names = ["l0-0", "l0-1", "l0-2"]
    epochs = dict.fromkeys(names, 1)
    room = {name: draw.random() < 0.6 for name in names}
    guests: dict[str, int] = dict.fromkeys(names, 0)
    stored: list[Placement] = []  # the last one stands; its place is its revision

    def machine(name: str) -> Any:
        epoch = epochs[name]
        revision = len(stored)
        found = stored[-1] if stored else None
        entries = {other: Entry("x", epochs[other]) for other in names}
        yield
        if turn_of(found, name, epoch, entries) != name:
            return
        if found != Placement(name, epoch):
            if len(stored) != revision or epochs[name] != epoch:
                return  # somebody else wrote; or we are no more
            stored.append(Placement(name, epoch))
            revision = len(stored)
        yield
        if epochs[name] != epoch:
            return
        if guests[name]:
            return  # its broker knows the number
        if room[name]:
            guests[name] = 1
            return
        yield
        if epochs[name] == epoch and len(stored) == revision:
            stored.append(Placement("", 0))

    # A machine has one request of a number under way at a time, as its service has.
    running: dict[str, Any] = {}
    for _ in range(60):
        name = draw.choice(names)
        if draw.random() < 0.05:
            epochs[name] += 1
            guests[name] = 0
            room[name] = draw.random() < 0.6
            running.pop(name, None)
        steps = running.setdefault(name, machine(name))
        try:
            next(steps)
        except StopIteration:
            del running[name]
        assert sum(guests.values()) <= 1


# -- on the wire -----------------------------------------------

TOKENS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,31}", fullmatch=True)
ANSWERS = st.builds(
    Answer,
    machine=TOKENS,
    epoch=st.integers(0, 1 << 32),
    reply=st.none() | st.just(dict(OK)) | st.just(refusal("QUOTA")),
    to=st.just("") | TOKENS,
    machines=st.lists(st.tuples(TOKENS, st.integers(0, 99)), max_size=3).map(tuple),
)


@given(ANSWERS)
def test_an_answer_comes_back_as_it_was(answer: Answer) -> None:
    assert open_answer(pack_answer(answer)) == answer


@given(st.builds(Placement, TOKENS | st.just(""), st.integers(0, (1 << 32) - 1)))
def test_a_placement_comes_back_as_it_was(placement: Placement) -> None:
    assert open_placement(pack_placement(placement)) == placement


@given(st.binary(max_size=300))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    for read in (open_answer, open_placement):
        try:
            read(data)
        except RemoteProtocolError as refused:
            assert refused.reason in REASONS


def test_a_machine_that_is_gone_from_the_list_by_now_is_passed_over() -> None:
    listed = Answer("l0-0", 1, machines=(("l0-1", 9), ("l0-2", 1)))
    done = answers(
        (Ask(ANY), Answer("l0-0", 1, refusal("QUOTA"))),
        (List(), listed),
        (Ask("l0-1"), NotDelivered("nobody")),
        (List(), listed),
        (Ask("l0-2"), Answer("l0-2", 1, OK)),
    )
    assert done.machine == "l0-2"


def test_machines_that_send_on_to_each_other_are_not_asked_for_ever() -> None:
    steps = placed()
    steps.send(None)
    for n in range(1, TRIES):
        to = f"l0-{n % 2}"
        assert steps.send(Answer("l0-9", 1, to=to)) == Ask(to)
    with pytest.raises(OutcomeUnknown, match=f"no end after {TRIES} questions"):
        steps.send(Answer("l0-9", 1, to="l0-0"))


def test_a_number_stands_under_its_tenant() -> None:
    number = bytes(range(KEY_BYTES))
    assert placement_key("acme", number) == f"acme.{number.hex()}"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(ANSWER_BYTES + 1), "oversized"),
        (pack_body([1, "l0-0", 1, None, ""]), "shape"),
        (pack_body([1, "l0-0", 1, {"t": "ev", "b": {}}, "", []]), "shape"),
        (pack_body([1, "l0-0", 1, {"t": "ok"}, "", []]), "shape"),
        (pack_body([1, "l0 0", 1, None, "", []]), "shape"),
        (pack_body([1, "l0-0", 1, None, "l0 1", []]), "shape"),
        (pack_body([1, "l0-0", 1, None, "", [["l0-1"]]]), "shape"),
        (pack_body([1, "l0-0", 1, None, "", [["l0 1", 4]]]), "shape"),
        (pack_body([1, "l0-0", 1, None, "", [["l0-1", "4"]]]), "shape"),
    ],
    ids=[
        "long",
        "short",
        "an event",
        "no body",
        "no machine",
        "sent nowhere",
        "short row",
        "no token",
        "room in words",
    ],
)
def test_what_no_machine_would_answer_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        open_answer(data)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(PLACEMENT_BYTES + 1), "oversized"),
        (pack_body([2, "l0-0", 1]), "version"),
        (pack_body([True, "l0-0", 1]), "shape"),
        (pack_body([1, "l0-0", True]), "shape"),
        (pack_body([1, "l0 0", 1]), "shape"),
        (pack_body([1, "l0-0", -1]), "shape"),
        (pack_body([1, "l0-0", EPOCHS + 1]), "shape"),
        (pack_body([1, "l0-0"]), "shape"),
    ],
    ids=["long", "version", "true", "epoch true", "no token", "below", "above", "short"],
)
def test_what_nobody_would_write_under_a_number_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        open_placement(data)
    assert refused.value.reason == reason
