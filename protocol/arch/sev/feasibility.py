"""Is nesting possible with AMD's secure processor, and what has KVM to do for it? Section 7 of the sheet.

SNP is built: a hypervisor runs it, with trapping MSRs. Legacy SEV and SEV-ES are software that nobody has
written.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.structs import LAYOUTS
from protocol.calls import CallSpec, Treatment
from protocol.feasibility import Feasibility, Fence, Operand, Part, Realism, Requirement, Table

INTERFACE, MEMORY, VCPU = Part
BUILT, SOFTWARE, NEEDS_TE_CHANGE = Realism.BUILT, Realism.SOFTWARE, Realism.NEEDS_TE_CHANGE

FENCES = (
    Fence(
        "firmware updates, SNP_COMMIT, SNP_VLEK_LOAD, the ring buffer",
        "they concern everybody on the machine",
        "UNSUPPORTED behind their checks",
        "7.2",
        BUILT,
    ),
    Fence(
        "ACTIVATE_EX and SNP_ACTIVATE_EX",
        "APIC ids of a guest host mean nothing to the real core complexes",
        "UNSUPPORTED behind their checks",
        "7.2",
        BUILT,
    ),
    Fence(
        "SNP_CONFIG for the machine",
        "its TCB and masks are the machine's",
        "kept for the host; a report shows the real chip's",
        "7.2",
        BUILT,
    ),
    Fence(
        "trusted IO, ciphertext hiding",
        "they reach through to hardware",
        "INVALID_COMMAND, and no feature bit says that they are there",
        "7.2",
        BUILT,
    ),
    Fence(
        "shutdown of SNP for the machine",
        "everybody's guests would end with it",
        "the guest host's own platform goes down alone",
        "7.2",
        BUILT,
    ),
    Fence(
        "pages of 2 MiB where the guest host's memory is not in one piece below",
        "the hardware compares sizes",
        "an entry of 512 small pages",
        "7.2",
        BUILT,
    ),
    Fence(
        "SEND_START under a policy that wants a chain up to the vendor",
        "nobody signed for the identity that a guest host's platform has",
        "UNSUPPORTED",
        "7.2",
        SOFTWARE,
    ),
    Fence(
        "migration of the secure host",
        "real keys live in this socket",
        "refused while it has guests; legacy guests can be sent one by one",
        "7.2",
        BUILT,
    ),
)
REQUIREMENTS = (
    Requirement(
        "hardware",
        "MSRs by which RMPUPDATE and PSMASH of a guest trap",
        "the instructions cannot be intercepted",
        "processors with CPUID 0x8000001F EAX bit 29 defined for it",
        "7.1",
        BUILT,
    ),
    Requirement(
        "guest host",
        "is no SNP guest itself",
        "an SNP guest cannot run guests of its own",
        "the guest host stays unencrypted",
        "7.1",
        BUILT,
    ),
    Requirement(
        "guest host",
        "a kernel that uses the trapping MSRs and keeps a table of its own",
        "it may not see the real RMP",
        "patches that were not merged; mainline has no such path",
        "7.1",
        BUILT,
    ),
    Requirement(
        "L0 KVM",
        "a share of the ASIDs for each guest host, and flushes that one of them cannot force on all",
        "WBINVD and DF_FLUSH are the machine's",
        "flags of virtual CPUs",
        "7.2",
        BUILT,
    ),
    Requirement(
        "L0 KVM",
        "the transport keys of a legacy guest's owner session",
        "it has to wrap them anew for the real secure processor",
        "trust in L0 that SEV did not ask for",
        "7.2",
        SOFTWARE,
    ),
    Requirement(
        "hardware",
        "the linear address of an RMP violation under a guest",
        "a nested fault shows none, and the guest host's #PF wants one",
        "",
        "7.1",
        NEEDS_TE_CHANGE,
    ),
)
TABLES = (
    Table("the soft RMP", "page of the guest host: assigned, size, ASID, GPA, immutable", MEMORY, "7.2",
          "nesting/__init__.py", BUILT),
    Table("lent pages", "pages of the guest host that are the firmware's below", MEMORY, "7.2",
          "nesting/pages.py", BUILT),
    Table("the virtual platform", "states, configuration, trusted region, identity, NV area", INTERFACE,
          "7.2", "nesting/platform.py", BUILT),
    Table("contexts", "address of a context page: state, ASID, policy", INTERFACE, "7.2",
          "nesting/snp.py", BUILT),
    Table("legacy guests", "handle of the guest host: real handle, state, ASID, session", INTERFACE, "7.2",
          "nesting/legacy.py", SOFTWARE),
    Table("ASIDs", "number of the guest host: real one, clean or dirty", INTERFACE, "7.2",
          "nesting/port.py", BUILT),
    Table("the mailbox", "commands that wait, one at a time", INTERFACE, "7.2", "nesting/port.py", BUILT),
    Table("bounce pages", "for buffers that are not in one piece below", INTERFACE, "7.2",
          "nesting/port.py", BUILT),
    Table("shadow control blocks", "VMCB of the guest host: that of the level below", VCPU, "7.2",
          "nesting/entry.py", BUILT),
    Table("shadow nested tables", "guest address to the level's own frame, the guest host's tables protected",
          MEMORY, "7.2", "nesting/shadow.py", BUILT),
    Table("quarantine", "pages that the firmware did not give back", MEMORY, "7.2",
          "nesting/teardown.py", BUILT),
)  # fmt: skip
_HANDLE = {
    "handle": "looked up, exchanged for the real one or passed; another host's is INVALID_GUEST",
    "gctx": "looked up, exchanged for the real page; another host's is no context page",
    "asid": "exchanged for the real one behind it",
}
_ADDRESS = "exchanged page by page, split or bounced where it is not in one piece"
# What stands on secrets of a guest, or is in a page that the level cannot read: the firmware below finds it.
_BELOW = {
    "SWAP_OUT": ("type", "counter"),
    "SWAP_IN": ("type", "tag"),
    "SNP_GUEST_REQUEST": ("header", "tag", "sequence", "type"),
    "SNP_LAUNCH_UPDATE": ("CPUID table",),
    "SNP_LAUNCH_FINISH": ("digest", "policy", "algorithm", "signature"),
    "SNP_PAGE_SWAP_OUT": ("counter",),
    "SNP_PAGE_SWAP_IN": ("entry", "state", "no ASID", "tag"),
}


def judged_here(row: CallSpec, place: int) -> bool:
    """Checks are made on the guest host's own books, before anything is issued (`checks/`)."""
    return row.checks[place].text not in _BELOW.get(row.name, ())


def operands(row: CallSpec) -> Iterator[Operand]:
    """The fields of the command's buffer, which is copied in any case."""
    for name, field in LAYOUTS[row.name].fields.items():
        if row.treatment is Treatment.EMULATED:
            yield Operand(name, "looked at or answered here")
        else:
            yield Operand(name, _HANDLE.get(name, "") or (_ADDRESS if field.address else ""))


FEASIBILITY = Feasibility(
    "sev",
    CALLS,
    BUILT,
    lambda row: BUILT if row.name.startswith("SNP_") else SOFTWARE,
    FENCES,
    REQUIREMENTS,
    TABLES,
    judged_here,
    operands,
    {
        "__init__.py": INTERFACE,
        "treatments.py": INTERFACE,
        "platform.py": INTERFACE,
        "legacy.py": INTERFACE,
        "transport.py": INTERFACE,
        "snp.py": INTERFACE,
        "port.py": INTERFACE,
        "entities.py": INTERFACE,
        "teardown.py": INTERFACE,
        "pages.py": MEMORY,
        "memory.py": MEMORY,
        "shadow.py": MEMORY,
        "entry.py": VCPU,
    },
    (
        "the number is one of a command",
        "the buffer lies in a page of the firmware's, where it will be written",
        "the buffer can be reached",
    ),
    "3.2",
    frozenset({"bulk.py"}),
    remark="SNP; nobody has written it for SEV and SEV-ES",
)
