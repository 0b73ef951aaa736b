"""A scenario: everything that decides the counts of a comparison, as frozen values.

The fields carry their own bounds, units and help, so that the reader of scenario files, the printed plan and
the documentation say the same. Reading files, environment and flags is not done here; `fit` judges whether
the values go together.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

PATHS = ("direct", "nested", "hosted", "mixed")
ANSWERED_BY = ("kernel", "vmm")
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}
_THRESHOLD = re.compile(r"(<=|>=|==|<|>)\s*(-?\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a field accepts. `one_of` None with kind `word` or `words`: known to the architectures only."""

    kind: str  # whole | word | words | text | file | section | thresholds
    help: str = ""
    unit: str = ""
    low: int = 0
    high: int = 0
    one_of: tuple[str, ...] | None = None
    pattern: str = ""

    def allowed(self) -> str:
        """The accepted values, in words."""
        if self.kind == "whole":
            return f"a whole number, {self.low} to {self.high}" + (f" {self.unit}" if self.unit else "")
        if self.one_of is not None:
            listed = ", ".join(self.one_of)
            return f"a list of: {listed}" if self.kind == "words" else f"one of: {listed}"
        if self.kind == "words":
            return "a list of names"
        if self.kind == "section":
            return "a table of settings"
        if self.kind == "thresholds":
            return 'a table of "counts.PATH.NAME" or "load.PATH.FIGURE" = "< NUMBER"'
        return self.pattern_words() if self.kind == "word" else "a text"

    def pattern_words(self) -> str:
        return "1 to 64 of a-z, 0-9 and -" if self.pattern else "a name"


def _whole(default: int, low: int, high: int, help_: str, unit: str = "") -> Any:
    return field(default=default, metadata={"kind": Kind("whole", help_, unit, low, high)})


def _word(default: str, one_of: tuple[str, ...] | None, help_: str, pattern: str = "") -> Any:
    return field(default=default, metadata={"kind": Kind("word", help_, one_of=one_of, pattern=pattern)})


def _words(default: tuple[str, ...], one_of: tuple[str, ...] | None, help_: str) -> Any:
    return field(default=default, metadata={"kind": Kind("words", help_, one_of=one_of)})


_SECTION = {"kind": Kind("section")}


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine at the bottom: L0."""

    cpus: int = _whole(4, 1, 256, "physical CPUs of L0")


@dataclass(frozen=True, slots=True)
class GuestHosts:
    """The hosts whose guests are secure. At depth 2 to 4 the levels between are made large enough."""

    count: int = _whole(2, 1, 64, "hosts side by side")
    memory_mib: int = _whole(2200, 1, 65536, "memory of each host", "MiB")
    cpus: int = _whole(3, 1, 64, "CPUs of each host")


@dataclass(frozen=True, slots=True)
class Guests:
    """The secure guests, all alike."""

    per_l1: int = _whole(2, 1, 1024, "secure guests of each host")
    memory_mib: int = _whole(8, 1, 65536, "memory of each guest", "MiB")
    vcpus: int = _whole(2, 1, 256, "VCPUs of each guest")
    image_pages: int = _whole(64, 1, 16_777_216, "size of the image, made from the seed", "pages")
    image: str | None = field(
        default=None,
        metadata={"kind": Kind("file", "an image file to boot instead; relative to the scenario file")},
    )
    touch_pages: int = _whole(128, 0, 16_777_216, "pages the guest touches beyond its image", "pages")
    share_pages: int = _whole(
        16, 0, 16_777_216, "further pages the guest shares for its I/O at boot", "pages"
    )


@dataclass(frozen=True, slots=True)
class ExitKind:
    """One kind of exit in the mix of a running guest."""

    count: int = _whole(0, 0, 10_000_000, "exits of each guest, dealt to its VCPUs in turn", "exits")
    answered_by: str = _word("kernel", ANSWERED_BY, "who completes it in the host of the guest")


@dataclass(frozen=True, slots=True)
class Exits:
    """The exit mix of the run phase, for each guest."""

    # A queue's doorbell, answered by an event in the kernel.
    diag_notify: ExitKind = field(default_factory=partial(ExitKind, 100, "kernel"), metadata=_SECTION)
    # The other functions of the virtio hypercall.
    diag_500: ExitKind = field(default_factory=partial(ExitKind, 20, "vmm"), metadata=_SECTION)
    # Console and information requests.
    sclp: ExitKind = field(default_factory=partial(ExitKind, 10, "vmm"), metadata=_SECTION)
    # An enabled wait.
    wait: ExitKind = field(default_factory=partial(ExitKind, 50, "kernel"), metadata=_SECTION)

    def kinds(self) -> Iterator[tuple[str, ExitKind]]:
        """Yield (reason, kind) in the order of the fields, those that never happen left out."""
        for each in fields(self):
            kind: ExitKind = getattr(self, each.name)
            if kind.count:
                yield each.name, kind

    def total(self) -> int:
        """Exits of one guest."""
        return sum(kind.count for _, kind in self.kinds())


@dataclass(frozen=True, slots=True)
class Run:
    """What happens after the guests are up."""

    exits: Exits = field(default_factory=Exits, metadata=_SECTION)
    swap_pages: int = _whole(
        16, 0, 1_000_000, "private pages of each guest swapped out and in again", "pages"
    )
    level_swaps: int = _whole(
        0,
        0,
        1_000_000,
        "secure pages of each host that the level below swaps, unseen; then all are used",
        "pages",
    )
    page_changes: int = _whole(
        8, 0, 1_000_000, "changes between shared and private, for each guest", "changes"
    )
    attestations: int = _whole(0, 0, 10_000, "times that each guest proves to its owner what it is")
    secrets: int = _whole(0, 0, 10_000, "secrets of its owner that each guest hands over")
    resets: int = _whole(1, 0, 1000, "resets of each guest")
    dumps: int = _whole(0, 0, 1000, "dumps of each guest by its host, sealed for its owner")
    reboots: int = _whole(1, 0, 1000, "sudden reboots of hosts, dealt to them in turn")
    deaths: int = _whole(1, 0, 64, "hosts that die for good at the end, their guests running")


@dataclass(frozen=True, slots=True)
class Mix:
    """What requests of a load test are, by weight."""

    run: int = _whole(8, 0, 1000, "weight of: a guest makes the exits of run.exits")
    restart: int = _whole(1, 0, 1000, "weight of: a guest is destroyed, created, loaded and booted again")
    page_change: int = _whole(1, 0, 1000, "weight of: the changes between shared and private")
    swap: int = _whole(0, 0, 1000, "weight of: pages swapped out and in again")


@dataclass(frozen=True, slots=True)
class Load:
    """`nestbed load`: what comes when. A comparison does not look at it."""

    model: str = _word("open", ("open", "closed"), "requests come when they come, or when the last is over")
    arrivals: str = _word("poisson", ("poisson", "constant", "replay"), "open: times between requests")
    rate_per_min: int = _whole(600, 1, 1_000_000, "open: requests in a minute, on each path", "requests")
    ramp_s: int = _whole(0, 0, 3600, "open: from no request to the full rate", "s")
    clients: int = _whole(4, 1, 10_000, "closed: how many ask and wait", "clients")
    think_ms: int = _whole(
        100, 0, 3_600_000, "closed: mean time between an answer and the next request", "ms"
    )
    duration_s: int = _whole(2, 1, 86_400, "of a block", "s")
    pairs: int = _whole(4, 1, 1000, "blocks on each path; fewer than four have no verdict", "blocks")
    warm_up: str = _word("mser5", ("mser5", "none"), "rule that cuts the beginning of a block")
    mix: Mix = field(default_factory=Mix, metadata=_SECTION)


@dataclass(frozen=True, slots=True)
class Strategy:
    """How the level below a guest host emulates for it; and what a hosted guest does without its owner."""

    handles: str = _word("passed", ("passed", "mapped"), "real handles shown to the guest host, or own ones")
    donation: str = _word("full", ("full", "bounded", "off"), "what of the donated memory is taken away")
    pages: str = _word(
        "two_fault", ("two_fault", "merged_l1", "merged_l0", "prefault"), "how a first touch is resolved"
    )
    teardown: str = _word("sync", ("sync", "async"), "before the host reboots, or behind its back")
    owner_loss: str = _word("stop", ("stop", "linger"), "what becomes of hosted guests whose owner is gone")
    requests: str = _word(
        "relayed", ("relayed", "flat"), "hosted: each level passes them on, or L0 takes them from any level"
    )


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound. `what` is counts.PATH.NAME, phases.PATH.PHASE.NAME, or load.PATH.FIGURE of a load test."""

    what: str
    comparison: str
    bound: float

    def holds(self, value: float) -> bool:
        return COMPARISONS[self.comparison](value, self.bound)

    def text(self) -> str:
        return f"{self.comparison} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One comparison. Counts depend on this and on nothing else."""

    name: str = _word("default", None, "shown in reports", pattern="[a-z0-9][a-z0-9-]{0,63}")
    seed: int = _whole(1, 0, 2**63 - 1, "of everything that is drawn")
    arch: tuple[str, ...] = _words(("s390",), None, "architectures to run")
    paths: tuple[str, ...] = _words(("direct", "nested", "hosted"), PATHS, "ways to run a secure guest")
    depth: int = _whole(1, 1, 4, "level of the hosts whose guests are secure; the direct path is always 0")
    profile: str = _word("small", None, "sizes and limits of the Trusted Entity")
    fidelity: str = _word("call", ("call", "bulk"), "every page call by itself, or runs of them in one step")
    transport: str = _word(
        "memory",
        ("memory", "packed", "unix", "tcp"),
        "messages as they are, packed, over Unix sockets or TLS",
    )
    machine: Machine = field(default_factory=Machine, metadata=_SECTION)
    l1: GuestHosts = field(default_factory=GuestHosts, metadata=_SECTION)
    guest: Guests = field(default_factory=Guests, metadata=_SECTION)
    run: Run = field(default_factory=Run, metadata=_SECTION)
    strategy: Strategy = field(default_factory=Strategy, metadata=_SECTION)
    load: Load = field(default_factory=Load, metadata=_SECTION)
    thresholds: tuple[Threshold, ...] = field(
        default=(),
        metadata={
            "kind": Kind("thresholds", "bounds on counts or on load; one that breaks ends with exit code 99")
        },
    )


def parse_threshold(what: str, text: str) -> Threshold:
    """Return the bound that `text` ("< 100000") puts on `what`. Raises ValueError saying what is allowed."""
    found = _THRESHOLD.fullmatch(text.strip())
    if found is None:
        raise ValueError("one of < <= > >= == and a number")
    return Threshold(what, found[1], float(found[2]))


def kind_of(of: Any, name: str) -> Kind:
    """What field `name` of a scenario class or value accepts."""
    kind: Kind = next(each for each in fields(of) if each.name == name).metadata["kind"]
    return kind


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any, Kind]]:
    """Yield (dotted path, value, kind) of every setting, in the order in which they are declared."""
    for each in fields(value):
        kind: Kind = each.metadata["kind"]
        inner = getattr(value, each.name)
        if kind.kind == "section":
            yield from leaves(inner, f"{prefix}{each.name}.")
        else:
            yield f"{prefix}{each.name}", inner, kind


def as_dict(scenario: Scenario) -> dict[str, Any]:
    """The scenario as a table that can be written as JSON and read again."""
    tree: dict[str, Any] = {}
    for path, value, kind in leaves(scenario):
        *sections, name = path.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        if kind.kind == "thresholds":
            place[name] = {threshold.what: threshold.text() for threshold in value}
        else:
            place[name] = list(value) if isinstance(value, tuple) else value
    return tree
