"""What a composition has to carry: the hosts at its top, and what its randomness starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.plan.scenario import Scenario

MIB = 1 << 20
STRATEGY = ("handles", "donation", "teardown", "pages")


@dataclass(frozen=True, slots=True)
class Sizes:
    """`profile` is a name; memory and CPUs are those of each host. `strategy` has a scenario's words."""

    profile: str
    depth: int
    hosts: int
    memory_bytes: int
    cpus: int
    seed: int
    strategy: Mapping[str, str] = field(default_factory=dict)


def sizes_of(scenario: Scenario, depth: int) -> Sizes:
    """Those of a scenario. At depth 0 one host has the memory of all, their CPUs, and one for itself."""
    hosts = scenario.l1
    return Sizes(
        scenario.profile,
        depth,
        hosts.count,
        hosts.memory_mib * MIB * (1 if depth else hosts.count),
        hosts.cpus if depth else 1 + hosts.count * hosts.cpus,
        scenario.seed,
        {name: getattr(scenario.strategy, name) for name in STRATEGY},
    )
