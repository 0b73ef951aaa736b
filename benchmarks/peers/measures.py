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

SECONDS = 0.6  # of the CPU, for one rate
PATIENCE_S = 6.0  # of the wall, on a busy machine
WARM = 200
ACTORS = 10_000
DEATHS = 10
MESSAGE = {
    "cid": 281474976710656, "frame": 140737488355328, "vcpu": 7, "kind": 3, "flags": 1,
    "op": "create_cpu", "who": "l1.0", "arch": "s390", "path": "nested", "list": [7, 4096, 65537],
}  # fmt: skip

LOCAL, LOCAL_64 = "local ask, one at a time", "local ask, 64 at a time"
REMOTE, REMOTE_64 = "remote ask, one at a time", "remote ask, 64 at a time"
CALLERS_64 = "remote ask, 64 tasks, each one at a time"
MEMORY, START = "memory of an idle actor", "start of an actor"
DEATH = "death to next answered call"
FIRST, FIRST_REMOTE = "start to first local answer", "start to first answer of another process"
BEGAN = "NESTBED_BENCH_BEGAN"  # when the program was started, in seconds of the system's clock
UNITS = {LOCAL: "ask/s", LOCAL_64: "ask/s", REMOTE: "ask/s", REMOTE_64: "ask/s"} | {
    CALLERS_64: "ask/s",
    MEMORY: "bytes",
    START: "actor/s",
    DEATH: "ms",
    FIRST: "ms",
    FIRST_REMOTE: "ms",
}


def family() -> set[int]:
    """This process and all that came from it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
            parents[int(folder.name)] = int(after_name[1])
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours


def used(pids: set[int]) -> float:
    """Seconds of the CPU's time that these processes have used, with all of their threads."""
    spent = 0
    for pid in pids:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                spent += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return spent / 1e9


class Stretch:
    """A stretch of work: over once it has used SECONDS of the CPU, or has waited for them too long."""

    def __init__(self) -> None:
        self._family = family()
        self._until = time.perf_counter() + PATIENCE_S
        self._begin = used(self._family)

    @property
    def spent(self) -> float:
        return used(self._family) - self._begin

    def over(self) -> bool:
        return self.spent >= SECONDS or time.perf_counter() >= self._until


def rate(some: Callable[[int], None], chunk: int = 256) -> float:
    """Calls per second; `some(n)` does n of them."""
    some(WARM)
    done, stretch = 0, Stretch()
    while not stretch.over():
        some(chunk)
        done += chunk
    return done / stretch.spent


async def arate(some: Callable[[int], Awaitable[None]], chunk: int = 256) -> float:
    await some(WARM)
    done, stretch = 0, Stretch()
    while not stretch.over():
        await some(chunk)
        done += chunk
    return done / stretch.spent


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def since_start() -> float:
    """Milliseconds since this program was started: its interpreter and its imports are in."""
    return 1000 * (time.time() - float(os.environ.get(BEGAN, "nan")))


def tell(figures: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
