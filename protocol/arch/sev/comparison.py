"""What a comparison puts together on AMD: compositions whose levels live apart, SNP host software, images."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from protocol.arch.comparison import BaseComparison, Place, PlainImages
from protocol.arch.sev.compose import Rig
from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.host.kinds import KINDS, Kind
from protocol.arch.sev.host.system import Host, Kernel
from protocol.arch.sev.image import firmware_image, with_secrets
from protocol.arch.sev.linked import WIRE, LinkedSev
from protocol.arch.sev.ovmf import kernel_hashes
from protocol.arch.sev.prices import PRICES
from protocol.arch.sev.profiles import PROFILES, Profile
from protocol.arch.sev.recorded import RecordedSev
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

_RESET = "no call of the firmware takes a launched guest back to its start: it is ended and launched anew"
_DUMP = "no call of the firmware dumps a guest for its owner"
_SECRETS = "a secret is injected before the launch is finished, and none is part of the plan's launch"
LACKS = {
    "swap": "Linux does not swap the memory of SEV guests: it is pinned, so no host here does",
    "reset": _RESET,
    "secret": _SECRETS,
    "dump": _DUMP,
}
SNP_LACKS = {
    "swap": "Linux does not swap the memory of SNP guests: guest_memfd holds it, so no host here does",
    "reset": _RESET,
    "secret": "an SNP guest has no secrets in the firmware: what its owner gives it comes after attestation",
    "dump": _DUMP,
}


# How a guest goes to another machine (`protocol.fleet.moving`), and why so. Section 6.8 of the fact sheet.
MOVES = {
    "sev": ("send", "SEND_* and RECEIVE_*, as Linux issues them"),
    "sev-es": ("restart", "KVM has no call that moves encrypted registers"),
    "snp": ("restart", "the ABI has SNP_PAGE_SWAP_OUT and a migration agent, and no kernel issues them"),
}


class SevComparison(PlainImages, BaseComparison[Rig]):
    """Of guests of one kind. See `protocol.arch.contract.Comparison`."""

    wire = WIRE
    prices = PRICES
    reboot = "power"
    vcpu_type = "EPYC-v4"

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.profiles = {name: profile.of_kind(kind.name) for name, profile in PROFILES.items()}
        self.moves = MOVES[kind.name]
        self.lacks = SNP_LACKS if kind.snp else LACKS

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
        kernel = None if place.pool is None else Kernel(place.pool, rig.own_asids, rig.chain[0].lock)
        return Host(
            place.level if record is None else RecordedSev(place.level, record),
            place.cpus,
            random,
            depth=place.depth,
            image=image,
            book=book,
            kernel=kernel,
            kind=self._kind,
            pages=pages,
            bulk=bulk,
        )

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedSev:
        return LinkedSev(memory, [Cpu(number) for number in range(cpus)])

    def firmware(
        self, data: bytes, vcpu_type: str, kernel: bytes | None, initrd: bytes, command_line: str
    ) -> bytes:
        """An image that is launched as QEMU launches firmware. Raises ValueError for what cannot be."""
        hashes = b"" if kernel is None else kernel_hashes(kernel, initrd, command_line)
        return firmware_image(data, vcpu_type, hashes)

    def proving(self, image: bytes) -> bytes:
        """An SNP guest has the keys of its messages from a secrets page, and that is part of its launch."""
        return with_secrets(image) if self._kind.snp else image

    def drawn(self, seed: int, length: int) -> bytes:
        return derive(seed, "guest image", length)


COMPARISONS = {name: SevComparison(kind) for name, kind in KINDS.items()}
