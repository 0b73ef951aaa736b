"""The call table: 20 ultracalls, 6 hypercalls of the ultravisor, and those that matter beside.

Section 4 of the sheet.

There is no call that starts or stops the ultravisor, so the category `init` holds the host platform's calls,
which the talk does not count at all; the TPM is asked while a VM becomes secure, and counts among VMs. Checks
stand in the order of sections 3 and 5.4; what the dispatcher says to every call is in `explain`. A hypercall
of the ultravisor is issued on behalf of a guest; its checks are KVM's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.arch.pef import front, hcalls
from protocol.arch.pef import status as u
from protocol.arch.pef.machine import files, init, lifecycle, memory, sharing, vcpu, vm
from protocol.calls import Basis, CallSpec, Category, Check, Issuer, Treatment, table

INIT, VM, VCPU, MEMORY, LIFECYCLE, GUEST = Category
E, R, P, N = Treatment.EMULATED, Treatment.MODIFIED, Treatment.PASSED, Treatment.NATIVE
SOURCE, INFERRED, GUESS = Basis.SOURCE, Basis.INFERRED, Basis.GUESS

_ORDER = "order: as listed. "


def _check(code: int, text: str, basis: Basis = SOURCE) -> Check:
    """A check, with its code as R3 holds it."""
    return Check(u.unsigned(code), text, basis)


_HOST_ONLY = (_check(u.PERMISSION, "caller is not HV, or PR"),)
_SVM_ONLY = (_check(u.PERMISSION, "caller is not secure"), _check(u.PERMISSION, "caller is HV or PR"))
_LPID = _check(u.PARAMETER, "no SVM under this LPID")
_ABORT = _check(u.STATE, "the SVM is in ABORT")
_S_BIT = _check(u.UNSUPPORTED, "SRR1 without MSR[S]")
_STARTED = _check(u.UNSUPPORTED, "no INIT_START")


def _host(
    code: int,
    name: str,
    title: str,
    category: Category,
    treatment: Treatment,
    why: str,
    handler: Callable[..., Any],
    *checks: Check,
    **more: Any,
) -> CallSpec:
    named = category is not INIT and code != front.RETURN
    return CallSpec(
        code,
        name,
        title,
        category,
        treatment,
        _ORDER + why,
        0,
        Issuer.HOST,
        "4.1, 5.4",
        handle="lpid" if named else "",
        handle_at=4 if named else 0,
        checks=(*_HOST_ONLY, *checks),
        handler=handler,
        **more,
    )


def _guest(
    code: int, name: str, title: str, why: str, handler: Callable[..., Any], *checks: Check, **more: Any
) -> CallSpec:
    return CallSpec(
        code,
        name,
        title,
        GUEST,
        N,
        _ORDER + why,
        0,
        Issuer.GUEST,
        "4.2, 5.4",
        checks=checks,
        handler=handler,
        **more,
    )


def _upcall(
    code: int, title: str, category: Category, why: str, *checks: Check, source: str = "4.3", **more: Any
) -> CallSpec:
    return CallSpec(
        code,
        hcalls.NAMES[code],
        title,
        category,
        P,
        _ORDER + why,
        0,
        Issuer.GUEST,
        source,
        checks=checks,
        **more,
    )


_LPID_ONLY = "the LPID is exchanged for the shadow LPID"
_PLATFORM = "would reach the physical host"
_STRAIGHT = "goes to the real ultravisor under the shadow LPID"
_FANS_OUT = f"{_STRAIGHT}; each page comes up as H_SVM_PAGE_IN"
_UP = "handed up unchanged as an exit 0xc00, and recorded"

_FROM_HOST = (
    _host(
        front.WRITE_PATE,
        "UV_WRITE_PATE",
        "Write a partition table entry",
        VM,
        R,
        f"{_LPID_ONLY}, the first doubleword for a shadow table's; the second passes",
        vm.write_pate,
        _check(u.PARAMETER, "LPID out of range", GUESS),
        states="any; of an SVM only the second doubleword is taken",
        basis=GUESS,
    ),
    _host(
        front.RETURN,
        "UV_RETURN",
        "Resume a vcpu of an SVM",
        VCPU,
        E,
        "it is H_ENTER_NESTED of the guest host, which becomes a UV_RETURN of the level below",
        vcpu.uv_return,
        states="a reflection with this cookie is open",
        on_error="a bad cookie stops the machine; a changed LPIDR or PIDR kills the SVM",
        basis=GUESS,
    ),
    _host(
        front.REGISTER_MEM_SLOT,
        "UV_REGISTER_MEM_SLOT",
        "Reserve secure memory for a range",
        MEMORY,
        R,
        f"{_LPID_ONLY}; the reservation counts against the guest host's quota",
        memory.register_mem_slot,
        _LPID,
        _check(u.PARAMETER, "address, size, slot, overlap or memory"),
    ),
    _host(
        front.UNREGISTER_MEM_SLOT,
        "UV_UNREGISTER_MEM_SLOT",
        "Free a range",
        MEMORY,
        R,
        _LPID_ONLY,
        memory.unregister_mem_slot,
        _LPID,
        _check(u.P2, "no such slot", INFERRED),
        basis=INFERRED,
    ),
    _host(
        front.PAGE_IN,
        "UV_PAGE_IN",
        "Give a page to an SVM",
        MEMORY,
        R,
        f"{_LPID_ONLY}, the source for the real address; its page is pinned while it is shared",
        memory.page_in,
        _check(u.P5, "order is not 16"),
        _check(u.P2, "source is 0, secure, or no page of memory"),
        _LPID,
        _ABORT,
        _check(u.P3, "GPA in no slot"),
        _check(u.P2, "the page is the SVM's already"),
        _check(u.P3, "the tag is wrong"),
    ),
    _host(
        front.PAGE_OUT,
        "UV_PAGE_OUT",
        "Take a page out, encrypted",
        MEMORY,
        R,
        f"{_LPID_ONLY}, the target for the real address",
        memory.page_out,
        _check(u.P5, "order is not 16"),
        _check(u.P2, "target is 0, secure, or no page of memory"),
        _LPID,
        _check(u.P3, "GPA in no slot"),
        _check(u.RETRY, "the page is in HV_UNSHARED"),
        _check(u.PARAMETER, "the page is not secure and resident"),
        states="any; in ABORT it succeeds and moves nothing",
    ),
    _host(
        front.PAGE_INVAL,
        "UV_PAGE_INVAL",
        "The frame of a shared page is gone",
        MEMORY,
        R,
        f"{_LPID_ONLY}; the level below issues it by itself, too, when it moves that frame",
        memory.page_inval,
        _check(u.P3, "order is not 16"),
        _LPID,
        _ABORT,
        _check(u.P3, "GPA in no slot"),
        _check(u.P2, "the page is not shared"),
    ),
    _host(
        front.SVM_TERMINATE,
        "UV_SVM_TERMINATE",
        "End an SVM",
        LIFECYCLE,
        R,
        f"{_LPID_ONLY}, and its tracking dropped; issued for a guest host that is gone",
        vm.terminate,
        _check(u.PARAMETER, "nothing runs under this LPID"),
        _check(u.INVALID, "the VM is no SVM; no number is published", GUESS),
        _check(u.RETRY, "nested: a UV_RETURN into the SVM is on its way below, and would find none", GUESS),
        states="any",
        basis=GUESS,
    ),
)
_OF_PLATFORM = tuple(
    _host(code, name, title, INIT, E, why, handler, *checks, basis=GUESS)
    for code, name, title, why, handler, checks in (
        (
            front.RESTRICTED_SPR_WRITE,
            "UV_RESTRICTED_SPR_WRITE",
            "Write a debug register of the host",
            "on virtual registers",
            init.restricted_spr_write,
            (_check(u.PARAMETER, "a register outside the list"),),
        ),
        (
            front.RESTRICTED_SPR_READ,
            "UV_RESTRICTED_SPR_READ",
            "Read a debug register of the host",
            "on virtual registers",
            init.restricted_spr_read,
            (_check(u.PARAMETER, "a register outside the list"),),
        ),
        *(
            (code, name, title, _PLATFORM, init.refused, (_check(u.PERMISSION, "not on the list", GUESS),))
            for code, name, title in (
                (front.READ_SCOM, "UV_READ_SCOM", "Read a chip register"),
                (front.WRITE_SCOM, "UV_WRITE_SCOM", "Write a chip register"),
                (front.READ_MEM, "UV_READ_MEM", "Read firmware memory"),
                (front.WRITE_MEM, "UV_WRITE_MEM", "Write firmware memory"),
                (front.SEND_SBE_COMMAND, "UV_SEND_SBE_COMMAND", "Ask the boot engine"),
            )
        ),
    )
)
_FROM_GUEST = (
    _guest(
        front.ESM,
        "UV_ESM",
        "Enter secure mode",
        f"{_STRAIGHT}; the level below learns of it by H_SVM_INIT_START",
        lifecycle.transition,
        _check(u.PERMISSION, "caller is HV or PR"),
        _check(u.P2, "no kernel"),
        _check(u.P3, "no device tree"),
        _check(u.PERMISSION, "LPID 0"),
        _check(u.RETRY, "the VM has an object already"),
        _check(
            u.UNSUPPORTED,
            "the transition failed and the hypervisor knows of none: H_SVM_INIT_ABORT's answer",
        ),
        _check(u.PARAMETER, "the transition failed and was undone: H_SVM_INIT_ABORT's answer"),
        states="normal; of a secure VM it succeeds at once",
        on_error="a failure behind INIT_START ends in H_SVM_INIT_ABORT",
    ),
    _guest(
        front.SHARE_PAGE,
        "UV_SHARE_PAGE",
        "Share pages with the hypervisor",
        _FANS_OUT,
        sharing.share,
        *_SVM_ONLY,
        _check(u.P2, "range not in slots"),
        _check(u.P2, "a page is in a transient state"),
        _check(u.P2, "the hypervisor does not bring a page"),
        states="secure",
        on_error="what the call has shared is taken back",
    ),
    _guest(
        front.UNSHARE_PAGE,
        "UV_UNSHARE_PAGE",
        "Make pages secure again",
        _FANS_OUT,
        sharing.unshare,
        *_SVM_ONLY,
        _check(u.P2, "range not in slots"),
        _check(u.P2, "a page is transient, implicit or pseudo-shared"),
        _check(u.P2, "the hypervisor does not take a page back", GUESS),
        states="secure",
        on_error="pages before the one that is refused are secure",
    ),
    _guest(
        front.UNSHARE_ALL_PAGES,
        "UV_UNSHARE_ALL_PAGES",
        "Make every shared page secure again",
        _FANS_OUT,
        sharing.unshare_all,
        *_SVM_ONLY,
        _check(u.P2, "the hypervisor does not take a page back", GUESS),
        states="secure",
        on_error="pages before the one that is refused are secure",
    ),
    _guest(
        front.ESMB_GET_FILE,
        "UV_ESMB_GET_FILE",
        "Read a file of the ESM blob",
        _STRAIGHT,
        files.get_file,
        _check(u.PARAMETER, "no SVM"),
        _check(u.P2, "no such file", INFERRED),
        _check(u.PARAMETER, "another process, or offset below what was read"),
        states="any",
        basis=INFERRED,
    ),
)
_UPCALLS = (
    _upcall(
        hcalls.SVM_PAGE_IN,
        "The ultravisor needs a page",
        MEMORY,
        _UP,
        _S_BIT,
        _STARTED,
        _check(u.P3, "order is not 16"),
        _check(u.P2, "an unknown flag"),
        _check(u.PARAMETER, "no memory there, in the ultravisor already, no frame, or UV_PAGE_IN failed"),
    ),
    _upcall(
        hcalls.SVM_PAGE_OUT,
        "The ultravisor is short of memory",
        MEMORY,
        f"{_UP}; no published ultravisor issues it",
        _S_BIT,
        _STARTED,
        _check(u.P3, "order is not 16"),
        _check(u.P2, "any flag"),
        _check(u.PARAMETER, "no memory there, or UV_PAGE_OUT failed"),
    ),
    _upcall(
        hcalls.SVM_INIT_START,
        "A VM begins to become secure",
        VM,
        _UP,
        _S_BIT,
        _check(u.UNSUPPORTED, "no secure memory"),
        _check(u.UNSUPPORTED, "the VM is not radix"),
        _check(u.AUTHORITY, "userspace did not opt in"),
        _check(u.PARAMETER, "a slot cannot be registered"),
        on_error="INIT_START stays set",
    ),
    _upcall(
        hcalls.SVM_INIT_DONE,
        "All that is measured is in",
        VM,
        _UP,
        _S_BIT,
        _STARTED,
        _check(u.STATE, "a page cannot be moved"),
    ),
    _upcall(
        hcalls.SVM_TPM_COMM,
        "Talk to the host's TPM",
        VM,
        f"{_UP}; the VMM of the guest host answers",
        _check(u.FUNCTION, "no TPM"),
        _check(u.PARAMETER, "an unknown operation"),
        _check(u.P3, "command too long"),
        _check(u.P5, "buffer too short"),
        _check(u.RESOURCE, "the TPM cannot be reached"),
    ),
    _upcall(
        hcalls.SVM_INIT_ABORT,
        "The VM stays normal",
        LIFECYCLE,
        f"{_UP}; the answer goes to the guest",
        _STARTED,
        _check(u.STATE, "INIT_DONE is set"),
        _check(u.PARAMETER, "success: the guest's result of UV_ESM"),
    ),
)
_BESIDE = (
    CallSpec(
        hcalls.RANDOM,
        "H_RANDOM",
        "A random number",
        GUEST,
        N,
        "the ultravisor answers",
        0,
        Issuer.GUEST,
        "4.4",
        handler=None,
    ),
    _upcall(hcalls.CEDE, "Give the CPU away", VCPU, f"{_UP}; MSR[EE] is set", source="4.4"),
    _upcall(
        hcalls.RTAS, "Firmware service", GUEST, f"{_UP}; through the ultravisor's own buffer", source="4.4"
    ),
    _upcall(hcalls.CI_LOAD, "Load from a device", GUEST, f"{_UP}; made of a fault", source="4.4"),
    _upcall(hcalls.CI_STORE, "Store to a device", GUEST, f"{_UP}; made of a fault", source="4.4"),
)

CALLS = table((*_FROM_HOST, *_OF_PLATFORM, *_FROM_GUEST, *_UPCALLS, *_BESIDE))
