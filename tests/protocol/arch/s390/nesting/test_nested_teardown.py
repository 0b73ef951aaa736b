"""A guest host that goes without a word: section 7.8, at once or later, and what cannot be given back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nested_host import Guest, NestedHost
from nested_invariants import check, nothing_is_left

from protocol.arch.s390.audit import leaks
from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.guest import Touch, Uvc
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.nesting import Nested, Strategy, memory, teardown
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import (
    EXECUTED,
    HANDLE_OUT,
    INIT,
    NODATA,
    SHARE,
    CreateConfig,
    CreateCpu,
    block,
)
from protocol.arch.s390.tables import GuestTable
from protocol.crossing import Thread, inline
from protocol.effects import Fault, Idle, Step, run
from protocol.errors import OwnerGone
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import ABSENT, LEFTOVER

SHARED = 8


def booted(depth: int = 1, hosts: int = 1, **words: str) -> tuple[NestedHost, Guest, Nested]:
    host = NestedHost(compose(PROFILES["small"], depth, hosts, strategy=Strategy(**words)))
    run(host.init())
    guest = run(host.boot(vcpus=2))
    level = host.seat.level
    assert isinstance(level, Nested)
    return host, guest, level


def share_and_pin(host: NestedHost, guest: Guest) -> int:
    """A page that the guest shares and the host pins; returns its address."""
    address = host.map(guest, SHARED)
    assert run(host.convert(guest, SHARED)).rc == EXECUTED
    uvcb = bytes(block(0x30, 0x1000, SHARE, SHARED << PAGE_SHIFT))
    run(host.enter(guest, Touch(SHARED << 12, True, uvcb), Uvc(SHARED << 12)))
    assert run(host.page_call(0x0341, address)).rc == EXECUTED
    return address


def secure_frames(rig: Rig) -> int:
    state = rig.machines[0].state
    return int(np.count_nonzero((state != PageState.NORMAL) & (state != PageState.DONATED)))


@pytest.mark.parametrize("clear", [False, True])
def test_a_reboot_ends_everything_and_the_host_starts_again(clear: bool) -> None:
    host, guest, level = booted()
    pinned = share_and_pin(host, guest)
    address = guest.pages[0] << PAGE_SHIFT
    host.write(0x200000, b"plain memory")
    host.rig.ledger.phase = "owner_reboot"
    run(level.reset(clear))
    nothing_is_left(host.rig)
    check(host.rig)
    assert secure_frames(host.rig) == 0
    assert host.read(address, 64) == bytes(64) == host.read(pinned, 64)
    assert host.read(guest.base, 64) == bytes(64) == host.read(host.base, 64)
    assert host.read(0x200000, 12) == (bytes(12) if clear else b"plain memory")
    counts = host.rig.ledger.phases()["owner_reboot"]
    assert counts["teardown.cpu.l1_reboot"] == 2
    assert counts["teardown.config.l1_reboot"] == 1
    assert counts["teardown.page.l1_reboot"] == 4, "image, two prefix pages, the shared one"
    donated = 0x200 + 16 + 3 + 2
    assert counts["teardown.donated_page.l1_reboot"] == donated
    assert run(host.handle_call(0x0302, guest.handle)).rc == 0x0003, "before Init as after power on"
    host.restart()
    run(host.init())
    run(host.boot())
    check(host.rig)


def test_a_death_gives_every_frame_back_to_the_level_below() -> None:
    host, guest, level = booted()
    share_and_pin(host, guest)
    run(memory.swap(level, guest.pages[0]))
    run(level.death())
    l0 = host.rig.chain[0]
    assert (l0.pool.free, l0.promised) == (host.rig.machines[0].base.start - 256, 0)
    assert not host.rig.machines[0].configs and secure_frames(host.rig) == 0
    assert level.dead


@pytest.mark.slow
def test_the_death_of_l1_ends_l2_and_its_guests() -> None:
    host, _, _ = booted(2)
    l1 = host.rig.levels[1]
    assert isinstance(l1, Nested)
    run(l1.death())
    assert not host.rig.machines[0].configs and secure_frames(host.rig) == 0
    assert host.rig.chain[0].pool.free == host.rig.machines[0].base.start - 256


def test_a_sibling_notices_nothing() -> None:
    host, _, _ = booted(hosts=2)
    other = NestedHost(host.rig, 1)
    run(other.init())
    guest = run(other.boot())
    run(host.rig.kill(0))
    check(host.rig)
    assert list(other.seat.level.configs) == [guest.handle]
    run(other.destroy(guest))
    check(host.rig)


def test_an_entry_that_stays_in_the_guest_ends_with_its_owner() -> None:
    host, guest, level = booted()
    entry = host.enter(guest, stay=True)
    assert next(entry) == Idle()
    assert level.secure_cpus[guest.vcpus[0].handle].inside
    with pytest.raises(OwnerGone):
        entry.throw(OwnerGone("the host died"))
    run(level.death())
    assert not host.rig.machines[0].configs


# -- later ----------------------------------------------------------------------------------------


def left_over() -> tuple[NestedHost, Guest, Nested, list[int]]:
    host, guest, level = booted(teardown="async")
    share_and_pin(host, guest)
    run(level.reset(False))
    check(host.rig)
    return host, guest, level, list(level.leftovers)


def test_left_over_pages_are_plain_and_zero_for_the_host_that_is_up_again() -> None:
    host, guest, level, frames = left_over()
    assert sorted(frames) == sorted(guest.pages.values())
    assert secure_frames(host.rig) == 4, "they are still secure below"
    assert host.rig.ledger.flat()["te_issued.destroy_config_fast.1"] == 1
    host.restart()
    run(host.init())
    first, second, *_ = frames
    assert host.read(first << PAGE_SHIFT, 16) == bytes(16)
    host.write(second << PAGE_SHIFT, b"mine again")
    assert host.read(second << PAGE_SHIFT, 10) == b"mine again"
    assert len(level.detached) == 2 and secure_frames(host.rig) == 4
    check(host.rig)
    run(host.boot())
    check(host.rig)


def test_left_over_pages_are_destroyed_bit_by_bit() -> None:
    host, _, level, frames = left_over()
    host.write(frames[0] << PAGE_SHIFT, b"touched")
    for rest in (3, 2, 1, 0, 0):
        assert run(teardown.some_leftovers(level, 1)) == rest
        check(host.rig)
        assert secure_frames(host.rig) == rest
    assert not (level.attention & LEFTOVER).any()
    assert host.read(frames[0] << PAGE_SHIFT, 7) == b"touched"
    assert host.rig.chain[0].promised == 0


def test_a_host_may_donate_and_secure_what_is_left_over() -> None:
    host, _, level, frames = left_over()
    host.restart()
    run(host.init())
    guest = run(host.create())
    guest.table.map(0x20, frames[0])
    guest.pages[0x20] = frames[0]
    assert run(host.page_call(0x0202, frames[1] << PAGE_SHIFT)).rc == EXECUTED
    assert run(host.convert(guest, 0x20)).rc == EXECUTED
    assert level.page_owner[frames[0]]
    check(host.rig)
    run(level.death())
    assert secure_frames(host.rig) == 0
    assert host.rig.chain[0].pool.free == host.rig.machines[0].base.start - 256


def test_what_is_left_over_is_replaced_before_the_host_donates_it() -> None:
    host, _, level, frames = left_over()
    host.restart()
    run(host.init())
    guest = run(host.create(vcpus=0))
    state = host.some_frame() << PAGE_SHIFT
    fields = CreateCpu(guest.handle, frames[0] << PAGE_SHIFT, 0, state)
    run(host.done(fields.pack(), 0, HANDLE_OUT + 8))
    assert frames[0] not in level.leftovers and len(level.detached) == 1
    assert host.is_secure(frames[0] << PAGE_SHIFT)
    check(host.rig)
    assert run(teardown.some_leftovers(level, 100)) == 0
    assert secure_frames(host.rig) == 0
    check(host.rig)


def test_no_more_is_left_over_than_could_be_replaced() -> None:
    host, guest, level = booted(teardown="async")
    l0 = host.rig.chain[0]
    comes_back = 16 + 3 + 2 + 4 + 4 * 2 + 2 * 2 + len(level.shadows.spaces) * 8  # what ends frees its frames
    l0.pool.take_many(l0.pool.free - l0.promised)
    assert l0.pool.free == l0.promised
    run(level.reset(False))
    assert len(level.leftovers) <= comes_back
    assert l0.pool.free >= l0.promised
    assert host.read(guest.pages[0] << PAGE_SHIFT, 8) == bytes(8)


# -- what the level below will not give back ------------------------------------------------------


def stuck(host: NestedHost, guest: Guest) -> None:
    """The real Ultravisor believes that a CPU is in SIE, so it destroys neither it nor its configuration."""
    host.rig.machines[0].secure_cpus[guest.vcpus[0].handle].inside = True


def test_what_cannot_be_destroyed_is_never_used_again_and_named() -> None:
    host, guest, level = booted()
    stuck(host, guest)
    before = {
        block.first: block.pages
        for block in (*level.configs[guest.handle].donated, level.secure_cpus[guest.vcpus[0].handle].donated)
    }
    run(level.reset(False))
    lost = {each.first: each.count for each in level.quarantine if "destroy" in each.reason}
    assert before.items() <= lost.items()
    named = {leak.id for leak in leaks(host.rig) if leak.kind == "quarantined"}
    assert {hex(first) for first in before} <= named
    pool = host.rig.chain[0].pool
    free = set(pool.take_many(pool.free).tolist())
    assert not free & {first + n for first, pages in before.items() for n in range(pages)}


@pytest.mark.parametrize("donation", ["bounded", "off"])
def test_where_nothing_is_lent_in_place_of_a_donation_what_is_lost_is_not_owed(donation: str) -> None:
    host, guest, level = booted(donation=donation)
    stuck(host, guest)
    run(level.reset(False))
    assert sum(1 for _ in level.quarantine) == 4, (
        "base, variable storage and SCA of its configuration, and the CPU's"
    )
    assert host.rig.chain[0].promised == 0
    host.restart()
    run(host.init())
    run(host.boot())


def test_the_host_gets_its_donation_back_even_if_the_level_below_lost_its_own() -> None:
    host, guest, level = booted()
    stuck(host, guest)
    run(level.reset(False))
    assert host.read(guest.base, 8) == bytes(8)
    host.restart()
    run(host.init())
    run(host.boot())


def lost_below(host: NestedHost, level: Nested, frame: int) -> int:
    """The machine will not let go of the page below: it takes it for one that was donated."""
    below = level.frame_below(frame)
    host.rig.machines[0].state[below] = PageState.DONATED
    return below


def never_used_again(host: NestedHost, below: int) -> bool:
    pool = host.rig.chain[0].pool
    named = {leak.id for leak in leaks(host.rig) if leak.kind == "quarantined"}
    return hex(below) in named and below not in pool.take_many(pool.free).tolist()


def test_a_page_that_cannot_be_destroyed_is_replaced() -> None:
    host, guest, level = booted()
    frame = guest.pages[0]
    below = lost_below(host, level, frame)
    run(level.reset(False))
    assert level.frame_below(frame) != below
    assert host.read(frame << PAGE_SHIFT, 16) == bytes(16)
    host.write(frame << PAGE_SHIFT, b"mine again")
    assert never_used_again(host, below)


def squeezed(host: NestedHost) -> list[int]:
    """The level below has no frame but those that it owes."""
    l0 = host.rig.chain[0]
    taken: list[int] = l0.pool.take_singles(l0.pool.free - l0.promised)
    return taken


def test_a_page_that_cannot_be_replaced_is_missing_from_its_host() -> None:
    """No frame is free but those that are owed to it for what it donated."""
    host, guest, level = booted()
    frame = guest.pages[0]
    below = lost_below(host, level, frame)
    host.rig.machines[0].secure_cpus.clear()  # nothing that was lent comes back before
    host.rig.machines[0].configs.clear()
    squeezed(host)
    run(level.reset(False))
    assert level.frame_below(frame) == ABSENT
    assert host.is_secure(frame << PAGE_SHIFT)
    left = host.level.write(frame << PAGE_SHIFT, b"x")
    assert isinstance(left, Fault) and left.code == 0x3D
    assert hex(below) in {leak.id for leak in leaks(host.rig) if leak.kind == "quarantined"}


def test_a_donation_for_which_there_is_no_memory_stays_away() -> None:
    """The level below lost what it lent, and has no frame but those that it owes: not enough for all."""
    host, guest, level = booted()
    stuck(host, guest)
    squeezed(host)
    run(level.reset(False))
    kept = [each for each in level.quarantine if each.reason == "no memory to return a donation"]
    assert [(each.first, each.count) for each in kept] == [(host.base >> PAGE_SHIFT, 0x200)]
    assert host.is_secure(host.base)
    host.restart()
    again = block(0x48, 0x000F, INIT, host.base, host.rig.profile.base_len)
    host.cpus[1].running = False
    assert run(host.uvc(again)).rc == 0x0104, "an Ultravisor is not given what is not there"


def test_pages_are_swept_by_one_at_a_time() -> None:
    rig = compose(PROFILES["small"], 1, apart=True, strategy=Strategy(teardown="async"))
    host = NestedHost(rig)
    inline(host.init(), rig.below(0))
    inline(host.boot(), rig.below(0))
    level = host.seat.level
    inline(level.reset(False), rig.below(0)[1:])
    count = len(level.leftovers)
    sweeping = Thread("sweep", teardown.some_leftovers(level, count), rig.below(0)[1:])
    sweeping.hop()
    assert run(teardown.some_leftovers(level, count)) == count, "nothing was asked below"
    while not sweeping.done:
        sweeping.hop()
    assert (sweeping.value, secure_frames(rig)) == (0, 0)
    check(rig)


@pytest.mark.parametrize("touched", [False, True])
def test_a_left_over_page_that_cannot_be_destroyed_is_replaced(touched: bool) -> None:
    host, _, level, frames = left_over()
    frame = frames[0]
    below = lost_below(host, level, frame)
    if touched:
        host.write(frame << PAGE_SHIFT, b"mine again")
    run(teardown.all_leftovers(level, "l1_reboot"))
    assert not level.leftovers and not level.detached
    assert level.frame_below(frame) != below
    assert host.read(frame << PAGE_SHIFT, 10) == (b"mine again" if touched else bytes(10))
    assert never_used_again(host, below)


def test_what_the_level_below_refuses_is_undone() -> None:
    host, guest, level = booted()
    machine, pool = host.rig.machines[0], host.rig.chain[0].pool
    free, books = pool.free, level.book.records()
    machine.profile = replace(machine.profile, max_configs=0, max_cpu_id=0)
    with pytest.raises(AssertionError, match="rc=259"):  # 0x0103, of both calls
        run(host.create())
    with pytest.raises(AssertionError, match="rc=259"):
        run(host.create_cpu(guest, 5))
    assert (pool.free, level.book.records()) == (free, books)
    check(host.rig)


def test_a_destroy_that_the_host_itself_asks_for_and_fails_changes_nothing() -> None:
    host, guest, level = booted()
    stuck(host, guest)
    assert run(host.handle_call(0x0121, guest.vcpus[0].handle)).rc == 0x0003
    assert run(host.handle_call(0x0101, guest.handle)).rc == 0x0003
    assert host.is_secure(guest.base) and guest.handle in level.configs
    host.rig.machines[0].secure_cpus[guest.vcpus[0].handle].inside = False
    check(host.rig)


def undone(step: Step[object]) -> None:
    with pytest.raises(OwnerGone):
        step.throw(OwnerGone("gone"))


def test_a_swap_whose_owner_goes_leaves_no_claim() -> None:
    """Over a link: the swap waits for its first answer, and its host dies."""
    rig = compose(PROFILES["small"], 1, apart=True)
    host = NestedHost(rig)
    inline(host.init(), rig.below(0))
    guest = inline(host.boot(), rig.below(0))
    level = host.seat.level
    swap = memory.swap(level, guest.pages[0])
    next(swap)
    assert level.keeping
    undone(swap)
    assert not level.keeping
    check(rig)


@pytest.mark.parametrize("what", ["CPU", "configuration"])
def test_what_its_host_does_not_live_to_see_created_takes_nothing(what: str) -> None:
    rig = compose(PROFILES["small"], 1, apart=True)
    host = NestedHost(rig)
    inline(host.init(), rig.below(0))
    guest = inline(host.create(vcpus=0), rig.below(0))
    level, free = host.seat.level, rig.chain[0].pool.free
    storage, state = (host.pool.take_run(16) << PAGE_SHIFT for _ in range(2))
    wanted: CreateConfig | CreateCpu = CreateCpu(guest.handle, storage, 0, state)
    if what == "configuration":
        asce = GuestTable(host.level, host.pool).asce
        wanted = CreateConfig(storage, host.pool.take_run(8) << PAGE_SHIFT, 0, 0, 1 << 20, state, asce)
    host.write(host.issuers[0].scratch, bytes(wanted.pack()))
    creating = level.call(host.cpus[0], host.issuers[0].scratch)
    next(creating)
    assert rig.chain[0].pool.free < free
    undone(creating)
    assert rig.chain[0].pool.free == free
    assert not level.secure_cpus and list(level.configs) == [guest.handle]
    check(rig)


# -- a guest that is gone, and a page of it that the level below has swapped out ---------------------


def away_for_ever() -> tuple[NestedHost, Nested, int]:
    """Returns the address of such a page: nobody can bring it back, and to its host it is secure."""
    host, guest, level = booted()
    frame = host.map(guest, SHARED, b"nobody's any more") >> PAGE_SHIFT
    assert run(host.convert(guest, SHARED)).rc == EXECUTED
    assert run(memory.swap(level, frame))
    for vcpu in guest.vcpus:
        run(host.done(block(0x40, 0x0121, NODATA, vcpu.handle)))
    run(host.done(block(0x40, 0x0101, NODATA, guest.handle)))
    host.guests.remove(guest)
    assert frame in level.away and host.is_secure(frame << PAGE_SHIFT)
    check(host.rig)
    return host, level, frame << PAGE_SHIFT


def test_a_page_whose_guest_is_gone_is_not_moved_any_more() -> None:
    """Nobody could bring it back: it stays where it is until its host destroys it."""
    host, guest, level = booted()
    for vcpu in guest.vcpus:
        run(host.done(block(0x40, 0x0121, NODATA, vcpu.handle)))
    run(host.done(block(0x40, 0x0101, NODATA, guest.handle)))
    frame = guest.pages[0]
    below = level.frame_below(frame)
    assert run(memory.swap(level, frame)) is False
    assert level.frame_below(frame) == below and not level.away
    assert host.is_secure(frame << PAGE_SHIFT)
    assert run(host.page_call(0x0202, frame << PAGE_SHIFT)).rc == EXECUTED
    assert run(memory.swap(level, frame)) is True, "it is plain memory"


def test_a_page_that_its_host_has_pinned_is_not_moved_and_nothing_is_asked_below() -> None:
    host, guest, level = booted()
    address = share_and_pin(host, guest)
    host.rig.ledger.reset()
    assert run(memory.swap(level, address >> PAGE_SHIFT)) is False
    assert not [key for key in host.rig.ledger.counts() if key[0] == "te_calls"]
    assert run(host.unpin(guest, SHARED)).rc == EXECUTED, "its pin is still there"
    check(host.rig)


def test_a_page_that_the_level_below_does_not_export_stays_where_it_is() -> None:
    host, guest, level = booted()
    frame = guest.pages[0]
    below = lost_below(host, level, frame)
    assert run(memory.swap(level, frame)) is False
    assert level.frame_below(frame) == below and not level.away
    host.rig.machines[0].state[below] = PageState.SECURE
    assert run(memory.swap(level, frame)) is True
    check(host.rig)


def test_its_export_gives_its_host_zeroes_and_no_ciphertext() -> None:
    host, level, address = away_for_ever()
    below = host.rig.machines[0].storage
    assert below.read(level.frame_below(address >> PAGE_SHIFT) << PAGE_SHIFT, 16) != bytes(16)
    assert run(host.page_call(0x0201, address)).rc == EXECUTED
    assert host.read(address, 4096) == bytes(4096)
    assert not level.away
    check(host.rig)


def test_no_other_guest_may_touch_it_or_have_it_for_its_own() -> None:
    host, level, address = away_for_ever()
    other = run(host.boot())
    other.table.map(0x30, address >> PAGE_SHIFT)
    left = run(host.enter(other, Touch(0x30 << PAGE_SHIFT, True, b"x")))
    assert isinstance(left, Fault) and (left.code, left.address) == (0x3F, 0x30 << PAGE_SHIFT)
    assert run(host.convert(other, 0x30)).rc == 0x0103, "not importable, as a page of a guest that lives"
    assert level.away and host.is_secure(address)
    check(host.rig)
    assert run(host.page_call(0x0202, address)).rc == EXECUTED
    assert run(host.convert(other, 0x30)).rc == EXECUTED
    check(host.rig)
