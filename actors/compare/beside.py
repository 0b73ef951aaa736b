"""Several architectures in one table: what each costs, the census of its calls, does the talk's order hold?

Built from the object that `--json` prints, like everything else that is said about a comparison. With one
architecture there is nothing to put side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.compare.outcome import Json
from actors.compare.tables import comparable, family, in_order, uncommon_phases, words
from protocol.calls import CallSpec, Category, Treatment

ORDER = "the higher the call, the less is emulated"
COUNTED = {"exits that arrive at L0": "exits", "calls of the real Trusted Entity": "te_issued"}
WORD = {True: "holds", False: "does not hold", None: "not judged"}


@dataclass(frozen=True, slots=True)
class Beside:
    """A table with a column for each architecture. A row is (level, label, cells)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, str, tuple[str, ...]], ...]
    notes: tuple[str, ...] = ()


def census(calls: Iterable[CallSpec]) -> Json:
    """How many calls an ABI has, by category and by what nesting does with them."""
    found: dict[str, Counter[str]] = {}
    for row in calls:
        found.setdefault(str(row.category), Counter())[str(row.treatment)] += 1
    return {category: dict(treatments) for category, treatments in found.items()}


def side_by_side(document: Mapping[str, Any]) -> tuple[Beside, ...]:
    """The tables; none where there is one architecture alone."""
    results: list[Json] = document["results"]
    arches = tuple(dict.fromkeys(result["arch"] for result in results))
    if len(arches) < 2:
        return ()
    of = {arch: in_order(result for result in results if result["arch"] == arch) for arch in arches}
    made = [_costs(arches, of, document.get("claims") or ())]
    counted = document.get("census")
    if counted:
        made.append(_census(arches, counted))
    return tuple(made)


# -- what it costs -----------------------------------------


def _costs(arches: tuple[str, ...], of: Mapping[str, Sequence[Json]], claims: Sequence[Json]) -> Beside:
    alike = {arch: comparable(of[arch]) for arch in arches}
    paths = list(dict.fromkeys(result["path"] for arch in arches for result in of[arch]))
    rows: list[tuple[int, str, tuple[str, ...]]] = [
        (0, "how real nesting is", tuple(words(_realism(of[arch])) for arch in arches))
    ]
    for title, name in COUNTED.items():
        rows.append((0, title, ("",) * len(arches)))
        rows += [(1, path, tuple(_count(alike[arch], path, name) for arch in arches)) for path in paths]
    rows.append((0, "claims of the talk that hold", tuple(_held(claims, arch) for arch in arches)))
    orders = dict.fromkeys(each["claim"] for each in claims if each["claim"].startswith(ORDER))
    if orders:
        rows.append((0, "less emulation the higher up", ("",) * len(arches)))
    for claim in orders:
        verdicts = tuple(_verdict(claims, arch, claim) for arch in arches)
        rows.append((1, claim.removeprefix(f"{ORDER}: "), verdicts))
    return Beside("The architectures side by side", arches, tuple(rows), tuple(_left_out(of)))


def _realism(results: Sequence[Json]) -> str:
    nested = (result for result in results if result["path"] == "nested")
    return next((str(result["realism"]) for result in nested if result.get("realism")), "-")


def _count(results: Sequence[Json], path: str, name: str) -> str:
    """A count, and how many times that of the direct path it is."""
    count = {result["path"]: family(name)(result) for result in results}
    found, direct = count.get(path), count.get("direct")
    if found is None:
        return "-"
    return f"{found:,}" if path == "direct" or not direct else f"{found:,}  {found / direct:.1f}x"


def _held(claims: Sequence[Json], arch: str) -> str:
    judged = [each["holds"] for each in claims if each.get("arch") == arch and each["holds"] is not None]
    return f"{sum(judged)} of {len(judged)}"


def _verdict(claims: Sequence[Json], arch: str, text: str) -> str:
    mine = (each["holds"] for each in claims if (each.get("arch"), each["claim"]) == (arch, text))
    return next((WORD[holds] for holds in mine), "-")


def _left_out(of: Mapping[str, Sequence[Json]]) -> Iterator[str]:
    """Sums are over the phases that all paths of an architecture have."""
    left = {arch: [words(name) for name in uncommon_phases(results)] for arch, results in of.items()}
    for phases in dict.fromkeys(map(tuple, left.values())):
        if phases:
            whose = [arch for arch, its in left.items() if tuple(its) == phases]
            yield f"{', '.join(whose)}: without {', '.join(phases)}, which not every path has"


# -- the census --------------------------------------------


def _census(arches: tuple[str, ...], counted: Mapping[str, Any]) -> Beside:
    def number(arch: str, category: str, treatment: str | None = None) -> int:
        found: Mapping[str, int] = (counted.get(arch) or {}).get(category) or {}
        return sum(found.values()) if treatment is None else found.get(treatment, 0)

    rows = [(0, "calls", tuple(f"{sum(number(arch, str(c)) for c in Category):,}" for arch in arches))]
    for category in map(str, Category):
        if not any(number(arch, category) for arch in arches):
            continue
        rows.append((0, category, tuple(_or_none(number(arch, category)) for arch in arches)))
        for treatment in map(str, Treatment):
            of = [number(arch, category, treatment) for arch in arches]
            if any(of):
                rows.append((1, treatment, tuple(_or_none(each) for each in of)))
    notes = ("guest: issued by the guest itself; the talk's order is that of the categories before it",)
    return Beside("Census of each ABI: calls by category and treatment", arches, tuple(rows), notes)


def _or_none(number: int) -> str:
    return f"{number:,}" if number else "-"
