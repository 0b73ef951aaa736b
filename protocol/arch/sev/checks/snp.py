"""Checks of the commands about SNP guests: sections 2.6 and 3.4 of the fact sheet.

The order of all of them: reserved bits, platform state, the context page, other pages, the guest's state,
its ASID. A wrong context is INVALID_GUEST, a wrong other page INVALID_PAGE_STATE.
"""

from __future__ import annotations

from protocol.arch.sev.books import Context, Guest, View, is_dram, reachable, writable
from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.profiles import API_MAJOR, API_MINOR
from protocol.arch.sev.rmp import PageState
from protocol.arch.sev.status import (
    MIGRATE_MA,
    POLICY_ONE,
    POLICY_RESERVED,
    SINGLE_SOCKET,
    SMT_ALLOWED,
    ContextState,
    GuestState,
    SnpState,
    Status,
)
from protocol.arch.sev.structs import PAGE, U32, Buffer

SOCKETS = 1
SMT = True
MA_EN, IMI_EN = 1, 2
ID_BLOCK_EN, AUTH_KEY_EN, VCEK_DIS = 1, 2, 4
SNP_ASIDS = 2048


def ready(view: View, b: Buffer) -> Status:
    """What all of them look at first."""
    if b.strays:
        return Status.INVALID_PARAM.because("reserved bits")
    return Status.SUCCESS if view.platform.snp is SnpState.INIT else Status.INVALID_PLATFORM_STATE


def context(view: View, address: int) -> Context | None:
    """The guest whose context page this is."""
    frame = address // PAGE
    if view.rmp.state(frame) is not PageState.CONTEXT:
        return None
    return view.platform.contexts.get(frame)


def known(view: View, b: Buffer) -> Context | Status:
    """`ready`, and the command's context."""
    if status := ready(view, b):
        return status
    return context(view, b.gctx) or Status.INVALID_GUEST.because("not a context page")


def gctx_create(view: View, b: Buffer) -> Status:
    """A page inside a 2 MiB entry looks like Reclaim, so only the first page of one has a wrong size."""
    if status := ready(view, b):
        return status
    frame = b.gctx // PAGE
    if view.rmp.state(frame) is not PageState.FIRMWARE:
        return Status.INVALID_PAGE_STATE
    if view.rmp.large(frame):
        return Status.INVALID_PAGE_SIZE
    return Status.SUCCESS if reachable(view, b.gctx, PAGE) else Status.INVALID_CONFIG


def launch_start(view: View, b: Buffer) -> Context | Status:
    found = known(view, b)
    if isinstance(found, Status):
        return found
    if found.state is not ContextState.INIT:
        return Status.INVALID_GUEST_STATE
    agent = None
    if b.flags & MA_EN:
        agent = context(view, b.ma)
        if agent is None:
            return Status.INVALID_GUEST.because("agent")
    return _policy(b.policy, b.flags, agent) or found


def _policy(policy: int, flags: int, agent: Context | None) -> Status:
    """The rules about a migration agent (inferred):

    only with the policy's consent, and it has none itself.
    """
    if not policy & POLICY_ONE or policy & POLICY_RESERVED:
        return Status.POLICY_FAILURE
    if not policy & SMT_ALLOWED and SMT:
        return Status.POLICY_FAILURE
    if (policy >> 8 & 0xFF, policy & 0xFF) > (API_MAJOR, API_MINOR):
        return Status.POLICY_FAILURE
    if agent is not None and (not policy & MIGRATE_MA or agent.policy & MIGRATE_MA):
        return Status.POLICY_FAILURE
    return Status.SUCCESS


def activate(view: View, b: Buffer, cores: int | None = None) -> Context | Status:
    """`cores` is the mask of those that are to run the guest, all by default."""
    found = known(view, b)
    if isinstance(found, Status):
        return found
    if found.state is ContextState.INIT:
        return Status.INVALID_GUEST_STATE.because("not launched")
    if b.asid >= max(SNP_ASIDS, view.profile.asid_limit):
        return Status.INVALID_ASID.because("ASID out of range")
    if view.rmp.pages_of(b.asid):
        return Status.INVALID_CONFIG
    if found.policy & SINGLE_SOCKET and SOCKETS > 1:  # pragma: no cover - no profile has two sockets
        return Status.POLICY_FAILURE
    return bindable(view, found, b.asid, cores) or found


def bindable(view: View, guest: Context | Guest, asid: int, cores: int | None = None) -> Status:
    """ACTIVATE of both kinds from "asid 0" on."""
    asids = view.platform.asids
    if status := asids.refusal(asid):
        return status
    if guest.asid:
        return Status.ACTIVE
    if guest.state is GuestState.SENT and isinstance(guest, Guest):
        return Status.INVALID_GUEST_STATE.because("guest was sent")
    encrypted = guest.es if isinstance(guest, Guest) else True
    return asids.unready(asid, asids.cores if cores is None else cores, encrypted)


def cores_of(view: View, address: int, count: int) -> int | Status:
    """The cores whose APIC ids (CPU numbers here) lie at `address`."""
    wrong = Status.INVALID_PARAM.because("CPUs")
    if not reachable(view, address, 4 * count) or not count or count > len(view.cpus):
        return wrong
    raw = view.fetch(address, 4 * count)
    numbers = [U32.unpack_from(raw, 4 * n)[0] for n in range(count)]
    by_number: dict[int, Cpu] = {cpu.number: cpu for cpu in view.cpus}
    if any(number not in by_number for number in numbers):
        return wrong
    mask = 0
    for number in numbers:
        mask |= 1 << by_number[number].core
    return mask


def activate_ex(view: View, b: Buffer) -> tuple[Context, int] | Status:
    if b.length != 0x20:
        return Status.INVALID_PARAM.because("length")
    found = known(view, b)
    if isinstance(found, Status):
        return found
    cores = cores_of(view, b.ids, b.numids)
    if isinstance(cores, Status):
        return cores
    checked = activate(view, b, cores)
    return checked if isinstance(checked, Status) else (checked, cores)


def guest_status(view: View, b: Buffer) -> Context | Status:
    found = known(view, b)
    if isinstance(found, Status):
        return found
    return found if output_page(view, b.status) else Status.INVALID_PAGE_STATE


def output_page(view: View, address: int) -> bool:
    """A page that the firmware may fill for the hypervisor; outside of memory there is none (inferred)."""
    return reachable(view, address, PAGE) and writable(view, address, PAGE)


def launch_finish(view: View, b: Buffer) -> Context | Status:
    """Up to the contents of the ID block. An author's key without a block is refused (inferred)."""
    found = known(view, b)
    if isinstance(found, Status):
        return found
    if found.state is not ContextState.LAUNCH or found.imi:
        return Status.INVALID_GUEST_STATE
    if not found.asid:
        return Status.INACTIVE
    if b.flags & AUTH_KEY_EN and not b.flags & ID_BLOCK_EN:
        return Status.INVALID_PARAM.because("flags")
    if b.flags & ID_BLOCK_EN and not (reachable(view, b.id_block, 0x60) and reachable(view, b.id_auth, PAGE)):
        return Status.INVALID_ADDRESS
    return found


def guest_request(view: View, b: Buffer) -> Context | Status:
    """Up to the message itself."""
    found = known(view, b)
    if isinstance(found, Status):
        return found
    request, response = b.req // PAGE, b.resp // PAGE
    if view.rmp.state(response) is not PageState.FIRMWARE or not reachable(view, b.resp, PAGE):
        return Status.INVALID_PAGE_STATE
    if view.rmp.large(request) or view.rmp.large(response):
        return Status.INVALID_PAGE_SIZE
    if found.state is not ContextState.RUNNING:
        return Status.INVALID_GUEST_STATE
    return found if is_dram(view.size, b.req, PAGE) else Status.INVALID_PARAM.because("header")
