"""What the curves are measured on: guest hosts of any architecture at any depth, made large enough."""

from __future__ import annotations

import time
from collections.abc import Iterable
from random import Random
from typing import Any

from protocol.arch import load
from protocol.crossing import inline
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES, MIB, PAGES_PER_MIB, Profile, Room
from protocol.plan.scenario import Guests

IMAGE_PAGES = 2
SPARE_MIB = 64
TIMES = 5


def paths(depth: int) -> str:
    return "nested" if depth else "direct"


def roomiest(arch: str) -> Profile:
    """The profile of which a host may have the most guests; of several the one with the largest guests."""
    profiles = load(arch).profiles.values()
    return max(
        profiles, key=lambda profile: (most(profile, "guest.per_l1"), most(profile, "guest.memory_mib"))
    )


def most(profile: Profile, path: str) -> int:
    """What a profile allows of a setting."""
    return next((limit.most for limit in profile.limits() if limit.path == path), 0)


def guests_at_most(arch: str) -> int:
    """Small guests that one host can have: what it may have of them, and what each takes of it."""
    profile = roomiest(arch)
    guest = Guests(memory_mib=1, vcpus=1, image_pages=IMAGE_PAGES)
    rooms: Iterable[Room] = profile.rooms(guest) if hasattr(profile, "rooms") else ()
    return min([most(profile, "guest.per_l1"), *(room.most // max(room.of_a_guest, 1) for room in rooms)])


class Ground:
    """Hosts at `depth` that are up, each with room for `guests` guests of `pages` image pages.

    What they have in common is made once: the machine, the levels between, the image.
    """

    def __init__(
        self,
        arch: str,
        depth: int,
        *,
        hosts: int = 1,
        guests: int = 2,
        pages: int = IMAGE_PAGES,
        image: Any = None,
        boot: bool = True,
    ) -> None:
        comparison = load(arch).comparison
        assert comparison is not None, f"{arch} has no host software"
        profile = roomiest(arch)
        self.mib = -(-(pages + FIRST_PAGES) // PAGES_PER_MIB)
        memory = (
            profile.host_least_mib()[0] + profile.host_needs_mib(guests, self.mib, 1) * 5 // 4 + SPARE_MIB
        )
        self.ledger = Ledger()
        rig = comparison.compose(Sizes(profile.name, depth, hosts, memory * MIB, 2, 1), self.ledger)
        image = image_of(arch, pages) if image is None else image
        self._hosts = [
            (
                comparison.software(rig, seat, Random(seat), pages="two_fault", bulk=False, image=image),
                rig.below(seat),
            )
            for seat in range(hosts)
        ]
        for seat in range(hosts if boot else 0):
            self.boot(seat)

    def boot(self, seat: int) -> None:
        self.perform(seat, op.BootHost())

    def perform(self, seat: int, *operations: op.Operation) -> None:
        software, below = self._hosts[seat]
        for operation in operations:
            inline(software.perform(operation), below)

    def make(self, seat: int, guest: int) -> None:
        """Bring a guest up."""
        self.perform(seat, op.Create(guest, self.mib, 1), op.Load(guest), op.Start(guest))

    def live(self, seat: int, guest: int) -> None:
        """A whole life of a guest: brought up and taken down."""
        self.make(seat, guest)
        self.perform(seat, op.Destroy(guest))

    def exits_of_life(self, seat: int, guest: int) -> int:
        """Exits that arrive at L0 in a guest's life."""
        before = self.ledger.flat().get("exits", 0)
        self.live(seat, guest)
        return self.ledger.flat().get("exits", 0) - before

    def time_of_life(self, seat: int, guest: int, times: int = TIMES) -> float:
        """Microseconds of the CPU's time that a guest's life takes: the fastest of several."""
        taken = []
        for _ in range(times):
            begin = time.process_time()
            self.live(seat, guest)
            taken.append(time.process_time() - begin)
        return 1e6 * min(taken)


def image_of(arch: str, pages: int) -> Any:
    comparison = load(arch).comparison
    assert comparison is not None
    return comparison.image(1, pages, None)
