"""The report: one HTML file that needs nothing else. No network, no script; light, dark and on paper.

It is well-formed XML as well, so that a test can read it. Everything that comes from a scenario or a result
is escaped. Pictures of operations and the whole list of counts go in while the file stays small; what has no
room is in run.json beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from actors.compare.answer import BY, Answer, Claim, Part, answer, held, number, ratio
from actors.compare.beside import Beside
from actors.compare.charts import bars_of_exits, bars_of_phases, shares_of_treatments
from actors.compare.hatched import HATCHES
from actors.compare.markup import escaped, page, tag, wide
from actors.compare.modelled import census, load_section, model_section, part_section
from actors.compare.outcome import Json
from actors.compare.seeds import seeds_section
from actors.compare.sensitivity import said as sentences
from actors.compare.tables import Row, Table, columns
from actors.compare.waterfall import waterfalls

SIZE = 380_000  # bytes; a report is mailed
REVISION_UNKNOWN = "not known"


def report(bundle: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> str:
    """The report on a bundle, as run.json has it."""
    said = answer(bundle, titles)
    traces = list(bundle.get("traces") or ())
    pictures = list(waterfalls(traces, escaped))
    details = [_all_counts(part) for part in said.parts]
    room = SIZE - len(_page(bundle, said, [], []).encode())
    shown = _that_fit(pictures, room, _in_turn([trace["arch"] for trace in traces]))
    kept = _that_fit(details, room - sum(len(each.encode()) for each in shown), range(len(details)))
    return _page(bundle, said, kept, shown)


def _that_fit(texts: Sequence[str], room: int, order: Iterable[int]) -> list[str]:
    """Those that have room, in bytes, if they are taken in this order; in their own order."""
    kept = set()
    for place in order:
        room -= len(texts[place].encode())
        if room < 0:
            break
        kept.add(place)
    return [text for place, text in enumerate(texts) if place in kept]


def _in_turn(arches: Sequence[str]) -> list[int]:
    """Places in a list, so that every architecture has its turn."""
    seen: Counter[str] = Counter()
    turns = []
    for place, arch in enumerate(arches):
        turns.append((seen[arch], place))
        seen[arch] += 1
    return [place for _, place in sorted(turns)]


def _page(bundle: Mapping[str, Any], said: Answer, details: list[str], pictures: list[str]) -> str:
    title = f"nestbed: {said.name}, seed {said.seed}"
    body = [
        HATCHES,
        tag("header", *_verdict(said)),
        tag("main", *_main(bundle, said, pictures), *_details(said, details), *_scenario(bundle)),
        tag("footer", *_footer(bundle, said)),
    ]
    return page(title, *body)


# -- the first screen --------------------------------------


def _verdict(said: Answer) -> Iterator[str]:
    yield tag("h1", escaped(f"What nesting and hosting cost: {said.name}"))
    if said.stopped:
        yield tag("p", "The run was stopped: this is what was finished until then.", class_="wrong")
    for part in said.parts:
        yield tag("p", escaped(part.headline), class_="verdict")
    if said.verdicts:
        yield tag("ul", *(_threshold(each) for each in said.verdicts), class_="plain")
    if said.claims:
        yield tag("p", tag("a", escaped(held(said.claims)), href="#claims"))
    for part in said.parts:
        if part.breakeven:
            yield tag("p", escaped(f"{part.arch}: {part.breakeven[0]}"))
        if part.sensitivity:
            yield tag("p", escaped(f"{part.arch}, modelled: {sentences(part.sensitivity)[0]}"))
        yield bars_of_exits(part, escaped)


def _threshold(verdict: Json) -> str:
    value = verdict["value"]
    found = number(value if isinstance(value, int) else None)
    word = tag(
        "strong", "holds" if verdict["holds"] else "FAILED", class_="" if verdict["holds"] else "wrong"
    )
    what = escaped(f"threshold {verdict['what']} {verdict['wanted']} on {verdict['arch']}: ")
    return tag("li", what, word, escaped(f" ({found})"))


# -- the rest ----------------------------------------------


def _main(bundle: Mapping[str, Any], said: Answer, pictures: list[str]) -> Iterator[str]:
    for beside in said.beside:
        yield tag("h2", escaped(beside.title))
        yield from _beside(beside)
    yield from census(bundle)
    for part in said.parts:
        yield from _part(part)
    traces = bundle.get("traces") or ()
    if traces:
        yield tag("h2", "One operation of each kind, message by message", id="traces")
        yield tag("p", "Lengths are modelled time, which is no time of any hardware.", class_="note")
        yield from pictures
        if len(pictures) < len(traces):
            left = f"{len(traces) - len(pictures)} of {len(traces)} are in run.json, beside this file."
            yield tag("p", escaped(left), class_="note")
    yield from seeds_section(bundle.get("seeds"))
    yield from load_section(bundle.get("load"))
    yield from model_section(bundle.get("model"))
    if said.claims:
        yield tag("h2", "What the talk claims", id="claims")
        heads = ("", "claim", "basis", "figures")
        rows = [_claim_row(claim) for claim in said.claims]
        yield wide(tag("thead", tag("tr", *(tag("th", each) for each in heads))), tag("tbody", *rows))


def _beside(table: Beside) -> Iterator[str]:
    """The architectures in one table, a column for each."""
    heads = [
        tag("th", "", scope="col"),
        *(tag("th", escaped(n), scope="col", class_="n") for n in table.columns),
    ]
    rows = []
    for level, label, cells in table.rows:
        texts = (tag("td", escaped(text), class_="n") for text in cells)
        rows.append(tag("tr", tag("th", escaped(label), scope="row"), *texts, class_=f"level{level}"))
    yield wide(tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    yield from (tag("p", escaped(f"-  {note}"), class_="note") for note in table.notes)


def _part(part: Part) -> Iterator[str]:
    yield tag("h2", escaped(f"{part.arch} {part.title}".rstrip()), id=f"arch-{part.arch}")
    if part.realism:
        yield tag("p", escaped(part.realism), class_="note")
    if part.breakeven:
        yield tag("h3", "Break-even, in exits at L0 unless it says otherwise")
        yield tag("ul", *(tag("li", escaped(text)) for text in part.breakeven))
    charts = {
        "Exits at L0 by phase": bars_of_phases(part, escaped),
        "What the nested path does with the calls of each category": shares_of_treatments(part, escaped),
    }
    for title, chart in charts.items():
        if chart:
            yield tag("h3", title)
            yield chart
    for table in part.tables:
        yield from _table(table)
    yield from part_section(part)


def _table(table: Table) -> Iterator[str]:
    yield tag("h3", escaped(table.title))
    heads = [tag("th", "", scope="col")]
    for name in table.columns:
        heads.append(tag("th", escaped(name), scope="col", class_=f"n {_path(name)}"))
        if name != "direct":
            heads.append(tag("th", "to direct", scope="col", class_="n"))
    yield wide(
        tag("thead", tag("tr", *heads)),
        tag("tbody", *(_row(row, table.columns) for row in table.rows)),
    )
    yield from (tag("p", escaped(f"-  {note}"), class_="note") for note in table.notes)


def _row(row: Row, names: tuple[str, ...]) -> str:
    cells = [tag("th", escaped(row.label), scope="row")]
    for name, cell in zip(names, row.cells, strict=True):
        cells.append(tag("td", escaped(number(cell.value)), class_="n"))
        if name != "direct":
            cells.append(tag("td", escaped(ratio(cell.ratio)), class_="n ratio"))
    return tag("tr", *cells, class_=f"level{row.level}")


def _claim_row(claim: Claim) -> str:
    word = tag("td", escaped(claim.word), class_={True: "right", False: "wrong", None: "open"}[claim.holds])
    rest = (tag("td", escaped(text)) for text in (claim.text, BY.get(claim.by, claim.by), claim.figures))
    return tag("tr", word, *rest)


def _path(column: str) -> str:
    return column.partition(" ")[0]


def _all_counts(part: Part) -> str:
    """Every count of one architecture by its name, folded away."""
    results = part.results
    names = sorted({name for result in results for name in result["counts"]})
    heads = [tag("th", "count", scope="col")]
    heads += [tag("th", escaped(name), scope="col", class_="n") for name in columns(results)]
    rows = []
    for name in names:
        values = (result["counts"].get(name, 0) for result in results)
        cells = [
            tag("td", escaped(number(value if type(value) is int else None)), class_="n") for value in values
        ]
        rows.append(tag("tr", tag("th", escaped(name), scope="row"), *cells))
    inside = wide(tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    return tag("details", tag("summary", escaped(f"{part.arch}: all {len(names):,} counts")), inside)


def _details(said: Answer, details: list[str]) -> Iterator[str]:
    if not said.parts:
        return
    yield tag("h2", "Every count")
    yield from details
    left = [part.arch for part in said.parts[len(details) :]]
    if left:
        yield tag(
            "p", escaped(f"The counts of {', '.join(left)} are in run.json, beside this file."), class_="note"
        )


def _scenario(bundle: Mapping[str, Any]) -> Iterator[str]:
    origins = bundle.get("origins") or {}
    rows = [
        tag(
            "tr",
            tag("th", escaped(name), scope="row"),
            *(tag("td", escaped(text)) for text in (value, origin)),
        )
        for name, value, origin in _settings(bundle.get("scenario") or {}, origins)
    ]
    heads = tag("thead", tag("tr", *(tag("th", each, scope="col") for each in ("setting", "value", "from"))))
    yield tag("details", tag("summary", "The scenario"), wide(heads, tag("tbody", *rows)))


def _settings(
    tree: Mapping[str, Any], origins: Mapping[str, str], prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _settings(value, origins, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}", text, origins.get(f"{prefix}{name}", "")


def _footer(bundle: Mapping[str, Any], said: Answer) -> Iterator[str]:
    environment = bundle.get("environment") or {}
    revision = environment.get("revision") or REVISION_UNKNOWN
    made = f"nestbed {bundle.get('nestbed', '')}, revision {revision}, seed {said.seed}"
    yield tag("p", escaped(made))
    where = (str(environment[key]) for key in ("system", "kernel", "processor") if environment.get(key))
    python = (bundle.get("versions") or {}).get("python", "")
    yield tag("p", escaped(f"Run on {' '.join(where)}, Python {python}."), class_="wall")
    yield tag(
        "p",
        "Counts are exact for this scenario and seed; bytes of records are estimates. "
        + ("" if any(part.modelled for part in said.parts) else "No time is modelled in this run."),
    )
    if said.wall:
        wall = f"Wall clock of the emulator itself: {said.wall}. It says nothing about any hardware."
        yield tag("p", escaped(wall), class_="note wall")
