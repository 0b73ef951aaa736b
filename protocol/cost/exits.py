"""An exit profile of somebody's own VM: how often it exits for which reason, in a second.

Three forms are read: what `perf kvm stat report` prints (it does not say how long it looked, so the seconds
have to be given), what `kvm_stat --csv` logs, and a plain table of REASON and exits in a second. Which exits
the machine's own hypervisor answers alone, whoever's guest it was, goes by the reason: interrupts of the
host. All others go to the guest's own hypervisor.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

PERF_HEAD = re.compile(r"VM-EXIT\s+Samples", re.IGNORECASE)
PERF_ROW = re.compile(r"^\s*(\S.*?)\s+(\d+)\s+\d+(?:\.\d+)?%\s+\d+(?:\.\d+)?%")
STAT_EXIT = re.compile(r"^kvm_exit\((.+)\)$|^exit_(\w+)$")
OWN = re.compile(
    r"external.?interrupt|^intr$|^nmi$|exception_nmi|preemption.?timer|host.?interrupt|^ioint$", re.IGNORECASE
)
LARGEST_RATE = 1e9
MOST_REASONS = 10_000
MOST_EXITS = 1e15  # of one reason in one interval


class BadProfile(ValueError):
    """A text that is no exit profile. The message says where and what is allowed."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Exits in a second, by reason, of the whole VM."""

    rates: Mapping[str, float]
    form: str

    @property
    def total(self) -> float:
        return sum(self.rates.values())

    @property
    def own_share(self) -> float:
        """The share that the machine's own hypervisor answers alone."""
        own = sum(rate for reason, rate in self.rates.items() if OWN.search(reason))
        return own / self.total if self.total else 0.0


def read(text: str, seconds: float | None = None) -> Profile:
    """The profile in a text. `seconds`: for how long `perf` looked. Raises BadProfile."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise BadProfile("nothing in it; allowed: perf kvm stat report, kvm_stat --csv, or REASON RATE lines")
    if PERF_HEAD.search(text):
        return Profile(_perf(text, seconds), "perf kvm stat report")
    if lines[0].lower().startswith("timestamp"):
        return Profile(_kvm_stat(lines), "kvm_stat --csv")
    return Profile(_plain(text), "table")


def _perf(text: str, seconds: float | None) -> Mapping[str, float]:
    if seconds is None or seconds <= 0:
        raise BadProfile("perf kvm stat does not say how long it looked: give the seconds")
    found: defaultdict[str, float] = defaultdict(float)
    for line in text.splitlines():
        row = PERF_ROW.match(line)
        if row:
            samples = float(row[2])  # of any length: a whole number would have a limit of its own
            if samples / seconds > LARGEST_RATE:
                raise BadProfile(f"{line[:60]!r}: more than {LARGEST_RATE:g} exits in a second")
            found[row[1]] += samples / seconds
    if not found:
        raise BadProfile("no row of exits below its heading")
    return dict(found)


def _kvm_stat(lines: list[str]) -> Mapping[str, float]:
    """Means over all intervals; an interval's length is the time between its line and the one before."""
    names = lines[0].split(",")[1:]
    sums = [0.0] * len(names)
    times = []
    for number, line in enumerate(lines[1:], 2):
        stamp, *values = line.split(",")
        try:
            at = datetime.fromisoformat(stamp.strip())
            times.append(at.replace(tzinfo=at.tzinfo or UTC))
            if len(values) != len(names) or not all(0 <= float(value or 0) <= MOST_EXITS for value in values):
                raise ValueError
            sums = [total + float(value or 0) for total, value in zip(sums, values, strict=True)]
        except ValueError:
            raise BadProfile(
                f"line {number}: {line[:60]!r}: allowed: a time and {len(names)} numbers"
            ) from None
    if not times:
        raise BadProfile("a heading and no line below it")
    span = (max(times) - min(times)).total_seconds()
    each = span / (len(times) - 1) if len(times) > 1 and span else 1.0
    looked = each * len(times)
    rates = {name: total / looked for name, total in zip(names, sums, strict=True) if total}
    detailed = {}
    for name, rate in rates.items():
        found = STAT_EXIT.match(name.strip())
        if found:
            detailed[found[1] or found[2]] = rate
    if detailed:
        return detailed
    for name, rate in rates.items():
        if name.strip() in ("kvm_exit", "exits", "kvm_s390_sie_exit", "exit_total"):
            return {"all": rate}
    raise BadProfile("no column of exits; allowed: kvm_exit, kvm_exit(REASON), exits")


def _plain(text: str) -> Mapping[str, float]:
    found: defaultdict[str, float] = defaultdict(float)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        *reason, last = line.replace(",", " ").split() or [""]
        try:
            rate = float(last)
        except ValueError:
            rate = -1.0
        if not reason or not 0 <= rate <= LARGEST_RATE:
            raise BadProfile(f"line {number}: {line[:60]!r}: allowed: REASON and exits in a second")
        found[" ".join(reason)] += rate
        if len(found) > MOST_REASONS:
            raise BadProfile(f"more than {MOST_REASONS} reasons")
    return dict(found)
