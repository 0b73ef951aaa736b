"""`nestbed arch list`: which architectures there are, and how real nesting is on each of them."""

from __future__ import annotations

from typing import Any

from actors.commands.options import AsJson
from actors.commands.speak import tell, tell_json


def show(as_json: AsJson = False) -> None:
    """List the architectures, and how real nesting is on each of them."""
    from protocol.arch import kinds, load

    found = [_facts(load(name)) for name in kinds()]
    if as_json:
        tell_json(found)
        return
    from rich.table import Table

    from actors.compare.answer import REALISM

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "title", "calls", "compare", "profiles", "realism"):
        table.add_column(column, justify="right" if column == "calls" else "left")
    for each in found:
        realism = f"{each['realism']}: {REALISM.get(each['realism'], '')}".rstrip(": ")
        compared = "yes" if each["comparison"] else "not yet"
        row = (
            each["name"],
            each["title"],
            str(each["calls"]),
            compared,
            ", ".join(each["profiles"]),
            realism,
        )
        table.add_row(*row)
    tell(table)


def _facts(architecture: Any) -> dict[str, Any]:
    return {
        "name": architecture.name,
        "title": architecture.title,
        "realism": architecture.realism,
        "profiles": list(architecture.profiles),
        "calls": len(architecture.calls),
        "comparison": getattr(architecture, "comparison", None) is not None,
    }
