"""Is nesting possible on an architecture, and what would a hypervisor have to write for it?

A slice answers with a `Feasibility`: beside its call table, which says what passes, what is modified and what
is emulated, it lists what must be fenced off, what hardware and Trusted Entity have to provide, and which
tables a hypervisor has to keep. Every line names its section of the fact sheet and how real it is. The
worklist is worked out from that: each check, field and table, with whether the level below does it already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.calls import CallSpec, Treatment


class Realism(StrEnum):
    """How real something of the nested path is, most real first."""

    BUILT = "built"  # somebody runs it
    PROTOTYPE = "prototype"  # it has been shown to work
    SOFTWARE = "software"  # possible on machines that there are; nobody has written it
    NEEDS_TE_CHANGE = "needs_te_change"
    HYPOTHETICAL = "hypothetical"


class Part(StrEnum):
    """The parts into which the talk divides what its prototype needed."""

    INTERFACE = "interface"  # emulation of the calls
    MEMORY = "memory"
    VCPU = "vcpu"


TALK = {Part.INTERFACE: 80, Part.MEMORY: 10, Part.VCPU: 10}  # percent of about 2,000 lines in KVM (s390)
TREATED = (Treatment.PASSED, Treatment.MODIFIED, Treatment.EMULATED, Treatment.NATIVE)


@dataclass(frozen=True, slots=True)
class Fence:
    """A feature that a guest host is not offered. `instead` is what it sees, or gets when it asks anyway."""

    what: str
    why: str
    instead: str
    source: str
    realism: Realism


@dataclass(frozen=True, slots=True)
class Requirement:
    """Something that `of` has to provide: the hardware, the Trusted Entity, the guest host.

    `met` says by what it is met today; "" if by nothing that is known.
    """

    of: str
    what: str
    why: str
    met: str
    source: str
    realism: Realism


@dataclass(frozen=True, slots=True)
class Table:
    """Something that a hypervisor has to keep for each guest host; `where` is this project's file for it."""

    name: str
    keeps: str
    part: Part
    source: str
    where: str
    realism: Realism


@dataclass(frozen=True, slots=True)
class Operand:
    """A field or a register of a call, and what a hypervisor does about it: "" if it goes on as it is."""

    name: str
    work: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of a worklist. What is `own` has to be written; the rest the Trusted Entity below does."""

    kind: str  # check, field, table
    call: str  # "" for a table
    text: str
    own: bool
    part: Part
    source: str
    realism: Realism


@dataclass(frozen=True)
class Feasibility:
    """What a slice says. Functions are asked once for each row of the call table.

    `judged_here` says of a check, by its place in the row, whether the hypervisor has to make it itself;
    `operands` lists what a call carries; `files` are those of the slice's `nesting` folder by part, without
    `speed_ups`, which no hypervisor needs. `before` are the checks of every call that a guest host makes.
    """

    name: str
    calls: Mapping[int, CallSpec]
    realism: Realism
    realism_of: Callable[[CallSpec], Realism]
    fences: Sequence[Fence]
    requirements: Sequence[Requirement]
    tables: Sequence[Table]
    judged_here: Callable[[CallSpec, int], bool]
    operands: Callable[[CallSpec], Iterable[Operand]]
    files: Mapping[str, Part]
    before: Sequence[str] = ()
    before_source: str = ""
    speed_ups: frozenset[str] = frozenset()
    remark: str = ""  # to `realism`, where not all of it is as real

    def treated(self, treatment: Treatment) -> list[CallSpec]:
        """Rows with this treatment, in the order of the table."""
        return [row for row in self.calls.values() if row.treatment is treatment]

    def worklist(self) -> Iterator[Item]:
        """What stands before every call, its checks and fields in the order of the table, then the tables."""
        for text in self.before:
            yield Item("check", "every call", text, True, Part.INTERFACE, self.before_source, self.realism)
        for row in self.calls.values():
            real = self.realism_of(row)
            for place, check in enumerate(row.checks):
                own = self.judged_here(row, place)
                yield Item("check", row.name, check.text, own, Part.INTERFACE, row.source, real)
            for operand in self.operands(row):
                text = f"{operand.name}: {operand.work}" if operand.work else operand.name
                yield Item("field", row.name, text, bool(operand.work), Part.INTERFACE, row.source, real)
        for table in self.tables:
            text = f"{table.name}: {table.keeps}"
            yield Item("table", "", text, True, table.part, table.source, table.realism)


def tally(items: Iterable[Item]) -> Mapping[tuple[str, bool], int]:
    """How many items of each kind have to be written, and how many not."""
    return Counter((item.kind, item.own) for item in items)


def shares(lines: Mapping[str, int], files: Mapping[str, Part]) -> dict[Part, tuple[int, int]]:
    """Lines of code by part, and percent of all, rounded. `lines` has every file of `files`."""
    found = dict.fromkeys(Part, 0)
    for name, part in files.items():
        found[part] += lines[name]
    whole = sum(found.values()) or 1
    return {part: (count, round(100 * count / whole)) for part, count in found.items()}


def reason(row: CallSpec) -> str:
    """Why a row has its treatment, without what it says of the order of its checks."""
    why = row.why
    if why.startswith("order:"):
        why = why.partition(". ")[2] or why.removeprefix("order: ")
    return why


def as_dict(said: Feasibility) -> dict[str, Any]:
    """Everything but the worklist, as JSON has it."""

    def line(row: CallSpec) -> dict[str, Any]:
        facts = {"call": row.name, "why": reason(row), "source": row.source, "basis": str(row.basis)}
        return facts | {"realism": str(said.realism_of(row))}

    return {
        "arch": said.name,
        "realism": str(said.realism),
        "remark": said.remark or None,
        "calls": {str(how): [line(row) for row in said.treated(how)] for how in TREATED},
        "fenced": [_fields(fence) for fence in said.fences],
        "requirements": [_fields(need) for need in said.requirements],
        "tables": [_fields(table) for table in said.tables],
    }


def _fields(line: Fence | Requirement | Table) -> dict[str, Any]:
    return {name: getattr(line, name) for name in line.__slots__}
