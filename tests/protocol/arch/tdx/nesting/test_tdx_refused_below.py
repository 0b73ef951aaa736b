"""What a guest host may do and the module below does not: it is told so, and no book says it was done."""

from __future__ import annotations

from collections.abc import Hashable

import pytest
from tdx_nested_host import NestedHost

from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.locks import Held
from protocol.arch.tdx.machine.vm import KOT
from protocol.arch.tdx.nesting import operands
from protocol.arch.tdx.status import CODE_MASK, RAX, RCX, Status
from protocol.arch.tdx.tables import KeyState, Lifecycle, SysState
from protocol.arch.tdx.watch import TdxWatch
from protocol.effects import run
from protocol.errors import OwnerGone

KEY_CONFIG, CREATE, FLUSH_DONE, FREE_KEY, CACHE_WB, TRACK = 8, 9, 19, 20, 40, 38


def held_below(host: NestedHost) -> Held:
    """Somebody else's call holds the table of keys."""
    held = Held(host.rig.machines[0].platform.locks)
    assert held.own(KOT)
    return held


def test_a_key_that_is_not_taken_away_below_stays_the_tds() -> None:
    host = NestedHost(1).boot()
    tdr = host.td()
    td, key = host.level.tds[tdr >> 12], host.level.platform.kot[17]
    held = held_below(host)
    assert host.call(FLUSH_DONE, rcx=tdr)[RAX] & CODE_MASK == Status.OPERAND_BUSY
    assert (td.lifecycle, key.state) == (Lifecycle.KEYS_CONFIGURED, KeyState.ASSIGNED)
    held.release_all()
    host.good(FLUSH_DONE, rcx=tdr)
    host.good(CACHE_WB)
    free = len(host.level.below.hkids)
    held = held_below(host)
    assert host.call(FREE_KEY, rcx=tdr)[RAX] & CODE_MASK == Status.OPERAND_BUSY
    assert (td.lifecycle, key.state) == (Lifecycle.BLOCKED, KeyState.FLUSHED)
    held.release_all()
    host.good(FREE_KEY, rcx=tdr)
    assert (td.lifecycle, key.state) == (Lifecycle.TEARDOWN, KeyState.FREE)
    assert len(host.level.below.hkids) == free + 1


def test_what_is_held_while_a_guest_host_dies_is_lost_until_it_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The keys of the one, and with them every page."""
    monkeypatch.setattr("protocol.arch.tdx.nesting.keys.OWN_TRIES", operands.TRIES)
    host = NestedHost(1).boot()
    tdr = host.td()
    pages, level = 7, host.level
    keys = len(level.below.hkids)
    held = held_below(host)
    run(level.death())
    assert len(level.lost_frames) == sum(lost.count for lost in level.quarantine) == pages
    assert tdr >> 12 in level.lost_frames
    assert len(level.below.hkids) == keys
    held.release_all()
    run(level.death())
    assert (level.lost_frames, list(level.quarantine)) == ([], [])
    assert len(level.below.hkids) == keys + 1
    assert host.rig.leaks() == []


@pytest.mark.parametrize("what", [KOT, ("wbt", 0)], ids=["key table", "write-back"])
def test_a_key_that_cannot_leave_the_caches_while_its_host_dies_leaves_them_when_it_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, what: Hashable
) -> None:
    """The guest host itself has flushed the TD; somebody else is at the key table, or writes caches back."""
    monkeypatch.setattr("protocol.arch.tdx.nesting.keys.OWN_TRIES", operands.TRIES)
    host = NestedHost(1).boot()
    host.good(FLUSH_DONE, rcx=host.td())
    level, keys = host.level, len(host.level.below.hkids)
    held = Held(host.rig.machines[0].platform.locks)
    assert held.own(what)
    run(level.death())
    assert len(level.lost_frames) == 7
    assert len(level.below.hkids) == keys
    held.release_all()
    run(level.death())
    assert (level.lost_frames, list(level.quarantine)) == ([], [])
    assert len(level.below.hkids) == keys + 1
    assert host.rig.leaks() == []


def test_a_key_that_cannot_be_configured_below_is_not_said_to_be_and_can_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second of two packages below is busy; the first one has the key already."""
    monkeypatch.setattr("protocol.arch.tdx.nesting.keys.OWN_TRIES", operands.TRIES)
    host = NestedHost(1, "small-2p").boot()
    tdr = host.page()
    host.good(CREATE, rcx=tdr, rdx=17)
    host.good(KEY_CONFIG, 0, rcx=tdr)
    held = Held(host.rig.machines[0].platform.locks)
    assert held.own(("ket", 1))
    assert host.call(KEY_CONFIG, 1, rcx=tdr)[RAX] & CODE_MASK == Status.OPERAND_BUSY
    td = host.level.tds[tdr >> 12]
    assert (td.lifecycle, td.configured) == (Lifecycle.HKID_ASSIGNED, 1)
    held.release_all()
    host.good(KEY_CONFIG, 1, rcx=tdr)
    assert (td.lifecycle, td.configured) == (Lifecycle.KEYS_CONFIGURED, 3)
    assert host.rig.leaks() == []


def drained(host: NestedHost, left: int) -> None:
    """Of KeyIDs for guest hosts there are `left`: the module below kept the others of hosts that are gone."""
    del host.level.below.hkids[left:]


def test_the_last_key_is_taken_by_who_asks_first_and_the_other_is_told_that_there_is_none() -> None:
    """He asked while the first one's call was under way, and a KeyID of the level's own is not for him."""
    host = NestedHost(1, hosts=2).boot()
    other = NestedHost(1, hosts=2, rig=host.rig, seat=1).boot()
    drained(host, 1)
    first = host.level.call(host.seat.cpus[0], registers(rax=CREATE, rcx=host.page(), rdx=17), park=True)
    next(first)
    assert other.call(CREATE, rcx=other.page(), rdx=17)[RAX] == Status.HKID_NOT_FREE
    assert not run(first)[RAX]
    assert host.call(CREATE, rcx=host.page(), rdx=18)[RAX] == Status.HKID_NOT_FREE
    assert [len(each.level.tds) for each in (host, other)] == [1, 0]
    assert host.rig.leaks() == []


def test_a_key_that_was_taken_for_a_call_comes_back_when_its_host_ends_first() -> None:
    host = NestedHost(1).boot()
    keys = list(host.level.below.hkids)
    step = host.level.call(host.seat.cpus[0], registers(rax=CREATE, rcx=host.page(), rdx=17), park=True)
    next(step)
    with pytest.raises(OwnerGone):
        step.throw(OwnerGone("the host is gone"))
    assert host.level.below.hkids == keys
    host.good(CREATE, rcx=host.page(), rdx=17)


def test_a_page_that_is_a_tds_is_refused_for_that_though_no_key_is_left() -> None:
    host = NestedHost(1).boot()
    tdr = host.td()
    drained(host, 0)
    wrong = Status.PAGE_METADATA_INCORRECT | RCX
    assert host.call(CREATE, rcx=tdr, rdx=18)[RAX] == wrong
    assert host.level.below.hkids == []


def test_who_ended_the_module_below_is_said_to_be_where_it_ended() -> None:
    """The dispatcher below refused; the guest host's own module is up."""
    host = NestedHost(1).boot()
    tdr = host.td()
    watch, machine = TdxWatch(), host.rig.machines[0]
    watch.attach(machine)
    watch.attach(host.level)
    machine.platform.state = SysState.SHUTDOWN
    assert host.call(TRACK, rcx=tdr)[RAX] & CODE_MASK == Status.SYS_SHUTDOWN
    found, decided = watch.last(host.level), watch.last(machine)
    assert found is not None
    assert decided is not None
    assert (found.call, found.code) == ("mem_track", Status.SYS_SHUTDOWN)
    assert found.level == decided.level
