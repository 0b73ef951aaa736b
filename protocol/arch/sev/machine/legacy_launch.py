"""Launch, attestation and debugging of legacy guests: sections 2.4, 3.3, 4.5 of the fact sheet."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING

from protocol.arch.sev.checks import legacy as checks
from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.crypto.digest import legacy_measurement
from protocol.arch.sev.crypto.identity import ECDSA_SHA384, PEK
from protocol.arch.sev.crypto.report import signature
from protocol.arch.sev.crypto.session import Keys
from protocol.arch.sev.machine.entities import LegacyGuest
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import GuestState, Status
from protocol.arch.sev.structs import HEADER_LEN, MEASURE_LEN, PAGE, REPORT_LEN, Buffer

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

COMPRESSED = 1
_SIGNED = 0x34


def update_data(fw: Machine, b: Buffer) -> Reply:
    return _update(fw, b, vmsa=False)


def update_vmsa(fw: Machine, b: Buffer) -> Reply:
    return _update(fw, b, vmsa=True)


def _update(fw: Machine, b: Buffer, vmsa: bool) -> Reply:
    """Plaintext goes into the digest and ciphertext into its place; the addresses are not measured."""
    found = checks.launch_update(fw, b, vmsa)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    plain = fw.fetch(b.pa, b.len)
    found.measured.update(plain)
    fw.seal(found.key, b.pa, plain)
    fw.ledger.count(("pages", "launch"), -(-len(plain) // PAGE))
    if vmsa:
        prove_vmsa(fw, found, b.pa)
    return DONE


def prove_vmsa(fw: Machine, guest: LegacyGuest, address: int) -> None:
    """Keep the checksum of a VMSA, as the trusted region does."""
    guest.vmsas[address // PAGE] = hashlib.sha256(fw.fetch(address, PAGE)).digest()


def measure(fw: Machine, b: Buffer) -> Reply:
    """A query of the length does not move the state."""
    found = checks.launch_measure(fw, b)
    if isinstance(found, Status):
        return Reply(found, b.out(len=MEASURE_LEN))
    assert isinstance(found, LegacyGuest)
    found.digest = found.measured.digest()
    blob = legacy_measurement(found.keys.tik, found.policy, found.digest, fw.secret("mnonce", 16))
    found.measurement = blob[:32]
    fw.deposit(b.pa, blob)
    found.state = GuestState.LSECRET
    return Reply(Status.SUCCESS, b.out(len=MEASURE_LEN))


def secret(fw: Machine, b: Buffer) -> Reply:
    """A packet of the owner's goes into the guest's memory."""
    found = checks.launch_secret(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    header, data = fw.fetch(b.hdr, HEADER_LEN), fw.fetch(b.trans, b.trans_len)
    plain = opened(found.keys, sessions.SECRET, header, data, found.measurement)
    if isinstance(plain, Status):
        return Reply(plain)
    fw.seal(found.key, b.guest, plain)
    return DONE


def opened(keys: Keys, what: int, header: bytes, data: bytes, measurement: bytes = b"") -> bytes | Status:
    """The plaintext of a packet: flags 4, IV 16, MAC 32, then the data."""
    flags, iv, mac = int.from_bytes(header[:4], "little"), header[4:20], header[20:52]
    if flags & COMPRESSED:
        return Status.UNSUPPORTED.because("compressed")
    if not hmac.compare_digest(mac, sessions.packet_mac(keys, what, flags, iv, data, measurement)):
        return Status.BAD_MEASUREMENT
    return sessions.ctr(keys.tek, iv, data)


def finish(fw: Machine, b: Buffer) -> Reply:
    found = checks.in_state(fw, b, GuestState.LSECRET)
    if isinstance(found, Status):
        return Reply(found)
    found.state = GuestState.RUNNING
    fw.platform.asids.finish(found.asid)
    return DONE


def attestation(fw: Machine, b: Buffer) -> Reply:
    """The legacy report, signed with the PEK."""
    found = checks.attestation(fw, b)
    if isinstance(found, Status):
        return Reply(found, b.out(len=REPORT_LEN))
    assert isinstance(found, LegacyGuest)
    report = bytearray(REPORT_LEN)
    report[0x00:0x10] = b.bytes_of("nonce")
    report[0x10:0x30] = found.digest
    report[0x30:0x34] = found.policy.to_bytes(4, "little")
    report[0x34:0x38] = PEK.to_bytes(4, "little")
    report[0x38:0x3C] = ECDSA_SHA384.to_bytes(4, "little")
    report[0x40:] = signature(fw.identity.key(PEK), bytes(report[:_SIGNED]))[:144]
    fw.deposit(b.pa, bytes(report))
    return Reply(Status.SUCCESS, b.out(len=REPORT_LEN))


def dbg_decrypt(fw: Machine, b: Buffer) -> Reply:
    found = checks.debug(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    fw.deposit(b.dst, fw.plain(found.key, b.src, b.len))
    return DONE


def dbg_encrypt(fw: Machine, b: Buffer) -> Reply:
    found = checks.debug(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    fw.seal(found.key, b.dst, fw.fetch(b.src, b.len))
    return DONE


def copy(fw: Machine, b: Buffer) -> Reply:
    """The bytes are encrypted for their new place."""
    found = checks.copy(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    fw.seal(found.key, b.dst, fw.plain(found.key, b.src, b.len))
    return DONE
