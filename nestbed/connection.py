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

RENEWALS = 4  # that may be on their way
CHANNEL_OK = b"OK\n"
Body = dict[str, Any]


class Connection:
    """One stream, one request at a time. After an error that is no answer it is of no use any more."""

    def __init__(self, address: Address, timeout_s: float, tls: ssl.SSLContext | None = None) -> None:
        self._socket = dial(address, timeout_s, tls)
        self._decoder = FrameDecoder(FRAME_BYTES)
        self._got: list[Any] = []
        self._patience_s: float | None = timeout_s
        self._asked, self._rid, self._epoch = "", b"", 0
        self._renew_s: float | None = None
        self._renewals: set[bytes] = set()  # that are not answered yet

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def patience(self, seconds: float | None) -> None:
        """How long to wait for a reply, all of it; None: for ever."""
        self._patience_s = seconds

    def exchange(
        self, kind: str, epoch: int, key: bytes | None, body: Body, renew_s: float | None = None
    ) -> tuple[str, Body]:
        """Send one request; return kind (`ok`, `err`, `ev`) and body of its reply.

        `renew_s`: while the reply does not come, renew the lease that often. Raises OSError,
        HostingProtocolError; LocalProtocolError where the request has no form on the wire.
        """
        self._asked, self._epoch, self._renew_s = kind, epoch, renew_s
        self._rid = self._send(kind, key, body)
        return self.receive()

    def _send(self, kind: str, key: bytes | None, body: Body) -> bytes:
        rid = os.urandom(16)
        frame = {"v": VERSION, "t": kind, "rid": rid, "epoch": self._epoch, "dl": None, "key": key, "b": body}
        self._socket.settimeout(self._patience_s)
        self._socket.sendall(pack_frame(frame, FRAME_BYTES))
        return rid

    def receive(self) -> tuple[str, Body]:
        """The next reply to what was asked. Raises OSError, HostingProtocolError."""
        until = None if self._patience_s is None else time.monotonic() + self._patience_s
        while True:
            while not self._got:
                self._fill(until)
            frame = self._got.pop(0)
            if not self._is_a_renewal(frame):
                return check_reply(self._asked, self._rid, frame)

    def _fill(self, until: float | None) -> None:
        """Take what has come, or renew the lease where nothing has. Raises TimeoutError at `until`."""
        left = None if until is None else max(until - time.monotonic(), 1e-6)
        waits = [seconds for seconds in (left, self._renew_s) if seconds is not None]
        self._socket.settimeout(min(waits, default=None))
        try:
            data = self._socket.recv(FRAME_BYTES)
        except TimeoutError:
            if self._renew_s is None or (until is not None and time.monotonic() >= until):
                raise
            if len(self._renewals) < RENEWALS:
                self._renewals.add(self._send("lease.renew", None, {}))
            return
        if not data:
            raise ConnectionResetError("the host closed the connection")
        try:
            self._got += self._decoder.feed(data)
        except RemoteProtocolError as wrong:
            raise HostingProtocolError(self._asked, "the frame", f"is none: {wrong}") from None

    def _is_a_renewal(self, frame: Any) -> bool:
        """Whether this answers a renewal. How does not matter: whoever has no lease is told elsewhere."""
        rid = frame.get("rid") if isinstance(frame, dict) else None
        if not isinstance(rid, bytes) or rid not in self._renewals:
            return False
        self._renewals.remove(rid)
        return True


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
