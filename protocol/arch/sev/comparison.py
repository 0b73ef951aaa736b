"""What a comparison puts together on AMD: compositions whose levels live apart, SNP host software, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.host.system import Host
from protocol.arch.sev.linked import WIRE, LinkedSev
from protocol.arch.sev.prices import PRICES
from protocol.arch.sev.profiles import PROFILES
from protocol.arch.sev.structs import PAGE
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

LACKS = {
    "swap": "Linux does not swap the memory of SNP guests: guest_memfd holds it, so no host here does",
    "reset": "the registers of an SNP guest are encrypted: it is ended and launched anew, and never reset",
    "attest": "a guest's request to the firmware is no operation of this host software yet",
    "secret": "an SNP guest has no secrets in the firmware: what its owner gives it comes after attestation",
    "dump": "no call of the firmware dumps an SNP guest for its owner",
}
CANNOT = {
    "--processes": "L0 and its guest hosts cannot be put into processes of their own here yet",
    "--record": "its host software writes no transcript yet",
}


class SevComparison:
    """See `protocol.arch.contract.Comparison`."""

    wire = WIRE
    prices = PRICES
    reboot = "power"
    lacks = LACKS
    cannot = CANNOT

    def compose(
        self,
        profile: str,
        depth: int,
        hosts: int,
        memory_bytes: int,
        cpus: int,
        seed: int,
        strategy: Mapping[str, str],
        ledger: Ledger,
        spare: int = 0,
    ) -> Rig:
        """Of strategies there is one: those of another name were refused before, by the profile."""
        assert not spare, "L0 runs no guests of its own beside its guest hosts"
        sizes = PROFILES[profile]
        if depth == 0:
            sizes = sizes.below(hosts)
            hosts = 1
        return compose(sizes, depth, hosts, memory_bytes, cpus, seed, ledger, apart=True)

    def software(
        self,
        rig: Rig,
        seat: int | None,
        random: Random,
        *,
        pages: str,
        bulk: bool,
        image: bytes | None = None,
        pool: Pool | None = None,
        cpus: Sequence[int] | None = None,
        book: Book | None = None,
        record: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> Host:
        """Raises ValueError for what this software cannot."""
        if seat is None or pool is not None:
            raise ValueError("software of L0's own beside its guest hosts is not built for this architecture")
        if bulk or record is not None:
            raise ValueError("bulk and transcripts are not built for this architecture")
        place = rig.seats[seat]
        chosen = place.cpus if cpus is None else [place.cpus[number] for number in cpus]
        return Host(rig.seen(place.level), chosen, random, depth=rig.depth, image=image, book=book)

    # -- with L1 in a process of its own: not built

    def lower(self, *_: Any) -> Rig:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedSev:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    def upper(self, *_: Any) -> Step[Rig]:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    # -- images

    def image(self, seed: int, pages: int, data: bytes | None) -> bytes:
        """What is measured at launch, page by page: the bytes of a file, or some drawn from the seed."""
        if data is None:
            return derive(seed, "guest image", pages * PAGE)
        return data + bytes(-len(data) % PAGE)

    def pack_image(self, image: bytes) -> bytes:
        return image

    def unpack_image(self, data: bytes) -> bytes:
        if not data or len(data) % PAGE:
            raise ValueError(f"no image: {len(data)} bytes are no whole pages")
        return data


COMPARISON = SevComparison()
