"""The streams of channels: a token first, then bytes between a requester and a port of its child.

Backpressure is the credit: in each direction at most the channel's window is in flight, and a sender waits
while the receiver does not take more.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from actors.broker import Broker, ChannelOver, Redeem
from actors.runtime.port import ignore
from actors.runtime.transport.address import Peer, connect, peer_of, serve_all
from protocol.hosting import Identity
from protocol.hosting.channels import Channel
from protocol.vsock.address import Address

TOKEN_BYTES = 16
OK = b"OK\n"
TOKEN_S = 2.0  # for the token to come
STREAMS = 1024  # of one listener

Dial = Callable[[bytes, int], Address | None]


@dataclass(slots=True)
class Carried:
    """Bytes of one channel so far."""

    sent: int = 0
    received: int = 0


class ChannelServer:
    """Carries the channels of `broker`; `dial` says where a port of a child is."""

    def __init__(self, broker: Broker, dial: Dial) -> None:
        self._broker = broker
        self._dial = dial
        self._scopes: dict[bytes, trio.CancelScope] = {}
        broker.on_cut = self._cut

    async def serve(
        self,
        listener: trio.abc.Listener[trio.abc.Stream],
        identify: Callable[[Peer], Identity | None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Open channels for everybody who connects to `listener`, until cancelled."""
        limit = trio.CapacityLimiter(STREAMS)

        async def opened(stream: trio.abc.Stream) -> None:
            async with limit, stream:
                who = identify(peer_of(stream))
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                    if who is not None:
                        await self._open(who, stream)

        await serve_all(opened, listener, task_status)

    async def _open(self, who: Identity, stream: trio.abc.Stream) -> None:
        token = b""
        with trio.move_on_after(TOKEN_S):
            while len(token) < TOKEN_BYTES:
                more = await stream.receive_some(TOKEN_BYTES - len(token))
                if not more:
                    return
                token += more
        channel: Channel | None = await self._broker.actor.ask(Redeem(who, token))
        if channel is None:
            return
        carried = Carried()
        with trio.CancelScope() as self._scopes[channel.id]:
            try:
                await self._carry(channel, stream, carried)
            finally:
                del self._scopes[channel.id]
                over = ChannelOver(who, channel.id, carried.sent, carried.received)
                self._broker.actor.submit(over, ignore)

    async def _carry(self, channel: Channel, stream: trio.abc.Stream, carried: Carried) -> None:
        address = self._dial(channel.child, channel.port)
        if address is None:
            return
        inner = await connect(address)
        async with inner, trio.open_nursery() as nursery:
            await stream.send_all(OK)

            async def copy(source: trio.abc.Stream, sink: trio.abc.Stream, sending: bool) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await source.receive_some(channel.window):
                        await sink.send_all(data)
                        if sending:
                            carried.sent += len(data)
                        else:
                            carried.received += len(data)
                    if isinstance(sink, trio.abc.HalfCloseableStream):
                        await sink.send_eof()
                        return
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, stream, inner, True)
            nursery.start_soon(copy, inner, stream, False)

    def _cut(self, channel: bytes) -> None:
        if channel in self._scopes:
            self._scopes[channel].cancel()
