"""One context id's end of VSOCK: listeners, connections, and credit for each of them.

A sender may have at most `peer_buf_alloc - (tx_cnt - peer_fwd_cnt)` bytes in flight, counted modulo 2**32 and
for each connection by itself: kept for a whole device, one slow reader would hang all others.

Nothing here waits. What is to be sent is in `out`; whoever moves packets (`fabric`) hands in what arrives.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import dataclass, field

from protocol.vsock.address import PORT_ANY, PRIVILEGED_PORTS
from protocol.vsock.packet import PAYLOAD, STREAM, Op, Packet, Shut

U32 = (1 << 32) - 1
BUFFER = 256 * 1024  # of a connection, as Linux has it by default
LEAST_CREDIT = 4096  # a peer that believes in less is told how much there is
CONNECT_MS = 2_000
BACKLOG = 128

Pair = tuple[int, int, int]  # own port, peer's context id, peer's port


@dataclass(slots=True, eq=False)
class Connection:
    """A stream. `error` is an errno once it has failed; reading goes on until what arrived is read."""

    endpoint: Endpoint
    port: int
    peer_cid: int
    peer_port: int
    deadline_ms: int | None = None  # while it is being connected
    connected: bool = False
    error: int = 0
    peer_shut: int = 0
    own_shut: int = 0
    buffer: int = BUFFER
    tx_cnt: int = 0
    fwd_cnt: int = 0
    peer_buf_alloc: int = 0
    peer_fwd_cnt: int = 0
    told_fwd_cnt: int = 0
    received: deque[bytes] = field(default_factory=deque)
    waiting: int = 0  # bytes in `received`

    def credit(self) -> int:
        """How many bytes may be sent now."""
        return max(0, self.peer_buf_alloc - ((self.tx_cnt - self.peer_fwd_cnt) & U32))

    def send(self, data: bytes) -> int:
        """Send as much of `data` as there is credit for; return how much. Raises OSError."""
        if self.error:
            raise OSError(self.error, "the connection failed")
        if not self.connected:
            raise OSError(errno.ENOTCONN, "not connected")
        if self.own_shut & Shut.SEND or self.peer_shut & Shut.RECEIVE:
            raise OSError(errno.EPIPE, "nobody reads that any more")
        n = min(len(data), self.credit(), PAYLOAD)
        if n:
            self.tx_cnt = (self.tx_cnt + n) & U32
            self.endpoint.emit(self, Op.RW, data=data[:n])
        elif data:
            self.endpoint.emit(self, Op.CREDIT_REQUEST)
        return n

    def receive(self, most: int) -> bytes | None:
        """Return what arrived, b"" at the end, None if there is nothing yet. Raises OSError: it failed."""
        if self.received:
            data = self.received.popleft()
            if len(data) > most:
                self.received.appendleft(data[most:])
                data = data[:most]
            self.waiting -= len(data)
            self.fwd_cnt = (self.fwd_cnt + len(data)) & U32
            if self.buffer - ((self.fwd_cnt - self.told_fwd_cnt) & U32) - self.waiting < LEAST_CREDIT:
                self.endpoint.emit(self, Op.CREDIT_UPDATE)
            return data
        if self.error:
            raise OSError(self.error, "the connection failed")
        return b"" if self.peer_shut & Shut.SEND else None

    def shut(self, how: int = Shut.SEND) -> None:
        """Say that nothing more is sent, or read."""
        if self.connected and not self.error and self.own_shut | how != self.own_shut:
            self.own_shut |= how
            self.endpoint.emit(self, Op.SHUTDOWN, flags=self.own_shut)

    def close(self) -> None:
        """End it: the peer gets RST, as after the time that a shutdown has."""
        if not self.error:
            self.error = errno.ENOTCONN
            self.endpoint.emit(self, Op.RST)
        self.endpoint.drop(self)


class Endpoint:
    """The sockets of context id `cid`. `privileged`: it may listen below port 1024."""

    def __init__(self, cid: int, privileged: bool = True) -> None:
        self.cid = cid
        self.privileged = privileged
        self.out: deque[Packet] = deque()
        self.changed = 0  # grows with everything that somebody may wait for
        self._listeners: dict[int, deque[Connection]] = {}
        self._connections: dict[Pair, Connection] = {}
        self._next_port = PRIVILEGED_PORTS

    # -- what its owner does

    def listen(self, port: int) -> None:
        """Listen on `port`. Raises OSError: taken, not allowed."""
        if port < PRIVILEGED_PORTS and not self.privileged:
            raise OSError(errno.EACCES, f"port {port} needs a capability")
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"port {port} is taken")
        self._listeners[port] = deque()

    def accept(self, port: int) -> Connection | None:
        """The next connection to a listener, None if there is none yet."""
        waiting = self._listeners[port]
        return waiting.popleft() if waiting else None

    def stop_listening(self, port: int) -> None:
        for connection in self._listeners.pop(port, ()):
            connection.close()

    def connect(self, cid: int, port: int, now_ms: int) -> Connection:
        """Ask for a connection; it is there, or has failed, once `connected` or `error` says so."""
        made = Connection(self, self._free_port(), cid, port, now_ms + CONNECT_MS)
        self._connections[made.port, cid, port] = made
        self.emit(made, Op.REQUEST)
        return made

    def tick(self, now_ms: int) -> None:
        """A peer that says nothing for two seconds is not there."""
        for connection in list(self._connections.values()):
            if connection.deadline_ms is not None and connection.deadline_ms <= now_ms:
                self._fail(connection, errno.ETIMEDOUT)

    def transport_reset(self, cid: int | None = None) -> None:
        """After a snapshot or a migration: connections end, listeners stay, the context id may be new."""
        for connection in list(self._connections.values()):
            self._fail(connection, errno.ECONNRESET)
        for waiting in self._listeners.values():
            waiting.clear()
        self.out.clear()
        if cid is not None:
            self.cid = cid

    def peer_gone(self, cid: int) -> None:
        """The guest with that context id is gone: its connections are reset, and the id may come again."""
        for connection in list(self._connections.values()):
            if connection.peer_cid == cid:
                self._fail(connection, errno.ECONNRESET)

    def connections(self) -> int:
        return len(self._connections)

    # -- what arrives

    def arrived(self, packet: Packet) -> None:
        """Take one packet that was routed here."""
        self.changed += 1
        if packet.type != STREAM:
            self._refuse(packet)
            return
        pair = (packet.dst_port, packet.src_cid, packet.src_port)
        connection = self._connections.get(pair)
        if connection is None:
            if packet.op is Op.REQUEST and self._accepts(packet):
                return
            self._refuse(packet)
            return
        connection.peer_buf_alloc, connection.peer_fwd_cnt = packet.buf_alloc, packet.fwd_cnt
        match packet.op:
            case Op.RESPONSE if connection.deadline_ms is not None:
                connection.deadline_ms, connection.connected = None, True
            case Op.RST:
                self._fail(connection, errno.ECONNRESET)
            case Op.SHUTDOWN:
                connection.peer_shut |= packet.flags
            case Op.RW if connection.connected and self._fits(connection, packet):
                connection.received.append(packet.data)
                connection.waiting += len(packet.data)
            case Op.CREDIT_REQUEST:
                self.emit(connection, Op.CREDIT_UPDATE)
            case Op.CREDIT_UPDATE:
                pass
            case _:  # an operation that has no place here
                self._fail(connection, errno.ECONNRESET)
                self._refuse(packet)

    def _accepts(self, packet: Packet) -> bool:
        waiting = self._listeners.get(packet.dst_port)
        if waiting is None or len(waiting) >= BACKLOG:
            return False
        made = Connection(self, packet.dst_port, packet.src_cid, packet.src_port, connected=True)
        made.peer_buf_alloc, made.peer_fwd_cnt = packet.buf_alloc, packet.fwd_cnt
        self._connections[made.port, made.peer_cid, made.peer_port] = made
        waiting.append(made)
        self.emit(made, Op.RESPONSE)
        return True

    def _fits(self, connection: Connection, packet: Packet) -> bool:
        """A peer that sends beyond its credit breaks the protocol."""
        return connection.waiting + len(packet.data) <= connection.buffer

    def _refuse(self, packet: Packet) -> None:
        if packet.op is not Op.RST:
            self.out.append(Packet(packet.dst_cid, packet.src_cid, packet.dst_port, packet.src_port, Op.RST))

    def _fail(self, connection: Connection, error: int) -> None:
        connection.error = connection.error or error
        connection.connected, connection.deadline_ms = False, None
        self.drop(connection)
        self.changed += 1

    # -- for connections

    def emit(self, connection: Connection, op: Op, flags: int = 0, data: bytes = b"") -> None:
        connection.told_fwd_cnt = connection.fwd_cnt
        self.out.append(
            Packet(
                self.cid,
                connection.peer_cid,
                connection.port,
                connection.peer_port,
                op,
                connection.buffer,
                connection.fwd_cnt,
                flags,
                data,
            )
        )

    def drop(self, connection: Connection) -> None:
        self._connections.pop((connection.port, connection.peer_cid, connection.peer_port), None)

    def _free_port(self) -> int:
        """Round robin, so that a port is not used again soon."""
        used = {port for port, _, _ in self._connections} | set(self._listeners)
        while True:
            port = self._next_port
            self._next_port = port + 1 if port + 1 < PORT_ANY else PRIVILEGED_PORTS
            if port not in used:
                return port
