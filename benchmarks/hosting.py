"""The hosting service: starts with the journal on disk, renewals of many requesters, bytes of a channel.

Baselines: the same starts with the journal in memory; renewals by one requester; the same bytes and round
trips over a plain Unix socket to an echo in another process. Starts and renewals are whole requests, as the
wire has them, over a machine that answers at once; seconds are of the wall, because a flush is a wait.
"""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import trio

from actors.broker import Broker, Request
from actors.hosting.store import Store
from actors.runtime.actor import open_runtime
from actors.runtime.port import Deliver
from benchmarks.run import Case
from protocol.hosting import Identity, Journal, Limits, MemoryJournal, Service
from protocol.hosting.idempotency import Key
from protocol.hosting.limits import Share

IMAGE = b"image"
DIGEST = hashlib.sha256(IMAGE).digest()
STARTS = 1_000
AT_ONCE = 64  # starts under way together: they share flushes
REQUESTERS = 10_000
ECHO_MIB = 64
ROUND_TRIPS = 2_000
PIECE = 65_536
ROOT = Path(__file__).resolve().parents[1]


class Machine:
    """L0's machine as a port that answers at once."""

    def submit(self, message: object, deliver: Deliver, owner: object = None) -> None:
        deliver(None, None)


def frame(kind: str, epoch: int, key: bytes | None = None, **body: Any) -> dict[str, Any]:
    return {"v": 1, "t": kind, "rid": b"r" * 16, "epoch": epoch, "dl": None, "key": key, "b": body}


def limits() -> Limits:
    many = Share(*[1 << 40] * len(Share.__slots__))
    return Limits(requesters=REQUESTERS, each=many, host=many, cid_count=1 << 20)


async def starts(journal: Journal, run: Callable[[], Any] | None) -> float:
    """Starts per second, AT_ONCE of them under way together."""
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        if run is not None:
            nursery.start_soon(run)
        broker = Broker(Service(limits(), journal), Machine(), lambda: 0, runtime)
        who = Identity(3, 1)
        await broker.actor.ask(Request(who, frame("hello", 1, versions=[1])))
        put = frame("image.put", 1, digest=DIGEST, size=len(IMAGE), offset=0, data=IMAGE)
        await broker.actor.ask(Request(who, put))
        spec = {"image": DIGEST, "vcpus": 1, "memory_mib": 1}
        numbers = iter(range(1, STARTS + 1))

        async def starter() -> None:
            for number in numbers:
                asked = frame("start", 1, Key(1, number).packed(), spec=spec)
                reply = await broker.actor.ask(Request(who, asked))
                assert reply["b"]["state"] == "READY", reply

        begin = time.perf_counter()
        async with trio.open_nursery() as starters:
            for _ in range(AT_ONCE):
                starters.start_soon(starter)
        took = time.perf_counter() - begin
        nursery.cancel_scope.cancel()
    return STARTS / took


def with_disk() -> float:
    with tempfile.TemporaryDirectory() as directory:

        async def run() -> float:
            store = Store(Path(directory) / "journal.sqlite")
            try:
                return await starts(store.journal, store.run)
            finally:
                store.close()

        return trio.run(run)


def with_memory() -> float:
    return trio.run(starts, MemoryJournal(), None)


def renewals(requesters: int) -> float:
    """Renewals per second, by so many requesters in turn."""

    async def run() -> float:
        async with open_runtime() as runtime:
            broker = Broker(Service(limits()), Machine(), lambda: 0, runtime)
            for number in range(requesters):
                hello = frame("hello", 1, versions=[1])
                await broker.actor.ask(Request(Identity(3 + number, 1), hello))
            renew = frame("lease.renew", 1)
            begin = time.perf_counter()
            for number in range(REQUESTERS):
                await broker.actor.ask(Request(Identity(3 + number % requesters, 1), renew))
            return REQUESTERS / (time.perf_counter() - begin)

    return trio.run(run)


# A channel against a plain Unix socket: both echo in a process of their own

PLAIN = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1]); listener.listen(1)
stream, _ = listener.accept()
while data := stream.recv(65536): stream.sendall(data)
"""


def over_plain(measure: Callable[[socket.socket], float]) -> float:
    with tempfile.TemporaryDirectory(prefix="nb-") as directory:
        path = f"{directory}/s"
        with subprocess.Popen([sys.executable, "-I", "-c", PLAIN, path]) as process:
            stream = patiently(path)
            with stream:
                value = measure(stream)
            process.wait()
        return value


def over_channel(measure: Callable[[socket.socket], float]) -> float:
    from nestbed.client import Hosting

    with tempfile.TemporaryDirectory(prefix="nb-") as directory:
        command = [sys.executable, "-P", "-m", "nestbed", "hosted", "serve", f"{directory}/h"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with Hosting(f"unix:{directory}/h/3.vsock_5200") as host:
                child = host.start(b"#!nestbed\nready\n", vcpus=1, memory_mib=1, ready="notified")
                with host.channel(child.id, 7) as stream:
                    stream.settimeout(None)
                    value = measure(stream)
                host.destroy(child.id)
            process.terminate()
        return value


def patiently(path: str) -> socket.socket:
    while True:
        made = socket.socket(socket.AF_UNIX)
        try:
            made.connect(path)
        except OSError:
            made.close()
            time.sleep(0.005)
        else:
            return made


def megabytes(stream: socket.socket) -> float:
    """MiB per second there and back, a window ahead."""
    piece, left, behind = b"x" * PIECE, ECHO_MIB << 20, 0
    begin = time.perf_counter()
    while left or behind:
        if left and behind < 2 * PIECE:
            stream.sendall(piece)
            left -= PIECE
            behind += PIECE
        else:
            behind -= len(stream.recv(PIECE))
    return ECHO_MIB / (time.perf_counter() - begin)


def round_trips(stream: socket.socket) -> float:
    """Round trips of one byte per second."""
    begin = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        stream.sendall(b"x")
        stream.recv(1)
    return ROUND_TRIPS / (time.perf_counter() - begin)


def cases() -> Iterable[Case]:
    yield Case("hosting: starts with the journal on disk", "starts/s", with_disk, with_memory)
    yield Case(
        f"hosting: lease renewals of {REQUESTERS:,} requesters",
        "1/s",
        lambda: renewals(REQUESTERS),
        lambda: renewals(1),
    )
    yield Case(
        "hosting: bytes through a channel",
        "MiB/s",
        lambda: over_channel(megabytes),
        lambda: over_plain(megabytes),
    )
    yield Case(
        "hosting: round trips through a channel",
        "1/s",
        lambda: over_channel(round_trips),
        lambda: over_plain(round_trips),
    )
