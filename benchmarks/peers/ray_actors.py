"""Ray: an actor is a process, found through a cluster of one machine. No dashboard.

It listens on every address that it finds, so it runs in a network namespace of its own that has the loopback
alone. Where that cannot be had it is left out.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import time
from pathlib import Path

NEW_USER, NEW_NET = 0x1000_0000, 0x4000_0000
SET_FLAGS, UP = 0x8914, 1  # SIOCSIFFLAGS, IFF_UP


def alone() -> None:
    """Leave the network. Before anything starts a thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_NET) and libc.unshare(NEW_USER | NEW_NET):
        raise SystemExit("no network namespace of its own can be had, and it would listen on every address")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))


alone()
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import logging  # noqa: E402

import ray  # noqa: E402

from benchmarks.peers.measures import (  # noqa: E402
    DEATH,
    FIRST_REMOTE,
    MEMORY,
    MESSAGE,
    REMOTE,
    REMOTE_64,
    START,
    family,
    rate,
    since_start,
    tell,
    used,
)

DEATHS = 3
ACTORS = 4


class Echo:
    def echo(self, message: object) -> object:
        return message

    def pid(self) -> int:
        return os.getpid()


def proportional(pid: int) -> int:
    """Bytes of a process, shared ones divided by those that share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    return 0


def death(echo: object) -> float:
    """Milliseconds from the kill of the actor's process until it answers again."""
    spent = 0.0
    for _ in range(DEATHS):
        pid = ray.get(echo.pid.remote())  # type: ignore[attr-defined]
        begin = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        while True:
            try:
                ray.get(echo.echo.remote(MESSAGE), timeout=30)  # type: ignore[attr-defined]
                break
            except ray.exceptions.RayError:
                time.sleep(0.005)
        spent += time.perf_counter() - begin
    return 1000 * spent / DEATHS


def main() -> None:
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        object_store_memory=100 * 2**20, _node_ip_address="127.0.0.1",
    )  # fmt: skip
    made = ray.remote(num_cpus=0, max_restarts=-1)(Echo)
    echo = made.remote()
    ray.get(echo.echo.remote(MESSAGE))
    first = since_start()

    def some(n: int, at_a_time: int) -> None:
        for _ in range(-(-n // at_a_time)):
            ray.get([echo.echo.remote(MESSAGE) for _ in range(at_a_time)])

    figures = {FIRST_REMOTE: first}
    figures |= {REMOTE: rate(lambda n: some(n, 1), 32), REMOTE_64: rate(lambda n: some(n, 64), 64)}
    begin = used(family())
    actors = [made.remote() for _ in range(ACTORS)]
    pids = ray.get([actor.pid.remote() for actor in actors])
    figures[START] = ACTORS / (used(family()) - begin)
    figures[MEMORY] = sum(map(proportional, pids)) / ACTORS
    figures[DEATH] = death(echo)
    ray.shutdown()
    tell(figures)


main()
