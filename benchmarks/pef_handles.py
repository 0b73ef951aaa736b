"""How fast guests become secure on POWER, and what it makes to pass a handle on or to exchange it.

The baseline of handles passed is the same with LPIDs exchanged (`mapped`, nesting API v1); that of guests of
L1 beside those of L0 is the machine itself. What they differ in in counts is printed by `nestbed compare
--arch pef`, with `--set strategy.handles=mapped` beside it; here is what that costs this program. Seconds are
of CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from random import Random
from statistics import median

from benchmarks.run import Case
from protocol.arch.pef.comparison import COMPARISON
from protocol.arch.pef.profiles import MIB
from protocol.crossing import inline
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

TIMES = 5
GUESTS = 6
PAGES = 64  # of the kernel, 4 KiB each


def guests(depth: int, handles: str) -> float:
    """Guests a second that are made, become secure and are destroyed again; the median of several runs."""
    rates = []
    for _ in range(TIMES + 1):
        rig = COMPARISON.compose(Sizes("small", depth, 1, 256 * MIB, 1, 1, {"handles": handles}), Ledger())
        image = COMPARISON.image(1, PAGES, None)
        host = COMPARISON.software(rig, 0, Random(1), pages="two_fault", bulk=False, image=image)
        below = rig.below(0)
        inline(host.perform(op.BootHost()), below)
        begin = time.process_time()
        for number in range(GUESTS):
            for act in (op.Create(number, 4, 1), op.Load(number), op.Start(number), op.Destroy(number)):
                inline(host.perform(act), below)
        rates.append(GUESTS / (time.process_time() - begin))
    return median(rates[1:])  # the first one warms up


def cases() -> Iterable[Case]:
    """What `./x bench` measures."""
    passed = partial(guests, 1, "passed")
    yield Case("pef: guests of L1, handles passed", "guest/s", passed, partial(guests, 1, "mapped"))
    yield Case("pef: guests of L1, beside those of L0", "guest/s", passed, partial(guests, 0, "passed"))
