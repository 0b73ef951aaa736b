"""What guests of the emulated Trusted Entity do besides what it sees: a console, and ports.

Guests of a node are made by the machine's own Trusted Entity and have no process. Their program is the least
that one can talk to: a line on the console with each boot, an echo on port 7, and port 9, which discards. It
is reached over the VSOCK in memory, whose rules are the real ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import trio

from actors.runtime.port import Deliver, Port
from actors.runtime.transport.fabric import MemoryVsock
from protocol.hosting.evidence import Measured
from protocol.hosting.machine import (
    AttestGuest,
    CreateGuest,
    DestroyGuest,
    Failure,
    MachineEffect,
    ResetGuest,
    StartGuest,
    StopGuest,
    Vanished,
)

ECHO, DISCARD = 7, 9
Wrote = Callable[[bytes, bytes], None]
Serve = Callable[[trio.abc.Stream], Awaitable[None]]


@dataclass(slots=True)
class Program:
    """One guest's. `running` is the scope of its ports while it runs."""

    cid: int
    measurement: bytes  # SHA-384 of the image that was loaded
    boots: int = 0
    running: trio.CancelScope | None = field(default=None)


class Programs:
    """The port `machine` of the broker, before the one that makes the guests. `wrote` is told of consoles."""

    def __init__(self, guests: Port, nursery: trio.Nursery, wrote: Wrote) -> None:
        self._guests = guests
        self._nursery = nursery
        self._wrote = wrote
        self._vsock = MemoryVsock()
        self._programs: dict[bytes, Program] = {}

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Have the guest made, run or ended, and its program with it."""
        if isinstance(message, AttestGuest):
            program = self._programs.get(message.child)
            deliver(Vanished() if program is None else Measured(program.measurement, None), None)
            return
        if isinstance(message, CreateGuest):
            measurement = hashlib.sha384(message.image).digest()
            self._programs[message.child] = Program(message.cid, measurement)
        elif isinstance(message, (StopGuest, DestroyGuest)):
            self._end(message.child)
        if isinstance(message, MachineEffect):
            deliver = partial(self._answered, message, deliver)
        self._guests.submit(message, deliver, owner)

    def _answered(
        self, effect: MachineEffect, deliver: Deliver, value: object, error: BaseException | None
    ) -> None:
        failed = error is not None or isinstance(value, Failure)
        if isinstance(effect, (StartGuest, ResetGuest)) and not failed:
            self._boot(effect.child)
        gone = isinstance(effect, DestroyGuest) and (not failed or isinstance(value, Vanished))
        if gone or (isinstance(effect, CreateGuest) and failed):
            self._programs.pop(effect.child, None)
        deliver(value, error)

    async def dial(self, child: bytes, port: int) -> trio.abc.Stream:
        """A stream to a port of a guest. Raises OSError: it does not run, or nothing listens there."""
        program = self._programs.get(child)
        if program is None or program.running is None:
            raise ConnectionRefusedError("no guest of that name runs")
        return await self._vsock.connect(self._vsock.fabric.host, program.cid, port)

    # -- a program's life

    def _boot(self, child: bytes) -> None:
        program = self._programs.get(child)
        if program is None:
            return
        self._end(child)  # a guest that boots again loses its connections
        program.boots += 1
        program.running = trio.CancelScope()
        endpoint = self._vsock.fabric.add(program.cid)
        listeners: dict[trio.abc.Listener[trio.abc.Stream], Serve] = {
            self._vsock.listen(endpoint, ECHO): _echo,
            self._vsock.listen(endpoint, DISCARD): _discard,
        }
        self._nursery.start_soon(_run, program.running, listeners)
        self._wrote(child, f"guest {program.cid}: boot {program.boots}\n".encode())

    def _end(self, child: bytes) -> None:
        program = self._programs.get(child)
        if program is None or program.running is None:
            return
        program.running.cancel()
        program.running = None
        self._vsock.fabric.remove(program.cid)
        self._vsock.wake()


async def _run(scope: trio.CancelScope, listeners: dict[trio.abc.Listener[trio.abc.Stream], Serve]) -> None:
    with scope:
        async with trio.open_nursery() as ports:
            for listener, serve in listeners.items():
                ports.start_soon(trio.serve_listeners, serve, [listener])


async def _echo(stream: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while data := await stream.receive_some():
            await stream.send_all(data)


async def _discard(stream: trio.abc.Stream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while await stream.receive_some():
            pass
