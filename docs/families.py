"""The table of docs/metrics.md, made from the catalogue of families; the text above it is written by hand."""

from __future__ import annotations

from pathlib import Path

from actors.observe.metrics import FAMILIES, Family

HEAD = "| name | type | unit | labels | what it is |\n| --- | --- | --- | --- | --- |\n"


def metrics(page: Path) -> str:
    """The page with its table as the catalogue has it now."""
    above, _, _ = page.read_text().partition(HEAD)
    return above + HEAD + "".join(map(_row, FAMILIES))


def _row(family: Family) -> str:
    labels = ", ".join(family.labels) or "-"
    return f"| `{family.sample}` | {family.kind.value} | {family.unit or '-'} | {labels} | {family.help} |\n"
