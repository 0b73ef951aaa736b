"""Whether the values of a scenario go together, and fit what the architecture's profile allows.

Each value by itself has been looked at before. All mistakes are found, not the first one only: a person mends
a file once. What an architecture needs and allows, its profile says itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from protocol.ledger import FAMILIES
from protocol.plan.scenario import Guests, Scenario, Threshold, leaves

MIB = 1 << 20
PAGE = 4096
PAGES_PER_MIB = MIB // PAGE
FIRST_PAGES = 16  # guest pages below 64 KiB: prefix pages and what a loader keeps free

PAGE_CALLS = 5_000_000  # of one path, each by itself; more take minutes and belong to bulk
EXITS = 20_000_000  # of one path
IMAGE_PAGES = 262_144  # 1 GiB; an image is built and kept in memory, and real ones have a tenth of that
MEMORY_MIB = 4 << 20  # of all hosts together: their page tables are real

PHASES = (
    "host_setup",
    "create",
    "load",
    "boot",
    "attest",
    "secret",
    "run",
    "page_change",
    "swap",
    "level_swap",
    "reset",
    "dump",
    "destroy",
    "refill",
    "owner_reboot",
    "refill_again",
    "host_teardown",
)  # in the order in which they run


FIGURES = ("mean_ms", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms", "rate_per_s", "errors")  # of load


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: where, what stands there, what may stand there, perhaps what was meant."""

    path: str
    value: object
    allowed: str
    hint: str = ""
    needs: tuple[str, ...] = field(default=(), compare=False)  # other settings that it was judged by


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that a profile allows of a setting, of what that is so many, and the least."""

    path: str
    most: int
    what: str
    least: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """Something of which a host has so much, and each of its guests takes a part: no memory of its own."""

    most: int
    of_a_guest: int
    what: str


class Profile(Protocol):
    """A profile of an architecture. What a host donates, and where that lies, is its own affair.

    One more method is optional: `rooms(guest)` lists every `Room` that guests take beside memory.
    """

    @property
    def name(self) -> str: ...

    def limits(self) -> Iterable[Limit]:
        """What one host may have."""
        ...

    def host_least_mib(self) -> tuple[int, str]:
        """Memory without which a host does not come up, and why."""
        ...

    def host_needs_mib(self, guests: int, guest_mib: int, vcpus: int) -> int:
        """Memory that a host with so many guests needs, with all that it donates for them."""
        ...

    def refuses(self, path: str, value: str) -> str:
        """Why the architecture cannot have this choice of a strategy; nothing if it can."""
        ...


def mistakes(scenario: Scenario, profiles: Mapping[str, Profile]) -> list[Mistake]:
    """What does not go together; `profiles` is the chosen profile of each architecture, by its name."""
    found = [*_pages(scenario), *_events(scenario), *_sizes(scenario), *_thresholds(scenario)]
    for profile in profiles.values():
        found += _profile(scenario, profile)
    return list(dict.fromkeys(found))  # two architectures may find the same


def _pages(scenario: Scenario) -> Iterator[Mistake]:
    guest, run = scenario.guest, scenario.run
    sizes = ("guest.memory_mib", "guest.image_pages", "guest.image")
    pages = guest.memory_mib * PAGES_PER_MIB - FIRST_PAGES
    room = pages - guest.image_pages
    if room < 0:
        what, value = (
            ("guest.image", guest.image) if guest.image else ("guest.image_pages", guest.image_pages)
        )
        yield Mistake(
            what,
            value,
            f"at most {pages} pages: guest.memory_mib = {guest.memory_mib} but for the first {FIRST_PAGES}",
            f"it has {guest.image_pages}",
            sizes,
        )
    elif guest.touch_pages + guest.share_pages > room:
        yield Mistake(
            "guest.touch_pages + guest.share_pages",
            guest.touch_pages + guest.share_pages,
            f"at most {room} pages: what guest.memory_mib = {guest.memory_mib} leaves beyond the image",
            needs=(*sizes, "guest.touch_pages", "guest.share_pages"),
        )
    private = guest.image_pages + guest.touch_pages
    if run.swap_pages > private:
        yield Mistake(
            "run.swap_pages",
            run.swap_pages,
            f"at most {private}: the image and the touched pages",
            needs=(*sizes, "guest.touch_pages", "run.swap_pages"),
        )
    held = guest.per_l1 * private
    if run.level_swaps > held:
        yield Mistake(
            "run.level_swaps",
            run.level_swaps,
            f"at most {held}: the image and the touched pages of guest.per_l1 = {guest.per_l1} guests",
            needs=(*sizes, "guest.touch_pages", "guest.per_l1", "run.level_swaps"),
        )
    if run.page_changes and not guest.share_pages:
        yield Mistake(
            "run.page_changes",
            run.page_changes,
            "0 while guest.share_pages = 0: only such pages change",
            needs=("run.page_changes", "guest.share_pages"),
        )


def _events(scenario: Scenario) -> Iterator[Mistake]:
    if scenario.strategy.owner_loss == "linger":
        yield Mistake(
            "strategy.owner_loss",
            "linger",
            "stop",
            "guests that outlive their owner are a question of their own, and no row of a comparison yet",
            ("strategy.owner_loss",),
        )
    if scenario.run.deaths > scenario.l1.count:
        yield Mistake(
            "run.deaths",
            scenario.run.deaths,
            f"at most l1.count = {scenario.l1.count}: a host dies once",
            needs=("run.deaths", "l1.count"),
        )
    if "mixed" in scenario.paths and scenario.l1.count * scenario.guest.per_l1 < 2:
        yield Mistake(
            "paths",
            "mixed",
            "at least two guests in all (l1.count, guest.per_l1): one of each kind",
            needs=("paths", "l1.count", "guest.per_l1"),
        )


def _sizes(scenario: Scenario) -> Iterator[Mistake]:
    guest, run = scenario.guest, scenario.run
    guests = scenario.l1.count * guest.per_l1
    if guest.image_pages > IMAGE_PAGES:
        yield Mistake(
            "guest.image" if guest.image else "guest.image_pages",
            guest.image or guest.image_pages,
            f"at most {IMAGE_PAGES} pages: an image is kept in memory",
            f"it has {guest.image_pages}",
            ("guest.image_pages", "guest.image"),
        )
    rounds = 1 + run.resets + run.reboots  # each may load and touch everything again
    calls = guests * rounds * (guest.image_pages + guest.touch_pages + guest.share_pages)
    calls += guests * (2 * run.swap_pages + run.page_changes) + 2 * scenario.l1.count * run.level_swaps
    calls += guests * run.dumps * (guest.memory_mib + 3 * (guest.image_pages + guest.touch_pages))
    if scenario.fidelity == "call" and calls > PAGE_CALLS:
        yield Mistake(
            "fidelity",
            "call",
            f"bulk for more than {PAGE_CALLS} page calls on a path; here up to {calls}",
            needs=("fidelity", "l1", "guest", "run"),
        )
    exits = guests * run.exits.total()
    if exits > EXITS:
        yield Mistake(
            "run.exits",
            exits,
            f"at most {EXITS} in all guests of a path together",
            needs=("run.exits", "l1.count", "guest.per_l1"),
        )
    memory = scenario.l1.count * scenario.l1.memory_mib
    if memory > MEMORY_MIB:
        yield Mistake("l1.count * l1.memory_mib", memory, f"at most {MEMORY_MIB} MiB", needs=("l1",))


def _profile(scenario: Scenario, profile: Profile) -> Iterator[Mistake]:
    guest, l1 = scenario.guest, scenario.l1
    values = {path: value for path, value, _ in leaves(scenario)}
    for limit in profile.limits():
        if values[limit.path] > limit.most:
            allowed = f"at most {limit.most}: {limit.what} in profile {profile.name}"
            yield Mistake(limit.path, values[limit.path], allowed, needs=(limit.path, "profile"))
        if values[limit.path] < limit.least:
            allowed = f"at least {limit.least}: {limit.what} in profile {profile.name}"
            yield Mistake(limit.path, values[limit.path], allowed, needs=(limit.path, "profile"))
    yield from _refused(scenario, profile)
    least, why = profile.host_least_mib()
    if l1.memory_mib < least:
        yield Mistake(
            "l1.memory_mib",
            l1.memory_mib,
            f"at least {least} MiB in profile {profile.name}: {why}",
            needs=("l1.memory_mib", "profile"),
        )
        return
    needed = profile.host_needs_mib(guest.per_l1, guest.memory_mib, guest.vcpus)
    if needed > l1.memory_mib:
        yield Mistake(
            "guest.per_l1 * guest.memory_mib",
            f"{guest.per_l1} * {guest.memory_mib} MiB",
            f"what fits l1.memory_mib = {l1.memory_mib}; with what the host donates this needs {needed} MiB",
            needs=("l1.memory_mib", "guest.per_l1", "guest.memory_mib", "guest.vcpus", "profile"),
        )

    yield from _other_room(scenario, profile)


def _other_room(scenario: Scenario, profile: Profile) -> Iterator[Mistake]:
    """Room that guests take beside their host's memory, where an architecture has such: see `Room`."""
    guest = scenario.guest
    rooms: Callable[[Guests], Iterable[Room]] = getattr(profile, "rooms", lambda guest: ())
    for room in rooms(guest):
        if guest.per_l1 * room.of_a_guest > room.most:
            yield Mistake(
                "guest.per_l1 * guest.memory_mib",
                f"{guest.per_l1} * {guest.memory_mib} MiB",
                f"what fits {room.most} {room.what} of a host in profile {profile.name}; "
                f"a guest takes {room.of_a_guest}",
                needs=("guest.per_l1", "guest.memory_mib", "guest.image_pages", "guest.image", "profile"),
            )


def _refused(scenario: Scenario, profile: Profile) -> Iterator[Mistake]:
    """Choices that the architecture cannot have, strategies and others, each with its reason."""
    for path, value, kind in leaves(scenario):
        if kind.one_of is None or path.startswith("run."):
            continue
        for word in (value,) if kind.kind == "word" else value:
            why = profile.refuses(path, word)
            if why:
                rest = [other for other in kind.one_of if not profile.refuses(path, other)]
                yield Mistake(path, word, f"one of: {', '.join(rest)}", why, needs=(path, "profile"))


def _thresholds(scenario: Scenario) -> Iterator[Mistake]:
    for threshold in scenario.thresholds:
        wrong = _threshold(scenario, threshold)
        if wrong:
            yield Mistake(f'thresholds."{threshold.what}"', threshold.text(), wrong, needs=("paths",))


def _threshold(scenario: Scenario, threshold: Threshold) -> str:
    """What is allowed where the name of `threshold` is not, else nothing."""
    parts = threshold.what.split(".")
    least = {"counts": 3, "phases": 4, "load": 3}.get(parts[0])
    if least is None or len(parts) < least:
        return "counts.PATH.NAME, phases.PATH.PHASE.NAME or load.PATH.FIGURE"
    if parts[1] not in scenario.paths:
        return f"a path that runs: {', '.join(scenario.paths)}"
    if parts[0] == "load":
        return "" if parts[2:] in ([name] for name in FIGURES) else f"a figure: {', '.join(FIGURES)}"
    if parts[0] == "phases" and parts[2] not in PHASES:
        return f"a phase: {', '.join(PHASES)}"
    if parts[least - 1] not in FAMILIES:
        return f"a count: {', '.join(FAMILIES)}"
    return ""
