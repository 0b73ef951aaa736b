"""`nestbed explain`: what a return code means, which check gives it, what is done about it elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.calls import load_or_end
from actors.commands.options import ArchName, AsJson
from actors.commands.speak import end, say, tell, tell_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from protocol.explain import Explainer, Meaning


def explain(
    arch: ArchName,
    code: Annotated[
        str,
        typer.Argument(
            metavar="CALL:RC[:RRC]",
            help="A code of a call, like unpack:0x010A or 0x0300:0x0108:0x0005; or a code, or a call, alone.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Explain a return code of a call: its check and when it comes, its basis, its test, what software does.

    A code that the call does not answer ends with exit code 2 and the list of those that it does.
    """
    from protocol.explain import Unknown
    from protocol.explain import explain as answer

    architecture = load_or_end(arch)
    explainer: Explainer | None = getattr(architecture, "explain", None)
    try:
        found, remarks = answer(architecture.calls, explainer, code)
    except Unknown as unknown:
        _list(unknown.known)
        end(exit_codes.USAGE, str(unknown))
    if as_json:
        tell_json({"meanings": [one.as_dict() for one in found], "remarks": list(remarks)})
        return
    tell(*_blocks(found, remarks))


def _list(known: Iterable[Meaning]) -> None:
    """What could have been asked; talk, no result."""
    from protocol.explain import hexadecimal

    for one in known:
        reason = "" if one.reason is None else f":{hexadecimal(one.reason)}"
        never = "" if one.given else " (never given here)"
        say(f"  {one.call}:{one.name or hexadecimal(one.code)}{reason}  {one.text}{never}")


def _blocks(found: Iterable[Meaning], remarks: Iterable[str]) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    from protocol.explain import hexadecimal

    for number, one in enumerate(found):
        if number:
            yield ""
        reason = "" if one.reason is None else f", reason {hexadecimal(one.reason)}"
        yield Text(f"{one.call or 'any call'}: {one.shown()}{reason}", style="bold")
        table = Table.grid(padding=(0, 2))
        facts = [
            ("means", one.text if one.given else f"{one.text}; never given here"),
            ("looked at", one.place),
            ("basis", f"{one.basis} (fact sheet {one.source})" if one.source else one.basis),
            *(("held by" if not at else "", test) for at, test in enumerate(one.tests)),
            *(("software" if not at else "", note) for at, note in enumerate(one.notes)),
        ]
        for name, text in facts:
            if text:
                table.add_row(Text(f"  {name}", style="dim"), Text(text, overflow="fold"))
        yield table
    for remark in remarks:
        yield Text(remark)
