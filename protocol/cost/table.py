"""What primitive operations cost: a table of values with range, basis and source.

A table is made from what a TOML file holds (`cost.GROUP.NAME`), a user's overlay from another one. All that
is wrong with a file is found at once. Names that an architecture does not have are looked up in the group
`common`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

COMMON = "common"
BASES = ("measured", "derived", "assumption")
FIELDS = ("value_ns", "low_ns", "high_ns", "basis", "unit", "source", "note")
LARGEST_NS = 10**15  # eleven days: nothing primitive takes longer


@dataclass(frozen=True, slots=True)
class Cost:
    """One entry. Times in nanoseconds; `low` and `high` bound what is thought possible."""

    name: str
    value: float
    low: float
    high: float
    basis: str
    unit: str
    source: str


class BadCosts(ValueError):
    """A table that cannot be used: `mistakes` says where, what stands there and what may."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class Costs:
    """Costs by group (an architecture, or `common`) and name."""

    def __init__(self, entries: Mapping[tuple[str, str], Cost]) -> None:
        self._entries = dict(entries)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Costs:
        """From the content of a file. Raises BadCosts."""
        mistakes: list[str] = []
        entries = dict(_entries(document, mistakes))
        if mistakes:
            raise BadCosts(mistakes)
        return cls(entries)

    def overlaid(self, other: Costs) -> Costs:
        """The same with every entry of `other` in place of its own. Raises BadCosts for an unknown one."""
        unknown = [".".join(key) for key in other._entries if key not in self._entries]
        if unknown:
            raise BadCosts([f"cost.{name}: no such cost" for name in unknown])
        return Costs({**self._entries, **other._entries})

    def of(self, group: str, name: str) -> Cost:
        """The cost of `name` for an architecture. Raises KeyError where neither it nor `common` has one."""
        return self._entries.get((group, name)) or self._entries[COMMON, name]

    def names(self, group: str) -> list[str]:
        return sorted(name for of, name in self._entries if of in (group, COMMON))


def _entries(document: Mapping[str, Any], mistakes: list[str]) -> Iterator[tuple[tuple[str, str], Cost]]:
    groups = document.get("cost")
    if not isinstance(groups, dict):
        mistakes.append("cost: is missing; allowed: tables cost.GROUP.NAME")
        return
    for group, names in groups.items():
        if not isinstance(names, dict):
            mistakes.append(f"cost.{group} = {names!r}: allowed: a table of costs")
            continue
        for name, given in names.items():
            where = f"cost.{group}.{name}"
            found = _wrong(where, given)
            mistakes += found
            if not found:
                value, low, high = (float(given[field]) for field in ("value_ns", "low_ns", "high_ns"))
                cost = Cost(name, value, low, high, given["basis"], given["unit"], given["source"])
                yield (group, name), cost


def _wrong(where: str, given: object) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where} = {given!r}: allowed: a table with {', '.join(FIELDS)}"]
    found = [
        f"{where}.{name}: no such field; allowed: {', '.join(FIELDS)}" for name in given if name not in FIELDS
    ]
    for name in ("value_ns", "low_ns", "high_ns"):
        value = given.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= float(value or 0) <= LARGEST_NS:
            found.append(f"{where}.{name} = {value!r}: allowed: a number, 0 to {LARGEST_NS}")
    if given.get("basis") not in BASES:
        found.append(f"{where}.basis = {given.get('basis')!r}: allowed: {', '.join(BASES)}")
    for name in ("unit", "source"):
        if not isinstance(given.get(name), str) or not given[name]:
            found.append(f"{where}.{name} = {given.get(name)!r}: allowed: a text")
    if not found and not given["low_ns"] <= given["value_ns"] <= given["high_ns"]:
        found.append(f"{where}: low_ns <= value_ns <= high_ns does not hold")
    return found
