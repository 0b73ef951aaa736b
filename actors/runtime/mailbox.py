"""The bounded queue in front of an actor, and the wait for one answer.

Trio's own channels make a pass through the scheduler for every message, twice for a question with its answer.
Here a message is put without a pass, taken in batches, and its answer wakes the waiting task directly.

`Reply` is the only place in the program that touches Trio's bare rescheduling, because a wake-up that comes
too late, for a task that was cancelled meanwhile and waits elsewhere by now, would bring down the whole run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import trio
from trio.lowlevel import current_task, reschedule, wait_task_rescheduled

from protocol.errors import NotDelivered

if TYPE_CHECKING:
    import outcome

T = TypeVar("T")

CAPACITY = 1024  # messages
BATCH = 64  # messages taken between two passes through the scheduler


class MailboxFull(NotDelivered):
    """The receiver has as many messages waiting as it may have; nothing was handled."""


@dataclass(frozen=True, slots=True)
class MailboxStatistics:
    """What a mailbox holds, for metrics. Counts of messages."""

    depth: int
    peak: int
    capacity: int


class Mailbox(Generic[T]):
    """A bounded queue without tasks: whoever puts and whoever takes do so without waiting."""

    __slots__ = ("capacity", "items", "peak")

    def __init__(self, capacity: int = CAPACITY) -> None:
        if capacity < 1:
            raise ValueError(f"a mailbox holds at least one message, not {capacity}")
        self.items: deque[T] = deque()
        self.capacity = capacity
        self.peak = 0

    def __len__(self) -> int:
        return len(self.items)

    def put(self, item: T) -> None:
        """Append `item`; raises MailboxFull."""
        depth = len(self.items)
        if depth >= self.capacity:
            raise MailboxFull(f"{depth} messages wait already")
        self.items.append(item)
        if depth >= self.peak:
            self.peak = depth + 1

    def take(self) -> T:
        """Return the oldest item; raises IndexError when there is none."""
        return self.items.popleft()

    def remove(self, matches: Callable[[T], bool]) -> list[T]:
        """Take out every item that matches, and return them in order."""
        removed: list[T] = []
        kept: list[T] = []
        for item in self.items:
            (removed if matches(item) else kept).append(item)
        if removed:
            self.items.clear()  # the queue stays the same object: its actor looks at it
            self.items.extend(kept)
        return removed

    def statistics(self) -> MailboxStatistics:
        return MailboxStatistics(len(self.items), self.peak, self.capacity)


class Reply:
    """One answer, and at most one task that waits for it.

    An answer that comes after its waiter was cancelled is dropped. The task is woken with this object itself:
    what Trio wakes a task with need only be something to `unwrap`.
    """

    __slots__ = ("_task", "done", "error", "value")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None

    def deliver(self, value: object, error: BaseException | None) -> None:
        """Take the answer and wake whoever waits. Call it from Trio's thread, once."""
        assert not self.done, "answered twice"
        self.done, self.value, self.error = True, value, error
        task, self._task = self._task, None
        if task is not None:
            reschedule(task, cast("outcome.Outcome[Any]", self))

    def unwrap(self) -> Any:
        """Return the value or raise the error. There has to be one."""
        if self.error is not None:
            raise self.error
        return self.value

    async def wait(self) -> Any:
        """Return the value or raise the error; waits only if there is none yet.

        Cancelling the wait ends the wait: what was asked goes on, and its answer is dropped.
        """
        if self.done:
            return self.unwrap()
        assert self._task is None, "one answer, one waiter"
        self._task = current_task()
        return await wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        # From here on `deliver` finds nobody to wake.
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
