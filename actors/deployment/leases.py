"""Who has which machine, where several instances might: leases in a key-value bucket of NATS JetStream.

The bucket is soft state. What stands in it can be lost and is claimed anew; no state of a guest or of a
Trusted Entity is kept there. One key for each machine, with its holder, epoch, endpoint and room; when it may
be claimed and how long it is held is said in `protocol.fleet.lease`. A holder looks at the end of its lease
before every message that it serves (`Fence`). A renewal that finds another's value has lost its machine.

Needs the extra `nats`: nats-py speaks asyncio and runs under trio-asyncio.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio

from actors.fleet.bus import (
    AGAIN_S,
    ANSWER_S,
    ELECTION_S,
    REPLICAS,
    Bucket,
    Bus,
    Door,
    NoDirectory,
    answered,
    asked,
    open_bus,
)
from protocol.errors import NotDelivered, RemoteProtocolError
from protocol.fleet.directory import MACHINES, Value
from protocol.fleet.entry import Entry, open_entry, pack_entry
from protocol.fleet.keeping import giving_back, renewal, tried
from protocol.fleet.lease import RENEWALS, SILENT, Challenge, Claim, next_epoch

__all__ = ["Claim", "Leases", "NoDirectory", "entries_of", "machines_of", "open_leases"]


def machines_of(cell: str) -> str:
    """The bucket of who holds what in a fleet."""
    return f"nestbed-{cell}-machines"


def _now() -> float:
    return time.monotonic()


@dataclass(slots=True)
class Leases:
    """The bucket, as one instance has it. Made by `open_leases`.

    `tell` says of a machine what others may want to know (room, endpoint); it is asked at each renewal.
    """

    bus: Bus
    bucket: Bucket
    holder: str
    length_s: float
    remembered: Mapping[str, int] = field(default_factory=dict)  # epochs of earlier lives here
    tell: Callable[[str, Entry], Entry] = lambda _machine, entry: entry
    garbled: Counter[str] = field(default_factory=Counter)  # values that were none, by reason
    endpoint: str = ""  # where holders here are reached
    _hurry: trio.Event = field(default_factory=trio.Event)

    def say_where(self, endpoint: str) -> None:
        """From now on the directory says so; holders write it at once."""
        self.endpoint = endpoint
        self._hurry.set()
        self._hurry = trio.Event()

    @property
    def failures(self) -> int:
        """Renewals and looks that got no answer, or a refusal."""
        return self.bucket.failures

    async def claim(self, machine: str) -> Claim:
        """Wait until the machine is ours: given back, or silent for a whole lease."""
        challenge = Challenge(self.length_s, _now())
        while True:
            remembered = self.remembered.get(machine, 0)
            steps = tried(machine, challenge, self._mine, remembered, self.opened, _now)
            won = await asked(steps, {MACHINES: self.bucket})
            if won is not None:
                return won
            await trio.sleep(min(AGAIN_S, challenge.length_s / 4))

    async def keep(self, claim: Claim, renewed: Callable[[float], None], lost: Callable[[str], None]) -> None:
        """Renew until the machine is lost: another has it, or the lease is over without an answer."""
        accepted = True
        while True:
            with trio.move_on_after(claim.pause_s if accepted else min(AGAIN_S, claim.pause_s)):
                await self._hurry.wait()
            steps = renewal(claim, self.holder, self._mine, self.opened, _now)
            outcome = await asked(steps, {MACHINES: self.bucket})
            accepted = outcome.accepted
            if accepted:
                renewed(claim.until)
            elif outcome.lost:
                lost(outcome.lost)
                return

    async def announce(self, name: str, first: Callable[[], None] = lambda: None) -> None:
        """Say where we are under a name that is ours alone, until cancelled; nobody is fenced by it.

        `first` is called when it stands there.
        """
        told = False
        while True:
            value = await self.bucket.get(name)
            known = self.opened(value)
            won = 0
            if value.revision != SILENT:
                won = await self._put(name, next_epoch(known.epoch if known else 0, 0, 0), value.revision)
            if won and not told:
                told = True
                first()
            await trio.sleep(self.length_s / RENEWALS if won else AGAIN_S)

    async def release(self, claim: Claim) -> None:
        """Give the machine back at once: nobody has to wait for the lease. Its epoch stays."""
        with trio.move_on_after(ANSWER_S, shield=True):
            await answered(giving_back(claim), {MACHINES: self.bucket})

    async def give_back(self, machine: str) -> bool:
        """Say of a machine without an entry that nobody holds it: whoever wants it need not wait.

        Returns False where there is one. Raises NotDelivered where the directory does not answer.
        """
        epoch = next_epoch(0, 0, self.remembered.get(machine, 0))
        until = trio.current_time() + ELECTION_S
        while not await self.bucket.put(machine, pack_entry(Entry("", epoch)), 0):
            if (await self.bucket.get(machine)).revision > 0:
                return False
            if trio.current_time() >= until:
                raise NotDelivered(f"the directory does not say what stands under {machine}")
            await trio.sleep(AGAIN_S)
        return True

    def opened(self, value: Value) -> Entry | None:
        """The entry of a value; None, and counted, for what is none."""
        return _opened(value, self.garbled)

    async def entries(self) -> dict[str, Entry]:
        """Everything that is held, by name. Raises NotDelivered where the directory does not answer."""
        return await entries_of(self.bucket, self.garbled)

    async def _put(self, machine: str, epoch: int, over: int) -> int:
        return await self.bucket.put(machine, self._mine(machine, epoch), over)

    def _mine(self, machine: str, epoch: int) -> bytes:
        """What is written under a name that is held here."""
        entry = self.tell(machine, Entry(self.holder, epoch, self.endpoint))
        return pack_entry(replace(entry, holder=self.holder, epoch=epoch))


def _opened(value: Value, garbled: Counter[str]) -> Entry | None:
    if value.revision <= 0:
        return None
    try:
        return open_entry(value.data)
    except RemoteProtocolError as error:
        garbled[error.reason] += 1
        return None


async def entries_of(bucket: Bucket, garbled: Counter[str]) -> dict[str, Entry]:
    """What a bucket of machines says is held, by name. Raises NotDelivered where nobody answers."""
    found = {}
    for key in await bucket.keys():
        value = await bucket.get(key)
        if value.revision == SILENT:
            raise NotDelivered(f"the directory does not say what stands under {key}")
        found[key] = _opened(value, garbled)
    return {key: entry for key, entry in found.items() if entry is not None and entry.holder}


@asynccontextmanager
async def open_leases(
    door: Door | Sequence[str], holder: str, length_s: float, remembered: Mapping[str, int] | None = None
) -> AsyncIterator[Leases]:
    """The bucket on these servers; it is made if it is not there. Raises NoDirectory."""
    if not isinstance(door, Door):
        door = Door(tuple(door))
    async with open_bus(door) as bus:
        bucket = await bus.bucket(machines_of(door.cell), min(REPLICAS, len(door.servers)))
        yield Leases(bus, bucket, holder, length_s, remembered or {})
