"""A connected socket between two descriptors, for a command that does nothing else."""

from __future__ import annotations

import os
import selectors
import socket

CHUNK = 65_536


def pump(stream: socket.socket, source: int, sink: int) -> None:
    """Carry bytes both ways until the peer ends. The end of `source` is the end of what is sent only."""
    with selectors.DefaultSelector() as ready:
        ready.register(stream, selectors.EVENT_READ)
        try:
            ready.register(source, selectors.EVENT_READ)
        except PermissionError:  # a file is always ready: it can be sent at once
            while data := os.read(source, CHUNK):
                stream.sendall(data)
            stream.shutdown(socket.SHUT_WR)
        while True:
            for key, _ in ready.select():
                if key.fileobj is stream:
                    data = stream.recv(CHUNK)
                    if not data:
                        return
                    os.write(sink, data)
                elif data := os.read(source, CHUNK):
                    stream.sendall(data)
                else:
                    ready.unregister(source)
                    stream.shutdown(socket.SHUT_WR)
