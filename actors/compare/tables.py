"""The counts of one architecture side by side, as text and report show them alike.

A cell is a count and its ratio to the direct path. A count that a path lacks is None and never 0; why it is
lacking stands in the table's notes. Totals are over what all paths have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.compare.outcome import Json
from protocol.calls import Category, Treatment
from protocol.ledger import FAMILIES
from protocol.plan.fit import PHASES
from protocol.plan.scenario import PATHS
from protocol.tracking import PLANE_OF, PLANES

Value = Callable[[Json], int | None]


@dataclass(frozen=True, slots=True)
class Cell:
    """A count, None where the path lacks it, and how many times that of the direct path it is."""

    value: int | None
    ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `level` 0 is a sum, 1 a part of the last sum, 2 a part of the last part."""

    label: str
    cells: tuple[Cell, ...]
    level: int = 0

    def happened(self) -> bool:
        """Whether any path has something to show here."""
        return any(cell.value != 0 for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with one cell for each column; a column is a path."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def in_order(results: Iterable[Json]) -> list[Json]:
    """The results of one architecture as columns: direct first."""
    rank = {path: place for place, path in enumerate(PATHS)}
    return sorted(results, key=lambda result: (rank.get(result["path"], len(rank)), result["depth"]))


def columns(results: Sequence[Json]) -> tuple[str, ...]:
    """Names of the columns: the path, with its depth where a path is there twice."""
    paths = [result["path"] for result in results]
    return tuple(
        result["path"] if paths.count(result["path"]) == 1 else f"{result['path']} {result['depth']}"
        for result in results
    )


def row(label: str, results: Sequence[Json], value: Value, level: int = 0) -> Row:
    """One row: `value` of every result, each beside that of the direct path."""
    values = [value(result) for result in results]
    direct = next((v for v, result in zip(values, results, strict=True) if result["path"] == "direct"), None)
    cells = []
    for each, result in zip(values, results, strict=True):
        compared = result["path"] != "direct" and each is not None and direct
        cells.append(Cell(each, each / direct if compared and each is not None and direct else None))
    return Row(label, tuple(cells), level)


# -- what stands in a result -------------------------------


def family(name: str) -> Value:
    """The total of a family of counts."""
    return lambda result: _number(result["counts"].get(name, 0))


def phase(name: str, of: str = "exits") -> Value:
    """A family's total in one phase: 0 where the phase is not listed, lacking where it is null."""

    def value(result: Json) -> int | None:
        counts = result["phases"].get(name, {})
        return None if counts is None else _number(counts.get(of, 0))

    return value


def labelled(counts: Mapping[str, Any], name: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the labels and the number of every count of a family."""
    names = FAMILIES[name][0]
    open_ended = names.index("reason") if "reason" in names else 0  # the one label that may hold dots
    prefix = f"{name}."
    for key, number in counts.items():
        if not key.startswith(prefix) or type(number) is not int:
            continue
        parts = key[len(prefix) :].split(".")
        surplus = len(parts) - len(names)
        if surplus < 0:
            continue
        middle = ".".join(parts[open_ended : open_ended + surplus + 1])
        yield (*parts[:open_ended], middle, *parts[open_ended + surplus + 1 :]), number


def where(name: str, **wanted: str) -> Value:
    """The sum over a family of all counts whose labels are as `wanted`."""
    names = FAMILIES[name][0]
    places = [(names.index(label), text) for label, text in wanted.items()]

    def value(result: Json) -> int | None:
        if result["counts"].get(name, 0) is None:
            return None
        return sum(
            number
            for labels, number in labelled(result["counts"], name)
            if all(labels[place] == text for place, text in places)
        )

    return value


def values_of(results: Iterable[Json], name: str, label: str) -> list[str]:
    """The values that a label has in any of the results, sorted."""
    place = FAMILIES[name][0].index(label)
    return sorted({labels[place] for result in results for labels, _ in labelled(result["counts"], name)})


def _number(value: Any) -> int | None:
    return value if type(value) is int else None


def common_phases(results: Sequence[Json]) -> list[str]:
    """The phases that no path lacks, in order."""
    return [name for name in phases(results) if all(r["phases"].get(name, {}) is not None for r in results)]


def uncommon_phases(results: Sequence[Json]) -> list[str]:
    """The phases that one path has and another one lacks."""
    return [name for name in phases(results) if name not in common_phases(results)]


def phases(results: Iterable[Json]) -> list[str]:
    """Every phase that any path has, in the order of a run; unknown ones last."""
    found = {name for result in results for name, counts in result["phases"].items() if counts is not None}
    return [name for name in PHASES if name in found] + sorted(found.difference(PHASES))


def comparable(results: Sequence[Json]) -> list[Json]:
    """The results with counts over those phases only that no path lacks: a total compares like with like."""
    if not uncommon_phases(results):
        return list(results)
    made = []
    for result in results:
        counts: defaultdict[str, int] = defaultdict(int)
        for name in common_phases(results):
            for key, number in result["phases"].get(name, {}).items():
                counts[key] += _number(number) or 0
        made.append(result | {"counts": dict(counts)})
    return made


def words(name: str) -> str:
    """A name as it is said."""
    return name.replace("_", " ")


# -- the tables --------------------------------------------


def tables(results: Sequence[Json]) -> list[Table]:
    """What one architecture's results say, most important first. `results` are in order."""
    alike = comparable(results)
    made = [
        exits(alike),
        hand_overs(alike),
        te_calls(alike),
        translation(alike),
        tracking(alike),
        teardown(results),
        hosting(results),
        contention(results),
    ]
    return [table for table in made if table.rows]


def exits(results: Sequence[Json]) -> Table:
    """Arrivals at L0: in all, in each phase, from whom and to whom."""
    lacking = uncommon_phases(results)
    total = "in all" if not lacking else "in all phases that every path has"
    rows = [row(total, results, family("exits"))]
    parts = [row(words(name), results, phase(name), 1) for name in phases(results)]
    rows += [each for each in parts if each.happened()]
    for level in values_of(results, "exits", "from_level"):
        sides = [
            row(f"L{level} to {side}", results, where("exits", from_level=level, to=to), 1)
            for to, side in (("kernel", "the kernel"), ("vmm", "the VMM"))
        ]
        rows.append(row(f"from L{level}", results, where("exits", from_level=level)))
        rows += [each for each in sides if each.happened()]
    notes = [
        f"{name}: no {words(each)}: {reason(result, f'phases.{each}')}"
        for name, result in zip(columns(results), results, strict=True)
        for each in lacking
        if result["phases"].get(each, {}) is None
    ]
    notes += _in_no_path(results)
    return Table("exits", "Exits that arrive at L0", columns(results), tuple(rows), tuple(notes))


def _in_no_path(results: Sequence[Json]) -> Iterator[str]:
    """What this comparison does not say anything about."""
    for name in dict.fromkeys(name for result in results for name in result["phases"]):
        if all(result["phases"].get(name, {}) is None for result in results):
            why = dict.fromkeys(reason(result, f"phases.{name}") for result in results)
            yield f"no path has {words(name)}: {'; '.join(why)}"


def reason(result: Json, name: str) -> str:
    """Why a path lacks something."""
    absent = result.get("absent")
    found = absent.get(name) if isinstance(absent, dict) else None
    return str(found) if found else "no reason given"


def hand_overs(results: Sequence[Json]) -> Table:
    """What L0 does with an exit that is not its own, and who runs afterwards."""
    rows = [row("reflected to a guest host", results, family("reflections"))]
    for start in values_of(results, "reflections", "from_level"):
        for end in values_of(results, "reflections", "to_level"):
            between = where("reflections", from_level=start, to_level=end)
            rows.append(row(f"L{start} to L{end}", results, between, 1))
    rows.append(row("guest entries by L0", results, family("entries")))
    rows += _parts(results, "entries", "level", "of L")
    rows.append(row("injected into guest hosts", results, family("injections")))
    rows += _parts(results, "injections", "kind")
    return _table("hand-overs", "Reflections, entries, injections", results, rows, keep=2)


def te_calls(results: Sequence[Json]) -> Table:
    """Calls of the Trusted Entity by what they are about and what the level below did with them."""
    rows = [row("as issued, at every level", results, family("te_calls"))]
    for category in Category:
        rows.append(row(category, results, where("te_calls", category=category), 1))
        rows += [
            row(treatment, results, where("te_calls", category=category, treatment=treatment), 2)
            for treatment in Treatment
        ]
    rows.append(row("arrived at the real Trusted Entity", results, family("te_issued")))
    for origin in values_of(results, "te_issued", "origin"):
        by = f"L{origin}" if origin.isdecimal() else f"the {origin}"
        rows.append(row(f"caused by {by}", results, where("te_issued", origin=origin), 1))
    return _table("te-calls", "Calls of the Trusted Entity", results, rows, keep=1)


def translation(results: Sequence[Json]) -> Table:
    """Addresses, bytes, shadow tables and pages."""
    rows = [row("addresses translated", results, family("translations"))]
    rows += _parts(results, "translations", "stage")
    rows.append(row("bytes copied", results, family("copied_bytes")))
    rows += _parts(results, "copied_bytes", "what")
    rows.append(row("operations on shadow tables", results, family("table_ops")))
    rows += _parts(results, "table_ops", "op")
    rows.append(row("look-ups in tracking tables", results, family("lookups")))
    rows += _parts(results, "lookups", "result")
    rows.append(row("page operations for guest hosts", results, family("pages")))
    rows += _parts(results, "pages", "op")
    return _table("translation", "Translation, copies, pages", results, rows, keep=2)


def teardown(results: Sequence[Json]) -> Table:
    """What was released because its owner went away or asked for it, over the whole run of each path.

    Also the most that the old and the new life of a host held at once, where it came back before all was
    gone.
    """
    rows = [row("items released", results, family("teardown"))]
    for cause in values_of(results, "teardown", "cause"):
        rows.append(row(f"cause: {words(cause)}", results, where("teardown", cause=cause), 1))
        rows += [
            row(words(kind), results, where("teardown", cause=cause, kind=kind), 2)
            for kind in values_of(results, "teardown", "kind")
        ]
    rows += [
        row(words(what), results, where("peaks", what=what)) for what in values_of(results, "peaks", "what")
    ]
    for ending in ("destroy", "owner_reboot", "host_teardown"):
        if ending in phases(results):
            rows.append(row(f"real TE calls: {words(ending)}", results, phase(ending, "te_issued")))
    title = "Teardown, over the whole run of each path"
    return _table("teardown", title, results, rows)


def hosting(results: Sequence[Json]) -> Table:
    """Messages between guest hosts and the host that runs their guests."""
    rows = [row("messages", results, family("hosting")), *_parts(results, "hosting", "message")]
    return _table("hosting", "Messages of the hosting interface, over the whole run", results, rows)


def contention(results: Sequence[Json]) -> Table:
    """What depends on timing, and is therefore compared with nothing."""
    names = sorted({name for result in results for name in result.get("contention") or {}})
    rows = [
        row(words(name), results, lambda r, name=name: _number((r.get("contention") or {}).get(name, 0)), 1)  # type: ignore[misc]
        for name in names
    ]
    title = "Contention (depends on timing, never part of a comparison)"
    return _table("contention", title, results, rows)


def _parts(results: Sequence[Json], name: str, label: str, prefix: str = "") -> list[Row]:
    """One row for each value of a label."""
    return [
        row(prefix + words(value), results, where(name, **{label: value}), 1)
        for value in values_of(results, name, label)
    ]


def _table(name: str, title: str, results: Sequence[Json], rows: list[Row], keep: int = 0) -> Table:
    """A table without the rows in which nothing happened; the first `keep` sums stay all the same."""
    kept, sums = [], 0
    for each in rows:
        sums += each.level == 0
        if each.happened() or (each.level == 0 and sums <= keep):
            kept.append(each)
    return Table(name, title, columns(results), tuple(kept))


# -- tracking: by holder, by plane -------------------------


def tracking(results: Sequence[Json]) -> Table:
    """Records and model bytes at their peak, and every change of a record: by holder and plane."""
    rows: list[Row] = []
    for what, unit in (
        ("records", "records at most"),
        ("bytes", "model bytes at most"),
        ("updates", "changes"),
    ):
        value = _updates if what == "updates" else _peak
        rows.append(row(f"{unit}, L0 and L1", results, _sum_of(value, what, ("l0", "l1"))))
        for holder in _holders(results):
            rows.append(row(f"held by {holder.upper()}", results, _sum_of(value, what, (holder,)), 1))
            rows += [
                row(f"{plane} plane", results, _sum_of(value, what, (holder,), plane), 2) for plane in PLANES
            ]
    return _table(
        "tracking", "Tracking: what is kept for guest hosts, and how often it changes", results, rows
    )


def _holders(results: Iterable[Json]) -> list[str]:
    held = {holder for result in results for holder in result.get("tracking") or {}}
    changed = {
        labels[2] for result in results for labels, _ in labelled(result["counts"], "tracking_updates")
    }
    return sorted(held | changed)


def _peak(result: Json, what: str, holder: str, plane: str) -> int:
    of_holder = (result.get("tracking") or {}).get(holder) or {}
    return _number((of_holder.get(plane) or {}).get(what, 0)) or 0


def _updates(result: Json, what: str, holder: str, plane: str) -> int:
    return sum(
        number
        for (kind, _, held_by), number in labelled(result["counts"], "tracking_updates")
        if held_by == holder and PLANE_OF.get(kind) == plane
    )


def _sum_of(
    value: Callable[[Json, str, str, str], int], what: str, holders: tuple[str, ...], plane: str = ""
) -> Value:
    planes = (plane,) if plane else tuple(PLANES)
    return lambda result: sum(value(result, what, holder, each) for holder in holders for each in planes)
