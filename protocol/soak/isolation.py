"""What a host does changes nothing that its sibling observes: one life beside a hostile host, and alone.

A host observes what its level answers: to every request, and to its guests' loads. Both runs draw the
victim's life from the same stream; in one of them its sibling does its worst meanwhile, dies and comes again.
The two records must be equal, request by request, but for what a Trusted Entity draws (handles, cookies, the
garbage in registers that it clears): there one number must stand for one number.
"""

from __future__ import annotations

from random import Random
from typing import Any

from protocol.crossing import Thread
from protocol.effects import Issue, Step
from protocol.errors import RemoteProtocolError
from protocol.soak.episode import drop, failed_itself
from protocol.soak.hostile import numbers
from protocol.soak.island import Host, Island
from protocol.soak.options import Tally, Violation
from protocol.soak.ports import Architecture

OPERATIONS = 60  # of the victim's life

DRAWN = 1 << 32  # what is drawn is not smaller
STRATEGY = {"handles": "mapped"}  # with others a host is told names that all hosts of a level share

Seen = list[tuple[Any, ...]]


def watched(step: Step[Any], seen: Seen) -> Step[Any]:
    """The step, with everything that it asks and is answered."""
    answer: Any = None
    while True:
        try:
            effect = step.send(answer)
        except StopIteration as stop:
            return stop.value
        assert isinstance(effect, Issue), "software of a host only asks"
        asked = effect.operation, *numbers(effect.arguments)
        answer = yield effect
        seen.append((*asked, "->", *numbers([getattr(answer, "result", answer)])))


def alone_and_beside(arch: Architecture, depth: int, seed: str, tally: Tally) -> None:
    """Compare the two. Raises Violation."""
    alone = _observed(arch, depth, seed, tally, hostile=False)
    beside = _observed(arch, depth, seed, tally, hostile=True)
    tally.checks["isolation"] += 1
    tally.note("isolation", [len(record) for record in alone])
    same = Renamed()
    for mine, others in zip(alone, beside, strict=True):
        found = difference(mine, others, same)
        if found:
            raise Violation("isolation", f"{arch.name} at depth {depth}, seed {seed}: {found}")


def difference(alone: Seen, beside: Seen, same: Renamed | None = None) -> str:
    """What the two did not observe alike first, in words; nothing if there is none."""
    same = same or Renamed()
    for number, (one, other) in enumerate(zip(alone, beside, strict=False)):
        if not same.as_(one, other):
            return f"observation {number} is {other!r:.200} beside a hostile host, {one!r:.200} alone"
    if len(alone) != len(beside):
        return f"{len(beside)} observations beside a hostile host, {len(alone)} alone"
    return ""


class Renamed:
    """Are two records equal up to the names of what is drawn? Only large numbers are."""

    def __init__(self) -> None:
        self._there: dict[int, int] = {}
        self._back: dict[int, int] = {}

    def as_(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        return len(one) == len(other) and all(map(self._alike, one, other))

    def _alike(self, a: Any, b: Any) -> bool:
        if not isinstance(a, int) or not isinstance(b, int) or min(a, b) < DRAWN:
            return bool(a == b)
        return self._there.setdefault(a, b) == b and self._back.setdefault(b, a) == a


def _observed(arch: Architecture, depth: int, seed: str, tally: Tally, hostile: bool) -> tuple[Seen, Seen]:
    """All that the victim observed: its requests with their answers, and what its operations came to."""
    island = Island("isolation", arch, depth, 2, seed, 1, tally, STRATEGY)
    victim, sibling = island.hosts
    seen: Seen = []
    assert victim.thread is not None
    assert victim.life is not None
    victim.thread.stack[0] = watched(victim.thread.stack[0], seen)
    random = Random(f"{seed}:order:{hostile}")
    while not victim.thread.done:
        victim.life.stopping = victim.life.operations >= OPERATIONS
        threads = [victim.thread]
        if hostile:
            threads += sibling.threads()
        thread = threads[random.randrange(len(threads))]
        if thread is victim.thread:
            _victim(island, thread)
        else:
            _worst(island, sibling, thread, random)
        tally.steps += 1
    return seen, list(victim.life.observed)


def _victim(island: Island, thread: Thread) -> None:
    """The victim goes on; nothing of what it does, or of what is done to it, may fail."""
    try:
        thread.hop()
    except Violation:
        raise
    except Exception as error:
        raise Violation("level", f"{thread.name}, {island.arch.name}: {error!r}") from error


def _worst(island: Island, host: Host, thread: Thread, random: Random) -> None:
    """The sibling goes on; when its software fails, or now and then, it dies and comes again."""
    place = len(thread.stack) - 1
    try:
        thread.hop()
    except Exception as error:
        own = thread is host.thread and place == 0 and failed_itself(thread)
        if not own and not isinstance(error, RemoteProtocolError):
            raise Violation("level", f"{thread.name}, {island.arch.name}: {error!r}") from error
        drop(thread)
        island.end(host, random.choice(("reset", "kill")))
    if random.random() < 0.001:
        island.end(host, random.choice(("reset", "kill")))
    island.go_on(host)
