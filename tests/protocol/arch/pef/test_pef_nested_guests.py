"""A guest of a host that is a hypervisor itself: its two vcpus run and drop the same nested guests."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from two_cpus import TwoCpus

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.cpu import DATA_STORAGE, HCALL, gprs
from protocol.arch.pef.guest import GuestStep, Hypercall, Touch, Ultracall
from protocol.arch.pef.kvm import pages, vmm
from protocol.arch.pef.kvm.frames import KVM
from protocol.arch.pef.profiles import MIB, V1, V2
from protocol.arch.pef.radix import HR
from protocol.arch.pef.status import NOT_AVAILABLE, PARAMETER, signed
from protocol.arch.pef.tables import PAGE

NESTED_LPID, TABLE, REGISTERS_AT, ROOT, MEMORY = 5, PAGE // 2, MIB, 2 * MIB, 4 * MIB
VALID, LEAF, MAPPED = 1 << 63, 1 << 62, 32
SET_TABLE = Hypercall(tuple(gprs(r3=hcalls.SET_PARTITION_TABLE, r4=TABLE)))
DROP_TABLE = Hypercall(tuple(gprs(r3=hcalls.SET_PARTITION_TABLE, r4=0)))


def enter_nested(*steps: GuestStep) -> Hypercall:
    return Hypercall(tuple(gprs(r3=hcalls.ENTER_NESTED, r4=0, r5=REGISTERS_AT)), steps)


def with_a_nested_guest(host: TwoCpus) -> None:
    """Its state is at 0, its entry in a partition table behind that; its first 32 pages are mapped."""
    assert vmm.enable_cap(host.kvm, host.vm, vmm.NESTED_HV) == 0
    head = struct.pack(">QII", 2, NESTED_LPID, 0)
    words = {
        0: head + bytes(9 * 8) + b"\x7f" + bytes(7),
        TABLE + 16 * NESTED_LPID: word(HR | 0xA0 | ROOT | 13),
    }
    at = ROOT
    for place, bits in enumerate((9, 9, 5)):
        table = ROOT + (place + 1) * PAGE
        words[at] = word(VALID | table | bits)
        at = table
    for page in range(MAPPED):
        words[at + 8 * page] = word(VALID | LEAF | MEMORY + page * PAGE | 7)
    for where, data in words.items():
        assert host.alone(pages.store(host.kvm, host.cpus[0], host.vm, where, data)) is None
    host.vm.vcpus[0].program.steps.append(SET_TABLE)
    host.alone(host.enter(0))


def word(value: int) -> bytes:
    return value.to_bytes(8, "big")


def dropped(host: TwoCpus, step: Hypercall, ahead: int = 0) -> dict[str, Any]:
    """What comes of a step of one vcpu beside the other one's, which drops all nested guests."""
    first, second = (vcpu.program for vcpu in host.vm.vcpus.values())
    first.collect()
    first.steps.append(step)
    second.steps.append(DROP_TABLE)
    lefts = host.both(host.enter(0), host.enter(1), ahead)
    assert [left.trap for left in lefts] == [0x980, 0x980] and second.collect()[-1]["r3"] == "0x0"
    assert not host.kvm.shadows and not host.vm.nesting.vms and not host.rig.machines[0].svms
    assert set(host.nested.records) == {host.vm.lpid} and host.rig.leaks() == []
    return first.collect()[-1]


@pytest.mark.parametrize("api", [V1, V2])
def test_a_hypervisor_that_drops_its_guests_while_one_runs_keeps_nothing_of_it(api: str) -> None:
    """The ultravisor refused to end an SVM with a return on its way in, and KVM forgot it all the same."""
    answers = set()
    for seed in range(12):
        host = TwoCpus(seed, 1, api)
        with_a_nested_guest(host)
        secure = enter_nested(Ultracall(tuple(gprs(r3=front.ESM, r4=PAGE, r5=PAGE))))
        host.vm.vcpus[0].program.steps.append(secure)
        host.alone(host.enter(0))
        assert host.kvm.shadows and host.rig.machines[0].svms
        answers.add(dropped(host, enter_nested())["r3"])
    assert answers == {hex(NOT_AVAILABLE), hex(HCALL)}, "before it goes in, and beside that"


def test_a_nested_guest_that_is_dropped_while_it_runs_reaches_no_memory_any_more() -> None:
    outcomes = []
    for ahead in range(0, 60, 3):
        host = TwoCpus(ahead)
        with_a_nested_guest(host)
        held = host.kvm.frames.use.tolist().count(KVM)
        done = dropped(host, enter_nested(*(Touch(page * PAGE) for page in range(MAPPED))), ahead)
        outcomes.append((signed(int(done["r3"], 16)), len(done.get("steps", ()))))
        assert host.kvm.frames.use.tolist().count(KVM) <= held + MAPPED, "its table is free again"
    assert {code for code, _ in outcomes} <= {NOT_AVAILABLE, PARAMETER, DATA_STORAGE}
    assert len({steps for _, steps in outcomes}) > 3, "it comes to a page that it has no more"


def test_invalidations_beside_a_drop_end_with_what_they_are_about() -> None:
    invalidated = set()
    for seed in range(8):
        host = TwoCpus(seed)
        with_a_nested_guest(host)
        host.vm.vcpus[0].program.steps.append(enter_nested(*(Touch(page * PAGE) for page in range(MAPPED))))
        host.alone(host.enter(0))
        before = host.rig.ledger.flat().get("exits.1.tlb_invalidate.kernel", 0)
        everything = Hypercall(tuple(gprs(r3=hcalls.TLB_INVALIDATE, r4=2 << 18 | 1 << 16, r5=0, r6=3 << 10)))
        assert dropped(host, everything)["r3"] == "0x0"
        invalidated.add(host.rig.ledger.flat().get("exits.1.tlb_invalidate.kernel", 0) - before)
    assert len(invalidated) > 1 and max(invalidated) <= MAPPED, invalidated


@pytest.mark.parametrize("api", [V1, V2])
def test_two_vcpus_that_run_the_same_nested_guest_first_run_one(api: str) -> None:
    """Each made a VM for it, and the first one was nobody's."""
    for seed in range(10):
        host = TwoCpus(seed, 1, api)
        with_a_nested_guest(host)
        for vcpu in host.vm.vcpus.values():
            vcpu.program.steps.append(enter_nested())
        host.both(host.enter(0), host.enter(1))
        (made,) = host.vm.nesting.vms.values()
        assert host.kvm.shadows == {made.shadow}
        assert set(host.nested.records) == {host.vm.lpid, made.shadow}
        assert set(host.nested.ids) == (set() if api == V1 else {host.vm.lpid, made.shadow})
