"""Between two actors of one process: nothing at all, or the wire's own form.

`Packed` sends every message and every answer through msgpack, both ways, on the spot. What it forgives, a
socket would not: so a run over it proves that nothing but bytes passes between actors, at the same counts.
"""

from __future__ import annotations

from collections.abc import Hashable

from actors.runtime.link import Translate
from actors.runtime.port import Deliver, Port
from protocol.errors import LocalProtocolError, OutcomeUnknown
from protocol.wire import FRAME_LIMIT, FrameDecoder, pack_frame

DIRECT = "memory"
PACKED = "packed"
TRANSPORTS = (DIRECT, PACKED)
BETWEEN = ("unix", "tcp")  # processes; what stays within one goes directly


class Packed:
    """A port before another one: messages and answers cross as frames. A `Port`.

    `encode` and `decode` turn them into what msgpack can carry, and back.
    """

    __slots__ = ("_decode", "_encode", "_port", "bytes_carried", "frames", "limit")

    def __init__(self, port: Port, encode: Translate, decode: Translate, limit: int = FRAME_LIMIT) -> None:
        self._port, self._encode, self._decode = port, encode, decode
        self.limit = limit
        self.frames = 0
        self.bytes_carried = 0

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Send `message` in its wire form; raises LocalProtocolError if it has none."""

        def answered(value: object, error: BaseException | None) -> None:
            if error is None:
                try:
                    value = self._across(value)
                except LocalProtocolError as unsaid:
                    value, error = None, OutcomeUnknown(f"handled, but the answer cannot be sent: {unsaid}")
            deliver(value, error)

        self._port.submit(self._across(message), answered, owner)

    def _across(self, value: object) -> object:
        frame = pack_frame([self._encode(value)], self.limit)
        self.frames += 1
        self.bytes_carried += len(frame)
        (message,) = FrameDecoder(self.limit).feed(frame)
        assert isinstance(message, list)
        return self._decode(message[0])


def connect(port: Port, transport: str, encode: Translate, decode: Translate) -> Port:
    """Return `port`, which is in this process, as it looks over `transport`."""
    if transport == DIRECT or transport in BETWEEN:
        return port
    if transport == PACKED:
        return Packed(port, encode, decode)
    raise ValueError(f"{transport!r} is no transport within a process; there are {', '.join(TRANSPORTS)}")
