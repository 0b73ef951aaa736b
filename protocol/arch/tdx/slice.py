"""The TDX slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.profiles import MIB, MIN_MEMORY_MIB, PROFILES, Profile
from protocol.calls import CallSpec

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison
    from protocol.arch.tdx.keyboard import TdxKeyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility

DEPTH = 4
HOSTS = 64
CPUS = 64
MEMORY_MIB = 65536  # of one host
REFUSED_PROFILES = {
    "partitioning": "TD partitioning is no nesting target: there a TD hosts VMs that are not protected from "
    "it, with the module's own help, so no hypervisor has anything to emulate"
}
ALL_MEMORY_MIB = 4 * 65536  # of all hosts of a console: page tables of states are real


class Tdx:
    """Intel: the TDX module."""

    name = "tdx"
    title = "Intel Trust Domain Extensions"
    realism = "software"
    refused_profiles = REFUSED_PROFILES

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.tdx.comparison import COMPARISON

        return COMPARISON

    @property
    def explain(self) -> Explainer:
        from protocol.arch.tdx.explain import EXPLAINER

        return EXPLAINER

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return PROFILES

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.tdx.feasibility import FEASIBILITY

        return FEASIBILITY

    def keyboard(
        self,
        depth: int = 0,
        hosts: int = 1,
        memory_mib: int | None = None,
        cpus: int | None = None,
        profile: str = "small",
        seed: int = 0,
    ) -> TdxKeyboard:
        """A fresh machine with `hosts` secure hosts at `depth`. Raises ValueError saying what is allowed."""
        from protocol.arch.tdx.compose import compose
        from protocol.arch.tdx.keyboard import TdxKeyboard

        if profile not in PROFILES:
            raise ValueError(f"profile {profile!r}: allowed: {', '.join(PROFILES)}")
        sizes = PROFILES[profile]
        memory_mib = sizes.memory_mib if memory_mib is None else memory_mib
        cpus = sizes.cpus if cpus is None else cpus
        _within("depth", depth, 0, DEPTH)
        _within("hosts", hosts, 1, HOSTS)
        _within("memory (MiB)", memory_mib, MIN_MEMORY_MIB, MEMORY_MIB)
        _within("memory (MiB) of all hosts", hosts * memory_mib, MIN_MEMORY_MIB, ALL_MEMORY_MIB)
        _within("cpus", cpus, sizes.packages, CPUS)
        return TdxKeyboard(compose(sizes, depth, hosts, memory_mib * MIB, cpus, seed))


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what}: {value}; allowed: {low} to {high}")


SLICE = Tdx()
