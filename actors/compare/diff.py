"""Two comparisons against each other, count by count: a gate for changes of a hypervisor.

Counts, counts per phase and tracking have to be equal; contention and times depend on other things and are
not looked at. Bounds of a scenario are judged here, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.compare.outcome import Json, value_of
from actors.given import BadDocument, from_json
from protocol.plan.scenario import Threshold

BASE_BYTES = 256 << 20
COMPARED = ("counts", "phases", "tracking")
Identity = tuple[str, str, int]


class BadBase(Exception):
    """A file that holds no comparison. The message says why."""


@dataclass(frozen=True, slots=True)
class Change:
    """A number that is another one now. None: it is not there, or its path lacks it."""

    arch: str
    path: str
    depth: int
    name: str
    before: int | None
    now: int | None

    def text(self) -> str:
        change = f"{_shown(self.before)} -> {_shown(self.now)}"
        if self.before is not None and self.now is not None:
            change += f" ({self.now - self.before:+,})"
        return f"{self.arch} {self.path} depth {self.depth}: {self.name}: {change}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A threshold and whether it holds. `value` None: nothing to judge it by, so it does not."""

    threshold: Threshold
    arch: str
    value: int | None

    @property
    def holds(self) -> bool:
        return self.value is not None and self.threshold.holds(self.value)

    def text(self) -> str:
        word = "holds" if self.holds else "FAILED"
        return f"{word}: {self.arch} {self.threshold.what} {self.threshold.text()}: {_shown(self.value)}"

    def as_dict(self) -> Json:
        wanted = self.threshold.text()
        return {
            "what": self.threshold.what,
            "wanted": wanted,
            "arch": self.arch,
            "value": self.value,
            "holds": self.holds,
        }


def _shown(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def read_base(path: Path) -> Json:
    """The object that `--json` printed or that a bundle's run.json holds; `path` may be the bundle.

    Raises BadBase.
    """
    if path.is_dir():
        path = path / "run.json"
    try:
        with path.open("rb") as file:
            data = file.read(BASE_BYTES + 1)
        if len(data) > BASE_BYTES:
            raise BadBase(f"{path}: more than {BASE_BYTES} bytes")
        base = from_json(data)
    except OSError as error:
        raise BadBase(f"{path}: {error.strerror}") from None
    except BadDocument as error:
        raise BadBase(f"{path}: {error}") from None
    if not isinstance(base, dict) or not isinstance(base.get("results"), list):
        raise BadBase(f"{path}: no comparison: it has no list of results")
    if not isinstance(base.get("scenario", {}), dict):
        raise BadBase(f"{path}: its scenario is no table of settings")
    for index, result in enumerate(base["results"]):
        if not _is_result(result):
            raise BadBase(f"{path}: results[{index}] has no arch, path, depth, counts and phases")
    return base


def _is_result(result: object) -> bool:
    return (
        isinstance(result, dict)
        and isinstance(result.get("arch"), str)
        and isinstance(result.get("path"), str)
        and type(result.get("depth")) is int
        and isinstance(result.get("counts"), dict)
        and isinstance(result.get("phases"), dict)
        and all(isinstance(counts, dict | None) for counts in result["phases"].values())
    )


def one_sided(before: list[Json], now: list[Json]) -> list[str]:
    """Results that only one of the two has, in words."""
    old, new = ([identity(result) for result in results] for results in (before, now))
    gone = [which for which in old if which not in new]
    come = [which for which in new if which not in old]
    return [
        f"only in {where}: {arch} {path} depth {depth}"
        for where, some in (("the base", gone), ("this run", come))
        for arch, path, depth in some
    ]


def changes(before: list[Json], now: list[Json]) -> list[Change]:
    """Every number that differs between results that both have, in the order of the results."""
    old = {identity(result): result for result in before}
    new = {identity(result): result for result in now}
    found = []
    for which in (which for which in old if which in new):
        a, b = dict(_numbers(old[which])), dict(_numbers(new[which]))
        for name in sorted(a.keys() | b.keys()):
            was, is_now = _value(name, a), _value(name, b)
            if was != is_now and not _told_in_parts(name, a, b):
                found.append(Change(*which, name, was, is_now))
    return found


def _value(name: str, numbers: Mapping[str, int | None]) -> int | None:
    """A count; where it is not listed: lacking if its phase is, else it never happened and is 0."""
    if name in numbers:
        return numbers[name]
    parts = name.split(".")
    above = (".".join(parts[:end]) for end in range(1, len(parts)))
    return None if any(prefix in numbers and numbers[prefix] is None for prefix in above) else 0


def _told_in_parts(name: str, a: Mapping[str, int | None], b: Mapping[str, int | None]) -> bool:
    """Whether `name` is a phase that one side lacks and the other lists count by count."""
    lacks = (name in a and a[name] is None) or (name in b and b[name] is None)
    return lacks and any(other.startswith(f"{name}.") for other in (*a, *b))


def other_scenario(before: Json, now: Json) -> list[str]:
    """The settings that differ between two comparisons: reasons for which their counts may."""
    a, b = (dict(_leaves(each.get("scenario", {}))) for each in (before, now))
    return [
        f"{name}: {json.dumps(a.get(name))} -> {json.dumps(b.get(name))}"
        for name in sorted(a.keys() | b.keys())
        if a.get(name) != b.get(name) and name != "name"
    ]


def verdicts(thresholds: tuple[Threshold, ...], results: list[Json]) -> list[Verdict]:
    """Judge every threshold on every architecture that has its path; one that none has fails."""
    found = []
    for threshold in thresholds:
        kind, path, rest = threshold.what.split(".", 2)
        judged = [
            Verdict(threshold, result["arch"], value_of(result, f"{kind}.{rest}"))
            for result in results
            if result["path"] == path
        ]
        found += judged or [Verdict(threshold, "any", None)]
    return found


def identity(result: Mapping[str, Any]) -> Identity:
    """What makes two results the same one."""
    return result["arch"], result["path"], result["depth"]


def _numbers(result: Mapping[str, Any]) -> Iterator[tuple[str, int | None]]:
    for part in COMPARED:
        numbers = result.get(part)
        for name, value in _leaves(numbers if isinstance(numbers, dict) else {}):
            if value is None or type(value) is int:
                yield f"{part}.{name}", value


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner
