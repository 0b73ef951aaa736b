"""LPs of one TDX host that work on one TD at a time, and hosts that end in the middle of something.

Levels live apart: every message between them is held and released in seeded order, and half of the calls
stand still for a while where they hold their locks, so calls of two LPs really overlap. Busy is one of the
answers that a caller has to live with; whatever was answered, no page is lost and none is had twice, and a
sibling never hears of it. A failure names its seed.
"""

from __future__ import annotations

import gc
from collections import Counter
from random import Random
from typing import Any

import pytest

from protocol.arch.tdx.comparison import COMPARISON
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Program, Tdcall, Touch
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.host.vm import Vm, tables
from protocol.arch.tdx.status import BUSY, CODE_MASK, RAX, RCX, Status, name_of
from protocol.arch.tdx.tables import PageType
from protocol.crossing import Crossing, Thread, inline
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.plan.scenario import ExitKind, Exits, GuestHosts, Guests, Run, Scenario
from protocol.plan.workload import workload

pytestmark = pytest.mark.slow

MIB = 1 << 20
LPS = 3
FIRST = 1 << 19  # guest page number of the pages that they quarrel about
PAGES = 6
AUG, BLOCK, SEPT_RD, REMOVE, TRACK, UNBLOCK, RECLAIM, ACCEPT = 6, 7, 25, 29, 38, 39, 28, 6
# What a call may answer beside success and busy: another LP was there first.
OVERTAKEN = {
    Status.EPT_ENTRY_STATE_INCORRECT,
    Status.GPA_RANGE_ALREADY_BLOCKED,
    Status.GPA_RANGE_NOT_BLOCKED,
    Status.TLB_TRACKING_NOT_DONE,
    Status.PAGE_METADATA_INCORRECT,
    Status.VCPU_STATE_INCORRECT,
    Status.VCPU_ASSOCIATED,
}


class Quarrel:
    """One host with a TD that runs, and an LP each that do to it what comes to mind."""

    def __init__(self, seed: int, depth: int) -> None:
        self.random = Random(seed)
        self.rig = COMPARISON.compose(Sizes("small", depth, 2, 256 * MIB, LPS, seed), Ledger("vmresume"))
        self.below = self.rig.below(0)
        self.host: Host = COMPARISON.software(
            self.rig, 0, self.random, pages="two_fault", bulk=False, image=bytes(4096)
        )
        for operation in (op.BootHost(), op.Create(0, memory_mib=4096, vcpus=LPS), op.Load(0), op.Start(0)):
            inline(self.host.perform(operation), self.below)
        self.vm: Vm = self.host.guests[0]
        inline(tables(self.host, self.vm, FIRST), self.below)
        self.had: dict[int, int] = {}  # frames that the TD has, by the answers alone -> guest page
        self.answers: Counter[str] = Counter()

    def lp(self, number: int) -> Step[None]:
        """Forty calls of one LP."""
        random = Random(self.random.random())
        for _ in range(40):
            page = FIRST + random.randrange(PAGES)
            act = random.choice(
                (self.aug, self.block, self.track, self.remove, self.look, self.run, self.unblock)
            )
            yield from act(number, page)

    def call(self, lp: int, leaf: int, **named: int) -> Step[list[int]]:
        park = self.random.random() < 0.5
        out = yield from self.host.level.call(self.host.module.lps[lp], registers(rax=leaf, **named), park)
        assert not isinstance(out, Fault)
        code = out[RAX] & CODE_MASK
        self.answers["busy" if code in BUSY else name_of(code)] += 1
        assert not code or code in BUSY or code in OVERTAKEN, f"{leaf} {named}: {out[RAX]:#x}"
        return list(out)

    def aug(self, lp: int, page: int) -> Step[None]:
        frame = self.host.pool.take()
        out = yield from self.call(lp, AUG, rcx=page << 12, rdx=self.vm.tdr, r8=frame << 12)
        if out[RAX]:
            self.host.pool.give([frame])
        else:
            assert frame not in self.had
            self.had[frame] = page

    def remove(self, lp: int, page: int) -> Step[None]:
        out = yield from self.call(lp, REMOVE, rcx=page << 12, rdx=self.vm.tdr)
        if not out[RAX]:
            assert self.had.pop(out[RCX] >> 12) == page
            self.host.level.clear([out[RCX] >> 12])
            self.host.pool.give([out[RCX] >> 12])

    def block(self, lp: int, page: int) -> Step[None]:
        yield from self.call(lp, BLOCK, rcx=page << 12, rdx=self.vm.tdr)

    def unblock(self, lp: int, page: int) -> Step[None]:
        yield from self.call(lp, UNBLOCK, rcx=page << 12, rdx=self.vm.tdr)

    def track(self, lp: int, _page: int) -> Step[None]:
        yield from self.call(lp, TRACK, rcx=self.vm.tdr)

    def look(self, lp: int, page: int) -> Step[None]:
        yield from self.call(lp, SEPT_RD, rcx=page << 12, rdx=self.vm.tdr)

    def run(self, lp: int, page: int) -> Step[None]:
        """The guest accepts a page, or finds that it is not there."""
        program = Program()
        program.steps.extend((Tdcall(tuple(registers(rax=ACCEPT, rcx=page << 12))), Touch(0x100000)))
        r = registers(rcx=self.vm.vcpus[lp].handle)
        out = yield from self.host.level.enter(self.host.module.lps[lp], r, program)
        assert not isinstance(out, Fault)
        code = out[RAX] & CODE_MASK
        self.answers["exit" if not code else "busy" if code in BUSY else name_of(code)] += 1
        assert not code or code in BUSY or code in OVERTAKEN, f"enter: {out[RAX]:#x}"

    def pages(self) -> set[int]:
        """Frames that are pages of a TD, as the host's module has them, the image's aside."""
        level = self.rig.seats[0].level
        held = {at for at, kind in enumerate(level.platform.kind.tolist()) if kind == PageType.REG}
        return held - {page >> 12 for page in self.vm.private.values()}


def sibling(quarrel: Quarrel) -> Step[str]:
    """A host beside, alone on its LPs: it makes and ends TDs, and nobody else's work shows in its answers."""
    host: Host = COMPARISON.software(
        quarrel.rig, 1, Random(1), pages="two_fault", bulk=False, image=bytes(4096)
    )
    calls = host.level.call

    def call(lp: Any, r: list[int], park: bool = False) -> Step[Any]:
        out = yield from calls(lp, r, park)
        assert isinstance(out, Fault) or out[RAX] & CODE_MASK not in BUSY, f"leaf {r[RAX]}: {out[RAX]:#x}"
        return out

    host.level.call = call
    for operation in (op.BootHost(), *_life(0), *_life(1), op.Shutdown()):
        yield from host.perform(operation)
    return "lived"


def _life(guest: int) -> tuple[op.Operation, ...]:
    return op.Create(guest, memory_mib=1, vcpus=1), op.Load(guest), op.Start(guest), op.Destroy(guest)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("group", range(4))
def test_lps_that_quarrel_about_pages_lose_none(group: int, depth: int) -> None:
    answers: Counter[str] = Counter()
    for seed in range(group, 40, 4):
        quarrel = Quarrel(seed, depth)
        crossing = Crossing(quarrel.random)
        lps = [crossing.start(f"LP {n}", quarrel.lp(n), quarrel.below) for n in range(LPS)]
        beside = crossing.start("sibling", sibling(quarrel), quarrel.rig.below(1))
        crossing.run()
        assert [thread.error for thread in (*lps, beside)] == [None] * (LPS + 1), f"seed {seed}"
        assert quarrel.pages() == set(quarrel.had), f"seed {seed}"
        assert quarrel.rig.leaks() == [], f"seed {seed}"
        quarrel.vm.private.update(
            (page + (number << 30), frame << 12) for number, (frame, page) in enumerate(quarrel.had.items())
        )
        inline(quarrel.host.perform(op.Destroy(0)), quarrel.below)
        for seat in range(2):
            inline(quarrel.rig.end(seat, "l1_crash"), quarrel.rig.below(seat)[1:])
        assert not any(quarrel.rig.remains().values()), f"seed {seed}: {quarrel.rig.remains()}"
        answers += quarrel.answers
        gc.collect()
    assert answers["busy"] > 0
    assert answers["SUCCESS"] > 0


# -- ends -----------------------------------------------------------------------------------------


def scenario() -> Scenario:
    exits = Exits(ExitKind(2, "kernel"), ExitKind(1, "vmm"), ExitKind(1, "vmm"), ExitKind(1, "kernel"))
    return Scenario(
        arch=("tdx",),
        l1=GuestHosts(count=2, memory_mib=128, cpus=2),
        guest=Guests(per_l1=2, memory_mib=1, vcpus=2, image_pages=3, touch_pages=4, share_pages=2),
        run=Run(exits=exits, swap_pages=1, page_changes=2, reboots=0, deaths=0),
    )


class Apart:
    """Two hosts, each with a whole life, at some depth."""

    def __init__(self, seed: int, depth: int) -> None:
        self.random = Random(seed)
        self.rig = COMPARISON.compose(Sizes("small", depth, 2, 128 * MIB, 2, seed), Ledger("vmresume"))
        self.crossing = Crossing(self.random)
        self.threads = [self.begin(seat) for seat in range(2)]

    def begin(self, seat: int) -> Thread:
        image = COMPARISON.image(1, 3, None)
        host = COMPARISON.software(self.rig, seat, Random(seat), pages="two_fault", bulk=False, image=image)
        plan = workload(scenario(), "nested").without(COMPARISON.lacks).hosts[seat]

        def life() -> Step[str]:
            for phase in plan.phases.values():
                for act in phase:
                    yield from host.perform(act)
            return "lived"

        return self.crossing.start(f"host {seat}", life(), self.rig.below(seat))

    def end(self, how: str) -> None:
        """Host 0 ends in the middle of whatever it does; after a reboot it lives its life once more."""
        self.crossing.kill([self.threads[0]], 1)
        self.crossing.finish([self.threads[0]])
        step = self.rig.reset(0, "boot") if how == "reboot" else self.rig.end(0, "l1_crash")
        self.crossing.finish([self.crossing.start(how, step, self.rig.below(0)[1:])])
        if how == "reboot":
            self.threads[0] = self.begin(0)


@pytest.mark.parametrize("group", range(8))
def test_whoever_ends_at_any_moment_leaves_nothing(group: int) -> None:
    """Neither a PAMT entry nor a KeyID nor a page of tables; and the sibling notices nothing."""
    for seed in range(group, 160, 8):
        apart = Apart(seed, 2 if seed % 4 == 0 else 1)
        for _ in range(apart.random.randrange(1, 3000)):
            if not apart.crossing.threads:
                break
            apart.crossing.hop()
        how = apart.random.choice(("crash", "reboot", "reboot"))
        apart.end(how)
        apart.crossing.run()
        if how == "reboot":
            assert apart.threads[0].value == "lived", f"seed {seed}: {apart.threads[0].error}"
        assert apart.threads[1].value == "lived", f"seed {seed}: {apart.threads[1].error}"
        assert apart.rig.leaks() == [], f"seed {seed}"
        assert not any(apart.rig.remains().values()), f"seed {seed}: {apart.rig.remains()}"
        gc.collect()
