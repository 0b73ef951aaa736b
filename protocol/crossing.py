"""A simulated way between levels that live apart: it holds every message and lets them go in seeded order.

Whoever works here is a *thread*: a stack of steps. The lowest is a host's own; each one above serves what
the one under it asked of the level below. A step that yields `Issue` parks until its answer comes back;
between any two messages another thread may go on, so every `yield` really is one. With one seed the order
is always the same.

The death of a host closes its own steps at once. The step that serves it in the level below lives on: it
gets the answer that it waits for, then OwnerGone at its next yield, and may yield its undo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from protocol.effects import Idle, Issue, Park, Step
from protocol.errors import LocalProtocolError, OwnerGone

Serve = Callable[[Issue], Step[Any]]

HOPS = 10_000_000  # messages of one run; a run that needs more goes round in circles


class Thread:
    """One CPU's work. `value` is the outcome of its own step once `done`."""

    def __init__(self, name: str, step: Step[Any], below: Sequence[Serve]) -> None:
        self.name = name
        self.below = tuple(below)
        self.stack: list[Step[Any]] = [step]
        self.value: Any = None
        self.error: BaseException | None = None
        self.done = False
        self.orphan: int | None = None  # place in the stack whose owner is gone
        self._answer: Any = None
        self._raised: BaseException | None = None

    def hop(self) -> None:
        """Go on until the next message leaves, or the end."""
        place = len(self.stack) - 1
        try:
            effect = self._resume(self.stack[place])
            if place == self.orphan:
                effect = self.stack[place].throw(OwnerGone(f"{self.name}: its host is gone"))
                self.orphan = None
        except StopIteration as stop:
            self._return(place, stop.value, None)
        except OwnerGone as gone:
            self._return(place, None, gone)
        else:
            self._call(place, effect)

    def _resume(self, step: Step[Any]) -> Any:
        answer, raised = self._answer, self._raised
        self._answer = self._raised = None
        return step.send(answer) if raised is None else step.throw(raised)

    def _call(self, place: int, effect: object) -> None:
        if isinstance(effect, Idle | Park):  # whoever stands still with its locks taken goes on later
            self._answer = False
            return
        if not isinstance(effect, Issue) or place >= len(self.below):
            raise LocalProtocolError(f"{self.name}: nobody serves {effect!r}")
        self.stack.append(self.below[place](effect))

    def _return(self, place: int, value: object, error: BaseException | None) -> None:
        self.stack.pop()
        if self.orphan is not None and place <= self.orphan:
            value, error, self.stack = None, error or OwnerGone(self.name), []
        if self.stack:
            self._answer, self._raised = value, error
        else:
            self.value, self.error, self.done = value, error, True

    def abandon(self, place: int) -> None:
        """The host whose steps stand below `place` is gone."""
        for step in self.stack[:place]:
            step.close()
        if len(self.stack) <= place:  # nothing of it is under way in the level below
            self.stack, self.done, self.error = [], True, OwnerGone(self.name)
        else:
            self.stack = [_gone()] * place + self.stack[place:]
            self.orphan = place


def _gone() -> Step[None]:
    return  # pragma: no cover - it keeps a place in the stack, and is never driven
    yield


class Crossing:
    """Threads under way, in an order that `random` draws."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self.threads: list[Thread] = []
        self.hops = 0

    def start(self, name: str, step: Step[Any], below: Sequence[Serve]) -> Thread:
        """Let a step begin; it takes part from the next hop on."""
        thread = Thread(name, step, below)
        self.threads.append(thread)
        return thread

    def hop(self) -> None:
        """Let one message go, of a thread that is drawn."""
        thread = self.threads[self._random.randrange(len(self.threads))]
        thread.hop()
        self.hops += 1
        if thread.done:
            self.threads.remove(thread)

    def run(self, until: Callable[[], bool] | None = None) -> None:
        """Let messages go until nobody has any, or `until` says so."""
        while self.threads and not (until is not None and until()):
            self.hop()
            if self.hops > HOPS:
                raise LocalProtocolError(f"{HOPS} messages and no end")

    def kill(self, threads: Sequence[Thread], place: int) -> None:
        """A host dies: its own steps end now, those that serve it when their answers have come."""
        for thread in threads:
            if not thread.done:
                thread.abandon(place)
        self.threads = [thread for thread in self.threads if not thread.done]

    def finish(self, threads: Sequence[Thread]) -> None:
        """Let messages go until `threads` have ended."""
        self.run(lambda: all(thread.done for thread in threads))


def inline(step: Step[Any], below: Sequence[Serve]) -> Any:
    """Drive one step over levels that live apart, with nobody beside it. Raises what it ends with."""
    thread = Thread("inline", step, below)
    while not thread.done:
        thread.hop()
    if thread.error is not None:
        raise thread.error
    return thread.value
