"""Between processes of one machine: connected Unix sockets, handed to the child when it is started.

A pair made here has no name in the file system, so nobody else can connect to it; who is at the other end
is known because this process put it there.
"""

from __future__ import annotations

import os
import socket

import trio


class Pair:
    """Two ends: ours, and one that a child inherits by number. Close `theirs` once the child has it."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.theirs = self._theirs.fileno()

    def stream(self) -> trio.SocketStream:
        """Our end."""
        return trio.SocketStream(trio.socket.from_stdlib_socket(self._ours))

    def handed_over(self) -> None:
        """The child has its end: only then does its death close the connection."""
        self._theirs.close()


def adopt(fd: int) -> trio.SocketStream:
    """The end that this process inherited as `fd`."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(_socket(fd)))


def adopt_blocking(fd: int, timeout_s: float) -> socket.socket:
    """The same as a socket that blocks, for at most `timeout_s` at a time (TimeoutError, an OSError)."""
    made = _socket(fd)
    made.settimeout(timeout_s)
    return made


def _socket(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)
