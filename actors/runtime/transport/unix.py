"""Between processes of one machine: connected Unix sockets, handed to the child when it is started.

A pair made here has no name in the file system, so nobody else can connect to it; who is at the other end
is known because this process put it there.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from struct import Struct

import trio

from protocol.errors import RemoteProtocolError

BACKLOG = 64
_CREDENTIALS = Struct("3i")  # pid, uid, gid
_INT = 4


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


# -- by name: sockets in a directory that is its owner's alone


def listen(path: Path) -> trio.SocketListener:
    """Listen on `path`, where only its owner may connect; what a dead one left there is replaced."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with suppress(FileNotFoundError):
        os.unlink(path)
    made.bind(os.fspath(path))
    os.chmod(path, 0o600)
    made.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(made))


async def connect(path: Path) -> trio.SocketStream:
    """Connect to whoever listens on `path`. Raises OSError."""
    return await trio.open_unix_socket(os.fspath(path))


def uid_of(stream: trio.SocketStream) -> int:
    """Whose process is at the other end, as the kernel says."""
    told = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(told)
    return int(uid)


def is_ours(stream: trio.SocketStream) -> bool:
    """Whether the peer is a process of the same user, or of the system's."""
    return uid_of(stream) in (0, os.getuid())


async def send_files(to: trio.socket.SocketType, data: bytes, files: Sequence[int]) -> None:
    """Send `data` (not empty) with descriptors at its first byte."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))]
    sent = await to.sendmsg([data], ancillary)
    while sent < len(data):
        sent += await to.send(data[sent:])


async def receive_files(source: trio.socket.SocketType, size: int, most: int) -> tuple[bytes, list[int]]:
    """Receive once: what came, and the descriptors that came with it. Raises RemoteProtocolError."""
    data, ancillary, flags, _ = await source.recvmsg(size, socket.CMSG_SPACE(most * _INT))
    files = array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(content[: len(content) - len(content) % _INT])
    if flags & socket.MSG_CTRUNC:
        for fd in files:
            os.close(fd)
        raise RemoteProtocolError("shape", f"more than {most} descriptors")
    for fd in files:
        os.set_inheritable(fd, False)
    return data, list(files)
