"""Actors: a handler and what waits for it.

A handler is a plain function, message to answer, or returns a step (`protocol.effects.Step`): a generator
that yields an effect where it needs somebody else. Handlers never await.

Theory of operation. A message to a local actor that is not at work and has nothing queued is handled at once,
in the task of whoever sent it. A step that yields is *parked*: it stands in the actor's in-flight table,
others are handled, and whoever delivers the effect's answer continues it, in its own task. So between two
yields an actor is never interrupted, and an actor at rest is an object without a task. What cannot be handled
at once is queued; then a task is started that drains the queue in batches and ends with it.

How much is done inline is bounded: after INLINE_CALLS or INLINE_SECONDS of it the next caller makes a pass
through the scheduler first; and inline calls nest no deeper than INLINE_DEPTH.

What a handler raises:
  OperationalError, RemoteProtocolError   the answer to this message
  any other exception                     the death of the actor: every asker gets LevelGone, and whoever
                                          watches a notice
The asker never sees the callee's own failure as its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from types import GeneratorType
from typing import Any

import trio

from actors.runtime.mailbox import BATCH, CAPACITY, Mailbox, MailboxFull, MailboxStatistics, Reply
from actors.runtime.port import Deliver
from actors.runtime.tracing import Tracer
from protocol.effects import Effect, Step
from protocol.errors import LevelGone, LocalProtocolError, OperationalError, OwnerGone, RemoteProtocolError

INLINE_CALLS = 64
INLINE_SECONDS = 0.001
INLINE_DEPTH = 16

Handler = Callable[[Any], object]
Perform = Callable[[Effect, Deliver], None]
_Message = tuple[object, Deliver, Hashable]
_ANSWERS = (OperationalError, RemoteProtocolError)

# States of a step under way.
ASKED = 0  # whoever performs the effect that it yielded is still at it
PARKED = 1  # the effect's answer has yet to come
ANSWERED = 2  # the answer is here, or the step runs with it
FINISHED = 3  # the asker has its answer


@dataclass(frozen=True, slots=True)
class ActorDeath:
    """A notice that nobody waits for: who died, and of what (None: it was stopped)."""

    name: str
    error: Exception | None


class Runtime:
    """What the actors of one Trio run share: a nursery for those that are busy, and the inline budget.

    Make one with `open_runtime`. `clock` tells seconds; Trio's own if not given. `tracer`
    is there while messages are followed.
    """

    __slots__ = ("_clock", "_nursery", "_since", "calls", "depth", "tracer")

    def __init__(self, nursery: trio.Nursery, clock: Callable[[], float] | None = None) -> None:
        self._nursery = nursery
        self._clock = clock or _trios_clock()
        self._since = self._clock()
        self.calls = 0
        self.depth = 0
        self.tracer: Tracer | None = None

    def spend(self) -> bool:
        """Account for one inline call; False when the budget is spent, or it would nest too deep."""
        self.calls += 1
        return (
            self.calls <= INLINE_CALLS
            and self.depth < INLINE_DEPTH
            and self._clock() - self._since < INLINE_SECONDS
        )

    def has_room(self) -> bool:
        """Is the budget good for a call with all those that it sets off?

        Who may wait asks this first: to breathe now costs less than to be queued half-way.
        """
        return self.calls < INLINE_CALLS - INLINE_DEPTH and self._clock() - self._since < INLINE_SECONDS

    async def breathe(self) -> None:
        """Let others run, and start a new budget. The budget is the run's, so it bounds every task's."""
        await trio.lowlevel.checkpoint()
        self.renew()

    def renew(self) -> None:
        """Start a new budget: the scheduler has just had its turn."""
        self.calls = 0
        self._since = self._clock()

    def start(self, actor: Actor) -> None:
        self._nursery.start_soon(actor._drain, name=f"{actor.name} drains")


def _trios_clock() -> Callable[[], float]:
    """So that a run on a simulated clock is repeatable.

    Where it is the system's, the budget is read from the same source without the detour: once for each call.
    """
    clock = trio.lowlevel.current_clock()
    return perf_counter if type(clock).__name__ == "SystemClock" else clock.current_time


@asynccontextmanager
async def open_runtime(clock: Callable[[], float] | None = None) -> AsyncIterator[Runtime]:
    """Give a `Runtime` to the block; leaving the block ends whatever its actors still do."""
    async with trio.open_nursery() as nursery:
        yield Runtime(nursery, clock)
        nursery.cancel_scope.cancel()


class InFlight:
    """A step under way. It stands in its actor's table from its first yield to its end."""

    __slots__ = ("actor", "deliver", "effect", "error", "orphaned", "owner", "state", "step", "value")

    def __init__(self, actor: Actor, step: Step[Any], deliver: Deliver, owner: Hashable) -> None:
        self.actor, self.step, self.deliver, self.owner = actor, step, deliver, owner
        self.effect: Effect | None = None  # what it yielded last
        self.state = ASKED
        self.orphaned = False  # its owner is gone and it has not been told yet

    def resume(self, value: object, error: BaseException | None) -> None:
        """Deliver the answer to the effect that the step yielded last."""
        state = self.state
        if state == FINISHED:
            return  # the actor died meanwhile, and the asker knows
        assert state != ANSWERED, "answered twice"
        self.value, self.error = value, error
        self.state = ANSWERED
        if state == PARKED:
            self.actor._continue(self)

    def waits_for(self) -> str:
        """What it waits for, in a few words."""
        return _what(self.effect)

    def finish(self, value: object, error: BaseException | None) -> None:
        """Answer the asker, unless the actor's death has done so."""
        if self.state != FINISHED:
            self.state = FINISHED
            self.deliver(value, error)


def _what(effect: Effect | None) -> str:
    """An effect in a few words: its kind, and which operation."""
    operation = getattr(effect, "operation", None)
    return type(effect).__name__.lower() if operation is None else f"{operation} below"


def _nothing_below(effect: Effect, _deliver: Deliver) -> None:
    raise LocalProtocolError(f"nothing below could perform {effect!r}")


class Actor:
    """A name, a handler, and what waits for it. `submit` and `ask` are how it is reached.

    `perform(effect, deliver)` carries out what the handler's steps yield; without it they may not yield.
    """

    __slots__ = (
        "_answered",
        "_at_work",
        "_capacity",
        "_draining",
        "_handler",
        "_in_flight",
        "_mailbox",
        "_perform",
        "_queue",
        "_runtime",
        "_watchers",
        "dead",
        "name",
    )

    def __init__(
        self,
        name: str,
        handler: Handler,
        runtime: Runtime,
        *,
        perform: Perform = _nothing_below,
        capacity: int = CAPACITY,
    ) -> None:
        self.name = name
        self.dead: ActorDeath | None = None
        self._handler = handler
        self._perform = perform
        self._runtime = runtime
        self._capacity = capacity
        self._at_work = False
        self._draining = False
        # Made when they are first needed: a hundred thousand guests at rest need neither.
        self._mailbox: Mailbox[_Message] | None = None
        self._queue: Sequence[_Message] = ()  # what is in the mailbox: asked before every message
        self._in_flight: dict[InFlight, None] | None = None  # a set that keeps its order
        self._answered: list[InFlight] | None = None
        self._watchers: tuple[Callable[[ActorDeath], None], ...] = ()

    # -- from outside --------------------------------------------------------------------

    async def ask(self, message: object, owner: Hashable = None) -> Any:
        """Send `message` and return its answer.

        A checkpoint for cancellation always, for the scheduler when the budget is spent or the answer takes a
        wait. A cancelled caller stops waiting; what it asked for goes on. Raises MailboxFull, LevelGone, and
        what the handler gave as its answer.
        """
        runtime = self._runtime
        await trio.lowlevel.checkpoint_if_cancelled()
        if not runtime.spend():
            await runtime.breathe()
        reply = Reply()
        deliver: Deliver = reply.deliver
        if runtime.tracer is not None:
            deliver = self.follow(message, deliver)
        if self._at_work or self._queue or self.dead is not None:
            self._put(message, deliver, owner)
        else:
            self._handle(message, deliver, owner)
        if reply.done:
            if reply.error is not None:
                raise reply.error
            return reply.value
        return await reply.wait()

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Send `message`; its answer is delivered, perhaps before this returns. See `Port.submit`."""
        if self._runtime.tracer is not None:
            deliver = self.follow(message, deliver)
        if self._at_work or self._queue or self.dead is not None or not self._runtime.spend():
            self._put(message, deliver, owner)
        else:
            self._handle(message, deliver, owner)

    def follow(self, message: object, deliver: Deliver) -> Deliver:
        """Begin the span of a message to this actor, if it is one of a traced operation."""
        tracer = self._runtime.tracer
        return deliver if tracer is None else tracer.sent(self.name, message, deliver)

    def abandon(self, owner: Hashable) -> int:
        """Say that `owner` is gone: each of its parked steps gets the answer it waits for, then OwnerGone.

        It may still yield, to undo what it did. What is queued for the owner is not begun: OwnerGone is its
        answer. Returns how many steps are concerned.
        """
        orphans = [entry for entry in self._in_flight or () if entry.owner == owner]
        for entry in orphans:
            entry.orphaned = True
        if self._mailbox:
            for _, deliver, _ in self._mailbox.remove(lambda queued: queued[2] == owner):
                deliver(None, OwnerGone(f"{self.name}: {owner!r} is gone"))
        return len(orphans)

    def watch(self, notify: Callable[[ActorDeath], None]) -> None:
        """Have `notify` called once when this actor dies; at once if it is dead."""
        if self.dead is not None:
            notify(self.dead)
        else:
            self._watchers += (notify,)

    async def run(self, *, task_status: trio.TaskStatus[Actor] = trio.TASK_STATUS_IGNORED) -> None:
        """Live until death, as a supervisor's child: raises what it died of; cancelling stops the actor."""
        death = Reply()
        self.watch(lambda notice: death.deliver(None, notice.error))
        task_status.started(self)
        try:
            await death.wait()
        finally:
            self.stop()

    def stop(self) -> None:
        """End this actor: everyone who waits gets LevelGone. Stopping a dead one changes nothing."""
        self._die(None)

    def statistics(self) -> tuple[MailboxStatistics, int]:
        """What waits in the mailbox, and how many steps are parked."""
        mailbox = self._mailbox
        waiting = mailbox.statistics() if mailbox is not None else MailboxStatistics(0, 0, self._capacity)
        return waiting, len(self._in_flight or ())

    def under_way(self) -> list[InFlight]:
        """The steps that are parked."""
        return list(self._in_flight or ())

    # -- one message ---------------------------------------------------------------------

    def _put(self, message: object, deliver: Deliver, owner: Hashable) -> None:
        if self.dead is not None:
            deliver(None, self._gone())
            return
        if self._mailbox is None:
            self._mailbox = Mailbox(self._capacity)
            self._queue = self._mailbox.items
        try:
            self._mailbox.put((message, deliver, owner))
        except MailboxFull as error:
            deliver(None, MailboxFull(f"{self.name}: {error}"))
            return
        self._drain_soon()

    def _handle(self, message: object, deliver: Deliver, owner: Hashable) -> None:
        runtime = self._runtime
        tracer = runtime.tracer
        before = None if tracer is None else tracer.enter(deliver)
        runtime.depth += 1
        self._at_work = True
        try:
            entry = None
            try:
                answer = self._handler(message)
                if type(answer) is GeneratorType:
                    step: Step[Any] = answer
                    try:
                        effect = step.send(None)
                    except StopIteration as stop:
                        answer = stop.value  # it did not have to wait for anybody
                    else:
                        entry = InFlight(self, step, deliver, owner)
            except _ANSWERS as error:
                self._rest()
                deliver(None, error)
                return
            except Exception as error:
                self._at_work = False
                self._die(error)
                deliver(None, self._gone())
                return
            except BaseException:
                self._at_work = False
                raise
            if entry is not None:
                self._at_work = False
                self._advance(entry, self._performed(entry, effect))
                return
            self._rest()
            deliver(answer, None)
        finally:
            runtime.depth -= 1
            if tracer is not None and before is not None:
                tracer.leave(before)

    def _advance(self, entry: InFlight, answered: bool) -> None:
        """Run a step, whose answer is there if `answered`, until it ends or has to wait for one."""
        tracer = self._runtime.tracer
        if tracer is None:
            self._run(entry, answered)
            return
        before = tracer.enter(entry.deliver)
        try:
            self._run(entry, answered)
        finally:
            tracer.leave(before)

    def _run(self, entry: InFlight, answered: bool) -> None:
        step = entry.step
        while answered:
            self._at_work = True
            try:
                effect = step.send(entry.value) if entry.error is None else step.throw(entry.error)
            except StopIteration as stop:
                self._end(entry, stop.value, None)
                return
            except _ANSWERS as answer:
                self._end(entry, None, answer)
                return
            except Exception as fatal:
                self._at_work = False
                self._die(fatal)
                entry.finish(None, self._gone())
                return
            except BaseException:
                self._at_work = False
                raise
            # At a yield the actor is at rest: what the effect sets off may come back to it.
            self._at_work = False
            if entry.orphaned:
                entry.orphaned = False
                entry.value, entry.error = None, OwnerGone(f"{self.name}: {entry.owner!r} is gone")
            else:
                answered = self._performed(entry, effect)
        if self._answered or self._queue:
            self._drain_soon()

    def _performed(self, entry: InFlight, effect: Effect) -> bool:
        """Have `effect` performed; True if its answer is there, False if the step is parked or over."""
        if self.dead is not None:
            entry.finish(None, self._gone())
            return False
        if self._in_flight is None:
            self._in_flight = {}
        self._in_flight[entry] = None
        entry.state, entry.effect = ASKED, effect
        try:
            self._perform(effect, entry.resume)
        except (LocalProtocolError, *_ANSWERS) as refused:
            if entry.state != FINISHED:
                entry.state, entry.value, entry.error = ANSWERED, None, refused
        if entry.state == ASKED:
            entry.state = PARKED
        return entry.state == ANSWERED

    def _end(self, entry: InFlight, value: object, error: BaseException | None) -> None:
        if self._in_flight:
            self._in_flight.pop(entry, None)
        self._at_work = False
        if self._answered or self._queue:
            self._drain_soon()
        if entry.state != FINISHED:  # the actor's death may have answered it
            entry.state = FINISHED
            entry.deliver(value, error)

    def _continue(self, entry: InFlight) -> None:
        """Go on with a parked step, in the task of whoever delivered its answer."""
        if self._at_work:
            # The answer was set off by this actor's own handler, which is not at a yield: after it then.
            self._answered = [*(self._answered or ()), entry]
        else:
            self._advance(entry, True)

    # -- the queue -----------------------------------------------------------------------

    def _rest(self) -> None:
        self._at_work = False
        if self._answered or self._queue:
            self._drain_soon()

    def _drain_soon(self) -> None:
        if not self._draining:
            self._draining = True
            self._runtime.start(self)

    async def _drain(self) -> None:
        """Handle what is queued, a batch between two passes through the scheduler, and end."""
        self._runtime.renew()
        try:
            while True:
                for _ in range(BATCH):
                    if not self._handle_next():
                        return  # and with the task ends its turn
                await self._runtime.breathe()
        finally:
            self._draining = False

    def _handle_next(self) -> bool:
        if self._answered:
            entry, *rest = self._answered
            self._answered = rest or None
            self._advance(entry, True)
        elif self._mailbox is not None and self._queue:
            self._handle(*self._mailbox.take())
        else:
            return False
        return True

    # -- the end -------------------------------------------------------------------------

    def _gone(self) -> LevelGone:
        died = self.dead is not None and self.dead.error is not None
        return LevelGone(f"{self.name} {'died' if died else 'was stopped'}")

    def _die(self, error: Exception | None) -> None:
        if self.dead is not None:
            return
        self.dead = notice = ActorDeath(self.name, error)
        parked, self._in_flight = self._in_flight, None
        mailbox, self._mailbox = self._mailbox, None
        self._queue = ()
        self._answered = None
        for entry in parked or ():
            entry.finish(None, self._gone())
        while mailbox:
            _, deliver, _ = mailbox.take()
            deliver(None, self._gone())
        watchers, self._watchers = self._watchers, ()
        for notify in watchers:
            notify(notice)
