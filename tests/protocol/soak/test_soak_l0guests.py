"""L0's own machine under a hosting service in a soak: what it answers to each step of a guest's life."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.arch import architectures, load
from protocol.arch.pef.machine.svm import OutOfUnits, SecureMemory
from protocol.hosting import machine as m
from protocol.soak.l0guests import REFUSED, L0Guests
from protocol.soak.options import Tally, Violation

CHILD, OTHER = b"c" * 16, b"o" * 16
DIGEST = bytes(32)
SPEC = m.Spec(image=DIGEST, vcpus=1, memory_mib=16)


def machine(arch: str = "pef", refusing: float = 0.0) -> L0Guests:
    """One that has booted."""
    made = L0Guests("l0", load(arch), 2, "seed", refusing, Tally())
    rest(made)
    return made


def rest(one: L0Guests) -> None:
    while one.busy:
        one.hop()


def said(one: L0Guests, effect: Any) -> Any:
    """What it answers to that."""
    answers: list[object] = []
    one.submit(effect, answers.append)
    rest(one)
    (answer,) = answers
    return answer


def create(child: bytes = CHILD) -> m.CreateGuest:
    return m.CreateGuest(child, 40, SPEC, b"image", 3)


@pytest.mark.parametrize("arch", architectures())
def test_a_guest_is_made_and_goes_and_leaves_nothing(arch: str) -> None:
    one = machine(arch)
    before = {kind: count for kind, count in one.rig.remains().items() if count}
    for effect in (create(), m.LoadGuest(CHILD), m.StartGuest(CHILD, 1_000)):
        assert said(one, effect) is None
    assert said(one, m.Inventory()) == {CHILD: m.Found(True)}
    assert said(one, m.StopGuest(CHILD, 0)) is None
    assert said(one, m.Inventory()) == {CHILD: m.Found(False)}
    assert said(one, m.ResetGuest(CHILD, 1_000)) is None
    assert {kind: count for kind, count in one.rig.remains().items() if count} != before
    assert said(one, m.DestroyGuest(CHILD)) is None
    assert said(one, m.Inventory()) == {}
    assert {kind: count for kind, count in one.rig.remains().items() if count} == before


def test_a_guest_that_is_not_there_has_vanished() -> None:
    one = machine()
    said(one, create())
    assert said(one, m.StartGuest(OTHER, 1_000)) == m.Vanished()
    assert said(one, m.DestroyGuest(OTHER)) == m.Vanished()


def test_what_is_refused_on_purpose_changes_nothing_and_a_stop_is_never_refused() -> None:
    one = machine()
    said(one, create())
    one.refusing = 1.0
    assert said(one, m.DestroyGuest(CHILD)) == REFUSED
    assert said(one, create(OTHER)) == REFUSED
    assert said(one, m.StopGuest(CHILD, 0)) is None
    assert said(one, m.Inventory()) == {CHILD: m.Found(False)}
    assert one.tally.faults["refuse"] == 2


def test_a_child_that_is_made_twice_is_a_violation() -> None:
    one = machine()
    said(one, create())
    with pytest.raises(Violation, match=f"hosting: the child {CHILD.hex()} is created twice"):
        said(one, create())


def test_l0_may_not_be_refused_by_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine()

    def reserve(*_: object) -> Any:
        raise OutOfUnits

    monkeypatch.setattr(SecureMemory, "reserve", reserve)
    said(one, create())
    with pytest.raises(Violation, match="service: L0 of l0, pef, was refused"):
        said(one, m.LoadGuest(CHILD))


def test_when_the_service_has_died_what_is_under_way_ends_and_nobody_is_told() -> None:
    one = machine()
    answers: list[object] = []
    one.submit(create(), answers.append)
    one.submit(m.LoadGuest(CHILD), answers.append)
    one.hop()
    one.forget()
    assert one.busy, "the creation is under way"
    rest(one)
    assert answers == []
    assert said(one, m.Inventory()) == {CHILD: m.Found(False)}
    assert said(one, m.LoadGuest(CHILD)) is None, "it had not begun"
