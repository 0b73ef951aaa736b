"""The answer of a comparison, in the order in which one needs it: what it costs, where it turns, what holds.

Built from the object that `--json` prints, so that a run and a bundle of last year read alike. Text and
report only lay it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.compare.beside import Beside, side_by_side
from actors.compare.outcome import Json
from actors.compare.tables import (
    Table,
    columns,
    common_phases,
    comparable,
    in_order,
    tables,
    uncommon_phases,
    words,
)

REALISM = {
    "built": "somebody runs the nested path",
    "prototype": "the nested path has been shown to work",
    "software": "nobody has written the nested path",
    "needs_te_change": "the nested path needs a changed Trusted Entity",
    "hypothetical": "nobody knows whether the nested path can be built",
}
BY = {
    "construction": "by construction: it follows from what is counted and how",
    "emulation": "by emulation: the run shows it",
    "model": "by model: it rests on modelled time",
}


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement and whether it holds; None if there is nothing to judge it by."""

    text: str
    by: str
    holds: bool | None
    figures: str

    @property
    def word(self) -> str:
        return {True: "holds", False: "does not hold", None: "not judged"}[self.holds]


@dataclass(frozen=True, slots=True)
class Part:
    """One architecture."""

    arch: str
    title: str
    realism: str
    headline: str
    breakeven: tuple[str, ...]
    tables: tuple[Table, ...]
    modelled: tuple[tuple[str, str], ...]
    sensitivity: Json  # as actors.compare.sensitivity has it; empty where nothing was asked
    results: tuple[Json, ...]  # as columns


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that is said about a comparison."""

    name: str
    seed: int
    depth: int
    parts: tuple[Part, ...]
    beside: tuple[Beside, ...]  # where there are several architectures
    claims: tuple[Claim, ...]
    verdicts: tuple[Json, ...]
    seeds: tuple[str, ...]  # a sentence for each system, where several seeds were run
    stopped: bool
    wall: str


def answer(document: Mapping[str, Any], titles: Mapping[str, str] | None = None) -> Answer:
    """Say what `document` found: what `--json` prints, or a bundle. `titles` are the architectures'."""
    scenario = document.get("scenario") or {}
    results: list[Json] = document["results"]
    turning = document.get("breakeven") or {}
    rests = document.get("sensitivity") or {}
    parts = [
        _part(
            arch,
            in_order(r for r in results if r["arch"] == arch),
            (titles or {}).get(arch, ""),
            turning,
            rests.get(arch),
        )
        for arch in dict.fromkeys(result["arch"] for result in results)
    ]
    return Answer(
        name=str(scenario.get("name", "")),
        seed=int(document.get("seed", 0)),
        depth=int(scenario.get("depth", 1)),
        parts=tuple(parts),
        beside=side_by_side(document),
        claims=tuple(_claim(each) for each in document.get("claims") or ()),
        verdicts=tuple(document.get("thresholds") or ()),
        seeds=tuple(_over_seeds(document.get("seeds"))),
        stopped=bool(document.get("interrupted")),
        wall=figures(document.get("wall") or {}),
    )


def _part(
    arch: str, results: Sequence[Json], title: str, turning: Mapping[str, Any], rests: Json | None
) -> Part:
    realism = next((r["realism"] for r in results if r["path"] == "nested" and r.get("realism")), "")
    return Part(
        arch=arch,
        title=title,
        realism=f"{realism}: {REALISM[realism]}" if realism in REALISM else str(realism),
        headline=headline(arch, comparable(results)),
        breakeven=tuple(_texts(turning.get(arch))),
        tables=tuple(tables(results)),
        modelled=tuple(
            (name, modelled(result["modelled"], common_phases(results)))
            for name, result in zip(columns(results), results, strict=True)
            if result.get("modelled")
        ),
        sensitivity=rests or {},
        results=tuple(results),
    )


def headline(arch: str, results: Sequence[Json]) -> str:
    """One sentence: how many exits arrive at L0 on each path, and how many times direct that is."""
    direct = next((r["counts"].get("exits", 0) for r in results if r["path"] == "direct"), None)
    said = []
    for name, result in zip(columns(results), results, strict=True):
        exits = result["counts"].get("exits", 0)
        times = f" ({ratio(exits / direct)} direct)" if direct and result["path"] != "direct" else ""
        said.append(f"{name} {exits:,}{times}")
    left_out = [words(name) for name in uncommon_phases(results)]
    without = f", without {', '.join(left_out)}, which not every path has" if left_out else ""
    return f"{arch}: exits that arrive at L0{without}: {'; '.join(said)}"


def ratio(value: float | None) -> str:
    """How many times, as it is shown."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}x"
    if value and value < 0.01:
        return "<0.01x"
    return f"{value:.1f}x" if value >= 0.1 or not value else f"{value:.2f}x"


def modelled(found: Mapping[str, Any], common: Sequence[str]) -> str:
    """What a path is modelled to take, over the phases that all have: its range and what it rests on."""
    if "phases" not in found:
        return figures(found)
    wanted = [phase for phase in common if phase != "host_setup"]
    life = [span for span in map(found["phases"].get, wanted) if span]
    ns, low, high = (sum(span[name] for span in life) for name in ("ns", "low_ns", "high_ns"))
    setup = found["phases"].get("host_setup") or {"ns": 0}
    machine = found.get("machine_setup")
    without = f"; not in it: L0 brings up the machine, {duration(machine['ns'])}" if machine else ""
    basis = ", ".join(f"{share:.0%} {name}" for name, share in found["basis"].items())
    return (
        f"{duration(ns)} ({duration(low)} to {duration(high)}) after host set-up of {duration(setup['ns'])}; "
        f"in all {basis}{without}"
    )


def duration(ns: float) -> str:
    """Virtual time in the unit that reads best."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:,.3g} {unit}"
    return f"{ns:,.0f} ns"


def number(value: int | None) -> str:
    """A count as it is shown; "-" where a path lacks it."""
    return "-" if value is None else f"{value:,}"


def figures(value: Any) -> str:
    """The figures of a claim, or of anything else that is small, in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{words(str(name))} {figure}" for name, figure in _leaves(value))
    if isinstance(value, list | tuple):
        return ", ".join(figures(each) for each in value)
    return _figure(value)


def _leaves(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", figures(inner)


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else _long(value)


def _long(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, float) else str(value)


def _over_seeds(found: Json | None) -> Iterator[str]:
    """A sentence for each system."""
    for row in (found or {}).get("rows", ()):
        low, high = min(row["exits"]), max(row["exits"])
        exits = f"{low:,} exits with every seed" if low == high else f"{low:,} to {high:,} exits"
        ends = dict.fromkeys(duration(end(row["ns"])) for end in (min, max)) if "ns" in row else ()
        times = f", modelled {' to '.join(ends)}" if ends else ""
        yield f"{row['arch']} {row['path']}: {exits}{times}"


def _texts(turning: Any) -> Iterator[str]:
    """The sentences of a break-even; one that came without is shown by its figures."""
    for each in turning if isinstance(turning, list) else [turning] if turning else []:
        text = each.get("text") if isinstance(each, Mapping) else each
        yield str(text) if text else figures(each)


def titles_of(arches: Iterable[str]) -> dict[str, str]:
    """The titles of those architectures that this program has."""
    from protocol.arch import kinds, load

    return {name: load(name).title for name in arches if name in kinds()}


def _claim(claim: Mapping[str, Any]) -> Claim:
    holds = claim.get("holds")
    by = str(claim.get("by", ""))
    arch = f"{claim['arch']}: " if claim.get("arch") else ""
    return Claim(
        f"{arch}{claim.get('claim', '')}",
        by,
        holds if isinstance(holds, bool) else None,
        figures(claim.get("figures")) if claim.get("figures") is not None else "",
    )


def held(claims: Sequence[Claim]) -> str:
    """How many claims hold, in a sentence."""
    judged = [claim for claim in claims if claim.holds is not None]
    holding = sum(claim.holds is True for claim in judged)
    unjudged = len(claims) - len(judged)
    rest = f"; {unjudged} could not be judged" if unjudged else ""
    return f"{holding} of {len(judged)} claims hold{rest}"
