"""One scenario on all four architectures, on every path: what holds whatever a Trusted Entity is like.

One chain of owners for each page, nothing is lost from a pool, nothing of a guest outlives it, siblings do
not notice each other, and what a guest was measured to be is the same whoever started it. What is looked at
lies in levels, machines and books; nothing is put there. An architecture says here only where its measurement
lies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
import trio

from actors.compare.paths import stage
from actors.compare.progress import Progress
from actors.compare.run import alone, run
from actors.compare.stage import Parts, Stage
from actors.runtime.actor import open_runtime
from protocol.arch import load
from protocol.ledger import Ledger
from protocol.nesting.guest_host import GuestHost
from protocol.plan import operations as op
from protocol.plan.scenario import ExitKind, Exits, GuestHosts, Guests, Run, Scenario
from protocol.plan.workload import Workload, workload

ARCHITECTURES = ("s390", "snp", "tdx", "pef")
PATHS = (("direct", 1), ("nested", 1), ("nested", 2), ("hosted", 1))
HOSTS, GUESTS, IMAGE = 2, 2, 6
MEMORY_MIB = {"s390": 2060, "snp": 64, "tdx": 2200, "pef": 256}


def scenario(arch: str, depth: int) -> Scenario:
    """Two hosts with two guests each; everything that any architecture knows happens to them once."""
    exits = Exits(ExitKind(2, "kernel"), ExitKind(1, "vmm"), ExitKind(1, "vmm"), ExitKind(1, "kernel"))
    return Scenario(
        arch=(arch,),
        depth=depth,
        profile="small",
        l1=GuestHosts(count=HOSTS, memory_mib=MEMORY_MIB[arch], cpus=2),
        guest=Guests(per_l1=GUESTS, memory_mib=1, vcpus=2, image_pages=IMAGE, touch_pages=4, share_pages=2),
        run=Run(exits=exits, swap_pages=2, page_changes=2, resets=1, reboots=1, deaths=1),
    )


# -- where each Trusted Entity has what it measured ----------------------------------------------------


def of_s390(machine: Any, image: Any) -> list[bytes]:
    """The digests of the header against which all pages of a configuration were verified."""
    verified = [config.params for config in machine.configs.values() if config.digests is None]
    return [
        sha256(params.pld + params.ald + params.tld).digest() for params in verified if params is not None
    ]


def of_snp(machine: Any, image: Any) -> list[bytes]:
    return [context.digest for context in machine.platform.contexts.values()]


def of_tdx(machine: Any, image: Any) -> list[bytes]:
    return [td.mrtd for td in machine.tds.values()]


def of_pef(machine: Any, image: bytes) -> list[bytes]:
    """No measurement is kept: the kernel as it lies in secure memory once its digest was found right."""
    found = []
    for svm in machine.svms.values():
        frames = dict(svm.gfns())
        first = next(gfn for gfn, frame in frames.items() if machine.secure.read(frame, 0, 64) == image[:64])
        pages = range(first, first - (-len(image) // PAGE))
        found.append(sha256(b"".join(machine.secure.read(frames[gfn], 0, PAGE) for gfn in pages)).digest())
    return found


PAGE = 1 << 16
MEASURED: dict[str, Callable[[Any, Any], list[bytes]]] = {
    "s390": of_s390,
    "snp": of_snp,
    "tdx": of_tdx,
    "pef": of_pef,
}


# -- a run that stops between phases --------------------------------------------------------------------


@dataclass
class Play:
    """One path of one architecture, phase by phase."""

    arch: str
    plan: Workload
    parts: Parts
    staged: Stage

    @property
    def rig(self) -> Any:
        return self.staged.rig

    async def until(self, last: str) -> None:
        """All phases up to this one that have not been played."""
        while self.plan.phases and last in self.plan.phases:
            await self.play(self.plan.phases[0])

    async def play(self, phase: str) -> None:
        self.parts.ledger.phase = phase
        for host in self.plan.hosts:
            for act in host.phases.get(phase, ()):
                await self.staged.perform(host.number, act)
        self.plan = self.plan.without({phase: "it was played"})

    async def rest(self) -> None:
        for phase in self.plan.phases:
            await self.play(phase)

    def measured(self) -> list[bytes]:
        machines = self.rig.machines
        return sorted(each for m in machines for each in MEASURED[self.arch](m, self.parts.image))

    def pools(self) -> list[int]:
        """Free frames of every hypervisor. What it set apart for shadow tables stays with these."""
        return [hypervisor.pool.free for hypervisor in self.rig.chain]

    def guest_hosts(self) -> list[Any]:
        """Emulations: those that carry hypervisors, and those of the hosts at the top."""
        levels = (*self.rig.levels, *(seat.level for seat in self.rig.seats))
        return [level for level in levels if isinstance(level, GuestHost)]


@asynccontextmanager
async def played(arch: str, path: str, depth: int, **changes: Any) -> AsyncIterator[Play]:
    found = load(arch)
    assert found.comparison is not None
    wanted = replace(scenario(arch, depth), **changes)
    plan = workload(wanted, path).without(getattr(found.comparison, "lacks", {}))
    image = found.comparison.image(wanted.seed, IMAGE, None)
    ledger = Ledger(found.comparison.prices.entry)
    with alone():
        async with open_runtime() as runtime, trio.open_nursery() as nursery:
            parts = Parts(arch, wanted, found.comparison, ledger, runtime, image)
            staged = await stage(parts, plan, 1, nursery)
            yield Play(arch, plan, parts, staged)
            await staged.close()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("path", "depth"), PATHS, ids=str)
@pytest.mark.parametrize("arch", ARCHITECTURES)
async def test_a_page_has_one_chain_of_owners(arch: str, path: str, depth: int) -> None:
    """Every level's book agrees with the one below, and no frame is under two guest hosts."""
    async with played(arch, path, depth) as play:
        await play.until("boot")
        assert list(play.rig.leaks()) == []
        assert any(play.rig.remains().values()), "there are guests"
        frames: dict[int, list[np.ndarray]] = {}  # of each hypervisor, by its level
        for level in play.guest_hosts():
            frames.setdefault(level.below.level, []).append(level.slots[level.slots >= 0])
        for slots in frames.values():
            assert np.bincount(np.concatenate(slots)).max() == 1
        assert sorted(frames) == (list(range(depth)) if path == "nested" else [])


@pytest.mark.slow
@pytest.mark.parametrize(("path", "depth"), PATHS, ids=str)
@pytest.mark.parametrize("arch", ARCHITECTURES)
async def test_the_end_of_all_hosts_gives_everything_back(arch: str, path: str, depth: int) -> None:
    """One was rebooted, one dies in the middle of its work, the rest go in order: nothing is left."""
    async with played(arch, path, depth) as play:
        await play.until("host_setup")
        before = play.pools()
        await play.rest()
        assert list(play.rig.leaks()) == []
        assert not any(play.rig.remains().values()), play.rig.remains()
        assert all(now >= then for now, then in zip(play.pools(), before, strict=True))


@pytest.mark.parametrize("arch", ARCHITECTURES)
async def test_a_quota_is_what_it_was_when_its_guests_have_gone(arch: str) -> None:
    """Frames that a hypervisor lent for guests come back to its pool, all of them, in the order of a plan."""
    quiet = replace(scenario(arch, 2).run, reboots=0, deaths=0)
    async with played(arch, "nested", 2, run=quiet) as play:
        await play.until("host_setup")
        before, below = play.pools(), play.rig.remains()
        await play.until("boot")
        assert play.rig.remains() != below
        await play.until("destroy")
        assert play.pools() == before
        assert play.rig.remains() == below


@pytest.mark.parametrize("arch", ARCHITECTURES)
async def test_siblings_do_not_notice_the_death_of_one(arch: str) -> None:
    """What the other host's guests are stays, and its plan goes on as if nothing had been."""
    counted = []
    for dies in (False, True):
        quiet = replace(scenario(arch, 1).run, reboots=0, deaths=0)
        async with played(arch, "nested", 1, run=quiet) as play:
            await play.until("boot")
            all_of = play.measured()
            if dies:
                await play.staged.perform(0, op.Death())
                assert list(play.rig.leaks()) == []
                left = play.measured()
                assert len(left) == len(all_of) // HOSTS and set(left) <= set(all_of)
            play.parts.ledger.reset()
            sibling = play.plan.hosts[1]
            for phase in play.plan.phases:
                for act in sibling.phases.get(phase, ()):
                    await play.staged.perform(1, act)
            counted.append(play.parts.ledger.flat())
            if not dies:
                await play.staged.perform(0, op.Death())
    assert counted[0] == counted[1]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
async def test_what_is_measured_is_the_same_on_every_path(arch: str) -> None:
    found = []
    for path, depth in PATHS:
        async with played(arch, path, depth) as play:
            await play.until("load")
            found.append(play.measured())
            await play.rest()
    assert len(found[0]) == HOSTS * GUESTS
    assert all(one == found[0] for one in found), "a guest that is measured to be another"


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_one_run_has_them_side_by_side_and_what_one_lacks_another_keeps(depth: int) -> None:
    hosts = GuestHosts(count=HOSTS, memory_mib=max(MEMORY_MIB.values()), cpus=2)
    found = run(replace(scenario("s390", depth), arch=ARCHITECTURES, l1=hosts), Progress())
    assert [(result["arch"], result["path"]) for result in found.results] == [
        (arch, path) for arch in ARCHITECTURES for path in ("direct", "nested", "hosted")
    ]
    s390, tdx = (next(r for r in found.results if r["arch"] == arch) for arch in ("s390", "tdx"))
    assert s390["phases"]["swap"]["te_issued"] > 0
    assert tdx["phases"]["swap"] is None
    assert {claim["arch"] for claim in found.claims} == set(ARCHITECTURES)
