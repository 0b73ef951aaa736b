"""The AMD slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.profiles import MIB, PROFILES, Profile
from protocol.calls import CallSpec

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison
    from protocol.arch.sev.keyboard import SevKeyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility

DEPTH = 4
HOSTS = 64
CPUS = 64
MEMORY_MIB = 65536  # of one host
ALL_MEMORY_MIB = 4 * 65536  # of all hosts of a console: page tables of states are real


class Sev:
    """AMD: the secure processor and the RMP. What is compared are guests of one kind."""

    def __init__(self, name: str, title: str, realism: str) -> None:
        self.name = name
        self.title = title
        self.realism = realism  # somebody runs nested SNP; nobody has written nested SEV and SEV-ES

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.sev.comparison import COMPARISONS

        return COMPARISONS[self.name]

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return {name: profile.of_kind(self.name) for name, profile in PROFILES.items()}

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def explain(self) -> Explainer:
        from protocol.arch.sev.explain import EXPLAINER

        return EXPLAINER

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.sev.feasibility import FEASIBILITY

        return FEASIBILITY

    def keyboard(
        self,
        depth: int = 0,
        hosts: int = 1,
        memory_mib: int | None = None,
        cpus: int | None = None,
        profile: str = "small",
        seed: int = 0,
    ) -> SevKeyboard:
        """A fresh machine with `hosts` secure hosts at `depth`. Raises ValueError saying what is allowed."""
        from protocol.arch.sev.compose import compose
        from protocol.arch.sev.keyboard import SevKeyboard

        if profile not in PROFILES:
            raise ValueError(f"profile {profile!r}: allowed: {', '.join(PROFILES)}")
        sizes = PROFILES[profile]
        memory_mib = sizes.memory_mib if memory_mib is None else memory_mib
        cpus = sizes.cpus if cpus is None else cpus
        _within("depth", depth, 0, DEPTH)
        _within("hosts", hosts, 1, HOSTS)
        _within("memory (MiB)", memory_mib, 2, MEMORY_MIB)
        _within("memory (MiB) of all hosts", hosts * memory_mib, 2, ALL_MEMORY_MIB)
        _within("cpus", cpus, 1, CPUS)
        return SevKeyboard(compose(sizes, depth, hosts, memory_mib * MIB, cpus, seed))


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what}: {value}; allowed: {low} to {high}")


SLICE = Sev("sev", "AMD SEV", "software")
KINDS = {
    "sev-es": Sev("sev-es", "AMD SEV-ES", "software"),
    "snp": Sev("snp", "AMD SEV-SNP", "built"),
}
