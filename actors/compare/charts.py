"""Pictures of counts as inline SVG: bars drawn from the same tables that stand below them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from actors.compare.answer import Part, number, ratio
from actors.compare.style import PATH_COLOURS, TREATMENT_COLOURS
from actors.compare.tables import Row, Table
from protocol.calls import Category, Treatment

WIDTH = 760
LABEL = 190
BAR = 400  # the longest; what is right of it is for numbers
Escape = Callable[[object], str]


def bars_of_exits(part: Part, escaped: Escape) -> str:
    """How many exits arrive at L0 on each path."""
    table = _table(part, "exits")
    if table is None:
        return ""
    total = table.rows[0]
    most = max((cell.value or 0 for cell in total.cells), default=0)
    rows = []
    for place, (name, cell) in enumerate(zip(table.columns, total.cells, strict=True)):
        times = f"  {ratio(cell.ratio)} direct" if cell.ratio is not None else ""
        rows += _bar(
            place * 26, name, cell.value, most, f"{number(cell.value)}{times}", _colour(name), escaped
        )
    return _svg(26 * len(table.columns), f"Exits that arrive at L0: {part.arch}", rows, escaped)


def bars_of_phases(part: Part, escaped: Escape) -> str:
    """The same, phase by phase: what each moment in the life of a guest costs on each path."""
    table = _table(part, "exits")
    if table is None:
        return ""
    phases = list(_phases(table))
    most = max((cell.value or 0 for row in phases for cell in row.cells), default=0)
    rows, top = [], 0
    for row in phases:
        for place, (name, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
            label = row.label if place == 0 else ""
            figure = f"{number(cell.value)} {name}"
            rows += _bar(top, label, cell.value, most, figure, _colour(name), escaped, height=13)
            top += 15
        top += 8
    return _svg(top, f"Exits at L0 by phase: {part.arch}", rows, escaped)


def shares_of_treatments(part: Part, escaped: Escape) -> str:
    """What the nested path does with the calls of each category, as shares of the calls made."""
    table = _table(part, "te-calls")
    nested = table.columns.index("nested") if table is not None and "nested" in table.columns else None
    if table is None or nested is None:
        return ""
    rows, top = [], 20
    for place, treatment in enumerate(Treatment):
        x = LABEL + place * 95
        rows.append(f'<rect x="{x}" y="2" width="12" height="12" fill="{TREATMENT_COLOURS[treatment]}"/>')
        rows.append(_text(x + 17, 13, treatment, escaped))
    for category, shares in _shares(table, nested):
        made = sum(shares.values())
        rows.append(_text(LABEL - 8, top + 14, category, escaped, end=True))
        left = float(LABEL)
        for name, calls in shares.items():
            width = BAR * calls / made
            title = f"<title>{escaped(f'{category} {name}: {number(calls)}')}</title>"
            fill = TREATMENT_COLOURS[name]
            rows.append(
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="18" fill="{fill}">{title}</rect>'
            )
            left += width
        rows.append(_text(LABEL + BAR + 8, top + 14, f"{number(made)} calls", escaped, soft=True))
        top += 24
    return _svg(top, f"Treatment of calls by category, nested path: {part.arch}", rows, escaped)


def _shares(table: Table, column: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Calls by treatment for each category in which any was made."""
    category, found = "", dict[str, int]()
    for row in (*table.rows, Row("", ())):
        if row.level == 2 and category:
            found[row.label] = row.cells[column].value or 0
            continue
        if sum(found.values()):
            yield category, {name: calls for name, calls in found.items() if calls}
        category, found = (row.label, {}) if row.level == 1 and row.label in set(Category) else ("", {})


def _phases(table: Table) -> Iterator[Row]:
    """The parts of the first sum."""
    for row in table.rows[1:]:
        if row.level == 0:
            return
        yield row


def _table(part: Part, name: str) -> Table | None:
    return next((table for table in part.tables if table.name == name and table.rows), None)


def _colour(column: str) -> str:
    return PATH_COLOURS.get(column.partition(" ")[0], "#888888")


def _bar(
    top: int,
    label: str,
    value: int | None,
    most: int,
    figure: str,
    colour: str,
    escaped: Escape,
    height: int = 18,
) -> list[str]:
    width = BAR * (value or 0) / most if most else 0
    base = top + height - 3
    return [
        _text(LABEL - 8, base, label, escaped, end=True) if label else "",
        f'<rect x="{LABEL}" y="{top}" width="{width:.1f}" height="{height}" fill="{colour}"/>',
        _text(LABEL + width + 8, base, figure, escaped, soft=value is None),
    ]


def _text(x: float, y: float, text: str, escaped: Escape, end: bool = False, soft: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    style = ' class="soft"' if soft else ""
    return f'<text x="{x:.1f}" y="{y}"{anchor}{style}>{escaped(text)}</text>'


def _svg(height: int, title: str, rows: list[str], escaped: Escape) -> str:
    if not height:
        return ""
    head = f'<svg viewBox="0 0 {WIDTH} {height + 4}" role="img" aria-label="{escaped(title)}">'
    return f"{head}<title>{escaped(title)}</title>{''.join(rows)}</svg>"
