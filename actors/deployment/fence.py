"""A lease, as the one who holds it keeps it: past its end nothing is answered any more.

A process that was stopped for a while (SIGSTOP, a suspended machine) does not know it. So the end of a lease
is a point of the system's monotonic clock, which all processes of a machine share, and it is looked at before
every message that is served: whoever comes back too late finds itself fenced before it has done anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from actors.runtime.link import Serve
from actors.runtime.port import Deliver
from protocol.errors import NotDelivered

FOREVER = float("inf")


class Fence:
    """Whether this process may still speak for its part. `fenced` is called once, when it may not."""

    def __init__(self, fenced: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.until = FOREVER
        self.refused = 0
        self._fenced = fenced
        self._clock = clock
        self._over = False

    def renew(self, until: float) -> bool:
        """Take a longer lease. A lease that is over stays over: False."""
        if not self.holds():
            return False
        self.until = until
        return True

    def holds(self) -> bool:
        if not self._over and self._clock() > self.until:
            self._over = True
            self._fenced()
        return not self._over

    def before(self, serve: Serve) -> Serve:
        """`serve`, behind the fence."""

        def fenced(target: str, message: object, deliver: Deliver) -> None:
            if self.holds():
                serve(target, message, deliver)
            else:
                self.refused += 1
                deliver(None, NotDelivered("fenced: the lease of this part is over"))

        return fenced
