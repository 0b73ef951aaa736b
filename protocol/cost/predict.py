"""What a VM would lose as a secure guest, nested and hosted: from its exit profile, its memory, and the
table.

By the formulas of the cost sheet: each exit costs a round trip, to its own hypervisor nested, to L0
hosted; each page costs once at boot. The range is over all costs at once; the assumption that matters
most is the one whose bounds move the nested loss, or the difference of the paths, furthest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from protocol.cost.exits import Profile
from protocol.cost.formulas import Formulas
from protocol.cost.sensitivity import tornado
from protocol.cost.table import Costs

PATHS = ("nested", "hosted")
RUN_COSTS = ("exit_l1_l0", "exit_nested", "te_guest_exit_extra")
BOUNDS = ("value", "low", "high")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Value, low and high of each: CPU share lost per VCPU, seconds added to boot by policy, of each path."""

    lost: dict[str, tuple[float, float, float]]
    boot_s: dict[str, dict[str, tuple[float, float, float]]]
    matters: str
    basis: str
    moves: tuple[float, float]  # the nested loss at its bounds

    def as_dict(self) -> dict[str, Any]:
        return {
            "lost": {path: list(values) for path, values in self.lost.items()},
            "boot_s": {
                path: {policy: list(values) for policy, values in of_path.items()}
                for path, of_path in self.boot_s.items()
            },
            "matters_most": {"cost": self.matters, "basis": self.basis, "nested_loss": list(self.moves)},
        }


def predicted(costs: Costs, group: str, profile: Profile, memory_bytes: int, vcpus: int) -> Prediction:
    """What a VM with these exits and this memory would lose as a secure guest."""
    rate = profile.total / vcpus

    def lost(model: Formulas, path: str) -> float:
        return float(model.lost(path, rate, profile.own_share))

    def boot(model: Formulas, path: str, policy: str) -> float:
        return float(model.boot(path, policy, memory_bytes)) / 1e9

    worst = tornado(
        [costs.of(group, name) for name in RUN_COSTS], _model(costs, group, rate, profile.own_share)
    )[0]
    return Prediction(
        {path: _three(costs, group, lambda m, path=path: lost(m, path)) for path in PATHS},  # type: ignore[misc]
        {
            path: {
                policy: _three(costs, group, lambda m, path=path, policy=policy: boot(m, path, policy))  # type: ignore[misc]
                for policy in ("two_fault", "merged", "prefault")
            }
            for path in PATHS
        },
        worst.cost.name,
        worst.cost.basis,
        (worst.at_low, worst.at_high),
    )


def _three(costs: Costs, group: str, of: Callable[[Formulas], float]) -> tuple[float, float, float]:
    """At the values, and at all lower and all upper bounds."""
    value, low, high = (of(_at(costs, group, which)) for which in BOUNDS)
    return value, min(value, low, high), max(value, low, high)


def _at(costs: Costs, group: str, which: str) -> Formulas:
    return Formulas(
        costs,
        group,
        lambda name: getattr(costs.of(group, name), which),
        lambda name: getattr(costs.factor(group, name), which),
    )


def _model(costs: Costs, group: str, rate: float, own: float) -> Callable[[np.ndarray], np.ndarray]:
    """The nested loss as a function of the costs that a running guest pays."""
    places = {name: place for place, name in enumerate(RUN_COSTS)}

    def model(rows: np.ndarray) -> np.ndarray:
        def cost(name: str) -> Any:
            return rows[:, places[name]] if name in places else costs.of(group, name).value

        return np.asarray(Formulas(costs, group, cost).lost("nested", rate, own))

    return model
