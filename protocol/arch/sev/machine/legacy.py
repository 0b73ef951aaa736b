"""Legacy guests come and go:

START, ACTIVATE, DEACTIVATE, DECOMMISSION, STATUS. Sections 2.4, 3.3, 4 of the fact sheet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from protocol.arch.sev.books import Guest, View
from protocol.arch.sev.checks import legacy as checks
from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.crypto.identity import PDH, Identity, key_in
from protocol.arch.sev.crypto.keys import MemoryKey
from protocol.arch.sev.crypto.session import Keys
from protocol.arch.sev.machine.entities import LegacyGuest
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import GuestState, SevState, Status
from protocol.arch.sev.structs import CERT_LEN, SESSION_LEN, Buffer

if TYPE_CHECKING:
    from protocol.arch.sev.front import Front
    from protocol.arch.sev.machine import Machine


class Platformed(View, Protocol):
    """A firmware with an identity: the machine's, or a virtual one."""

    identity: Identity


NO_SESSION = Keys(bytes(16), bytes(16))
RUNS = (GuestState.RUNNING, GuestState.SUPDATE)


def launch_start(fw: Machine, b: Buffer) -> Reply:
    """Without a session the policy is taken as it is, and the transport keys are zero."""
    if status := checks.up(fw):
        return Reply(status)
    if not b.dh:
        return _new(fw, b, NO_SESSION, GuestState.LUPDATE)
    keys = session_keys(fw, b, b.dh, b.dh_len)
    if isinstance(keys, Status):
        return Reply(keys)
    if status := checks.policy_fits(b.policy):
        return Reply(status)
    return _new(fw, b, keys, GuestState.LUPDATE)


def receive_start(fw: Machine, b: Buffer) -> Reply:
    if status := checks.up(fw):
        return Reply(status)
    keys = session_keys(fw, b, b.pdh, b.pdh_len)
    return Reply(keys) if isinstance(keys, Status) else _new(fw, b, keys, GuestState.RUPDATE)


def session_keys(fw: Platformed, b: Buffer, cert: int, cert_len: int) -> Keys | Status:
    if status := checks.session_lengths(b, cert_len) or checks.session_places(fw, b, cert):
        return status
    peer = key_in(fw.fetch(cert, CERT_LEN), PDH)
    if peer is None:
        return Status.INVALID_CERTIFICATE
    blob = fw.fetch(b.session, SESSION_LEN)
    secret = sessions.master(fw.identity.key(PDH), peer, blob[:16])
    return sessions.unwrap(secret, blob, b.policy) or Status.BAD_MEASUREMENT


def _new(fw: Machine, b: Buffer, keys: Keys, state: GuestState) -> Reply:
    shared = checks.new_guest(fw, b)
    if isinstance(shared, Status):
        return Reply(shared)
    if shared is None:
        key = MemoryKey(fw.secret("vek", 32))
    else:
        assert isinstance(shared, LegacyGuest)
        key = shared.key
    handle = fw.platform.free_handle(fw.profile.handles)
    fw.platform.guests[handle] = LegacyGuest(
        handle, b.policy, state, key=key, oek=fw.secret("oek", 32), keys=keys
    )
    fw.platform.sev = SevState.WORKING
    return Reply(Status.SUCCESS, b.out(handle=handle))


def activate(fw: Machine, b: Buffer) -> Reply:
    found = checks.activate(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    _bind(fw, found, b.asid, fw.platform.asids.cores)
    return DONE


def activate_ex(fw: Machine, b: Buffer) -> Reply:
    found = checks.activate_ex(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    _bind(fw, found[0], b.asid, found[1])
    return DONE


def _bind(fw: Machine, found: Guest, asid: int, cores: int) -> None:
    assert isinstance(found, LegacyGuest)
    fw.platform.asids.bind(asid, cores, found.state in RUNS)
    found.asid = asid
    fw.install(asid, found.key)


def deactivate(fw: Machine, b: Buffer) -> Reply:
    found = checks.deactivate(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    fw.platform.asids.release(found.asid)
    fw.keys.pop(found.asid, None)
    found.asid = 0
    return DONE


def decommission(fw: Machine, b: Buffer) -> Reply:
    found = checks.decommission(fw, b)
    if isinstance(found, Status):
        return Reply(found)
    forget(fw, found.handle)
    return DONE


def forget(fw: Front, handle: int) -> None:
    """The last one takes the platform back to INIT."""
    del fw.platform.guests[handle]
    if not fw.platform.guests:
        fw.platform.sev = SevState.INIT


def guest_status(fw: Machine, b: Buffer) -> Reply:
    return status_reply(fw, b)


def status_reply(fw: Front, b: Buffer) -> Reply:
    """An unknown handle is no error: its state is INVALID."""
    if status := checks.up(fw):
        return Reply(status)
    found = fw.platform.guests.get(b.handle)
    if found is None:
        return Reply(Status.SUCCESS, b.out(policy=0, asid=0, state=GuestState.INVALID))
    return Reply(Status.SUCCESS, b.out(policy=found.policy, asid=found.asid, state=found.state))
