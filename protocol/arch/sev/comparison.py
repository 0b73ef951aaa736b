"""What a comparison puts together on AMD: compositions whose levels live apart, SNP host software, images."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from protocol.arch.comparison import BaseComparison, Place, PlainImages
from protocol.arch.sev.compose import Rig
from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.host.system import Host, Kernel
from protocol.arch.sev.linked import WIRE, LinkedSev
from protocol.arch.sev.prices import PRICES
from protocol.arch.sev.profiles import PROFILES, Profile
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

LACKS = {
    "swap": "Linux does not swap the memory of SNP guests: guest_memfd holds it, so no host here does",
    "reset": "the registers of an SNP guest are encrypted: it is ended and launched anew, and never reset",
    "attest": "a guest's request to the firmware is no operation of this host software yet",
    "secret": "an SNP guest has no secrets in the firmware: what its owner gives it comes after attestation",
    "dump": "no call of the firmware dumps an SNP guest for its owner",
}
CANNOT = {"--record": "its host software writes no transcript yet"}


class SevComparison(PlainImages, BaseComparison[Rig]):
    """See `protocol.arch.contract.Comparison`."""

    wire = WIRE
    prices = PRICES
    reboot = "power"
    profiles = PROFILES
    lacks = LACKS
    cannot = CANNOT

    def rig(
        self, profile: Profile, depth: int, seed: int, strategy: Mapping[str, str], ledger: Ledger
    ) -> Rig:
        """Of strategies there is one: those of another name were refused before, by the profile."""
        return Rig(profile, depth, seed, ledger, apart=True)

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
        if bulk or record is not None:
            raise ValueError("bulk and transcripts are not built for this architecture")
        kernel = None if place.pool is None else Kernel(place.pool, rig.own_asids, rig.chain[0].lock)
        return Host(place.level, place.cpus, random, depth=place.depth, image=image, book=book, kernel=kernel)

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedSev:
        return LinkedSev(memory, [Cpu(number) for number in range(cpus)])

    def drawn(self, seed: int, length: int) -> bytes:
        return derive(seed, "guest image", length)


COMPARISON = SevComparison()
