"""Two CPUs of one guest host call about the same VM, and their messages overtake each other."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import LPID, esm_step, share_step, store
from two_cpus import TwoCpus

from protocol.arch.pef import front
from protocol.arch.pef.compose import compose
from protocol.arch.pef.cpu import HCALL, gprs
from protocol.arch.pef.guest import Hypercall, Touch
from protocol.arch.pef.hcalls import OS_TERM, RTAS
from protocol.arch.pef.kvm import HostStopped, vmm
from protocol.arch.pef.machine.lifecycle import ARGUMENTS
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.nesting.records import SMALL_PAGES
from protocol.arch.pef.profiles import MIB, PROFILES, V1, V2
from protocol.arch.pef.status import RETRY, SUCCESS
from protocol.arch.pef.tables import ORDER, PAGE
from protocol.crossing import inline
from protocol.effects import Step
from protocol.errors import OwnerGone

SEEDS = range(6)
FAR = 1 << 30
FRESH = 0x40  # a GFN that nobody has touched
UNKNOWN = 0x1234  # a hypercall that nobody answers


Calls = Callable[[int], tuple[int, ...]]
ABOUT_AN_SVM: dict[str, Calls] = {
    "register": lambda source: (front.REGISTER_MEM_SLOT, LPID, FAR, 2 * MIB, 0, 1),
    "unregister": lambda source: (front.UNREGISTER_MEM_SLOT, LPID, 0),
    "in": lambda source: (front.PAGE_IN, LPID, source, FRESH * PAGE, 0, ORDER),
    "out": lambda source: (front.PAGE_OUT, LPID, source, FRESH * PAGE, 0, ORDER),
    "terminate": lambda source: (front.SVM_TERMINATE, LPID),
    "write": lambda source: (front.WRITE_PATE, LPID, 0, 0),
}


@pytest.mark.parametrize("second", ABOUT_AN_SVM)
@pytest.mark.parametrize("first", ["register", "terminate", "out", "unregister"])
def test_whatever_two_calls_do_to_an_svm_the_books_agree(first: str, second: str) -> None:
    for seed in SEEDS:
        host = TwoCpus(seed).secure()
        source = host.kvm.frames.take()
        calls = [ABOUT_AN_SVM[name](source) for name in (first, second)]
        host.both(*(host.kvm.ucall(cpu, *call) for cpu, call in zip(host.cpus, calls, strict=True)))


TAKES_THE_BLOCK: dict[str, Calls] = {
    "inval": lambda gfn: (front.PAGE_INVAL, LPID, gfn * PAGE, ORDER),
    "unregister": lambda gfn: (front.UNREGISTER_MEM_SLOT, LPID, 0),
}


@pytest.mark.parametrize("taken", TAKES_THE_BLOCK)
def test_an_svm_that_ends_itself_ends_its_host_alone_whatever_its_last_words_are_overtaken_by(
    taken: str,
) -> None:
    """The page with its last words was nobody's when they arrived, and their return stopped the machine."""
    overtaken = 0
    for seed in range(12):
        host = TwoCpus(seed).secure()
        (svm,) = host.rig.machines[0].svms.values()
        block = svm.shared[ARGUMENTS]
        words = b"".join(word.to_bytes(4, "big") for word in (OS_TERM, 1, 1, 0, 0))
        host.vm.vcpus[0].program.steps += [
            store(FRESH * PAGE, words),
            Hypercall(tuple(gprs(r3=RTAS, r4=FRESH * PAGE))),
        ]
        left, _ = host.both(host.enter(0), host.kvm.ucall(host.cpus[1], *TAKES_THE_BLOCK[taken](block)))
        if left.trap != HCALL or left.gpr[3] != RTAS:
            continue  # its host took the page before: it has none for its words
        overtaken += block not in host.nested.records[LPID].bound
        frame = host.vm.slots[0].frame(block)
        host.kvm.level.write(frame, bytes(PAGE))  # the page is the host's own again
        host.vm.vcpus[0].reply = {3: 0}
        with pytest.raises(HostStopped):
            host.alone(host.enter(0))
        assert host.nested.stopped and not host.rig.machines[0].stopped
    assert overtaken


@pytest.mark.parametrize("depth", [1, 2])
def test_a_host_cannot_take_the_last_words_of_its_svm_back_and_stop_the_level_below(depth: int) -> None:
    """Each level read them in the memory of the host, whose other CPUs may write there at any time."""
    overwritten = 0
    for seed in range(8):
        host = TwoCpus(seed, depth).secure()
        (svm,) = host.rig.machines[0].svms.values()
        words = b"".join(word.to_bytes(4, "big") for word in (OS_TERM, 1, 1, 0, 0))
        host.vm.vcpus[0].program.steps += [
            store(FRESH * PAGE, words),
            Hypercall(tuple(gprs(r3=RTAS, r4=FRESH * PAGE))),
        ]
        block = host.vm.slots[0].frame(svm.shared[ARGUMENTS])
        thread = host.crossing.start("0", host.enter(0), host.below)
        while not thread.done:
            host.crossing.hop()
            overwritten += host.nested.read(block, 4) != bytes(4)
            host.kvm.level.write(block, bytes(PAGE))
        host.vm.vcpus[0].reply = {3: 0}
        with pytest.raises(HostStopped):
            host.alone(host.enter(0))
        lower = host.rig.levels[1:]
        assert [level.stopped for level in (*lower, *host.rig.machines)] == [""] * depth
        assert host.nested.stopped
    assert overwritten


@pytest.mark.parametrize("seed", SEEDS)
def test_a_vm_that_ends_twice_ends_once(seed: int) -> None:
    host = TwoCpus(seed)
    free = host.nested.below.pool.free
    end = (front.WRITE_PATE, LPID, 0, 0)
    host.both(*(host.kvm.ucall(cpu, *end) for cpu in host.cpus))
    assert not host.nested.records and host.nested.book.records() == {}
    assert host.nested.below.pool.free > free
    lpids = host.nested.lpids
    assert lpids.free == len({lpids.take() for _ in range(lpids.free)}) == PROFILES["small"].lpids - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_two_vcpus_that_touch_the_same_fresh_page_see_one(seed: int) -> None:
    host = TwoCpus(seed)
    for vcpu in (0, 1):
        host.vm.vcpus[vcpu].program.steps += [
            store(FRESH * PAGE + 8 * vcpu, b"vcpu %d  " % vcpu),
            Touch(FRESH * PAGE + 8 * vcpu),
        ]
    lefts = host.both(host.enter(0), host.enter(1))
    assert [left.trap for left in lefts] == [0x980, 0x980]
    for vcpu in (0, 1):
        done = host.vm.vcpus[vcpu].program.collect()
        assert done[1] == {"value": (b"vcpu %d  " % vcpu).hex()}
    assert list(host.nested.records[LPID].mapped) == [FRESH]


@pytest.mark.parametrize("hops", range(12))
def test_an_svm_that_is_ended_in_its_transition_has_no_way_back_and_takes_nobody_with_it(hops: int) -> None:
    """The exit that was on its way up brought it back into the book, and its return stopped the machine."""
    host = TwoCpus(0)
    areas = host.alone(vmm.load(host.kvm, host.cpus[0], host.vm, MIB, 0x20000, 0, "", "two"))
    host.vm.vcpus[0].program.steps.append(esm_step(areas))
    host.crossing.start("0", host.enter(0), host.below)
    host.crossing.run(lambda: LPID in host.nested.records and host.nested.records[LPID].svm)
    for _ in range(hops):
        host.crossing.hop()
    record = host.nested.records[LPID]
    returning = record.returning
    status = host.alone(host.kvm.ucall(host.cpus[1], front.SVM_TERMINATE, LPID))
    assert status == (RETRY if returning else SUCCESS)
    with contextlib.suppress(HostStopped):
        host.crossing.run()
    machine = host.rig.machines[0]
    assert not machine.stopped and bool(machine.svms) == record.svm == bool(returning)
    if not returning:
        assert not record.open and host.nested.book.records() == {"vm_map": 1}


def test_an_svm_ends_before_its_vcpu_goes_in_or_behind_that_and_never_in_between() -> None:
    """Its return arrived where it was no more: the ultravisor panicked, and every other host stood still."""
    answers = set()
    for seed in range(24):
        host = TwoCpus(seed).secure()
        host.vm.vcpus[0].program.steps += [Touch(0), Hypercall(tuple(gprs(r3=UNKNOWN)))]
        host.crossing.start("0", host.enter(0), host.below)
        end = host.crossing.start("1", host.kvm.ucall(host.cpus[1], front.SVM_TERMINATE, LPID), host.below)
        while host.crossing.threads:
            with contextlib.suppress(HostStopped):
                host.crossing.run()
            host.crossing.threads = [] if end.done else [end]  # a host that is stopped does nothing more
        machine = host.rig.machines[0]
        assert not machine.stopped
        assert bool(machine.svms) == (end.value == RETRY)
        assert LPID not in host.nested.records or host.nested.records[LPID].svm
        answers.add((end.value, bool(host.nested.stopped)))
    assert answers == {(RETRY, False), (SUCCESS, False), (SUCCESS, True)}


@pytest.mark.parametrize("depth", [1, 2])
def test_an_id_that_is_given_back_beside_a_return_into_its_svm_takes_nobody_with_it(depth: int) -> None:
    """The return came where no SVM was any more: it stopped the level below, and every other host on it."""
    for seed in range(12):
        host = TwoCpus(seed, depth, V2).secure()
        lpid = host.vm.lpid
        host.vm.vcpus[0].program.steps += [Touch(0), Hypercall(tuple(gprs(r3=UNKNOWN)))]
        host.crossing.start("0", host.enter(0), host.below)
        gives = host.crossing.start("1", host.kvm.level.give_lpid(host.cpus[1], lpid), host.below)
        again = host.crossing.start("2", host.kvm.level.give_lpid(host.cpus[1], lpid), host.below)
        while host.crossing.threads:
            with contextlib.suppress(HostStopped):
                host.crossing.run()
            host.crossing.threads = [one for one in (gives, again) if not one.done]  # the host is stopped
        machine, levels = host.rig.machines[0], [*host.rig.levels[1:], host.nested]
        assert not machine.stopped and not any(level.stopped for level in levels[:-1])
        assert not machine.svms and machine.pate(lpid) == (0, 0)
        for level in levels:
            assert not level.records and not level.ids and level.book.records() == {}
        assert host.rig.remains()["lpids"] == 0
        assert host.rig.leaks() == []


ENDS_A_VM: dict[str, Callable[[TwoCpus], Step[Any]]] = {
    "terminate": lambda host: host.kvm.ucall(host.cpus[1], front.SVM_TERMINATE, host.vm.lpid),
    "write": lambda host: host.kvm.ucall(host.cpus[1], front.WRITE_PATE, host.vm.lpid, 0, 0),
    "give": lambda host: host.kvm.level.give_lpid(host.cpus[1], host.vm.lpid),
}


@pytest.mark.parametrize("api", [V1, V2])
@pytest.mark.parametrize("how", ENDS_A_VM)
def test_a_vm_that_ends_while_it_begins_to_be_secure_leaves_no_svm_behind(how: str, api: str) -> None:
    """Its LPID was free, and the ultravisor had an object for it that nobody ever ended."""
    for seed in range(16):
        host = TwoCpus(seed, 1, api)
        areas = host.alone(vmm.load(host.kvm, host.cpus[0], host.vm, MIB, 0x20000, 0, "", "two"))
        host.vm.vcpus[0].program.steps.append(esm_step(areas))
        host.vm.vcpus[0].stop = frozenset({"H_SVM_INIT_START"})
        host.crossing.start("0", host.enter(0), host.below)
        host.crossing.start("1", ENDS_A_VM[how](host), host.below)
        host.crossing.run()
        machine, nested = host.rig.machines[0], host.nested
        assert sorted(machine.svms) == sorted(one.shadow for one in nested.records.values() if one.svm)
        assert host.rig.leaks() == [], seed
        inline(host.rig.kill(0), host.below[1:])
        assert not machine.svms and host.rig.leaks() == []


def test_the_first_exit_of_an_svm_that_was_ended_meanwhile_is_not_noted() -> None:
    host = TwoCpus(0)
    machine = host.rig.machines[0]
    areas = host.alone(vmm.load(host.kvm, host.cpus[0], host.vm, MIB, 0x20000, 0, "", "two"))
    host.vm.vcpus[0].program.steps.append(esm_step(areas))
    host.crossing.start("0", host.enter(0), host.below)
    host.crossing.run(lambda: bool(machine.svms))  # its exit has not arrived
    assert host.alone(host.kvm.ucall(host.cpus[1], front.SVM_TERMINATE, LPID)) == SUCCESS
    with pytest.raises(HostStopped):  # KVM answers it, and there is no way back
        host.crossing.run()
    assert not machine.svms and not machine.stopped
    record = host.nested.records[LPID]
    assert not record.svm and not record.open and host.nested.book.records() == {"vm_map": 1}


def test_an_svm_that_begins_behind_the_end_of_another_may_be_ended_with_it_and_takes_nobody_with_it() -> None:
    """Its first exit was noted after it was ended, and its return stopped the level below."""
    stopped = 0
    for seed in range(40):
        host = TwoCpus(seed)
        areas = host.alone(vmm.load(host.kvm, host.cpus[0], host.vm, MIB, 0x20000, 0, "", "two"))
        for vcpu in host.vm.vcpus.values():
            vcpu.program.steps.append(esm_step(areas))
            vcpu.stop = frozenset({"H_SVM_INIT_START"})
        host.crossing.start("0", host.enter(0), host.below)
        host.crossing.start("1", _ends_and_begins(host), host.below)
        host.crossing.run()
        assert host.rig.leaks() == []
        for number, vcpu in host.vm.vcpus.items():
            vcpu.stop = frozenset()
            if not host.nested.stopped:
                with contextlib.suppress(HostStopped):
                    host.alone(host.enter(number))
        assert not host.rig.machines[0].stopped
        stopped += bool(host.nested.stopped)
        inline(host.rig.reset(0, "system"), host.below[1:])
        assert host.rig.leaks() == [] and not host.rig.machines[0].svms
    assert stopped


def _ends_and_begins(host: TwoCpus) -> Step[None]:
    yield from host.kvm.ucall(host.cpus[1], front.SVM_TERMINATE, host.vm.lpid)
    yield from host.enter(1)


def test_an_svm_that_is_known_lives_on_when_an_exit_of_the_one_before_it_arrives() -> None:
    host = TwoCpus(0)
    machine = host.rig.machines[0]
    areas = host.alone(vmm.load(host.kvm, host.cpus[0], host.vm, MIB, 0x20000, 0, "", "two"))
    for vcpu in host.vm.vcpus.values():
        vcpu.program.steps.append(esm_step(areas))
        vcpu.stop = frozenset({"H_SVM_INIT_START"})
    host.crossing.start("0", host.enter(0), host.below)
    host.crossing.run(lambda: bool(machine.svms))  # its exit has not arrived
    host.alone(_ends_and_begins(host))
    (second,) = machine.svms.values()
    host.crossing.run()
    assert list(machine.svms.values()) == [second] and host.nested.records[LPID].svm
    host.vm.vcpus[1].stop = frozenset()
    host.alone(host.enter(1))
    assert host.vm.secure and host.rig.leaks() == []


def test_an_svm_may_end_while_a_page_of_its_that_moved_is_bound_again() -> None:
    """The level below went back into it when that was done, and the machine stopped."""
    answers = []
    for hops in range(16):
        host = TwoCpus(0).secure()
        nested, machine = host.nested, host.rig.machines[0]
        host.vm.vcpus[0].program.steps += [share_step(FRESH), Touch(FRESH * PAGE)]
        host.alone(host.enter(0))
        page = host.vm.slots[0].frame(FRESH) // PAGE
        fresh = nested.below.pool.take_run(SMALL_PAGES)
        assert inline(nested.moves(page, fresh), host.below[1:])
        host.vm.vcpus[0].program.steps.append(Touch(FRESH * PAGE))
        thread = host.crossing.start("0", host.enter(0), host.below)
        for _ in range(hops):
            if not thread.done:
                host.crossing.hop()
        answers.append(host.alone(host.kvm.ucall(host.cpus[1], front.SVM_TERMINATE, LPID)))
        with contextlib.suppress(HostStopped):
            host.crossing.run()
        assert not machine.stopped and bool(machine.svms) == (answers[-1] == RETRY)
    changes = sum(one != other for one, other in itertools.pairwise(answers))
    assert changes == 4 and answers[0] == SUCCESS, "not while it goes in, and not while it goes in again"


def test_an_id_whose_host_ends_while_it_is_given_back_goes_back_with_its_host() -> None:
    """Guest ids of hosts in hosts come from L0: what was not asked there, the end of the host asks."""
    rig = compose(PROFILES["small"], 2, 1, 64 * MIB, 2, 7, apart=True, api=V2)
    level, cpu, below = rig.seats[0].level, rig.seats[0].cpus[0], rig.below(0)[1:]
    assert isinstance(level, Nested)
    before = rig.remains()["lpids"]
    lpid = inline(level.new_lpid(cpu), below)
    assert rig.remains()["lpids"] == before + 1
    giving = level.give_lpid(cpu, lpid)
    next(giving)
    assert not level.may_use(lpid), "it is on its way"
    assert inline(level.give_lpid(cpu, lpid), below) is None, "once is enough"
    with pytest.raises(OwnerGone):
        giving.throw(OwnerGone("its host is gone"))
    inline(rig.kill(0), below)
    assert rig.remains()["lpids"] == before
