"""Machines of this process as a fleet's tenants see them: hosting requests, by way of NATS.

A tenant's identity is the word in its subject that the servers vouch for. Each machine has one subscription;
all instances share one more, of which each message goes to one of them. Past the end of its lease a machine
answers nobody. What is no question is counted and not answered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import trio

from actors.broker import Broker, Request
from actors.deployment.fence import Fence
from actors.deployment.leases import Leases
from actors.fleet.bus import REPLICAS, Bucket, Bus, Question, answered
from protocol.errors import NotDelivered, OperationalError, RemoteProtocolError
from protocol.fleet import directory
from protocol.fleet.entry import Entry
from protocol.fleet.placing import KEY_BYTES, Answer, pack_answer, placement_key
from protocol.fleet.starting import Start, started
from protocol.fleet.subjects import ANY, Asked
from protocol.hosting import Identity
from protocol.hosting.limits import FRAME_BYTES
from protocol.wire import unpack_body

UNDER_WAY = 64  # questions at once; more wait
KEPT_S = 7 * 86_400  # how long a number is remembered
TENANT_EPOCH = 1  # a tenant does not reboot
HOSTING, MACHINES = "hosting", "machines"
STREAMS = ("watch", "channel")  # answers that do not end: not by way of NATS


def placements_of(cell: str) -> str:
    """The bucket of where numbers are."""
    return f"nestbed-{cell}-placements"


class Room(NamedTuple):
    """What a machine has left for tenants."""

    children: int
    memory_mib: int


@dataclass(slots=True)
class Shard:
    """One machine: its broker, and who its tenants are to it."""

    machine: str
    epoch: int
    broker: Broker
    tenants: Mapping[str, Identity]

    def room(self) -> Room:
        """What is left, all tenants together."""
        free = [self.broker.service.free(who.cid) for who in self.tenants.values()]
        return Room(sum(each["children"] for each in free), sum(each["memory_mib"] for each in free))

    async def ask(self, who: Identity, frame: Mapping[str, Any]) -> Any:
        """The broker's reply to a frame of `who`."""
        return await self.broker.actor.ask(Request(who, {**frame, "epoch": who.epoch}))


class FleetService:
    """Serves tenants until cancelled."""

    def __init__(
        self,
        leases: Leases,
        shards: Mapping[str, Shard],
        fence: Fence,
        broken: Callable[[str, str], None] = lambda _reason, _where: None,
    ) -> None:
        """`broken` is told when somebody asks what is no question: the reason, and on which subject."""
        self._leases, self._shards, self._fence = leases, shards, fence
        self._bus: Bus = leases.bus
        self._turns = trio.CapacityLimiter(UNDER_WAY)
        self._bucket: Bucket | None = None
        self._starting: dict[str, trio.Lock] = {}  # by number: one request of it at a time
        self._broken = broken
        self.violations: Counter[str] = Counter()
        self.served = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        bus = self._bus
        replicas = min(REPLICAS, len(bus.door.servers))
        self._bucket = await bus.bucket(placements_of(bus.door.cell), replicas, KEPT_S)
        async with trio.open_nursery() as nursery:
            for machine in self._shards:
                nursery.start_soon(self._take, nursery, await bus.subscribe(bus.cell.asked_of(machine)))
            shared = await bus.subscribe(bus.cell.asked_of(ANY), queue=ANY)
            nursery.start_soon(self._take, nursery, shared)
            task_status.started()

    def tell(self, machine: str, entry: Entry) -> Entry:
        """What the directory says of a machine beyond who holds it."""
        room = self._shards[machine].room()
        return replace(entry, children=max(0, room.children), memory_mib=max(0, room.memory_mib))

    def numbers(self) -> dict[str, int]:
        """What was served, and what was not: no questions, garbled values, a silent directory."""
        return {
            "fleet_served": self.served,
            "fleet_violations": sum(self.violations.values()),
            "directory_garbled": sum(self._leases.garbled.values()),
            "directory_failures": self._leases.failures,
        }

    async def _take(self, nursery: trio.Nursery, questions: trio.MemoryReceiveChannel[Question]) -> None:
        async for question in questions:
            try:
                asked = self._bus.cell.opened(question.subject, question.reply)
                if len(question.data) > FRAME_BYTES:
                    raise RemoteProtocolError("oversized", f"{len(question.data)} bytes")
                frame = unpack_body(question.data)
                if not isinstance(frame, dict):
                    raise RemoteProtocolError("shape", "a frame is a map")
            except RemoteProtocolError as violation:
                self._note(violation, question)
                continue
            await self._turns.acquire_on_behalf_of(question)
            nursery.start_soon(self._serve, question, asked, frame)

    def _note(self, violation: RemoteProtocolError, question: Question) -> None:
        self.violations[violation.reason] += 1
        self._broken(violation.reason, question.subject[:80])

    async def _serve(self, question: Question, asked: Asked, frame: dict[str, Any]) -> None:
        try:
            answer = await self._answer(asked, frame)
            if answer is not None and self._fence.holds():
                await self._bus.publish(question.reply, pack_answer(answer))
                self.served += 1
        except RemoteProtocolError as violation:
            self._note(violation, question)
        except OperationalError:
            pass  # unanswered: for the tenant its outcome is unknown
        finally:
            self._turns.release_on_behalf_of(question)

    async def _answer(self, asked: Asked, frame: dict[str, Any]) -> Answer | None:
        shard = self._shard(asked)
        who = shard.tenants.get(asked.who)
        if who is None:
            raise RemoteProtocolError("role", f"no tenant of this fleet: {asked.who}")
        if asked.verb == MACHINES:
            entries = await self._leases.entries()
            listed = tuple((name, each.children) for name, each in entries.items() if each.kind == "machine")
            return Answer(shard.machine, shard.epoch, machines=listed)
        if asked.verb != HOSTING or frame.get("t") in STREAMS:
            raise RemoteProtocolError(
                "kind", f"not asked of a fleet: {asked.verb} {str(frame.get('t'))[:20]}"
            )
        if frame.get("t") == "start":
            return await self._start(shard, asked.who, who, frame)
        return Answer(shard.machine, shard.epoch, await shard.ask(who, frame))

    def _shard(self, asked: Asked) -> Shard:
        if asked.machine == ANY:
            return max(self._shards.values(), key=Shard.room)
        return self._shards[asked.machine]

    async def _start(self, shard: Shard, tenant: str, who: Identity, frame: dict[str, Any]) -> Answer | None:
        """Write down that the number is ours, and only then start anything."""
        match frame.get("key"):
            case bytes() as key if len(key) == 4 + KEY_BYTES:
                number = key[4:]
            case _:
                raise RemoteProtocolError("shape", "a start of a fleet has a key")
        name = placement_key(tenant, number)
        lock = self._starting.setdefault(name, trio.Lock())
        try:
            async with lock:
                return await self._start_alone(shard, who, frame, name, number)
        except NotDelivered:
            return Answer(shard.machine, shard.epoch)
        finally:
            if not lock.locked():
                self._starting.pop(name, None)

    async def _start_alone(
        self, shard: Shard, who: Identity, frame: dict[str, Any], name: str, number: bytes
    ) -> Answer | None:
        assert self._bucket is not None
        buckets = {directory.MACHINES: self._leases.bucket, directory.PLACEMENTS: self._bucket}
        steps = started(name, shard.machine, shard.epoch, self._leases.opened, self._fence.holds)
        found: Any = None
        while True:
            try:
                effect = steps.send(found)
            except StopIteration as end:
                result: Answer | None = end.value
                return result
            if isinstance(effect, Start):
                found = await self._of_broker(shard, who, frame, number)
            else:
                found = await answered(effect, buckets)

    async def _of_broker(self, shard: Shard, who: Identity, frame: dict[str, Any], number: bytes) -> Any:
        await shard.ask(who, {**frame, "t": "hello", "key": None, "b": {"versions": [1]}})
        return await shard.ask(who, {**frame, "key": who.epoch.to_bytes(4, "big") + number})
