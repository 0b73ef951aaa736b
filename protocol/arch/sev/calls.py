"""The firmware's command table: sections 2.3 to 2.6, 3.3, 3.4 and 7.3 of the fact sheet, one row per command.

A number that has no row is INVALID_COMMAND before anything else: so are the trusted-IO commands and
whatever is newer than this firmware. The checks of a row stand in the order in which they are made; their
statuses do not ascend, which is why each row states its order. Lengths and layouts of the buffers are in
`structs`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.arch.sev.machine import (
    guest,
    identity,
    init,
    legacy,
    legacy_launch,
    legacy_transport,
    lifecycle,
    memory,
    platform,
    swap,
    vm,
)
from protocol.arch.sev.structs import LAYOUTS, LENGTH_BACK
from protocol.calls import Area, Basis, CallSpec, Category, Check, Donation, Issuer, Treatment, table

INIT, VM, VCPU, MEMORY, LIFECYCLE = (
    Category.INIT,
    Category.VM,
    Category.VCPU,
    Category.MEMORY,
    Category.LIFECYCLE,
)
E, R, P = Treatment.EMULATED, Treatment.MODIFIED, Treatment.PASSED
_UP = "the platform below is up already"
_PER_HOST = "each guest host has an identity of its own"
_MUST_NOT = "must never reach the real part"
_HANDLE = "only a handle in it: its number is exchanged, or passed where handles are shared"
_GCTX = "the handle is an address: that of the guest host's page is exchanged for the real one"
_PLACES = "the handle and every address are exchanged; buffers are split where they are not contiguous below"
# Statuses that a source names, with what they are about; `~` marks an inferred rule, `?` a guess.
_SNP = "16 reserved bits; 01 SNP is not initialised"
_CTX = f"{_SNP}; 10 not a context page"
_NAMED = "01 platform is not working; 10 no such handle"
_BIND = (
    "0d ASID 0 or out of range; 0c ASID is bound; 12 guest has an ASID; 02 guest was sent; 0f ASID is dirty; "
    "0c ASID is not clean everywhere; 0d wrong range for this kind of guest"
)
_PACKET = "08 no ASID; 04 lengths; 09 addresses; 1a output pages"


def _checks(text: str) -> tuple[Check, ...]:
    made = []
    for one in filter(None, text.split("; ")):
        code, _, what = one.partition(" ")
        basis = {"~": Basis.INFERRED, "?": Basis.GUESS}.get(what[0], Basis.SOURCE)
        made.append(Check(int(code, 16), what.lstrip("~?"), basis))
    return tuple(made)


def _row(
    code: int,
    name: str,
    title: str,
    category: Category,
    treatment: Treatment,
    why: str,
    handler: Callable[..., Any],
    checks: str = "",
    **more: Any,
) -> CallSpec:
    """Legacy guests are named by a handle, SNP guests by the address of their context page."""
    layout = LAYOUTS[name]
    handle = "guest" if "handle" in layout.fields else "gctx" if "gctx" in layout.fields else ""
    field = {"guest": "handle", "gctx": "gctx", "": ""}[handle]
    made = _checks(checks)
    return CallSpec(
        code,
        name,
        title,
        category,
        treatment,
        f"{why}. order: as listed" if made else why,
        layout.length,
        Issuer.HOST,
        "2.6, 3.4" if name.startswith("SNP") else "2.3, 2.4, 3.3",
        handle=handle,
        handle_at=layout.fields[field].offset if field else 0,
        checks=made,
        handler=handler,
        on_error="the required lengths are written back" if name in LENGTH_BACK else "nothing",
        basis=min((check.basis for check in made), key=_WEAKEST.index, default=Basis.SOURCE),
        **more,
    )


_WEAKEST = (Basis.GUESS, Basis.INFERRED, Basis.SOURCE)
_TMR = (Area("tmr", "1 MiB, 2 MiB once the RMP is live", Donation.VIRTUAL),)
_CONTEXT = (Area("gctx", "one page", Donation.SAME_FRAME),)
_RESPONSE = (Area("resp", "one page", Donation.SAME_FRAME),)
_METADATA = (Area("pa", "one page", Donation.SAME_FRAME),)

_PLATFORM = (
    _row(
        0x001,
        "INIT",
        "Initialise SEV",
        INIT,
        E,
        f"{_UP}; the trusted region is only tracked",
        init.init,
        "01 not UNINIT; 13 SME is off; 03 reserved bits; 01 SNP_EN is on and there is no RMP; "
        "1a TMR pages; 09 TMR misplaced; 04 TMR length",
        donated=_TMR,
    ),
    _row(0x002, "SHUTDOWN", "Shut SEV down", INIT, E, "ends this guest host's guests below", init.shutdown),
    _row(
        0x003, "PLATFORM_RESET", "Factory reset", INIT, E, _MUST_NOT, identity.platform_reset, "01 not UNINIT"
    ),
    _row(
        0x004,
        "PLATFORM_STATUS",
        "Status of the legacy platform",
        INIT,
        E,
        "virtual state and guests, real version",
        platform.platform_status,
        states="any",
    ),
    _row(0x005, "PEK_GEN", "New endorsement key", INIT, E, _PER_HOST, identity.pek_gen, "01 not INIT"),
    _row(
        0x006,
        "PEK_CSR",
        "Certificate request",
        INIT,
        E,
        _PER_HOST,
        identity.pek_csr,
        "01 not initialised; 04 short; 09 ~address; 1a output pages",
    ),
    _row(
        0x007,
        "PEK_CERT_IMPORT",
        "Take an owner",
        INIT,
        E,
        _PER_HOST,
        identity.pek_cert_import,
        "01 not INIT; 05 owned; 04 lengths; 09 ~addresses; 06 certificates; 0a signatures",
    ),
    _row(
        0x008,
        "PDH_CERT_EXPORT",
        "Export the platform's certificates",
        INIT,
        E,
        _PER_HOST,
        identity.pdh_cert_export,
        "01 not initialised; 04 short; 09 ~addresses; 1a output pages",
    ),
    _row(
        0x009, "PDH_GEN", "New Diffie-Hellman key", INIT, E, _PER_HOST, identity.pdh_gen, "01 not initialised"
    ),
    _row(
        0x00A,
        "DF_FLUSH",
        "Flush data fabric",
        INIT,
        E,
        "virtual WBINVD flags; real flushes are the level's own",
        init.df_flush,
        "0e a core has not written back",
        states="any",
    ),
    _row(
        0x00B,
        "DOWNLOAD_FIRMWARE",
        "Update the firmware",
        INIT,
        E,
        _MUST_NOT,
        platform.download_firmware,
        "01 not UNINIT; 09 address; 15 not modelled",
    ),
    _row(
        0x00C,
        "GET_ID",
        "The chip's id",
        INIT,
        E,
        "the id is the real one: it is no secret",
        identity.get_id,
        "04 short; 09 ~address; 1a output page",
        states="any",
    ),
    _row(
        0x00D,
        "INIT_EX",
        "Initialise SEV with an NV area",
        INIT,
        E,
        f"{_UP}; the areas are only tracked",
        init.init_ex,
        "01 not UNINIT; 13 SME is off; 03 reserved bits; 01 SNP_EN is on and there is no RMP; 04 length; "
        "09 NV misplaced; 04 NV length; 09 NV and TMR overlap; 1a pages; 09 TMR misplaced; 04 TMR length; "
        "18 NV damaged",
        donated=(*_TMR, Area("nv", "32 KiB", Donation.VIRTUAL)),
    ),
    _row(0x00E, "NOP", "Nothing", INIT, E, "nothing to do", platform.nop, states="any"),
    _row(
        0x00F,
        "RING_BUFFER",
        "Arm the ring buffer",
        INIT,
        E,
        "not offered",
        platform.ring_buffer,
        "01 not initialised; 15 not modelled",
    ),
)

_LEGACY = (
    _row(
        0x020,
        "DECOMMISSION",
        "Forget a guest",
        VM,
        P,
        _HANDLE,
        legacy.decommission,
        f"{_NAMED}; 12 still bound to an ASID",
    ),
    _row(
        0x021,
        "ACTIVATE",
        "Bind an ASID",
        VM,
        R,
        "handle and ASID are exchanged",
        legacy.activate,
        f"{_NAMED}; {_BIND}",
    ),
    _row(0x022, "DEACTIVATE", "Free the ASID", VM, P, _HANDLE, legacy.deactivate, f"{_NAMED}; 08 no ASID"),
    _row(
        0x023,
        "GUEST_STATUS",
        "Status of a guest",
        VM,
        R,
        "the ASID is exchanged back",
        legacy.guest_status,
        "01 not initialised",
    ),
    _row(
        0x024,
        "COPY",
        "Copy within a guest",
        MEMORY,
        R,
        _PLACES,
        legacy_launch.copy,
        f"{_NAMED}; 08 no ASID; 04 length; 09 addresses; 1a target pages",
    ),
    _row(
        0x025,
        "ACTIVATE_EX",
        "Bind an ASID on some CPUs",
        VM,
        E,
        "a guest host's CPU numbers mean nothing below",
        legacy.activate_ex,
        f"04 ~length; {_NAMED}; 16 ~CPUs; {_BIND}",
    ),
    _row(
        0x030,
        "LAUNCH_START",
        "Begin a guest",
        VM,
        R,
        "addresses are exchanged, the handle is mapped",
        legacy.launch_start,
        "01 not initialised; 04 session lengths; 09 ~addresses; 06 ~certificate; 0b session or policy MAC; "
        "07 policy; 10 no guest to share with; 07 policies differ; 17 no free handle; 15 ES is off",
    ),
    _row(
        0x031,
        "LAUNCH_UPDATE_DATA",
        "Encrypt and measure",
        MEMORY,
        R,
        _PLACES,
        legacy_launch.update_data,
        f"{_NAMED}; 02 not LUPDATE; 08 no ASID; 09 address; 04 length; 1a pages",
    ),
    _row(
        0x032,
        "LAUNCH_UPDATE_VMSA",
        "Encrypt and measure a VMSA",
        VCPU,
        R,
        "the page stays where it is for the guest's life",
        legacy_launch.update_vmsa,
        f"04 length; {_NAMED}; 02 not LUPDATE; 15 not an ES guest; 08 no ASID; 09 address; 1a page",
    ),
    _row(
        0x033,
        "LAUNCH_MEASURE",
        "Measurement of the launch",
        LIFECYCLE,
        R,
        "one address is exchanged",
        legacy_launch.measure,
        f"{_NAMED}; 02 not LUPDATE; 04 short; 09 ~address; 1a output page",
    ),
    _row(
        0x034,
        "LAUNCH_SECRET",
        "Inject a secret",
        MEMORY,
        R,
        _PLACES,
        legacy_launch.secret,
        f"{_NAMED}; 09 guest address; 04 lengths; 09 ~addresses; 02 not LSECRET; 08 no ASID; 1a page; "
        "15 ~compressed; 0b MAC",
    ),
    _row(
        0x035,
        "LAUNCH_FINISH",
        "End the launch",
        LIFECYCLE,
        P,
        _HANDLE,
        legacy_launch.finish,
        f"{_NAMED}; 02 not LSECRET",
    ),
    _row(
        0x036,
        "ATTESTATION",
        "Legacy report",
        LIFECYCLE,
        R,
        "one address is exchanged",
        legacy_launch.attestation,
        f"{_NAMED}; 02 not measured; 04 short; 09 ~address; 1a output page",
    ),
    _row(
        0x040,
        "SEND_START",
        "Begin to send a guest",
        LIFECYCLE,
        R,
        _PLACES,
        legacy_transport.send_start,
        f"{_NAMED}; 04 session length; 02 not RUNNING; 07 NOSEND; 07 certificates; 09 ~address; "
        "1a output page; "
        "07 domain; 04 certificate length; 06 ~certificate",
    ),
    _row(
        0x041,
        "SEND_UPDATE_DATA",
        "Send memory",
        LIFECYCLE,
        R,
        _PLACES,
        legacy_transport.send_update_data,
        f"01 platform is not working; 04 header; 10 no such handle; 02 not SUPDATE; {_PACKET}",
    ),
    _row(
        0x042,
        "SEND_UPDATE_VMSA",
        "Send a VMSA",
        VCPU,
        R,
        _PLACES,
        legacy_transport.send_update_vmsa,
        "01 platform is not working; 04 header; 10 no such handle; 02 not SUPDATE; 15 not an ES guest; "
        f"{_PACKET}",
    ),
    _row(
        0x043,
        "SEND_FINISH",
        "End sending",
        LIFECYCLE,
        P,
        _HANDLE,
        legacy_transport.send_finish,
        f"{_NAMED}; 02 not SUPDATE",
    ),
    _row(
        0x044,
        "SEND_CANCEL",
        "Give sending up",
        LIFECYCLE,
        P,
        _HANDLE,
        legacy_transport.send_cancel,
        f"{_NAMED}; 02 not SUPDATE",
    ),
    _row(
        0x050,
        "RECEIVE_START",
        "Begin to receive a guest",
        VM,
        R,
        "addresses are exchanged, the handle is mapped",
        legacy.receive_start,
        "01 not initialised; 04 lengths; 09 ~addresses; 06 ~certificate; 0b session; "
        "10 no guest to share with; "
        "07 policies differ; 17 no free handle; 15 ES is off",
    ),
    _row(
        0x051,
        "RECEIVE_UPDATE_DATA",
        "Receive memory",
        MEMORY,
        R,
        _PLACES,
        legacy_transport.receive_update_data,
        f"{_NAMED}; 02 not RUPDATE; {_PACKET}; 15 compressed; 0b MAC",
    ),
    _row(
        0x052,
        "RECEIVE_UPDATE_VMSA",
        "Receive a VMSA",
        VCPU,
        R,
        _PLACES,
        legacy_transport.receive_update_vmsa,
        f"{_NAMED}; 02 not RUPDATE; 15 not an ES guest; {_PACKET}; 15 compressed; 0b MAC",
    ),
    _row(
        0x053,
        "RECEIVE_FINISH",
        "End receiving",
        LIFECYCLE,
        P,
        _HANDLE,
        legacy_transport.receive_finish,
        f"{_NAMED}; 02 not RUPDATE",
    ),
    _row(
        0x060,
        "DBG_DECRYPT",
        "Read a guest's memory",
        LIFECYCLE,
        R,
        _PLACES,
        legacy_launch.dbg_decrypt,
        "01 platform is not working; 09 addresses; 04 length; 10 no such handle; 07 NODBG; 1a output pages; "
        "08 no ASID",
    ),
    _row(
        0x061,
        "DBG_ENCRYPT",
        "Write a guest's memory",
        LIFECYCLE,
        R,
        _PLACES,
        legacy_launch.dbg_encrypt,
        "01 platform is not working; 09 addresses; 04 length; 10 no such handle; 07 NODBG; 1a output pages; "
        "08 no ASID",
    ),
    _row(
        0x070,
        "SWAP_OUT",
        "Swap a page out",
        MEMORY,
        R,
        _PLACES,
        legacy_transport.swap_out,
        "01 platform is not working; 09 addresses; 16 overlap, or a large VMSA; 10 no such handle; "
        "08 no ASID; "
        "1d ~counter; 1a output pages; 16 type",
    ),
    _row(
        0x071,
        "SWAP_IN",
        "Swap a page in",
        MEMORY,
        R,
        _PLACES,
        legacy_transport.swap_in,
        "01 platform is not working; 09 addresses; 16 overlap, or a large VMSA; 10 no such handle; "
        "08 no ASID; "
        "1a output pages; 16 type; 0b ~tag",
    ),
)

_SNP_PLATFORM = (
    _row(
        0x081,
        "SNP_INIT",
        "Initialise SNP",
        INIT,
        E,
        f"{_UP}; the RMP is a virtual one",
        init.snp_init,
        "01 not UNINIT; 03 CPUs are not set up alike; 15 C-bit in the RMP's bounds; 26 RMP cannot be built",
    ),
    _row(
        0x082,
        "SNP_SHUTDOWN",
        "Shut SNP down",
        INIT,
        E,
        "the platform below stays up",
        init.snp_shutdown,
        "01 SEV is not UNINIT; 0f an ASID is not clean",
    ),
    _row(
        0x083,
        "SNP_PLATFORM_STATUS",
        "Status of the SNP platform",
        INIT,
        E,
        "virtual state, real TCB",
        platform.snp_platform_status,
        "16 crosses a page; 09 ~address; 1a page",
        states="any",
    ),
    _row(
        0x084,
        "SNP_DF_FLUSH",
        "Flush data fabric",
        INIT,
        E,
        "virtual WBINVD flags",
        init.snp_df_flush,
        "0e a core has not written back",
        states="any",
    ),
    _row(
        0x085,
        "SNP_INIT_EX",
        "Initialise SNP with a list",
        INIT,
        E,
        f"{_UP}; fixed pages are so in the soft RMP",
        init.snp_init_ex,
        "16 reserved bits; 01 not UNINIT; 20 no valid RMP; 16 list without a new RMP; "
        "03 CPUs are not set up alike; 15 C-bit in the RMP's bounds; 16 ~list; 26 RMP cannot be built",
    ),
    _row(
        0x086,
        "SNP_SHUTDOWN_EX",
        "Shut SNP down with options",
        INIT,
        E,
        "the platform below stays up",
        init.snp_shutdown_ex,
        "01 SEV is not UNINIT; 0f an ASID is not clean; 16 length or flags",
    ),
    _row(
        0x0C9,
        "SNP_CONFIG",
        "Reported TCB and masks",
        INIT,
        E,
        "kept per guest host",
        platform.snp_config,
        "16 reserved bits; 16 TCB above the committed one",
        states="any",
    ),
    _row(
        0x0CA,
        "SNP_DOWNLOAD_FIRMWARE_EX",
        "Update the firmware",
        INIT,
        E,
        _MUST_NOT,
        platform.snp_download_firmware,
        "01 SEV is not UNINIT; 16 reserved bits; 09 address; 15 not modelled",
    ),
    _row(
        0x0CB,
        "SNP_COMMIT",
        "Commit the firmware",
        INIT,
        E,
        _MUST_NOT,
        platform.snp_commit,
        "16 length",
        states="any",
    ),
    _row(
        0x0CD,
        "SNP_VLEK_LOAD",
        "Load a cloud's signing key",
        INIT,
        E,
        _MUST_NOT,
        platform.snp_vlek_load,
        "16 length; 09 ~address; 21 TCB; 0b unwrapping",
        states="any",
    ),
    _row(
        0x0CE,
        "SNP_FEATURE_INFO",
        "Features of the firmware",
        INIT,
        E,
        "filtered",
        platform.snp_feature_info,
        "16 length; 09 address; 1a page; 16 subfunction",
        states="any",
    ),
)

_SNP_GUEST = (
    _row(0x090, "SNP_DECOMMISSION", "Forget a guest", VM, R, _GCTX, vm.decommission, _CTX),
    _row(
        0x091,
        "SNP_ACTIVATE",
        "Bind an ASID",
        VM,
        R,
        f"{_GCTX}, and the ASID",
        vm.activate,
        f"{_CTX}; 02 not launched; 0d ASID out of range; 03 pages of that ASID; 07 ~sockets; {_BIND}",
    ),
    _row(
        0x092,
        "SNP_GUEST_STATUS",
        "Status of a guest",
        VM,
        R,
        f"{_GCTX}, the ASID back",
        vm.guest_status,
        f"{_CTX}; 1a status page",
    ),
    _row(
        0x093,
        "SNP_GCTX_CREATE",
        "Donate a context page",
        VM,
        R,
        "the very page is donated below",
        vm.gctx_create,
        f"{_SNP}; 1a not Firmware; 19 a 2 MiB entry; 03 no memory",
        donated=_CONTEXT,
    ),
    _row(
        0x094,
        "SNP_GUEST_REQUEST",
        "Carry a sealed request",
        LIFECYCLE,
        R,
        "three addresses are exchanged; what is sealed passes",
        guest.guest_request,
        f"{_CTX}; 1a response page; 19 page sizes; 02 not RUNNING; 16 header; 0b ?tag; 1d sequence; 16 type",
        donated=_RESPONSE,
    ),
    _row(
        0x095,
        "SNP_ACTIVATE_EX",
        "Bind an ASID on some CPUs",
        VM,
        E,
        "a guest host's CPU numbers mean nothing below",
        vm.activate_ex,
        f"16 length; {_CTX}; 16 ~CPUs; 02 not launched; 0d ASID out of range; 03 pages of that ASID; {_BIND}",
    ),
    _row(
        0x0A0,
        "SNP_LAUNCH_START",
        "Begin a launch",
        VM,
        R,
        f"{_GCTX}, the migration agent's too",
        vm.launch_start,
        f"{_CTX}; 02 not INIT; 10 agent; 07 policy",
    ),
    _row(
        0x0A1,
        "SNP_LAUNCH_UPDATE",
        "Measure and encrypt a page",
        MEMORY,
        R,
        f"{_GCTX}, and the page",
        memory.launch_update,
        f"{_CTX}; 1a not Pre-Guest; 19 size; 09 alignment; 19 type with 2 MiB; 16 type; 02 not LAUNCH; "
        "08 no ASID; "
        "1c owner; 16 IMI; 16 CPUID table",
    ),
    _row(
        0x0A2,
        "SNP_LAUNCH_FINISH",
        "End a launch",
        LIFECYCLE,
        R,
        f"{_GCTX}, and the ID block's places",
        lifecycle.launch_finish,
        f"{_CTX}; 02 not LAUNCH; 08 no ASID; 16 ~flags; 09 ~addresses; 0b digest; 07 policy; 16 algorithm; "
        "0a signature",
    ),
    _row(
        0x0B0,
        "SNP_DBG_DECRYPT",
        "Read a guest's page",
        LIFECYCLE,
        R,
        f"{_GCTX}, and the pages",
        lifecycle.dbg_decrypt,
        f"{_CTX}; 1a pages; 1c owner; 07 policy; 08 no ASID",
    ),
    _row(
        0x0B1,
        "SNP_DBG_ENCRYPT",
        "Write a guest's page",
        LIFECYCLE,
        R,
        f"{_GCTX}, and the pages",
        lifecycle.dbg_encrypt,
        "01 SNP is not initialised; 16 reserved bits; 10 not a context page; 1a pages; 1c owner; 07 policy; "
        "08 no ASID",
    ),
    _row(
        0x0C0,
        "SNP_PAGE_SWAP_OUT",
        "Swap a page out",
        MEMORY,
        R,
        f"{_GCTX}, and the pages",
        swap.swap_out,
        f"{_CTX}; 16 metadata place; 1a not Metadata; 1c metadata owner; 19 sizes; 02 state; 08 no ASID; "
        "1a pages; 1c owner; 1d counter",
    ),
    _row(
        0x0C1,
        "SNP_PAGE_SWAP_IN",
        "Swap a page in",
        MEMORY,
        R,
        f"{_GCTX}, and the pages",
        swap.swap_in,
        f"{_CTX}; 09 in place elsewhere; 16 in place metadata or VMSA; 16 metadata place; 1a not Metadata; "
        "1c metadata owner; 1b entry; 19 sizes; 02 state; 08 no ASID; 1a pages; 1c owner; 0b ?tag",
    ),
    _row(
        0x0C2,
        "SNP_PAGE_MOVE",
        "Move a page",
        MEMORY,
        R,
        f"{_GCTX}, and the pages",
        memory.move,
        f"{_CTX}; 19 sizes; 02 state; 08 no ASID; 1c owner; 1a pair of states",
    ),
    _row(
        0x0C3,
        "SNP_PAGE_MD_INIT",
        "Make a metadata page",
        MEMORY,
        R,
        f"{_GCTX}, and the page",
        memory.md_init,
        f"{_CTX}; 1a not Firmware; 19 ~size; 02 state",
        donated=_METADATA,
    ),
    _row(
        0x0C6,
        "SNP_PAGE_SET_STATE",
        "Fix pages to the hypervisor",
        MEMORY,
        E,
        "on the soft RMP: nothing real to gain",
        memory.set_state,
        "04 length; 16 reserved bits; 01 SNP is not initialised; 16 ~list; 09 the RMP's pages; "
        "1a not Firmware",
    ),
    _row(
        0x0C7,
        "SNP_PAGE_RECLAIM",
        "Take a page back",
        MEMORY,
        R,
        "the page's address is exchanged",
        memory.reclaim,
        f"{_SNP}; 09 address; 19 size; 09 alignment; 1a Context, fixed or IOMMU",
    ),
    _row(
        0x0C8,
        "SNP_PAGE_UNSMASH",
        "Join 512 entries",
        MEMORY,
        R,
        "only where one 2 MiB page is below",
        memory.unsmash,
        f"{_SNP}; 09 the RMP's pages; 1a entries do not fit",
    ),
)

CALLS = table((*_PLATFORM, *_LEGACY, *_SNP_PLATFORM, *_SNP_GUEST))
