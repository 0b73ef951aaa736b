"""Where requesters come: listeners for what they ask, and listeners for their channels.

Whoever mounts the hosting interface has one reception for its broker and as many listeners as there are ways
in. `Identify` says who a peer is, from what the transport knows of it; None turns it away without a word. A
connection is of one boot of its requester and ends with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from actors.broker import Broker, serve
from actors.hosting.channels import ChannelServer
from actors.runtime.transport.address import Peer, local_host, met, serve_all
from protocol.hosting import Identity

CONNECTIONS = 256  # of one requester on one listener at once; one more is turned away
STREAMS = 1024  # the same of channels
Identify = Callable[[Peer], Identity | None]
Listener = trio.abc.Listener[trio.abc.Stream]


class Reception:
    """Serves `broker` to everybody who comes, and `channels` to those whom it told of one."""

    def __init__(self, broker: Broker, channels: ChannelServer | None = None) -> None:
        self._broker = broker
        self._channels = channels
        self._scopes: dict[Identity, set[trio.CancelScope]] = {}
        self.turned_away = 0  # connections beyond what their requester may have

    async def requests(
        self,
        listener: Listener,
        identify: Identify,
        via: str = "",
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve requests on `listener` until cancelled.

        `via`: where those who come this way open channels, where that is not what the service offers; {host}
        in it stands for the address of this machine by which they came.
        """
        seats = Counter[int]()

        async def come(stream: trio.abc.Stream) -> None:
            who = await self._known(stream, identify)
            if who is None:
                return
            opens = via.format(host=local_host(stream)) if "{host}" in via else via
            with self._seat(who, seats, CONNECTIONS) as seated:
                if seated:
                    await self.attend(who, stream, opens)
                else:
                    await trio.aclose_forcefully(stream)

        await serve_all(come, listener, task_status)

    async def attend(self, who: Identity, stream: trio.abc.Stream, via: str = "") -> None:
        """Serve one stream of `who`, until it or this boot of its requester ends."""
        with self._during(who):
            await serve(self._broker, who, stream, via)

    async def channels(
        self,
        listener: Listener,
        identify: Identify,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Open channels on `listener` until cancelled."""
        seats = Counter[int]()
        channels = self._channels
        assert channels is not None, "this reception has no channels"

        async def come(stream: trio.abc.Stream) -> None:
            who = await self._known(stream, identify)
            if who is None:
                return
            gone = trio.BrokenResourceError, trio.ClosedResourceError, OSError
            async with stream:
                with self._seat(who, seats, STREAMS) as seated, self._during(who), suppress(*gone):
                    if seated:
                        await channels.open(who, stream)

        await serve_all(come, listener, task_status)

    def end(self, who: Identity) -> None:
        """That boot is over: what it had open ends."""
        for scope in list(self._scopes.get(who, ())):
            scope.cancel()

    async def _known(self, stream: trio.abc.Stream, identify: Identify) -> Identity | None:
        peer = await met(stream)
        who = None if peer is None else identify(peer)
        if who is None:
            await trio.aclose_forcefully(stream)
        return who

    @contextmanager
    def _seat(self, who: Identity, seats: Counter[int], most: int) -> Iterator[bool]:
        """Whether there is room for one more of this requester: what one takes, no other one lacks."""
        if seats[who.cid] >= most:
            self.turned_away += 1
            yield False
            return
        seats[who.cid] += 1
        try:
            yield True
        finally:
            seats[who.cid] -= 1

    @contextmanager
    def _during(self, who: Identity) -> Iterator[None]:
        scopes = self._scopes.setdefault(who, set())
        with trio.CancelScope() as scope:
            scopes.add(scope)
            try:
                yield
            finally:
                scopes.discard(scope)
                if not scopes:
                    self._scopes.pop(who, None)
