"""The stream under a link, as the link's tasks read and write it.

Trio's own streams make a pass through the scheduler for every operation, whether it has to wait or not, and
try to receive before they wait. A link always waits for what comes next, and what it writes is mostly taken
at once. So on a plain socket it waits for readiness only, and reads and writes the descriptor itself: that
halves the system calls and the task switches of a call that is alone. On any other stream (TLS, memory,
VSOCK) it does what the stream does.
"""

from __future__ import annotations

import os
from typing import Protocol

import trio

READ_BYTES = 65536


class End(Protocol):
    """One end of a stream."""

    def write_now(self, data: bytes) -> int:
        """Hand over as much of `data` as is taken without waiting; returns how much. Raises nothing."""
        ...

    async def write(self, data: bytes) -> None:
        """Hand over all of `data`. Raises BrokenResourceError, ClosedResourceError."""
        ...

    async def read(self) -> bytes:
        """Return what came next, b"" at the end. Raises BrokenResourceError, ClosedResourceError."""
        ...


class Layered:
    """Any stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.write = stream.send_all

    def write_now(self, _data: bytes) -> int:
        return 0

    async def read(self) -> bytes:
        return bytes(await self._stream.receive_some(READ_BYTES))


class Bare:
    """A socket with nothing between it and the link. Nobody else may use it meanwhile."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream, self._socket = stream, stream.socket

    def write_now(self, data: bytes) -> int:
        try:
            return os.write(self._socket.fileno(), data)
        except OSError:
            return 0  # it is full, or broken: `write` will wait, or say so

    async def write(self, data: bytes) -> None:
        taken = self.write_now(data)
        if taken < len(data):
            await self._stream.send_all(data[taken:])

    async def read(self) -> bytes:
        while True:
            if self._socket.fileno() < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(self._socket)
            try:
                # The number is asked for anew: once this one is closed, it may be another socket's.
                return os.read(self._socket.fileno(), READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                if self._socket.fileno() < 0:
                    raise trio.ClosedResourceError from error
                raise trio.BrokenResourceError(str(error)) from error


def end_of(stream: trio.abc.Stream) -> End:
    """`stream`, as a link uses it."""
    return Bare(stream) if type(stream) is trio.SocketStream else Layered(stream)
