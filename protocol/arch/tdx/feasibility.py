"""Is nesting possible with the TDX module, and what has KVM to do for it? Section 7 of the fact sheet.

Nobody has published a hypervisor that re-issues a guest host's SEAMCALLs. Calls of migration and service TDs
are hypothetical here: no kernel issues them.
"""

from __future__ import annotations

from collections.abc import Iterator

from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.nesting.memory import ROWS
from protocol.arch.tdx.status import R8, R9, R10, RCX, RDX
from protocol.calls import CallSpec, Category, Treatment
from protocol.feasibility import Feasibility, Fence, Operand, Part, Realism, Requirement, Table

INTERFACE, MEMORY, VCPU = Part
SOFTWARE, HYPOTHETICAL = Realism.SOFTWARE, Realism.HYPOTHETICAL

FENCES = (
    Fence("migration and service TDs", "no kernel issues these calls; sessions bind TDs of one machine",
          "feature bits 0 and 2 are zero, the leaves answer OPERAND_INVALID; profile `migration` offers them",
          "2.6, 7.9", HYPOTHETICAL),
    Fence("TD partitioning", "guests inside a TD are the module's business, and no hypervisor's",
          "TDs may be configured for it, and nothing runs in them", "7.8", HYPOTHETICAL),
    Fence("real KeyIDs", "the pool is shared with the machine's own TDs and with other guest hosts",
          "the guest host has KeyIDs of its own, and a quota", "7.4", SOFTWARE),
    Fence("pages of 2 MiB where the memory below is not in one piece", "the module takes what lies together",
          "4 KiB behaviour", "7.3", SOFTWARE),
    Fence("update and shutdown of the real module", "everybody's TDs end with it",
          "SYS.SHUTDOWN ends the guest host's own", "7.6", SOFTWARE),
    Fence("write-backs of all caches at a guest host's will", "it could slow everybody down",
          "one real cycle serves all its KeyIDs; what is clean already costs nothing", "7.4", SOFTWARE),
    Fence("migration of the secure host", "TDs are bound to the machine's keys",
          "refused; TDs can be moved one by one, by calls that no kernel issues", "7.1", SOFTWARE),
)  # fmt: skip
REQUIREMENTS = (
    Requirement("hardware", "SEAMCALL in a guest leaves to its hypervisor", "it is how L0 gets the call",
                "exit reason 76", "7, 7.6", SOFTWARE),
    Requirement("L0 KVM", "tells a guest host that there is a module and which KeyIDs are private",
                "Linux looks for SEAMRR and the partitioning of KeyIDs before it calls",
                "virtual MSRs, and fewer bits of physical addresses", "7.4", SOFTWARE),
    Requirement("TDX module", "NO_RBP_MOD, TOPOLOGY_ENUM, and version 1 of TDH.VP.INIT",
                "Linux refuses a module without them", "modules newer than 1.5.01; profile `linux`", "7.9",
                SOFTWARE),
    Requirement("L0 KVM", "memory of the guest host in pages that stay where they are",
                "the guest host's own page is given to the module, which keeps its real address",
                "pinned pages of 4 KiB", "7.1", SOFTWARE),
    Requirement("hardware", "as many private KeyIDs as all guest hosts were promised",
                "an empty pool has no honest status", "quotas that sum to less than the machine has", "7.4",
                SOFTWARE),
    Requirement("L0 KVM", "leaves a TD whenever it tells its guest host that the TD left",
                "TRACK counts real exits", "no entry is kept open", "7.5", SOFTWARE),
    Requirement("guest host", "is no TD itself", "guests inside a TD need the module itself", "a plain VM",
                "7.8", SOFTWARE),
)  # fmt: skip
TABLES = (
    Table("the virtual module", "state, LPs, TDMRs, and PAMT areas of the guest host's own", INTERFACE, "7.2",
          "nesting/__init__.py", SOFTWARE),
    Table("the virtual PAMT", "page of the guest host: type, size, owner, lock", MEMORY, "7.1",
          "nesting/frames.py", SOFTWARE),
    Table("TDs", "page of the TDR: real KeyID, VCPUs, shape", INTERFACE, "7.1", "nesting/entities.py",
          SOFTWARE),
    Table("VCPUs", "page of the TDVPR: TD, LP", VCPU, "7.1", "nesting/entities.py", SOFTWARE),
    Table("KeyIDs", "number of the guest host: real one, packages, written back or not", INTERFACE, "7.4",
          "nesting/keys.py", SOFTWARE),
    Table("donated pages", "frames that are a TD's, and how a touch of them ends", MEMORY, "7.2",
          "nesting/frames.py", SOFTWARE),
    Table("shadow shared EPTs", "shared guest address to the level's own frame, the tables protected", MEMORY,
          "7.3", "nesting/shadow.py", SOFTWARE),
    Table("quarantine", "pages that the module did not give back", MEMORY, "7.7", "nesting/teardown.py",
          SOFTWARE),
)  # fmt: skip
_NAMES = {RCX: "rcx", RDX: "rdx", R8: "r8", R9: "r9", R10: "r10"}
_PAGE = "checked against the guest host's TDMRs, exchanged for the address below"
_BUFFER = "exchanged for the address below, within one page"
_ENTRY = "an entry or a page that the answer shows is turned into the guest host's address"
# What this level finds wrong with a page that is named: the answer of the module below is replaced by it.
_OF_A_PAGE = (
    "not aligned, KeyID bits, or too high",
    "in no initialised GiB of a TDMR",
    "locked in the PAMT",
    "the owner is locked",
    "the TDR is locked",
    "source",
    "buffer, or a reserved field",  # the buffer: what is in it the module below reads
)
_OF_A_VALUE = {  # of registers that bear an address, or that go below changed
    "mem_sept_add": "reserved bits",
    "vp_enter": "a reserved bit",
    "vp_wr": "not such a value",
}
_KEYS = frozenset({"mng_create", "mng_key_config", "mng_key_freeid", "mng_vpflushdone"})
_STATE_BELOW = ("another size or type", "the TD is dead", "the key is configured", "not flushed")


def judged_here(row: CallSpec, place: int) -> bool:
    """The module below makes its checks in its order; pages, their locks and keys are looked at here.

    A test asks at depth 1 which level refused.
    """
    if row.treatment in (Treatment.EMULATED, Treatment.NATIVE):
        return row.treatment is Treatment.EMULATED
    text = row.checks[place].text
    if row.name in _KEYS:
        return not text.endswith(_STATE_BELOW)
    return text.endswith(_OF_A_PAGE) or text == _OF_A_VALUE.get(row.name)


def operands(row: CallSpec) -> Iterator[Operand]:
    """Registers, out of the very rows by which this project's emulation treats them."""
    its = ROWS.get(row.code)
    if row.treatment is Treatment.EMULATED:
        yield Operand("all", "looked at or answered here")
    elif row.treatment is not Treatment.NATIVE and its is not None:
        yield Operand(f"{_NAMES[its.handle]} {'TDVPR' if its.vcpu else 'TDR'}", _PAGE)
        if its.page:
            yield Operand(f"{_NAMES[its.page]} page", _PAGE)
        if its.buffer[0]:
            yield Operand(f"{_NAMES[its.buffer[0]]} buffer", _BUFFER)
        if its.entry:
            yield Operand("rcx GPA and level")
            yield Operand("rcx, rdx (out)", _ENTRY)
    elif row.handle:
        yield Operand(row.handle.upper(), _PAGE)


FEASIBILITY = Feasibility(
    "tdx",
    CALLS,
    SOFTWARE,
    lambda row: HYPOTHETICAL if row.category is Category.LIFECYCLE else SOFTWARE,
    FENCES,
    REQUIREMENTS,
    TABLES,
    judged_here,
    operands,
    {
        "__init__.py": INTERFACE,
        "operands.py": INTERFACE,
        "entities.py": INTERFACE,
        "keys.py": INTERFACE,
        "teardown.py": INTERFACE,
        "frames.py": MEMORY,
        "memory.py": MEMORY,
        "shadow.py": MEMORY,
        "entry.py": VCPU,
    },
    (
        "the CPU is in VMX operation, at privilege level 0",
        "reserved bits of RAX, and a version where there are none",
        "the module is not shut down",
        "the module is ready",
        "the leaf is one that is offered",
    ),
    "3.3, 7.6",
    frozenset({"bulk.py"}),
)
