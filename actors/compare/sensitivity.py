"""What the answer of a comparison rests on: which cost moves it most, which could turn it, from where on.

Asked for each architecture that ran nested and hosted: how many times what a guest's life costs hosted does
it cost nested, in modelled time, over the phases that both paths have and without the set-up of hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.compare.answer import duration
from actors.compare.breakeven import LIFE_OF_A_GUEST, ONCE_PER_GUEST
from actors.compare.outcome import Json
from protocol.arch.contract import Architecture
from protocol.cost.price import HOST_SETUP, Amounts, Prices, added, amounts
from protocol.cost.sensitivity import Balance, Share, Turn, drawn, sobol, tornado
from protocol.cost.surface import Parts, surface
from protocol.cost.table import Costs

PATHS = ("nested", "hosted")
SHOWN = 8  # costs, most important first
DRAWS = 4096
BAND = (5, 95)


def sensitivity(
    costs: Costs, scenario: Mapping[str, Any], arch: Architecture, results: Sequence[Json]
) -> Json | None:
    """Everything about one architecture; None where it did not run on both paths."""
    paths = {result["path"]: result for result in results if result["arch"] == arch.name}
    if arch.comparison is None or not all(path in paths for path in PATHS):
        return None
    prices: Prices = arch.comparison.prices.of_guests_with(scenario["guest"]["vcpus"])
    found = {path: amounts(prices, guest_level(paths[path]), paths[path]["phases"]) for path in PATHS}
    common = [
        phase for phase in LIFE_OF_A_GUEST if all(found[path].get(phase, {}) is not None for path in PATHS)
    ]
    nested, hosted = (_life(found[path], common) for path in PATHS)
    return {
        "question": "modelled time of the guests' lives, nested to hosted",
        "phases": common,
        **_judged(Balance(costs, prices.group, nested, hosted), int(scenario["seed"])),
        "surface": _surface(costs, prices, scenario, found, int(scenario["seed"])),
    }


def guest_level(result: Json) -> int:
    """Level of the secure guests of a path."""
    return int(result["depth"]) + 1 if result["path"] == "nested" else 1


def _judged(balance: Balance, seed: int) -> Json:
    """The ratio with what it depends on."""
    random = np.random.default_rng(seed)
    base = np.array([[cost.value for cost in balance.costs]])
    rows = drawn(balance.costs, DRAWS, random)
    ratios = balance.ratio(rows)
    low, high = np.percentile(ratios, BAND)
    ratio = float(balance.ratio(base)[0])
    turns = balance.turns()
    return {
        "ratio": short(ratio),
        "low": short(float(low)),
        "high": short(float(high)),
        "agree": short(float(np.mean((ratios > 1) == (ratio > 1)))),
        "certain": balance.certain,
        "flips": [_turn(turn) for turn in turns if turn.possible],
        "nearest": _turn(turns[0]) if turns else None,
        "tornado": [
            {
                "cost": bar.cost.name,
                "basis": bar.cost.basis,
                "low": short(bar.at_low),
                "high": short(bar.at_high),
            }
            for bar in tornado(balance.costs, balance.ratio)[:SHOWN]
        ],
        "sobol": [_share(share) for share in sobol(balance.costs, balance.ratio, random)[:SHOWN]],
    }


def _turn(turn: Turn) -> Json:
    cost = turn.cost
    return {
        "cost": cost.name,
        "basis": cost.basis,
        "value_ns": short(cost.value),
        "low_ns": short(cost.low),
        "high_ns": short(cost.high),
        "turns_at_ns": short(turn.at),
    }


def _share(share: Share) -> Json:
    return {
        "cost": share.cost.name,
        "basis": share.cost.basis,
        "first": round(share.first, 3),
        "total": round(share.total, 3),
    }


def _surface(
    costs: Costs,
    prices: Prices,
    scenario: Mapping[str, Any],
    found: Mapping[str, Mapping[str, Amounts | None]],
    seed: int,
) -> list[Json]:
    """Break-even by guests of a host and lifetime; nothing where the scenario's guests make no exit."""
    hosts = scenario["l1"]["count"]
    guests = hosts * scenario["guest"]["per_l1"]
    exits = guests * sum(kind["count"] for kind in scenario["run"]["exits"].values())
    if not exits:
        return []

    def parts(phases: Mapping[str, Amounts | None]) -> Parts:
        return Parts(
            host=divided(_life(phases, (HOST_SETUP,)), hosts),
            guest=divided(_life(phases, ONCE_PER_GUEST), guests),
            exit=divided(_life(phases, ("run",)), exits),
        )

    rows = surface(
        costs, prices.group, parts(found["nested"]), parts(found["hosted"]), np.random.default_rng(seed)
    )
    return [{name: short(value) for name, value in row.items()} for row in rows]


def _life(phases: Mapping[str, Amounts | None], wanted: Iterable[str]) -> Amounts:
    return added(found for phase in wanted if (found := phases.get(phase)) is not None)


def divided(amount: Amounts, by: int) -> Amounts:
    """The share of one of `by`."""
    return {name: value / by for name, value in amount.items()}


def short(value: Any) -> Any:
    """A number with six digits that matter, so that no machine's last bit shows. Infinity is None."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if np.isfinite(value) else None


# -- in words ----------------------------------------------


def said(found: Json) -> list[str]:
    """The sentences that a person reads first."""
    dearer = "nesting" if found["ratio"] > 1 else "hosting"
    first = (
        f"a guest's life nested takes {found['ratio']:.2f} times what it takes hosted ({_range(found)} over "
        f"the costs' ranges); in {found['agree']:.0%} of the draws {dearer} takes longer"
    )
    lines = [first]
    if found["certain"]:
        lines.append("no choice of costs within their ranges turns that round")
    elif found["flips"]:
        lines += [f"could turn it round by itself: {_turning(turn)}" for turn in found["flips"][:3]]
    else:
        lines.append("no single cost within its range turns that round; several together could")
        if found["nearest"]:
            lines.append(f"nearest to it: {_turning(found['nearest'])}")
    if found["sobol"]:
        shares = ", ".join(
            f"{each['cost']} {each['total']:.0%} ({each['basis']})" for each in found["sobol"][:3]
        )
        lines.append(f"most of the uncertainty: {shares}")
    return lines + _edges(found["surface"])


def _turning(turn: Json) -> str:
    value, low, high, at = (duration(turn[name]) for name in ("value_ns", "low_ns", "high_ns", "turns_at_ns"))
    return f"{turn['cost']} at {at}; the table has {value} ({low} to {high}, {turn['basis']})"


def _range(found: Json) -> str:
    return f"{found['low']:.2f} to {found['high']:.2f}"


def _edges(rows: Sequence[Json]) -> list[str]:
    """The surface in a sentence for each end of it: one guest on a host, and many."""
    if not rows:
        return []
    minute = [row for row in rows if row["lifetime_s"] == 60]
    return [
        f"guests that live a minute, {row['guests']} on a host: {edge(row)}"
        for row in (minute[0], minute[-1])
    ]


def edge(row: Json) -> str:
    """One point of the surface in words."""
    if row["rate"] is None:
        return {
            "always hosted": "hosting is cheaper at any rate of exits",
            "always nested": "nesting is cheaper at any rate of exits",
        }.get(row["verdict"], "both cost the same")
    path = row["verdict"].split()[0]
    high = "no rate" if row["high"] is None else f"{row['high']:,.3g}"
    return f"{path} is cheaper above {row['rate']:,.3g} exits/s (range {row['low']:,.3g} to {high})"
