"""Dump and Destroy Fast through the levels between: bounced, checked, and true when a level swaps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

# The bench is a plain module one folder up.
sys.path.insert(0, str(Path(__file__).parents[1]))

from guest_bench import Bench, Guest, block

from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.evidence.dump import Opened, open_dump
from protocol.arch.s390.guest import Read
from protocol.arch.s390.instructions import KICKED
from protocol.arch.s390.nesting import memory
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.profiles import PROFILES
from protocol.crossing import inline
from protocol.effects import Idle, run

PAGE, MIB, FREE = 0x1000, 0x100000, 0x20000
SEED = 11
SECRET = b"what only the owner reads, " * 100
DEPTHS = (1, 2, 3)
MAPPED_ONLY = b"\xff" * 4 + bytes(11) + b"\x04"


class Nest:
    """A rig with one host at the keyboard, and the levels between."""

    def __init__(
        self, depth: int, strategy: Strategy | None = None, hosts: int = 1, apart: bool = False
    ) -> None:
        profile = PROFILES["small"]
        self.rig: Rig = compose(profile, depth, hosts, seed=SEED, strategy=strategy, apart=apart)
        self.bench = Bench(self.rig.seats[0].level, SEED, self.drive if apart else run)

    def drive(self, step: Any) -> Any:
        """Drive what the level of the host does, where each level below lives elsewhere."""
        return inline(step, self.rig.below(0)[1:])

    def swap_everything(self, guest: Guest) -> int:
        """Each level takes another frame for each page of the guest; how often that was done."""
        done = 0
        for where in guest.pages.values():
            level, frame = self.bench.uv, where // PAGE
            while hasattr(level, "below"):
                done += run(memory.swap(level, frame))
                frame, level = int(level.frame_below(frame)), level.below.memory
        return done


@pytest.fixture(params=DEPTHS, ids=[f"depth{depth}" for depth in DEPTHS])
def nest(request: pytest.FixtureRequest) -> Nest:
    return Nest(request.param)


@pytest.fixture
def guest(nest: Nest) -> Guest:
    return with_secret(nest.bench)


def with_secret(bench: Bench) -> Guest:
    guest = bench.boot()
    guest.secure(FREE)
    guest.write(FREE, SECRET)
    return guest


def begin(guest: Guest) -> None:
    guest.bench.call(0x40, 0x0400, q18=guest.handle).done()


def states(guest: Guest) -> bytes:
    bench, found = guest.bench, b""
    for gaddr in range(0, guest.length, MIB):
        area = bench.alloc()
        bench.call(0x50, 0x0401, q18=guest.handle, q20=area, q28=gaddr).done()
        found += bench.read(area)
    return found


def finish(guest: Guest) -> bytes:
    area = guest.bench.alloc()
    guest.bench.call(0x50, 0x0403, q18=guest.handle, q20=area).done()
    return guest.bench.read(area)


def registers(guest: Guest) -> bytes:
    area = guest.bench.alloc()
    guest.bench.call(0x50, 0x0402, q18=guest.cpus[0], q20=area).done()
    return guest.bench.read(area)


def contents(guest: Guest) -> dict[int, bytes]:
    """What the host reads, page by page; what is secure it exports first."""
    return {page: guest.export(page * PAGE) for page in guest.pages}


def opened(guest: Guest, memory_of: dict[int, bytes], state: bytes, cpu: bytes, completion: bytes) -> Opened:
    assert guest.image is not None
    return open_dump(guest.image.cck, completion, [cpu], state, memory_of)


def test_a_dump_of_a_guest_whose_pages_every_level_swapped_is_the_owners(nest: Nest, guest: Guest) -> None:
    """Wherever the swapping comes: before the dump begins, before and after the pages are read."""
    assert nest.swap_everything(guest)
    begin(guest)
    assert nest.swap_everything(guest)
    found = contents(guest)
    assert nest.swap_everything(guest), "what the host exported is plain memory, and can be swapped, too"
    assert contents(guest) == found
    dump = opened(guest, found, states(guest), registers(guest), finish(guest))
    assert dump.read(FREE, len(SECRET)) == SECRET
    assert dump.read(0x10000, 8) == b"a kernel"


def test_a_page_that_a_level_swapped_out_looks_secure_to_the_host(nest: Nest, guest: Guest) -> None:
    begin(guest)
    before = states(guest)
    assert before[FREE // PAGE * 16 :][:16] == MAPPED_ONLY
    assert nest.swap_everything(guest)
    assert states(guest) == before


def test_the_guest_lives_on_after_all_that(nest: Nest, guest: Guest) -> None:
    begin(guest)
    nest.swap_everything(guest)
    states(guest)
    registers(guest)
    finish(guest)
    nest.swap_everything(guest)
    assert guest.read(FREE, len(SECRET)) == SECRET


def test_no_level_throws_a_cpu_out_of_its_guest_when_a_dump_begins(nest: Nest, guest: Guest) -> None:
    """What the levels swapped out is back when the dump begins, and stays: nobody can enter the CPU anew."""
    bench, program = guest.bench, guest.programs[0]
    bench.cpu.cr[1] = guest.asce
    inside = bench.uv.enter(bench.cpu, guest.blocks[0], program, True, nest.rig.depth + 1)
    assert next(inside) == Idle()
    assert nest.swap_everything(guest), "an ordinary guest with a CPU inside is swapped"
    bench.cpu = bench.uv.cpus[1]
    bench.cpu.running = True
    begin(guest)
    assert not nest.swap_everything(guest)
    program.steps.append(Read(FREE, 20))
    assert inside.send(True) == Idle(), "it stays"
    assert program.collect() == [{"hex": SECRET[:20].hex()}]
    with pytest.raises(StopIteration) as left:
        inside.send(False)
    assert left.value.value.code == KICKED
    finish(guest)
    assert nest.swap_everything(guest), "as any other again"


def test_each_level_copies_what_it_bounces(nest: Nest, guest: Guest) -> None:
    """One area a call and a level; the calls of a dump reach the real Ultravisor once each."""
    ledger = nest.rig.ledger
    begin(guest)
    ledger.reset()
    states(guest)
    registers(guest)
    finish(guest)
    counts = ledger.flat()
    calls = guest.length // MIB + 2
    assert counts["copied_bytes.dump"] == calls * PAGE * nest.rig.depth
    issued = sum(n for name, n in counts.items() if name.startswith("te_issued.dump"))
    assert issued == calls


def test_a_host_cannot_dump_its_siblings_guest() -> None:
    nest = Nest(1, hosts=2)
    guest = with_secret(nest.bench)
    other = Bench(nest.rig.seats[1].level, SEED)
    assert other.call(0x40, 0x0400, q18=guest.handle).rc == 0x0020
    begin(guest)
    ledger = nest.rig.ledger
    ledger.reset()
    area = other.alloc()
    for code, handle, rc in (
        (0x0401, guest.handle, 0x20),
        (0x0402, guest.cpus[0], 0x21),
        (0x0403, guest.handle, 0x20),
    ):
        assert other.call(0x50, code, q18=handle, q20=area).rc == rc
    assert other.call(0x48, 0x0102, q18=guest.handle).rc == 0x0020
    assert not any(name.startswith("te_issued") for name in ledger.flat()), "nothing was asked below"
    assert other.read(area) == bytes(PAGE)
    finish(guest)


@pytest.mark.parametrize(
    "strategy", [Strategy(handles="mapped"), Strategy(donation="off")], ids=["mapped", "off"]
)
def test_no_strategy_shows(strategy: Any) -> None:
    nest = Nest(2, strategy)
    guest = with_secret(nest.bench)
    begin(guest)
    found = contents(guest)
    dump = opened(guest, found, states(guest), registers(guest), finish(guest))
    assert dump.read(FREE, len(SECRET)) == SECRET
    guest.destroy_cpus()
    nest.bench.call(0x48, 0x0102, q18=guest.handle).done()
    assert not nest.rig.machines[0].configs


def test_destroy_fast_leaves_nothing_at_any_level(nest: Nest, guest: Guest) -> None:
    begin(guest)
    guest.destroy_cpus()
    nest.bench.call(0x48, 0x0102, q18=guest.handle).done()
    for where in guest.pages.values():
        nest.bench.call(0x20, 0x0202, q18=where).done()
    machine = nest.rig.machines[0]
    assert (machine.configs, machine.secure_cpus) == ({}, {})
    for level in (nest.bench.uv, *nest.rig.levels[1:]):
        assert level.tracked()["configs"] == level.tracked()["cpus"] == 0


def test_a_completion_finds_its_place_whatever_another_cpu_does_meanwhile() -> None:
    """The level below has ended the dump when it answers: what it answered must not be lost."""
    nest = Nest(1, apart=True)
    bench, guest = nest.bench, with_secret(nest.bench)
    other = bench.boot()
    begin(guest)
    found, state, cpu = contents(guest), states(guest), registers(guest)
    area = bench.alloc()
    at = 0x4000
    assert bench.uv.write(at, block(0x50, 0x0403, q18=guest.handle, q20=area)) is None
    step = bench.uv.call(bench.cpu, at)
    effect = next(step)  # the level below is asked, and has not answered
    bench.cpu = bench.uv.cpus[1]
    donating = bench.call(0x60, 0x0120, q20=other.handle, q28=area, h36=1, q38=bench.alloc())
    assert donating.rc != 1, "the area would be gone"
    assert bench.uv.write(area, b"x") is None, "a store by another CPU is its own affair"
    with pytest.raises(StopIteration) as stop:
        step.send(inline(nest.rig.below(0)[1](effect), ()))
    assert stop.value.value == 0
    dump = opened(guest, found, state, cpu, bench.read(area))
    assert dump.read(FREE, len(SECRET)) == SECRET
    bench.call(0x60, 0x0120, q20=other.handle, q28=area, h36=1, q38=bench.alloc()).done()


def test_dumps_work_where_every_level_lives_elsewhere() -> None:
    nest = Nest(2, apart=True)
    guest = with_secret(nest.bench)
    begin(guest)
    found = contents(guest)
    dump = opened(guest, found, states(guest), registers(guest), finish(guest))
    assert dump.read(FREE, len(SECRET)) == SECRET
    guest.destroy_cpus()
    nest.bench.call(0x48, 0x0102, q18=guest.handle).done()


def test_a_guest_host_that_dies_in_the_middle_of_a_dump_leaves_nothing(nest: Nest, guest: Guest) -> None:
    begin(guest)
    run(nest.rig.kill(0))
    assert nest.rig.machines[0].configs == {}
    fresh = Bench(nest.rig.seats[0].level, SEED)
    again = with_secret(fresh)
    begin(again)


def test_calls_of_the_guest_cost_no_exit_of_any_level() -> None:
    """2.0: attestation and secrets are direct."""
    from protocol.arch.s390.evidence import attestation, secrets
    from protocol.arch.s390.image import host_key

    exits = []
    for depth in (0, *DEPTHS):
        nest = Nest(depth)
        guest = nest.bench.boot()
        for gaddr in (FREE, FREE + PAGE):
            guest.secure(gaddr)
        assert guest.image is not None
        host = [host_key(SEED, "host")]
        asked = attestation.build(host, seed=1, digest=b"", flags=0)
        added = secrets.build(secrets.plaintext("x", b"y"), guest.image.header, host, seed=1, digest=b"")
        guest.write(FREE, asked.raw)
        guest.write(FREE + PAGE, added)
        nest.rig.ledger.reset()
        guest.call(0x188, 0x1020, q18=FREE, w13c=64, q140=FREE).done()
        with_calls = nest.rig.ledger.flat()["exits"]
        guest.call(0x48, 0x1031, q20=FREE + PAGE).done()
        guest.call(0x40, 0x1034).done()
        nest.rig.ledger.reset()
        guest.read(FREE, 8)
        exits.append((with_calls, nest.rig.ledger.flat()["exits"]))
    assert all(with_calls == plain for with_calls, plain in exits), exits
