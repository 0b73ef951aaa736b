"""The PEF slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.profiles import CPUS, MEMORY_MIB, MIB, MIN_MEMORY_MIB, PROFILES, Profile
from protocol.calls import CallSpec

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison
    from protocol.arch.pef.keyboard import PefKeyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility

DEPTH = 8
HOSTS = 64
MOST_CPUS = 64
MOST_MEMORY_MIB = 65536  # of one host
ALL_MEMORY_MIB = 4 * 65536  # of all hosts of a console


class Pef:
    """POWER: the Protected Execution Facility."""

    name = "pef"
    title = "POWER Protected Execution Facility"
    realism = "needs_te_change"

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.pef.comparison import COMPARISON

        return COMPARISON

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return PROFILES

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def explain(self) -> Explainer:
        from protocol.arch.pef.explain import EXPLAINER

        return EXPLAINER

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.pef.feasibility import FEASIBILITY

        return FEASIBILITY

    def keyboard(
        self,
        depth: int = 0,
        hosts: int = 1,
        memory_mib: int | None = None,
        cpus: int | None = None,
        profile: str = "default",
        seed: int = 0,
    ) -> PefKeyboard:
        """A fresh machine with `hosts` secure hosts at `depth`. Raises ValueError saying what is allowed."""
        from protocol.arch.pef.compose import compose
        from protocol.arch.pef.keyboard import PefKeyboard

        if profile not in PROFILES:
            raise ValueError(f"profile {profile!r}: allowed: {', '.join(PROFILES)}")
        memory_mib = MEMORY_MIB if memory_mib is None else memory_mib
        cpus = CPUS if cpus is None else cpus
        _within("depth", depth, 0, DEPTH)
        _within("hosts", hosts, 1, HOSTS)
        _within("memory (MiB)", memory_mib, MIN_MEMORY_MIB, MOST_MEMORY_MIB)
        _within("memory (MiB) of all hosts", hosts * memory_mib, MIN_MEMORY_MIB, ALL_MEMORY_MIB)
        _within("cpus", cpus, 1, MOST_CPUS)
        return PefKeyboard(compose(PROFILES[profile], depth, hosts, memory_mib * MIB, cpus, seed))


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what}: {value}; allowed: {low} to {high}")


SLICE = Pef()
