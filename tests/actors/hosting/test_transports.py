"""One interface over every transport: the fabric, hybrid sockets with socat, the real VSOCK, TLS."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import pytest
import trio

from actors.broker import Broker
from actors.hosting import reception
from actors.hosting.reception import Reception
from actors.hosting.serve import Options, open_service
from actors.runtime.actor import open_runtime
from actors.runtime.transport import address
from actors.runtime.transport.address import connect, listen_unix, listen_vsock, peer_of, vsock_probe
from actors.runtime.transport.fabric import MemoryVsock
from actors.runtime.transport.pki import Authority
from nestbed.client import Budget, Hosting, HostingUnreachable, open_channel, tls_context
from protocol.hosting import Identity, Service
from protocol.hosting.machine import CreateGuest, DestroyGuest
from protocol.vsock.address import Address, parse_address
from protocol.wire import FrameDecoder, pack_frame

IMAGE = b"image"
SPEC = {"image": hashlib.sha256(IMAGE).digest(), "vcpus": 1, "memory_mib": 16}
NO_VSOCK = vsock_probe()
SOCAT = shutil.which("socat")


class Machine:
    """L0's machine as a port that answers at once."""

    def __init__(self):
        self.guests = set()

    def submit(self, message, deliver, owner=None):
        if isinstance(message, CreateGuest):
            self.guests.add(message.child)
        if isinstance(message, DestroyGuest):
            self.guests.remove(message.child)
        deliver(None, None)


class Client:
    """A requester's end of a stream."""

    def __init__(self, stream):
        self.stream, self.decoder, self.got, self.rid = stream, FrameDecoder(), [], 0

    async def ask(self, kind, **body):
        self.rid += 1
        rid = self.rid.to_bytes(16, "big")
        frame = {"v": 1, "t": kind, "rid": rid, "epoch": 1, "dl": None, "key": None, "b": body}
        await self.stream.send_all(pack_frame(frame))
        while not self.got:
            data = await self.stream.receive_some(65_536)
            if not data:
                return None
            self.got += self.decoder.feed(data)
        return self.got.pop(0)["b"]


@asynccontextmanager
async def a_broker():
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        machine = Machine()
        yield Broker(Service(), machine, lambda: 0, runtime), machine, nursery
        nursery.cancel_scope.cancel()


def by_cid(peer):
    return Identity(peer.cid, 1) if peer.cid is not None and peer.cid >= 3 else None


# The fabric in memory


async def test_over_the_fabric_the_context_id_of_the_peer_is_who_asks():
    async with a_broker() as (broker, machine, nursery):
        vsock = MemoryVsock()
        listener = vsock.listen(vsock.fabric.host, 5200)
        await nursery.start(Reception(broker).requests, listener, by_cid)
        clients = {}
        for cid in (3, 4):
            endpoint = vsock.fabric.add(cid)
            clients[cid] = Client(await vsock.connect(endpoint, 2, 5200))
            assert (await clients[cid].ask("hello", versions=[1]))["id"] == cid
        three = clients[3]
        await three.ask("image.put", digest=SPEC["image"], size=5, offset=0, data=IMAGE)
        child = (await three.ask("start", spec=SPEC))["child"]
        assert (await clients[4].ask("describe", child=child))["name"] == "NOT_FOUND"
        assert (await clients[4].ask("destroy", child=child)) == {"state": "RELEASED"}
        assert machine.guests == {child}


async def test_a_reset_of_the_transport_ends_the_connection_and_not_the_requester():
    async with a_broker() as (broker, machine, nursery):
        vsock = MemoryVsock()
        await nursery.start(Reception(broker).requests, vsock.listen(vsock.fabric.host, 5200), by_cid)
        endpoint = vsock.fabric.add(3)
        client = Client(await vsock.connect(endpoint, 2, 5200))
        await client.ask("hello", versions=[1])
        await client.ask("image.put", digest=SPEC["image"], size=5, offset=0, data=IMAGE)
        child = (await client.ask("start", spec=SPEC))["child"]
        endpoint.transport_reset()
        vsock.wake()
        with pytest.raises(trio.BrokenResourceError):
            await client.ask("list")
        again = Client(await vsock.connect(endpoint, 2, 5200))
        assert (await again.ask("describe", child=child))["state"] == "READY"
        assert machine.guests == {child}


@pytest.mark.parametrize("bound", ["CONNECTIONS", "STREAMS"])
async def test_a_requester_that_takes_all_its_connections_leaves_room_for_the_others(
    autojump_clock, monkeypatch, bound
):
    """Where all come by one listener, as over VSOCK and TLS, nobody can take it for himself."""
    monkeypatch.setattr(reception, bound, 2)
    async with a_broker() as (broker, _, nursery):
        vsock, served = MemoryVsock(), []

        async def open_channel(who, stream):
            served.append(who.cid)
            await trio.sleep_forever()

        channels = SimpleNamespace(open=open_channel)
        here = Reception(broker, channels)
        serve = here.requests if bound == "CONNECTIONS" else here.channels
        await nursery.start(serve, vsock.listen(vsock.fabric.host, 5200), by_cid)
        three, four = vsock.fabric.add(3), vsock.fabric.add(4)
        held = [Client(await vsock.connect(three, 2, 5200)) for _ in range(3)]
        with trio.fail_after(5):
            with suppress(trio.BrokenResourceError):
                assert await held[2].stream.receive_some() == b"", "one too many is turned away"
            mine = Client(await vsock.connect(four, 2, 5200))
            if bound == "CONNECTIONS":
                assert (await mine.ask("hello", versions=[1]))["id"] == 4
                assert (await held[1].ask("hello", versions=[1]))["id"] == 3
                await held[0].stream.aclose()
                await trio.sleep(1)
                again = Client(await vsock.connect(three, 2, 5200))
                assert (await again.ask("hello", versions=[1]))["id"] == 3, "a place is free again"
            else:
                await trio.sleep(1)
                assert sorted(served) == [3, 3, 4]
        assert here.turned_away == 1


async def test_nobody_listens_and_nobody_is_there(autojump_clock):
    vsock = MemoryVsock()
    endpoint = vsock.fabric.add(3)
    with pytest.raises(ConnectionResetError):
        await vsock.connect(endpoint, 2, 5200)
    began = trio.current_time()
    with pytest.raises(TimeoutError):
        await vsock.connect(endpoint, 77, 5200)
    assert 2 <= trio.current_time() - began < 2.5


async def test_more_than_the_credit_goes_through_while_it_is_read():
    vsock = MemoryVsock()
    listener = vsock.listen(vsock.fabric.host, 7)
    stream = await vsock.connect(vsock.fabric.add(3), 2, 7)
    other = await listener.accept()
    data = bytes(range(256)) * 4096
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, data)
        got = b""
        while len(got) < len(data):
            got += await other.receive_some(50_000)
    assert got == data
    await stream.send_eof()
    assert await other.receive_some(1) == b""
    await other.aclose()


# Hybrid sockets


def needs_socat():
    return pytest.mark.skipif(not SOCAT, reason="socat is not here; on Debian: apt install socat")


@needs_socat()
@pytest.mark.slow
def test_socat_reaches_a_port_of_a_guest_by_connect(service_process):
    """A program that was written for this scheme, byte for byte: the line, the answer, then the stream."""
    service = service_process()
    with service.client() as host:
        child = host.start(b"#!nestbed\nready\n", vcpus=1, memory_mib=16, ready="notified")
        uds = service.directory / "guests" / str(child.cid) / "vsock"
        said = subprocess.run(
            [SOCAT, "-t", "60", "-", f"UNIX-CONNECT:{uds}"],
            input=b"CONNECT 7\nhello",
            capture_output=True,
            check=False,
        )
        assert said.stdout == b"OK 1073741824\nhello"
        refused = subprocess.run(
            [SOCAT, "-t", "60", "-", f"UNIX-CONNECT:{uds}"],
            input=b"CONNECT 8\n",
            capture_output=True,
            check=False,
        )
        assert refused.stdout == b"", "a refusal is the end, without a byte"
        host.destroy(child.id)


@needs_socat()
@pytest.mark.slow
async def test_our_end_speaks_to_a_multiplexer_made_of_socat(short_directory):
    """The other way round: socat plays the VMM, answers OK and then more in the same breath."""
    uds = short_directory / "vsock"
    script = short_directory / "vmm"
    script.write_text("read line; printf 'OK 1073741900\\nbeyond the line'; cat")
    command = [SOCAT, f"UNIX-LISTEN:{uds}", f"EXEC:sh {script}"]
    with subprocess.Popen(command) as process:
        stream = None
        while stream is None:
            assert process.poll() is None
            with suppress(FileNotFoundError, ConnectionRefusedError):  # its name is there before it listens
                stream = await connect(Address("hybrid", str(uds), 5200))
        got = b""
        while len(got) < 15:
            got += await stream.receive_some(100)
        assert got == b"beyond the line", "not a byte of what follows the line was lost"
        await stream.aclose()
        process.terminate()


async def test_who_answers_something_else_is_not_spoken_to(short_directory):
    listener = listen_unix(str(short_directory / "vsock"))

    async def odd(stream):
        await stream.receive_some(100)
        await stream.send_all(b"HELLO\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, odd, [listener])
        with pytest.raises(ConnectionResetError):
            await connect(Address("hybrid", str(short_directory / "vsock"), 1))
        nursery.cancel_scope.cancel()


async def test_a_socket_is_for_its_owner_alone_and_says_who_connects(short_directory):
    path = short_directory / "s"
    listener = listen_unix(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    async with listener, await connect(Address("unix", str(path))):
        accepted = await listener.accept()
        async with accepted:
            assert peer_of(accepted).uid is not None
        with pytest.raises(OSError):
            listen_unix(str(path))
    again = listen_unix(str(path))  # nobody listens there any more
    await again.aclose()


# The real one


@pytest.mark.skipif(bool(NO_VSOCK), reason=f"no AF_VSOCK within this machine: {NO_VSOCK}")
async def test_over_the_real_vsock_the_loopback_asks():
    async with a_broker() as (broker, _, nursery):
        listener = listen_vsock(0xFFFF_FFFF)
        port = listener.socket.getsockname()[1]
        await nursery.start(Reception(broker).requests, listener, lambda peer: Identity(3, 1))
        client = Client(await connect(Address("vsock", "1", port)))
        assert (await client.ask("hello", versions=[1]))["id"] == 3


def test_the_probe_says_why_or_nothing():
    assert isinstance(NO_VSOCK, str)
    if not hasattr(socket, "AF_VSOCK"):
        assert "AF_VSOCK" in NO_VSOCK


@pytest.mark.parametrize(("said", "means"), [(1, None), (0xFFFF_FFFF, None), (0, None), (2, 2), (3, 3)])
def test_special_values_of_the_own_context_id_are_nobodys(monkeypatch, said, means):
    monkeypatch.setattr(address, "open", lambda *_: io.BytesIO(), raising=False)
    monkeypatch.setattr(fcntl, "ioctl", lambda _, number, __: struct.pack("I", said))
    assert address.local_cid() == means


class GuestSocket:
    """A connected socket that says what the kernel says of one that a guest has dialled over VSOCK."""

    family = getattr(socket, "AF_VSOCK", 40)

    def __init__(self, inner, cid):
        self._inner, self._cid = inner, cid

    def getpeername(self):
        return self._cid, 1024

    def __getattr__(self, name):
        return getattr(self._inner, name)


class VsockPort(trio.abc.Listener):
    """A port of the host, as its guests reach it."""

    def __init__(self):
        self._come, self._accepted = trio.open_memory_channel(8)

    async def dial(self, cid):
        ours, theirs = trio.socket.socketpair()
        accepted = trio.SocketStream(theirs)
        accepted.socket = GuestSocket(theirs, cid)
        await self._come.send(accepted)
        return trio.SocketStream(ours)

    async def accept(self):
        return await self._accepted.receive()

    async def aclose(self):
        self._accepted.close()


async def nothing_comes(stream, said):
    """Whether a stream ends, by a reset or not, without a byte."""
    async with stream:
        try:
            await stream.send_all(said)
            return await stream.receive_some() == b""
        except trio.BrokenResourceError:
            return True


@pytest.mark.slow
async def test_over_vsock_the_kernel_says_which_guest_comes(short_directory):
    ports = {5200: VsockPort(), 5202: VsockPort()}
    options = Options(short_directory / "h", (3, 4), vsock=ports.__getitem__)
    async with open_service(options) as hosting:
        mine, other = [Client(await ports[5200].dial(cid)) for cid in (3, 4)]
        assert (await mine.ask("hello", versions=[1]))["id"] == 3
        assert (await other.ask("hello", versions=[1]))["id"] == 4
        assert await nothing_comes(await ports[5200].dial(9), pack_frame({})), "a stranger"
        await mine.ask("image.put", digest=SPEC["image"], size=len(IMAGE), offset=0, data=IMAGE)
        child = (await mine.ask("start", spec=SPEC))["child"]
        offered = await mine.ask("channel.open", child=child, port=7)
        assert (offered["address"], offered["port"]) == ("vsock:2:5202", 5202)
        assert await nothing_comes(await ports[5202].dial(4), offered["token"]), "not this guest's token"
        async with await ports[5202].dial(3) as stream:
            await stream.send_all(offered["token"] + b"hello")
            got = b""
            while len(got) < len(b"OK\nhello"):
                got += await stream.receive_some()
            assert got == b"OK\nhello"
        assert (await mine.ask("destroy", child=child))["state"] == "RELEASED"
        assert await hosting.audit() == []


# TCP with TLS on both sides


def somebody_elses(keys, offered):
    """Take up a channel with a certificate that is not its requester's."""
    theirs = keys.issue("requester", "4")
    tls = tls_context(theirs.certificate, theirs.key, theirs.authority)
    open_channel(parse_address(offered["address"]), offered["token"], 5.0, tls)


@pytest.mark.slow
def test_the_commands_work_over_tls_channels_and_consoles_among_them(service_process, tmp_path):
    keys = Authority.create(tmp_path / "keys")
    machine, mine = keys.issue("machine", "l0"), keys.issue("requester", "3")
    service = service_process("--tcp", "127.0.0.1:0", "--certificate", str(machine.certificate))
    image = tmp_path / "guest.img"
    image.write_bytes(b"#!nestbed\nprint up\nready\n")
    environment = dict(os.environ) | {
        "NESTBED_HOSTING": "tcp:" + json.loads(service.said)["tcp"],
        "NESTBED_CERTIFICATE": str(mine.certificate),
    }

    def hosted(*words, stdin=""):
        command = [sys.executable, "-m", "nestbed", "hosted", *words]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    child = json.loads(hosted("start", str(image), "--debug", "--ready", "notified"))["child"]
    assert hosted("console", child) == "up\n"
    text = "a line of many\n" * 300_000  # more than all buffers: both directions flow at once
    assert hosted("channel", child, "7", stdin=text) == text, "the end of what is sent loses no answer"
    assert json.loads(hosted("destroy", child, "--ack"))["state"] == "RELEASED"


@pytest.mark.slow
def test_over_tls_the_certificate_says_who_asks(service_process, tmp_path):
    keys = Authority.create(tmp_path / "keys")
    machine = keys.issue("machine", "l0")
    service = service_process("--tcp", "127.0.0.1:0", "--certificate", str(machine.certificate))
    where = "tcp:" + json.loads(service.said)["tcp"]

    def asking(role, name):
        mine = keys.issue(role, name)
        return Hosting(
            where,
            budget=Budget(tries=1),
            tls=tls_context(mine.certificate, mine.key, mine.authority),
        )

    with asking("requester", "3") as host:
        assert host.facts["id"] == 3
        child = host.start(b"#!nestbed\nready\n", vcpus=1, memory_mib=16)
        assert [each["child"] for each in host.list()] == [child.id]
        with host.channel(child.id, 7) as stream:
            assert isinstance(stream, ssl.SSLSocket)
            assert stream.version() == "TLSv1.3"
            stream.sendall(b"over TLS")
            assert stream.recv(100) == b"over TLS"
        offered = host.ask("channel.open", host.key(), child=child.id, port=7)
        with pytest.raises((ConnectionError, ssl.SSLError)):
            somebody_elses(keys, offered)
        host.destroy(child.id)
    for role, name in (("requester", "4"), ("machine", "3"), ("requester", "x")):
        with pytest.raises(HostingUnreachable):
            asking(role, name).hello()
    stranger = Authority.create(tmp_path / "other").issue("requester", "3")
    theirs = tls_context(stranger.certificate, stranger.key, keys.folder / "ca.pem")
    with pytest.raises(HostingUnreachable):
        Hosting(where, budget=Budget(tries=1), tls=theirs).hello()
