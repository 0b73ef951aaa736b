"""Sections of the report about time: modelled (hatched, with ranges), and measured under load (plain),
apart.

Every picture has a table or sentences beside it that say the same, so that nobody needs to see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actors.compare.answer import Part, duration
from actors.compare.hatched import bars, curves, tornado
from actors.compare.markup import escaped, table, tag
from actors.compare.sensitivity import edge, said
from protocol.load.histogram import Histogram

Json = Mapping[str, Any]
POLICIES = {"two_fault": "two faults", "merged": "merged in L1", "prefault": "asked ahead"}
PERCENTS = (50.0, 90.0, 99.0, 99.9, 100.0)
LIVES = {1: "a second", 60: "a minute", 3600: "an hour", 86400: "a day"}
SHOWN_GUESTS = (1, 8, 64, 256)


def census(bundle: Json) -> Iterator[str]:
    """What was run, in a sentence for each kind of thing."""
    scenario = bundle.get("scenario") or {}
    if not all(isinstance(scenario.get(name), Mapping) for name in ("l1", "guest", "run")):
        return
    hosts, guest = scenario["l1"], scenario["guest"]
    guests = hosts["count"] * guest["per_l1"]
    exits = sum(kind.get("count", 0) for kind in scenario["run"].get("exits", {}).values())
    pages = guest["image_pages"] + guest["touch_pages"] + guest["share_pages"]
    calls = sum(result["counts"].get("te_calls", 0) or 0 for result in bundle.get("results", ()))
    events = sum(result["counts"].get("exits", 0) or 0 for result in bundle.get("results", ()))
    yield tag("h2", "What was run", id="census")
    yield table(
        ["", "how many"],
        [
            ["architectures", ", ".join(map(str, scenario.get("arch", ())))],
            ["paths", ", ".join(map(str, scenario.get("paths", ())))],
            [
                "guest hosts",
                f"{hosts['count']} at depth {scenario.get('depth', 1)}, of {hosts['memory_mib']:,} MiB",
            ],
            [
                "secure guests",
                f"{guests:,}, each {guest['vcpus']} VCPUs, {guest['memory_mib']:,} MiB",
            ],
            ["pages of a guest", f"{pages:,}"],
            ["exits of a guest while it runs", f"{exits:,}"],
            ["calls of Trusted Entities, all paths", f"{calls:,}"],
            ["exits that arrived at L0, all paths", f"{events:,}"],
        ],
        numbers=False,
    )


def part_section(part: Part) -> Iterator[str]:
    """Modelled time of one architecture: bars, sentences, sensitivity, break-even."""
    if not part.modelled:
        return
    yield tag("h3", "Modelled time (virtual, not measured)")
    yield tag("p", "Hatched is modelled; the whisker is what the ranges of all costs allow.", class_="note")
    yield bars(f"Lives of all guests: {part.arch}", [(p, p.split()[0], span) for p, span in _spans(part)])
    yield tag(
        "ul", *(tag("li", escaped(f"{path}: {text}")) for path, text in part.modelled), class_="modelled"
    )
    found = part.sensitivity
    if not found:
        return
    yield tag("h3", "What that rests on")
    yield tag("ul", *(tag("li", escaped(text)) for text in said(found)), class_="modelled")
    rows = [(each["cost"], each["basis"], each["low"], each["high"]) for each in found["tornado"]]
    yield tornado(f"Nested to hosted, one cost at a time: {part.arch}", found["ratio"], rows)
    yield table(
        ["share of the uncertainty", "alone", "with others", "basis"],
        [
            [each["cost"], f"{each['first']:.0%}", f"{each['total']:.0%}", each["basis"]]
            for each in found["sobol"]
        ],
    )
    if found["surface"]:
        yield tag("h3", "Break-even in modelled time: guests of a host, lifetime, exits in a second")
        yield _surface(found["surface"])


def _spans(part: Part) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Modelled lives of the columns of a part, over the phases that all have, without host set-up."""
    from actors.compare.tables import columns, common_phases

    wanted = [phase for phase in common_phases(part.results) if phase != "host_setup"]
    for name, result in zip(columns(part.results), part.results, strict=True):
        phases = (result.get("modelled") or {}).get("phases")
        if phases:
            spans = [span for span in map(phases.get, wanted) if span]
            yield name, tuple(sum(span[key] for span in spans) for key in ("ns", "low_ns", "high_ns"))


def _surface(rows: Sequence[Json]) -> str:
    lifetimes = list(dict.fromkeys(row["lifetime_s"] for row in rows))
    by_place = {(row["guests"], row["lifetime_s"]): row for row in rows}
    return table(
        ["guests of a host", *(f"live {LIVES.get(seconds, f'{seconds:,} s')}" for seconds in lifetimes)],
        [
            [f"{guests}", *(edge(dict(by_place[guests, seconds])) for seconds in lifetimes)]
            for guests in SHOWN_GUESTS
            if (guests, lifetimes[0]) in by_place
        ],
        numbers=False,
    )


# -- the model beside the run ------------------------------


def model_section(model: Json | None) -> Iterator[str]:
    """Depth, policies, reboots and published figures; nothing where a bundle has no model."""
    if not model:
        return
    arches = model["arch"]
    yield tag("h2", "The model beside the run", id="model")
    yield tag("p", "By closed formulas, with the same costs; no count is in these figures.", class_="note")
    yield from _depth(model)
    yield tag("h3", "How a page becomes secure")
    for arch, found in arches.items():
        rows = [
            (f"{arch} {path}, {POLICIES[policy]}", path, span)
            for policy in POLICIES
            for path, spans in found["boot_page"].items()
            for span in (spans[policy],)
        ]
        yield bars(f"One page at boot: {arch}", rows)
    yield tag("h3", "A host reboots with 8 guests of 4 GiB")
    rows = [
        (f"{arch}, pages of {name} guests", "nested" if name == "live" else "hosted", span)
        for arch, found in arches.items()
        for name, span in found["reboot"].items()
    ]
    yield bars("L0 takes their pages back, one worker", rows)
    yield from _published(model["published"])
    if model.get("untried"):
        yield tag("h3", "Published, and not predicted")
        yield table(["figure", "published", "why not"], model["untried"], numbers=False)
    yield from _sources(model)


def _depth(model: Json) -> Iterator[str]:
    yield tag("h3", "Depth")
    labels = [f"depth {depth}" for depth in range(1, 5)]
    lines: list[tuple[str, Sequence[float | None]]] = [
        (f"{arch}, a page call", [call[0] for call in found["page_call"]])
        for arch, found in model["arch"].items()
    ]
    lines.append(("hosted, flat", [model["hosted"]["flat"][0]] * 4))
    lines.append(("hosted, passed on", list(model["hosted"]["relayed"])))
    yield tag(
        "p",
        "What a page call of a host takes, nested, against a request to L0: flat, or passed on.",
        class_="note",
    )
    yield curves("What a call of a host takes", labels, lines)
    exits = model["arch"].get("tdx", {}).get("null_exit")
    if exits:
        points = [(level - 1, us * 1000, f"published: {us:g} us") for level, us in model["points"]]
        names = [f"L{level} guest" for level in range(1, 5)]
        note = "A null exit on x86; circles are published (DVH), and the factor was fitted to them."
        yield tag("p", note, class_="note")
        yield curves(
            "A null exit on x86, and what was published (circles)", names, [("the model", exits)], points
        )
    rows = [
        [
            arch,
            *(
                f"{duration(value)} ({duration(low)} to {duration(high)})"
                for value, low, high in found["page_call"]
            ),
        ]
        for arch, found in model["arch"].items()
    ]
    yield table(["a page call", *labels], rows)


def _published(rows: Sequence[Json]) -> Iterator[str]:
    yield tag("h3", "Published figures")
    yield tag(
        "p",
        "Fitted: the model was made from it, so it agrees and validates nothing. Predicted: it was not.",
        class_="note",
    )
    yield table(
        ["figure", "published", "model", "use", "", "source"],
        [
            [
                row["what"],
                _interval(row["published"], row["unit"]),
                f"{row['model'][0]:,.4g} ({row['model'][1]:,.4g} to {row['model'][2]:,.4g})",
                row["use"],
                "within the range" if row["reproduced"] else _missed(row),
                row["source"],
            ]
            for row in rows
        ],
        numbers=False,
    )


def _missed(row: Json) -> str:
    return f"NOT reproduced: {row['missed']}" if row.get("missed") else "NOT reproduced"


def _interval(published: Sequence[float | None], unit: str) -> str:
    low, high = published
    if high is None:
        return f"more than {low:g} {unit}"
    return f"{low:g} {unit}" if low == high else f"{low:g} to {high:g} {unit}"


def _sources(model: Json) -> Iterator[str]:
    rows, seen = [], set()
    for arch, found in model["arch"].items():
        for each in found["sources"]:
            key = each["cost"], each["source"]
            if key not in seen:
                seen.add(key)
                rows.append([f"{arch} {each['cost']}", each["basis"], each["source"]])
    inside = table(["cost", "basis", "source"], rows, numbers=False)
    yield tag("details", tag("summary", "Sources of all costs"), inside)
    yield tag("p", escaped(f"Costs, SHA-256 {model['costs_sha256'][:16]}."), class_="note")


# -- under load --------------------------------------------


def load_section(load: Json | None) -> Iterator[str]:
    """Latency curves of `nestbed load`; those of the world's clock apart from virtual ones."""
    if not load:
        return
    measured = load["clock"] == "wall"
    kind = "wall" if measured else ""
    yield tag("h2", "Under load", id="load", class_=kind)
    for arch, answer in load["load"].items():
        paths = {path: Histogram.of(side["latency"]) for path, side in answer["paths"].items()}
        how = "by this program's clock" if measured else "modelled"
        title = tag("h3", escaped(f"{arch}: latency from the intended start, {how}"))
        labels = [f"p{percent:g}" if percent < 100 else "longest" for percent in PERCENTS]
        lines = [(path, [found.percentile(percent) for percent in PERCENTS]) for path, found in paths.items()]
        picture = curves(f"Latency from the intended start: {arch}", labels, lines, measured=measured)
        rows = [[path, *(duration(value or 0) for value in values)] for path, values in lines]
        verdict = tag("p", escaped(_verdict(answer)))
        yield tag("div", title, picture, table([arch, *labels], rows), verdict, class_=kind)


def _verdict(answer: Json) -> str:
    from actors.load.text import verdict

    return verdict(answer["comparison"])
