"""The call table and the tables of states agree with each other and with the code that uses them."""

from __future__ import annotations

import inspect
import re

import pytest

from protocol.arch.tdx.calls import CALLS, GUEST
from protocol.arch.tdx.machine import pages
from protocol.arch.tdx.machine.sept import FREE, LEAF, REMOVED, RWX, blocked, leaf, state_of, table, unblocked
from protocol.arch.tdx.profiles import PROFILES
from protocol.arch.tdx.status import CODE_MASK, Operand, Status, name_of
from protocol.arch.tdx.tables import (
    BLOCKED_FROM,
    BY_BITS,
    ENTRY_STATES,
    GUEST_ENTRY_STATES,
    HOST_ENTRY_STATES,
    NO_OP_STATE_CHECK,
    OP_STATES,
    STATE,
    STATE_BITS,
    UNBLOCKED_TO,
    EntryState,
    OpState,
)
from protocol.calls import Category, Donation, Treatment

HOST_LEAVES = {
    *range(32), *range(32, 42), 43, 44, 45, 48, 49, 52, 53, 64, 65, 66, 68, *range(70, 76), *range(80, 88), 96
}  # fmt: skip


def test_every_leaf_of_the_module_has_a_row_and_code() -> None:
    assert {code for code in CALLS if code < GUEST} == HOST_LEAVES
    assert all(callable(row.handler) for row in CALLS.values())


def test_a_row_is_reached_from_the_side_that_it_says() -> None:
    for code, row in CALLS.items():
        assert row.for_guest() == (code >= GUEST)
        assert row.for_host() != row.for_guest()
        assert row.title.startswith("TDG." if row.for_guest() else "TDH.")


def test_only_the_profile_about_migration_offers_life_cycle_leaves() -> None:
    for profile in PROFILES.values():
        offered = profile.offered(CALLS)
        life_cycle = {code for code, row in CALLS.items() if row.category is Category.LIFECYCLE}
        assert life_cycle and (life_cycle <= set(offered)) == profile.migration
        assert set(offered) | life_cycle == HOST_LEAVES


def test_a_guests_calls_never_leave_the_module_and_pages_are_given_below_as_they_are() -> None:
    for row in CALLS.values():
        assert (row.treatment is Treatment.NATIVE) == row.for_guest()
        for area in row.donated:
            assert area.donation is (
                Donation.VIRTUAL if row.category is Category.INIT else Donation.SAME_FRAME
            )


def test_every_check_answers_a_status_that_there_is() -> None:
    for row in CALLS.values():
        for check in row.checks:
            assert check.code & CODE_MASK in {int(status) & CODE_MASK for status in Status}
            assert not name_of(check.code).startswith("0x"), row.name
            operand = check.code & 0xFFFF_FFFF
            assert operand < 16 or operand in set(Operand), row.name


def test_leaves_that_ask_for_an_op_state_say_so_in_their_checks() -> None:
    for leaf_number in set(OP_STATES) - NO_OP_STATE_CHECK - {1}:
        codes = [check.code for check in CALLS[leaf_number].checks]
        assert Status.OP_STATE_INCORRECT in codes, CALLS[leaf_number].title


@pytest.mark.parametrize("leaf_number", sorted(set(HOST_LEAVES) - set(OP_STATES)))
def test_a_leaf_without_a_row_of_op_states_never_asks(leaf_number: int) -> None:
    handler = CALLS[leaf_number].handler
    assert handler is not None
    source = inspect.getsource(handler)
    assert not re.search(r"checks\.state\(|usual\(|target\(", source)


def test_op_states_are_legal_for_somebody() -> None:
    for state in OpState:
        assert any(state in legal for legal in OP_STATES.values())
    assert OP_STATES[0] == {OpState.RUNNABLE, OpState.LIVE_EXPORT, OpState.LIVE_IMPORT}


# -- entries ---------------------------------------------------------------------------------------


def test_encodings_are_distinct_and_inside_the_bits_of_a_state() -> None:
    assert len(BY_BITS) == len(ENTRY_STATES) == len({state.code for state in ENTRY_STATES})
    assert all(not state.bits & ~STATE_BITS for state in ENTRY_STATES)


def test_calls_name_states_that_there_are() -> None:
    for table_of_calls in (HOST_ENTRY_STATES, GUEST_ENTRY_STATES):
        assert all(states <= set(STATE) for states in table_of_calls.values())


def test_blocking_and_unblocking_fit_what_the_calls_take() -> None:
    assert set(BLOCKED_FROM) == HOST_ENTRY_STATES[7]
    assert set(UNBLOCKED_TO) == HOST_ENTRY_STATES[39]
    for before, after in BLOCKED_FROM.items():
        assert STATE[after].blocked and STATE[after].pending == STATE[before].pending
        assert STATE[after].leaf == STATE[before].leaf
    assert all(BLOCKED_FROM[after] == before for before, after in UNBLOCKED_TO.items())


@pytest.mark.parametrize(
    "state", [state for state in ENTRY_STATES if state.leaf], ids=lambda state: state.name
)
def test_a_leaf_gives_the_rights_of_its_state(state: EntryState) -> None:
    entry = leaf(0x1234, state)
    assert state_of(entry) is state
    assert entry & LEAF
    assert bool(entry & 2) == state.writable
    assert bool(entry & 1) == (state.readable or state.writable)


@pytest.mark.parametrize("name", sorted(UNBLOCKED_TO))
def test_nobody_goes_through_a_blocked_entry_and_unblocking_undoes_it(name: str) -> None:
    free = STATE[UNBLOCKED_TO[name]]
    entry = leaf(7, free) if free.leaf else table(7)
    shut = blocked(entry, STATE[name])
    assert not shut & RWX
    assert unblocked(shut, free) == entry


def test_entries_without_a_page_have_no_rights() -> None:
    assert state_of(FREE).name == "FREE"
    assert state_of(REMOVED).name == "REMOVED"
    assert not (FREE | REMOVED) & RWX


def test_what_a_relocated_page_becomes_is_never_blocked() -> None:
    for state in ENTRY_STATES:
        if state.name in HOST_ENTRY_STATES[5]:
            assert not pages._free_to_use(state).blocked
