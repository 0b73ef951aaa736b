"""What a comparison puts together on POWER: compositions whose levels live apart, host software, images."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from protocol.arch.comparison import BaseComparison, Place, PlainImages
from protocol.arch.pef.compose import Rig
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.host import Host
from protocol.arch.pef.linked import WIRE, LinkedPef
from protocol.arch.pef.prices import PRICES
from protocol.arch.pef.profiles import PROFILES, V1, V2, Profile
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

LACKS = {
    "attest": "no ultracall reports on an SVM: that its lockbox opens is the proof of what it is",
    "secret": "an SVM's secrets come in its ESM blob while it is loaded, not by a call later on",
    "dump": "no ultracall dumps an SVM for its owner",
}
NO_LOCKS = (
    "no call of the ultravisor as modelled here is refused because of another one; LPIDs are held while calls"
    " and VCPUs that name them are under way below"
)


class PefComparison(PlainImages, BaseComparison[Rig]):
    """See `protocol.arch.contract.Comparison`."""

    wire = WIRE
    prices = PRICES
    reboot = "system"
    profiles = PROFILES
    lacks = LACKS
    no_locks = NO_LOCKS
    moves = ("restart", "the ultravisor has no call for it")

    def rig(
        self, profile: Profile, depth: int, seed: int, strategy: Mapping[str, str], ledger: Ledger
    ) -> Rig:
        """Handles passed: nesting API v2, where the level below picks LPIDs; mapped: v1."""
        api = V1 if strategy.get("handles") == "mapped" else V2
        return Rig(profile, depth, seed, ledger, apart=True, reflected=profile.reflected, api=api)

    def for_all(self, profile: Profile, hosts: int, memory: int, cpus: int) -> Profile:
        return profile.below(hosts)

    def host(
        self,
        rig: Rig,
        place: Place,
        random: Random,
        *,
        pages: str,
        bulk: bool,
        image: bytes | None,
        book: Book | None,
        record: Say | None,
    ) -> Host:
        if bulk:
            raise ValueError(
                "on POWER the ultravisor asks for a page and the host answers: runs of calls are rare"
            )
        own = None if place.pool is None else rig.own
        return Host(
            place.level,
            place.cpus,
            random,
            depth=place.depth,
            image=image,
            book=book,
            own=own,
            record=record,
        )

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedPef:
        return LinkedPef(memory, [Cpu(number) for number in range(cpus)])

    def drawn(self, seed: int, length: int) -> bytes:
        """The kernel of every guest."""
        return Random(f"{seed}:image").randbytes(length)


COMPARISON = PefComparison()
