"""A nested run whose levels live apart, driven in one of several ways: a plain module beside the tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from protocol.arch.s390.audit import leaks
from protocol.arch.s390.comparison import COMPARISON
from protocol.arch.s390.compose import Rig
from protocol.crossing import Crossing, Thread
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.plan.scenario import ExitKind, Exits, GuestHosts, Guests, Run, Scenario
from protocol.plan.workload import workload

MEMORY = 2060 << 20


def scenario(depth: int, hosts: int = 2) -> Scenario:
    """Small: one guest each, everything that can happen to it once."""
    exits = Exits(ExitKind(2, "kernel"), ExitKind(1, "vmm"), ExitKind(1, "vmm"), ExitKind(1, "kernel"))
    return Scenario(
        depth=depth,
        l1=GuestHosts(count=hosts, memory_mib=2060, cpus=2),
        guest=Guests(per_l1=1, memory_mib=1, vcpus=2, image_pages=3, touch_pages=4, share_pages=2),
        run=Run(exits=exits, swap_pages=2, page_changes=2, resets=1, reboots=0, deaths=0),
    )


@dataclass
class Apart:
    """Hosts on a rig whose levels live apart, and the crossing between them."""

    depth: int
    hosts: int
    random: Random
    ledger: Ledger = field(default_factory=Ledger)
    strategy: dict[str, str] = field(default_factory=dict)
    swaps: list[tuple[int, Thread]] = field(default_factory=list)
    profile: str = "small"

    def __post_init__(self) -> None:
        self.scenario = scenario(self.depth, self.hosts)
        self.rig: Rig = COMPARISON.compose(
            Sizes(self.profile, self.depth, self.hosts, MEMORY, 2, 1, self.strategy), self.ledger
        )
        self.crossing = Crossing(self.random)
        self.image = COMPARISON.image(1, self.scenario.guest.image_pages, None)
        self.threads = [self.begin(seat) for seat in range(self.hosts)]

    def begin(self, seat: int) -> Thread:
        """The whole life of one host, as one thread."""
        host = COMPARISON.software(
            self.rig, seat, Random(f"host {seat}"), pages="two_fault", bulk=False, image=self.image
        )
        plan = workload(self.scenario, "nested").hosts[seat]
        acts = [act for phase in plan.phases.values() for act in phase]
        return self.crossing.start(f"host {seat}", life(host, acts), self.rig.below(seat))

    def swap(self, seat: int, seed: int) -> Thread:
        """L0 (or whoever is below) puts other frames under secure pages of a host, at any time."""
        step = self.rig.swap(seat, op.LevelSwap(3, seed))
        thread = self.crossing.start(f"swap {seat}", step, self.rig.below(seat)[1:])
        self.swaps.append((seat, thread))
        return thread

    def _let_go(self, seat: int) -> None:
        """The host is gone: its own steps end, what the level below does for it or to it hears of that."""
        of_host = [self.threads[seat]]
        of_level = [thread for whose, thread in self.swaps if whose == seat]
        self.crossing.kill(of_host, 1)
        self.crossing.kill(of_level, 0)
        self.crossing.finish(of_host + of_level)

    def kill(self, seat: int) -> None:
        """The host dies in the middle of whatever it does; what is below reclaims."""
        self._let_go(seat)
        self.crossing.finish(
            [self.crossing.start("end", self.rig.end(seat, "l1_crash"), self.rig.below(seat)[1:])]
        )

    def reset(self, seat: int, kind: str) -> None:
        """The host reboots in the middle of whatever it does, and lives its life once more."""
        self._let_go(seat)
        reset = self.crossing.start("reset", self.rig.reset(seat, kind), self.rig.below(seat)[1:])
        self.crossing.finish([reset])
        self.threads[seat] = self.begin(seat)

    def leaks(self) -> list[Any]:
        return leaks(self.rig)


def life(host: Any, acts: list[op.Operation]) -> Step[str]:
    for act in acts:
        yield from host.perform(act)
    return "lived"
