"""What slices have in common: the fresh machine behind a keyboard, with what somebody may ask of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from protocol.nesting.sizes import STRATEGY, Sizes

MIB = 1 << 20
HOSTS = 64
CPUS = 64
MEMORY_MIB = 65536  # of one host
ALL_MEMORY_MIB = 4 * 65536  # of all hosts of a console: page tables of states are real

K = TypeVar("K")


class BaseSlice(Generic[K]):
    """See `protocol.arch.contract.Architecture`. An architecture says how its machines are put together."""

    max_depth = 4
    least_memory_mib = 2

    @property
    @abstractmethod
    def profiles(self) -> Mapping[str, Any]:
        """Sizes by name; each has `memory_mib` and `cpus` of a host for whom neither was named."""

    @property
    @abstractmethod
    def comparison(self) -> Any:
        """See the contract."""

    @abstractmethod
    def fresh(self, profile: Any, sizes: Sizes) -> K:
        """A keyboard of a machine that nobody has touched; `profile` is what the sizes name, or a wider one.

        Raises ValueError for what cannot be.
        """

    def least_cpus(self, profile: Any) -> int:
        """Of a host."""
        return 1

    def keyboard(
        self,
        depth: int = 0,
        hosts: int = 1,
        memory_mib: int | None = None,
        cpus: int | None = None,
        profile: str = "small",
        seed: int = 0,
        shares: int = 1,
        strategy: Mapping[str, str] | None = None,
    ) -> K:
        """See the contract. Raises ValueError saying what is allowed."""
        if profile not in self.profiles:
            raise ValueError(f"profile {profile!r}: allowed: {', '.join(self.profiles)}")
        made = self.profiles[profile]
        memory_mib = made.memory_mib if memory_mib is None else memory_mib
        cpus = made.cpus if cpus is None else cpus
        _within("depth", depth, 0, self.max_depth)
        _within("hosts", hosts, 1, HOSTS)
        _within("memory (MiB)", memory_mib, self.least_memory_mib, MEMORY_MIB)
        _within("memory (MiB) of all hosts", hosts * memory_mib, self.least_memory_mib, ALL_MEMORY_MIB)
        _within("cpus", cpus, self.least_cpus(made), CPUS)
        _within("shares", shares, 1, HOSTS)
        words = dict(strategy or {})
        if unknown := set(words) - set(STRATEGY):
            raise ValueError(f"strategy.{min(unknown)}: allowed: {', '.join(STRATEGY)}")
        if shares > 1:
            made = self.comparison.for_all(made, shares, memory_mib * MIB, cpus)
        return self.fresh(made, Sizes(profile, depth, hosts, memory_mib * MIB, cpus, seed, words))


def _within(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what}: {value}; allowed: {low} to {high}")
