"""What the model says beside a run, with the very costs that priced it: depth, policies, reboots, published
figures.

Stands in the bundle as `model`, so that a report of last year shows the model of last year.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from actors.compare.outcome import Json
from protocol.cost.formulas import GIB, POLICIES, Formulas, groups
from protocol.cost.published import UNTRIED, rows
from protocol.cost.table import Costs

DEPTHS = (1, 2, 3, 4)
BOUNDS = ("value", "low", "high")
PATHS = ("nested", "hosted")
# Round trips of a hypercall on x86, DVH (ASPLOS 2020, table 3): guest level and microseconds.
POINTS = ((1, 0.716), (2, 17.15), (3, 389.8))
REBOOT_GUESTS, REBOOT_BYTES = 8, 4 * GIB


def model(costs: Costs, arches: Sequence[str]) -> Json:
    """Everything about these architectures, in nanoseconds: value, low, high."""
    return {
        "arch": {arch: _of(costs, groups().get(arch, arch)) for arch in arches},
        "hosted": {
            "flat": [_ns(_model(costs, "tdx", which).hosted(1, relayed=False)) for which in BOUNDS],
            "relayed": [_ns(_model(costs, "tdx", "value").hosted(depth, relayed=True)) for depth in DEPTHS],
        },
        "points": [list(point) for point in POINTS],
        "published": rows(costs),
        "untried": [list(each) for each in UNTRIED],
        "costs_sha256": digest(costs),
    }


def _of(costs: Costs, group: str) -> Json:
    at = {which: _model(costs, group, which) for which in BOUNDS}
    return {
        "page_call": [[_ns(at[which].page_call(depth)) for which in BOUNDS] for depth in DEPTHS],
        "null_exit": [_ns(at["value"].null_exit(level)) for level in DEPTHS],
        "boot_page": {
            path: {
                policy: [_ns(at[which].boot_page(path, policy)) for which in BOUNDS] for policy in POLICIES
            }
            for path in PATHS
        },
        "reboot": {
            name: [_ns(at[which].reboot(REBOOT_GUESTS, REBOOT_BYTES, live)) for which in BOUNDS]
            for name, live in (("dead", False), ("live", True))
        },
        "sources": [
            {"cost": name, "basis": cost.basis, "source": cost.source}
            for name in costs.names(group)
            for cost in (costs.of(group, name),)
        ],
    }


def _model(costs: Costs, group: str, which: str) -> Formulas:
    return Formulas(
        costs,
        group,
        lambda name: getattr(costs.of(group, name), which),
        lambda name: getattr(costs.factor(group, name), which),
    )


def _ns(value: Any) -> float:
    return float(f"{float(value):.5g}")


def digest(costs: Costs) -> str:
    """SHA-256 of all entries: which costs priced this."""
    said = [
        f"{group}.{name} {cost.value!r} {cost.low!r} {cost.high!r} {cost.basis}"
        for group in ("common", "pef", "s390", "snp", "tdx")
        for name in costs.names(group)
        for cost in (costs.of(group, name),)
    ]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()
