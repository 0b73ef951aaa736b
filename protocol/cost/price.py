"""Price counts: each count has rules that say what one of it costs, in entries of the table.

Exits are priced as they arrive at L0, every one of them, so the recursion of deeper levels is in the counts
and no multiplier is applied: logical messages with a factor for each level would be the other way, and
never both. What has no count has no price; `NOT_PRICED` names it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.cost.table import BASES, Costs
from protocol.ledger import FAMILIES

PAGE = 4096
LINE = 64  # bytes of one access to a guest host's memory
KIB = 1024
MOST = 5  # causes that are named
NOT_PRICED = (
    "the guests' own time",
    "page faults inside the hosts' kernels",
    "starting and ending VMMs",
    "waiting: every resource is free when it is wanted",
)

Labels = Mapping[str, str]
Names = Callable[[Labels], Iterable[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one of a family costs: entries of the table, by its labels. `per` units of the count are one."""

    family: str
    names: Names
    per: int = 1


@dataclass(frozen=True, slots=True)
class Prices:
    """What an architecture adds to the rules of all: what its calls cost, by name."""

    group: str  # of the table
    calls: Mapping[str, tuple[str, ...]]  # call at the real Trusted Entity -> entries
    guest_calls: Mapping[str, tuple[str, ...]]  # calls that no hypervisor sees
    entry: str = "sie"  # the reason under which a guest host's guest entries arrive


def rules(prices: Prices, guest_level: str) -> tuple[Rule, ...]:
    """Every rule; `guest_level` is that of the secure guests."""

    def exits(labels: Labels) -> Iterator[str]:
        yield "exit_l1_l0"
        if labels["to"] == "vmm":
            yield "exit_user_extra"
        if labels["from_level"] == guest_level:
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
        Rule("te_calls", native),
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
    if what in ("uvcb", "scb", "block", "vmcb"):
        return ("l1_mem_access",) if by == "line" else ()
    return ("copy_page",) if by == "page" else ()


def priced(
    costs: Costs, prices: Prices, guest_level: int, phases: Mapping[str, Mapping[str, int] | None]
) -> dict[str, Any]:
    """Modelled time of a run: in all and by phase, with range; what it rests on; what most of it is."""
    ruled = rules(prices, str(guest_level))
    total: defaultdict[str, float] = defaultdict(float)
    by_phase: dict[str, dict[str, int] | None] = {}
    for phase, counts in phases.items():
        if counts is None:
            by_phase[phase] = None
            continue
        amounts = _amounts(ruled, counts)
        by_phase[phase] = _span(costs, prices.group, amounts)
        for name, amount in amounts.items():
            total[name] += amount
    return {
        **_span(costs, prices.group, total),
        "phases": by_phase,
        "basis": _basis(costs, prices.group, total),
        "most": _most(costs, prices.group, total),
        "not_priced": list(NOT_PRICED),
    }


def _amounts(ruled: Sequence[Rule], counts: Mapping[str, int]) -> dict[str, float]:
    """How often each entry of the table is paid."""
    found: defaultdict[str, float] = defaultdict(float)
    for rule in ruled:
        names = FAMILIES[rule.family][0]
        for labels, number in _labelled(counts, rule.family, names):
            for name in rule.names(labels):
                found[name] += number / rule.per
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


def _span(costs: Costs, group: str, amounts: Mapping[str, float]) -> dict[str, int]:
    """The sum at the values, at the lower and at the upper bounds. Whole nanoseconds."""
    sums = {"ns": 0.0, "low_ns": 0.0, "high_ns": 0.0}
    for name, amount in amounts.items():
        cost = costs.of(group, name)
        sums["ns"] += amount * cost.value
        sums["low_ns"] += amount * cost.low
        sums["high_ns"] += amount * cost.high
    return {name: round(value) for name, value in sums.items()}


def _basis(costs: Costs, group: str, amounts: Mapping[str, float]) -> dict[str, float]:
    """Which share of the sum is measured, derived from measurements, assumed."""
    found = dict.fromkeys(BASES, 0.0)
    for name, amount in amounts.items():
        cost = costs.of(group, name)
        found[cost.basis] += amount * cost.value
    whole = sum(found.values())
    return {basis: round(value / whole, 4) if whole else 0.0 for basis, value in found.items()}


def _most(costs: Costs, group: str, amounts: Mapping[str, float]) -> list[dict[str, Any]]:
    """The entries that make most of the sum, and how far each could move it."""
    paid = {name: amount * costs.of(group, name).value for name, amount in amounts.items()}
    whole = sum(paid.values()) or 1.0
    found = []
    for name in sorted(paid, key=lambda name: (-paid[name], name))[:MOST]:
        cost, amount = costs.of(group, name), amounts[name]
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
