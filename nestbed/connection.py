"""One stream to a host: how it is dialed, over whatever carries it, and one request at a time on it."""

from __future__ import annotations

import os
import socket
import ssl
import time
from pathlib import Path
from typing import Any

from protocol.errors import RemoteProtocolError
from protocol.hosting.limits import FRAME_BYTES
from protocol.hosting.messages import VERSION
from protocol.hosting.replies import HostingProtocolError, check_reply
from protocol.vsock.address import Address
from protocol.vsock.hybrid import connect_line, read_ok
from protocol.wire import FrameDecoder, pack_frame

CHANNEL_OK = b"OK\n"
Body = dict[str, Any]


class Connection:
    """One stream, one request at a time. After an error that is no answer it is of no use any more."""

    def __init__(self, address: Address, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._socket = dial(address, timeout_s, tls)
        self._decoder = FrameDecoder(FRAME_BYTES)
        self._got: list[Any] = []
        self._patience_s: float | None = timeout_s
        self._asked, self._rid = "", b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def patience(self, seconds: float | None) -> None:
        """How long to wait for a reply, all of it; None: for ever."""
        self._patience_s = seconds

    def exchange(self, kind: str, epoch: int, key: bytes | None, body: Body) -> tuple[str, Body]:
        """Send one request; return kind (`ok`, `err`, `ev`) and body of its reply.

        Raises OSError, HostingProtocolError; LocalProtocolError where the request has no form on the wire.
        """
        self._asked, self._rid = kind, os.urandom(16)
        frame = {"v": VERSION, "t": kind, "rid": self._rid, "epoch": epoch, "dl": None, "key": key, "b": body}
        self._socket.settimeout(self._patience_s)
        self._socket.sendall(pack_frame(frame, FRAME_BYTES))
        return self.receive()

    def receive(self) -> tuple[str, Body]:
        """The next reply to what was asked. Raises OSError, HostingProtocolError."""
        until = None if self._patience_s is None else time.monotonic() + self._patience_s
        while not self._got:
            self._socket.settimeout(None if until is None else max(until - time.monotonic(), 1e-6))
            data = self._socket.recv(FRAME_BYTES)
            if not data:
                raise ConnectionResetError("the host closed the connection")
            try:
                self._got += self._decoder.feed(data)
            except RemoteProtocolError as wrong:
                raise HostingProtocolError(self._asked, "the frame", f"is none: {wrong}") from None
        return check_reply(self._asked, self._rid, self._got.pop(0))


def tls_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """TLS 1.3 for `tcp:` addresses: our certificate, and the authority of the host's. Raises OSError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # the certificate names a role, which is looked at
    made.load_verify_locations(authority)
    made.load_cert_chain(certificate, key)
    return made


def _secured(plain: socket.socket, tls: ssl.SSLContext) -> ssl.SSLSocket:
    made = tls.wrap_socket(plain)
    said: Any = made.getpeercert() or {}
    names = [value for kind, value in said.get("subjectAltName", ()) if kind == "URI"]
    if not any(value.startswith("nestbed:machine:") for value in names):
        made.close()
        raise ConnectionRefusedError("the certificate at the other end is not a machine's")
    return made


def dial(address: Address, timeout_s: float, tls: ssl.SSLContext | None = None) -> socket.socket:
    """A connected socket. Raises OSError; ValueError for what a blocking client cannot reach."""
    if address.scheme == "tcp":
        if tls is None:
            raise ValueError(f"{address}: needs certificates (tls_context)")
        return _secured(socket.create_connection((address.place, address.port), timeout_s), tls)
    if address.scheme == "vsock":
        made = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        where: Any = (address.cid, address.port)
    elif address.scheme in ("unix", "hybrid"):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        where = address.place
    else:
        raise ValueError(f"{address}: this client speaks over vsock, hybrid, unix and tcp")
    try:
        made.settimeout(timeout_s)
        made.connect(where)
        if address.scheme == "hybrid":
            _handshake(made, address.port)
    except BaseException:
        made.close()
        raise
    return made


def open_channel(
    address: Address, token: bytes, timeout_s: float, tls: ssl.SSLContext | None = None
) -> socket.socket:
    """Dial where a channel is opened and say its token; the connected socket."""
    made = dial(address, timeout_s, tls)
    try:
        made.sendall(token)
        answer = b""
        while len(answer) < len(CHANNEL_OK):
            more = made.recv(len(CHANNEL_OK) - len(answer))
            if not more:
                raise ConnectionRefusedError(f"{address}: the channel was not opened")
            answer += more
        if answer != CHANNEL_OK:
            raise ConnectionRefusedError(f"{address}: not where a channel is opened: it answered {answer!r}")
    except BaseException:
        made.close()
        raise
    return made


def _handshake(made: socket.socket, port: int) -> None:
    made.sendall(connect_line(port))
    line = b""
    while not line.endswith(b"\n") and len(line) < 32:
        byte = made.recv(1)  # never beyond the line: what follows is the guest's
        if not byte:
            raise ConnectionRefusedError(f"nobody listens on port {port}")
        line += byte
    try:
        read_ok(line)
    except ValueError as error:
        raise ConnectionResetError(f"not the hybrid scheme: {error}") from None
