"""The whole: a comparison, and a hundred thousand guests.

The comparison is the default one, every architecture on every path, in seconds of the CPU's time; beside it
the same with the direct path alone. The guests have 1 MiB and one CPU each, are loaded, verified, started,
and then at rest on one s390 host in this process: what it takes in memory for them, pages of their emulated
memory and tables among them; beside the memory that they have.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from actors.compare.progress import Progress
from actors.compare.run import run
from actors.scenario import load
from benchmarks.growth.ground import Ground
from benchmarks.run import Case

MANY = 100_000


def compared(paths: str) -> float:
    scenario = load("default", flags={"paths": paths}, environment={}).scenario
    begin = time.process_time()
    run(scenario, Progress())
    return time.process_time() - begin


def resident() -> int:
    """Bytes of this process in memory, files left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no RssAnon in /proc/self/status")


def held(guests: int) -> float:
    """MiB that so many guests at rest take."""
    ground = Ground("s390", 0, guests=guests + 1)
    ground.live(0, 0)
    before = resident()
    for number in range(guests):
        ground.make(0, number)
    return (resident() - before) / (1 << 20)


def cases() -> Iterable[Case]:
    everything = partial(compared, "direct,nested,hosted")
    yield Case("compare, all architectures and paths", "s", everything, partial(compared, "direct"))
    yield Case(
        f"memory of {MANY:,} secure guests in one process", "MiB", partial(held, MANY), lambda: float(MANY)
    )
