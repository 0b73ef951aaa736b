"""How far something long is: plain lines on stderr, for whoever waits. What is found goes to stdout."""

from __future__ import annotations

import sys
import time

EVERY = 10.0  # seconds between two lines


class Progress:
    """Call it as often as you like: it speaks now and then, and when the last part is done."""

    def __init__(self, what: str, parts: int, unit: str, every: float = EVERY) -> None:
        self._what, self._parts, self._unit, self._every = what, parts, unit, every
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, more: str = "") -> None:
        """`done` parts are done; `more` is what else there is to say."""
        now = time.monotonic()
        if done < self._parts and now - self._said < self._every:
            return
        self._said = now
        line = f"{self._what}: {done:,} of {self._parts:,} {self._unit}, {now - self._began:,.0f} s"
        print(f"{line}, {more}" if more else line, file=sys.stderr, flush=True)
