"""The least that a link for many tasks can be on Trio: numbers, who waits for them, and one writer.

It has no hello, window, limit, deadline, target, trace or failure, checks nothing that comes, and a task that
is cancelled brings it down. What is left is what Trio and msgpack take for it, and a link cannot take less.
"""

from __future__ import annotations

import socket
from itertools import count
from typing import Any

import msgpack
import outcome
import trio

BUFFER = 1 << 22
READ = 65536


class BareLink:
    """One end; the other is `serve`."""

    def __init__(self, ours: socket.socket) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._pack = msgpack.Packer().pack
        self._numbers = count()
        self._waiting: dict[int, trio.lowlevel.Task] = {}
        self._gathered: list[bytes] = []
        self._wake = trio.Event()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            unpacker = msgpack.Unpacker(max_buffer_size=BUFFER)
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                unpacker.feed(self._socket.recv(READ))
                for number, message in unpacker:
                    trio.lowlevel.reschedule(self._waiting.pop(number), outcome.Value(message))

    async def ask(self, message: object) -> Any:
        number = next(self._numbers)
        self._gathered.append(self._pack((number, message)))
        self._wake.set()
        self._waiting[number] = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(_abort)

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self._socket.sendall(b"".join(self._gathered))
            self._gathered.clear()


def _abort(_raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED


async def serve(theirs: socket.socket) -> None:
    """Answer with what is asked."""
    theirs.setblocking(False)
    pack, unpacker = msgpack.Packer().pack, msgpack.Unpacker(max_buffer_size=BUFFER)
    while True:
        await trio.lowlevel.wait_readable(theirs)
        unpacker.feed(theirs.recv(READ))
        theirs.sendall(b"".join(map(pack, unpacker)))
