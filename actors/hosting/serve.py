"""The hosting service on addresses: whoever connects is the requester that the socket says.

`serve_on` is the piece that a node mounts: it serves a broker on one listener. `HostingService` is the
program behind `nestbed hosted serve`: journal, guests and sockets of one directory.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from actors.broker import Audit, Broker, GuestEnded, Recover, RequesterGone, serve
from actors.hosting.machine import ProcessMachine, too_long
from actors.hosting.store import Store, StoreError
from actors.hosting.vmm.emulated import Emulated, Vmm
from actors.runtime.actor import open_runtime
from actors.runtime.port import ignore
from actors.runtime.transport.address import Peer, listen_unix, peer_of, serve_all
from protocol.hosting import Identity, Limits, Service
from protocol.hosting.limits import CONTROL_PORT, Offer
from protocol.hosting.recovery import Recovery

CONNECTIONS = 256  # of one listener at once; more wait in the kernel
Identify = Callable[[Peer], Identity | None]


async def serve_on(
    broker: Broker,
    listener: trio.abc.Listener[trio.abc.Stream],
    identify: Identify,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve `broker` to everybody who connects to `listener`, until cancelled.

    `identify` says who a peer is, from what the transport knows of it; None turns it away without a word.
    """
    limit = trio.CapacityLimiter(CONNECTIONS)

    async def connection(stream: trio.abc.Stream) -> None:
        who = identify(peer_of(stream))
        if who is None:
            await trio.aclose_forcefully(stream)
            return
        async with limit:
            await serve(broker, who, stream)

    await serve_all(connection, listener, task_status)


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


class HostingService:
    """One service over one directory. Make it with `open_service`."""

    def __init__(self, options: Options, broker: Broker, machine: ProcessMachine, store: Store) -> None:
        self.options = options
        self.broker = broker
        self.machine = machine
        self.store = store
        self.recovery = Recovery()
        self._connections: dict[int, trio.CancelScope] = {}

    @property
    def service(self) -> Service:
        return self.broker.service

    def socket_of(self, cid: int) -> str:
        """The socket by which requester `cid` comes: guest to host, as the hybrid scheme names it."""
        return str(self.options.directory / f"{cid}.vsock_{CONTROL_PORT}")

    async def recover(self) -> None:
        self.recovery = await self.broker.actor.ask(Recover(self.store.load()))

    async def listen(
        self, cid: int, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve requester `cid` on its socket. A reboot ends its connections, and the next ones are new."""
        listener = listen_unix(self.socket_of(cid))
        async with listener:
            while True:
                with trio.CancelScope() as scope:
                    self._connections[cid] = scope
                    await serve_on(self.broker, listener, lambda _: self._who(cid), task_status=task_status)
                task_status = trio.TASK_STATUS_IGNORED
                listener = listen_unix(self.socket_of(cid))

    def _who(self, cid: int) -> Identity:
        return Identity(cid, self.service.epoch_of(cid))

    async def reboot(self, cid: int) -> int:
        """The machine saw requester `cid` reboot, or die: its boot is over. Returns the next one's epoch."""
        epoch = self.service.epoch_of(cid)
        await self.broker.actor.ask(RequesterGone(Identity(cid, epoch)))
        if cid in self._connections:
            self._connections[cid].cancel()
        return self.service.epoch_of(cid)

    async def audit(self) -> list[dict[str, object]]:
        """What only one of records and machine knows."""
        leaks: list[dict[str, object]] = await self.broker.actor.ask(Audit())
        return leaks


@asynccontextmanager
async def open_service(options: Options) -> AsyncIterator[HostingService]:
    """Open the directory, take on what a former life left, and serve until the block ends.

    Raises StoreError and OSError: the directory is in use, too long for sockets, or cannot be written.
    """
    directory = options.directory
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
            offer = Offer(tuple(options.vmms), ("entered", "notified"))
            service = Service(options.limits, store.journal, offer=offer, seed=_seed(directory))
            broker = Broker(service, machine, wall_ms, runtime)
            hosting = HostingService(options, broker, machine, store)
            nursery.start_soon(store.run)
            await hosting.recover()
            nursery.start_soon(broker.run)
            for cid in options.requesters:
                await nursery.start(hosting.listen, cid)
            yield hosting
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def _seed(directory: Path) -> int:
    """A number of this directory's own: children's names must tell nothing, in any life."""
    import secrets

    path = directory / "seed"
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        seed = secrets.randbits(128)
        path.touch(mode=0o600)
        path.write_text(str(seed))
        return seed
