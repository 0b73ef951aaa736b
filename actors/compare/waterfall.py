"""The pictures of traced operations in the report: messages as bars on modelled time, without a script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from actors.compare.outcome import Json

Escape = Callable[[object], str]
WIDE, BAR, LABELS = 900, 18, 420  # units of the picture: its width, a row, the room for words
LEAST = 1.5


def waterfalls(traces: Iterable[Json], escaped: Escape) -> Iterator[str]:
    """A heading and a picture for each operation; those of one path beside each other in order."""
    for trace in traces:
        took = _time(trace["modelled_ns"])
        title = f"{trace['arch']} {trace['path']}: {trace['operation']}, {took} modelled"
        yield f"<details><summary>{escaped(title)}</summary>{_picture(trace, escaped)}</details>"


def _picture(trace: Json, escaped: Escape) -> str:
    rows = trace["rows"]
    scale = (WIDE - LABELS) / max(trace["modelled_ns"], 1)
    drawn = [_row(number, row, scale, escaped) for number, row in enumerate(rows)]
    if trace["more_rows"]:
        y = BAR * len(rows) + 13
        drawn.append(f'<text x="4" y="{y}" class="soft">and {trace["more_rows"]} rows more</text>')
    height = BAR * (len(rows) + bool(trace["more_rows"]))
    what = escaped(f"{trace['operation']} message by message")
    return f'<svg viewBox="0 0 {WIDE} {height}" role="img" aria-label="{what}">{"".join(drawn)}</svg>'


def _row(number: int, row: Json, scale: float, escaped: Escape) -> str:
    y, indent = BAR * number, 4 + 12 * row["depth"]
    wide = max(LEAST, (row["end_ns"] - row["begin_ns"]) * scale)
    begin = LABELS + row["begin_ns"] * scale
    noted = " ".join(
        text for text in (row["treatment"], f"{row['exits']} exits" if row["exits"] else "") if text
    )
    words = f"{row['message']} at {row['at']}" + (f", {noted}" if noted else "")
    took = escaped(f"{words}: {_time(row['end_ns'] - row['begin_ns'])}")
    bar = f'x="{begin:.1f}" y="{y + 3}" width="{wide:.1f}" height="{BAR - 6}"'
    text = f'<text x="{indent}" y="{y + 13}">{escaped(words)}</text>'
    return f'<g><title>{took}</title>{text}<rect {bar} class="bar depth{row["depth"]}"/></g>'


def _time(ns: int) -> str:
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"
