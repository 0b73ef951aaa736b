"""What guests are launched with: plain bytes, or firmware as QEMU starts it.

An image travels as bytes, of whole pages. Plain ones are loaded from the first page behind 64 KiB on, with
VCPUs whose registers are zero. A page before them says that the guest wants evidence of itself: it stands for
the secrets page, which is added behind them as QEMU does it. Firmware has a head that says so, its VCPUs
start as a type of QEMU's, and it names its secrets page itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct

import msgpack

from protocol.arch.sev.ovmf import Firmware
from protocol.arch.sev.status import PageType
from protocol.arch.sev.structs import PAGE, SNP_ACTIVE, U64, VMSA_FEATURES
from protocol.arch.sev.vmsa import FIRST_START, VCPU_TYPES, after_reset
from protocol.plan.fit import FIRST_PAGES

_HEAD = Struct("<16sI")  # what it is, and the length of what follows
_MAGIC = b"nestbed firmware"
_EVIDENCE = b"nestbed evidence".ljust(PAGE, b"\0")
SECRETS_PAGE = 2  # of the guest's, which no image and no plan uses


@dataclass(frozen=True, slots=True)
class Page:
    """One page to be added: its type counts for SNP guests alone."""

    gpa: int
    kind: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Launch:
    """What is measured, in order: pages, then the registers of each VCPU."""

    pages: Sequence[Page]
    vmsas: Sequence[bytes]


def firmware_image(firmware: bytes, vcpu_type: str, hashes: bytes = b"") -> bytes:
    """An image of firmware. Raises ValueError for an unknown VCPU type and for what is no firmware."""
    Firmware(firmware)
    if vcpu_type not in VCPU_TYPES:
        raise ValueError(f"VCPU type {vcpu_type!r}; allowed: {', '.join(VCPU_TYPES)}")
    body: bytes = msgpack.packb((vcpu_type, hashes, firmware))
    packed = _HEAD.pack(_MAGIC, len(body)) + body
    return packed + bytes(-len(packed) % PAGE)


def with_secrets(image: bytes) -> bytes:
    """The image of an SNP guest that can ask its firmware for a report."""
    return image if image.startswith(_MAGIC) else _EVIDENCE + image


def launch_of(image: bytes, vcpus: int, snp: bool) -> Launch:
    """What a guest with so many VCPUs is launched with. Raises ValueError for firmware that cannot do it."""
    if not image.startswith(_MAGIC):
        secrets = image.startswith(_EVIDENCE)
        image = image[PAGE:] if secrets else image
        pages = [
            Page((FIRST_PAGES + n) * PAGE, PageType.NORMAL, image[n * PAGE : (n + 1) * PAGE])
            for n in range(len(image) // PAGE)
        ]
        if secrets and snp:
            pages.append(Page(SECRETS_PAGE * PAGE, PageType.SECRETS, bytes(PAGE)))
        plain = bytearray(PAGE)
        plain[VMSA_FEATURES : VMSA_FEATURES + 8] = U64.pack(SNP_ACTIVE if snp else 0)
        return Launch(pages, [bytes(plain)] * vcpus)
    vcpu_type, hashes, data = _unwrapped(image)
    firmware, rdx = Firmware(data), VCPU_TYPES[vcpu_type]
    starts = [FIRST_START] + ([firmware.start_of_others] * (vcpus - 1) if vcpus > 1 else [])
    vmsas = [after_reset(start, rdx, snp) for start in starts]
    if snp:
        return Launch([Page(*each) for each in firmware.pages(hashes)], vmsas)
    legacy = [
        Page(firmware.gpa + at, PageType.NORMAL, data[at : at + PAGE]) for at in range(0, len(data), PAGE)
    ]
    if hashes:  # not a whole page: it is encrypted where the firmware looks for it
        legacy.append(Page(firmware.hash_table, PageType.NORMAL, hashes))
    return Launch(legacy, vmsas)


def _unwrapped(image: bytes) -> tuple[str, bytes, bytes]:
    """VCPU type, table of hashes and firmware: who wants a guest brought them. Raises ValueError."""
    if len(image) < _HEAD.size:
        raise ValueError("firmware without its head")
    _, length = _HEAD.unpack_from(image)
    try:
        vcpu_type, hashes, data = msgpack.unpackb(image[_HEAD.size : _HEAD.size + length])
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError(f"what is wrapped around the firmware cannot be read: {error!r}") from error
    if type(vcpu_type) is not str or type(hashes) is not bytes or type(data) is not bytes:
        raise ValueError("the VCPU type is a text, hashes and firmware are bytes")
    if vcpu_type not in VCPU_TYPES:
        raise ValueError(f"VCPU type {vcpu_type[:40]!r}; allowed: {', '.join(VCPU_TYPES)}")
    return vcpu_type, hashes, data
