"""What primitive operations cost: a table of values with range, basis and source.

A table is made from what a TOML file holds (`cost.GROUP.NAME`, and beside it the numbers without a unit in
`factor.GROUP.NAME` and the serial resources in `lock.GROUP.NAME`), a user's overlay from another one. All
that is wrong with a file is found at once. Names that an architecture does not have are looked up in the
group `common`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Key = tuple[str, str]  # group and name
T = TypeVar("T")

COMMON = "common"
BASES = ("measured", "derived", "assumption")
FIELDS = ("value_ns", "low_ns", "high_ns", "basis", "unit", "source", "note")
FACTOR_FIELDS = ("value", "low", "high", "basis", "source", "note")
LOCK_FIELDS = ("scope", "servers", "covers", "waits", "basis", "source", "note")
SCOPES = ("host", "package", "l1", "vm", "page")  # what there is one such resource for
LARGEST_NS = 10**15  # eleven days: nothing primitive takes longer
LARGEST_FACTOR = 10**6
MOST_SERVERS = 10**4


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


@dataclass(frozen=True, slots=True)
class Factor:
    """A number without a unit; `low` and `high` bound what is thought possible."""

    name: str
    value: float
    low: float
    high: float
    basis: str
    source: str


@dataclass(frozen=True, slots=True)
class Lock:
    """A resource for which work queues: one per `scope`, `servers` at a time (0: as many as come).

    `waits`: callers stand in line; else they are told that it is busy, and ask again.
    """

    name: str
    scope: str
    servers: int
    covers: tuple[str, ...]  # costs that are paid while it is held
    waits: bool
    basis: str
    source: str


class BadCosts(ValueError):
    """A table that cannot be used: `mistakes` says where, what stands there and what may."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class Costs:
    """Costs by group (an architecture, or `common`) and name."""

    def __init__(
        self,
        entries: Mapping[Key, Cost],
        factors: Mapping[Key, Factor] | None = None,
        locks: Mapping[Key, Lock] | None = None,
    ) -> None:
        self._entries = dict(entries)
        self._factors = dict(factors or {})
        self._locks = dict(locks or {})

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Costs:
        """From the content of a file. Raises BadCosts."""
        mistakes: list[str] = []
        unknown = [name for name in document if name not in ("cost", "factor", "lock", "meta")]
        mistakes += [f"{name}: no such table; allowed: cost, factor, lock, meta" for name in unknown]
        if not any(name in document for name in ("cost", "factor", "lock")):
            mistakes.append("cost: is missing; allowed: tables cost.GROUP.NAME")
        costs = dict(_each(document, "cost", _wrong_cost, _cost, mistakes))
        factors = dict(_each(document, "factor", _wrong_factor, _factor, mistakes))
        locks = dict(_each(document, "lock", _wrong_lock, _lock, mistakes))
        if mistakes:
            raise BadCosts(mistakes)
        return cls(costs, factors, locks)

    def overlaid(self, other: Costs) -> Costs:
        """The same with every entry of `other` in place of its own. Raises BadCosts for an unknown one."""
        known = {"cost": self._entries, "factor": self._factors, "lock": self._locks}
        theirs = {"cost": other._entries, "factor": other._factors, "lock": other._locks}
        unknown = [
            f"{kind}.{'.'.join(key)}: no such {kind}"
            for kind in known
            for key in theirs[kind]  # type: ignore[attr-defined]
            if key not in known[kind]  # type: ignore[operator]
        ]
        if unknown:
            raise BadCosts(unknown)
        return Costs(
            {**self._entries, **other._entries},
            {**self._factors, **other._factors},
            {**self._locks, **other._locks},
        )

    def of(self, group: str, name: str) -> Cost:
        """The cost of `name` for an architecture. Raises KeyError where neither it nor `common` has one."""
        return self._entries.get((group, name)) or self._entries[COMMON, name]

    def names(self, group: str) -> list[str]:
        return sorted({name for of, name in self._entries if of in (group, COMMON)})

    def factor(self, group: str, name: str) -> Factor:
        """The same for a number without a unit."""
        return self._factors.get((group, name)) or self._factors[COMMON, name]

    def locks(self, group: str) -> list[Lock]:
        """The resources for which work of an architecture queues, its own first."""
        return [lock for of in (group, COMMON) for key, lock in self._locks.items() if key[0] == of]


def _each(
    document: Mapping[str, Any],
    kind: str,
    wrong: Callable[[str, object], list[str]],
    make: Callable[[str, Mapping[str, Any]], T],
    mistakes: list[str],
) -> Iterator[tuple[Key, T]]:
    """Every entry of one kind that is right; what is wrong with the others goes to `mistakes`."""
    groups = document.get(kind, {})
    if not isinstance(groups, dict):
        mistakes.append(f"{kind} = {groups!r}: allowed: tables {kind}.GROUP.NAME")
        return
    for group, names in groups.items():
        if not isinstance(names, dict):
            mistakes.append(f"{kind}.{group} = {names!r}: allowed: a table of {kind}s")
            continue
        for name, given in names.items():
            found = wrong(f"{kind}.{group}.{name}", given)
            mistakes += found
            if not found:
                yield (group, name), make(name, given)


def _cost(name: str, given: Mapping[str, Any]) -> Cost:
    value, low, high = (float(given[field]) for field in ("value_ns", "low_ns", "high_ns"))
    return Cost(name, value, low, high, given["basis"], given["unit"], given["source"])


def _factor(name: str, given: Mapping[str, Any]) -> Factor:
    value, low, high = (float(given[field]) for field in ("value", "low", "high"))
    return Factor(name, value, low, high, given["basis"], given["source"])


def _lock(name: str, given: Mapping[str, Any]) -> Lock:
    covers = tuple(given["covers"])
    waits = given.get("waits", True)
    return Lock(name, given["scope"], given["servers"], covers, waits, given["basis"], given["source"])


def _wrong_cost(where: str, given: object) -> list[str]:
    found = _not_a_table(where, given, FIELDS)
    if found or not isinstance(given, dict):
        return found
    found = _numbers(where, given, ("low_ns", "value_ns", "high_ns"), LARGEST_NS)
    return found or _words(where, given, ("unit", "source"))


def _wrong_factor(where: str, given: object) -> list[str]:
    found = _not_a_table(where, given, FACTOR_FIELDS)
    if found or not isinstance(given, dict):
        return found
    found = _numbers(where, given, ("low", "value", "high"), LARGEST_FACTOR)
    return found or _words(where, given, ("source",))


def _wrong_lock(where: str, given: object) -> list[str]:
    found = _not_a_table(where, given, LOCK_FIELDS)
    if found or not isinstance(given, dict):
        return found
    if given.get("scope") not in SCOPES:
        found.append(f"{where}.scope = {given.get('scope')!r}: allowed: {', '.join(SCOPES)}")
    servers = given.get("servers")
    if type(servers) is not int or not 0 <= servers <= MOST_SERVERS:
        found.append(f"{where}.servers = {servers!r}: allowed: a whole number, 0 to {MOST_SERVERS}")
    covers = given.get("covers")
    if not isinstance(covers, list) or not all(isinstance(name, str) for name in covers):
        found.append(f"{where}.covers = {covers!r}: allowed: a list of names of costs")
    if not isinstance(given.get("waits", True), bool):
        found.append(f"{where}.waits = {given['waits']!r}: allowed: true, false")
    return found + _words(where, given, ("source",))


def _not_a_table(where: str, given: object, allowed: tuple[str, ...]) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where} = {given!r}: allowed: a table with {', '.join(allowed)}"]
    return [
        f"{where}.{name}: no such field; allowed: {', '.join(allowed)}"
        for name in given
        if name not in allowed
    ]


def _numbers(where: str, given: Mapping[str, Any], names: tuple[str, ...], most: int) -> list[str]:
    found = []
    for name in names:
        value = given.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= most:  # type: ignore[operator]
            found.append(f"{where}.{name} = {value!r}: allowed: a number, 0 to {most}")
    low, value, high = (given.get(name) for name in names)
    if not found and not low <= value <= high:  # type: ignore[operator]
        found.append(f"{where}: {' <= '.join(names)} does not hold")
    return found


def _words(where: str, given: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    found = []
    if given.get("basis") not in BASES:
        found.append(f"{where}.basis = {given.get('basis')!r}: allowed: {', '.join(BASES)}")
    for name in names:
        if not isinstance(given.get(name), str) or not given[name]:
            found.append(f"{where}.{name} = {given.get(name)!r}: allowed: a text")
    return found
