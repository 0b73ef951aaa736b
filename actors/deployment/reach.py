"""How who drives a deployment comes to its parts: on this machine by their sockets, elsewhere over TLS.

Elsewhere a process listens on one address (`nestbed node --listen`) and a link says in its ticket what it is
for: `control/PART`, or `hosting/MACHINE/SEAT` to speak for a guest host to its broker. Only the role driver
opens one; what it may ask is what a driver may (`protocol.roles`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from actors.deployment import words
from actors.deployment.asker import Asker, asking, asking_over
from actors.deployment.fence import Fence
from actors.deployment.linked import linked, linked_over
from actors.deployment.place import Place
from actors.runtime.link import Link
from actors.runtime.port import Directory
from actors.runtime.transport.pki import Credentials
from actors.runtime.transport.tls import Exchange, Peer, dial, only
from protocol.errors import NestbedError, RemoteProtocolError
from protocol.roles import DRIVER, MACHINE, may_ask

Requester = Callable[[int, trio.abc.Stream], Awaitable[None]]


class Unreachable(OSError):
    """No part answers there; the message says where and why."""


class Reach(Protocol):
    """A way to the parts of a deployment. Both raise OSError where nobody answers."""

    def control(self, part: str, machine: str) -> AbstractAsyncContextManager[Link]:
        """A link to `part`, which is of `machine`."""
        ...

    def hosting(self, machine: str, seat: int) -> AbstractAsyncContextManager[Asker]:
        """A connection to the broker of `machine`, as its guest host on `seat`."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """Parts of this machine, by their runtime directory."""

    place: Place

    def control(self, part: str, machine: str) -> AbstractAsyncContextManager[Link]:
        assert part.startswith(machine)
        return linked(self.place.control(part))

    def hosting(self, machine: str, seat: int) -> AbstractAsyncContextManager[Asker]:
        return asking(self.place.hosting(machine, f"l1-{seat}"))


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Parts of machines that listen: HOST and PORT of each, as the directory has them."""

    endpoints: Mapping[str, tuple[str, int]]
    credentials: Credentials

    @asynccontextmanager
    async def control(self, part: str, machine: str) -> AsyncIterator[Link]:
        async with linked_over(await self._dialled(machine, f"control/{part}")) as link:
            yield link

    @asynccontextmanager
    async def hosting(self, machine: str, seat: int) -> AsyncIterator[Asker]:
        async with asking_over(await self._dialled(machine, f"hosting/{machine}/{seat}")) as asker:
            yield asker

    async def _dialled(self, machine: str, ticket: str) -> trio.abc.Stream:
        host, port = self.endpoints[machine]
        try:
            return await dial(host, port, self.credentials, MACHINE, ticket)
        except (OSError, NestbedError, trio.TooSlowError, trio.BrokenResourceError) as error:
            raise Unreachable(f"{machine} at {host}:{port}: {type(error).__name__}: {error}") from error


class Listening:
    """The other end: serves drivers that come over TLS to the parts of one process."""

    def __init__(
        self,
        credentials: Credentials,
        directories: Mapping[str, Directory],
        requesters: Mapping[str, Requester],
        fence: Fence,
        broken: Callable[[str, str], None],
    ) -> None:
        self._directories, self._requesters = directories, requesters
        self._fence, self._broken = fence, broken
        self._exchange = Exchange(credentials, welcome=self._welcome)

    async def listen(self, nursery: trio.Nursery, host: str, port: int) -> tuple[str, int]:
        """Serve in `nursery`; returns the address. Raises OSError."""
        return await self._exchange.listen(nursery, host, port)

    async def _welcome(self, peer: Peer, ticket: str, stream: trio.abc.Stream) -> None:
        try:
            if peer.role != DRIVER:
                raise RemoteProtocolError("role", f"{peer.role} {peer.name} opens {ticket[:40]!r}")
            match ticket.split("/"):
                case ["control", part] if part in self._directories:
                    await self._control(part, stream)
                case ["hosting", machine, seat] if machine in self._requesters and seat.isdecimal():
                    await self._requesters[machine](int(seat), stream)
                case _:
                    raise RemoteProtocolError("order", f"no such link: {ticket[:40]!r}")
        except RemoteProtocolError as violation:
            self._broken(violation.reason, ticket[:40])
            raise

    async def _control(self, part: str, stream: trio.abc.Stream) -> None:
        codec = words.codec()
        serve = only(may_ask(DRIVER), self._fence.before(self._directories[part].serve))
        link = Link(stream, serve, encode=codec.encode, decode=codec.decode)
        await link.run()
        if link.violation is not None:
            raise link.violation
