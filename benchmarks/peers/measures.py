"""What every measured runtime shares: the message, how a rate is taken, how a figure is told.

Each runtime is a program of its own in this folder, so that none slows another down. It prints one JSON
object: discipline to value. Rates are per second of the CPU's time, of all threads and processes that the
program has started together: so a busy machine favours nobody. A death is told in milliseconds of the wall.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

SECONDS = 1.5  # of the wall, for one rate
WARM = 200
ACTORS = 10_000
DEATHS = 10
MESSAGE = {
    "cid": 281474976710656, "frame": 140737488355328, "vcpu": 7, "kind": 3, "flags": 1,
    "op": "create_cpu", "who": "l1.0", "arch": "s390", "path": "nested", "list": [7, 4096, 65537],
}  # fmt: skip

LOCAL, LOCAL_64 = "local ask, one at a time", "local ask, 64 at a time"
REMOTE, REMOTE_64 = "remote ask, one at a time", "remote ask, 64 at a time"
MEMORY, START = "memory of an idle actor", "start of an actor"
DEATH = "death to next answered call"
UNITS = {LOCAL: "ask/s", LOCAL_64: "ask/s", REMOTE: "ask/s", REMOTE_64: "ask/s"} | {
    MEMORY: "bytes",
    START: "actor/s",
    DEATH: "ms",
}


def cpu() -> float:
    """Seconds of the CPU's time that this process and all that came from it have used."""
    parents, spent = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                tasks = [(task / "schedstat").read_text() for task in (folder / "task").iterdir()]
            except OSError:  # it has just ended
                continue
            parents[int(folder.name)] = int(after_name[1])
            spent[int(folder.name)] = sum(int(task.split()[0]) for task in tasks)
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(spent[pid] for pid in ours if pid in spent) / 1e9


def rate(some: Callable[[int], None], chunk: int = 256) -> float:
    """Calls per second; `some(n)` does n of them."""
    some(WARM)
    done, begin, until = 0, cpu(), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        some(chunk)
        done += chunk
    return done / (cpu() - begin)


async def arate(some: Callable[[int], Awaitable[None]], chunk: int = 256) -> float:
    await some(WARM)
    done, begin, until = 0, cpu(), time.perf_counter() + SECONDS
    while time.perf_counter() < until:
        await some(chunk)
        done += chunk
    return done / (cpu() - begin)


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def tell(figures: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
