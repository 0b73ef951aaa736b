"""What a comparison puts together: the same plan on every depth, handles passed or mapped."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.comparison import COMPARISON
from protocol.arch.pef.kvm.frames import KVM
from protocol.arch.pef.profiles import MIB, PROFILES
from protocol.arch.pef.tables import PAGE, PAGE_SHIFT
from protocol.crossing import inline
from protocol.effects import Issue
from protocol.errors import OperationFailed
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.plan.fit import mistakes
from protocol.plan.operations import Pages
from protocol.plan.scenario import GuestHosts, Guests, Run, Scenario

LIFE = (op.BootHost(), op.Create(0, 8, 2), op.Load(0), op.Start(0), op.Touch(0, 1, Pages(16, 64, 64)))


def lived(depth: int, handles: str) -> tuple[Ledger, dict[str, int]]:
    """Two hosts, one guest each that is left behind; the ledger, and what remains after their end."""
    ledger = Ledger(COMPARISON.prices.entry)
    strategy = {"handles": handles}
    rig = COMPARISON.compose(Sizes("small", depth, 2, 256 * MIB, 2, 1, strategy), ledger)
    image = COMPARISON.image(1, 16, None)
    for seat in range(len(rig.seats)):
        host = COMPARISON.software(rig, seat, Random(seat), pages="two_fault", bulk=False, image=image)
        for operation in LIFE:
            inline(host.perform(operation), rig.below(seat))
    assert rig.leaks() == []
    assert rig.remains()["svms"] == len(rig.seats)
    for seat in range(len(rig.seats)):
        inline(rig.end(seat, "l1_crash"), rig.below(seat)[1:])
    return ledger, rig.remains()


@pytest.mark.parametrize("handles", ["passed", "mapped"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_hosts_that_end_leave_nothing(depth: int, handles: str) -> None:
    ledger, remains = lived(depth, handles)
    assert not any(remains.values())
    assert ledger.flat()[f"te_issued.UV_PAGE_IN.{depth}"] == (1 if depth == 0 else 2) * (1 + 5 + 1 + 7 - 1)


def test_passed_handles_are_passed() -> None:
    passed, mapped = (lived(1, handles)[0].flat() for handles in ("passed", "mapped"))
    assert passed["te_calls.UV_REGISTER_MEM_SLOT.memory.passed.1"] == 2
    assert mapped["te_calls.UV_REGISTER_MEM_SLOT.memory.modified.1"] == 2
    assert passed["exits"] - mapped["exits"] == 2  # H_GUEST_CREATE, once for each
    assert passed["copied_bytes"] < mapped["copied_bytes"]


@pytest.mark.parametrize("depth", [1, 2])
def test_l0s_own_guests_have_what_nobody_else_has(depth: int) -> None:
    """Memory behind that of guest hosts, LPIDs behind theirs, and as much secure memory again."""
    rig = COMPARISON.compose(Sizes("small", depth, 2, 64 * MIB, 2, 1), Ledger(), 48 * MIB)
    pool = rig.chain[0].pool
    assert pool.free <= rig.own.memory.start >> 12, "no frame of its own is a guest host's"
    own = COMPARISON.software(
        rig, None, Random(1), pages="two_fault", bulk=False, image=bytes(PAGE), pool=pool, cpus=rig.own_cpus
    )
    host = COMPARISON.software(rig, 1, Random(2), pages="two_fault", bulk=False, image=bytes(PAGE))
    for operation in LIFE:
        inline(own.perform(operation), rig.below(None))
        inline(host.perform(operation), rig.below(1))
    machine = rig.machines[0]
    (lpid,) = own.kvm.vms
    (other,) = set(machine.svms) - {lpid}
    assert lpid in rig.own.lpids and other not in rig.own.lpids
    held = np.flatnonzero(own.kvm.frames.use == KVM) << PAGE_SHIFT
    assert held.size and all(address in rig.own.memory for address in held.tolist())
    assert machine.secure.units == 2 * len(rig.seats) * PROFILES["small"].units
    assert rig.leaks() == []
    for guest in list(own.guests):
        inline(own.perform(op.Destroy(guest)), rig.below(None))
    inline(rig.end(1, "l1_crash"), rig.below(1)[1:])
    assert not any(rig.remains().values())


def test_what_is_not_built_is_refused_with_a_reason() -> None:
    rig = COMPARISON.compose(Sizes("small", 1, 1, 256 * MIB, 2, 1), Ledger())
    with pytest.raises(ValueError, match="runs of calls are rare"):
        COMPARISON.software(rig, 0, Random(0), pages="two_fault", bulk=True)
    with pytest.raises(ValueError):
        rig.swap(0, op.LevelSwap(1, 1))
    assert mistakes(Scenario(), {"pef": PROFILES["small"]}) == []
    found = mistakes(Scenario(paths=("direct", "mixed"), fidelity="bulk"), {"pef": PROFILES["small"]})
    assert {mistake.path for mistake in found} == {"fidelity"}


@pytest.mark.parametrize(("guests", "fits"), [(19, True), (20, False)])
def test_guests_that_do_not_fit_secure_memory_are_found_before_the_run(guests: int, fits: bool) -> None:
    """96 units; a guest of 8 MiB takes five, because what its boot needs lies beside that."""
    scenario = Scenario(
        arch=("pef",),
        l1=GuestHosts(count=1, memory_mib=512, cpus=1),
        guest=Guests(per_l1=guests, memory_mib=8, vcpus=1, image_pages=16, touch_pages=1, share_pages=1),
        run=Run(swap_pages=1, page_changes=0, resets=0, reboots=0, deaths=0),
    )
    found = mistakes(scenario, {"pef": PROFILES["small"]})
    assert [mistake.path for mistake in found] == ([] if fits else ["guest.per_l1 * guest.memory_mib"])
    if not fits:
        assert "96 units of secure memory" in found[0].allowed
    rig = COMPARISON.compose(Sizes("small", 1, 1, 512 * MIB, 1, 1), Ledger())
    host = COMPARISON.software(rig, 0, Random(0), pages="two_fault", bulk=False, image=bytes(PAGE))
    inline(host.perform(op.BootHost()), rig.below(0))
    refused = 0
    for guest in range(guests):
        try:
            for operation in (op.Create(guest, 8, 1), op.Load(guest)):
                inline(host.perform(operation), rig.below(0))
        except OperationFailed:
            refused += 1
    assert refused == (0 if fits else 1), "and the run would have found the same"


def test_an_image_is_whole_pages() -> None:
    made = COMPARISON.image(1, 3, None)
    assert len(made) == 3 * 4096 and COMPARISON.image(1, 3, None) == made != COMPARISON.image(2, 3, None)
    assert COMPARISON.image(1, 3, b"x") == b"x".ljust(4096, b"\0")
    assert COMPARISON.unpack_image(COMPARISON.pack_image(made)) == made
    with pytest.raises(ValueError, match="no image"):
        COMPARISON.unpack_image(b"x")


def test_every_ultracall_has_a_price() -> None:
    assert set(COMPARISON.prices.calls) == {spec.name for spec in CALLS.values()}


@pytest.mark.parametrize("memory", [MIB, 64 * MIB + 4096])
def test_hosts_have_whole_pages_and_enough_of_them(memory: int) -> None:
    with pytest.raises(ValueError, match="allowed are whole pages, at least"):
        COMPARISON.compose(Sizes("small", 1, 1, memory, 1, 1), Ledger())


def test_a_host_in_another_process_has_as_many_cpus_as_it_is_told_and_asks_by_message() -> None:
    rig = COMPARISON.compose(Sizes("small", 1, 1, 64 * MIB, 3, 1), Ledger())
    level = rig.seats[0].level
    linked = COMPARISON.linked(level, 3)
    assert [cpu.number for cpu in linked.cpus] == [0, 1, 2] and linked.size == level.size
    step = linked.new_lpid(linked.cpus[2])
    asked = next(step)
    assert isinstance(asked, Issue) and asked.arguments[0].cpu.number == 2
