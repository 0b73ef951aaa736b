"""Frames: bytes on any transport <-> messages, with every limit checked before memory is spent.

A frame is a length (4 bytes, big-endian, of the body alone) and a body: exactly one msgpack array or map. The
length is compared with the limit before anything of the body is kept. Described for other languages in
docs/wire.md.

Theory of operation. `FrameDecoder` is fed whatever a transport delivers, in pieces of any size, and returns
the messages that became complete. What a peer may not send ends in one RemoteProtocolError with a reason from
`REASONS`, whatever the bytes were; after that the decoder stays broken, because nothing tells where the next
frame would begin. The messages before the violation are still returned, so the result does not depend on how
the bytes were cut.

msgpack itself refuses claims that exceed the frame, bad UTF-8, keys that are not text and trailing bytes.
Refused here besides: extension types, duplicate keys (msgpack lets the last one win), and nesting deeper than
DEPTH.

Not here: what the messages mean (see `protocol.messages` and `Envelope` below for the links between actors).
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from protocol.errors import LocalProtocolError, RemoteProtocolError

VERSION = 1
FRAME_LIMIT = 1 << 20  # bytes of a body
DEPTH = 32  # arrays and maps inside of each other
ARRAY_LIMIT = 1 << 16  # elements of one array
MAP_LIMIT = 1 << 12  # entries of one map
LENGTH_BYTES = 4
CALL_LIMIT = 1 << 64

REASONS = (
    "oversized",  # the length exceeds the limit
    "empty",  # a frame without a body
    "truncated",  # the stream ended inside a frame
    "malformed",  # not msgpack, or more or less than one value
    "extension",  # an extension type, timestamps among them
    "duplicate_key",
    "too_deep",
    "shape",  # a value of the wrong type, range or length
    "version",  # a version that is not spoken here
    "kind",  # a kind of frame that does not exist
    "order",  # a frame that is not legal now: before the hello, a reply to nothing
    "credit",  # more calls outstanding than were granted
    "role",  # asked for what the role in the peer's certificate does not allow
)

Message = list[Any] | dict[str, Any]


class Kind(IntEnum):
    """What a frame between two actors' links is for."""

    HELLO = 0  # first in each direction: what the sender grants
    ASK = 1  # a call that gets exactly one REPLY or FAILED
    REPLY = 2
    FAILED = 3  # the call had no answer; the body says why


class Trace(NamedTuple):
    """Where in which trace a message belongs, as W3C trace context has it."""

    trace_id: bytes  # 16
    span_id: bytes  # 8
    sampled: bool


class Envelope(NamedTuple):
    """One frame of a link between actors: the header record, and what is carried.

    On the wire an array: version, kind, call, trace or nil, target, body. `call` pairs an answer with its
    question and is chosen by the asker; `target` names the actor asked and is empty in an answer.
    """

    kind: Kind
    call: int
    trace: Trace | None
    target: str
    body: Any


class _DuplicateKeyError(ValueError):
    """A map that says two things under one name."""


class _ExtensionError(ValueError):
    """A value of a type that is private to somebody."""


def _refuse_extension(code: int, data: bytes) -> Any:
    raise _ExtensionError(f"type {code}, {len(data)} bytes")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _DuplicateKeyError(f"{len(pairs) - len(made)} of {len(pairs)}")
    return made


# What a byte may begin, wherever it stands: most bytes of a small body begin nothing of interest. A body of a
# few KiB with at most DEPTH of those is not too deep, and cannot claim much that is not there.
_MAPS = {*range(0x80, 0x90), 0xDE, 0xDF}
_ARRAYS = {*range(0x90, 0xA0), 0xDC, 0xDD}
_TIMESTAMPS = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")  # which msgpack decodes without asking
_STAMPS = {stamp[0] for stamp in _TIMESTAMPS}
_PLAIN = bytes(set(range(256)) - _MAPS - _ARRAYS - _STAMPS)
_KIND = bytes(0xFF if byte in _STAMPS else byte in _MAPS for byte in range(256))
_MAP = b"\x01"
_SMALL = 4096


def _unusual(body: bytes, begins: bytes) -> bool:
    """Whether `body` may be too deep, claim much that it lacks, or hold a timestamp: rarely true of ours."""
    if len(begins) > DEPTH or len(body) > _SMALL:
        return True
    return not begins.isascii() and any(stamp in body for stamp in _TIMESTAMPS)


def _measure(body: bytes) -> None:
    """Walk over `body` without making anything of it; raises what msgpack raises if it is not all there.

    A few bytes may claim millions of elements, which are allocated before the first is looked for.
    """
    walker = msgpack.Unpacker(max_buffer_size=max(len(body), 64))
    walker.feed(body)
    walker.skip()


def _inspect(message: Message) -> None:
    """Refuse depth and timestamps, which msgpack decodes without asking. One list per level, no recursion."""
    layer: list[Any] = [message]
    for _ in range(DEPTH):
        below: list[Any] = []
        for container in layer:
            for item in container.values() if type(container) is dict else container:
                if type(item) is list or type(item) is dict:
                    below.append(item)
                elif type(item) is msgpack.Timestamp:
                    raise RemoteProtocolError("extension", "a timestamp")
        if not below:
            return
        layer = below
    raise RemoteProtocolError("too_deep", f"more than {DEPTH} levels")


_unpack = msgpack.unpackb  # text is text, and keys are text: its defaults


def _unpack_carefully(body: bytes) -> Any:
    _measure(body)
    message = _unpack(
        body,
        ext_hook=_refuse_extension,
        object_pairs_hook=_unique,
        max_array_len=ARRAY_LIMIT,
        max_map_len=MAP_LIMIT,
    )
    if type(message) is list or type(message) is dict:
        _inspect(message)
    return message


def unpack_body(body: bytes) -> Message:
    """Return the one message in `body`; raises RemoteProtocolError for anything else, and nothing else."""
    if not body:
        raise RemoteProtocolError("empty", "a frame without a body")
    begins = body.translate(_KIND, _PLAIN)
    try:
        if _unusual(body, begins):
            message = _unpack_carefully(body)
        elif _MAP in begins:
            message = _unpack(body, ext_hook=_refuse_extension, object_pairs_hook=_unique)
        else:
            message = _unpack(body, ext_hook=_refuse_extension)  # records are arrays, so most have no keys
    except _DuplicateKeyError as error:
        raise RemoteProtocolError("duplicate_key", str(error)) from None
    except _ExtensionError as error:
        raise RemoteProtocolError("extension", str(error)) from None
    except msgpack.exceptions.StackError:
        raise RemoteProtocolError("too_deep", "deeper than the decoder goes") from None
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise RemoteProtocolError("malformed", _shortened(error)) from None
    if type(message) is not list and type(message) is not dict:
        raise RemoteProtocolError("shape", f"a body is an array or a map, not {type(message).__name__}")
    return message


_pack = msgpack.Packer(use_bin_type=True).pack  # kept: making one costs more than most messages
_UNPACKABLE = (TypeError, ValueError, OverflowError, RecursionError)


def pack_body(message: object) -> bytes:
    """Return `message` as msgpack; raises LocalProtocolError where it has no such form."""
    try:
        packed: bytes = _pack(message)
    except _UNPACKABLE as error:
        raise LocalProtocolError(f"not to be packed: {_shortened(error)}") from error
    return packed


def pack_frame(message: object, limit: int = FRAME_LIMIT) -> bytes:
    """Return `message` as one frame; raises LocalProtocolError: no msgpack form, or over `limit` bytes."""
    try:
        body: bytes = _pack(message)  # as in `pack_body`, without a call: each message comes by here
    except _UNPACKABLE as error:
        raise LocalProtocolError(f"not to be packed: {_shortened(error)}") from error
    if len(body) > limit:
        raise LocalProtocolError(f"a body of {len(body)} bytes; the limit is {limit}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


_length_at = Struct(">I").unpack_from


class FrameDecoder:
    """Bytes in pieces of any size to messages, in order.

    `violation` is set once the peer has broken the protocol; from then on `feed` raises it.
    """

    __slots__ = ("_buffer", "_wanted", "limit", "violation")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.limit = limit
        self.violation: RemoteProtocolError | None = None
        self._buffer = bytearray()  # the beginning of a frame
        self._wanted = LENGTH_BYTES  # bytes in it before it says anything new

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take `data` and return the messages that it completes.

        Raises RemoteProtocolError; if messages were complete before the violation they are returned first,
        and the next call raises (`violation` tells at once).
        """
        if self.violation is not None:
            raise self.violation
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return []  # not looked at again before there is something to see
            data = bytes(self._buffer)
            self._buffer.clear()
        elif type(data) is not bytes:
            data = bytes(data)
        messages: list[Message] = []
        start, end, limit = 0, len(data), self.limit
        try:
            while end - start >= LENGTH_BYTES:
                body = start + LENGTH_BYTES
                (length,) = _length_at(data, start)
                if length > limit:
                    raise RemoteProtocolError("oversized", f"{length} bytes; the limit is {limit}")
                if end - body < length:
                    self._wanted = LENGTH_BYTES + length
                    break
                start = body + length
                messages.append(unpack_body(data[body:start]))
            else:
                self._wanted = LENGTH_BYTES
        except RemoteProtocolError as error:
            self.violation = error
            if not messages:
                raise
            return messages
        if start < end:
            self._buffer += data[start:]
        return messages

    def end(self) -> None:
        """Say that the stream has ended; raises RemoteProtocolError if it ended inside a frame."""
        if self.violation is not None:
            raise self.violation
        if self._buffer:
            self.violation = RemoteProtocolError(
                "truncated", f"{len(self._buffer)} bytes of an unfinished frame"
            )
            raise self.violation

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)


def pack_envelope(envelope: Envelope, limit: int = FRAME_LIMIT) -> bytes:
    """Return `envelope` as one frame; raises LocalProtocolError as `pack_frame` does."""
    kind, call, trace, target, body = envelope
    return pack_frame((VERSION, int(kind), call, trace, target, body), limit)


def open_envelope(message: Message) -> Envelope:
    """Return what `message` says; raises RemoteProtocolError unless each field is of its type and range."""
    kind, call, trace, target, body = opened(message)
    return Envelope(_KINDS[kind], call, trace, target, body)


def opened(message: Message) -> tuple[int, int, Trace | None, str, Any]:
    """The same as `open_envelope` as a bare tuple, the kind by its number: links open a lot of them."""
    if type(message) is not list or len(message) != 6:
        raise RemoteProtocolError("shape", "an envelope is an array of six")
    version, kind, call, trace, target, body = message
    if version != VERSION or type(version) is not int:
        raise RemoteProtocolError("version", f"{_shortened(version)}; spoken here: {VERSION}")
    if type(kind) is not int or kind not in _KINDS:
        raise RemoteProtocolError("kind", _shortened(kind))
    if type(call) is not int or not 0 <= call < CALL_LIMIT:
        raise RemoteProtocolError("shape", f"call is {_shortened(call)}")
    if type(target) is not str:
        raise RemoteProtocolError("shape", f"target is {type(target).__name__}")
    return kind, call, None if trace is None else _open_trace(trace), target, body


_KINDS = {int(kind): kind for kind in Kind}


def _open_trace(trace: object) -> Trace:
    match trace:
        case [bytes(trace_id), bytes(span_id), bool(sampled)] if len(trace_id) == 16 and len(span_id) == 8:
            return Trace(trace_id, span_id, sampled)
    raise RemoteProtocolError("shape", "a trace is 16 bytes, 8 bytes and a truth value")


def _shortened(value: object, length: int = 80) -> str:
    """Quote what came from elsewhere, but not all of it."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."
