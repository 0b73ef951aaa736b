"""Legacy guests travel: SEND_*, RECEIVE_*, SWAP_*, with packets opened and packed anew. Section 7.2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.checks import legacy as checks
from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.crypto.identity import PDH
from protocol.arch.sev.host.driver import undone
from protocol.arch.sev.machine.legacy_launch import opened
from protocol.arch.sev.machine.legacy_transport import peer_of
from protocol.arch.sev.nesting.entities import TrackedGuest
from protocol.arch.sev.nesting.legacy import (
    bounced,
    lent,
    own_certificate,
    packet_in,
    pieces,
    session_from_below,
)
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import DOMAIN, SEV, GuestState, Status
from protocol.arch.sev.structs import CERT_LEN, HEADER_LEN, MDATA_LEN, PAGE, SESSION_LEN, TWO_MIB, Buffer
from protocol.calls import CallSpec
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested


def send_start(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The platform below sends to this level, and this level to the peer.

    Where the policy wants a chain up to the vendor's root that cannot be: this level has none.
    """
    found = checks.send_start(n, b)
    if isinstance(found, Status):
        return Reply(found, b.out(session_len=SESSION_LEN))
    assert isinstance(found, TrackedGuest)
    peer = peer_of(n, b, found.policy)
    if isinstance(peer, Status):
        return Reply(peer)
    if found.policy & (SEV | DOMAIN):
        return Reply(Status.UNSUPPORTED)
    bounce = n.port.bounce
    n.port.driver.write(bounce + PAGE, own_certificate(n))
    status = yield from bounced(
        n,
        1,
        spec.name,
        handle=n.handle_below(found),
        pdh=bounce + PAGE,
        pdh_len=CERT_LEN,
        session=bounce,
        session_len=SESSION_LEN,
    )
    if status:
        return Reply(status)
    blob = n.port.driver.read(bounce, SESSION_LEN)
    found.keys = yield from session_from_below(n, blob, found.policy)
    nonce, iv = n.secret("session nonce", 16), n.secret("session iv", 16)
    shared = sessions.master(n.identity.key(PDH), peer, nonce)
    yield from n.make_way(b.session, SESSION_LEN)
    n.deposit(b.session, sessions.wrap(shared, found.keys, nonce, iv, found.policy))
    found.state = GuestState.SUPDATE
    return Reply(Status.SUCCESS, b.out(policy=found.policy, session_len=SESSION_LEN))


def send_update(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """A packet for each page comes from below; the guest host gets one."""
    vmsa = spec.name.endswith("VMSA")
    found = checks.send_update(n, b, vmsa)
    lengths = b.out(hdr_len=HEADER_LEN, trans_len=b.guest_len)
    if isinstance(found, Status):
        return Reply(found, lengths)
    assert isinstance(found, TrackedGuest)
    what = sessions.SEND_VMSA if vmsa else sessions.SEND_DATA
    plain = bytearray()
    for offset, length in pieces(b.guest, b.guest_len):
        part = yield from _packet_out(n, found, spec.name, what, b.guest + offset, length)
        if isinstance(part, Status):
            return Reply(part)
        plain += part
    iv = n.secret("packet iv", 16)
    data = sessions.ctr(found.keys.tek, iv, bytes(plain))
    yield from n.make_way(b.hdr, HEADER_LEN)
    yield from n.make_way(b.trans, len(data))
    n.deposit(b.trans, data)
    n.deposit(b.hdr, bytes(4) + iv + sessions.packet_mac(found.keys, what, 0, iv, data))
    return Reply(Status.SUCCESS, lengths)


def _packet_out(
    n: Nested, guest: TrackedGuest, name: str, what: int, address: int, length: int
) -> Step[bytes | Status]:
    bounce = n.port.bounce
    place = {"hdr": bounce, "hdr_len": HEADER_LEN, "trans": bounce + PAGE, "trans_len": length}
    place |= {"guest": n.operand_below(address), "guest_len": length}
    status = yield from bounced(n, 2, name, handle=n.handle_below(guest), **place)
    if status:
        return Status(status)
    header, data = n.port.driver.read(bounce, HEADER_LEN), n.port.driver.read(bounce + PAGE, length)
    return opened(guest.keys, what, header, data)


def receive_update(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    vmsa = spec.name.endswith("VMSA")
    found = checks.receive_update(n, b, vmsa)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, TrackedGuest)
    what = sessions.SEND_VMSA if vmsa else sessions.SEND_DATA
    plain = opened(found.keys, what, n.fetch(b.hdr, HEADER_LEN), n.fetch(b.trans, b.trans_len))
    if isinstance(plain, Status):
        return Reply(plain)
    for offset, length in pieces(b.guest, b.guest_len):
        part = plain[offset : offset + length]
        status = yield from packet_in(n, found, spec.name, what, b.guest + offset, part)
        if status:
            return Reply(status)
    return DONE


def swap(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """SWAP_OUT and SWAP_IN: the metadata entry is bounced. Large pages have to be in one piece below."""
    out = spec.name == "SWAP_OUT"
    found = checks.swap(n, b, out)
    if isinstance(found, Status):
        return Reply(found)
    assert isinstance(found, TrackedGuest)
    large = bool(b.flags & checks.SWAP_LARGE)
    if large and not all(n.in_one_piece(at // PAGE) for at in (b.src, b.dst)):
        return Reply(Status.UNSUPPORTED)
    written = range(b.dst, b.dst + (TWO_MIB if large else PAGE), PAGE)
    bounce = n.port.bounce
    place = {"src": n.operand_below(b.src), "dst": n.operand_below(b.dst), "mdata": bounce}
    place |= {"handle": n.handle_below(found), "flags": b.flags}
    if not out:
        n.port.driver.write(bounce, n.fetch(b.mdata, MDATA_LEN))
        return Reply((yield from lent(n, written, spec.name, **place)))

    def with_metadata() -> Step[int]:
        yield from n.port.lend(bounce)
        return (yield from lent(n, written, spec.name, sw_data=b.sw_data, **place))

    status = yield from undone(with_metadata(), lambda: n.port.take_back(bounce))
    if not status:
        yield from n.make_way(b.mdata, MDATA_LEN)
        n.deposit(b.mdata, n.port.driver.read(bounce, MDATA_LEN))
    return Reply(status)
