"""A host on a level at any depth, and what its operations were counted as."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.host.load import scenario_image
from protocol.arch.s390.host.memory import frame_of
from protocol.arch.s390.host.system import Host
from protocol.arch.s390.image import Image
from protocol.arch.s390.nesting.memory import swap
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.profiles import PROFILES
from protocol.crossing import inline
from protocol.effects import Step, run
from protocol.ledger import Key
from protocol.plan.operations import (
    BootHost,
    Create,
    Load,
    Operation,
    Pages,
    Share,
    Start,
    Touch,
)

SEED = 5
FIRST = 16  # the image's first page


@cache
def image_of(pages: int) -> Image:
    return scenario_image(SEED, 1, pages)


@dataclass(frozen=True)
class Size:
    """V, P, T, S and M of section 6: CPUs, image pages, touched and shared pages beyond, MiB."""

    vcpus: int
    image: int
    touched: int
    shared: int
    mib: int

    @property
    def touch(self) -> Pages:
        return Pages(FIRST + self.image, self.touched, self.touched, seed=3)

    @property
    def share(self) -> Pages:
        return Pages(FIRST + self.image + self.touched, self.shared, self.shared)

    @property
    def resident(self) -> int:
        """R once all of it has happened: two prefix pages with it."""
        return self.image + self.touched + self.shared + 2


class Bench:
    """One host, driven step by step. `strategy` says how the levels below emulate for it."""

    def __init__(
        self,
        depth: int = 0,
        size: Size | None = None,
        pages: str = "two_fault",
        bulk: bool = False,
        apart: bool = False,
        blind: bool = False,
        profile: str = "small",
        memory_mib: float = 2200,
        strategy: Strategy | None = None,
        spare: int = 0,
    ) -> None:
        self.size = size or Size(2, 3, 4, 2, 8)
        memory = int(memory_mib * (1 << 20))
        self.rig: Rig = compose(
            PROFILES[profile], depth, 1, memory, 3, SEED, strategy, apart=apart, spare=spare
        )
        self._options = {
            "depth": depth,
            "image": image_of(self.size.image),
            "pages": pages,
            "bulk": bulk,
            "machine_seed": SEED,
        }
        self._below = self.rig.below(0) if apart else None
        self._blind = blind
        self.turn_on()

    def turn_on(self) -> None:
        """A fresh host on the seat: it has forgotten whatever was there."""
        seat = self.rig.seats[0]
        self.level = seat.level
        below = None if self._blind else self._below
        self.host = Host(self.rig.seen(seat.level), seat.cpus, Random("host"), below=below, **self._options)

    def count(self, *steps: Step[Any]) -> Counter[Key]:
        """Drive steps; what they were counted as."""
        before = Counter(self.rig.ledger.counts())
        for step in steps:
            if self._below is None:
                run(step)
            else:
                inline(step, self._below)
        after = Counter(self.rig.ledger.counts())
        after.subtract(before)
        return Counter({key: n for key, n in after.items() if n})

    def do(self, *operations: Operation) -> Counter[Key]:
        """Perform operations, one after the other."""
        return self.count(*map(self.host.perform, operations))

    def swap_below(self, pages: list[int], guest: int = 0) -> Counter[Key]:
        """The level below puts other frames under these pages of the guest, one after the other."""
        frames = [frame_of(self.host.level, self.host.guest(guest).table, page) for page in pages]
        return self.count(*(swap(self.level, frame) for frame in frames if frame is not None))

    def reboot(self) -> Counter[Key]:
        """The host reboots without a word."""
        counts = self.count(self.rig.reset(0, "load-normal"))
        self.turn_on()
        return counts

    def die(self) -> Counter[Key]:
        """The host ends without a word."""
        return self.count(self.rig.end(0, "l1_crash"))

    def boot(self) -> Counter[Key]:
        return self.do(BootHost())

    def bring_up(self, guest: int = 0) -> None:
        """A guest that has booted: loaded, started, all its pages touched, its buffers shared."""
        size = self.size
        self.do(Create(guest, size.mib, size.vcpus), Load(guest), Start(guest))
        self.do(Touch(guest, 0, size.touch), Share(guest, 0, size.share))


def calls(counts: Counter[Key]) -> dict[str, int]:
    """Calls of hosts to the Trusted Entity, by name."""
    found: Counter[str] = Counter()
    for key, n in counts.items():
        if key[0] == "te_calls" and key[3] != "native":
            found[key[1]] += n
    return dict(found)


def family(counts: Counter[Key], name: str) -> dict[str, int]:
    """One family, by its labels joined."""
    return {".".join(key[1:]): n for key, n in counts.items() if key[0] == name}


SIZES = (Size(1, 1, 0, 0, 2), Size(2, 5, 7, 3, 8), Size(4, 300, 600, 40, 64))
