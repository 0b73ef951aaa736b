"""Levels that live apart: every message is held and let go in seeded order, and the counts stay the same."""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import Bench

from protocol import crossing
from protocol.arch.pef.audit import audit
from protocol.arch.pef.compose import Rig, compose
from protocol.arch.pef.cpu import DECREMENTER, Cpu, Entry, Exit, gprs
from protocol.arch.pef.guest import Program, Read, Touch
from protocol.arch.pef.host import Host
from protocol.arch.pef.kvm import run as running
from protocol.arch.pef.linked import WIRE, Answered, CpuState, LinkedPef, Request, Server
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.nesting.records import SMALL_PAGES
from protocol.arch.pef.profiles import MIB, PROFILES
from protocol.codec import Codec
from protocol.crossing import Crossing, Thread
from protocol.effects import Issue, Step, run
from protocol.errors import OperationFailed, RemoteProtocolError
from protocol.plan import operations as op
from protocol.plan.operations import Pages

IMAGE = bytes(range(256)) * 512
HOSTS = 2

LIFE = (
    op.BootHost(),
    op.Create(5, 16, 1),
    op.Load(5),
    op.Start(5),
    op.Touch(5, 0, Pages(1024, 64, 64, 3)),
    op.Share(5, 0, Pages(1024, 32, 32)),
    op.Exits(5, 0, "diag_notify", "kernel", 3),
    op.Change(5, 0, 1024, shared=False),
    op.Swap(5, 0, Pages(1056, 32, 16, 4)),
    op.Reset(5, clear=False),
    op.Touch(5, 0, Pages(1024, 64, 64)),
    op.Destroy(5),
    op.Shutdown(),
)


class Apart:
    """Hosts whose levels live apart, and one thread for each of them."""

    def __init__(self, depth: int, seed: int) -> None:
        self.rig: Rig = compose(PROFILES["small"], depth, HOSTS, 64 * MIB, 1, 7, apart=True)
        self.crossing = Crossing(Random(seed))
        self.hosts = [self.host(which, depth) for which in range(HOSTS)]
        self.threads = [
            self.crossing.start(f"host {which}", _life(host), self.rig.below(which))
            for which, host in enumerate(self.hosts)
        ]

    def host(self, which: int, depth: int) -> Host:
        seat = self.rig.seats[which]
        return Host(self.rig.seen(seat.level), seat.cpus, Random(1), depth=depth, image=IMAGE)

    @property
    def kvms(self) -> list[Any]:
        return [host.kvm for host in self.hosts]


def _life(host: Host) -> Step[None]:
    for operation in LIFE:
        yield from host.perform(operation)


def counts(rig: Rig) -> dict[str, int]:
    return rig.ledger.flat()


@pytest.fixture(scope="module", params=[1, 2])
def inline(request: pytest.FixtureRequest) -> tuple[int, dict[str, int]]:
    """The same lives, one after the other, with everything in one process."""
    depth: int = request.param
    rig = compose(PROFILES["small"], depth, HOSTS, 64 * MIB, 1, 7)
    for seat in rig.seats:
        run(_life(Host(seat.level, seat.cpus, Random(1), depth=depth, image=IMAGE)))
    return depth, counts(rig)


@pytest.mark.parametrize("seed", range(4))
def test_counts_do_not_depend_on_the_order_of_messages(inline: tuple[int, dict[str, int]], seed: int) -> None:
    depth, wanted = inline
    apart = Apart(depth, seed)
    apart.crossing.run()
    assert all(thread.done and thread.error is None for thread in apart.threads), apart.threads[0].error
    assert counts(apart.rig) == wanted
    assert audit(apart.rig, apart.kvms)["leaks"] == []
    assert not apart.rig.machines[0].svms


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("hops", [5, 30, 61, 90, 143, 200, 262, 301])
def test_a_host_that_dies_between_two_messages_leaves_nothing_behind(depth: int, hops: int) -> None:
    apart = Apart(depth, hops)
    for _ in range(hops):
        apart.crossing.hop()
    victim = apart.threads[0]
    if not victim.done:
        apart.crossing.kill([victim], 1)
        apart.crossing.finish([victim])
    death = apart.crossing.start("death", apart.rig.kill(0), apart.rig.below(0)[1:])
    apart.crossing.finish([death])
    assert death.error is None
    apart.crossing.run()
    assert apart.threads[1].error is None
    apart.hosts[0] = apart.host(0, depth)
    assert audit(apart.rig, apart.kvms)["leaks"] == []
    machine = apart.rig.machines[0]
    assert not machine.svms and machine.secure.free_units == machine.secure.units
    again: Thread = apart.crossing.start("again", _life(apart.hosts[0]), apart.rig.below(0))
    apart.crossing.finish([again])
    assert again.error is None


@pytest.mark.parametrize("hops", [8, 11, 14, 60, 150])
def test_a_host_that_reboots_between_two_messages_has_its_whole_quota_again(hops: int) -> None:
    """Found by `nestbed soak`: what a registration under way reserved was never given back."""
    apart = Apart(1, hops)
    apart.crossing.threads = [victim] = [apart.threads[0]]
    for _ in range(hops):
        apart.crossing.hop()
    apart.crossing.kill([victim], 1)
    apart.crossing.finish([victim])
    reset = apart.crossing.start("reset", apart.rig.reset(0, "system"), apart.rig.below(0)[1:])
    apart.crossing.finish([reset])
    level = apart.rig.seats[0].level
    assert isinstance(level, Nested)
    assert level.units() == 0
    assert not level._pinned


@pytest.mark.parametrize("seed", range(6))
def test_frames_may_move_below_at_any_time(seed: int) -> None:
    apart = Apart(1, seed)
    random = Random(seed)
    level = apart.rig.seats[0].level
    assert isinstance(level, Nested)
    frame = level.below.pool.take_run(SMALL_PAGES)
    old = frame
    moves: list[Thread] = []
    while not apart.threads[0].done:
        apart.crossing.hop()
        if random.random() < 0.05 and (not moves or moves[-1].done):
            if moves and moves[-1].value:  # the frames that were there before are free now
                level.below.memory.clear(range(old, old + SMALL_PAGES))
                frame = old
            held = sorted({page for record in level.records.values() for page in record.bound.values()})
            page = random.choice([*held, random.randrange(16, 1024)])
            old = level.frame_below(page * SMALL_PAGES)
            step = level.moves(page, frame)
            moves.append(apart.crossing.start("move", step, apart.rig.below(0)[1:]))
    apart.crossing.run()
    assert sum(bool(each.value) for each in moves) > 3
    assert all(thread.error is None for thread in (*apart.threads, *moves))
    assert audit(apart.rig, apart.kvms)["leaks"] == []


def test_what_is_no_request_closes_the_link() -> None:
    rig = compose(PROFILES["small"], 1, 1, 64 * MIB, 1, 7)
    server = Server(rig.seats[0].level)
    good = Request(CpuState.of(Cpu(0)), ())
    for message in (
        Issue("reboot", (good,)),
        Issue("call", ()),
        Issue("call", ("x",)),
        Issue("call", (Request(CpuState.of(Cpu(7)), ()),)),
        Issue("call", (good,)),
        Issue("call", (good._replace(arguments=([0] * 31, 0, False, None)),)),
        Issue("call", (good._replace(arguments=([0] * 31 + [-1], 0, False, None)),)),
        Issue("call", (good._replace(arguments=(["x"] * 32, 0, False, None)),)),
        Issue("enter", (good._replace(arguments=(Entry(1 << 64, 0, gprs(), 0, 0, Program()),)),)),
        Issue("enter", (good._replace(arguments=(Entry(1, 0, [], 0, 0, Program()),)),)),
        Issue("tlbie", (good._replace(arguments=(1, b"")),)),
        Issue("give_lpid", (good._replace(cpu=good.cpu._replace(tm="lost"), arguments=(1,)),)),
    ):
        with pytest.raises(RemoteProtocolError):
            server(message)


@pytest.mark.parametrize("seed", range(4))
def test_a_hypervisor_without_memory_refuses_and_goes_on(seed: int) -> None:
    """Found by `nestbed soak`: shadow tables that could not be had were the end of the hypervisor."""
    apart = Apart(1, seed)
    pool = apart.rig.seats[0].level.below.pool  # type: ignore[union-attr]
    for _ in range(seed * 40):
        apart.crossing.hop()
    taken = pool.take_many(pool.free)
    for thread in apart.threads:
        try:
            apart.crossing.finish([thread])
        except OperationFailed:
            apart.crossing.threads.remove(thread)
    pool.give(taken)
    for which in range(HOSTS):
        death = apart.crossing.start("death", apart.rig.kill(which), apart.rig.below(which)[1:])
        apart.crossing.finish([death])
        again = apart.crossing.start("again", _life(apart.host(which, 1)), apart.rig.below(which))
        apart.crossing.finish([again])
        assert again.error is None


def test_an_exit_that_comes_back_without_a_program_leaves_the_vcpu_the_one_it_has() -> None:
    """Only a peer that is none of ours sends one."""
    bench = Bench(0)
    vm = bench.vm()
    bench.kvm.level = LinkedPef(bench.seat.level, [bench.cpu])
    vcpu = vm.vcpus[0]
    program = vcpu.program
    step = running.enter(bench.kvm, bench.cpu, vm, vcpu, stay=False)
    assert next(step).operation == "enter"
    with pytest.raises(StopIteration) as ended:
        step.send(Answered(CpuState.of(bench.cpu), Exit(DECREMENTER, vm.lpid, 0, gprs())))
    assert ended.value.value.trap == DECREMENTER and vcpu.program is program


def test_what_crosses_a_link_is_there_what_it_was_here() -> None:
    """Lists, queues and sets arrive as tuples: records make of them what they were."""
    codec = Codec(WIRE)
    program = Program(deque([Touch(8)]), [{"value": "00"}], Read(0, 4), True, [{}], frozenset({3}))
    for sent in (
        program,
        Entry(3, 1, gprs(r3=7), 0x100, 0, program, stay=True, pidr=2),
        Exit(DECREMENTER, 3, 1, gprs(r31=9), secure=True, asdr=4, program=program, last=True),
    ):
        got = codec.decode(codec.encode(sent))
        assert got == sent and type(got) is type(sent)


def test_without_an_ultravisor_a_host_in_another_process_tells_of_its_partition_table() -> None:
    """What it took out stayed in the table of the level below: nobody is asked there by an ultracall."""
    rig = compose(PROFILES["none"], 1, 1, 64 * MIB, 1, 7, apart=True)
    seat, below, machine = rig.seats[0], rig.below(0), rig.machines[0]
    level = rig.seen(seat.level)
    for dw0 in (1 << 63, 0, 1 << 63):
        crossing.inline(level.own_entry(seat.cpus[0], 5, dw0, dw0 and 6), below)
        assert (5 in seat.level.records) == bool(dw0)
        assert machine.pate(1) != (0, 0) if dw0 else machine.pate(1) == (0, 0)
    crossing.inline(rig.kill(0), below[1:])
    assert machine.pate(1) == (0, 0) and rig.remains()["lpids"] == 0
