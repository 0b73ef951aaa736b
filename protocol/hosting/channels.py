"""Channels between a requester and its children: offered with a token, opened with it once, closed or reset.

An offer is a row of a table, charged to the requester; the bytes flow elsewhere, over a stream on which the
token is the first thing said. So whoever has the stream was told the token by this requester's own request,
and a token that leaked after its use opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.hosting.errors import Code, Refusal

OFFER_MS = 10_000  # an offer that nobody takes up goes
RESETS = 64  # of one requester that are remembered, the newest
HALF_OPEN = "half_open"  # why one was reset
CHANNEL = {"channels": 1}


@dataclass(slots=True)
class Channel:
    """One path between a requester and a port of a child. `window`: bytes that may wait in each direction."""

    id: bytes
    child: bytes
    port: int
    window: int
    token: bytes | None  # None once it was used
    key: bytes | None
    offered_ms: int
    half_open_ms: int | None = None  # one side has ended; when that was, or when bytes last moved since

    @property
    def open(self) -> bool:
        return self.token is None

    def shut(self, now_ms: int) -> None:
        """Note that one side sends nothing more."""
        self.half_open_ms = now_ms

    def moved(self, now_ms: int) -> None:
        """Note that bytes were carried."""
        if self.half_open_ms is not None:
            self.half_open_ms = now_ms


class Channels:
    """The channels of one requester."""

    __slots__ = ("_channels", "_resets")

    def __init__(self) -> None:
        self._channels: dict[bytes, Channel] = {}
        self._resets: dict[bytes, str] = {}  # key -> why the open channel that it opened was reset

    def __len__(self) -> int:
        return len(self._channels)

    def add(self, channel: Channel) -> None:
        self._channels[channel.id] = channel

    def by_key(self, key: bytes | None, child: bytes, port: int) -> Channel | None:
        """Return the channel that was asked for with `key`; raises Refusal (KEY_CONFLICT)."""
        if key is None:
            return None
        for channel in self._channels.values():
            if channel.key == key:
                if (channel.child, channel.port) != (child, port):
                    raise Refusal(Code.KEY_CONFLICT, "the key was used for another channel")
                return channel
        return None

    def note_reset(self, channel: Channel, cause: str) -> None:
        """Keep for whoever asks again with its key why an open channel is gone."""
        if channel.key is None or not channel.open:
            return
        self._resets[channel.key] = cause
        while len(self._resets) > RESETS:
            del self._resets[next(iter(self._resets))]

    def tell_reset(self, key: bytes | None) -> None:
        """Raise Refusal (CHANNEL_RESET) if the channel of `key` was reset; the next time opens another."""
        cause = self._resets.pop(key, None) if key is not None else None
        if cause is not None:
            raise Refusal(Code.CHANNEL_RESET, f"it was reset: {cause}", detail={"cause": cause})

    def redeem(self, token: bytes) -> Channel | None:
        """Return the channel whose token this is, and use the token up; None for one that opens nothing."""
        for channel in self._channels.values():
            if channel.token == token:
                channel.token = None
                return channel
        return None

    def drop(self, name: bytes) -> Channel | None:
        return self._channels.pop(name, None)

    def of(self, child: bytes) -> list[Channel]:
        return [channel for channel in self._channels.values() if channel.child == child]

    def stale(self, now_ms: int) -> list[Channel]:
        """Offers that nobody took up in time."""
        return [c for c in self._channels.values() if not c.open and c.offered_ms + OFFER_MS <= now_ms]

    def silent(self, now_ms: int, most_ms: int) -> list[Channel]:
        """Half open ones on which nothing has moved for `most_ms`; none where that is 0."""
        if not most_ms:
            return []
        since = now_ms - most_ms
        return [c for c in self._channels.values() if c.half_open_ms is not None and c.half_open_ms <= since]

    def all(self) -> list[Channel]:
        return list(self._channels.values())
