"""The handshake of the hybrid scheme, byte for byte as Firecracker reads and writes it.

Host to guest: the peer sends `CONNECT <port>` and a line feed; the answer is `OK <host port>` and a line
feed, then the stream is transparent. A refusal is the end of the stream, without a byte. After the answer
nothing may have been read beyond its line feed: what follows is the guest's.

Imported by programs that start in milliseconds: nothing but the standard library.
"""

from __future__ import annotations

LEAST = 10  # `CONNECT 0` and a line feed: read in one go, so a shorter line waits for more
MOST = 32
PORT_LIMIT = 1 << 32
HOST_PORTS = (1 << 30, 1 << 31)  # from, below
CONNECTIONS = 1023  # of one guest
REQUEST_TIMEOUT_S = 2.0
BUFFER_BYTES = 64 * 1024  # towards a guest, for each connection


def connect_line(port: int) -> bytes:
    return b"CONNECT %d\n" % port


def ok_line(host_port: int) -> bytes:
    return b"OK %d\n" % host_port


def wanted(line: bytes) -> int:
    """Return how many bytes to read after `line`, 0 where it is over. Raises ValueError: too long."""
    if len(line) < LEAST:
        return LEAST - len(line)
    if line.endswith(b"\n"):
        return 0
    if len(line) >= MOST:
        raise ValueError("no line feed in the first 32 bytes")
    return 1


def read_connect(line: bytes) -> int:
    """Return the port of a CONNECT line; raises ValueError for anything else."""
    words = line.decode("ascii").split()
    if len(words) < 2 or words[0].lower() != "connect" or not words[1].isdigit():
        raise ValueError("not CONNECT and a port")
    port = int(words[1])
    if port >= PORT_LIMIT:
        raise ValueError("a port has 32 bits")
    return port


def read_ok(line: bytes) -> int:
    """Return the host port of an OK line; raises ValueError for anything else."""
    words = line.decode("ascii").split()
    if len(words) != 2 or words[0] != "OK" or not words[1].isdigit():
        raise ValueError("not OK and a port")
    return int(words[1])


class HostPorts:
    """Ports of the host's ends: round robin, so that one is not used again soon; unique while in use."""

    def __init__(self) -> None:
        self._next = HOST_PORTS[0]
        self._used: set[int] = set()

    def take(self) -> int | None:
        """Return a port; None where there are as many connections as there may be."""
        if len(self._used) >= CONNECTIONS:
            return None
        while True:
            port = self._next
            self._next = port + 1 if port + 1 < HOST_PORTS[1] else HOST_PORTS[0]
            if port not in self._used:
                self._used.add(port)
                return port

    def give_back(self, port: int) -> None:
        self._used.discard(port)
