"""One at a time: a port before an actor whose messages must not overlap.

An actor handles the next message while a step of the last one is parked. Where a message has to be over
before the next begins, it waits here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable

from actors.runtime.mailbox import CAPACITY, MailboxFull
from actors.runtime.port import Deliver, Port, ignore
from actors.runtime.tracing import Followed, settled

Follow = Callable[[object, Deliver], Deliver]


class Serial:
    """A `Port` that hands over a message when the one before has been answered."""

    __slots__ = ("_busy", "_deliver", "_follow", "_late", "_over", "_port", "_waiting", "capacity")

    def __init__(self, port: Port, capacity: int = CAPACITY, follow: Follow | None = None) -> None:
        """`follow` is told of each message when it comes, so that its span begins before its wait."""
        self._port = port
        self._follow = follow
        self._waiting: deque[tuple[object, Deliver, Hashable]] = deque()
        self._busy = False
        # Of the one message that is under way:
        self._deliver: Deliver = ignore
        self._over = True  # it has been answered
        self._late = False  # the answer was not there when it was handed over
        self.capacity = capacity

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Send `message` in its turn; what waits beyond the capacity is answered MailboxFull."""
        if self._follow is not None:
            deliver = self._follow(message, deliver)
        if not self._busy:
            self._busy = True
            self._hand_over(message, deliver, owner)
            if self._waiting and self._over:
                self._go_on()
            else:
                self._busy = not self._over
        elif len(self._waiting) < self.capacity:
            self._waiting.append((message, settled(deliver), owner))
        else:
            deliver(None, MailboxFull(f"{self.capacity} messages wait already"))

    @property
    def deliver(self) -> Deliver:
        """What takes the answer of the message that is under way."""
        return self._deliver

    def _hand_over(self, message: object, deliver: Deliver, owner: Hashable) -> None:
        self._deliver = deliver
        self._over = self._late = False
        answered: Deliver = self._answered
        if type(deliver) is Followed:
            answered = deliver.before(answered)
        self._port.submit(message, answered, owner)
        self._late = not self._over

    def _answered(self, value: object, error: BaseException | None) -> None:
        late = self._late
        self._over = True
        self._deliver(value, error)
        if late:
            self._go_on()

    def _go_on(self) -> None:
        """Hand over what waits, as long as answers come at once: a loop, so that no calls nest."""
        while self._waiting:
            self._hand_over(*self._waiting.popleft())
            if not self._over:
                return
        self._busy = False
