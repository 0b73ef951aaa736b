"""What must hold of a composition after every step: section 7.8a of the sheet, and that no frame is lost.

`check` looks and changes nothing. It may be called whenever no call is under way; a CPU may be in a guest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import dat
from protocol.arch.s390.audit import guests_of, leaks
from protocol.arch.s390.compose import FIRST_FREE, Rig
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.nesting.passing import SCRATCH_FRAMES
from protocol.arch.s390.nesting.shadow import Space
from protocol.arch.s390.tables import SEGMENT_PAGES
from protocol.calls import Donation
from protocol.effects import Fault
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import (
    ABSENT,
    CLAIMED,
    DONATED,
    LEFTOVER,
    SECURE,
    TABLE,
    Hypervisor,
)


def check(rig: Rig) -> None:
    """All invariants, at every level."""
    known = [leak for leak in leaks(rig) if leak.kind != "quarantined"]
    assert known == [], known  # 1: no handle, page or donation stands in one of two books only
    machine_pages_have_one_owner(rig.machines[0])  # 6
    for number, level in enumerate(rig.levels):
        guests = list(guests_of(rig, number).values())
        no_frame_is_lost(rig.chain[number], level, guests)
        handles_are_apart(guests)
        for guest in guests:
            nothing_is_under_way(guest)
            what_is_guarded_is_refused(guest)  # 2
            donations_add_up(guest)  # 3 and 4
            shadows_are_true(guest)
            books_agree(guest)


def nothing_is_left(rig: Rig) -> None:
    """Every host at the top is as if it had just come up, but for leftovers of an asynchronous teardown."""
    for seat in rig.seats:
        host = seat.level
        assert isinstance(host, Nested)
        assert not host.configs and not host.secure_cpus and not host.pins and not host.shadows.spaces
        assert not (host.attention & ~np.uint8(LEFTOVER)).any()
        assert not host.page_owner.any() and not host.away and not host.ready


# -- the machine -----------------------------------------------------------------------------------------


def machine_pages_have_one_owner(machine: Machine) -> None:
    owned = np.flatnonzero((machine.state != PageState.NORMAL) & (machine.state != PageState.DONATED))
    pairs = Counter((int(machine.owner[frame]), int(machine.guest_page[frame])) for frame in owned.tolist())
    living = {pair: n for pair, n in pairs.items() if pair[0] in machine.by_serial}
    assert all(n == 1 for n in living.values()), living
    for config in machine.by_serial.values():
        resident = np.flatnonzero(config.resident)
        assert {(config.serial, page) for page in resident.tolist()} == {
            pair for pair in living if pair[0] == config.serial
        }


# -- one level and its guest hosts -------------------------------------------------------------------------


def no_frame_is_lost(below: Hypervisor, level: Machine | Nested, guests: list[Nested]) -> None:
    """Every frame of a hypervisor is free, or it is known what it is used for; none is used twice."""
    used = [np.arange(FIRST_FREE), np.asarray(level.base)]
    for guest in guests:
        used.append(guest.slots[guest.slots != ABSENT])
        issuers = [issuer.scratch >> PAGE_SHIFT for issuer in (*guest.issuers, guest.keeper)]
        used += [np.arange(first, first + SCRATCH_FRAMES) for first in issuers]
        for config in guest.configs.values():
            used += [np.arange(first, first + pages) for first, pages in (*config.donated, config.sca)]
        for begun in guest.unfinished.values():
            used += [np.arange(first, first + pages) for first, pages in begun.lent]
        for secure in guest.secure_cpus.values():
            first, pages = secure.donated
            used += [np.arange(first, first + pages)]
            used += [np.array([secure.block >> PAGE_SHIFT, secure.sida >> PAGE_SHIFT])]
        for space in guest.shadows.spaces.values():
            used.append(np.array(space.table.occupied(), np.int64))
        used.append(np.array(guest.detached, np.int64))
    frames = np.concatenate(used)
    taken = np.zeros(level.size >> PAGE_SHIFT, bool)
    taken[frames] = True
    assert np.count_nonzero(taken) == frames.size, "a frame is used for two things"
    lost = level.base.stop - frames.size - below.pool.free
    quarantined = sum(lost.count for guest in guests for lost in guest.quarantine)
    assert lost == 0 or quarantined, f"L{below.level} lost {lost} frames"
    assert below.pool.free >= below.promised >= 0, "more is owed than there is"


def handles_are_apart(guests: list[Nested]) -> None:
    """No entity of the level below stands in the books of two guest hosts."""
    for kind in ("configs", "secure_cpus"):
        real = [entity.real for guest in guests for entity in getattr(guest, kind).values()]
        assert len(set(real)) == len(real), f"{kind} in two books"


def nothing_is_under_way(guest: Nested) -> None:
    assert not (guest.attention & CLAIMED).any() and not guest.keeping and guest.leaving is None
    assert not any(space.held for space in guest.shadows.spaces.values())
    assert not any(config.flights or config.closed for config in guest.configs.values())


def what_is_guarded_is_refused(guest: Nested) -> None:
    """The guest host's access is refused exactly where a page is donated or private to a guest."""
    for frame in np.flatnonzero(guest.attention & (DONATED | SECURE)).tolist():
        answer = guest.peek(frame << PAGE_SHIFT, 1)
        if guest.attention_of(frame) & DONATED:
            assert isinstance(answer, Fault) and answer.code == z.SECURE_ACCESS, frame
        assert bool(guest.attention_of(frame) & SECURE) == bool(guest.page_owner[frame])
    assert np.array_equal((guest.attention & SECURE) != 0, guest.page_owner != 0)
    assert set(guest.away) <= set(np.flatnonzero(guest.page_owner).tolist())
    assert {whose: frame for frame, whose in guest.away.items()} == guest.away_at
    for frame in np.flatnonzero(guest.attention == 0)[::4999].tolist():
        assert isinstance(guest.peek(frame << PAGE_SHIFT, 1), bytes), frame


def donations_add_up(guest: Nested) -> None:
    donated = (len(guest.base) if guest.ready else 0) + sum(
        len(config.base) + len(config.variable) + sum(len(cpu.storage) for cpu in config.cpus)
        for config in guest.configs.values()
    )
    lent = sum(pages for config in guest.configs.values() for _, pages in config.donated) + sum(
        secure.donated.pages for secure in guest.secure_cpus.values()
    )
    marked = int(np.count_nonzero(guest.attention & DONATED))
    if guest.donation is Donation.NONE:
        assert marked == 0
        return
    if not list(guest.quarantine):
        assert marked == donated
        if guest.donation is Donation.SWAPPED:
            assert np.array_equal(guest.slots == ABSENT, (guest.attention & DONATED) != 0)
    assert lent <= donated - len(guest.base), "more is lent than was donated"


def shadows_are_true(guest: Nested) -> None:
    """What a shadow maps is what the guest host maps there, and lies where the slots say; marks are exact."""
    shadows = guest.shadows
    mapped: Counter[int] = Counter()
    protected: set[int] = set()
    for space in shadows.spaces.values():
        for page, frame in mappings(space):
            mapped[frame] += 1
            own = dat.walk(guest.peek, space.asce, page << PAGE_SHIFT, False)
            assert own == frame << PAGE_SHIFT, f"the guest host maps {own}, the shadow {frame:#x}"
            write = page not in space.read_only
            below = dat.walk(guest.below.memory.peek, space.table.asce, page << PAGE_SHIFT, write)
            assert below == guest.frame_below(frame) << PAGE_SHIFT, f"the shadow leads to {below}"
        tables = [*space.upper, *(table for tables in space.page_tables.values() for table in tables)]
        for table in tables:
            last = (table.origin + table.length - 1) >> PAGE_SHIFT
            protected.update(range(table.origin >> PAGE_SHIFT, last + 1))
    assert set(np.flatnonzero(shadows.mapper).tolist()) == set(mapped)
    for frame, n in mapped.items():
        assert len(shadows._mappings(frame)) == n
    protected = {frame for frame in protected if frame < guest.attention.size}
    assert set(np.flatnonzero(guest.attention & TABLE).tolist()) == protected


def mappings(space: Space) -> Iterator[tuple[int, int]]:
    for number, segment in space.segments.items():
        for index, frame in enumerate(segment):
            if frame:
                yield number * SEGMENT_PAGES + index, frame - 1


def books_agree(guest: Nested) -> None:
    """The counted records are those that there are."""
    records = guest.book.records()
    assert records.get("vm_map", 0) == len(guest.configs)
    assert records.get("vcpu_map", 0) == records.get("shadow_vcpu", 0) == len(guest.secure_cpus)
    assert records.get("secure_page", 0) == int(np.count_nonzero(guest.page_owner))
    assert records.get("te_context", 0) == int(guest.ready)
    assert records.get("pending_teardown", 0) == len(guest.leftovers) + len(guest.detached)
    runs = int(guest.ready) + 2 * len(guest.configs) + len(guest.secure_cpus)
    assert list(guest.quarantine) or records.get("donated_run", 0) == runs
