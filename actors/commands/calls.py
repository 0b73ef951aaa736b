"""`nestbed calls`: the call table of an architecture. The rows shown are those that the program runs by."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.options import ArchName, AsJson
from actors.commands.speak import end, tell, tell_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from protocol.arch.contract import Architecture
    from protocol.calls import CallSpec

CATEGORY_WORDS = {
    "init": "start of the Trusted Entity",
    "vm": "secure guests",
    "vcpu": "their CPUs",
    "memory": "their pages",
    "lifecycle": "states and resets",
    "guest": "issued by the guest itself",
}
Wanted = Annotated[
    list[str] | None,
    typer.Argument(metavar="CALL", help="Only these: a name or a code, like create_cpu or 0x120."),
]


def show(
    arch: ArchName,
    wanted: Wanted = None,
    brief: Annotated[bool, typer.Option("--brief", help="One line for each call.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the call table of an architecture: each call, what nesting does with it, and why.

    The treatment of a call is emulated (nothing is issued below), modified (issued below with a field
    changed), passed (issued below as it is, after a check of the owner) or native (no hypervisor on the way).
    The basis says on what a rule stands: source, inferred or guess.
    """
    architecture = load_or_end(arch)
    rows = _chosen(architecture, wanted or [])
    if as_json:
        tell_json([as_dict(row) for row in rows])
    elif brief:
        tell(_overview(rows))
    else:
        tell(*_whole(architecture, rows, everything=not wanted))


def load_or_end(arch: str) -> Architecture:
    """An architecture by its name, or the end of the command."""
    from protocol.arch import architectures, load

    names = architectures()
    if arch not in names:
        near = difflib.get_close_matches(arch, names, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        end(exit_codes.USAGE, f"{arch}: no such architecture; allowed: {', '.join(names)}{hint}")
    return load(arch)


def _chosen(architecture: Architecture, wanted: list[str]) -> list[CallSpec]:
    calls = architecture.calls
    if not wanted:
        return list(calls.values())
    by_name = {row.name: row for row in calls.values()}
    found = []
    for text in wanted:
        row = by_name.get(text) or _by_code(calls, text)
        if row is None:
            near = difflib.get_close_matches(text, by_name, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            listed = f"`nestbed calls {architecture.name} --brief` lists them"
            end(exit_codes.USAGE, f"{text}: no call of {architecture.name}{hint} ({listed})")
        found.append(row)
    return found


def _by_code(calls: Mapping[int, CallSpec], text: str) -> CallSpec | None:
    try:
        return calls.get(int(text, 0))
    except ValueError:
        return None


def as_dict(row: CallSpec) -> dict[str, Any]:
    """One row as JSON has it. Codes are texts, as on the console."""
    return {
        "code": hexadecimal(row.code),
        "name": row.name,
        "title": row.title,
        "category": str(row.category),
        "treatment": str(row.treatment),
        "why": row.why,
        "length": row.length,
        "issuer": str(row.issuer),
        "handle": row.handle or None,
        "donations": [
            {"field": area.field, "size": area.size, "donation": str(area.donation)} for area in row.donated
        ],
        "states": row.states,
        "checks": [
            {
                "code": hexadecimal(check.code),
                "reason": hexadecimal(check.reason) if check.reason else None,
                "text": check.text,
                "basis": str(check.basis),
            }
            for check in row.checks
        ],
        "on_error": row.on_error,
        "basis": str(row.basis),
        "source": row.source,
    }


def hexadecimal(code: int) -> str:
    return f"0x{code:04X}"


def _by_category(rows: Iterable[CallSpec]) -> Iterator[tuple[str, list[CallSpec]]]:
    from protocol.calls import Category

    rows = list(rows)
    for category in Category:
        mine = [row for row in rows if row.category is category]
        if mine:
            yield str(category), mine


def _overview(rows: Iterable[CallSpec]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("code", "name", "category", "treatment", "length", "donates", "checks", "basis"):
        right = column in ("length", "checks")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for _, mine in _by_category(rows):
        for row in mine:
            donates = ", ".join(dict.fromkeys(str(area.donation) for area in row.donated))
            length = f"{row.length:,}" if row.length else "-"
            head = (hexadecimal(row.code), row.name, str(row.category), str(row.treatment), length)
            tail = (donates or "-", str(len(row.checks)), str(row.basis))
            table.add_row(*(Text(cell) for cell in head + tail))
    return table


def _whole(architecture: Architecture, rows: list[CallSpec], everything: bool) -> Iterator[RenderableType]:
    from rich.text import Text

    if everything:
        yield Text(f"{architecture.name}: {architecture.title}, {len(rows)} calls", style="bold")
        yield Text(_shares(rows))
    for category, mine in _by_category(rows):
        yield ""
        yield Text(f"{category.upper()}  {CATEGORY_WORDS[category]}", style="bold")
        for row in mine:
            yield ""
            yield from _block(row)


def _shares(rows: list[CallSpec]) -> str:
    """The talk's "less emulation the higher we go", by the table."""
    from protocol.calls import less_emulation_higher_up

    shares = less_emulation_higher_up(rows)
    said = ", ".join(f"{category} {share:.0%}" for category, share in shares)
    return f"share of emulated calls, from the start of the machine upwards: {said}"


def _block(row: CallSpec) -> Iterator[RenderableType]:
    """Everything about one call."""
    from rich.table import Table
    from rich.text import Text

    length = f"{row.length:,} bytes" if row.length else "registers only"
    head = Text(f"{hexadecimal(row.code)} {row.name}", style="bold")
    head.append(f"  {row.title}, {length}", style="not bold")
    yield head
    facts = [
        ("treatment", f"{row.treatment}: {row.why.removeprefix('order: ')}"),
        ("issued by", "host or guest" if row.issuer == "both" else str(row.issuer)),
        ("names", f"{row.handle} at offset 0x{row.handle_at:X}" if row.handle else "no entity"),
        ("donates", "; ".join(f"{a.field} ({a.size}): {a.donation}" for a in row.donated) or "nothing"),
        ("legal when", row.states),
        ("failing", f"changes {row.on_error}" if row.on_error == "nothing" else row.on_error),
        ("basis", f"{row.basis} (fact sheet {row.source})"),
    ]
    table = Table.grid(padding=(0, 2))
    for name, text in facts:
        table.add_row(Text(f"  {name}", style="dim"), Text(text))
    for number, check in enumerate(row.checks):
        code = hexadecimal(check.code) + (f"/{hexadecimal(check.reason)}" if check.reason else "")
        basis = "" if check.basis == "source" else f" ({check.basis})"
        table.add_row(Text("" if number else "  checks", style="dim"), Text(f"{code}  {check.text}{basis}"))
    yield table
