"""What a handler yields, and how a step is driven.

Every operation of a level is a *step*: a generator that returns the operation's result. Where everything
below is in the same process it runs to its end without yielding. It yields an `Effect` only where it cannot
go on by itself: `Issue` where the level below is elsewhere, `Park` where a caller asked it to stop with its
locks taken, `Idle` where a guest runs and has nothing to do. Whoever drives the step answers the effect by
`send`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from protocol.errors import LocalProtocolError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fault:
    """An architectural exception, as a value: it travels to the CPU that caused it.

    `code` and `name` are the architecture's own, `address` is the address as that CPU used it.
    """

    code: int
    name: str
    address: int
    write: bool = False


class Effect:
    """Something that a step cannot do by itself."""

    __slots__ = ()


class _Issue(NamedTuple):
    operation: str
    arguments: tuple[Any, ...]


# Makes a named tuple of its class and a tuple of its fields, in half of the time that the class takes for it.
record = tuple.__new__


class Issue(_Issue, Effect):
    """Ask the level below, which lives elsewhere. The answer is the operation's result.

    A named tuple, because one is made for every call: where that is hot, by `record`.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Park(Effect):
    """The Trusted Entity stands still inside a call, its locks taken. The answer is ignored."""


@dataclass(frozen=True, slots=True)
class Idle(Effect):
    """A guest runs and its program is empty. The answer is True to look again, False to kick it out."""


Step = Generator[Effect, Any, T]


def run(step: Step[T]) -> T:
    """Drive `step` where nothing can yield: everything below is here, and nobody asked to park.

    Raises LocalProtocolError if it yields all the same.
    """
    try:
        effect = next(step)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise LocalProtocolError(f"a step that had to run inline yielded {effect!r}")


def issue(operation: str, *arguments: Any) -> Step[Any]:
    """Ask the level below by message and return its answer."""
    return (yield Issue(operation, arguments))


def parked(wanted: bool) -> Step[None]:
    """Stop here if the caller wanted that."""
    if wanted:
        yield Park()
