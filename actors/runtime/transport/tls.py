"""Between machines: TCP with TLS 1.3, both sides with a certificate, the role of each in it.

Who is at the other end is what its certificate says: a URI `nestbed:ROLE:NAME` among its names, under an
authority that both believe. A certificate without one, of another authority, or of a role that is not
expected closes the connection before a single message is read. After the handshake a peer says in one small
frame which of the links that are expected of it this is; each is taken once.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from actors.runtime.link import Serve
from actors.runtime.port import Deliver
from actors.runtime.transport.pki import SCHEME, Credentials
from protocol.errors import RemoteProtocolError
from protocol.wire import LENGTH_BYTES, pack_frame, unpack_body

HANDSHAKE_S = 5.0
CONNECTIONS = 256  # that have not said yet which link they are
TICKET_BYTES = 256


Welcome = Callable[["Peer", str, trio.abc.Stream], Awaitable[None]]


class Peer(NamedTuple):
    """Who is at the other end, as its certificate says."""

    role: str
    name: str


def context(credentials: Credentials, *, server: bool) -> ssl.SSLContext:
    """TLS 1.3 with our certificate; the other side has to have one of our authority. Raises OSError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False  # names say roles; addresses come from the directory
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(credentials.authority)
    made.load_cert_chain(credentials.certificate, credentials.key)
    return made


def peer_of(stream: trio.SSLStream[trio.SocketStream]) -> Peer:
    """Role and name in the peer's certificate. Raises RemoteProtocolError (role)."""
    certificate = stream.getpeercert() or {}
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "URI" and value.startswith(f"{SCHEME}:"):
            role, _, name = value.removeprefix(f"{SCHEME}:").partition(":")
            if role and name:
                return Peer(role, name)
    raise RemoteProtocolError("role", "a certificate that names no role")


def only(may_ask: Callable[[str], bool], serve: Serve) -> Serve:
    """`serve` for a peer that may ask some actors: to ask any other breaks the protocol."""

    def served(target: str, message: object, deliver: Deliver) -> None:
        if not may_ask(target):
            raise RemoteProtocolError("role", f"not for this peer to ask: {target[:40]!r}")
        serve(target, message, deliver)

    return served


async def dial(host: str, port: int, credentials: Credentials, role: str, ticket: str) -> trio.abc.Stream:
    """Connect to a process of that role and say which link this is. Raises OSError, RemoteProtocolError."""
    with trio.fail_after(HANDSHAKE_S):
        plain = await trio.open_tcp_stream(host, port)
        stream = trio.SSLStream(plain, context(credentials, server=False))
        try:
            await stream.do_handshake()
            peer = peer_of(stream)
            if peer.role != role:
                raise RemoteProtocolError("role", f"{peer.role}, and {role} was wanted")
            await stream.send_all(pack_frame([ticket]))
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
    return stream


@dataclass(slots=True, eq=False)
class Expected(trio.abc.Stream):
    """A link that a peer is to open: whoever reads or writes waits until it has."""

    peer: Peer
    came: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)
    stream: trio.abc.Stream | None = None

    async def _there(self) -> trio.abc.Stream:
        await self.came.wait()
        if self.stream is None:
            raise trio.ClosedResourceError
        return self.stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await (await self._there()).send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await (await self._there()).wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await (await self._there()).receive_some(max_bytes)

    async def aclose(self) -> None:
        """Close it, or if it never came, do not wait for it any more."""
        self.over.set()
        self.came.set()
        if self.stream is not None:
            await self.stream.aclose()


class Exchange:
    """Takes connections and gives each to the link that it is for."""

    def __init__(self, credentials: Credentials, welcome: Welcome | None = None) -> None:
        """`welcome` gets the connections of peers that were not expected by name, until it returns."""
        self._welcome = welcome
        self._context = context(credentials, server=True)
        self._expected: dict[str, Expected] = {}
        self._strangers = 0
        self.violations: Counter[str] = Counter()
        self.refused = 0  # connections beyond CONNECTIONS

    def expect(self, ticket: str, peer: Peer) -> Expected:
        """The stream of the link `ticket`, which `peer` opens."""
        assert ticket not in self._expected, f"{ticket} is expected already"
        made = self._expected[ticket] = Expected(peer)
        return made

    async def forget(self, name: str) -> None:
        """The peer of that name is gone: what it was to open is at its end."""
        for ticket, expected in list(self._expected.items()):
            if expected.peer.name == name:
                del self._expected[ticket]
                await expected.aclose()

    async def listen(self, nursery: trio.Nursery, host: str, port: int = 0) -> tuple[str, int]:
        """Take connections in `nursery`; returns the address."""
        listeners = await trio.open_tcp_listeners(port, host=host)
        nursery.start_soon(trio.serve_listeners, self._take, listeners)
        found: tuple[str, int] = listeners[0].socket.getsockname()[:2]
        return found

    async def _take(self, plain: trio.SocketStream) -> None:
        if self._strangers >= CONNECTIONS:
            self.refused += 1
            await trio.aclose_forcefully(plain)
            return
        stream = trio.SSLStream(plain, self._context, server_side=True)
        self._strangers += 1
        try:
            opened = await self._opened(stream)
        finally:
            self._strangers -= 1
        try:
            if opened is not None:
                await self._use(stream, *opened)  # whoever takes connections closes them when this returns
        except RemoteProtocolError as violation:
            self.violations[violation.reason] += 1
        finally:
            await trio.aclose_forcefully(stream)

    async def _opened(self, stream: trio.SSLStream[trio.SocketStream]) -> tuple[Peer, str] | None:
        """Who opened a connection, and which link it is to be; None, and counted, for one without a name."""
        try:
            with trio.fail_after(HANDSHAKE_S):
                await stream.do_handshake()
                return peer_of(stream), await _ticket(stream)
        except RemoteProtocolError as violation:
            self.violations[violation.reason] += 1
        except trio.TooSlowError:
            self.violations["order"] += 1
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError):
            self.violations["malformed"] += 1  # no TLS, or no certificate that we believe
        return None

    async def _use(self, stream: trio.SSLStream[trio.SocketStream], peer: Peer, ticket: str) -> None:
        if ticket not in self._expected and self._welcome is not None:
            await self._welcome(peer, ticket, stream)
        else:
            await self._hand_over(stream, peer, ticket).over.wait()

    def _hand_over(self, stream: trio.SSLStream[trio.SocketStream], peer: Peer, ticket: str) -> Expected:
        expected = self._expected.get(ticket)
        if expected is None:
            raise RemoteProtocolError("order", f"nobody expects the link {ticket[:40]!r}")
        if expected.peer != peer:
            raise RemoteProtocolError("role", f"{peer.role} {peer.name} opens a link of {expected.peer}")
        del self._expected[ticket]
        expected.stream = stream
        expected.came.set()
        return expected


async def _ticket(stream: trio.abc.Stream) -> str:
    """The first frame, and not a byte more: what follows is the link's."""
    length = int.from_bytes(await _exactly(stream, LENGTH_BYTES), "big")
    if length > TICKET_BYTES:
        raise RemoteProtocolError("oversized", f"a ticket of {length} bytes")
    match unpack_body(await _exactly(stream, length)):
        case [str(ticket)]:
            return ticket
    raise RemoteProtocolError("shape", "a ticket is the name of a link")


async def _exactly(stream: trio.abc.Stream, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = await stream.receive_some(size - len(found))
        if not more:
            raise RemoteProtocolError("truncated", "the stream ended before its ticket")
        found += more
    return found
