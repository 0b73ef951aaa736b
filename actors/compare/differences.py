"""Two runs against each other, as sentences and as a report: settings, counts, modelled time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from actors.compare import markup
from actors.compare.answer import duration
from actors.compare.diff import changes, identity, one_sided, other_scenario
from actors.compare.hatched import HATCHES, bars
from actors.compare.markup import escaped, table, tag
from actors.compare.outcome import Json

SHOWN = 50  # lines in words; the report has ROWS
ROWS = 1000


def sentences(before: Json, now: Json) -> list[str]:
    """What differs, most important first."""
    found = changes(before["results"], now["results"])
    lines = [f"other setting: {each}" for each in other_scenario(before, now)]
    lines += one_sided(before["results"], now["results"])
    lines += [f"changed: {each.text()}" for each in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"... and {len(found) - SHOWN:,} more")
    lines += [f"modelled: {text}" for text, _, _ in _times(before, now)]
    return [*lines, _verdict(before, now)]


def _verdict(before: Json, now: Json) -> str:
    number = len(changes(before["results"], now["results"]))
    return {0: "no count differs", 1: "1 count differs"}.get(number, f"{number:,} counts differ")


def _times(before: Json, now: Json) -> Iterator[tuple[str, Json, Json]]:
    """Modelled time of every result that both runs have, where it changed."""
    old = {identity(result): result.get("modelled") for result in before["results"]}
    for result in now["results"]:
        was, is_now = old.get(identity(result)), result.get("modelled")
        if was and is_now and was["ns"] != is_now["ns"]:
            name = f"{result['arch']} {result['path']} depth {result['depth']}"
            yield f"{name}: {duration(was['ns'])} -> {duration(is_now['ns'])}", was, is_now


def page(before: Json, now: Json, first: str, second: str) -> str:
    """The report on the difference of two runs, in one file."""
    body = [
        HATCHES,
        tag(
            "header",
            tag("h1", escaped(f"Two runs: {first} and {second}")),
            tag("p", escaped(_verdict(before, now)), class_="verdict"),
        ),
        tag("main", *_main(before, now, first, second)),
    ]
    return markup.page(f"nestbed: {first} and {second}", *body)


def _main(before: Json, now: Json, first: str, second: str) -> Iterator[str]:
    settings = other_scenario(before, now)
    if settings:
        yield tag("h2", "Settings")
        yield tag("ul", *(tag("li", escaped(each)) for each in settings))
    alone = one_sided(before["results"], now["results"])
    if alone:
        yield tag("h2", "In one of them only")
        yield tag("ul", *(tag("li", escaped(each)) for each in alone))
    found = changes(before["results"], now["results"])
    if found:
        yield tag("h2", "Counts")
        rows = [
            [f"{each.arch} {each.path} {each.depth}: {each.name}", _count(each.before), _count(each.now)]
            for each in found[:ROWS]
        ]
        yield table(["", first, second], rows)
        if len(found) > ROWS:
            yield tag("p", escaped(f"and {len(found) - ROWS:,} more"), class_="note")
    times = list(_times(before, now))
    if times:
        yield tag("h2", "Modelled time")
        for text, was, is_now in times:
            path = text.split()[1]
            yield tag("p", escaped(text))
            yield bars(text, [(first[-24:], path, _span(was)), (second[-24:], path, _span(is_now))])


def _span(modelled: Mapping[str, Any]) -> tuple[float, float, float]:
    return modelled["ns"], modelled["low_ns"], modelled["high_ns"]


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
