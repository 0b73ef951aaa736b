"""What a command answers: its status, and what is written back into its buffer."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from protocol.arch.sev.status import Status
from protocol.effects import Step

T = TypeVar("T")


class Reply(NamedTuple):
    """`out` are output fields as (offset, bytes)."""

    status: int
    out: tuple[tuple[int, bytes], ...] = ()


DONE = Reply(Status.SUCCESS)


def done(value: T) -> Step[T]:
    """A step that is at its end."""
    yield from ()
    return value
