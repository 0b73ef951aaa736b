"""Machines and what stands on them: memory and KeyIDs of L0's own, and what a rig tells of it all."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from protocol.arch.tdx.comparison import COMPARISON
from protocol.arch.tdx.compose import GIB_FRAMES, compose
from protocol.arch.tdx.host.module import tdmr
from protocol.arch.tdx.host.system import Host, Kernel
from protocol.arch.tdx.machine.bulk import ALL_LINES
from protocol.arch.tdx.profiles import GIB, MIB, PROFILES
from protocol.crossing import inline
from protocol.effects import run
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

PROFILE = PROFILES["small"]
LIFE = (op.BootHost(), op.Create(0, 2, 1), op.Load(0), op.Start(0))


@pytest.mark.parametrize("depth", [1, 2])
def test_what_is_spare_is_for_tds_of_l0s_own_beside_its_guest_hosts(depth: int) -> None:
    """They have frames, KeyIDs and CPUs that no guest host has, and come and go like others."""
    rig = compose(PROFILE, depth, 2, memory_bytes=192 * MIB, cpus=2, spare=GIB)
    kvm, machine = rig.chain[0], rig.machines[0]
    assert kvm.own.free == GIB_FRAMES
    assert len(kvm.own_keys) == 2 * (PROFILE.tdx_keyids - 1)
    assert not set(kvm.own_keys) & set(kvm.hkids)
    assert machine.profile.own_keyids == len(kvm.own_keys)
    cpus = [machine.cpus[number] for number in rig.own_cpus]
    assert not set(map(id, cpus)) & {id(lp) for seat in rig.seats for lp in getattr(seat.level, "_under", ())}
    free, keys = kvm.own.free, list(kvm.own_keys)
    host = Host(machine, cpus, depth=0, image=bytes(4096), kernel=Kernel(kvm.own, kvm.own_keys))
    for operation in LIFE:
        run(host.perform(operation))
    assert kvm.own.free < free
    assert len(kvm.own_keys) == len(keys) - 1
    assert rig.measurements() == [td.mrtd.hex() for td in machine.tds.values()] != []
    run(host.perform(op.Destroy(0)))
    assert (kvm.own.free, sorted(kvm.own_keys)) == (free, sorted(keys))
    assert rig.leaks() == []


def test_l0s_own_software_is_found_beside_guest_hosts_by_a_comparison() -> None:
    sizes = Sizes("small", 1, 1, 192 * MIB, 2, 1)
    rig = COMPARISON.compose(sizes, Ledger(), spare=GIB)
    image = COMPARISON.image(1, 2, None)
    own = COMPARISON.software(
        rig,
        None,
        Random(0),
        pages="two_fault",
        bulk=False,
        image=image,
        pool=rig.chain[0].own,
        cpus=rig.own_cpus,
    )
    for operation in LIFE:
        inline(own.perform(operation), rig.below(None))
    assert rig.remains()["tds"] == 1
    assert len(rig.chain[0].own_keys) == PROFILE.tdx_keyids - 2
    inline(own.perform(op.Destroy(0)), rig.below(None))
    assert rig.remains()["tds"] == 0


def test_books_of_levels_between_are_kept_apart_for_each_host_at_the_top() -> None:
    rig = compose(PROFILE, 3, 2, memory_bytes=192 * MIB, cpus=1, apart=True)
    assert [level.kept_apart for level in rig.levels[1:]] == [True, True]
    assert len(list(rig.books())) == 2 * (1 + 2) + 2
    parts = [set(map(int, level._apart)) for level in rig.levels[1:]]
    assert [len(part) for part in parts] == [2, 2], "each host at the top has one GiB"


@pytest.mark.parametrize(("size", "reserved"), [(2 * GIB, 2), (2 * GIB - MIB, 3), (192 * MIB, 3)])
def test_one_tdmr_covers_a_hosts_memory_and_what_is_behind_its_end_is_reserved(
    size: int, reserved: int
) -> None:
    info = tdmr(size)
    assert (info.base, info.size % GIB, len(info.reserved)) == (0, 0, reserved)
    assert info.size >= size
    if reserved == 3:
        assert (info.reserved[2].base, info.reserved[2].end) == (size, info.size)


class Ram:
    """A place of the guest host's own for its bytes, that notes which frames left it."""

    def __init__(self) -> None:
        self.gone: list[int] = []

    def left(self, below: Any) -> None:
        self.gone.extend(below.tolist())


def test_a_guest_host_may_zero_what_is_plain_and_all_of_it_leaves_its_ram_when_it_dies() -> None:
    rig = compose(PROFILE, 1, memory_bytes=192 * MIB)
    host = Host(rig.seats[0].level, rig.seats[0].cpus, depth=1, image=bytes(4096))
    for operation in LIFE:
        run(host.perform(operation))
    level, tdr, ram = rig.seats[0].level, host.guests[0].tdr >> 12, Ram()
    level.ram = ram
    assert level.may_clear(8) and not level.may_clear(tdr)
    slots = level.slots.tolist()
    run(level.death())
    assert ram.gone == slots


def test_frames_that_are_zeroed_are_plain_on_every_level_below() -> None:
    """And which may be zeroed at one go is asked of all of them."""
    level: Any = compose(PROFILE, 2, memory_bytes=192 * MIB).seats[0].level
    machine = level.below.memory.below.memory
    page = level.below.memory.frame_below(level.frame_below(8))
    assert level.plain([8])
    machine.owned[page] = ALL_LINES
    assert not level.plain([8])
    level.clear([8])
    assert level.plain([8]) and not machine.owned[page]
    level.lines[8] = 1
    assert not level.plain([8])
