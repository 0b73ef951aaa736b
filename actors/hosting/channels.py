"""The streams of channels: a token first, then bytes between a requester and a port of its child.

Backpressure is the credit: in each direction at most the channel's window is in flight, and a sender waits
while the receiver does not take more. What ends a channel that stays half open is the service's to say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from actors.broker import Broker, ChannelOver, Redeem
from actors.runtime.port import ignore
from protocol.hosting import Identity
from protocol.hosting.channels import Channel

TOKEN_BYTES = 16
OK = b"OK\n"
TOKEN_S = 2.0  # for the token to come

Dial = Callable[[bytes, int], Awaitable[trio.abc.Stream]]  # raises OSError: nothing listens there


class ChannelServer:
    """Carries the channels of `broker`; `dial` connects to a port of a child."""

    def __init__(self, broker: Broker, dial: Dial) -> None:
        self._broker = broker
        self._dial = dial
        self._scopes: dict[bytes, trio.CancelScope] = {}
        broker.on_cut = self._cut

    async def open(self, who: Identity, stream: trio.abc.Stream) -> None:
        """Open the channel whose token `who` says on `stream`, and carry it. Raises OSError."""
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
        with trio.CancelScope() as self._scopes[channel.id]:
            try:
                await self._carry(channel, stream)
            finally:
                del self._scopes[channel.id]
                self._broker.actor.submit(ChannelOver(who, channel.id), ignore)

    async def _carry(self, channel: Channel, stream: trio.abc.Stream) -> None:
        inner = await self._dial(channel.child, channel.port)
        async with inner, trio.open_nursery() as nursery:
            await stream.send_all(OK)

            async def copy(source: trio.abc.Stream, sink: trio.abc.Stream, direction: str) -> None:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await source.receive_some(channel.window):
                        began = trio.current_time()
                        await sink.send_all(data)
                        waited_s = trio.current_time() - began
                        self._broker.service.channel_carried(channel, direction, len(data), waited_s)
                    if isinstance(sink, trio.abc.HalfCloseableStream):
                        await sink.send_eof()
                        self._broker.service.channel_shut(channel)
                        return
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, stream, inner, "sent")
            nursery.start_soon(copy, inner, stream, "received")

    def _cut(self, channel: bytes) -> None:
        if channel in self._scopes:
            self._scopes[channel].cancel()
