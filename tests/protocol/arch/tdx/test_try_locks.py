"""Locks that never wait, held against a plain model of who holds what."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.host.module import Module
from protocol.arch.tdx.locks import EXCLUSIVE, Held, TryLocks
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.effects import run

ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(("share", "own", "promote", "release")), st.integers(0, 2), st.sampled_from("ab")
    ),
    max_size=40,
)


@given(ACTIONS)
def test_shares_and_ownership_are_as_the_model_says(actions: list[tuple[str, int, str]]) -> None:
    locks = TryLocks()
    calls = [Held(locks) for _ in range(3)]
    mine: list[list[str]] = [[], [], []]
    owner: dict[str, int] = {}
    for action, who, what in actions:
        sharers = sum(held.count(what) for held in mine)
        if action == "share":
            assert calls[who].share(what) == (what not in owner)
            if what not in owner:
                mine[who].append(what)
        elif action == "own":
            free = not sharers
            assert calls[who].own(what) == free
            if free:
                owner[what] = who
                mine[who].append(what)
        elif action == "promote" and what in mine[who] and what not in owner:
            alone = sharers == 1
            assert calls[who].promote(what) == alone
            if alone:
                owner[what] = who
        elif action == "release" and what in mine[who]:
            calls[who].release(what)
            mine[who].remove(what)
            owner.pop(what, None)
        expected = EXCLUSIVE if what in owner else sum(held.count(what) for held in mine)
        assert locks.holders(what) == expected
    for call in calls:
        call.release_all()
    assert not len(locks)


def test_a_lock_that_lies_elsewhere_is_given_back_with_the_others_last_first() -> None:
    locks, order = TryLocks(), []
    held = Held(locks)
    held.own("first")
    held.add(lambda: order.append("second"))
    held.add(lambda: order.append("third"))
    held.release_all()
    assert order == ["third", "second"]
    assert not len(locks)


@pytest.mark.parametrize("depth", [0, 1])
def test_what_a_call_that_is_under_way_holds_is_said_in_words(depth: int) -> None:
    """By the level that its host meets, and by the machine, as a deployment asks them."""
    seat = compose(PROFILES["small"], depth, memory_bytes=128 * MIB).seats[0]
    level: Any = seat.level
    run(Module(level, seat.cpus).bring_up(100 * MIB))
    page = 101 * MIB
    step = level.call(seat.cpus[0], registers(rax=9, rcx=page, rdx=17), park=True)
    next(step)
    assert level.locks.held() == ("kot", "page 0x0 of 1G", "page 0x6400000 of 2M", f"page {page:#x} of 4K")
    assert not run(step)[0]
    assert level.locks.held() == ()


def test_nobody_can_give_back_what_he_does_not_hold() -> None:
    with pytest.raises(ValueError, match=r"not in list"):
        Held(TryLocks()).release("nothing")
