"""Spans of messages between actors, and whose counts are whose while they are handled.

Theory of operation. Whoever drives an operation opens a *root* in its own task. From then on each message
that is sent on behalf of a traced one gets a span, which rides on the message's `deliver`: it goes through
queues, links and parked steps with it, and ends when the answer is delivered. While an actor works on a
message, that message's span is the current one: what it sends becomes children, and what the ledger counts
goes to it. An actor works on one message at a time and never in the middle of another's, so the current span
is always right, with any number of operations under way.

A runtime has its tracer only while a traced message is under way, so at all other times this costs one look
at an attribute for a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from actors.runtime.port import Deliver
from protocol.errors import NestbedError
from protocol.trace.span import Counts, Span, trace_id
from protocol.wire import Trace

Describe = Callable[[object], str]
SPANS = 200_000  # of one run; what comes beyond is not followed, and counted

_root: ContextVar[Span | None] = ContextVar("root", default=None)


class Followed:
    """What delivers the answer of a message that is traced, or that is known not to be. A `Deliver`."""

    __slots__ = ("_deliver", "_tracer", "span")

    def __init__(self, tracer: Tracer | None, span: Span | None, deliver: Deliver) -> None:
        self._tracer, self.span, self._deliver = tracer, span, deliver

    def __call__(self, value: object, error: BaseException | None) -> None:
        if self._tracer is not None and self.span is not None:
            self._tracer.end(self.span, error)
        self._deliver(value, error)

    @property
    def inner(self) -> Deliver:
        """What it hands the answer on to."""
        return self._deliver

    def before(self, deliver: Deliver) -> Followed:
        """The same span, ended before `deliver` gets the answer, which will come by here after that."""
        return Followed(self._tracer, self.span, deliver)


def context_of(deliver: Deliver) -> Trace | None:
    """What travels with a message, so that it is followed over there, too."""
    span = deliver.span if type(deliver) is Followed else None
    return None if span is None else span.context


def settled(deliver: Deliver) -> Deliver:
    """`deliver` of a message that waits: if nobody follows it, it is no part of what goes on when it ends."""
    return deliver if type(deliver) is Followed else Followed(None, None, deliver)


class Traceable(Protocol):
    """What is traced: a runtime."""

    tracer: Tracer | None


class Tracer:
    """The spans of one runtime. `describe` says in a few words what a message asks for.

    `divert` has whatever is counted from now on go to a span's counts, too (`Ledger.divert`).

    `roots` are the operations that were traced, each with its tree. `clock` tells nanoseconds.
    """

    def __init__(
        self,
        runtime: Traceable,
        divert: Callable[[Counts | None], None],
        describe: Describe = lambda message: type(message).__name__,
        seed: object = 0,
        clock: Callable[[], int] = time.perf_counter_ns,
        first: int = 0,
    ) -> None:
        """Numbers of spans begin above `first`: those of the processes of a run must not meet."""
        self.roots: list[Span] = []
        self.adopted: dict[int, Span] = {}  # stubs of spans of other processes, by their numbers
        self.dropped = 0  # messages that were not followed: SPANS of them were already
        self._runtime = runtime
        self._live = 0  # spans that have begun and not ended
        self._divert, self._describe, self._seed, self._clock = divert, describe, seed, clock
        self._numbers = self._first = first
        self._current: Span | None = None
        self._working = False  # an actor is at work: whatever it sends, it is not the task that asks

    @contextmanager
    def operation(self, who: str, what: str) -> Iterator[Span]:
        """Trace what is asked for inside, by this task, as one operation."""
        root = self._span(trace_id(self._seed, len(self.roots)), None, who, what)
        self.roots.append(root)
        token = _root.set(root)
        error: BaseException | None = None
        try:
            yield root
        except BaseException as raised:
            error = raised
            raise
        finally:
            _root.reset(token)
            self.end(root, error)

    def alone(self, who: str, what: str) -> Span:
        """A span of an operation that is not followed; `close` ends it."""
        self._numbers += 1
        return Span(trace_id(self._seed, -self._numbers), self._numbers, None, who, what, self._clock())

    def close(self, span: Span, error: BaseException | None) -> None:
        """An operation that was not followed is over."""
        span.ended_ns = self._clock()
        span.error = None if error is None else _words(error)

    def sent(self, who: str, message: object, deliver: Deliver) -> Deliver:
        """A message is on its way to `who`; returns what has to deliver its answer."""
        if type(deliver) is Followed:
            return deliver  # it has waited before this actor, and has its span
        parent = self._current if self._working else _root.get()
        if parent is None:
            return deliver
        if self._numbers - self._first >= SPANS:
            self.dropped += 1
            return deliver
        span = self._span(parent.trace_id, parent, who, self._describe(message))
        parent.children.append(span)
        return Followed(self, span, deliver)

    @contextmanager
    def serving(self, trace: Trace, deliver: Deliver) -> Iterator[Deliver]:
        """Serve a message that is traced elsewhere; gives what has to deliver its answer."""
        number = int.from_bytes(trace.span_id, "big")
        stub = self.adopted.get(number)
        if stub is None:
            stub = self.adopted[number] = Span(trace.trace_id, number, None, "", "", self._clock())
            self._live += 1
            self._runtime.tracer = self
        followed = Followed(self, stub, deliver)
        before = self.enter(followed)
        try:
            yield followed
        finally:
            self.leave(before)

    def enter(self, deliver: Deliver) -> tuple[Span | None, bool]:
        """Work begins, or goes on, on the message whose answer `deliver` takes. `leave` gets the result."""
        before = self._current, self._working
        self._become(deliver.span if type(deliver) is Followed else None, True)
        return before

    def leave(self, before: tuple[Span | None, bool]) -> None:
        """That work is over for now."""
        self._become(*before)

    def context(self) -> Trace | None:
        """Where whatever happens now belongs; None if it is part of nothing that is followed."""
        span = self._current if self._working else _root.get()
        return None if span is None else span.context

    def enter_task(self) -> tuple[Span | None, bool]:
        """What this task does by itself, with no actor at work, belongs to its operation. See `tracing`."""
        before = self._current, self._working
        if not self._working:
            self._become(_root.get(), False)
        return before

    def end(self, span: Span, error: BaseException | None) -> None:
        if span.ended_ns is None:
            self.close(span, error)
            if span is self._current:  # whoever worked on it goes on with something else, if with anything
                self._become(None, self._working)
            self._live -= 1
            if not self._live:
                self._runtime.tracer = None

    def _become(self, span: Span | None, working: bool) -> None:
        self._working = working
        if span is not self._current:
            self._current = span
            self._divert(None if span is None else span.counts)

    def _span(self, trace: bytes, parent: Span | None, who: str, what: str) -> Span:
        self._numbers += 1
        self._live += 1
        self._runtime.tracer = self
        return Span(trace, self._numbers, parent, who, what, self._clock())


@contextmanager
def tracing(tracer: Tracer | None) -> Iterator[None]:
    """What is counted inside, by a task that is no actor, is of the operation that it traces. No awaits."""
    if tracer is None:
        yield
        return
    before = tracer.enter_task()
    try:
        yield
    finally:
        tracer.leave(before)


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, NestbedError) else type(error).__name__
