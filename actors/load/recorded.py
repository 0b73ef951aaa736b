"""Operations as the emulation did them: what one guest paid for each kind of request, on one path.

The path is run once, as a comparison runs it; what its phases counted, divided by the guests, is what a
request of one guest costs. So a request is as dear as the average of its kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from actors.compare.outcome import Json
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.compare.sensitivity import divided, guest_level
from protocol.arch.contract import Architecture
from protocol.cost.price import Amounts, amounts
from protocol.plan.scenario import Scenario

PHASES_OF = {
    "run": ("run",),
    "restart": ("destroy", "create", "load", "boot"),
    "page_change": ("page_change",),
    "swap": ("swap",),
    "start": ("create", "load", "boot"),
    "destroy": ("destroy",),
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """Amounts of one guest, by phase, of one architecture on one path."""

    group: str
    phases: Mapping[str, Amounts | None]

    def request(self, kind: str) -> Sequence[Amounts]:
        """What a request of this kind pays, phase by phase. Raises ValueError for what the path lacks."""
        found = []
        for phase in PHASES_OF[kind]:
            paid = self.phases.get(phase, {})
            if paid is None:
                raise ValueError(f"no {phase} on this path, so no request can be {kind}")
            found.append(paid)
        return found


def of_result(arch: Architecture, result: Json, guests: int, vcpus: int = 1) -> Recorded:
    """From what a comparison counted on one path, for so many guests of so many VCPUs."""
    assert arch.comparison is not None
    prices = arch.comparison.prices.of_guests_with(vcpus)
    found = amounts(prices, guest_level(result), result["phases"])
    each = {phase: None if paid is None else divided(paid, guests) for phase, paid in found.items()}
    return Recorded(prices.group, each)


def record(scenario: Scenario, arch: Architecture, paths: Iterable[str]) -> dict[str, Recorded]:
    """Run every path of one architecture once."""
    wanted = replace(scenario, arch=(arch.name,), paths=tuple(paths), thresholds=())
    outcome = run(wanted, Progress())
    guests = scenario.l1.count * scenario.guest.per_l1
    vcpus = scenario.guest.vcpus
    return {result["path"]: of_result(arch, result, guests, vcpus) for result in outcome.results}
