"""From what was counted to the steps of one operation, and from the table's locks to servers.

The counts of a phase, divided by the guests that went through it, are what one guest paid: so many times
each entry of the table. Entries that a lock covers are paid while it is held, all others alone. Calls come in
rounds: some time alone, then one call of each kind, as long as there are any. A guest with a million calls
makes `ROUNDS` rounds and holds a lock longer in each: guests interleave less finely, and that is all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from protocol.cost.price import Amounts
from protocol.cost.table import Costs, Lock
from protocol.queueing.engine import Server, Step

ROUNDS = 128
WIDEST_LAST = ("page", "vm", "l1", "package", "host")  # the order in which locks are taken


@dataclass(frozen=True, slots=True)
class Place:
    """Whose operation it is: which guest of which guest host. Locks are theirs, or the machine's."""

    host: int
    guest: int

    def name(self, lock: Lock) -> str:
        """The one lock of its kind that this operation needs."""
        suffix = {"vm": f".{self.host}.{self.guest}", "l1": f".{self.host}"}.get(lock.scope, "")
        return f"{lock.name}{suffix}"


class Demands:
    """Steps for operations of one architecture."""

    def __init__(self, costs: Costs, group: str) -> None:
        self._costs = costs
        self._group = group
        self._locks = sorted(
            (lock for lock in costs.locks(group) if lock.servers),
            key=lambda lock: (WIDEST_LAST.index(lock.scope), lock.name),
        )
        self._by_name = {lock.name: lock for lock in self._locks}

    def server(self, name: str) -> Server:
        """What a lock is like. One that answers busy is asked again after the time of one more call."""
        lock = self._by_name[name.partition(".")[0]]
        retry = None if lock.waits else self._costs.of(self._group, "te_call_fixed").value
        return Server(lock.servers, retry)

    def steps(self, phases: Iterable[Amounts], place: Place) -> list[Step]:
        """What one operation does, phase by phase."""
        return [step for phase in phases for step in self._phase(phase, place)]

    def _phase(self, paid: Amounts, place: Place) -> Sequence[Step]:
        alone, held = self._shares(paid, place)
        chunks = {names: min(ROUNDS, max(1, round(calls))) for names, (calls, _) in held.items()}
        rounds = max(chunks.values(), default=1)
        found = []
        for number in range(rounds):
            if alone:
                found.append(Step(alone / rounds))
            for names, (calls, ns) in held.items():
                due = _due(number, rounds, chunks[names])
                if due:
                    found.append(Step(ns / chunks[names], names, calls / chunks[names]))
        return found

    def _shares(
        self, paid: Amounts, place: Place
    ) -> tuple[float, Mapping[tuple[str, ...], tuple[float, float]]]:
        """Nanoseconds alone; calls and nanoseconds by the locks that they hold."""
        alone, held = 0.0, defaultdict[tuple[str, ...], tuple[float, float]](lambda: (0.0, 0.0))
        for name, amount in paid.items():
            ns = amount * self._costs.of(self._group, name).value
            names = tuple(place.name(lock) for lock in self._locks if name in lock.covers)
            if not names:
                alone += ns
            elif ns:
                calls, so_far = held[names]
                held[names] = (calls + amount, so_far + ns)
        return alone, dict(held)


def _due(number: int, rounds: int, chunks: int) -> bool:
    """Whether one of `chunks`, spread over so many rounds, falls into round `number`."""
    return (number + 1) * chunks // rounds > number * chunks // rounds
