"""Dumps of a secure guest: sealed by the Ultravisor, opened by the owner with the customer communication key.

Layouts and key derivation: ibm-s390-linux/s390-tools `zdump/pv_defs.h`, `zdump/pv_utils.c` (section 8.2 of
the fact sheet). A dump has three parts. *Storage state* has 16 bytes for each page: the tweak component of
an encrypted page, or flags. A *CPU dump* and the *completion* are AES-256-GCM under a key that HKDF-SHA512
makes of the owner's CCK and of the completion's seed; the completion carries the XTS key and the nonce that
open the pages.

Left at zero, as nothing in this emulator has them: floating point, vector, access and control registers,
clock comparator, guarded storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Any, Self

from protocol.arch.s390.image.header import IV_BYTES, KEY_BYTES, TAG_BYTES, XTS_KEY_BYTES
from protocol.arch.s390.image.keys import gcm_open, gcm_seal
from protocol.arch.s390.image.pages import PAGE_BYTES, TWEAK_BYTES, decrypt_page, final_tweak

VERSION_1 = 1
SEED_BYTES = 64
CPU_BYTES = 1568
COMPLETION_BYTES = 288
COMPONENT_BYTES = TWEAK_BYTES
KEY_LABEL = b"IBM Z Ultravisor Dump"

ZERO, SHARED, MAPPED = 0x01, 0x02, 0x04  # last byte of a special component
_SPECIAL = 0xFFFF_FFFF
INTERRUPTED = 0x8000  # dump flags: an instruction was in the middle of emulation

_CPU_AAD = Struct(f">II{IV_BYTES}s12x")
_COMPLETION_AAD = Struct(f">II8x{SEED_BYTES}s{IV_BYTES}s4x")
_COMPLETION_KEYS = Struct(f">{TWEAK_BYTES}s{XTS_KEY_BYTES}s96x")
_CPU_AREA = Struct(">128s16s8xII4xIQQ8x64s128s")  # up to the vector registers, offset 416 of the dump
_FLAGS = Struct(">H")
_CPU_AREA_BYTES = 1520
_FLAGS_AT = 1536 - _CPU_AAD.size
_GPRS = Struct(">16Q")


class DumpError(ValueError):
    """A dump that does not open; the message says which part, and why."""


# -- storage state ------------------------------------------------------------------------------------


def special(flags: int) -> bytes:
    """The component of a page that is not encrypted."""
    return _SPECIAL.to_bytes(4, "big") + bytes(11) + bytes((flags,))


def flags_of(component: bytes) -> int | None:
    """The flags of a special component, None for one that is part of a tweak. Raises DumpError."""
    if int.from_bytes(component[:4], "big") != _SPECIAL:
        return None
    flags = component[15]
    known = ZERO | SHARED | MAPPED
    if component[14] or flags & ~known or not flags or (flags & ZERO and flags & SHARED):
        raise DumpError(f"a special component with flags {component[14:].hex()}")
    return flags


# -- CPUs ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CpuState:
    """The registers of a CPU that this emulator has."""

    gprs: tuple[int, ...]
    psw: bytes
    prefix: int
    timer: int
    interrupted: bool = False

    def pack(self) -> bytes:
        """Return the 1520 bytes that are encrypted."""
        head = _CPU_AREA.pack(
            _GPRS.pack(*self.gprs), self.psw, self.prefix, 0, 0, self.timer, 0, bytes(64), bytes(128)
        )
        area = bytearray(head.ljust(_CPU_AREA_BYTES, b"\0"))
        _FLAGS.pack_into(area, _FLAGS_AT, INTERRUPTED if self.interrupted else 0)
        return bytes(area)

    @classmethod
    def unpack(cls, area: bytes) -> Self:
        """Read the 1520 bytes."""
        gprs, psw, prefix, _, _, timer, _, _, _ = _CPU_AREA.unpack_from(area)
        flags = _FLAGS.unpack_from(area, _FLAGS_AT)[0]
        return cls(_GPRS.unpack(gprs), psw, prefix, timer, bool(flags & INTERRUPTED))


def seal_cpu(key: bytes, iv: bytes, state: CpuState) -> bytes:
    """A CPU dump of 1568 bytes. `iv` must not come twice under one key."""
    aad = _CPU_AAD.pack(VERSION_1, CPU_BYTES, iv)
    area, tag = gcm_seal(key, iv, aad, state.pack())
    return aad + area + tag


def open_cpu(key: bytes, dump: bytes) -> CpuState:
    """Open a CPU dump; what lies behind its 1568 bytes is not looked at. Raises DumpError."""
    version, length, iv = _head(_CPU_AAD, dump, CPU_BYTES, "the dump of a CPU")
    _check_form(version, length, CPU_BYTES, "the dump of a CPU")
    at, end = _CPU_AAD.size, CPU_BYTES - TAG_BYTES
    area = gcm_open(key, iv, dump[:at], dump[at:end], dump[end:CPU_BYTES])
    if area is None:
        raise DumpError("the dump of a CPU was changed, or is of another dump")
    return CpuState.unpack(area)


# -- completion ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Keys:
    """What the completion gives the owner: `gcm` opens CPU dumps, the others open pages."""

    gcm: bytes
    nonce: bytes
    xts_key: bytes


def dump_key(cck: bytes, seed: bytes) -> bytes:
    """The key of one dump, from the owner's CCK (32 bytes) and the dump's seed (64)."""
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA512(), KEY_BYTES, salt=seed, info=KEY_LABEL).derive(cck)


def seal_completion(key: bytes, iv: bytes, seed: bytes, nonce: bytes, xts_key: bytes) -> bytes:
    """The completion of 288 bytes."""
    aad = _COMPLETION_AAD.pack(VERSION_1, COMPLETION_BYTES, seed, iv)
    area, tag = gcm_seal(key, iv, aad, _COMPLETION_KEYS.pack(nonce, xts_key))
    return aad + area + tag


def open_completion(cck: bytes, completion: bytes) -> Keys:
    """Open a completion with the owner's CCK. Raises DumpError."""
    version, length, seed, iv = _head(_COMPLETION_AAD, completion, COMPLETION_BYTES, "the completion")
    _check_form(version, length, COMPLETION_BYTES, "the completion")
    key = dump_key(cck, seed)
    at, end = _COMPLETION_AAD.size, COMPLETION_BYTES - TAG_BYTES
    area = gcm_open(key, iv, completion[:at], completion[at:end], completion[end:COMPLETION_BYTES])
    if area is None:
        raise DumpError("the completion does not open with this CCK, or was changed")
    nonce, xts_key = _COMPLETION_KEYS.unpack(area)
    return Keys(key, nonce, xts_key)


# -- a whole dump -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A dump in the clear: the guest's `length` bytes, of which `pages` has those that are not all zero."""

    cpus: tuple[CpuState, ...]
    length: int
    pages: Mapping[int, bytes]

    def read(self, address: int, length: int) -> bytes:
        """Guest storage as it was, at a guest absolute address. Raises DumpError beyond the storage state."""
        if address < 0 or address + length > self.length:
            raise DumpError(f"{address:#x} + {length:#x} lies behind the {self.length:#x} bytes of the dump")
        first, last = address // PAGE_BYTES, (address + length + PAGE_BYTES - 1) // PAGE_BYTES
        run = b"".join(self.pages.get(page, bytes(PAGE_BYTES)) for page in range(first, last))
        return run[address % PAGE_BYTES :][:length]


def open_dump(
    cck: bytes,
    completion: bytes,
    cpus: Iterable[bytes],
    storage_state: bytes,
    memory: Mapping[int, bytes],
) -> Opened:
    """Open a dump: `storage_state` from guest address 0 on, `memory` what the host read, by page number.

    Raises DumpError, also for a page that was still secure: nobody exported it before its state was taken.
    """
    keys = open_completion(cck, completion)
    pages = {}
    for page in range(len(storage_state) // COMPONENT_BYTES):
        component = storage_state[page * COMPONENT_BYTES :][:COMPONENT_BYTES]
        plain = _open_page(keys, component, page, memory)
        if plain is not None:
            pages[page] = plain
    opened = tuple(open_cpu(keys.gcm, cpu) for cpu in cpus)
    return Opened(opened, len(storage_state) // COMPONENT_BYTES * PAGE_BYTES, pages)


def _open_page(keys: Keys, component: bytes, page: int, memory: Mapping[int, bytes]) -> bytes | None:
    flags = flags_of(component)
    if flags is not None and flags & ZERO:
        return None
    if flags == MAPPED:
        raise DumpError(f"page {page:#x} was secure when its state was taken: it has to be exported before")
    found = memory.get(page)
    if found is None or len(found) != PAGE_BYTES:
        raise DumpError(f"page {page:#x} has contents, but the dump has no page of memory for it")
    return found if flags is not None else open_page(keys, component, found)


def open_page(keys: Keys, component: bytes, data: bytes) -> bytes:
    """Decrypt an exported page."""
    return decrypt_page(keys.xts_key, final_tweak(component, keys.nonce), data)


def _head(form: Struct, raw: bytes, length: int, what: str) -> tuple[Any, ...]:
    if len(raw) < length:
        raise DumpError(f"{what} has {length} bytes, not {len(raw)}")
    return form.unpack_from(raw)


def _check_form(version: int, length: int, right: int, what: str) -> None:
    if version != VERSION_1 or length != right:
        raise DumpError(f"{what} is version {version} of {length} bytes; version 1 of {right} is known")
