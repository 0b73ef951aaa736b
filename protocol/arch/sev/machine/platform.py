"""Commands that ask about the platform or set it up: sections 2.3, 2.5, 3.4 of the fact sheet.

An update of the firmware is not modelled: one that passes its checks is UNSUPPORTED. So is the ring buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from protocol.arch.sev.checks import platform as checks
from protocol.arch.sev.crypto.keys import derive
from protocol.arch.sev.profiles import API_MAJOR, API_MINOR, BUILD, TCB
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import U32, Buffer
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.front import Front
    from protocol.arch.sev.machine import Machine

MASK_CHIP_ID, MASK_CHIP_KEY, VLEK_EN, FEATURE_INFO = 1, 2, 4, 8
MAX_SUBFUNCTION = 1


def platform_status(fw: Machine, b: Buffer) -> Reply:
    return legacy_status(fw, b)


def legacy_status(fw: Front, b: Buffer) -> Reply:
    platform = fw.platform
    out = b.out(
        api_major=API_MAJOR,
        api_minor=API_MINOR,
        state=platform.sev,
        owner=int(platform.owned),
        config=int(platform.es),
        build=BUILD,
        guest_count=len(platform.guests),
    )
    return Reply(Status.SUCCESS, out)


def nop(fw: Machine, b: Buffer) -> Reply:
    return DONE


def download_firmware(fw: Machine, b: Buffer) -> Reply:
    return Reply(checks.download_firmware(fw, b) or Status.UNSUPPORTED)


def ring_buffer(fw: Machine, b: Buffer) -> Reply:
    return Reply(checks.ring_buffer(fw, b) or Status.UNSUPPORTED)


def snp_platform_status(fw: Machine, b: Buffer) -> Step[Reply]:
    if status := checks.snp_platform_status(fw, b):
        return Reply(status)
    yield from fw.hold((b.status >> 12,))
    fw.deposit(b.status, snp_status(fw, fw.vlek is not None))
    return DONE


def snp_status(fw: Front, vlek: bool) -> bytes:
    """The status page of 2.5; what is installed, running and committed is the same."""
    platform = fw.platform
    flags = FEATURE_INFO
    flags |= MASK_CHIP_ID if platform.mask_chip_id else 0
    flags |= MASK_CHIP_KEY if platform.mask_chip_key else 0
    flags |= VLEK_EN if vlek else 0
    head = bytes((API_MAJOR, API_MINOR, platform.snp, int(platform.rmp_valid)))
    numbers = U32.pack(BUILD) + U32.pack(flags) + U32.pack(platform.snp_guests)
    return head + numbers + TCB + platform.reported_tcb


def snp_feature_info(fw: Machine, b: Buffer) -> Step[Reply]:
    if status := checks.snp_feature_info(fw, b):
        return Reply(status)
    yield from fw.hold((b.pa >> 12,))
    fw.deposit(b.pa, feature_info(b.ecx))
    return DONE


def feature_info(subfunction: int) -> bytes:
    """CPUID Fn8000_0024 as the firmware gives it: none of the features that it could name is offered."""
    eax = MAX_SUBFUNCTION if subfunction == 0 else 0
    return U32.pack(eax) + bytes(12)


def snp_config(fw: Machine, b: Buffer) -> Step[Reply]:
    if status := checks.snp_config(fw, b, TCB):
        return Reply(status)
    yield from fw.hold()
    configure(fw, b)
    return DONE


def configure(fw: Front, b: Buffer) -> None:
    fw.platform.reported_tcb = b.bytes_of("tcb")
    fw.platform.mask_chip_id = bool(b.masks & 1)
    fw.platform.mask_chip_key = bool(b.masks & 2)


def snp_download_firmware(fw: Machine, b: Buffer) -> Reply:
    return Reply(checks.snp_download_firmware(fw, b) or Status.UNSUPPORTED)


def snp_commit(fw: Machine, b: Buffer) -> Step[Reply]:
    """What runs is committed already."""
    if status := checks.snp_commit(fw, b):
        return Reply(status)
    yield from fw.hold()
    return DONE


def snp_vlek_load(fw: Machine, b: Buffer) -> Step[Reply]:
    """The wrapped key of 2.8; the wrapping key is shared by this chip and whoever issues VLEKs for it."""
    if status := checks.snp_vlek_load(fw, b):
        return Reply(status)
    raw = fw.fetch(b.pa, 0x1B0)
    if raw[0x190:0x198] != fw.platform.reported_tcb:
        return Reply(Status.BAD_SVN)
    try:
        seeds = AESGCM(derive(fw.seed, "vlek wrapping", 32)).decrypt(
            raw[:0xC], raw[0x10:0x190] + raw[0x1A0:0x1B0], raw[0x190:0x1A0]
        )
    except InvalidTag:
        return Reply(Status.BAD_MEASUREMENT)
    yield from fw.hold()
    fw.vlek = seeds, raw[0x190:0x198]
    return DONE
