"""The program behind `nestbed hosted serve`: journal, guests and sockets of one directory.

Whoever connects is the requester that the socket says, or over TCP the certificate.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from actors.broker import Audit, Broker, GuestEnded, Look, Recover, RequesterGone
from actors.given import whole
from actors.hosting.channels import ChannelServer
from actors.hosting.machine import ProcessMachine, too_long
from actors.hosting.reception import Listener, Reception
from actors.hosting.store import Store, StoreError
from actors.hosting.vmm.emulated import Emulated, Vmm
from actors.runtime.actor import open_runtime
from actors.runtime.port import ignore
from actors.runtime.transport.address import Peer, listen_tls, listen_unix
from actors.runtime.transport.pki import Credentials
from protocol.errors import LevelGone, OutcomeUnknown
from protocol.hosting import Identity, Limits, Service
from protocol.hosting.evidence import KeySigner, Trust
from protocol.hosting.limits import CHANNEL_PORT, CONTROL_PORT, Offer
from protocol.hosting.policy import Policy
from protocol.hosting.recovery import Recovery
from protocol.keys import readable
from protocol.roles import REQUESTER
from protocol.vsock.address import CID_ANY, CID_HOST

LOOK_S = 5.0
LINE_BYTES = 4096
NO_ARCHITECTURE = "none"  # label of metrics: these guests have no Trusted Entity


def wall_ms() -> int:
    """Times in the journal have to mean the same in the next life, so they are of the wall."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Options:
    """What the program is told. `requesters` are the context ids that may come, a socket for each."""

    directory: Path
    requesters: Sequence[int] = (3,)
    limits: Limits = field(default_factory=Limits)
    vmms: dict[str, Vmm] = field(default_factory=lambda: {"emulated": Emulated()})
    tcp: tuple[str, int, Credentials] | None = None  # where requesters with certificates come as well
    vsock: Callable[[int], Listener] | None = None  # listens on a port of the real VSOCK
    policy: Policy | None = None  # none: whoever has a socket may ask everything of its own children


class HostingService:
    """One service over one directory. Make it with `open_service`."""

    def __init__(self, options: Options, broker: Broker, machine: ProcessMachine, store: Store) -> None:
        self.options = options
        self.broker = broker
        self.machine = machine
        self.store = store
        self.recovery = Recovery()
        self.tcp_address: tuple[str, int] | None = None
        self.reception = Reception(broker, ChannelServer(broker, machine.dial))

    @property
    def service(self) -> Service:
        return self.broker.service

    def socket_of(self, cid: int, port: int = CONTROL_PORT) -> str:
        """The socket by which requester `cid` comes: guest to host, as the hybrid scheme names it."""
        return str(self.options.directory / f"{cid}.vsock_{port}")

    async def recover(self) -> None:
        rows = self.store.load()
        try:
            self.recovery = await self.broker.actor.ask(Recover(rows))
        except LevelGone:
            await trio.sleep_forever()  # what the broker died of is on its way, and ends this
        except OutcomeUnknown as error:
            raise StoreError(f"{self.options.directory}: {error}") from error

    async def listen(
        self, cid: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve requester `cid` on its sockets. A reboot ends its connections, and the next ones are new."""

        def who(_: Peer) -> Identity:
            return Identity(cid, self.service.epoch_of(cid))

        async with trio.open_nursery() as nursery:
            channels = listen_unix(self.socket_of(cid, CHANNEL_PORT))
            await nursery.start(self.reception.channels, channels, who)
            await nursery.start(self.reception.requests, listen_unix(self.socket_of(cid)), who)
            task_status.started()

    async def listen_tcp(
        self, *, task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve requesters over TLS: the certificate's name is the context id, its role `requester`."""
        assert self.options.tcp is not None
        host, port, credentials = self.options.tcp
        beside = port + CHANNEL_PORT - CONTROL_PORT if port else 0
        channels, (_, channel_port) = await listen_tls(host, beside, credentials)
        control, address = await listen_tls(host, port, credentials)

        def who(peer: Peer) -> Identity | None:
            cid = whole(peer.name, CID_ANY)
            if peer.role != REQUESTER or cid is None or cid not in self.options.requesters:
                return None
            return Identity(cid, self.service.epoch_of(cid))

        async with trio.open_nursery() as nursery:
            await nursery.start(self.reception.channels, channels, who)
            await nursery.start(self.reception.requests, control, who, f"tcp:{{host}}:{channel_port}")
            task_status.started(address)

    async def listen_vsock(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve guest hosts over the real VSOCK: the kernel says which one comes, by its context id."""
        listen = self.options.vsock
        assert listen is not None

        def who(peer: Peer) -> Identity | None:
            if peer.cid is None or peer.cid not in self.options.requesters:
                return None
            return Identity(peer.cid, self.service.epoch_of(peer.cid))

        async with trio.open_nursery() as nursery:
            await nursery.start(self.reception.channels, listen(CHANNEL_PORT), who)
            opens = f"vsock:{CID_HOST}:{CHANNEL_PORT}"
            await nursery.start(self.reception.requests, listen(CONTROL_PORT), who, opens)
            task_status.started()

    async def reboot(self, cid: int) -> int:
        """The machine saw requester `cid` reboot, or die: its boot is over. Returns the next one's epoch."""
        over = Identity(cid, self.service.epoch_of(cid))
        await self.broker.actor.ask(RequesterGone(over))
        self.reception.end(over)
        return self.service.epoch_of(cid)

    async def look(self) -> None:
        """Every few seconds hold the records against the machine: a notice may get lost."""
        while True:
            await trio.sleep(LOOK_S)
            with suppress(OutcomeUnknown):  # nothing can be said now, for want of descriptors perhaps
                await self.broker.actor.ask(Look())

    async def audit(self) -> list[dict[str, object]]:
        """What only one of records and machine knows. Raises OutcomeUnknown where nothing can be said."""
        leaks: list[dict[str, object]] = await self.broker.actor.ask(Audit())
        return leaks


@asynccontextmanager
async def open_service(options: Options) -> AsyncIterator[HostingService]:
    """Open the directory, take on what a former life left, and serve until the block ends.

    Raises StoreError and OSError: the directory is in use, too long for sockets, or cannot be written; and
    DamagedJournal.
    """
    directory = options.directory = options.directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    over = too_long(directory)
    if over:
        raise StoreError(f"{directory}: {over} bytes too long for the names of Unix sockets in it")
    store = Store(directory / "journal.sqlite")
    try:
        async with open_runtime() as runtime, trio.open_nursery() as nursery:

            def ended(child: bytes, status: int | None) -> None:
                broker.actor.submit(GuestEnded(child, status), ignore)

            def wrote(child: bytes, data: bytes) -> None:
                broker.service.console_wrote(child, data)

            machine = ProcessMachine(directory / "guests", options.vmms, nursery, ended, wrote)
            channels = f"unix:{directory}/{{cid}}.vsock_{{port}}"
            secret = _secret(directory)
            service = Service(
                options.limits,
                store.journal,
                seed=int.from_bytes(secret, "big"),
                offer=Offer(tuple(options.vmms), ("entered", "notified"), channels, dump=True),
                policy=options.policy,
                trust=Trust(secret, _signer(directory)),
            )
            broker = Broker(service, machine, wall_ms, runtime)
            hosting = HostingService(options, broker, machine, store)
            nursery.start_soon(store.run)
            await nursery.start(broker.actor.run)  # what it dies of is what this program ends with
            await hosting.recover()
            nursery.start_soon(broker.run)
            nursery.start_soon(hosting.look)
            for cid in options.requesters:
                await nursery.start(hosting.listen, cid)
            if options.vsock is not None:
                await nursery.start(hosting.listen_vsock)
            if options.tcp is not None:
                hosting.tcp_address = await nursery.start(hosting.listen_tcp)
            yield hosting
            nursery.cancel_scope.cancel()
    finally:
        store.close()


@asynccontextmanager
async def scraped(hosting: HostingService, port: int) -> AsyncIterator[int]:
    """Show metrics of the service on a port of the loopback while the block runs, and give it the port.

    Raises CannotListen; 0 is any port.
    """
    from actors.observe.collector import Collector, registry_of
    from actors.observe.exporter import serve

    collector = Collector()
    collector.attach_service(NO_ARCHITECTURE, hosting.service)
    collector.attach_actors("broker", lambda: [hosting.broker.actor])
    async with serve(registry_of(collector), port) as bound:
        yield bound


async def obey(hosting: HostingService, show: Callable[[object], None]) -> None:
    """Take orders of whoever started the service, line by line from standard input; each is answered.

    `reboot CID`: the machine saw that requester reboot or die. `audit`: what only one of records and machine
    knows. `statistics`: what happened so far. The end of the input changes nothing.
    """
    async for line in _lines():
        match line.split():
            case ["reboot", cid] if whole(cid, CID_ANY) in hosting.options.requesters:
                show({"epoch": await hosting.reboot(int(cid))})
            case ["audit"]:
                try:
                    show({"leaks": await hosting.audit()})
                except OutcomeUnknown as error:
                    show({"error": str(error)})
            case ["statistics"]:
                counted = {"forged": hosting.machine.forged, "turned_away": hosting.reception.turned_away}
                show(asdict(hosting.service.statistics()) | counted)
            case _:
                show({"error": f"{line!r}: allowed: reboot CID, audit, statistics"})


async def _lines() -> AsyncIterator[str]:
    """Lines of standard input. Ctrl-C leaves the thread that reads behind: it may hold no lock of Python."""
    begun = b""
    while read := await trio.to_thread.run_sync(os.read, 0, LINE_BYTES, abandon_on_cancel=True):
        *lines, begun = (begun + read).split(b"\n")
        begun = begun[:LINE_BYTES]
        for line in lines:
            yield line.decode(errors="replace").strip()


def _secret(directory: Path) -> bytes:
    """What credentials, tokens and the names of children are made from, in every life of this directory."""
    return _kept(directory / "secret", lambda: secrets.token_bytes(32))


def _signer(directory: Path) -> KeySigner:
    """Who signs evidence for this directory; its public key is laid out for verifiers."""
    pem = serialization.Encoding.PEM

    def made() -> bytes:
        return ec.generate_private_key(ec.SECP384R1()).private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    try:
        with readable("no key that can be read"):
            key = serialization.load_pem_private_key(_kept(directory / "host.key", made), None)
    except ValueError as error:
        raise StoreError(f"{directory / 'host.key'}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise StoreError(f"{directory / 'host.key'}: not a key on an elliptic curve")
    signer = KeySigner(key)
    (directory / "host.pub").write_bytes(signer.public_key())
    return signer


def _kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What the file has; made where it is not there, readable by its owner alone, whole or not at all."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=0o600)
    beside.write_bytes(make())
    beside.replace(path)
    return path.read_bytes()
