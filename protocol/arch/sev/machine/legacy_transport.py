"""Legacy guests travel: SEND_*, RECEIVE_*, and pages swapped out by the firmware. Sections 2.4, 2.8, 3.3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from protocol.arch.sev.books import reachable, writable
from protocol.arch.sev.checks import legacy as checks
from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.crypto.identity import ASK, CEK, OCA, PDH, PEK, key_in, signed_by
from protocol.arch.sev.crypto.session import Keys
from protocol.arch.sev.machine.entities import LegacyGuest
from protocol.arch.sev.machine.legacy import Platformed
from protocol.arch.sev.machine.legacy_launch import opened, prove_vmsa
from protocol.arch.sev.machine.swap import Mdata, open_page, seal_page
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import DOMAIN, SEV, GuestState, Status
from protocol.arch.sev.structs import (
    CERT_LEN,
    CHAIN_LEN,
    HEADER_LEN,
    MDATA_LEN,
    PAGE,
    SESSION_LEN,
    TWO_MIB,
    Buffer,
)

if TYPE_CHECKING:
    from protocol.arch.sev.machine import Machine

_SWAPS = 1 << 62


def send_start(fw: Machine, b: Buffer) -> Reply:
    """The peer's PDH takes part in the session; its chain is read only if the policy speaks of it."""
    found = checks.send_start(fw, b)
    if isinstance(found, Status):
        return Reply(found, b.out(session_len=SESSION_LEN))
    assert isinstance(found, LegacyGuest)
    peer = peer_of(fw, b, found.policy)
    if isinstance(peer, Status):
        return Reply(peer)
    nonce, iv = fw.secret("session nonce", 16), fw.secret("session iv", 16)
    found.keys = Keys(fw.secret("tek", 16), fw.secret("tik", 16))
    shared = sessions.master(fw.identity.key(PDH), peer, nonce)
    fw.deposit(b.session, sessions.wrap(shared, found.keys, nonce, iv, found.policy))
    found.state = GuestState.SUPDATE
    return Reply(Status.SUCCESS, b.out(policy=found.policy, session_len=SESSION_LEN))


def peer_of(fw: Platformed, b: Buffer, policy: int) -> ec.EllipticCurvePublicKey | Status:
    """The key of the platform that the guest goes to, if the policy lets it go there."""
    if policy & SEV and not _chain_fits(fw, b, domain=False):
        return Status.POLICY_FAILURE.because("certificates")
    if not reachable(fw, b.session, SESSION_LEN):
        return Status.INVALID_ADDRESS
    if not writable(fw, b.session, SESSION_LEN):
        return Status.INVALID_PAGE_STATE
    if policy & DOMAIN and not _chain_fits(fw, b, domain=True):
        return Status.POLICY_FAILURE.because("domain")
    if b.pdh_len != CERT_LEN:
        return Status.INVALID_LENGTH.because("certificate length")
    if not reachable(fw, b.pdh, CERT_LEN):
        return Status.INVALID_ADDRESS
    return key_in(fw.fetch(b.pdh, CERT_LEN), PDH) or Status.INVALID_CERTIFICATE


def _chain_fits(fw: Platformed, b: Buffer, domain: bool) -> bool:
    """PDH, PEK and OCA hang together, and up to the vendor's root or to this platform's own owner."""
    if b.pdh_len != CERT_LEN or b.plat_len < CHAIN_LEN:
        return False
    if not reachable(fw, b.pdh, CERT_LEN) or not reachable(fw, b.plat, CHAIN_LEN):
        return False
    pdh, chain = fw.fetch(b.pdh, CERT_LEN), fw.fetch(b.plat, CHAIN_LEN)
    pek, oca, cek = (chain[n * CERT_LEN : (n + 1) * CERT_LEN] for n in range(3))
    pek_key, oca_key, cek_key = key_in(pek, PEK), key_in(oca, OCA), key_in(cek, CEK)
    if pek_key is None or key_in(pdh, PDH) is None or not signed_by(pdh, PEK, pek_key):
        return False
    if domain:
        return oca_key is not None and signed_by(pek, OCA, oca_key) and oca == fw.identity.oca()
    root = fw.identity.key(ASK).public_key()
    return cek_key is not None and signed_by(pek, CEK, cek_key) and signed_by(cek, ASK, root)


def send_update_data(fw: Machine, b: Buffer) -> Reply:
    return _send(fw, b, vmsa=False)


def send_update_vmsa(fw: Machine, b: Buffer) -> Reply:
    return _send(fw, b, vmsa=True)


def _send(fw: Machine, b: Buffer, vmsa: bool) -> Reply:
    found = checks.send_update(fw, b, vmsa)
    lengths = b.out(hdr_len=HEADER_LEN, trans_len=b.guest_len)
    if isinstance(found, Status):
        return Reply(found, lengths)
    assert isinstance(found, LegacyGuest)
    iv = fw.secret("packet iv", 16)
    data = sessions.ctr(found.keys.tek, iv, fw.plain(found.key, b.guest, b.guest_len))
    what = sessions.SEND_VMSA if vmsa else sessions.SEND_DATA
    fw.deposit(b.trans, data)
    fw.deposit(b.hdr, bytes(4) + iv + sessions.packet_mac(found.keys, what, 0, iv, data))
    return Reply(Status.SUCCESS, lengths)


def send_finish(fw: Machine, b: Buffer) -> Reply:
    return _to(fw, b, GuestState.SUPDATE, GuestState.SENT)


def send_cancel(fw: Machine, b: Buffer) -> Reply:
    return _to(fw, b, GuestState.SUPDATE, GuestState.RUNNING)


def receive_finish(fw: Machine, b: Buffer) -> Reply:
    reply = _to(fw, b, GuestState.RUPDATE, GuestState.RUNNING)
    if reply is DONE:
        fw.platform.asids.finish(fw.platform.guests[b.handle].asid)
    return reply


def _to(fw: Machine, b: Buffer, old: GuestState, new: GuestState) -> Reply:
    found = checks.in_state(fw, b, old)
    if isinstance(found, Status):
        return Reply(found)
    found.state = new
    return DONE


def receive_update_data(fw: Machine, b: Buffer) -> Reply:
    return _receive(fw, b, vmsa=False)


def receive_update_vmsa(fw: Machine, b: Buffer) -> Reply:
    return _receive(fw, b, vmsa=True)


def _receive(fw: Machine, b: Buffer, vmsa: bool) -> Reply:
    found = checks.receive_update(fw, b, vmsa)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    what = sessions.SEND_VMSA if vmsa else sessions.SEND_DATA
    plain = opened(found.keys, what, fw.fetch(b.hdr, HEADER_LEN), fw.fetch(b.trans, b.trans_len))
    if isinstance(plain, Status):
        return Reply(plain)
    fw.seal(found.key, b.guest, plain)
    if vmsa:
        prove_vmsa(fw, found, b.guest)
    return DONE


# -- swapping ------------------------------------------------------------------------------------------


def swap_out(fw: Machine, b: Buffer) -> Reply:
    """The page goes out under the guest's offline key, and what proves it into a metadata entry."""
    found = checks.swap(fw, b, out=True)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    size, kind = _size(b), b.flags >> 1 & 3
    if found.swap_iv >= _SWAPS:  # pragma: no cover - the sheet has it; nobody swaps 2^62 times
        return Reply(Status.AEAD_OFLOW)
    if kind == 2 and b.src // PAGE not in found.vmsas:
        return Reply(Status.INVALID_PARAM.because("type"))
    found.swap_iv += 1
    mdata = Mdata(b.sw_data, found.swap_iv, vmsa=kind == 2, metadata=kind == 1, large=size > PAGE)
    sealed, entry = seal_page(found.oek, mdata, fw.plain(found.key, b.src, size))
    fw.deposit(b.dst, sealed)
    fw.deposit(b.mdata, entry)
    return DONE


def swap_in(fw: Machine, b: Buffer) -> Reply:
    found = checks.swap(fw, b, out=False)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, LegacyGuest)
    mdata, kind = Mdata.unpack(fw.fetch(b.mdata, MDATA_LEN)), b.flags >> 1 & 3
    if mdata is None or (mdata.vmsa, mdata.metadata, mdata.large) != (kind == 2, kind == 1, _size(b) > PAGE):
        return Reply(Status.INVALID_PARAM.because("type"))
    plain = open_page(found.oek, mdata, fw.fetch(b.src, _size(b)))
    if plain is None:
        return Reply(Status.BAD_MEASUREMENT)
    fw.seal(found.key, b.dst, plain)
    if mdata.vmsa:
        prove_vmsa(fw, found, b.dst)
    return DONE


def _size(b: Buffer) -> int:
    return TWO_MIB if b.flags & checks.SWAP_LARGE else PAGE
