"""From a scenario and a path to what every host does, in which phase, in which order. Nothing is drawn later.

The plan is the same on every path as far as the path can do it: the same guests with the same pages,
touched in the same order, the same exits, the same events before the same operations. Phases are barriers:
all hosts finish one before any begins the next, so that a count belongs to one phase and no count depends
on the order between hosts. What a path lacks is named with its reason, and is None in its result, never 0.

Events that need running guests come after the orderly destruction of all: the hosts that they meet fill up
again first, in a phase of its own (`refill`), so that what an event costs stands alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES, PHASES
from protocol.plan.scenario import Scenario

REFILL = "refill"
LEVEL_SWAP = "level_swap"
ORDER = PHASES
DIRECT, NESTED, HOSTED, MIXED = "direct", "nested", "hosted", "mixed"

_NO_LEVEL_SWAP = {
    DIRECT: "nothing is below L0 that could swap under it",
    HOSTED: "the guests are L0's own: it swaps them as in swap",
    MIXED: "the nested path shows what it takes; here it would meet every second guest",
}

Act = op.Operation | op.Event


@dataclass(frozen=True, slots=True)
class HostPlan:
    """One host: what it does in each phase, and which of its guests it has L0 run for it."""

    number: int
    guests: tuple[int, ...]
    hosted: frozenset[int]
    phases: Mapping[str, tuple[Act, ...]]


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything that happens on one path."""

    path: str
    hosts: tuple[HostPlan, ...]
    absent: Mapping[str, str]  # phase -> why this path has none

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases in which something happens, in order."""
        return tuple(name for name in ORDER if any(host.phases.get(name) for host in self.hosts))

    def without(self, lacking: Mapping[str, str]) -> Workload:
        """The same for an architecture that has not all phases: it lacks these, each for its reason.

        What nobody asked for is no news, and not named.
        """
        lacking = {name: why for name, why in lacking.items() if name in self.phases}
        hosts = tuple(
            replace(host, phases={name: acts for name, acts in host.phases.items() if name not in lacking})
            for host in self.hosts
        )
        return replace(self, hosts=hosts, absent={**self.absent, **lacking})


def workload(scenario: Scenario, path: str) -> Workload:
    """The plan of `scenario` on `path`."""
    hosts = tuple(_host(scenario, path, number) for number in range(scenario.l1.count))
    absent = {}
    if scenario.run.level_swaps and path != NESTED:
        absent[LEVEL_SWAP] = _NO_LEVEL_SWAP[path]
    if path == DIRECT:
        absent["owner_reboot"] = "L0 owns its guests: its reboot is the machine's"
        absent["host_teardown"] = "L0 owns its guests: its end is the machine's"
        for name in (REFILL, "refill_again"):
            absent[name] = "L0 owns its guests: they have no owner that goes away, so none come again"
    return Workload(path, hosts, absent)


def _host(scenario: Scenario, path: str, number: int) -> HostPlan:
    guests = tuple(range(number * scenario.guest.per_l1, (number + 1) * scenario.guest.per_l1))
    plan: dict[str, tuple[Act, ...]] = {"host_setup": (op.BootHost(),)}
    plan["create"] = tuple(_create(scenario, guest) for guest in guests)
    plan["load"] = tuple(op.Load(guest) for guest in guests)
    plan["boot"] = tuple(act for guest in guests for act in _boot(scenario, guest))
    plan["attest"] = tuple(act for guest in guests for act in _attestations(scenario, guest))
    plan["secret"] = tuple(act for guest in guests for act in _secrets(scenario, guest))
    plan["run"] = tuple(act for guest in guests for act in _run(scenario, guest))
    plan["page_change"] = tuple(act for guest in guests for act in _changes(scenario, guest))
    plan["swap"] = tuple(act for guest in guests for act in _swap(scenario, guest))
    if path == NESTED and scenario.run.level_swaps:
        plan[LEVEL_SWAP] = tuple(_level_swap(scenario, number, guests))
    plan["reset"] = tuple(
        op.Reset(guest, clear=round_ % 2 == 0) for guest in guests for round_ in range(scenario.run.resets)
    )
    plan["dump"] = tuple(op.Dump(guest) for guest in guests for _ in range(scenario.run.dumps))
    plan["destroy"] = tuple(op.Destroy(guest) for guest in guests)
    if path != DIRECT:
        plan |= _events(scenario, number, guests)
    return HostPlan(number, guests, _hosted(path, guests), plan)


def _hosted(path: str, guests: tuple[int, ...]) -> frozenset[int]:
    """Mixed: every second guest, counted through all hosts."""
    if path == HOSTED:
        return frozenset(guests)
    return frozenset(guest for guest in guests if guest % 2) if path == MIXED else frozenset()


def _events(scenario: Scenario, number: int, guests: tuple[int, ...]) -> dict[str, tuple[Act, ...]]:
    """Reboots are dealt to the hosts in turn; the last hosts are those that die."""
    count, run = scenario.l1.count, scenario.run
    reboots = len(range(number, run.reboots, count))
    dies = number >= count - run.deaths
    full = tuple(act for guest in guests for act in _fill(scenario, guest))
    plan: dict[str, tuple[Act, ...]] = {}
    if reboots or dies:
        plan[REFILL] = full
    if reboots:
        again = (op.Reboot(), op.BootHost())
        plan["owner_reboot"] = again + (full + again) * (reboots - 1)
        if dies:
            plan["refill_again"] = full
    plan["host_teardown"] = (op.Death(),) if dies else (op.Shutdown(),)
    return plan


def _fill(scenario: Scenario, guest: int) -> Iterator[Act]:
    yield _create(scenario, guest)
    yield op.Load(guest)
    yield from _boot(scenario, guest)


def _create(scenario: Scenario, guest: int) -> op.Create:
    return op.Create(guest, scenario.guest.memory_mib, scenario.guest.vcpus)


# -- what a guest does ------------------------------------------------------------------------------------


def _stream(scenario: Scenario, *names: object) -> int:
    """A seed of its own for each purpose: one more draw here moves nothing there."""
    text = ":".join(map(str, (scenario.seed, *names)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _dealt(count: int, vcpus: int) -> Iterator[tuple[int, int, int]]:
    """Yield (VCPU, first, how many): `count` things dealt to the VCPUs, as evenly as it goes."""
    first = 0
    for vcpu in range(vcpus):
        share = (count - vcpu + vcpus - 1) // vcpus
        if share:
            yield vcpu, first, share
        first += share


def _touched(scenario: Scenario) -> int:
    """The first page that is not of the image."""
    return FIRST_PAGES + scenario.guest.image_pages


def _boot(scenario: Scenario, guest: int) -> Iterator[Act]:
    """Start; each VCPU touches its pages in an order of its own; then the I/O buffers are shared."""
    wanted = scenario.guest
    yield op.Start(guest)
    first = _touched(scenario)
    for vcpu, start, share in _dealt(wanted.touch_pages, wanted.vcpus):
        seed = _stream(scenario, "touch", guest, vcpu)
        yield op.Touch(guest, vcpu, op.Pages(first + start, share, share, seed))
    if wanted.share_pages:
        yield op.Share(guest, 0, op.Pages(_shared(scenario), wanted.share_pages, wanted.share_pages))


def _shared(scenario: Scenario) -> int:
    """The first page of the I/O buffers: behind what is touched."""
    return _touched(scenario) + scenario.guest.touch_pages


def _attestations(scenario: Scenario, guest: int) -> Iterator[Act]:
    for number in range(scenario.run.attestations):
        yield op.Attest(guest, number % scenario.guest.vcpus, number)


def _secrets(scenario: Scenario, guest: int) -> Iterator[Act]:
    for number in range(scenario.run.secrets):
        yield op.AddSecret(guest, number % scenario.guest.vcpus, number)


def _run(scenario: Scenario, guest: int) -> Iterator[Act]:
    for reason, kind in scenario.run.exits.kinds():
        for vcpu, _, share in _dealt(kind.count, scenario.guest.vcpus):
            yield op.Exits(guest, vcpu, reason, kind.answered_by, share)


def _changes(scenario: Scenario, guest: int) -> Iterator[Act]:
    """Pages of the I/O buffers, in turn: taken back, then given again; every fourth first ends an I/O."""
    buffers = scenario.guest.share_pages
    for number in range(scenario.run.page_changes):
        page, shared = _shared(scenario) + number // 2 % buffers, bool(number % 2)
        vcpu = number % scenario.guest.vcpus
        yield op.Change(guest, vcpu, page, shared, busy=not shared and number % 8 == 0)


def _swap(scenario: Scenario, guest: int) -> Iterator[Act]:
    """Of the image and the touched pages, in an order that is drawn."""
    if scenario.run.swap_pages:
        span = scenario.guest.image_pages + scenario.guest.touch_pages
        seed = _stream(scenario, "swap", guest)
        yield op.Swap(guest, 0, op.Pages(FIRST_PAGES, span, scenario.run.swap_pages, seed))


def _level_swap(scenario: Scenario, host: int, guests: tuple[int, ...]) -> Iterator[Act]:
    """The level below swaps pages of the host's guests; then these use all that they have."""
    yield op.LevelSwap(scenario.run.level_swaps, _stream(scenario, "level_swap", host))
    span = scenario.guest.image_pages + scenario.guest.touch_pages
    for guest in guests:
        for vcpu, start, share in _dealt(span, scenario.guest.vcpus):
            yield op.Touch(guest, vcpu, op.Pages(FIRST_PAGES + start, share, share))
