"""What the Ultravisor does with an SE header at Set Secure Configuration Parameters.

Reason codes: ibm-s390-linux/s390-tools `rust/pvimg/boot/stage3a.c`, which names the frequent ones only.
Inferred: the structure is looked at before any key, as nothing can be found in a header of unknown shape;
the secret flags come last, as they are encrypted. Guesses, marked below: the order between the rest, and
the reasons of damage that the list does not name.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from protocol.arch.s390.image.header import (
    FIXED_BYTES,
    HEADER_BYTES_MAX,
    MAGIC,
    PCF_BACKUP_KEY,
    SECRETS_BYTES,
    SLOT_BYTES,
    TAG_BYTES,
    VERSION_1,
    Fixed,
    Secrets,
    Slot,
    unpack_slots,
)
from protocol.arch.s390.image.keys import HostKey, SlotFailure, gcm_open, unwrap


@dataclass(frozen=True, slots=True)
class Unsealed:
    """What a configuration has after its parameters were set; `pages` counts the pages to be unpacked.

    `tag` is the header's; with the three digests it names the image in attestation and add-secret requests.
    `key_hash` names the key of this machine that opened it.
    """

    cck: bytes
    xts_key: bytes
    psw: bytes
    scf: int
    pcf: int
    pages: int
    pld: bytes
    ald: bytes
    tld: bytes
    tag: bytes
    key_hash: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """The return code and return reason code of a header that is not taken."""

    rc: int
    rrc: int


VERSION = Refusal(0x0104, 0x0001)
MAGIC_WRONG = Refusal(0x0104, 0x0000)  # guess
FLAGS = Refusal(0x0106, 0x0030)
NO_SLOTS = Refusal(0x010A, 0x0040)
LENGTH = Refusal(0x010A, 0x0031)
AREA = Refusal(0x010A, 0x0039)
CUSTOMER_KEY = Refusal(0x0108, 0x000B)
HOST_KEY = Refusal(0x0108, 0x0005)
BACKUP_KEY = Refusal(0x0108, 0x0034)
SLOT_DAMAGED = Refusal(0x0108, 0x0006)  # guess: the reason; the group is the one for keys that do not fit
AREA_DAMAGED = Refusal(0x0108, 0x0007)  # guess: as above
SECRET_FLAGS = Refusal(0x0109, 0x0000)


@lru_cache(maxsize=64)
def unseal(
    header: bytes,
    key: HostKey,
    *,
    supported_pcf: int,
    supported_scf: int,
    backup: HostKey | None = None,
) -> Unsealed | Refusal:
    """Open a header with this machine's keys. `header` has exactly the length that the call gave.

    A single changed bit anywhere gives a Refusal: what no check sees is covered by the two AES-GCM tags.
    Guests of one image share what comes of its header: it is opened once, and kept once.
    """
    # A header too short for its fixed part is judged by the fields that it has, then by its length: a guess.
    fixed = Fixed.unpack(header.ljust(FIXED_BYTES, b"\0"))
    refusal = _check_shape(fixed, len(header), supported_pcf)
    if refusal is not None:
        return refusal

    area_at = len(header) - TAG_BYTES - SECRETS_BYTES
    slots = unpack_slots(header[FIXED_BYTES:area_at])
    protection_key = _protection_key(slots, fixed, key, backup)
    if isinstance(protection_key, Refusal):
        return protection_key

    plain = gcm_open(
        protection_key, fixed.iv, header[:area_at], header[area_at:-TAG_BYTES], header[-TAG_BYTES:]
    )
    if plain is None:
        return AREA_DAMAGED
    secrets = Secrets.unpack(plain)
    if secrets.scf & ~supported_scf:
        return SECRET_FLAGS
    if secrets.items:
        return AREA  # guess: no optional item is known, hence none can be taken
    opened_by = key if backup is None or any(slot.key_hash == key.public_hash for slot in slots) else backup
    return Unsealed(
        cck=secrets.cck,
        xts_key=secrets.xts_key,
        psw=secrets.psw,
        scf=secrets.scf,
        pcf=fixed.pcf,
        pages=fixed.pages,
        pld=fixed.pld,
        ald=fixed.ald,
        tld=fixed.tld,
        tag=header[-TAG_BYTES:],
        key_hash=opened_by.public_hash,
    )


def _check_shape(fixed: Fixed, length: int, supported_pcf: int) -> Refusal | None:
    """Check what needs no key, in the order of the refusals above."""
    if fixed.version != VERSION_1:
        return VERSION
    if fixed.magic != MAGIC:
        return MAGIC_WRONG
    if fixed.pcf & ~supported_pcf:
        return FLAGS
    if length >= FIXED_BYTES and fixed.slots == 0:
        return NO_SLOTS
    if fixed.size != length or length > HEADER_BYTES_MAX:
        return LENGTH
    # As in an attestation request (sheet 8.5): what the slots and the tag leave over decides, then the size
    # field must say the same. That keeps the two reasons apart when one field is wrong.
    left = length - FIXED_BYTES - fixed.slots * SLOT_BYTES - TAG_BYTES
    if left < SECRETS_BYTES:
        return LENGTH
    if fixed.area_bytes != left or left != SECRETS_BYTES:
        return AREA
    return None


def _protection_key(
    slots: tuple[Slot, ...], fixed: Fixed, key: HostKey, backup: HostKey | None
) -> bytes | Refusal:
    """Open a slot: this machine's, else its backup's if the owner allows that one (guess: tried second)."""
    got = unwrap(slots, fixed.customer_key, key)
    tried_backup = got is SlotFailure.NO_SLOT and backup is not None and bool(fixed.pcf & PCF_BACKUP_KEY)
    if tried_backup and backup is not None:
        got = unwrap(slots, fixed.customer_key, backup)
    match got:
        case SlotFailure.CUSTOMER_KEY:
            return CUSTOMER_KEY
        case SlotFailure.NO_SLOT:
            return BACKUP_KEY if tried_backup else HOST_KEY
        case SlotFailure.TAG:
            return SLOT_DAMAGED
        case _:
            return got
