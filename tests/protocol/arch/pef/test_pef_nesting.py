"""What a guest host's hypervisor does: shadow tables, moved frames, quotas, death."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import LPID, Bench, esm_step, share_step, store

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.audit import audit
from protocol.arch.pef.compose import _scattered, compose
from protocol.arch.pef.cpu import Entry, Exit, gprs
from protocol.arch.pef.guest import Hypercall, Program, Touch
from protocol.arch.pef.kvm import pages, vmm
from protocol.arch.pef.kvm.frames import GIVEN
from protocol.arch.pef.machine import Machine
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.nesting.records import SMALL_PAGES, Lpids
from protocol.arch.pef.profiles import MIB, PROFILES
from protocol.arch.pef.status import AUTHORITY, NO_MEM, PARAMETER, PERMISSION, SUCCESS, signed
from protocol.arch.pef.tables import ORDER, PAGE, Page
from protocol.effects import Fault, run
from protocol.memory.pool import Pool

GFN = 0x40
GPA = GFN * PAGE
DEPTHS = (1, 2)


def nested_of(bench: Bench) -> Nested:
    level = bench.seat.level
    assert isinstance(level, Nested)
    return level


def machine_of(bench: Bench) -> Machine:
    machine: Machine = bench.rig.machines[0]
    return machine


def move(bench: Bench, page: int) -> bool:
    """The level below puts a fresh frame under a page of the host's."""
    nested = nested_of(bench)
    old = nested.frame_below(page * SMALL_PAGES)
    moved = run(nested.moves(page, nested.below.pool.take_run(SMALL_PAGES)))
    nested.below.memory.clear(range(old, old + SMALL_PAGES))
    return moved


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_normal_guest_runs_on_a_shadow_table(depth: int) -> None:
    bench = Bench(depth)
    vm = bench.vm()
    assert bench.results(vm, store(GPA, b"hello"), Touch(GPA))[1] == {"value": b"hello".hex() + "000000"}
    record = nested_of(bench).records[LPID]
    assert record.mapped == {GFN: vm.slots[0].frame(GFN) // PAGE}
    before = bench.ledger.flat()["exits"]
    bench.enter(vm, Touch(GPA), Touch(GPA))
    grown = bench.ledger.flat()["exits"] - before
    assert grown == {1: 2, 2: 4}[depth]  # the entry, its exit; and what L1 does for that at depth 2


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_frame_that_moves_below_a_normal_guest_is_found_again_without_telling_the_host(depth: int) -> None:
    bench = Bench(depth)
    vm = bench.vm()
    bench.enter(vm, store(GPA, b"hello"))
    page = vm.slots[0].frame(GFN) // PAGE
    assert move(bench, page)
    before = dict(bench.kvm.counted()["ucalls"])
    assert bench.results(vm, Touch(GPA))[-1] == {"value": b"hello".hex() + "000000"}
    assert bench.kvm.counted()["ucalls"] == before
    assert bench.kvm.level.read(page * PAGE, 5) == b"hello"


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_frame_that_moves_below_a_shared_page_is_bound_again_without_telling_the_host(depth: int) -> None:
    bench = Bench(depth)
    vm = bench.svm()
    bench.enter(vm, share_step(GFN), store(GPA, b"shared"))
    page = vm.slots[0].frame(GFN) // PAGE
    assert nested_of(bench).records[LPID].bound[GFN] == page
    assert move(bench, page)
    machine = machine_of(bench)
    (svm,) = machine.svms.values()
    frame = svm.frame(GFN)
    assert frame is not None and machine.secure.page(frame) is Page.SHARED_INV
    counted = bench.kvm.counted()
    assert bench.results(vm, Touch(GPA), store(GPA, b"again "))[-2] == {"value": b"shared".hex() + "0000"}
    now = bench.kvm.counted()
    assert now["reflections"]["0x980"] == counted["reflections"]["0x980"] + 1
    assert now["reflections"].get("0xe00", 0) == counted["reflections"].get("0xe00", 0)
    assert now["ucalls"]["UV_PAGE_IN"] == counted["ucalls"]["UV_PAGE_IN"]
    assert machine.secure.page(frame) is Page.SHARED
    assert bench.kvm.level.read(page * PAGE, 6) == b"again "


def test_a_host_that_invalidates_a_page_that_moved_sees_the_interrupt_itself() -> None:
    bench = Bench(1)
    vm = bench.svm()
    bench.enter(vm, share_step(GFN), store(GPA, b"shared"))
    move(bench, vm.slots[0].frame(GFN) // PAGE)
    assert run(bench.kvm.ucall(bench.cpu, front.PAGE_INVAL, LPID, GPA, ORDER)) == SUCCESS
    assert bench.results(vm, Touch(GPA))[-1] == {"value": b"shared".hex() + "0000"}
    assert bench.kvm.counted()["reflections"]["0xe00"] == 1


@pytest.mark.parametrize("depth", DEPTHS)
def test_secure_memory_of_a_guest_host_is_a_quota(depth: int) -> None:
    bench = Bench(depth)
    bench.svm()  # 4 units of 96
    call = bench.kvm.ucall
    assert run(call(bench.cpu, front.REGISTER_MEM_SLOT, LPID, 1 << 30, 92 * 2 * MIB, 0, 1)) == SUCCESS
    before = bench.ledger.flat()["te_issued"]
    assert run(call(bench.cpu, front.REGISTER_MEM_SLOT, LPID, 1 << 32, 2 * MIB, 0, 2)) == PARAMETER
    assert bench.ledger.flat()["te_issued"] == before  # nothing was asked of the ultravisor
    assert run(call(bench.cpu, front.UNREGISTER_MEM_SLOT, LPID, 1)) == SUCCESS
    assert run(call(bench.cpu, front.REGISTER_MEM_SLOT, LPID, 1 << 32, 2 * MIB, 0, 2)) == SUCCESS


@pytest.mark.parametrize("number", sorted(front.FOR_HOST - {front.RETURN, front.WRITE_PATE}))
def test_a_foreign_lpid_answers_as_an_unknown_one_and_nothing_is_issued(number: int) -> None:
    rig = compose(PROFILES["small"], 1, 2, 64 * MIB, 1, 7)
    mine, theirs = (seat.level for seat in rig.seats)
    make = gprs(r3=front.WRITE_PATE, r4=LPID, r5=1 << 63, r6=0)
    run(theirs.call(rig.seats[1].cpus[0], make))
    before = rig.ledger.flat()["te_issued"]
    answers = []
    for lpid in (LPID, 4000):
        gpr = gprs(r3=number, r4=lpid, r5=0x200000, r6=0, r8=16)
        if number == front.PAGE_INVAL:
            gpr[6] = 16
        out = run(mine.call(rig.seats[0].cpus[0], gpr))
        assert isinstance(out, list)
        answers.append(signed(out[3]))
    assert answers[0] == answers[1]
    assert rig.ledger.flat()["te_issued"] == before


def test_shadow_lpids_are_the_hosts_own() -> None:
    rig = compose(PROFILES["small"], 1, 2, 64 * MIB, 1, 7)
    shadows = []
    for seat in rig.seats:
        run(seat.level.call(seat.cpus[0], gprs(r3=front.WRITE_PATE, r4=1, r5=1 << 63, r6=5)))
        level = seat.level
        assert isinstance(level, Nested)
        shadows.append(level.records[1].shadow)
    assert shadows == [1, 4096]
    assert [rig.machines[0].pate(shadow)[1] for shadow in shadows] == [5, 5]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("kind", ["reset", "kill"])
@pytest.mark.parametrize("when", ["normal", "transient", "secure", "killed"])
def test_a_host_that_goes_leaves_nothing_behind(depth: int, kind: str, when: str) -> None:
    bench = Bench(depth)
    vm = bench.vm()
    areas = bench.load(vm)
    if when == "transient":
        vm.vcpus[0].stop = frozenset({"H_SVM_TPM_COMM"})
    if when != "normal":
        bench.enter(vm, esm_step(areas))
    if when == "killed":
        bench.enter(vm, Hypercall(tuple(gprs(r3=0xF000))))
    nested = nested_of(bench)
    free = nested.below.pool.free
    run(bench.rig.reset(0, "system") if kind == "reset" else bench.rig.kill(0))
    bench.kvm.restart(bench.seat.level)
    machine = machine_of(bench)
    assert not machine.svms and machine.secure.free_units == machine.secure.units
    assert nested.lpids.free == nested.lpids.share
    for lpid in range(1, PROFILES["small"].lpids):
        assert machine.pate(lpid) == (0, 0) or depth > 1
    assert not nested.records and nested.book.records() == {}
    assert audit(bench.rig, [bench.kvm])["leaks"] == []
    assert nested.below.pool.free > free  # tables are back, and at a death all memory was
    again = bench.svm()
    assert bench.results(again, Touch(0))[-1] == {"value": "00" * 8}


def test_a_host_that_takes_a_seat_has_the_ids_that_the_last_one_gave_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(1)
    bench.svm()
    share = nested_of(bench).lpids.share
    monkeypatch.setattr(Lpids, "give", lambda *_: None)
    run(bench.rig.kill(0))
    assert bench.rig.remains()["lpids"] == 1
    assert bench.rig.seats[0].level.lpids.free == share - 1


def test_memory_of_a_host_that_ended_is_in_one_place() -> None:
    bench = Bench(1)
    level = nested_of(bench)
    free, size = level.below.pool.free, level.slots.size
    run(bench.rig.end(0, "l1_crash"))
    assert level.below.pool.free == free + size
    assert not (level.slots >= 0).any()


def test_books_follow_what_lives() -> None:
    bench = Bench(1)
    book = nested_of(bench).book
    vm = bench.svm()
    assert book.records() == {"vm_map": 1, "te_object": 2, "vcpu_map": 1, "native_page": 8}
    bench.enter(vm, share_step(GFN, 2))
    assert book.records()["native_page"] == 10
    bench.enter(vm, share_step(GFN, 2))
    assert book.records()["native_page"] == 10
    assert run(vmm.svm_off(bench.kvm, bench.cpu, vm)) == 0
    assert book.records() == {"vm_map": 1}
    assert run(vmm.close(bench.kvm, bench.cpu, vm)) == 0
    assert book.records() == {}


def test_the_ultravisor_as_it_is_refuses_a_guest_host() -> None:
    """Model (a): nothing is reflected, so a guest host has no way to the ultravisor."""
    bench = Bench(1, reflected=False)
    before = bench.ledger.flat().get("exits", 0)
    for number in sorted(front.FOR_HOST):
        out = run(bench.seat.level.call(bench.cpu, gprs(r3=number, r4=1)))
        assert isinstance(out, list) and signed(out[3]) == PERMISSION
    assert bench.ledger.flat().get("exits", 0) == before  # and the level below never sees it


@pytest.mark.parametrize("step", [Touch(GPA), store(GPA, b"hello")])
def test_a_machine_check_of_a_table_that_leads_out_of_memory_is_the_hosts(step: Touch) -> None:
    answers: list[Any] = []
    for depth in (0, 1, 2):
        bench = Bench(depth)
        vm = bench.vm()
        vm.tree.map(GPA, 1 << 40)
        left = bench.enter(vm, step)
        answers.append((left.trap, left.srr0, left.hsrr1, left.asdr, left.hdar))
    assert answers[0][0] == 0x200 and answers[0] == answers[1] == answers[2]


# -- version 2 of the nesting API: the level below picks the id ----------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_guest_id_is_the_lpid_down_to_the_machine(depth: int) -> None:
    bench = Bench(depth, api="v2")
    ret, lpid = run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True))
    assert ret == 0
    machine = machine_of(bench)
    assert machine.pate(lpid) != (0, 0)
    for level in (*bench.rig.levels[1:], bench.seat.level):
        assert isinstance(level, Nested) and level.records[lpid].shadow == lpid
    vm = bench.kvm.vms[lpid]
    assert run(vmm.set_memory(bench.kvm, bench.cpu, vm, 0, 0, 8 * MIB)) == 0
    assert vmm.create_vcpu(vm, 0) == 0 and vmm.enable_cap(bench.kvm, vm, vmm.SECURE_GUEST) == 0
    bench.ledger.reset()
    bench.esm(vm, bench.load(vm))
    flat = bench.ledger.flat()
    assert flat[f"te_calls.UV_REGISTER_MEM_SLOT.memory.passed.{depth}"] == 1
    assert flat[f"te_calls.UV_PAGE_IN.memory.modified.{depth}"] == 14
    assert "copied_bytes.hv_guest_state" not in flat and flat["copied_bytes.guest_state_buffer"] > 0
    assert list(machine.svms) == [lpid]
    assert run(vmm.close(bench.kvm, bench.cpu, vm)) == 0
    nested = nested_of(bench)
    assert not nested.ids and nested.book.records() == {} and machine.pate(lpid) == (0, 0)
    assert run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True)) == (0, lpid)


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_id_that_was_not_given_is_unknown(depth: int) -> None:
    bench = Bench(depth, api="v2")
    before = bench.ledger.flat().get("te_issued", 0)
    assert run(bench.kvm.ucall(bench.cpu, front.WRITE_PATE, 77, 1 << 63, 0)) == PARAMETER
    assert run(bench.kvm.ucall(bench.cpu, front.SVM_TERMINATE, 77)) == PARAMETER
    entry = Entry(77, 0, gprs(), 0x100, 0, Program())
    left = run(bench.seat.level.enter(bench.cpu, entry))
    assert isinstance(left, Exit) and left.trap == 0x980 and not nested_of(bench).records
    assert bench.ledger.flat().get("te_issued", 0) == before


@pytest.mark.parametrize("depth", DEPTHS)
def test_ids_of_a_host_that_goes_are_free_again(depth: int) -> None:
    bench = Bench(depth, api="v2")
    made = [run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True))[1] for _ in range(3)]
    run(bench.rig.kill(0))
    bench.kvm.restart(bench.seat.level)
    for level in (*bench.rig.levels[1:], bench.seat.level):
        assert isinstance(level, Nested) and not level.ids and not level.records
    assert all(machine_of(bench).pate(lpid) == (0, 0) for lpid in made)
    again = [run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True))[1] for _ in range(3)]
    assert len(set(again)) == 3


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_vm_whose_id_is_given_back_ends_with_it(depth: int) -> None:
    """A fuzzer found that its record stayed, at every level."""
    bench = Bench(depth, api="v2")
    _, lpid = run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True))
    run(bench.seat.level.give_lpid(bench.cpu, lpid))
    for level in (*bench.rig.levels[1:], bench.seat.level):
        assert isinstance(level, Nested) and not level.ids and not level.records
    assert machine_of(bench).pate(lpid) == (0, 0)


def test_an_lpid_behind_the_partition_table_has_no_entry_and_nothing_is_translated() -> None:
    bench = Bench(0)
    entry = Entry(1 << 19, 0, gprs(), 0x100, 0, Program(deque([Touch(GPA)])))
    left = run(bench.seat.level.enter(bench.cpu, entry))
    assert isinstance(left, Exit) and left.trap == 0xE00  # a storage interrupt of the hypervisor's


# -- limits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, *DEPTHS])
def test_what_lies_behind_the_memory_is_a_machine_check(depth: int) -> None:
    level = Bench(depth).seat.level
    for address in (level.size, level.size - 4, 1 << 60):
        for fault in (level.read(address, 8), level.write(address, bytes(8))):
            assert isinstance(fault, Fault) and (fault.code, fault.name) == (0x200, "machine check")
            assert fault.address >= level.size - 4
    assert level.write(level.size - 8, b"the last") is None
    assert level.read(level.size - 8, 8) == b"the last"


def test_a_host_without_memory_gives_the_id_of_a_vm_back() -> None:
    """It was kept: a host that tries often enough had used up the ids of the level below."""
    bench = Bench(1, api="v2")
    nested = nested_of(bench)
    bench.kvm.frames.mark(0, nested.size, GIVEN)
    assert run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True))[0] == vmm.ENOMEM
    assert not nested.ids and nested.book.records() == {}


def a_hypervisor_that_enters(bench: Bench, memory: int) -> list[int]:
    """What a VM is answered that sets its table and runs a guest, with no more memory than that."""
    vm = next(iter(bench.kvm.vms.values()))
    assert run(vmm.set_memory(bench.kvm, bench.cpu, vm, 0, 0, MIB)) == 0
    assert vmm.create_vcpu(vm, 0) == 0 and vmm.enable_cap(bench.kvm, vm, vmm.NESTED_HV) == 0
    entry = (5).to_bytes(4, "big")  # a guest state of version 2 for LPID 5, at 0; the table at half a page
    state = bytes(7) + b"\2" + entry + bytes(4)
    assert run(pages.store(bench.kvm, bench.cpu, vm, 0, state)) is None
    table = PAGE // 2
    assert run(pages.store(bench.kvm, bench.cpu, vm, table + 5 * 16, b"\x80" + bytes(15))) is None
    bench.kvm.frames.mark(memory, nested_of(bench).size - memory, GIVEN)
    done = bench.results(
        vm,
        Hypercall(tuple(gprs(r3=hcalls.SET_PARTITION_TABLE, r4=table))),
        Hypercall(tuple(gprs(r3=hcalls.ENTER_NESTED, r4=0, r5=1024))),
    )
    return [signed(int(step["r3"], 16)) for step in done]


def test_a_nested_vm_without_memory_gives_its_id_back() -> None:
    bench = Bench(1, api="v2")
    _, lpid = run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True))
    assert a_hypervisor_that_enters(bench, MIB) == [SUCCESS, PARAMETER]
    assert set(nested_of(bench).ids) == {lpid} and not bench.kvm.shadows


def test_a_nested_vm_for_which_no_guest_id_is_left_is_refused() -> None:
    bench = Bench(1, api="v2", profile=replace(PROFILES["small"], lpids=2))
    _, lpid = run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True))
    assert a_hypervisor_that_enters(bench, 32 * MIB) == [SUCCESS, PARAMETER]
    assert set(nested_of(bench).ids) == {lpid} and not bench.kvm.shadows
    assert nested_of(bench).lpids.free == 0


def test_a_nested_guest_whose_state_goes_away_while_it_runs_is_answered_so() -> None:
    """Another thread of the VMM takes the slot in which its hypervisor keeps its registers."""
    bench = Bench(0)
    vm = bench.vm(MIB)
    kvm, cpu, machine = bench.kvm, bench.cpu, machine_of(bench)
    assert vmm.enable_cap(kvm, vm, vmm.NESTED_HV) == 0
    assert run(vmm.set_memory(kvm, cpu, vm, 1, 2 * MIB, MIB)) == 0
    state = bytes(7) + b"\2" + (5).to_bytes(4, "big") + bytes(4) + bytes(9 * 8) + b"\x7f" + bytes(7)
    assert run(pages.store(kvm, cpu, vm, 0, state)) is None
    assert run(pages.store(kvm, cpu, vm, PAGE // 2 + 5 * 16, b"\x80" + bytes(15))) is None
    entered = machine.enter

    def while_it_runs(its: Any, entry: Entry) -> Any:
        left = yield from entered(its, entry)
        if entry.lpid in kvm.shadows:
            assert (yield from vmm.set_memory(kvm, its, vm, 1, 2 * MIB, 0)) == 0
        return left

    machine.enter = while_it_runs  # type: ignore[method-assign]
    table, asks = (
        Hypercall(tuple(gprs(r3=number, r4=at, r5=2 * MIB)))
        for number, at in ((hcalls.SET_PARTITION_TABLE, PAGE // 2), (hcalls.ENTER_NESTED, 0))
    )
    done = bench.results(vm, table, asks)
    assert [signed(int(step["r3"], 16)) for step in done] == [SUCCESS, AUTHORITY]


def test_a_host_that_has_used_its_lpids_has_none_for_a_vm() -> None:
    bench = Bench(0)
    bench.kvm.shadows.update(bench.kvm.lpids)
    assert run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True)) == (vmm.ENOSPC, 0)
    assert run(vmm.create_vm(bench.kvm, bench.cpu, LPID, tpm_proxy=True)) == (vmm.EEXIST, LPID)
    bench.kvm.shadows.discard(9)
    bench.kvm.gives_back(9)
    assert run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True)) == (0, 9)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_host_that_has_used_its_guest_ids_up_is_told_so(depth: int) -> None:
    """It picked one itself, which the level below refused: that VM could never run."""
    bench = Bench(depth, api="v2", profile=replace(PROFILES["small"], lpids=3))
    made = []
    while (answer := run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True)))[0] == 0:
        made.append(answer[1])
        assert machine_of(bench).pate(answer[1]) != (0, 0)
    assert made and answer == (vmm.ENOSPC, 0) and set(bench.kvm.vms) == set(made)
    assert set(nested_of(bench).ids) == set(made)
    assert run(vmm.close(bench.kvm, bench.cpu, bench.kvm.vms[made[0]])) == 0
    assert run(vmm.create_vm(bench.kvm, bench.cpu, None, tpm_proxy=True)) == (0, made[0])


def test_shadow_lpids_run_out_and_nothing_of_the_last_vm_is_kept() -> None:
    """Its shadow table was."""
    bench = Bench(1, profile=replace(PROFILES["small"], lpids=4))
    nested = nested_of(bench)
    call = bench.kvm.ucall
    for lpid in range(3):
        assert run(call(bench.cpu, front.WRITE_PATE, lpid, 1 << 63, 0)) == SUCCESS
    free = nested.below.pool.free
    assert run(call(bench.cpu, front.WRITE_PATE, 3, 1 << 63, 0)) == NO_MEM
    assert nested.below.pool.free == free and len(nested.records) == 3
    assert run(call(bench.cpu, front.WRITE_PATE, 2, 0, 0)) == SUCCESS
    assert run(call(bench.cpu, front.WRITE_PATE, 3, 1 << 63, 0)) == SUCCESS


def test_a_guest_whose_shadow_table_has_no_memory_loses_its_time_slice_and_goes_on() -> None:
    bench = Bench(1)
    vm = bench.vm()
    pool = nested_of(bench).below.pool
    taken = pool.take_many(pool.free)
    left = bench.enter(vm, store(GPA, b"later"), Touch(GPA))
    assert (left.trap, left.asdr, vm.vcpus[0].program.collect()) == (0x980, 0, [])
    pool.give(taken)
    assert bench.results(vm)[1] == {"value": b"later".hex() + "000000"}


# -- what moves below ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_page_that_a_slot_took_with_it_may_move(depth: int) -> None:
    """The ultravisor had forgotten it, the level below had not, and could never move it again."""
    bench = Bench(depth)
    vm = bench.svm()
    nested = nested_of(bench)
    bench.enter(vm, share_step(GFN))
    page = vm.slots[0].frame(GFN) // PAGE
    assert nested.records[LPID].bound[GFN] == page
    assert run(bench.kvm.ucall(bench.cpu, front.UNREGISTER_MEM_SLOT, LPID, 0)) == SUCCESS
    assert nested.records[LPID].bound == {} and "native_page" not in nested.book.records()
    assert move(bench, page)


def test_a_page_that_a_call_names_or_the_ultravisor_does_not_let_go_stays_where_it_is() -> None:
    bench = Bench(1)
    vm = bench.vm()
    nested = nested_of(bench)
    vm.tpm_proxy = False
    vm.vcpus[0].stop = frozenset({"H_SVM_INIT_ABORT"})
    bench.enter(vm, esm_step(bench.load(vm)))  # an SVM that is aborted answers U_STATE
    record = nested.records[LPID]
    gfn, page = next(iter(record.bound.items()))
    frame = nested.frame_below(page * SMALL_PAGES)
    target = nested.below.pool.take_run(SMALL_PAGES)
    assert not run(nested.moves(page, target))
    assert gfn not in record.lost and nested.frame_below(page * SMALL_PAGES) == frame
    assert nested._holder_of(0) is None, "nobody has the first page"
    nested.pin(0)
    assert not run(nested.moves(0, target))
    nested.unpin(0)
    assert run(nested.moves(0, target)) and nested.frame_below(0) == target


def test_a_host_is_put_together_from_pieces_where_no_run_is_left() -> None:
    pool = Pool(0, 8 * SMALL_PAGES)
    firsts = [pool.take_run(SMALL_PAGES) for _ in range(8)]
    for first in firsts[::2]:
        pool.give_run(first, SMALL_PAGES)
    frames = _scattered(pool, 4, Random(1)).reshape(4, SMALL_PAGES)
    assert sorted(frames[:, 0].tolist()) == sorted(firsts[::2]) and pool.free == 0
    assert (frames - frames[:, :1] == range(SMALL_PAGES)).all(), "each page is in one piece"


def test_each_of_a_guests_pages_may_move() -> None:
    bench = Bench(1)
    vm = bench.vm()
    for place in range(3):
        bench.enter(vm, store(GPA + place * PAGE, b"page %d" % place))
    held = [vm.slots[0].frame(GFN + place) // PAGE for place in range(3)]
    for page in reversed(held):
        assert move(bench, page)
    assert nested_of(bench).records[LPID].mapped == {}
    done = bench.results(vm, *(Touch(GPA + place * PAGE) for place in range(3)))
    assert [bytes.fromhex(each["value"])[:6] for each in done[-3:]] == [b"page 0", b"page 1", b"page 2"]


def test_a_page_that_moved_and_then_goes_is_taken_from_the_shadow_table_once() -> None:
    bench = Bench(1)
    vm = bench.vm()
    bench.enter(vm, store(GPA, b"hello"))
    assert move(bench, vm.slots[0].frame(GFN) // PAGE)
    unmapped = bench.ledger.flat()["table_ops.unmap"]
    assert run(vmm.set_memory(bench.kvm, bench.cpu, vm, 0, 0, 0)) == 0
    assert bench.ledger.flat()["table_ops.unmap"] == unmapped == 1
    assert nested_of(bench).records[LPID].mapped == {}


def test_a_return_that_names_no_program_goes_on_with_the_one_it_has() -> None:
    bench = Bench(0)
    vm = bench.svm()
    left = bench.enter(vm, Hypercall(tuple(gprs(r3=0x1234))), Touch(0))
    back = gprs(r0=7, r2=left.srr1, r3=front.RETURN)
    back[31] = left.gpr[31]
    out = run(bench.seat.level.call(bench.cpu, back, left.hsrr0))
    assert isinstance(out, Exit) and out.trap == 0x980
    *_, called, touched = vm.vcpus[0].program.collect()
    assert called["r3"] == "0x7" and touched == {"value": "00" * 8}


def test_a_level_needs_a_cpu_for_its_own_work() -> None:
    nested = nested_of(Bench(1))
    with pytest.raises(ValueError, match="1 CPUs of the level below: 2 are needed"):
        Nested(nested.below, [], nested.cpus, nested.cpus, {}, nested.profile, nested.ledger, range(1))
