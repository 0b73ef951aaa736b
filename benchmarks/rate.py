"""How often something is done in a second, and the same call at four depths: how calls are measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median

from benchmarks.run import Case

SECONDS = 0.2
TIMES = 5


def rate(work: Callable[[], int]) -> float:
    """Units a second: `work` does some and says how many. The median of several, after one to warm up."""
    work()
    rates = []
    for _ in range(TIMES):
        done, begin = 0, time.process_time()
        while (took := time.process_time() - begin) < SECONDS:
            done += work()
        rates.append(done / took)
    return median(rates)


def at_depths(what: str, unit: str, at: Callable[[int], float], least: Callable[[], float]) -> Iterable[Case]:
    """The machine's own beside the least that any emulation does, then nested ones beside the machine's."""
    direct = partial(at, 0)
    yield Case(f"{what} of the machine itself", unit, direct, least)
    yield Case(f"{what} of L1, through L0", unit, partial(at, 1), direct)
    yield Case(f"{what} of L2, through L1 and L0", unit, partial(at, 2), direct)
    yield Case(f"{what} of L3, through three levels", unit, partial(at, 3), direct)
