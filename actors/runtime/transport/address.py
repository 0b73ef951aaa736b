"""Connect to an address and listen on one, whatever it is made of (`protocol.vsock.address`)."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import trio

from actors.runtime.transport.fabric import FabricStream
from protocol.errors import RemoteProtocolError
from protocol.vsock.address import CID_ANY, CID_HOST, CID_LOCAL, Address
from protocol.vsock.hybrid import REQUEST_TIMEOUT_S, connect_line, read_ok

if TYPE_CHECKING:
    from actors.runtime.transport.pki import Credentials

LOCAL_CID_IOCTL = 0x7B9  # IOCTL_VM_SOCKETS_GET_LOCAL_CID


class Peer(NamedTuple):
    """Who is at the other end: as the kernel says, or, over TLS, as a certificate does that is believed."""

    uid: int | None = None
    pid: int | None = None
    cid: int | None = None
    role: str = ""
    name: str = ""


async def connect(address: Address, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
    """Return a stream to `address`. Raises OSError: nobody there, refused, reset, not in time.

    TCP needs `tls`, whose certificate says who we are.
    """
    match address.scheme:
        case "unix":
            return await trio.open_unix_socket(address.place)
        case "hybrid":
            return await _connect_hybrid(address)
        case "vsock":
            made = trio.socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            try:
                await made.connect((address.cid, address.port))
            except BaseException:
                made.close()
                raise
            return trio.SocketStream(made)
        case "tcp" if tls is not None:
            return await trio.open_ssl_over_tcp_stream(address.place, address.port, ssl_context=tls)
    raise ValueError(f"{address}: not to be connected to from here")


async def _connect_hybrid(address: Address) -> trio.SocketStream:
    stream = await trio.open_unix_socket(address.place)
    try:
        with trio.fail_after(REQUEST_TIMEOUT_S):
            await stream.send_all(connect_line(address.port))
            line = b""
            while not line.endswith(b"\n") and len(line) < 32:
                byte = await stream.receive_some(1)  # never beyond the line: what follows is the guest's
                if not byte:
                    raise ConnectionRefusedError(f"{address}: nobody listens on that port")
                line += byte
        read_ok(line)
    except BaseException as error:
        await trio.aclose_forcefully(stream)
        if isinstance(error, trio.TooSlowError):
            raise TimeoutError(f"{address}: no answer") from None
        if isinstance(error, ValueError | trio.BrokenResourceError):
            raise ConnectionResetError(f"{address}: not the hybrid scheme") from None
        raise
    return stream


def listen_unix(path: str) -> trio.SocketListener:
    """A listener on a Unix socket of mode 0700. One that nobody listens on any more is replaced.

    Raises OSError (EADDRINUSE) where somebody does.
    """
    _remove_stale(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o077)
        try:
            made.bind(path)
        finally:
            os.umask(before)
        made.listen(128)
    except BaseException as error:
        made.close()
        if isinstance(error, OSError):
            error.filename = path
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(made))


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.stat(path, follow_symlinks=False).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)


def listen_vsock(port: int) -> trio.SocketListener:
    """A listener on a port of the real VSOCK, for whatever context id this machine has."""
    made = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    try:
        made.bind((CID_ANY, port))
        made.listen(128)
    except BaseException:
        made.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(made))


async def serve_all(
    handler: Callable[[trio.abc.Stream], Awaitable[None]],
    listener: trio.abc.Listener[trio.abc.Stream],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run `handler` for everybody who connects, until cancelled; then the listener is closed."""
    await trio.serve_listeners(handler, [listener], task_status=task_status)  # type: ignore[arg-type]


async def listen_tls(
    host: str, port: int, credentials: Credentials
) -> tuple[trio.SSLListener[trio.SocketStream], tuple[str, int]]:
    """A listener for TLS 1.3 with certificates on both sides, and its address. Raises OSError."""
    from actors.runtime.transport.tls import context

    try:
        plain, *others = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        error.filename = f"{host}:{port}"
        raise
    for other in others:  # a name may have more than one address; the first is told and served
        await other.aclose()
    address: tuple[str, int] = plain.socket.getsockname()[:2]
    return trio.SSLListener(plain, context(credentials, server=True)), address


def local_host(stream: trio.abc.Stream) -> str:
    """By which address of this machine the peer of a stream over TCP, with TLS or not, has reached it."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    assert isinstance(plain, trio.SocketStream)
    host: str = plain.socket.getsockname()[0]
    return host


async def met(stream: trio.abc.Stream) -> Peer | None:
    """Who is at the other end of an accepted stream; None for one whom TLS turns away, or who is too slow."""
    if not isinstance(stream, trio.SSLStream):
        return peer_of(stream)
    from actors.runtime.transport import tls

    try:
        with trio.fail_after(tls.HANDSHAKE_S):
            await stream.do_handshake()
            return Peer(role=(found := tls.peer_of(stream)).role, name=found.name)
    except (RemoteProtocolError, trio.TooSlowError, trio.BrokenResourceError, ssl.SSLError):
        return None


def peer_of(stream: trio.abc.Stream) -> Peer:
    """Who is at the other end of an accepted stream."""
    if isinstance(stream, FabricStream):
        return Peer(cid=stream.connection.peer_cid)
    if not isinstance(stream, trio.SocketStream):
        return Peer()
    if stream.socket.family == socket.AF_UNIX:
        pid, uid, _ = struct.unpack("3i", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return Peer(uid=uid, pid=pid)
    if stream.socket.family == getattr(socket, "AF_VSOCK", -1):
        return Peer(cid=stream.socket.getpeername()[0])
    return Peer()


def vsock_probe() -> str:
    """Why the real VSOCK cannot be used here within one machine; empty if it can.

    It can where a socket can be made, the own context id can be read, and the loopback (1) answers. Nothing
    here dials the host: context id 2 of a VM is somebody else's machine.
    """
    if not hasattr(socket, "AF_VSOCK"):
        return "this Python has no AF_VSOCK"
    try:
        listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError as error:
        return f"no socket of AF_VSOCK: {error.strerror}"
    with listener:
        try:
            local_cid()
        except OSError as error:
            return f"the own context id cannot be read: {error.strerror}"
        try:
            listener.bind((CID_ANY, CID_ANY))
            listener.listen(1)
            with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
                probe.settimeout(0.5)
                probe.connect((CID_LOCAL, listener.getsockname()[1]))
        except OSError as error:
            return f"the loopback context id does not answer: {error}"
    return ""


def local_cid() -> int | None:
    """This machine's own context id; None where the kernel does not know one. Raises OSError.

    With the loopback alone, and on some hypervisors, it says 1 or 2^32-1, which is nobody's.
    """
    import fcntl

    with open("/dev/vsock", "rb") as device:
        cid: int = struct.unpack("I", fcntl.ioctl(device, LOCAL_CID_IOCTL, bytes(4)))[0]
    return cid if CID_HOST <= cid < CID_ANY else None
