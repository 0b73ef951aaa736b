"""A connected socket between two descriptors, for a command that does nothing else."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
from contextlib import suppress
from typing import NamedTuple

CHUNK = 65_536
LATER = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def pump(stream: socket.socket, source: int, sink: int) -> None:
    """Carry bytes both ways until the peer ends. The end of `source` is the end of what is sent only.

    Neither direction waits for the other: a peer that answers before it has read all is read meanwhile.
    Raises OSError: the stream broke.
    """
    stream.setblocking(False)
    unsent, ended = memoryview(b""), False
    while True:
        ready = _ready(stream, source if not (unsent or ended) else None, bool(unsent))
        if ready.stream and not _pass_on(stream, sink):
            return
        if unsent:
            unsent = unsent[_sent(stream, unsent) :]
        elif ready.source and not ended:
            unsent = memoryview(os.read(source, CHUNK))
            ended = not unsent
            if ended:
                _end_sending(stream)


class Ready(NamedTuple):
    """What can be read now."""

    stream: bool
    source: bool


def _ready(stream: socket.socket, source: int | None, sending: bool) -> Ready:
    """Wait until something can be done: read from the stream, from `source` if given, or send."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(stream, selectors.EVENT_READ | (selectors.EVENT_WRITE if sending else 0))
        always = False
        if source is not None:
            try:
                waiting.register(source, selectors.EVENT_READ)
            except PermissionError:
                always = True  # a file is always ready
        found = {key.fileobj: events for key, events in waiting.select(0 if always else None)}
    return Ready(bool(found.get(stream, 0) & selectors.EVENT_READ), always or source in found)


def _sent(stream: socket.socket, data: memoryview) -> int:
    """How many bytes of `data` went out."""
    try:
        return stream.send(data)
    except LATER:
        return 0


def _pass_on(stream: socket.socket, sink: int) -> bool:
    """Write what has come, also what waits inside of TLS, where no selector sees it. False at the end."""
    while True:
        try:
            data = stream.recv(CHUNK)
        except LATER:
            return True
        except ssl.SSLZeroReturnError:  # both directions of TLS have ended
            return False
        if not data:
            return False
        _write(sink, data)


def _write(sink: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(sink, rest) :]


def _end_sending(stream: socket.socket) -> None:
    """Say that nothing more comes; the peer may go on. In TLS 1.3 each direction ends by its own alert."""
    if not isinstance(stream, ssl.SSLSocket):
        stream.shutdown(socket.SHUT_WR)
        return
    with suppress(ssl.SSLError, OSError):
        stream.unwrap()  # the alert goes out; the peer's own is waited for by whoever reads
