"""What a comparison puts together on POWER: compositions whose levels live apart, host software, images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from protocol.arch.pef.compose import Rig, compose
from protocol.arch.pef.host import Host
from protocol.arch.pef.linked import LinkedPef
from protocol.arch.pef.prices import PRICES
from protocol.arch.pef.profiles import PROFILES
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

PAGE = 4096  # of a plan
CANNOT = {
    "--processes": "levels of this architecture have no form on the wire yet",
    "--record": "its host software writes no transcript yet",
}
LACKS = {
    "attest": "no ultracall gives evidence: what an image carries opens on the right machine only",
    "secret": "secrets come with the image: no ultracall adds one to a running SVM",
    "dump": "no ultracall dumps an SVM for its owner",
}


class PefComparison:
    """See `protocol.arch.contract.Comparison`."""

    wire: tuple[type, ...] = ()
    prices = PRICES
    reboot = "system"
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
        """Handles passed: nesting API v2, where the level below picks LPIDs; mapped: v1."""
        assert not spare, "L0 runs no guests of its own beside its guest hosts"
        sizes = PROFILES[profile]
        if depth == 0:
            sizes = sizes.below(hosts)
            hosts = 1
        api = "v1" if strategy.get("handles") == "mapped" else "v2"
        return compose(sizes, depth, hosts, memory_bytes, cpus, seed, ledger, apart=True, api=api)

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

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedPef:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    def upper(self, *_: Any) -> Step[Rig]:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    # -- images

    def image(self, seed: int, pages: int, data: bytes | None) -> bytes:
        """The kernel of every guest: the bytes of a file, or some drawn from the seed."""
        if data is None:
            return Random(f"{seed}:image").randbytes(pages * PAGE)
        return data + bytes(-len(data) % PAGE)

    def pack_image(self, image: bytes) -> bytes:
        return image

    def unpack_image(self, data: bytes) -> bytes:
        if not data or len(data) % PAGE:
            raise ValueError(f"no image: {len(data)} bytes are no whole pages")
        return data


COMPARISON = PefComparison()
