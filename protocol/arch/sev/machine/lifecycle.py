"""A launch ends, a guest is debugged: LAUNCH_FINISH, DBG_DECRYPT, DBG_ENCRYPT. Sections 2.6, 3.4, 4.5."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from protocol.arch.sev.checks import pages
from protocol.arch.sev.checks import snp as checks
from protocol.arch.sev.crypto.identity import public_key, verifies
from protocol.arch.sev.machine.entities import SnpGuest
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import ContextState, Status
from protocol.arch.sev.structs import PAGE, Buffer
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

ID_BLOCK_LEN = 0x60
PUBLIC_KEY_LEN = 0x404
ECDSA_P384 = 1


def launch_finish(fw: Machine, b: Buffer) -> Step[Reply]:
    found = checks.launch_finish(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, SnpGuest)
    if b.flags & checks.ID_BLOCK_EN:
        block, auth = fw.fetch(b.id_block, ID_BLOCK_LEN), fw.fetch(b.id_auth, PAGE)
        if status := _id_block(found, block, auth, bool(b.flags & checks.AUTH_KEY_EN)):
            return Reply(status)
    yield from fw.hold((found.frame,))
    if b.flags & checks.ID_BLOCK_EN:
        _take_id(found, block, auth, bool(b.flags & checks.AUTH_KEY_EN))
    found.vcek_disabled = bool(b.flags & checks.VCEK_DIS)
    found.host_data = b.bytes_of("host_data")
    found.state = ContextState.RUNNING
    fw.platform.asids.finish(found.asid)
    return DONE


def _id_block(guest: SnpGuest, block: bytes, auth: bytes, with_author: bool) -> Status:
    """In this order: digest, policy, algorithms, the ID's signature, the author's."""
    if block[:48] != guest.digest:
        return Status.BAD_MEASUREMENT
    if int.from_bytes(block[0x58:0x60], "little") != guest.policy:
        return Status.POLICY_FAILURE
    algorithms = [auth[:4], auth[4:8]] if with_author else [auth[:4]]
    if any(int.from_bytes(one, "little") != ECDSA_P384 for one in algorithms):
        return Status.INVALID_PARAM.because("algorithm")
    if not _signed(auth[0x240:0x644], auth[0x40:0x240], block):
        return Status.BAD_SIGNATURE
    if with_author and not _signed(auth[0x880:0xC84], auth[0x680:0x880], auth[0x240:0x644]):
        return Status.BAD_SIGNATURE
    return Status.SUCCESS


def _signed(raw_key: bytes, signature: bytes, data: bytes) -> bool:
    key = public_key(raw_key)
    return key is not None and verifies(key, signature, data)


def _take_id(guest: SnpGuest, block: bytes, auth: bytes, with_author: bool) -> None:
    guest.has_id_block = True
    guest.family, guest.image = block[0x30:0x40], block[0x40:0x50]
    guest.svn = int.from_bytes(block[0x54:0x58], "little")
    guest.id_digest = hashlib.sha384(auth[0x240:0x644]).digest()
    guest.author_key = with_author
    if with_author:
        guest.author_digest = hashlib.sha384(auth[0x880:0xC84]).digest()


def dbg_decrypt(fw: Machine, b: Buffer) -> Step[Reply]:
    found = pages.debug(fw, b, encrypt=False)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found.guest, SnpGuest)
    yield from fw.hold((fw.rmp.head(found.frame), found.other))
    fw.deposit(b.dst, fw.plain(found.guest.key, b.src, PAGE))
    return DONE


def dbg_encrypt(fw: Machine, b: Buffer) -> Step[Reply]:
    found = pages.debug(fw, b, encrypt=True)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found.guest, SnpGuest)
    yield from fw.hold((fw.rmp.head(found.other),))
    fw.seal(found.guest.key, b.dst, fw.fetch(b.src, PAGE))
    return DONE
