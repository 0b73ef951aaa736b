"""What a comparison puts together on Intel: compositions of levels apart, TDX host software, images."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import shake_256
from random import Random

from protocol.arch.comparison import BaseComparison, Place, PlainImages
from protocol.arch.tdx.compose import Rig
from protocol.arch.tdx.cpu import Lp
from protocol.arch.tdx.firmware import sections
from protocol.arch.tdx.host.system import Host, Kernel
from protocol.arch.tdx.linked import WIRE, LinkedTdx
from protocol.arch.tdx.prices import PRICES
from protocol.arch.tdx.profiles import MIB, PROFILES, Profile
from protocol.arch.tdx.recorded import RecordedTdx
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

LACKS = {
    "swap": "Linux does not swap the memory of TDs: guest_memfd holds it, so no host here does",
    "reset": "a TD cannot be reset: its VCPUs and its measurement are fixed, so it is ended and built anew",
    "secret": "a TD has no secrets in the TDX module: what its owner gives it comes after attestation",
    "dump": "no call of the TDX module dumps a TD for its owner",
}


class TdxComparison(PlainImages, BaseComparison[Rig]):
    """See `protocol.arch.contract.Comparison`."""

    wire = WIRE
    prices = PRICES
    reboot = "boot"
    profiles = PROFILES
    lacks = LACKS
    moves = ("restart", "the ABI has TDH.EXPORT and TDH.IMPORT, and no kernel issues them")
    vcpu_type = None

    def rig(
        self, profile: Profile, depth: int, seed: int, strategy: Mapping[str, str], ledger: Ledger
    ) -> Rig:
        """Of strategies there is one: those of another name were refused before, by the profile."""
        return Rig(profile, depth, seed, ledger, apart=True)

    def for_all(self, profile: Profile, hosts: int, memory: int, cpus: int) -> Profile:
        return profile.below(hosts, memory // MIB, cpus)

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
        """It draws nothing at random."""
        level = place.level if record is None else RecordedTdx(place.level, record)
        kernel = None if place.pool is None else Kernel(rig.chain[0].own, rig.chain[0].own_keys)
        return Host(
            level,
            place.cpus,
            depth=place.depth,
            image=image,
            book=book,
            bulk=bulk,
            prefault=pages == "prefault",
            machine_seed=rig.seed,
            kernel=kernel,
        )

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedTdx:
        return LinkedTdx(memory, [Lp(number) for number in range(cpus)])

    def firmware(
        self, data: bytes, vcpu_type: str | None, kernel: bytes | None, initrd: bytes, command_line: str
    ) -> bytes:
        """What QEMU has added before the TD runs. Raises ValueError for what MRTD does not hold."""
        if vcpu_type is not None:
            raise ValueError("--vcpu-type: no model of VCPUs is in a TD's measurement")
        if kernel is not None or initrd or command_line:
            raise ValueError("--kernel: firmware measures it in RTMRs when it runs, not the launch in MRTD")
        if not sections(data):
            raise ValueError("no TDVF: nothing in it says what goes where")
        return self.image(0, 0, data)

    def drawn(self, seed: int, length: int) -> bytes:
        return shake_256(f"{seed}:guest image".encode()).digest(length)

    def image(self, seed: int, pages: int, data: bytes | None) -> bytes:
        """What is added page by page: firmware that says what goes where, or any bytes."""
        if data is not None:
            sections(data)  # is the firmware one that can be loaded?
        return super().image(seed, pages, data)


COMPARISON = TdxComparison()
