"""Pages of guests leave memory and come back:

SNP_PAGE_SWAP_OUT and IN, and metadata entries. Sections 2.6, 2.8, 3.4.

A page goes out under the guest's offline key with AES-256-GCM; the entry that proves it names its GPA and
masks, so that it comes back as what it was. Replaying an old entry is prevented by where entries lie: in
pages of the firmware's.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.arch.sev.checks import pages as checks
from protocol.arch.sev.machine.entities import SnpGuest
from protocol.arch.sev.machine.memory import make_metadata
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE, LARGE, VALIDATED, VMSA
from protocol.arch.sev.status import Status, SwapType
from protocol.arch.sev.structs import MDATA_LEN, PAGE, TWO_MIB, Buffer
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

_ENTRY = Struct("<QQ16sQQ16x")
_VALID, _VALIDATED, _VMSA, _METADATA, _LARGE = 1, 2, 4, 8, 16
_COUNTER_END = 1 << 62


@dataclass(frozen=True, slots=True)
class Mdata:
    """A metadata entry. `gpa` has its low 12 bits zero."""

    software: int
    iv: int
    validated: bool = False
    vmsa: bool = False
    metadata: bool = False
    large: bool = False
    gpa: int = 0
    perms: int = 0
    tag: bytes = bytes(16)

    def pack(self, tag: bytes) -> bytes:
        marks = (self.validated, self.vmsa, self.metadata, self.large)
        flags = _VALID | sum(bit for bit, on in zip((2, 4, 8, 16), marks, strict=True) if on)
        return _ENTRY.pack(self.software, self.iv, tag, flags | self.gpa, self.perms)

    @classmethod
    def unpack(cls, raw: bytes) -> Mdata | None:
        """None if the entry is not valid."""
        software, iv, tag, word, perms = _ENTRY.unpack(raw)
        if not word & _VALID:
            return None
        validated, vmsa, metadata, large = (
            bool(word & bit) for bit in (_VALIDATED, _VMSA, _METADATA, _LARGE)
        )
        return cls(software, iv, validated, vmsa, metadata, large, word & ~0xFFF, perms, tag)


def seal_page(oek: bytes, mdata: Mdata, plain: bytes) -> tuple[bytes, bytes]:
    """(ciphertext, metadata entry)."""
    aad = mdata.pack(bytes(16))
    sealed = AESGCM(oek).encrypt(mdata.iv.to_bytes(12, "little"), plain, aad)
    return sealed[:-16], mdata.pack(sealed[-16:])


def open_page(oek: bytes, mdata: Mdata, sealed: bytes) -> bytes | None:
    """The plaintext, or None if page and entry do not belong together."""
    aad = mdata.pack(bytes(16))
    try:
        return AESGCM(oek).decrypt(mdata.iv.to_bytes(12, "little"), sealed + mdata.tag, aad)
    except InvalidTag:
        return None


def swap_out(fw: Machine, b: Buffer) -> Step[Reply]:
    """A metadata page is Firmware again behind it (inferred); every other page waits as Pre-Guest."""
    found = checks.swap_out(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    guest, kind, size = found.guest, b.flags >> 1 & 3, _size(b)
    assert isinstance(guest, SnpGuest)
    if guest.swap_iv >= _COUNTER_END:  # pragma: no cover - the sheet has it; nobody swaps so often
        return Reply(Status.AEAD_OFLOW)
    yield from fw.hold((found.frame, found.other))
    guest.swap_iv += 1
    flags = fw.rmp.flags_of(found.frame)
    metadata = kind == SwapType.METADATA
    mdata = Mdata(
        b.sw_data,
        guest.swap_iv,
        bool(flags & VALIDATED),
        not metadata and bool(flags & VMSA),
        metadata,
        size > PAGE,
        0 if metadata else fw.rmp.gpa_of(found.frame),
        fw.rmp.perms_of(found.frame),
    )
    plain = fw.fetch(b.src, size) if metadata else fw.plain(guest.key, b.src, size)
    sealed, entry = seal_page(guest.oek, mdata, plain)
    fw.deposit(b.dst, sealed)
    if b.flags & checks.ROOT_MDATA:
        guest.root_mdata = entry
    else:
        fw.deposit(b.mdata, entry)
    if metadata:
        fw.rmp.put(found.frame, ASSIGNED | IMMUTABLE)
    else:
        fw.rmp.change(found.frame, clear=VALIDATED | VMSA)
    return DONE


def swap_in(fw: Machine, b: Buffer) -> Step[Reply]:
    """The page takes GPA, masks and marks from its entry, which is used up."""
    found = checks.swap_in_start(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, SnpGuest)
    root = bool(b.flags & checks.ROOT_MDATA)
    mdata = Mdata.unpack(found.root_mdata if root else fw.fetch(b.mdata, MDATA_LEN))
    if mdata is None or not _fits(mdata, b):
        return Reply(Status.INVALID_MDATA_ENTRY)
    places = checks.swap_in_finish(fw, found, b)
    if isinstance(places, Status):
        return Reply(places)
    plain = open_page(found.oek, mdata, fw.fetch(b.src, _size(b)))
    if plain is None:
        return Reply(Status.BAD_MEASUREMENT)
    yield from fw.hold((places.other,))
    if root:
        found.root_mdata = bytes(MDATA_LEN)
    else:
        fw.deposit(b.mdata, bytes(MDATA_LEN))
    if mdata.metadata:
        make_metadata(fw.rmp, places.other, found.frame)
        fw.deposit(b.dst, plain)
        return DONE
    flags = ASSIGNED | (LARGE if mdata.large else 0)
    flags |= (VALIDATED if mdata.validated else 0) | (VMSA if mdata.vmsa else 0)
    fw.rmp.put(places.other, flags, found.asid, mdata.gpa >> 12, mdata.perms)
    fw.seal(found.key, b.dst, plain)
    return DONE


def _fits(mdata: Mdata, b: Buffer) -> bool:
    kind = b.flags >> 1 & 3
    wanted = kind == SwapType.VMSA, kind == SwapType.METADATA, bool(b.flags & checks.SIZE)
    return (mdata.vmsa, mdata.metadata, mdata.large) == wanted


def _size(b: Buffer) -> int:
    return TWO_MIB if b.flags & checks.SIZE else PAGE
