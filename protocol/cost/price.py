"""Price counts: each count has rules that say what one of it costs, in entries of the table.

Exits are priced as they arrive at L0, every one of them, so the recursion of deeper levels is in the counts
and no multiplier is applied: logical messages with a factor for each level would be the other way, and
never both. What has no count has no price; `NOT_PRICED` names it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from protocol.cost.table import BASES, Costs
from protocol.ledger import FAMILIES

PAGE = 4096
LINE = 64  # bytes of one access to a guest host's memory
KIB = 1024
MOST = 5  # causes that are named
KICKED = 4  # VCPUs of the guest whose page removals gave the base price
NOT_PRICED = (
    "the guests' own time",
    "page faults inside the hosts' kernels",
    "starting and ending VMMs",
    "waiting: every resource is free when it is wanted",
    "L0's bringing up of the machine: once, whatever the path (`machine_setup`, where it was counted)",
)
HOST_SETUP = "host_setup"
# Read and written where they lie, by the line; whatever else is copied is copied by the page.
BLOCKS = (
    "block",
    "command",
    "guest_state_buffer",
    "hv_guest_state",
    "id_block",
    "scb",
    "se_header",
    "uvcb",
    "vmcb",
)

Labels = Mapping[str, str]
Amounts = Mapping[str, float]  # entry of the table -> how often it is paid
Names = Callable[[Labels], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one of a family costs: entries of the table, by its labels.

    `per` units of the count are one, and one is paid `times` times.
    """

    family: str
    names: Names
    per: int = 1
    times: int = 1


@dataclass(frozen=True, slots=True)
class Prices:
    """What an architecture adds to the rules of all: what its calls cost, by name.

    Calls that have to wait for every VCPU of the guest cost more the more it has: base + kick * VCPUs. The
    base was measured with `KICKED` of them, so it holds as many kicks.
    """

    group: str  # of the table
    calls: Mapping[str, tuple[str, ...]]  # call at the real Trusted Entity -> entries
    guest_calls: Mapping[str, tuple[str, ...]]  # calls that no hypervisor sees
    entry: str = "sie"  # the reason under which a guest host's guest entries arrive
    kicks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # call -> entries, for each VCPU
    pages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # what was done with a page -> entries
    vcpus: int = 1  # of each secure guest

    def of_guests_with(self, vcpus: int) -> Prices:
        """The same where guests have so many VCPUs."""
        return replace(self, vcpus=vcpus)


def rules(prices: Prices, guest_level: str) -> tuple[Rule, ...]:
    """Every rule; `guest_level` is that of the secure guests."""

    def exits(labels: Labels) -> Iterator[str]:
        yield "exit_l1_l0"
        if labels["to"] == "vmm":
            yield "exit_user_extra"
        if labels["from_level"] == guest_level and labels["reason"] != "vsock":  # those are of its owner
            yield "te_guest_exit_extra"
        if labels["reason"] == prices.entry:
            yield "shadow_sync"

    def updates(labels: Labels) -> tuple[str, ...]:
        return ({"create": "table_insert", "delete": "table_remove", "update": "table_lookup"}[labels["op"]],)

    def table_ops(labels: Labels) -> tuple[str, ...]:
        kinds = {"protect": "protect_page", "map": "table_insert", "unmap": "table_remove"}
        return (kinds.get(labels["op"], "table_lookup"),)

    def native(labels: Labels) -> tuple[str, ...]:
        return prices.guest_calls.get(labels["call"], ()) if labels["treatment"] == "native" else ()

    return (
        Rule("exits", exits),
        Rule("te_issued", lambda labels: prices.calls[labels["call"]]),
        Rule(
            "te_issued",
            lambda labels: prices.kicks.get(labels["call"], ()),
            times=max(0, prices.vcpus - KICKED),
        ),
        Rule("te_calls", native),
        Rule("pages", lambda labels: prices.pages.get(labels["op"], ())),
        Rule("translations", lambda _: ("translate_addr",)),
        Rule("lookups", lambda _: ("table_lookup",)),
        Rule("tracking_updates", updates),
        Rule("injections", lambda labels: () if labels["kind"] == "vsock" else ("inject_exception",)),
        Rule("table_ops", table_ops),
        Rule("copied_bytes", lambda labels: _copied(labels, "page"), per=PAGE),
        Rule("copied_bytes", lambda labels: _copied(labels, "line"), per=LINE),
        Rule("copied_bytes", lambda labels: _copied(labels, "kib"), per=KIB),
        Rule("hosting", lambda _: ("vsock_rtt", "broker_dispatch")),
    )


def _copied(labels: Labels, by: str) -> tuple[str, ...]:
    """Pages are copied, control blocks are accesses, and what travels to a broker travels over VSOCK."""
    what = labels["what"]
    if what == "hosting_image":
        return ("vsock_per_kib",) if by == "kib" else ()
    if what in BLOCKS:
        return ("l1_mem_access",) if by == "line" else ()
    return ("copy_page",) if by == "page" else ()


def priced(
    costs: Costs, prices: Prices, guest_level: int, phases: Mapping[str, Mapping[str, int] | None]
) -> dict[str, Any]:
    """Modelled time of a run: in all and by phase, with range; what it rests on; what most of it is."""
    by_phase = amounts(prices, guest_level, phases)
    total = added(each for each in by_phase.values() if each is not None)
    machine = _amounts(rules(prices, str(guest_level)), _machine_setup(phases))
    return {
        **span(costs, prices.group, total),
        "phases": {
            phase: None if each is None else span(costs, prices.group, each)
            for phase, each in by_phase.items()
        },
        "machine_setup": span(costs, prices.group, machine) if machine else None,
        "basis": basis(costs, prices.group, total),
        "most": _most(costs, prices.group, total),
        "not_priced": list(NOT_PRICED),
    }


def amounts(
    prices: Prices, guest_level: int, phases: Mapping[str, Mapping[str, int] | None]
) -> dict[str, Amounts | None]:
    """How often each entry of the table is paid, phase by phase; None where the path lacks the phase."""
    ruled = rules(prices, str(guest_level))
    machine = _machine_setup(phases)
    return {
        phase: None
        if counts is None
        else _amounts(ruled, {k: n for k, n in counts.items() if phase != HOST_SETUP or k not in machine})
        for phase, counts in phases.items()
    }


def added(parts: Iterable[Amounts]) -> Amounts:
    """Amounts of several phases together."""
    total: defaultdict[str, float] = defaultdict(float)
    for part in parts:
        for name, amount in part.items():
            total[name] += amount
    return dict(total)


def _machine_setup(phases: Mapping[str, Mapping[str, int] | None]) -> dict[str, int]:
    """What L0 asked of the real Trusted Entity while hosts came up: not all paths show it in their counts."""
    counts = phases.get(HOST_SETUP) or {}
    return {key: n for key, n in counts.items() if key.startswith("te_issued.") and key.endswith(".0")}


def _amounts(ruled: Sequence[Rule], counts: Mapping[str, int]) -> Amounts:
    found: defaultdict[str, float] = defaultdict(float)
    for rule in ruled:
        names = FAMILIES[rule.family][0]
        for labels, number in _labelled(counts, rule.family, names):
            for name in rule.names(labels) if rule.times else ():
                found[name] += number * rule.times / rule.per
    return dict(found)


def _labelled(counts: Mapping[str, int], family: str, names: Sequence[str]) -> Iterator[tuple[Labels, int]]:
    prefix = f"{family}."
    open_ended = names.index("reason") if "reason" in names else 0  # the one label that may hold dots
    for key, number in counts.items():
        if not key.startswith(prefix):
            continue
        parts = key[len(prefix) :].split(".")
        more = len(parts) - len(names)
        middle = ".".join(parts[open_ended : open_ended + more + 1])
        labels = (*parts[:open_ended], middle, *parts[open_ended + more + 1 :])
        yield dict(zip(names, labels, strict=True)), number


def span(costs: Costs, group: str, paid_for: Amounts) -> dict[str, int]:
    """The sum at the values, at the lower and at the upper bounds. Whole nanoseconds."""
    sums = {"ns": 0.0, "low_ns": 0.0, "high_ns": 0.0}
    for name, amount in paid_for.items():
        cost = costs.of(group, name)
        sums["ns"] += amount * cost.value
        sums["low_ns"] += amount * cost.low
        sums["high_ns"] += amount * cost.high
    return {name: round(value) for name, value in sums.items()}


def basis(costs: Costs, group: str, paid_for: Amounts) -> dict[str, float]:
    """Which share of the sum is measured, derived from measurements, assumed."""
    found = dict.fromkeys(BASES, 0.0)
    for name, amount in paid_for.items():
        cost = costs.of(group, name)
        found[cost.basis] += amount * cost.value
    whole = sum(found.values())
    return {basis: round(value / whole, 4) if whole else 0.0 for basis, value in found.items()}


def _most(costs: Costs, group: str, paid_for: Amounts) -> list[dict[str, Any]]:
    """The entries that make most of the sum, and how far each could move it."""
    paid = {name: amount * costs.of(group, name).value for name, amount in paid_for.items()}
    whole = sum(paid.values()) or 1.0
    found = []
    for name in sorted(paid, key=lambda name: (-paid[name], name))[:MOST]:
        cost, amount = costs.of(group, name), paid_for[name]
        found.append(
            {
                "cost": name,
                "share": round(paid[name] / whole, 4),
                "basis": cost.basis,
                "low_ns": round(amount * cost.low),
                "high_ns": round(amount * cost.high),
            }
        )
    return found
