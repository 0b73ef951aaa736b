"""What a comparison puts together on Intel: compositions of levels apart, TDX host software, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import shake_256
from random import Random
from typing import Any

from protocol.arch.tdx.compose import Rig, compose
from protocol.arch.tdx.firmware import sections
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.linked import WIRE, LinkedTdx
from protocol.arch.tdx.prices import PRICES
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.arch.tdx.recorded import RecordedTdx
from protocol.effects import Step
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

LACKS = {
    "swap": "Linux does not swap the memory of TDs: guest_memfd holds it, so no host here does",
    "reset": "a TD cannot be reset: its VCPUs and its measurement are fixed, so it is ended and built anew",
    "secret": "a TD has no secrets in the TDX module: what its owner gives it comes after attestation",
    "dump": "no call of the TDX module dumps a TD for its owner",
}
CANNOT = {
    "--processes": "levels of this architecture have no form on the wire yet",
}


class TdxComparison:
    """See `protocol.arch.contract.Comparison`."""

    wire = WIRE
    prices = PRICES
    reboot = "boot"
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
        if depth == 0 and hosts > 1:
            sizes = sizes.below(hosts, memory_bytes // MIB, cpus)
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
        record: Say | None = None,
    ) -> Host:
        """It draws nothing at random. Raises ValueError for what this software cannot."""
        if seat is None or pool is not None:
            raise ValueError("software of L0's own beside its guest hosts is not built for this architecture")
        place = rig.seats[seat]
        chosen = place.lps if cpus is None else [place.lps[number] for number in cpus]
        seen = rig.seen(place.level)
        level = seen if record is None else RecordedTdx(seen, record)
        return Host(level, chosen, depth=rig.depth, image=image, book=book, bulk=bulk, machine_seed=rig.seed)

    # -- with L1 in a process of its own: not built

    def lower(self, *_: Any) -> Rig:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedTdx:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    def upper(self, *_: Any) -> Step[Rig]:
        raise ValueError(f"--processes: {CANNOT['--processes']}")

    # -- images

    def image(self, seed: int, pages: int, data: bytes | None) -> bytes:
        """What is added page by page: firmware that says what goes where, or any bytes."""
        if data is None:
            return shake_256(f"{seed}:guest image".encode()).digest(pages * PAGE)
        sections(data)  # is the firmware one that can be loaded?
        return data + bytes(-len(data) % PAGE)

    def pack_image(self, image: bytes) -> bytes:
        return image

    def unpack_image(self, data: bytes) -> bytes:
        if not data or len(data) % PAGE:
            raise ValueError(f"no image: {len(data)} bytes are no whole pages")
        return data


COMPARISON = TdxComparison()
