"""Hands out metrics over HTTP: /metrics, and /healthz and /readyz for a probe.

On Trio's own loop, so that a scrape and what it reads cannot race. A connection is one request: small, soon,
and closed after the answer. Loopback unless told otherwise, because counts tell about tenants.
"""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from actors.runtime.supervisor import unwrap
from protocol.errors import OperationalError

LOOPBACK = "127.0.0.1"
HEAD_BYTES = 8192  # request line and headers
REQUEST_S = 5.0  # from accepting a connection to closing it
CONNECTIONS = 16  # at the same time; more are told to come later
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
WHY = {errno.EADDRINUSE: "the port is taken", errno.EACCES: "it takes privileges that this process lacks"}


class CannotListen(OperationalError):
    """The address cannot be had: the environment's fault, and the user's to mend."""


class _Refused(Exception):
    """The request is none that is served; ends in an answer with this status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status, self.text = status, text


@asynccontextmanager
async def serve(
    registry: CollectorRegistry,
    port: int,
    *,
    host: str = LOOPBACK,
    ready: Callable[[], bool] = lambda: True,
) -> AsyncIterator[int]:
    """Serve while the block runs, and give it the port: for 0 the system chooses one.

    Raises CannotListen, saying why, and ValueError for a number that is no port.
    """
    if not 0 <= port <= 65_535:
        raise ValueError(f"a port is 0 to 65535, not {port}")
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        why = WHY.get(error.errno or 0) or error.strerror or str(error)
        raise CannotListen(f"cannot listen on {host} port {port}: {why}") from error
    exporter = _Exporter(registry, ready)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.serve_listeners, exporter.serve, listeners))
            yield listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        fault = unwrap(group)
        if fault is None:
            raise
        raise fault from fault.__cause__


class _Exporter:
    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        self._registry, self._ready = registry, ready
        self._open = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        self._open += 1
        try:
            with trio.move_on_after(REQUEST_S):
                await self._exchange(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # who asked is gone; nothing is owed
        finally:
            self._open -= 1
            await trio.aclose_forcefully(stream)

    async def _exchange(self, stream: trio.SocketStream) -> None:
        body = True
        try:
            if self._open > CONNECTIONS:
                raise _Refused(503, f"{CONNECTIONS} connections are open already; come later")
            method, path, accept = _parsed(await _head(stream))
            body = method == "GET"
            status, kind, content = 200, *self._content(path, accept)
        except _Refused as refused:
            status, kind, content = refused.status, "text/plain; charset=utf-8", f"{refused.text}\n".encode()
        allow = "Allow: GET, HEAD\r\n" if status == 405 else ""
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(content)}\r\n{allow}Connection: close\r\n\r\n"
        )
        await stream.send_all(head.encode() + (content if body else b""))
        await stream.send_eof()
        while await stream.receive_some(HEAD_BYTES):
            pass  # until the peer has read: closing with bytes unread would take the answer away again

    def _content(self, path: str, accept: str) -> tuple[str, bytes]:
        text = "text/plain; charset=utf-8"
        if path == "/healthz":
            return text, b"ok\n"
        if path == "/readyz":
            if not self._ready():
                raise _Refused(503, "not ready")
            return text, b"ready\n"
        if path != "/metrics":
            raise _Refused(404, "there are /metrics, /healthz and /readyz")
        try:
            encode, kind = choose_encoder(accept)
        except (TypeError, ValueError):  # what it does for versions that are no numbers
            encode, kind = choose_encoder("")
        try:
            return kind, encode(self._registry)
        except Exception as error:
            # A mistake in what is read must not end what is emulated; the scraper sees that it failed.
            raise _Refused(500, f"the metrics could not be read: {type(error).__name__}: {error}") from error


async def _head(stream: trio.SocketStream) -> bytes:
    """The request up to its empty line. What follows belongs to no request that is served here."""
    data = bytearray()
    while b"\r\n\r\n" not in data:
        if len(data) >= HEAD_BYTES:
            raise _Refused(431, f"a request has at most {HEAD_BYTES} bytes")
        more = await stream.receive_some(HEAD_BYTES - len(data))
        if not more:
            raise trio.BrokenResourceError
        data += more
    return bytes(data.partition(b"\r\n\r\n")[0])


def _parsed(head: bytes) -> tuple[str, str, str]:
    """Method, path without its query, and what the Accept headers say."""
    line, *headers = head.decode("latin-1").replace("\t", " ").split("\r\n")
    words = line.split(" ")
    # The answer's type repeats a part of Accept: no line may be smuggled into it.
    clean = all(part.isprintable() for part in (line, *headers))
    if not clean or len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _Refused(400, "this is not a request of HTTP/1")
    method, target, _ = words
    if method not in ("GET", "HEAD"):
        raise _Refused(405, "GET and HEAD are all there is")
    split = (header.partition(":") for header in headers)
    accept = ",".join(value.strip() for name, _, value in split if name.strip().lower() == "accept")
    return method, target.partition("?")[0], accept
