"""What a guest is told to do, as it is typed: the part that is the same for every architecture.

A step is an object with one field that says of which kind it is. A slice lists its kinds; each has `touch`
and `read`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

from protocol.keyboard.fields import Complaint, Fields

STEPS = 65536  # of one request, and of one program
READ_BYTES = 1 << 20  # of one step
VALUE_BYTES = 1 << 20
RESULT_BYTES = 4 << 20  # that the reads of one program may gather before they are collected

S = TypeVar("S")
Kind = Callable[[Fields], S]


class Program(Protocol):
    """Steps of a guest that are still to do."""

    @property
    def steps(self) -> deque[Any]: ...

    def replace(self) -> None: ...


class Steps(Generic[S]):
    """The kinds of steps of one architecture; `read` is the class of those whose results gather."""

    def __init__(self, kinds: Mapping[str, Kind[S]], read: type) -> None:
        self._kinds = kinds
        self._read = read

    def parse(self, fields: Fields, name: str = "do") -> list[S]:
        """The steps in the field `name`. Raises Complaint."""
        return [self._step(step) for step in fields.objects(name, STEPS)]

    def _step(self, step: Fields) -> S:
        kinds = [name for name in self._kinds if name in step]
        if len(kinds) != 1:
            allowed = f"exactly one of {', '.join(self._kinds)} in a step"
            raise step.wrong(kinds[1] if kinds else "step", allowed)
        return self._kinds[kinds[0]](step)

    def queue(self, program: Program, more: Sequence[S], replace: bool) -> None:
        """Append steps, or put them in place of those still to do. Raises Complaint at a limit."""
        waiting = more if replace else [*program.steps, *more]
        if len(waiting) > STEPS:
            raise Complaint("limit", f"do: at most {STEPS} steps in a program", "do")
        reads: list[Any] = [step for step in waiting if isinstance(step, self._read)]
        if sum(step.length for step in reads) > RESULT_BYTES:
            raise Complaint(
                "limit", f"do: the reads of a program gather at most {RESULT_BYTES:#x} bytes", "do"
            )
        if replace:
            program.replace()
        program.steps.extend(more)


def touch(make: Callable[[int, bool, bytes], S], most: int = VALUE_BYTES, value: bytes = b"\0") -> Kind[S]:
    """A load that shows nothing, or a store of at most `most` bytes, of `value` if none are named."""

    def parse(step: Fields) -> S:
        step.only("touch", "write", "value")
        write = step.flag("write")
        if "value" in step and not write:
            raise step.wrong("value", "only with write")
        return make(step.number("touch"), write, step.data("value", most, value))

    return parse


def read(make: Callable[[int, int], S]) -> Kind[S]:
    """A load whose bytes are the step's result."""

    def parse(step: Fields) -> S:
        step.only("read", "len")
        return make(step.number("read"), step.number("len", high=READ_BYTES))

    return parse
