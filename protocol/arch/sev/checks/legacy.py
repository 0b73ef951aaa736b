"""Checks of the commands about legacy guests: sections 2.4 and 3.3 of the fact sheet.

Unless a function says otherwise: platform state, handle, guest state, feature, ASID, alignment and length,
pages.
"""

from __future__ import annotations

from protocol.arch.sev.books import Guest, View, reachable, writable
from protocol.arch.sev.checks.snp import bindable, cores_of
from protocol.arch.sev.profiles import API_MAJOR, API_MINOR
from protocol.arch.sev.status import ES, NODBG, NOKS, NOSEND, GuestState, SevState, Status
from protocol.arch.sev.structs import (
    CERT_LEN,
    HEADER_LEN,
    MDATA_LEN,
    MEASURE_LEN,
    PAGE,
    REPORT_LEN,
    SCRATCH,
    SESSION_LEN,
    TWO_MIB,
    Buffer,
)

POLICY_RESERVED = 0xFFC0
MEASURED = (GuestState.LSECRET, GuestState.RUNNING, GuestState.SUPDATE, GuestState.SENT)
SWAP_LARGE = 1


def named(view: View, b: Buffer) -> Guest | Status:
    """The guest that a command names, on a platform that has guests."""
    if view.platform.sev is not SevState.WORKING:
        return Status.INVALID_PLATFORM_STATE
    return view.platform.guests.get(b.handle) or Status.INVALID_GUEST


def in_state(view: View, b: Buffer, *states: GuestState) -> Guest | Status:
    found = named(view, b)
    if isinstance(found, Status) or found.state in states:
        return found
    return Status.INVALID_GUEST_STATE


def decommission(view: View, b: Buffer) -> Guest | Status:
    found = named(view, b)
    return Status.ACTIVE if isinstance(found, Guest) and found.asid else found


def activate(view: View, b: Buffer) -> Guest | Status:
    found = named(view, b)
    return found if isinstance(found, Status) else bindable(view, found, b.asid) or found


def activate_ex(view: View, b: Buffer) -> tuple[Guest, int] | Status:
    """The length first (inferred), then the CPUs, then as ACTIVATE."""
    if b.length != 0x18:
        return Status.INVALID_LENGTH
    found = named(view, b)
    if isinstance(found, Status):
        return found
    cores = cores_of(view, b.ids, b.numids)
    if isinstance(cores, Status):
        return cores
    return bindable(view, found, b.asid, cores) or (found, cores)


def deactivate(view: View, b: Buffer) -> Guest | Status:
    found = named(view, b)
    return Status.INACTIVE if isinstance(found, Guest) and not found.asid else found


def copy(view: View, b: Buffer) -> Guest | Status:
    found = deactivate(view, b)
    if isinstance(found, Status):
        return found
    if not b.len or b.len % PAGE:
        return Status.INVALID_LENGTH
    if b.src % PAGE or b.dst % PAGE or not _both_reachable(view, b):
        return Status.INVALID_ADDRESS
    return found if writable(view, b.dst, b.len) else Status.INVALID_PAGE_STATE


def _both_reachable(view: View, b: Buffer) -> bool:
    return reachable(view, b.src, b.len) and reachable(view, b.dst, b.len)


# -- launch --------------------------------------------------------------------------------------------


def session_lengths(b: Buffer, cert_len: int) -> Status:
    if b.session_len != SESSION_LEN or cert_len != CERT_LEN:
        return Status.INVALID_LENGTH
    return Status.SUCCESS


def session_places(view: View, b: Buffer, cert: int) -> Status:
    fits = reachable(view, cert, CERT_LEN) and reachable(view, b.session, SESSION_LEN)
    return Status.SUCCESS if fits else Status.INVALID_ADDRESS


def policy_fits(policy: int) -> Status:
    """Looked at only where a session speaks for the policy."""
    too_new = (policy >> 16 & 0xFF, policy >> 24) > (API_MAJOR, API_MINOR)
    wrong = too_new or policy & POLICY_RESERVED
    return Status.POLICY_FAILURE.because("policy") if wrong else Status.SUCCESS


def new_guest(view: View, b: Buffer) -> Guest | Status | None:
    """The last checks of LAUNCH_START and RECEIVE_START:

    the guest whose key is shared, or None for a new key.
    """
    platform = view.platform
    shared = None
    if b.handle:
        shared = platform.guests.get(b.handle)
        if shared is None:
            return Status.INVALID_GUEST
        if shared.policy != b.policy or shared.policy & NOKS:
            return Status.POLICY_FAILURE.because("policies differ")
    if not platform.free_handle(view.profile.handles):
        return Status.RESOURCE_LIMIT
    if b.policy & ES and not platform.es:
        return Status.UNSUPPORTED
    return shared


def up(view: View) -> Status:
    return Status.INVALID_PLATFORM_STATE if view.platform.sev is SevState.UNINIT else Status.SUCCESS


def launch_update(view: View, b: Buffer, vmsa: bool) -> Guest | Status:
    """Of a VMSA the length comes first of all."""
    if vmsa and b.len != PAGE:
        return Status.INVALID_LENGTH
    found = in_state(view, b, GuestState.LUPDATE)
    if isinstance(found, Status):
        return found
    if vmsa and not found.es:
        return Status.UNSUPPORTED
    if not found.asid:
        return Status.INACTIVE
    if b.pa % 16 or not reachable(view, b.pa, b.len):
        return Status.INVALID_ADDRESS
    if not b.len or b.len % 16:
        return Status.INVALID_LENGTH
    return found if writable(view, b.pa, b.len) else Status.INVALID_PAGE_STATE


def launch_measure(view: View, b: Buffer) -> Guest | Status:
    return _reported(view, b, MEASURE_LEN, GuestState.LUPDATE)


def attestation(view: View, b: Buffer) -> Guest | Status:
    return _reported(view, b, REPORT_LEN, *MEASURED)


def _reported(view: View, b: Buffer, needed: int, *states: GuestState) -> Guest | Status:
    found = in_state(view, b, *states)
    if isinstance(found, Status):
        return found
    if b.len < needed:
        return Status.INVALID_LENGTH
    if not reachable(view, b.pa, needed):
        return Status.INVALID_ADDRESS
    return found if writable(view, b.pa, needed) else Status.INVALID_PAGE_STATE


def launch_secret(view: View, b: Buffer) -> Guest | Status:
    """Alignment and lengths before the guest's state. Up to the packet's MAC."""
    found = named(view, b)
    if isinstance(found, Status):
        return found
    if b.guest % 16 or not reachable(view, b.guest, b.guest_len):
        return Status.INVALID_ADDRESS.because("guest address")
    if b.hdr_len != HEADER_LEN or _bad_packet(b) or b.guest_len != b.trans_len:
        return Status.INVALID_LENGTH
    if not reachable(view, b.hdr, HEADER_LEN) or not reachable(view, b.trans, b.trans_len):
        return Status.INVALID_ADDRESS.because("addresses")
    if found.state is not GuestState.LSECRET:
        return Status.INVALID_GUEST_STATE
    if not found.asid:
        return Status.INACTIVE
    return found if writable(view, b.guest, b.guest_len) else Status.INVALID_PAGE_STATE


def _bad_packet(b: Buffer) -> bool:
    return not b.guest_len or bool(b.guest_len % 16) or b.guest_len > SCRATCH


# -- debugging -----------------------------------------------------------------------------------------


def debug(view: View, b: Buffer) -> Guest | Status:
    """DBG_DECRYPT and ENCRYPT: places before the handle."""
    if view.platform.sev is not SevState.WORKING:
        return Status.INVALID_PLATFORM_STATE
    if b.src % 16 or b.dst % 16 or not _both_reachable(view, b):
        return Status.INVALID_ADDRESS
    if b.len % 16:
        return Status.INVALID_LENGTH
    found = view.platform.guests.get(b.handle)
    if found is None:
        return Status.INVALID_GUEST
    if found.policy & NODBG:
        return Status.POLICY_FAILURE
    if not writable(view, b.dst, b.len):
        return Status.INVALID_PAGE_STATE
    return found if found.asid else Status.INACTIVE


# -- sending and receiving -----------------------------------------------------------------------------


def send_start(view: View, b: Buffer) -> Guest | Status:
    """Up to the peer's certificates. The session is written back with its length where that is wrong."""
    found = named(view, b)
    if isinstance(found, Status):
        return found
    if b.session_len != SESSION_LEN:
        return Status.INVALID_LENGTH.because("session length")
    if found.state is not GuestState.RUNNING:
        return Status.INVALID_GUEST_STATE
    return Status.POLICY_FAILURE.because("NOSEND") if found.policy & NOSEND else found


def send_update(view: View, b: Buffer, vmsa: bool) -> Guest | Status:
    """A header that is too short is found before the handle is looked at."""
    if view.platform.sev is not SevState.WORKING:
        return Status.INVALID_PLATFORM_STATE
    if b.hdr_len < HEADER_LEN:
        return Status.INVALID_LENGTH.because("header")
    found = _transport(view, b, vmsa, GuestState.SUPDATE)
    if isinstance(found, Status):
        return found
    outputs = writable(view, b.hdr, HEADER_LEN) and writable(view, b.trans, b.guest_len)
    return found if outputs else Status.INVALID_PAGE_STATE


def receive_update(view: View, b: Buffer, vmsa: bool) -> Guest | Status:
    """Up to the packet itself."""
    found = _transport(view, b, vmsa, GuestState.RUPDATE)
    if isinstance(found, Status):
        return found
    return found if writable(view, b.guest, b.guest_len) else Status.INVALID_PAGE_STATE


def _transport(view: View, b: Buffer, vmsa: bool, state: GuestState) -> Guest | Status:
    found = in_state(view, b, state)
    if isinstance(found, Status):
        return found
    if vmsa and not found.es:
        return Status.UNSUPPORTED.because("not an ES guest")
    if not found.asid:
        return Status.INACTIVE
    wrong = b.trans_len < b.guest_len if state is GuestState.SUPDATE else b.trans_len != b.guest_len
    if _bad_packet(b) or b.hdr_len < HEADER_LEN or wrong or (vmsa and b.guest_len != PAGE):
        return Status.INVALID_LENGTH.because("lengths")
    areas = ((b.hdr, HEADER_LEN), (b.guest, b.guest_len), (b.trans, b.guest_len))
    if b.guest % 16 or not all(reachable(view, *area) for area in areas):
        return Status.INVALID_ADDRESS
    return found


# -- swapping ------------------------------------------------------------------------------------------


def swap(view: View, b: Buffer, out: bool) -> Guest | Status:
    """SWAP_OUT and SWAP_IN, up to the counter or the metadata."""
    if view.platform.sev is not SevState.WORKING:
        return Status.INVALID_PLATFORM_STATE
    large, kind, in_place = bool(b.flags & SWAP_LARGE), b.flags >> 1 & 3, bool(b.flags & 8) and not out
    size = TWO_MIB if large else PAGE
    if b.src % PAGE or b.dst % PAGE or b.mdata % MDATA_LEN or (in_place and b.src != b.dst):
        return Status.INVALID_ADDRESS
    if not all(reachable(view, at, n) for at, n in ((b.src, size), (b.dst, size), (b.mdata, MDATA_LEN))):
        return Status.INVALID_ADDRESS
    if any(at <= b.mdata < at + size for at in (b.src, b.dst)) or (large and kind == 2):
        return Status.INVALID_PARAM.because("overlap, or a large VMSA")
    found = view.platform.guests.get(b.handle)
    if found is None:
        return Status.INVALID_GUEST
    if not found.asid:
        return Status.INACTIVE
    outputs = writable(view, b.dst, size) and (not out or writable(view, b.mdata, MDATA_LEN))
    return found if outputs else Status.INVALID_PAGE_STATE
