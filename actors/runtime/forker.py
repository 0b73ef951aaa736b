"""Processes forked by a helper in which everything is imported, as their supervisor holds them.

The end of a process is told by its pidfd, whoever its parent is; its exit code by the helper, if that lives.
A helper that dies is started again with the next process; those that it forked live on.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio

from actors.runtime.transport.unix import receive_files, send_files
from actors.runtime.zygote import PACKET_BYTES, SLEEPING
from protocol.errors import RemoteProtocolError
from protocol.wire import pack_body, unpack_body

CODE_S = 1.0  # the helper tells an exit code soon after the end, or never
START_S = 60.0


class CannotFork(Exception):
    """The helper did not start the process; what it had been given is closed."""


@dataclass(slots=True, eq=False)
class Process:
    """A process. Once `watched` is set it is over: `code` is negative for a signal, None if unknown."""

    pid: int
    pidfd: int
    ended: trio.Event = field(default_factory=trio.Event)
    told: trio.Event = field(default_factory=trio.Event)
    watched: trio.Event = field(default_factory=trio.Event)
    code: int | None = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; to one that has ended it changes nothing."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    @property
    def is_over(self) -> bool:
        """Has it ended? The kernel is asked: whoever watches it may be about to hear of it."""
        if self.ended.is_set():
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    async def watch(self) -> None:
        """Wait for its end and for its code."""
        await trio.lowlevel.wait_readable(self.pidfd)
        self.ended.set()
        with trio.move_on_after(CODE_S):
            await self.told.wait()
        os.close(self.pidfd)
        self.watched.set()


class Forker:
    """Starts processes that run `module.forked`, with `what` imported. `run` must be running."""

    def __init__(self, module: str, *what: str) -> None:
        self._module = (module, *what)
        self._helper: subprocess.Popen[bytes] | None = None
        self._ours: trio.socket.SocketType | None = None
        self._lock = trio.Lock()
        self._made: list[Process] = []
        self._came = trio.Event()
        self._ready = trio.Event()
        self._gone = trio.Event()
        self._processes: dict[int, Process] = {}
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope(shield=True)

    @property
    def pid(self) -> int | None:
        """The helper's, while it runs."""
        return None if self._helper is None else self._helper.pid

    async def run(self, *, task_status: trio.TaskStatus[Forker] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the helper until `close`, and not until cancelled: ends of processes are told to the last.

        The processes that it started are not ended.
        """
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                task_status.started(self)
                await trio.sleep_forever()
        self._stop()

    def close(self) -> None:
        """Nobody waits for a process any more."""
        self._scope.cancel()

    async def start(self, request: dict[str, Any], files: Sequence[int]) -> Process:
        """Start a process with `request` and copies of `files`. Raises CannotFork."""
        assert self._nursery is not None, "the forker does not run"
        async with self._lock:
            with trio.move_on_after(START_S):
                await self._have_helper()
                ours = self._ours
                assert ours is not None
                self._came = trio.Event()
                with suppress(OSError):
                    await send_files(ours, pack_body(request), files)
                async with trio.open_nursery() as either:
                    either.start_soon(_then_cancel, self._gone, either.cancel_scope)
                    await self._came.wait()
                    either.cancel_scope.cancel()
            if not self._made:
                raise CannotFork("the helper that forks ended")
            process = self._made.pop()
            self._nursery.start_soon(process.watch)
            return process

    async def _have_helper(self) -> None:
        if self._helper is not None and not self._gone.is_set():
            await self._ready.wait()
            return
        self._stop()
        assert self._nursery is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, **dict.fromkeys(SLEEPING, "1")}
        command = [sys.executable, "-P", "-m", "actors.runtime.zygote", str(theirs.fileno()), *self._module]
        self._helper = subprocess.Popen(  # noqa: S603, our own interpreter
            command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=environment,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        ours.setblocking(False)
        self._ours = trio.socket.from_stdlib_socket(ours)
        self._ready, self._gone = trio.Event(), trio.Event()
        self._nursery.start_soon(self._read, self._ours, self._ready, self._gone)
        await self._ready.wait()

    async def _read(self, ours: trio.socket.SocketType, ready: trio.Event, gone: trio.Event) -> None:
        """What the helper tells: that it is ready, the pid of a new process, the end of one."""
        with suppress(OSError, RemoteProtocolError, trio.ClosedResourceError):
            while True:
                packet, files = await receive_files(ours, PACKET_BYTES, 1)
                if not packet:
                    break
                match unpack_body(packet):
                    case [int(pid), int(code)]:
                        self._tell_code(pid, code)
                    case [int(pid)]:
                        self._add(pid, files[0])
                    case _:
                        ready.set()
        gone.set()
        ready.set()
        for process in self._processes.values():
            process.told.set()
        self._processes.clear()

    def _add(self, pid: int, pidfd: int) -> None:
        process = self._processes[pid] = Process(pid, pidfd)
        self._made.append(process)
        self._came.set()

    def _tell_code(self, pid: int, code: int) -> None:
        process = self._processes.pop(pid, None)
        if process is not None:
            process.code = code
            process.told.set()

    def _stop(self) -> None:
        if self._ours is not None:
            self._ours.close()
            self._ours = None
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()
            self._helper = None


async def _then_cancel(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
