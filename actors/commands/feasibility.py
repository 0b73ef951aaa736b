"""`nestbed feasibility` and `nestbed worklist`: is nesting possible, and what has to be written for it?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.calls import load_or_end
from actors.commands.options import ArchName, AsJson, complete_architecture
from actors.commands.speak import end, tell, tell_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from protocol.feasibility import Feasibility, Item

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ARCH",
        help="Only these architectures.",
        autocompletion=complete_architecture,
        show_default=False,
    ),
]
KINDS = {"check": "checks of calls", "field": "fields and registers of calls", "table": "tables"}
HEADS = {
    "passed": "passes through, after a look at whose it is",
    "modified": "is issued below with something changed",
    "emulated": "is emulated: nothing goes below",
    "native": "never meets the hypervisor",
}


def said_by(arch: str) -> Feasibility:
    """What a slice says, or the end of the command."""
    said: Feasibility | None = getattr(load_or_end(arch), "feasibility", None)
    if said is None:
        end(exit_codes.USAGE, f"{arch}: nobody wrote down what nesting needs on this architecture")
    return said


# -- is it possible? -------------------------------------------------------------------------------


def show(
    wanted: Names = None,
    brief: Annotated[bool, typer.Option("--brief", help="The table alone.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say for each architecture whether nesting is possible and on what it rests.

    What passes, is modified, is emulated; what must be fenced off; what hardware and Trusted Entity have to
    provide. Each line names its section of the fact sheet and how real it is.
    """
    from protocol.arch import architectures
    from protocol.feasibility import as_dict

    said = [said_by(name) for name in wanted or architectures()]
    if as_json:
        tell_json([as_dict(one) for one in said])
        return
    tell(_matrix(said), *(() if brief else [block for one in said for block in _whole(one)]))


def _matrix(said: Sequence[Feasibility]) -> Table:
    """The architectures side by side."""
    from rich.table import Table
    from rich.text import Text

    from protocol.feasibility import TREATED

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for one in said:
        table.add_column(one.name, justify="right")

    def row(name: str, cells: Iterable[object]) -> None:
        table.add_row(Text(name), *(Text(str(cell)) for cell in cells))

    row("how real nesting is", (str(one.realism).replace("_", " ") for one in said))
    row("calls", (len(one.calls) for one in said))
    for how in TREATED:
        row(f"  {how}", (len(one.treated(how)) for one in said))
    row("features fenced off", (len(one.fences) for one in said))
    row("requirements", (len(one.requirements) for one in said))
    row("  not met today", (sum(not need.met for need in one.requirements) for one in said))
    row("tables to keep", (len(one.tables) for one in said))
    return table


def _whole(said: Feasibility) -> Iterator[RenderableType]:
    from rich.text import Text

    from actors.compare.answer import REALISM
    from protocol.feasibility import TREATED, reason

    yield ""
    remark = f" ({said.remark})" if said.remark else ""
    yield Text(f"{said.name}: {REALISM[str(said.realism)]}{remark}", style="bold")
    for how in TREATED:
        rows = said.treated(how)
        if rows:
            lines = [(row.name, reason(row), f"{row.source}; {said.realism_of(row)}") for row in rows]
            yield from _lines(f"{len(rows)} calls: {how}, {HEADS[str(how)]}", lines)
    fences = [(one.what, f"{one.why}: {one.instead}", f"{one.source}; {one.realism}") for one in said.fences]
    yield from _lines("must be fenced off", fences)
    needs = [
        (f"{one.of}: {one.what}", f"{one.why}; {_met(one.met)}", f"{one.source}; {one.realism}")
        for one in said.requirements
    ]
    yield from _lines("has to be provided", needs)


def _met(by: str) -> str:
    return f"met by {by}" if by else "NOT MET by anything known"


def _lines(head: str, lines: Iterable[tuple[str, str, str]]) -> Iterator[RenderableType]:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    yield ""
    yield Text(f"  {head}")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(max_width=32)
    table.add_column(ratio=1)
    table.add_column(max_width=16)
    for name, why, basis in lines:
        table.add_row(Text(name), Text(why), Text(basis.replace("_", " "), style="dim"))
    yield Padding(table, (0, 0, 0, 4))


# -- what has to be written ------------------------------------------------------------------------


def worklist(
    arch: ArchName,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what the Trusted Entity below does already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what a hypervisor has to write to nest an architecture, check by check: a patch plan.

    Checks that it makes itself, fields that it looks at or changes, tables that it keeps.
    What is not listed is inherited: the Trusted Entity below does it, because the call is issued there.
    """
    said = said_by(arch)
    items = list(said.worklist())
    if as_json:
        tell_json(_as_json(said, items, everything))
        return
    tell(*_summary(said, items), *_plan(items, everything))


def _as_json(said: Feasibility, items: Sequence[Item], everything: bool) -> dict[str, Any]:
    def fields(item: Item) -> dict[str, Any]:
        return {name: getattr(item, name) for name in item.__slots__}

    return {
        "arch": said.name,
        "counts": [
            {"kind": kind, "own": own, "inherited": inherited}
            for kind, (own, inherited) in counted(items).items()
        ],
        "split": [
            {"part": str(part), "talk": talk, "lines": lines, "percent": percent}
            for part, talk, lines, percent in split(said)
        ],
        "items": [fields(item) for item in items if everything or item.own],
    }


def counted(items: Iterable[Item]) -> dict[str, tuple[int, int]]:
    """How many of each kind have to be written, and how many are inherited."""
    from protocol.feasibility import tally

    found = tally(items)
    return {kind: (found.get((kind, True), 0), found.get((kind, False), 0)) for kind in KINDS}


def split(said: Feasibility) -> list[tuple[str, int, int, int]]:
    """By part: the talk's percent, this project's lines of code and their percent."""
    from actors.sources import lines_of
    from protocol.feasibility import TALK, shares

    ours = shares(lines_of(said.name, said.files), said.files)
    return [(str(part), TALK[part], *ours[part]) for part in TALK]


def _summary(said: Feasibility, items: Sequence[Item]) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    yield Text(
        f"{said.name}: what a hypervisor writes itself, and what the Trusted Entity below does", style="bold"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    table.add_column("to write", justify="right")
    table.add_column("inherited", justify="right")
    for kind, (own, inherited) in counted(items).items():
        table.add_row(Text(KINDS[kind]), str(own), str(inherited))
    yield table
    yield ""
    yield Text(
        "Where the code goes: the talk's prototype for s390, and this project's emulation", style="bold"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "talk", "here", "lines"):
        table.add_column(column, justify="right" if column else "left")
    for part, talk, lines, percent in split(said):
        table.add_row(part, f"{talk}%", f"{percent}%", f"{lines:,}")
    yield table


def _plan(items: Iterable[Item], everything: bool) -> Iterator[RenderableType]:
    """By call, in the order of the table; the tables behind them."""
    from rich.table import Table
    from rich.text import Text

    for call, mine in groupby(items, key=lambda item: item.call):
        shown = [item for item in mine if everything or item.own]
        if not shown:
            continue
        yield ""
        yield Text(f"{call or 'tables'}  {shown[0].source}; {shown[0].realism}", style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        for item in shown:
            mark = "write" if item.own else "inherited"
            table.add_row(Text(f"  {mark}"), Text(item.kind), Text(item.text))
        yield table
