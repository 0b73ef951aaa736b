"""Which operations of a comparison are traced, and what is kept of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from actors.broker import Request
from actors.kvm import Control, FromHost, TearDown
from actors.runtime.actor import Runtime
from actors.runtime.tracing import Tracer
from protocol.effects import Issue
from protocol.ledger import Ledger
from protocol.plan import operations as op
from protocol.trace.span import Span

Wanted = Callable[[str, str, int], bool]  # path, name of an operation, how often it came before


@dataclass(frozen=True, slots=True)
class Traced:
    """One operation of one path."""

    arch: str
    path: str
    name: str
    root: Span


class Tracing:
    """Traces those operations of a comparison for which `wanted` says so."""

    def __init__(self, wanted: Wanted, seed: int = 0) -> None:
        self.found: list[Traced] = []
        self.dropped = 0  # messages that were too many to follow
        self._wanted, self._seed = wanted, seed
        self._came: Counter[str] = Counter()
        self._tracer: Tracer | None = None
        self._machine = ("", "")

    def begin(self, arch: str, path: str, runtime: Runtime, ledger: Ledger) -> None:
        """Another path begins."""
        self._machine = (arch, path)
        self._came.clear()
        self._tracer = Tracer(runtime, ledger.divert, describe, self._seed)

    @contextmanager
    def operation(self, host: int, act: op.Operation | op.Event) -> Iterator[None]:
        """One act of the plan, traced if it is wanted."""
        arch, path = self._machine
        number = self._came[act.name]
        self._came[act.name] += 1
        if self._tracer is None or not self._wanted(path, act.name, number):
            yield
            return
        with self._tracer.operation(f"host {host}", describe(act)) as root:
            self.found.append(Traced(arch, path, act.name, root))
            yield
        self.dropped = self._tracer.dropped


def describe(message: object) -> str:
    """A message in a few words: what it asks for, never what it carries."""
    match message:
        case FromHost(effect=effect):
            return describe(effect)
        case Issue(operation="run", arguments=(inner,)):
            return describe(inner)
        case Issue(operation=operation):
            return operation
        case Request(frame={"t": str(kind)}):
            return kind
        case Control():
            return "control"
        case TearDown():
            return "tear down"
        case op.Operation() | op.Event():
            return " ".join((message.name, *_said(message)))
    return type(message).__name__


def _said(message: op.Operation | op.Event) -> Iterator[str]:
    """The fields of an operation that say what it is, amounts and numbers."""
    for field in fields(message):
        value = getattr(message, field.name)
        if isinstance(value, op.Pages):
            yield f"{field.name}={len(value)}"
        elif value is not False:
            yield field.name if value is True else f"{field.name}={value}"
