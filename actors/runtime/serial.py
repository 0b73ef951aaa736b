"""One at a time: a port before an actor whose messages must not overlap.

An actor handles the next message while a step of the last one is parked. Where a message has to be over
before the next begins, it waits here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from actors.runtime.mailbox import CAPACITY, MailboxFull
from actors.runtime.port import Deliver, Port


class Serial:
    """A `Port` that hands over a message when the one before has been answered."""

    __slots__ = ("_busy", "_port", "_waiting", "capacity")

    def __init__(self, port: Port, capacity: int = CAPACITY) -> None:
        self._port = port
        self._waiting: deque[tuple[object, Deliver, Hashable]] = deque()
        self._busy = False
        self.capacity = capacity

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Send `message` in its turn; what waits beyond the capacity is answered MailboxFull."""
        if len(self._waiting) >= self.capacity:
            deliver(None, MailboxFull(f"{self.capacity} messages wait already"))
            return
        self._waiting.append((message, deliver, owner))
        if not self._busy:
            self._go_on()

    def _go_on(self) -> None:
        """Hand over what waits, as long as answers come at once: a loop, so that no calls nest."""
        self._busy = True
        while self._waiting:
            message, deliver, owner = self._waiting.popleft()
            turn = _Turn(self, deliver)
            self._port.submit(message, turn.answered, owner)
            if not turn.over:
                turn.late = True
                return
        self._busy = False


class _Turn:
    """One message under way."""

    __slots__ = ("_deliver", "_serial", "late", "over")

    def __init__(self, serial: Serial, deliver: Deliver) -> None:
        self._serial, self._deliver = serial, deliver
        self.over = self.late = False

    def answered(self, value: object, error: BaseException | None) -> None:
        self.over = True
        self._deliver(value, error)
        if self.late:
            self._serial._go_on()
