"""Streams over the emulated VSOCK (`protocol.vsock.fabric`), within one process: the default in tests.

Whoever accepts one learns the peer's context id from the fabric, which no guest can forge (`peer_of`).
"""

from __future__ import annotations

import errno

import trio

from protocol.vsock.endpoint import Connection, Endpoint
from protocol.vsock.fabric import Fabric


class FabricStream(trio.abc.HalfCloseableStream):
    """One connection of the fabric."""

    def __init__(self, fabric: MemoryVsock, connection: Connection) -> None:
        self._fabric = fabric
        self.connection = connection

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, as the peer gives credit. Raises BrokenResourceError."""
        rest = bytes(data)
        await trio.lowlevel.checkpoint()
        while rest:
            try:
                rest = rest[self.connection.send(rest) :]
            except OSError as error:
                raise trio.BrokenResourceError(str(error)) from error
            await self._fabric.settle(wait=bool(rest))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        while not self.connection.credit() and not self.connection.error:
            await self._fabric.settle(wait=True)

    async def send_eof(self) -> None:
        self.connection.shut()
        await self._fabric.settle()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """What arrived; b"" at the end of the stream. Raises BrokenResourceError: reset."""
        await trio.lowlevel.checkpoint()
        while True:
            try:
                data = self.connection.receive(max_bytes or 65_536)
            except OSError as error:
                if error.errno == errno.ENOTCONN:
                    raise trio.ClosedResourceError from error
                raise trio.BrokenResourceError(str(error)) from error
            if data is not None:
                self._fabric.move()
                return data
            await self._fabric.settle(wait=True)

    async def aclose(self) -> None:
        self.connection.close()
        self._fabric.move()
        await trio.lowlevel.checkpoint()


class FabricListener(trio.abc.Listener[FabricStream]):
    """A listener of one context id."""

    def __init__(self, fabric: MemoryVsock, endpoint: Endpoint, port: int) -> None:
        self._fabric, self._endpoint, self._port = fabric, endpoint, port

    async def accept(self) -> FabricStream:
        await trio.lowlevel.checkpoint()
        while True:
            connection = self._endpoint.accept(self._port)
            if connection is not None:
                return FabricStream(self._fabric, connection)
            await self._fabric.settle(wait=True)

    async def aclose(self) -> None:
        self._endpoint.stop_listening(self._port)
        await trio.lowlevel.checkpoint()


class MemoryVsock:
    """A fabric with waiting. `fabric` may be changed by whoever has it: call `move` afterwards."""

    def __init__(self, fabric: Fabric | None = None) -> None:
        self.fabric = fabric or Fabric()
        self._moved = trio.Event()

    def listen(self, endpoint: Endpoint, port: int) -> FabricListener:
        """Listen on a port of `endpoint`. Raises OSError: taken, not allowed."""
        endpoint.listen(port)
        return FabricListener(self, endpoint, port)

    async def connect(self, endpoint: Endpoint, cid: int, port: int) -> FabricStream:
        """Connect from `endpoint`. Raises OSError: refused, or silent for two seconds."""
        connection = endpoint.connect(cid, port, _now_ms())
        await self.settle()
        while not connection.connected:
            if connection.error:
                raise OSError(connection.error, f"context id {cid}, port {port}")
            with trio.move_on_after(0.1):
                await self.settle(wait=True)
            self.fabric.tick(_now_ms())
        return FabricStream(self, connection)

    def move(self) -> None:
        """Move packets, and wake whoever waits for some."""
        if self.fabric.pump():
            event, self._moved = self._moved, trio.Event()
            event.set()

    def wake(self) -> None:
        """Something else changed: a reset, a guest that is gone."""
        self.fabric.pump()
        event, self._moved = self._moved, trio.Event()
        event.set()

    async def settle(self, wait: bool = False) -> None:
        moved = self._moved
        self.move()
        if wait and not moved.is_set():
            await moved.wait()
        else:
            await trio.lowlevel.checkpoint()


def _now_ms() -> int:
    return int(1000 * trio.current_time())
