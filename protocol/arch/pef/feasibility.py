"""Is nesting possible with the ultravisor of POWER, and what has KVM to do for it? Section 8 of the sheet.

Nobody has published a design. What a hypervisor would do alone is marked `software`; what cannot work before
the ultravisor reflects a guest host's `sc 2` is marked `needs_te_change`.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.arch.pef import front
from protocol.arch.pef.calls import CALLS
from protocol.calls import CallSpec, Issuer, Treatment
from protocol.feasibility import Feasibility, Fence, Operand, Part, Realism, Requirement, Table

INTERFACE, MEMORY, VCPU = Part
SOFTWARE, NEEDS_TE_CHANGE = Realism.SOFTWARE, Realism.NEEDS_TE_CHANGE

FENCES = (
    Fence(
        "chip registers, firmware memory, the boot engine",
        "they are the machine's, and a guest host has no machine",
        "UV_READ_SCOM and its like answer U_PERMISSION",
        "4.1",
        SOFTWARE,
    ),
    Fence(
        "debug registers of the host",
        "they would change what the physical CPU does",
        "virtual registers take their place",
        "4.1",
        SOFTWARE,
    ),
    Fence(
        "VMs with hashed page tables",
        "a KVM that is a guest runs radix VMs alone",
        "KVM_PPC_CONFIGURE_V3_MMU answers EINVAL",
        "8.1",
        SOFTWARE,
    ),
    Fence(
        "more secure memory than the guest host's quota",
        "nothing is donated on POWER, so a count is all that limits it",
        "UV_REGISTER_MEM_SLOT answers U_PARAMETER",
        "8.4",
        SOFTWARE,
    ),
    Fence(
        "migration of the secure host",
        "page keys live in this machine's ultravisor",
        "refused, as QEMU refuses it for a VM with PEF",
        "8.7",
        SOFTWARE,
    ),
)
REQUIREMENTS = (
    Requirement(
        "ultravisor",
        "reflects `sc 2` of a guest host to its hypervisor",
        "a guest host runs with HV=0: today each of its ultracalls is U_PERMISSION and L0 never sees it",
        "",
        "3",
        NEEDS_TE_CHANGE,
    ),
    Requirement(
        "L0 KVM",
        "enters a secure L2 by UV_RETURN with the cookie that came with its exit",
        "H_ENTER_NESTED ends in HRFID today, which cannot set MSR[S]",
        "a change of its nested entry",
        "4.1, 8.2",
        SOFTWARE,
    ),
    Requirement(
        "L0 KVM",
        "keeps MSR[S] in the SRR1 that a guest host sees",
        "KVM takes H_SVM_* only from a caller with that bit",
        "a change of its nested exit",
        "8.2",
        SOFTWARE,
    ),
    Requirement(
        "L0 KVM",
        "pages of 64 KiB in one piece under the guest host",
        "the ultravisor takes pages of 64 KiB alone; others have to be bounced",
        "large pages for the guest host's memory",
        "8.4",
        SOFTWARE,
    ),
    Requirement(
        "L0 KVM",
        "guest ids that are LPIDs of its own (nesting API v2)",
        "four calls then pass with their body unchanged; Linux has the guest host's side of that API alone",
        "hypervisors that offer the API",
        "8.1, 8.3",
        SOFTWARE,
    ),
    Requirement(
        "guest host",
        "a device tree with the ultravisor's node and an amount of secure memory",
        "without a size KVM answers H_UNSUPPORTED and hides its capability",
        "the VMM, which writes it",
        "4.1",
        SOFTWARE,
    ),
)
TABLES = (
    Table(
        "VMs",
        "LPID of the guest host: shadow LPID, its partition table entry as data, how far it is secure",
        INTERFACE,
        "8.3",
        "nesting/records.py",
        NEEDS_TE_CHANGE,
    ),
    Table(
        "memory slots",
        "VM and slot: units of 2 MiB, for the quota",
        INTERFACE,
        "8.4",
        "nesting/records.py",
        NEEDS_TE_CHANGE,
    ),
    Table(
        "open reflections",
        "cookie: vcpu, PIDR, and whether its return would end the machine",
        VCPU,
        "4.1, 5.4",
        "nesting/records.py",
        NEEDS_TE_CHANGE,
    ),
    Table(
        "shadow tables",
        "one for each VM: guest address to real address, filled by storage interrupts",
        MEMORY,
        "8.1",
        "nesting/records.py",
        SOFTWARE,
    ),
    Table(
        "shared pages",
        "VM and GFN: the guest host's page that the ultravisor is bound to, and those that moved",
        MEMORY,
        "8.4",
        "nesting/records.py",
        NEEDS_TE_CHANGE,
    ),
    Table(
        "free LPIDs",
        "the guest host's share of the level's own",
        INTERFACE,
        "8.3",
        "nesting/__init__.py",
        SOFTWARE,
    ),
    Table(
        "virtual debug registers",
        "one set for each guest host",
        INTERFACE,
        "4.1",
        "nesting/__init__.py",
        SOFTWARE,
    ),
)

_LPID = Operand("r4 LPID", "exchanged for the shadow LPID; another host's answers as one that nobody has")
_FROM = "checked against the guest host's memory, exchanged for the real address, held meanwhile"
_OPERANDS: dict[int, tuple[Operand, ...]] = {
    front.WRITE_PATE: (
        _LPID,
        Operand("r5 dw0", "kept as data; an entry that leads to the shadow table goes below"),
        Operand("r6 dw1"),
    ),
    front.RETURN: (
        Operand("r0 result"),
        Operand("r4 to r12 outputs"),
        Operand("r2 SRR1"),
        Operand("r31 cookie", "looked up: a wrong one ends the guest host's machine alone"),
        Operand("HSRR0"),
        Operand("LPIDR, PIDR", "exchanged for what the level below was entered with"),
    ),
    front.REGISTER_MEM_SLOT: (
        _LPID,
        Operand("r5 address"),
        Operand("r6 size", "counted in units against the quota"),
        Operand("r7 flags"),
        Operand("r8 slot"),
    ),
    front.UNREGISTER_MEM_SLOT: (_LPID, Operand("r5 slot")),
    front.PAGE_IN: (
        _LPID,
        Operand("r5 source", _FROM),
        Operand("r6 GPA"),
        Operand("r7 flags"),
        Operand("r8 order"),
    ),
    front.PAGE_OUT: (
        _LPID,
        Operand("r5 target", _FROM),
        Operand("r6 GPA"),
        Operand("r7 flags"),
        Operand("r8 order"),
    ),
    front.PAGE_INVAL: (_LPID, Operand("r5 GPA"), Operand("r6 order")),
    front.SVM_TERMINATE: (_LPID,),
    front.RESTRICTED_SPR_WRITE: (
        Operand("r4 register", "one of the virtual ones"),
        Operand("r5 value", "kept there"),
    ),
    front.RESTRICTED_SPR_READ: (
        Operand("r4 register", "one of the virtual ones"),
        Operand("r5 value (out)", "answered from there"),
    ),
    front.ESM: (Operand("r4 kernel"), Operand("r5 device tree")),
    front.SHARE_PAGE: (Operand("r4 GFN"), Operand("r5 pages")),
    front.UNSHARE_PAGE: (Operand("r4 GFN"), Operand("r5 pages")),
    front.ESMB_GET_FILE: (Operand("r4 offset"), Operand("r5 to r12 name")),
}
_REFUSED = (front.READ_SCOM, front.WRITE_SCOM, front.READ_MEM, front.WRITE_MEM, front.SEND_SBE_COMMAND)
_CALLER = 1  # check of every call of a hypervisor: the reflection brings it here
# Checks behind the caller's that a hypervisor makes before it asks below: order, address, LPID, quota.
_HERE = {
    front.WRITE_PATE: 1,
    front.REGISTER_MEM_SLOT: 2,
    front.UNREGISTER_MEM_SLOT: 1,
    front.PAGE_IN: 3,
    front.PAGE_OUT: 3,
    front.PAGE_INVAL: 2,
    front.SVM_TERMINATE: 1,
}
_RETURNS = front.SVM_TERMINATE, 3  # that one is under way only this level can know


def judged_here(row: CallSpec, place: int) -> bool:
    """A test measures it at depth 1: which level refuses. H_SVM_* are the guest host's own."""
    if row.issuer is Issuer.GUEST:
        return False
    if row.treatment is Treatment.EMULATED or (row.code, place) == _RETURNS:
        return True
    return place < _CALLER + _HERE[row.code]


def operands(row: CallSpec) -> Iterator[Operand]:
    """Registers."""
    if row.code in _REFUSED:
        yield Operand("all", "not looked at: refused")
    yield from _OPERANDS.get(row.code, ())


def realism_of(row: CallSpec) -> Realism:
    """What a guest host asks has to reach L0 first. Its guests' calls, and what those bring up, do today."""
    return SOFTWARE if row.issuer is Issuer.GUEST else NEEDS_TE_CHANGE


FEASIBILITY = Feasibility(
    "pef",
    CALLS,
    NEEDS_TE_CHANGE,
    realism_of,
    FENCES,
    REQUIREMENTS,
    TABLES,
    judged_here,
    operands,
    {
        "__init__.py": INTERFACE,
        "treatments.py": INTERFACE,
        "teardown.py": INTERFACE,
        "records.py": MEMORY,
        "entry.py": VCPU,
    },
    ("transactional memory is in use by no hypervisor", "the number is one of an ultracall"),
    "3",
)
