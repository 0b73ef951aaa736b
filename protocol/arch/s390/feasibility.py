"""Is nesting possible with the Ultravisor, and what has KVM to do for it? Section 7 of the fact sheet.

The talk's prototype has the 28 calls of its time; later ones are software that nobody has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from protocol.arch.s390 import layouts
from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.layouts import LAYOUTS
from protocol.arch.s390.profiles import PROFILES
from protocol.calls import CallSpec, Treatment
from protocol.feasibility import Feasibility, Fence, Operand, Part, Realism, Requirement, Table

INTERFACE, MEMORY, VCPU = Part
PROTOTYPE, SOFTWARE, NEEDS_TE_CHANGE = Realism.PROTOTYPE, Realism.SOFTWARE, Realism.NEEDS_TE_CHANGE
LATER = PROFILES["talk2022"].absent

FENCES = (
    Fence(
        "adapter interrupts, AP cards and their interrupts in secure guests",
        "these facilities reach through to hardware that is the level below's",
        "feature bits 1, 4 and 5 of the query are zero",
        "7.5",
        PROTOTYPE,
    ),
    Fence(
        "interpretation facilities that follow the pointers of the SCA",
        "the guest host's SCA points to its own SIE blocks, so the Ultravisor gets another SCA",
        "the guest leaves SIE where the facility would have answered",
        "7.2",
        PROTOTYPE,
    ),
    Fence(
        "guests larger than their guest host",
        "their shadow tables lead to memory of the guest host",
        "max_guest_stor_addr is at most the guest host's own memory",
        "7.5",
        PROTOTYPE,
    ),
    Fence(
        "migration of the secure host",
        "keys and secure pages live in this machine's Ultravisor; no call moves them",
        "refused; the way round is a cold restart elsewhere",
        "7.1 item 10",
        PROTOTYPE,
    ),
    Fence(
        "calls that only guests make",
        "whoever runs at the top of a guest host is a host",
        "bits 8, 9, 28 to 31 and 33 of the installed calls are zero, and such a call answers 0x0002",
        "7.5",
        PROTOTYPE,
    ),
)
REQUIREMENTS = (
    Requirement(
        "guest host",
        "facility 158, and 161 for its guests",
        "Linux asks these facilities whether there is an Ultravisor",
        "KVM offers them to the guest host",
        "7.5",
        PROTOTYPE,
    ),
    Requirement(
        "L0 KVM",
        "shadow blocks and shadow tables that live as long as the secure CPU and the configuration",
        "the Ultravisor compares both at each entry; vSIE recycles and re-validates them lazily",
        "a change of vSIE for secure guests",
        "7.2",
        PROTOTYPE,
    ),
    Requirement(
        "L0 KVM",
        "exception 0x3D is injected when the guest host touches a secure page",
        "today's KVM destroys or exports that page, and memory of a guest is lost in silence",
        "a change of its fault handler",
        "7.6",
        PROTOTYPE,
    ),
    Requirement(
        "L0 KVM",
        "contiguous memory of its own for each configuration and CPU",
        "what the guest host donates in one piece is not in one piece below",
        "memory set aside, or allocated in large pieces",
        "7.2",
        PROTOTYPE,
    ),
    Requirement(
        "hardware",
        "the guest host's virtual address with exception 0x3D",
        "an access under SIE shows its absolute address alone, and the TEID has to hold the virtual one",
        "",
        "7.6",
        NEEDS_TE_CHANGE,
    ),
    Requirement(
        "hardware, Ultravisor",
        "facilities for performance and security that work one level down",
        "not all that the Trusted Entity relies on is compatible with nesting",
        "",
        "7.1 item 8",
        NEEDS_TE_CHANGE,
    ),
)
TABLES = (
    Table(
        "the emulated Ultravisor",
        "initialised or not, and what was donated to it",
        INTERFACE,
        "7.4",
        "nesting/vm.py",
        PROTOTYPE,
    ),
    Table(
        "configurations",
        "real handle: its range, both tables, what was taken and what was lent, its CPUs",
        INTERFACE,
        "7.4",
        "nesting/entities.py",
        PROTOTYPE,
    ),
    Table(
        "secure CPUs",
        "real handle: configuration, number, SIE block, shadow block, what was taken",
        VCPU,
        "7.4",
        "nesting/entities.py",
        PROTOTYPE,
    ),
    Table(
        "donated pages",
        "page of the guest host: its owner, for exceptions and for its way back",
        MEMORY,
        "7.4",
        "nesting/frames.py",
        PROTOTYPE,
    ),
    Table(
        "secure pages",
        "page of the guest host: configuration, guest address, who exported it",
        MEMORY,
        "7.4",
        "nesting/memory.py",
        PROTOTYPE,
    ),
    Table("pins", "page of the guest host: how often", MEMORY, "7.4", "nesting/memory.py", PROTOTYPE),
    Table(
        "shadow tables",
        "one for each configuration: guest address to the level's own frame",
        MEMORY,
        "7.2",
        "nesting/shadow.py",
        PROTOTYPE,
    ),
    Table(
        "shadow blocks",
        "one for each secure CPU: control block, data area, registers",
        VCPU,
        "7.2",
        "nesting/entry.py",
        PROTOTYPE,
    ),
    Table(
        "quotas",
        "configurations, CPUs and donated bytes against what the query promised",
        INTERFACE,
        "7.4",
        "nesting/vm.py",
        PROTOTYPE,
    ),
    Table(
        "what is left over",
        "pages of guests of a host that is gone, until each is destroyed",
        MEMORY,
        "7.8",
        "nesting/teardown.py",
        PROTOTYPE,
    ),
)
_DONE_HERE = {
    layouts.ABSOLUTE: "exchanged for the frame below, which is held meanwhile",
    layouts.HOME: "walked through the guest host's own table, copied in or out",
    layouts.HANDLE: "looked up: another host's answers as an unknown one",
}
# Calls that are issued below all the same: their checks of what is the guest host's own, memory and limits.
_HERE: dict[str, Iterable[int]] = {
    "create_config": range(13),
    "create_cpu": range(5),
    "destroy_cpu": (0,),  # whether the CPU is inside: its answer may still be under way
    "set_params": range(3),
    "convert_to_secure": (3,),
    "unpack": (4,),
    "convert_from_secure": range(3),
    "destroy_storage": range(3),
    "pin": range(3),
    "dump_storage_state": (0,),
    "dump_cpu": range(2),
    "dump_complete": (0,),
}


def judged_here(row: CallSpec, place: int) -> bool:
    """A test measures it at depth 1: which level refuses."""
    return row.treatment is Treatment.EMULATED or place in _HERE.get(row.name, ())


def operands(row: CallSpec) -> Iterator[Operand]:
    """The fields of the block. A guest's own calls pass nobody."""
    for field in LAYOUTS[row.name]:
        if row.treatment is Treatment.NATIVE:
            yield Operand(field.name)
        elif row.treatment is Treatment.EMULATED:
            yield Operand(field.name, "answered from this level's books" if field.out else "looked at here")
        else:
            work = "a shadow table's takes its place" if field.name == "guest_asce" else ""
            yield Operand(field.name, work or _DONE_HERE.get(field.kind, ""))


FEASIBILITY = Feasibility(
    "s390",
    CALLS,
    PROTOTYPE,
    lambda row: SOFTWARE if row.code in LATER else PROTOTYPE,
    FENCES,
    REQUIREMENTS,
    TABLES,
    judged_here,
    operands,
    {
        "__init__.py": INTERFACE,
        "vm.py": INTERFACE,
        "vcpu.py": INTERFACE,
        "entities.py": INTERFACE,
        "passing.py": INTERFACE,
        "strategy.py": INTERFACE,
        "dump.py": INTERFACE,
        "teardown.py": INTERFACE,
        "frames.py": MEMORY,
        "memory.py": MEMORY,
        "shadow.py": MEMORY,
        "entry.py": VCPU,
    },
    (
        "the CPU is not in problem state",
        "no immediate operand is set",
        "the block can be read and written as a whole",
        "the call is installed, for who issues it",
        "the Ultravisor is initialised",
        "the length is that of the call",
        "the handle is this host's",
    ),
    "3.4",
    frozenset({"bulk.py"}),
)
