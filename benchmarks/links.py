"""Links between two processes, and processes that come back.

A link of nestbed carries calls of 64 tasks with call numbers, credits and deadlines. The baseline of the Unix
link is what two processes can do at all: blocking sockets, msgpack at both ends, 64 messages to a write, no
call numbers. That compares tasks with no tasks; so there are two more lines. 64 calls of one task, with a
callback for each, are what the baseline does plus all that a link is. And a link that is nothing but numbers
and waiting tasks, without limits, checks, deadlines, windows, targets or failures, shows what 64 tasks cost
on Trio whatever the link does.

TLS is measured beside the Unix link. Where pyzmq is installed, its DEALER and ROUTER over ipc with the same
messages stand in a line of their own on standard error: it is no dependency.

Rates are for each second of CPU time, of both processes together. The time to come back is wall time: from
SIGKILL of an L1's process to the first call that its successor answers, beside a fresh interpreter that does
nothing but import the same program.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgpack
import trio

from actors.runtime.link import Link
from actors.runtime.mailbox import Reply
from actors.runtime.port import Deliver
from actors.runtime.transport.pki import Authority
from actors.runtime.transport.tls import Exchange, Peer, dial
from benchmarks.bare_link import BareLink
from benchmarks.bare_link import serve as serve_bare
from benchmarks.run import Case

SECONDS = 1.0
CALLERS = 64
KILLS = 5
MESSAGE = {
    "call": "create_cpu", "host": "l1-3", "guest": "l2-2041", "path": "nested", "base": 140737488355328,
    "size": 281474976710655, "cpu": 3, "rc": 1, "rrc": 0, "pages": [7, 64, 4096],
}  # fmt: skip


def per_cpu_second(serve: Callable[[], None], ask: Callable[[], int]) -> float:
    """How many calls `ask` made for each second of CPU time, of this process and of the one that serves.

    So a busy machine, and where the kernel puts two processes, do not show.
    """
    before, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    pid = os.fork()
    if pid == 0:
        try:
            serve()
        finally:
            os._exit(0)
    try:
        done = ask()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    served = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return done / (time.process_time() - before + served)


def echo(_target: str, message: object, deliver: Deliver) -> None:
    deliver(message, None)


async def asked(stream: trio.abc.Stream) -> int:
    """Calls that CALLERS tasks make over a link on `stream` in SECONDS of CPU time."""
    link = Link(stream)
    return await many(link.run, partial(link.ask, "te", MESSAGE))


async def many(run: Callable[[], Awaitable[None]], ask: Callable[[], Awaitable[object]]) -> int:
    """Calls that CALLERS tasks make in SECONDS of CPU time while `run` runs."""
    done = 0

    async def caller(until: float) -> None:
        nonlocal done
        while time.process_time() < until:
            for _ in range(16):
                await ask()
            done += 16

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        async with trio.open_nursery() as callers:
            for _ in range(CALLERS):
                callers.start_soon(caller, time.process_time() + SECONDS)
        nursery.cancel_scope.cancel()
    return done


async def at_once(stream: trio.abc.Stream) -> int:
    """Calls that one task makes over a link on `stream` in that time, CALLERS at once."""
    link, done, until = Link(stream), 0, time.process_time() + SECONDS

    async def some() -> None:
        left, over = CALLERS, Reply()

        def answered(_value: object, error: BaseException | None) -> None:
            nonlocal left
            left -= 1
            if not left:
                over.deliver(None, error)

        for _ in range(CALLERS):
            link.submit("te", MESSAGE, answered)
        await over.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        while time.process_time() < until:
            await some()
            done += CALLERS
        nursery.cancel_scope.cancel()
    return done


def over_unix(asking: Callable[[trio.abc.Stream], Awaitable[int]] = asked) -> float:
    """A link over a pair of Unix sockets."""
    ours, theirs = socket.socketpair()
    stream = partial(lambda made: trio.SocketStream(trio.socket.from_stdlib_socket(made)))

    async def serve() -> None:
        await Link(stream(theirs), echo).run()

    def ask() -> int:
        theirs.close()

        async def over() -> int:
            return await asking(stream(ours))

        return trio.run(over)

    return per_cpu_second(lambda: trio.run(serve), ask)


def bare() -> float:
    """What CALLERS tasks cost on Trio and one socket, whatever the link does."""
    ours, theirs = socket.socketpair()

    def ask() -> int:
        theirs.close()

        async def over() -> int:
            link = BareLink(ours)
            return await many(link.run, partial(link.ask, MESSAGE))

        return trio.run(over)

    return per_cpu_second(lambda: trio.run(serve_bare, theirs), ask)


def over_tls() -> float:
    """A link over TCP on the loopback, with certificates on both sides."""
    with TemporaryDirectory() as folder, socket.socket() as probe:
        authority = Authority.create(Path(folder) / "keys")
        mine, yours = authority.issue("hosts", "node"), authority.issue("machine", "l0")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()

        async def serve() -> None:
            exchange = Exchange(yours)
            expected = exchange.expect("bench", Peer("hosts", "node"))
            async with trio.open_nursery() as nursery:
                await exchange.listen(nursery, "127.0.0.1", port)
                await Link(expected, echo).run()

        async def ask() -> int:
            while True:
                try:
                    return await asked(await dial("127.0.0.1", port, mine, "machine", "bench"))
                except OSError:
                    await trio.sleep(0.01)

        return per_cpu_second(lambda: trio.run(serve), lambda: trio.run(ask))


def blocking() -> float:
    """The limit: blocking sockets, msgpack at both ends, 64 messages to a write."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        pack, unpacker = msgpack.Packer().pack, msgpack.Unpacker(max_buffer_size=1 << 22)
        while data := theirs.recv(65536):
            unpacker.feed(data)
            theirs.sendall(b"".join(map(pack, unpacker)))

    pack, unpacker = msgpack.Packer().pack, msgpack.Unpacker(max_buffer_size=1 << 22)

    def some() -> None:
        ours.sendall(b"".join(pack(MESSAGE) for _ in range(CALLERS)))
        back = 0
        while back < CALLERS:
            unpacker.feed(ours.recv(65536))
            back += sum(1 for _ in unpacker)

    return per_cpu_second(serve, partial(_repeated, some))


def by_zmq() -> float | None:
    """DEALER and ROUTER over ipc, 64 outstanding; None where pyzmq is not installed."""
    try:
        import zmq  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    kit: Any = zmq
    with TemporaryDirectory() as folder:
        address = f"ipc://{folder}/z"

        def serve() -> None:
            router, pack = kit.Context().socket(kit.ROUTER), msgpack.Packer().pack
            router.bind(address)
            while True:
                who, body = router.recv_multipart()
                router.send_multipart([who, pack(msgpack.unpackb(body))])

        def ask() -> int:
            dealer, pack = kit.Context().socket(kit.DEALER), msgpack.Packer().pack
            dealer.connect(address)

            def some() -> None:
                for _ in range(CALLERS):
                    dealer.send(pack(MESSAGE))
                for _ in range(CALLERS):
                    msgpack.unpackb(dealer.recv())

            try:
                return _repeated(some)
            finally:
                dealer.close(0)

        return per_cpu_second(serve, ask)


def _repeated(some: Callable[[], None]) -> int:
    """CALLERS round trips at once, again and again for SECONDS of CPU time; how many in all."""
    done, until = 0, time.process_time() + SECONDS
    while time.process_time() < until:
        some()
        done += CALLERS
    return done


def unix_beside_zmq() -> float:
    """The Unix link; what pyzmq does in the same run is told on standard error."""
    found, beside = over_unix(), by_zmq()
    if beside is not None:
        print(
            f"pyzmq DEALER/ROUTER: {beside:,.0f}/s; the link does {found / beside:.2f} of it", file=sys.stderr
        )
    return found


# -- processes that come back ------------------------------


def back_again() -> float:
    """Milliseconds from SIGKILL of an L1 to the first call that its successor answers: the median."""
    return trio.run(_killed)


async def _killed() -> float:
    from actors.deployment import words
    from actors.deployment.load import linked
    from actors.deployment.parts import parts_of
    from actors.deployment.place import Place
    from actors.deployment.process import Assignment
    from actors.deployment.settings import Deployment, scenario_of
    from actors.deployment.supervise import Deployed

    times: list[float] = []
    with TemporaryDirectory() as folder:
        place = Place(Path(folder) / "run")
        place.prepare()
        restart = {"intensity": 100, "period_s": 60}
        deployment = Deployment.model_validate({"load": None, "set": {"l1.count": "1"}, "restart": restart})
        parts = parts_of(deployment, 1)
        assignment = Assignment(deployment, scenario_of(deployment).scenario, parts, place, Path(), {})
        deployed = Deployed(assignment, lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployed.run)
            await deployed.ready.wait()
            for _ in range(KILLS):
                life = deployed.seen["l0-0.l1-0"].life
                assert life is not None
                begin = time.perf_counter()
                life.kill()
                await life.process.ended.wait()
                while True:
                    try:
                        async with linked(place.control("l0-0.l1-0")) as link:
                            if (await link.ask(words.PART, words.Status()))["ready"]:
                                break
                    except Exception:
                        await trio.sleep(0.001)
                times.append((time.perf_counter() - begin) * 1000)
            nursery.cancel_scope.cancel()
    return sorted(times)[KILLS // 2]


def interpreter() -> float:
    """Milliseconds that a fresh interpreter takes to import what a part is made of: the median."""
    times = []
    for _ in range(KILLS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import actors.deployment.child"], check=True)
        times.append((time.perf_counter() - begin) * 1000)
    return sorted(times)[KILLS // 2]


def cases() -> Iterable[Case]:
    yield Case("calls over a Unix link, 64 callers", "/CPU s", unix_beside_zmq, blocking)
    yield Case("calls over a Unix link, 64 of one task", "/CPU s", partial(over_unix, at_once), blocking)
    yield Case("calls over a Unix link, 64 callers, beside a bare one", "/CPU s", over_unix, bare)
    yield Case("calls over a link with TLS, 64 callers", "/CPU s", over_tls, over_unix)
    yield Case("from SIGKILL of an L1 to its next answer", "ms", back_again, interpreter)
