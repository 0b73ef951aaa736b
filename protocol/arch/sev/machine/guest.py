"""What a guest asks the secure processor, sealed, through its host:

SNP_GUEST_REQUEST. Sections 2.6, 3.4, 4.5.

Modelled are REPORT and KEY. The messages of migration, CPUID and TSC_INFO are refused like types that this
firmware does not know.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from protocol.arch.sev.checks import snp as checks
from protocol.arch.sev.crypto import message as messages
from protocol.arch.sev.crypto.certificates import vcek, vlek
from protocol.arch.sev.crypto.message import Message
from protocol.arch.sev.crypto.report import NO_KEY, VCEK, VLEK, Body, sign
from protocol.arch.sev.machine.entities import SnpGuest
from protocol.arch.sev.profiles import TCB
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import PAGE, SNP_REPORT_LEN, Buffer
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

REPORT_LEN = 0x60
KEY_LEN = 0x20
_EXHAUSTED = (1 << 64) - 2


def guest_request(fw: Machine, b: Buffer) -> Step[Reply]:
    """The counter moves only if there is a response, and what the guest did wrong is said inside of that."""
    found = checks.guest_request(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, SnpGuest)
    message = Message.unpack(fw.fetch(b.req, PAGE))
    if message is None:
        return Reply(Status.INVALID_PARAM.because("header"))
    key = found.vmpcks[message.vmpck]
    request = message.open(key)
    if request is None:
        return Reply(Status.BAD_MEASUREMENT)
    count = found.counts[message.vmpck]
    if message.sequence != count + 1 or count >= _EXHAUSTED:
        return Reply(Status.AEAD_OFLOW)
    answer = _answer(fw, found, message, request)
    if answer is None:
        return Reply(Status.INVALID_PARAM.because("type"))
    yield from fw.hold((b.resp // PAGE,))
    found.counts[message.vmpck] = count + 2
    sealed = messages.seal(key, message.kind + 1, count + 2, message.vmpck, answer)
    fw.deposit(b.resp, sealed.ljust(PAGE, b"\0"))
    return DONE


def _answer(fw: Machine, guest: SnpGuest, message: Message, request: bytes) -> bytes | None:
    if message.version != messages.MESSAGE_VERSION:
        return None
    if message.kind == messages.REPORT_REQ and len(request) == REPORT_LEN:
        return _report(fw, guest, message.vmpck, request)
    if message.kind == messages.KEY_REQ and len(request) == KEY_LEN:
        return _key(fw, guest, message.vmpck, request)
    return None


# -- attestation ---------------------------------------------------------------------------------------


def _report(fw: Machine, guest: SnpGuest, vmpck: int, request: bytes) -> bytes:
    """Status, size, and the report at 0x20."""
    vmpl = int.from_bytes(request[0x40:0x44], "little")
    select = int.from_bytes(request[0x44:0x48], "little")
    reserved = select & ~3 or any(request[0x48:0x60])
    which = _signing_key(fw, guest, select & 3)
    if reserved:
        return _report_reply(Status.INVALID_PARAM)
    if which is None:
        return _report_reply(Status.INVALID_KEY)
    if vmpl < vmpck or vmpl > 3:
        return _report_reply(Status.INVALID_PARAM)
    platform = fw.platform
    key = None
    if not platform.mask_chip_key:
        key = vlek(*fw.vlek) if which == VLEK and fw.vlek else vcek(fw.seed, platform.reported_tcb)
    signing = NO_KEY if key is None else which
    flags = int(guest.author_key) | int(platform.mask_chip_key) << 1 | signing << 2
    body = _body(fw, guest, vmpl, flags, request[:0x40], masked=platform.mask_chip_id or which == VLEK)
    return _report_reply(Status.SUCCESS, sign(body, key))


def _report_reply(status: Status, report: bytes = b"") -> bytes:
    head = status.to_bytes(4, "little") + len(report).to_bytes(4, "little") + bytes(24)
    return head + report.ljust(SNP_REPORT_LEN, b"\0")


def _signing_key(fw: Machine, guest: SnpGuest, select: int) -> int | None:
    """0 the VLEK if there is one, else the VCEK; 1 the VCEK; 2 the VLEK."""
    if select == 2 or (select == 0 and fw.vlek is not None):
        return VLEK if fw.vlek is not None else None
    if select == 3 or guest.vcek_disabled:
        return None
    return VCEK


def _body(fw: Machine, guest: SnpGuest, vmpl: int, flags: int, data: bytes, masked: bool) -> Body:
    agent = fw.platform.contexts.get(guest.agent) if guest.agent else None
    return Body(
        svn=guest.svn,
        policy=guest.policy,
        family=guest.family,
        image=guest.image,
        vmpl=vmpl,
        tcb=TCB,
        reported_tcb=fw.platform.reported_tcb,
        committed_tcb=TCB,
        launch_tcb=guest.launch_tcb,
        key_flags=flags,
        data=data,
        measurement=guest.digest,
        host_data=guest.host_data,
        id_digest=guest.id_digest,
        author_digest=guest.author_digest,
        report_id=guest.report_id,
        report_id_ma=agent.report_id if agent else b"\xff" * 32,
        chip_id=bytes(64) if masked else fw.chip,
    )


# -- derived keys --------------------------------------------------------------------------------------


def _key(fw: Machine, guest: SnpGuest, vmpck: int, request: bytes) -> bytes:
    """A key that depends on chip, guest and what the guest wants mixed in.

    Layout from general knowledge (guess).
    """
    root = int.from_bytes(request[:4], "little")
    vmpl = int.from_bytes(request[0x10:0x14], "little")
    svn = int.from_bytes(request[0x14:0x18], "little")
    too_new = any(new > old for new, old in zip(request[0x18:0x20], TCB, strict=True))
    if root & ~7 or vmpl < vmpck or vmpl > 3 or svn > guest.svn or too_new:
        return Status.INVALID_PARAM.to_bytes(4, "little") + bytes(0x3C)
    which = _signing_key(fw, guest, root >> 1 & 3)
    if root & 1 or which is None:  # 1 asks for a key of migration, which no guest has here
        return Status.INVALID_KEY.to_bytes(4, "little") + bytes(0x3C)
    secret = fw.vlek[0] if which == VLEK and fw.vlek else fw.chip_secret
    fields = (guest.policy.to_bytes(8, "little"), guest.image, guest.family, guest.digest)
    select = int.from_bytes(request[8:16], "little")
    mixed = b"".join(value for bit, value in enumerate(fields) if select >> bit & 1)
    derived = hmac.digest(secret, request + mixed, "sha256")
    return bytes(0x20) + derived
