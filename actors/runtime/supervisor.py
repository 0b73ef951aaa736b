"""Supervision as data: what to start, when to start it again, how long to wait for its end.

A child is an async function that runs until it is done or cancelled. Children are started from left to right,
each when the one before says that it has started, and stopped from right to left. A child that ends against
its policy is started again; more than `intensity` restarts within `period_s` seconds, and the supervisor
itself fails, upward.

Every end of a child is a notice (`Death`) to whoever asked for notices: that is how a level learns that a
guest host is gone. At this boundary an exception group with one fault in it becomes that fault, and a
cancellation that travels with a fault never hides it.

Not here: killing. Trio cannot abandon a task, so a child that shields itself without a deadline holds up its
supervisor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

import trio

INTENSITY = 1  # restarts
PERIOD_S = 5.0


class Restart(Enum):
    """When a child that has ended by itself is started again."""

    PERMANENT = "permanent"  # always
    TRANSIENT = "transient"  # when it failed
    TEMPORARY = "temporary"  # never


class How(Enum):
    """How a child ended."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


class RestartsExceeded(Exception):
    """A child failed more often than its supervisor may restart; its last fault is the cause."""


@dataclass(frozen=True, slots=True)
class Child:
    """What a supervisor must know about a child.

    `start(running)` is the child: it calls `running.started()` when others may rely on it. `shutdown_s` is
    how long it is asked politely (`running.stopping` is set) before it is cancelled; 0 cancels at once.
    """

    id: str
    start: Callable[[Running], Awaitable[None]]
    restart: Restart = Restart.PERMANENT
    shutdown_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Death:
    """The end of one life of a child. `error` is set when it failed; `final` when it is not started again."""

    id: str
    life: int  # 1 for the first
    how: How
    error: BaseException | None
    final: bool


@dataclass(slots=True, eq=False)
class Running:
    """One child as it runs; the child itself gets this, too."""

    child: Child
    life: int = 0
    stopping: trio.Event = field(default_factory=trio.Event)
    _started: trio.Event = field(default_factory=trio.Event)
    _ended: trio.Event = field(default_factory=trio.Event)
    _failure: BaseException | None = None
    _scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def started(self) -> None:
        """Say that others may rely on this child from now on."""
        self._started.set()


def unwrap(error: BaseException) -> BaseException | None:
    """Return the fault in `error`: the only one of a group, else the group of them, without cancellations.

    None when there is nothing in it but cancellation.
    """
    if isinstance(error, trio.Cancelled):
        return None
    if not isinstance(error, BaseExceptionGroup):
        return error
    faults = [fault for fault in map(unwrap, error.exceptions) if fault is not None]
    if len(faults) == 1:
        return faults[0]
    return error.derive(faults) if faults else None


@dataclass(frozen=True, slots=True)
class SupervisorStatistics:
    """What a supervisor keeps, for metrics."""

    children: int
    restarts: int  # so far
    left: int  # restarts that the budget has at this moment


class Supervisor:
    """Runs `children` until all are done, one exceeds the budget, or it is cancelled."""

    def __init__(
        self,
        children: Iterable[Child] = (),
        *,
        intensity: int = INTENSITY,
        period_s: float = PERIOD_S,
        lingers: bool = False,
    ) -> None:
        """`lingers` keeps a supervisor without children alive, for those that `add` brings later."""
        self._children = tuple(children)
        self._intensity, self._period_s, self._lingers = intensity, period_s, lingers
        self._running: dict[str, Running] = {}
        self._restarts: deque[float] = deque()
        self._listeners: list[Callable[[Death], None]] = []
        self._nursery: trio.Nursery | None = None
        self._over = trio.Event()
        self._fault: BaseException | None = None
        self.restarts = 0

    def watch(self, notify: Callable[[Death], None]) -> None:
        """Have `notify` called at every death of a child from now on. It must not raise."""
        self._listeners.append(notify)

    def __contains__(self, child_id: object) -> bool:
        return child_id in self._running

    def statistics(self) -> SupervisorStatistics:
        return SupervisorStatistics(len(self._running), self.restarts, self._intensity - self._recent())

    async def run(self, *, task_status: trio.TaskStatus[Supervisor] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the children and keep them.

        Raises RestartsExceeded, or what one of them raised before it had started.
        """
        assert self._nursery is None, "a supervisor runs once"
        try:
            async with trio.open_nursery() as self._nursery:
                try:
                    for child in self._children:
                        await self.add(child)
                    task_status.started(self)
                    if self._running or self._lingers:
                        await self._over.wait()
                finally:
                    # Each child's end has its own deadline, so the shield has one, too.
                    with trio.CancelScope(shield=True):
                        for child_id in reversed(tuple(self._running)):
                            await self.stop(child_id)
        except BaseExceptionGroup as group:
            fault = unwrap(group)
            if fault is None:
                raise
            raise fault from fault.__cause__
        if self._fault is not None:
            raise self._fault

    async def add(self, child: Child) -> Running:
        """Start one more child, the rightmost; returns when it has started.

        What it raises before that is raised here, and it is not started again. Raises ValueError for a name
        in use.
        """
        assert self._nursery is not None, "only a running supervisor takes children"
        if child.id in self._running:
            raise ValueError(f"there is a child {child.id!r} already")
        running = self._running[child.id] = Running(child)
        self._nursery.start_soon(self._keep, running, name=f"child {child.id}")
        await running._started.wait()
        if running._failure is not None:
            raise running._failure
        return running

    async def stop(self, child_id: str) -> None:
        """End a child for good: politely for its `shutdown_s`, then by cancelling.

        One that is unknown has ended already.
        """
        running = self._running.get(child_id)
        if running is None:
            return
        running.stopping.set()
        if running.child.shutdown_s > 0:
            with trio.move_on_after(running.child.shutdown_s):
                await running._ended.wait()
        running._scope.cancel()
        await running._ended.wait()

    async def _keep(self, running: Running) -> None:
        """One child through all of its lives."""
        child = running.child
        again = True
        try:
            while again:
                running.life += 1
                how, error = await self._live(running)
                again = not running.stopping.is_set() and self._restarts_after(child, how)
                if how is How.FAILED and not running._started.is_set():
                    running._failure, again = error, False
                if again and not self._within_budget():
                    self._exceed(child, error)
                    again = False
                self._tell(Death(child.id, running.life, how, error, final=not again))
                self.restarts += again
        finally:
            del self._running[child.id]
            running._ended.set()
            running._started.set()
            if not self._running and not self._lingers:
                self._over.set()

    async def _live(self, running: Running) -> tuple[How, BaseException | None]:
        """One life.

        Its scope is shielded, so that a cancelled supervisor stops its children one by one and in order.
        """
        before, running._scope = running._scope, trio.CancelScope(shield=True)
        if before.cancel_called:
            running._scope.cancel()
        with running._scope:
            try:
                await running.child.start(running)
            except BaseException as raised:
                error = unwrap(raised)
                if not isinstance(error, Exception):
                    raise
                return How.FAILED, error
            return How.STOPPED if running.stopping.is_set() else How.DONE, None
        return How.STOPPED, None

    def _restarts_after(self, child: Child, how: How) -> bool:
        if child.restart is Restart.TRANSIENT:
            return how is How.FAILED
        return child.restart is Restart.PERMANENT

    def _exceed(self, child: Child, error: BaseException | None) -> None:
        self._fault = RestartsExceeded(f"{child.id}: over {self._intensity} in {self._period_s:g} s")
        self._fault.__cause__ = error
        self._over.set()

    def _within_budget(self) -> bool:
        within = self._recent() < self._intensity
        self._restarts.append(trio.current_time())
        return within

    def _recent(self) -> int:
        """Restarts that still count against the budget."""
        now = trio.current_time()
        while self._restarts and self._restarts[0] <= now - self._period_s:
            self._restarts.popleft()
        return len(self._restarts)

    def _tell(self, death: Death) -> None:
        for notify in self._listeners:
            notify(death)
