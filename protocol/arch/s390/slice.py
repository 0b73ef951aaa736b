"""The s390 slice, as the registry finds it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.profiles import MIB, PROFILES, Profile
from protocol.calls import CallSpec

if TYPE_CHECKING:
    from protocol.arch.contract import Comparison, Owner
    from protocol.arch.s390.keyboard import S390Keyboard
    from protocol.explain import Explainer
    from protocol.feasibility import Feasibility

DEPTH = 4
HOSTS = 64
CPUS = 64
MEMORY_MIB = 65536  # of one host
ALL_MEMORY_MIB = 4 * 65536  # of all hosts of a console: page tables of states are real


class S390:
    """IBM Z: the Ultravisor."""

    name = "s390"
    title = "IBM Z Secure Execution"
    realism = "prototype"

    @property
    def profiles(self) -> Mapping[str, Profile]:
        return PROFILES

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        return CALLS

    @property
    def comparison(self) -> Comparison:
        from protocol.arch.s390.comparison import COMPARISON

        return COMPARISON

    @property
    def owner(self) -> Owner:
        from protocol.arch.s390.owner import OWNER

        return OWNER

    @property
    def explain(self) -> Explainer:
        from protocol.arch.s390.explain import EXPLAINER

        return EXPLAINER

    @property
    def feasibility(self) -> Feasibility:
        from protocol.arch.s390.feasibility import FEASIBILITY

        return FEASIBILITY

    def keyboard(
        self,
        depth: int = 0,
        hosts: int = 1,
        memory_mib: int | None = None,
        cpus: int | None = None,
        profile: str = "small",
        seed: int = 0,
    ) -> S390Keyboard:
        """A fresh machine with `hosts` secure hosts at `depth`. Raises ValueError saying what is allowed."""
        from protocol.arch.s390.compose import compose
        from protocol.arch.s390.keyboard import S390Keyboard

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
        return S390Keyboard(compose(sizes, depth, hosts, memory_mib * MIB, cpus, seed))


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what}: {value}; allowed: {low} to {high}")


SLICE = S390()
