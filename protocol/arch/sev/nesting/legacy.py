"""Commands about legacy guests: re-issued with handles mapped, ASIDs and addresses exchanged. Section 7.2.

SNP is up at the level below, so every page that a command writes is lent to the firmware for as long as the
command takes; buffers are split where the guest host's pages end. This level takes part in every session on
the guest host's behalf: it has the transport's keys, and wraps them anew for the platform below. (With real
parts that means to trust it with them; nobody offers nested SEV.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from protocol.arch.sev.books import Guest
from protocol.arch.sev.checks import legacy as checks
from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.crypto.identity import PDH, PEK, certificate, key_in
from protocol.arch.sev.crypto.keys import derive, p384_key
from protocol.arch.sev.crypto.report import signature
from protocol.arch.sev.crypto.session import Keys
from protocol.arch.sev.host.driver import undone
from protocol.arch.sev.machine.legacy import NO_SESSION, RUNS, forget, session_keys, status_reply
from protocol.arch.sev.machine.legacy_launch import opened
from protocol.arch.sev.nesting.entities import TrackedGuest
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import GuestState, SevState, Status
from protocol.arch.sev.structs import (
    CERT_LEN,
    CHAIN_LEN,
    HEADER_LEN,
    MEASURE_LEN,
    PAGE,
    REPORT_LEN,
    SESSION_LEN,
    Buffer,
)
from protocol.calls import CallSpec
from protocol.effects import Step
from protocol.errors import OwnerGone
from protocol.memory.physical import chunks

if TYPE_CHECKING:
    from protocol.arch.sev.nesting import Nested

_SIGNED = 0x34


def pieces(address: int, length: int, other: int | None = None) -> Iterator[tuple[int, int]]:
    """(offset, length) of parts that cross no page border, neither here nor at `other`."""
    for at, n in chunks(address, length):
        offset = at - address
        if other is None:
            yield offset, n
        else:
            yield from ((offset + a - (other + offset), m) for a, m in chunks(other + offset, n))


def lent(n: Nested, addresses: Iterable[int], name: str, **fields: int) -> Step[int]:
    """A command that writes these pages of the guest host's:

    they are the firmware's below until it is done.
    """
    frames = sorted({address // PAGE for address in addresses})
    places = [n.frame_below(frame) * PAGE for frame in frames if not n.real[frame]]
    status = yield from _with_pages(n, places, name, **fields)
    n.stored_below(frames)
    return status


def bounced(n: Nested, count: int, name: str, **fields: int) -> Step[int]:
    """A command that writes the first `count` bounce pages of this level."""
    return _with_pages(n, [n.port.bounce + page * PAGE for page in range(count)], name, **fields)


def _with_pages(n: Nested, pages: list[int], name: str, **fields: int) -> Step[int]:
    """What is lent comes back whatever happens meanwhile; taking back what was not lent does no harm."""

    def work() -> Step[int]:
        for page in pages:
            yield from n.port.lend(page)
        return (yield from n.port.command(name, **fields))

    def undo() -> Step[None]:
        for page in pages:
            yield from n.port.take_back(page)

    return undone(work(), undo)


# -- guests come and go --------------------------------------------------------------------------------


def launch_start(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    if status := checks.up(n):
        return Reply(status)
    if not b.dh:
        return (yield from _new(n, spec.name, b, NO_SESSION, GuestState.LUPDATE))
    keys = session_keys(n, b, b.dh, b.dh_len)
    if isinstance(keys, Status):
        return Reply(keys)
    if status := checks.policy_fits(b.policy):
        return Reply(status)
    return (yield from _new(n, spec.name, b, keys, GuestState.LUPDATE))


def receive_start(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    if status := checks.up(n):
        return Reply(status)
    keys = session_keys(n, b, b.pdh, b.pdh_len)
    if isinstance(keys, Status):
        return Reply(keys)
    return (yield from _new(n, spec.name, b, keys, GuestState.RUPDATE))


def _new(n: Nested, name: str, b: Buffer, keys: Keys, state: GuestState) -> Step[Reply]:
    shared = checks.new_guest(n, b)
    if isinstance(shared, Status):
        return Reply(shared)
    fields = {"policy": b.policy}
    if isinstance(shared, TrackedGuest):
        fields["handle"] = n.handle_below(shared)
    if keys is not NO_SESSION:
        yield from _wrap_anew(n, keys, b.policy)
        cert = "dh" if name == "LAUNCH_START" else "pdh"
        fields |= {cert: n.port.bounce, f"{cert}_len": CERT_LEN}
        fields |= {"session": n.port.bounce + PAGE, "session_len": SESSION_LEN}
    try:
        status = yield from n.port.command(name, **fields)
    except OwnerGone:
        made = n.port.field(name, "handle")
        if made != fields.get("handle", 0):  # the platform below has a guest that nobody will track
            yield from n.port.command("DECOMMISSION", handle=made)
        raise
    if status:
        return Reply(status)
    handle = n.platform.free_handle(n.profile.handles)
    real = n.port.field(name, "handle")
    n.platform.guests[handle] = TrackedGuest(handle, b.policy, state, real=real, keys=keys)
    n.platform.sev = SevState.WORKING
    n.book.add("vm_map")
    return Reply(Status.SUCCESS, b.out(handle=handle))


def _own_key(n: Nested) -> ec.EllipticCurvePrivateKey:
    """This level's end of its sessions with the platform below."""
    return p384_key(derive(n.seed, f"{n.level} session", 64))


def platform_below(n: Nested) -> Step[ec.EllipticCurvePublicKey]:
    """The PDH of the platform below, as it exports it."""
    bounce = n.port.bounce
    status = yield from bounced(
        n, 4, "PDH_CERT_EXPORT", pdh=bounce, len=CERT_LEN, chain=bounce + PAGE, chain_len=CHAIN_LEN
    )
    assert not status, f"the platform below exports nothing: {status:#x}"
    found = key_in(n.port.driver.read(bounce, CERT_LEN), PDH)
    assert found is not None
    return found


def _wrap_anew(n: Nested, keys: Keys, policy: int) -> Step[None]:
    """The session for the platform below: this level's certificate and blob lie in the bounce pages."""
    peer, own = (yield from platform_below(n)), _own_key(n)
    nonce, iv = n.secret("session nonce", 16), n.secret("session iv", 16)
    blob = sessions.wrap(sessions.master(own, peer, nonce), keys, nonce, iv, policy)
    n.port.driver.write(n.port.bounce, own_certificate(n))
    n.port.driver.write(n.port.bounce + PAGE, blob)


def own_certificate(n: Nested) -> bytes:
    return certificate(PDH, _own_key(n).public_key(), ())


def session_from_below(n: Nested, blob: bytes, policy: int) -> Step[Keys]:
    """The keys of a session that the platform below made for this level."""
    peer = yield from platform_below(n)
    keys = sessions.unwrap(sessions.master(_own_key(n), peer, blob[:16]), blob, policy)
    assert keys is not None, "a session that this level asked for does not open"
    return keys


def activate(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = _tracked(checks.activate(n, b))
    if isinstance(found, Status):
        return Reply(found)
    status = yield from n.port.activate(spec.name, handle=n.handle_below(found), asid=n.asid_below(b.asid))
    if status:
        return Reply(status)
    n.platform.asids.bind(b.asid, n.platform.asids.cores, found.state in RUNS)
    found.asid = b.asid
    return DONE


def _tracked(found: Guest | Status) -> TrackedGuest | Status:
    assert isinstance(found, TrackedGuest | Status)
    return found


def guest_status(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """The real ASID stays below."""
    found = n.platform.guests.get(b.handle)
    if n.platform.sev is not SevState.UNINIT and found is not None:
        status = yield from n.port.command(spec.name, handle=n.handle_below(found))
        if status:
            return Reply(status)
    return status_reply(n, b)


# -- handle only ---------------------------------------------------------------------------------------

Check = Callable[["Nested", Buffer], Guest | Status]


def _in(*states: GuestState) -> Check:
    return lambda n, b: checks.in_state(n, b, *states)


def _gone(n: Nested, guest: TrackedGuest) -> None:
    forget(n, guest.handle)
    n.book.drop("vm_map")


def _unbound(n: Nested, guest: TrackedGuest) -> None:
    n.released(guest.asid)
    guest.asid = 0


def _now(state: GuestState) -> Callable[[Nested, TrackedGuest], None]:
    def effect(n: Nested, guest: TrackedGuest) -> None:
        guest.state = state
        if state is GuestState.RUNNING and guest.asid:
            n.platform.asids.finish(guest.asid)

    return effect


_PASSED: dict[str, tuple[Check, Callable[[Nested, TrackedGuest], None]]] = {
    "DECOMMISSION": (checks.decommission, _gone),
    "DEACTIVATE": (checks.deactivate, _unbound),
    "LAUNCH_FINISH": (_in(GuestState.LSECRET), _now(GuestState.RUNNING)),
    "SEND_FINISH": (_in(GuestState.SUPDATE), _now(GuestState.SENT)),
    "SEND_CANCEL": (_in(GuestState.SUPDATE), _now(GuestState.RUNNING)),
    "RECEIVE_FINISH": (_in(GuestState.RUPDATE), _now(GuestState.RUNNING)),
}


def passed(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """Nothing in the buffer but a handle, whose number is exchanged."""
    check, effect = _PASSED[spec.name]
    found = _tracked(check(n, b))
    if isinstance(found, Status):
        return Reply(found)
    status = yield from n.port.command(spec.name, handle=n.handle_below(found))
    if not status:
        effect(n, found)
    return Reply(status)


# -- launch and debugging ------------------------------------------------------------------------------


def launch_update(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = _tracked(checks.launch_update(n, b, vmsa=spec.name.endswith("VMSA")))
    if isinstance(found, Status):
        return Reply(found)
    for offset, length in pieces(b.pa, b.len):
        at = b.pa + offset
        place = {"handle": n.handle_below(found), "pa": n.operand_below(at), "len": length}
        status = yield from lent(n, (at,), spec.name, **place)
        if status:
            return Reply(status)
    n.ledger.count(("translations", "page"), -(-b.len // PAGE))
    return DONE


def launch_measure(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = _tracked(checks.launch_measure(n, b))
    if isinstance(found, Status):
        return Reply(found, b.out(len=MEASURE_LEN))
    bounce = n.port.bounce
    status = yield from bounced(n, 1, spec.name, handle=n.handle_below(found), pa=bounce, len=MEASURE_LEN)
    if status:
        return Reply(status, b.out(len=MEASURE_LEN))
    blob = n.port.driver.read(bounce, MEASURE_LEN)
    found.measurement = blob[:32]
    found.state = GuestState.LSECRET
    yield from n.make_way(b.pa, MEASURE_LEN)
    n.deposit(b.pa, blob)
    return Reply(Status.SUCCESS, b.out(len=MEASURE_LEN))


def launch_secret(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """One packet for each page of the guest host's: this level opens the owner's and packs it anew."""
    found = _tracked(checks.launch_secret(n, b))
    if isinstance(found, Status):
        return Reply(found)
    header, data = n.fetch(b.hdr, HEADER_LEN), n.fetch(b.trans, b.trans_len)
    plain = opened(found.keys, sessions.SECRET, header, data, found.measurement)
    if isinstance(plain, Status):
        return Reply(plain)
    for offset, length in pieces(b.guest, b.guest_len):
        part = plain[offset : offset + length]
        status = yield from packet_in(
            n, found, spec.name, sessions.SECRET, b.guest + offset, part, found.measurement
        )
        if status:
            return Reply(status)
    return DONE


def packet_in(
    n: Nested, guest: TrackedGuest, name: str, what: int, address: int, plain: bytes, measurement: bytes = b""
) -> Step[int]:
    """A packet of this level's own into one page of a guest."""
    iv, bounce = n.secret("packet iv", 16), n.port.bounce
    data = sessions.ctr(guest.keys.tek, iv, plain)
    mac = sessions.packet_mac(guest.keys, what, 0, iv, data, measurement)
    n.port.driver.write(bounce, bytes(4) + iv + mac)
    n.port.driver.write(bounce + PAGE, data)
    place = {"hdr": bounce, "hdr_len": HEADER_LEN, "trans": bounce + PAGE, "trans_len": len(data)}
    place |= {"handle": n.handle_below(guest), "guest": n.operand_below(address), "guest_len": len(data)}
    return (yield from lent(n, (address,), name, **place))


def attestation(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    """Signed anew: the guest host's platform has keys of its own."""
    found = _tracked(checks.attestation(n, b))
    if isinstance(found, Status):
        return Reply(found, b.out(len=REPORT_LEN))
    bounce = n.port.bounce
    place = {"pa": bounce, "nonce": b.nonce, "len": REPORT_LEN}
    status = yield from bounced(n, 1, spec.name, handle=n.handle_below(found), **place)
    if status:
        return Reply(status, b.out(len=REPORT_LEN))
    report = bytearray(n.port.driver.read(bounce, REPORT_LEN))
    report[0x40:] = signature(n.identity.key(PEK), bytes(report[:_SIGNED]))[:144]
    yield from n.make_way(b.pa, REPORT_LEN)
    n.deposit(b.pa, bytes(report))
    return Reply(Status.SUCCESS, b.out(len=REPORT_LEN))


def debug(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = _tracked(checks.debug(n, b))
    if isinstance(found, Status):
        return Reply(found)
    for offset, length in pieces(b.src, b.len, b.dst):
        source, target = b.src + offset, b.dst + offset
        place = {"src": n.operand_below(source), "dst": n.operand_below(target), "len": length}
        status = yield from lent(n, (target,), spec.name, handle=n.handle_below(found), **place)
        if status:
            return Reply(status)
    return DONE


def copy(n: Nested, spec: CallSpec, b: Buffer) -> Step[Reply]:
    found = _tracked(checks.copy(n, b))
    if isinstance(found, Status):
        return Reply(found)
    for offset in range(0, b.len, PAGE):
        source, target = b.src + offset, b.dst + offset
        place = {"src": n.operand_below(source), "dst": n.operand_below(target), "len": PAGE}
        status = yield from lent(n, (target,), spec.name, handle=n.handle_below(found), **place)
        if status:
            return Reply(status)
    return DONE
