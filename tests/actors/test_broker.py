"""The hosting broker as a requester meets it: over a stream, while the machine takes its time."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from actors.broker import Broker, Request, RequesterGone, serve
from actors.runtime.actor import Actor, open_runtime
from protocol.errors import LevelGone
from protocol.hosting import Identity, Service
from protocol.hosting.machine import CreateGuest, DestroyGuest
from protocol.wire import FrameDecoder, pack_frame

IMAGE = b"image"
DIGEST = hashlib.sha256(IMAGE).digest()
SPEC = {"image": DIGEST, "vcpus": 1, "memory_mib": 16}
ALICE = Identity(3, 1)


class Machine:
    """L0's machine as a port: answers at once, or when the test lets it."""

    def __init__(self):
        self.guests, self.held, self.holding = set(), [], False

    def submit(self, message, deliver, owner=None):
        if self.holding:
            self.held.append((message, deliver))
        else:
            self.perform(message, deliver)

    def perform(self, message, deliver):
        if isinstance(message, CreateGuest):
            self.guests.add(message.child)
        if isinstance(message, DestroyGuest):
            self.guests.remove(message.child)
        deliver(None, None)

    def release(self):
        held, self.held = self.held, []
        for message, deliver in held:
            self.perform(message, deliver)


class Peer:
    """A requester's end of a stream."""

    def __init__(self, stream):
        self.stream, self.decoder, self.got, self.rid = stream, FrameDecoder(), [], 0

    def frame(self, kind, **body):
        self.rid += 1
        rid = self.rid.to_bytes(16, "big")
        return {"v": 1, "t": kind, "rid": rid, "epoch": 1, "dl": None, "key": None, "b": body}

    async def send(self, kind, **body):
        await self.stream.send_all(pack_frame(self.frame(kind, **body)))

    async def receive(self):
        while not self.got:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.got += self.decoder.feed(data)
        return self.got.pop(0)

    async def ask(self, kind, **body):
        await self.send(kind, **body)
        return (await self.receive())["b"]


@pytest.fixture
def hosting():
    """A broker over a machine; `connect` gives a requester's end of a new stream."""

    @asynccontextmanager
    async def made():
        async with open_runtime() as runtime, trio.open_nursery() as nursery:
            machine = Machine()
            broker = Broker(Service(), machine, lambda: int(1000 * trio.current_time()), runtime)
            nursery.start_soon(broker.run)

            def connect(who=ALICE):
                ours, theirs = trio.testing.memory_stream_pair()
                nursery.start_soon(serve, broker, who, theirs)
                return Peer(ours)

            yield broker, machine, connect
            nursery.cancel_scope.cancel()

    return made


async def joined(connect, who=ALICE):
    peer = connect(who)
    await peer.ask("hello", versions=[1])
    await peer.ask("image.put", digest=DIGEST, size=len(IMAGE), offset=0, data=IMAGE)
    return peer


async def test_a_guest_is_started_and_destroyed_over_a_stream(hosting):
    async with hosting() as (_, machine, connect):
        peer = await joined(connect)
        started = await peer.ask("start", spec=SPEC)
        assert started["state"] == "READY"
        assert machine.guests == {started["child"]}
        assert await peer.ask("destroy", child=started["child"]) == {"state": "RELEASED"}
        assert machine.guests == set()


async def test_a_request_overtakes_one_that_stands_at_the_machine(hosting):
    async with hosting() as (_, machine, connect):
        peer = await joined(connect)
        machine.holding = True
        await peer.send("start", spec=SPEC)
        listed = (await peer.ask("list"))["children"]
        assert [child["state"] for child in listed] == ["LOADING"]
        await peer.send("wait", child=listed[0]["child"], until="READY")
        await trio.testing.wait_all_tasks_blocked()
        machine.holding = False
        machine.release()
        answers = [(await peer.receive())["b"] for _ in range(2)]
        assert {answer["state"] for answer in answers} == {"READY"}


async def test_a_wait_ends_with_its_time(hosting, autojump_clock):
    async with hosting() as (_, _, connect):
        peer = await joined(connect)
        child = (await peer.ask("start", spec=SPEC))["child"]
        began = trio.current_time()
        answer = await peer.ask("wait", child=child, until="STOPPED", timeout_ms=5_000)
        assert answer["name"] == "TIMEOUT"
        assert 5 <= trio.current_time() - began <= 5.5


async def test_events_come_after_established_and_only_where_they_were_asked_for(hosting):
    async with hosting() as (_, _, connect):
        peer, other = await joined(connect), connect()
        await peer.ask("start", spec=SPEC)
        await other.send("watch", since=2)
        got = [(await other.receive())["b"] for _ in range(3)]
        assert [event["kind"] for event in got] == ["established", "state", "state"]
        assert [event["seq"] for event in got] == [2, 3, 4]
        assert (await peer.ask("list"))["children"][0]["state"] == "READY"


async def test_the_end_of_a_connection_ends_its_watches_only(hosting):
    async with hosting() as (broker, machine, connect):
        peer, other = await joined(connect), connect()
        await peer.ask("start", spec=SPEC)
        await other.ask("watch", since=0)
        assert broker.service.records()["watcher"] == 1
        await other.stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert broker.service.records()["watcher"] == 0
        assert len(machine.guests) == 1


async def test_without_renewals_the_lease_ends_and_the_guest_with_it(hosting, autojump_clock):
    async with hosting() as (_, machine, connect):
        peer = await joined(connect)
        await peer.ask("start", spec=SPEC)
        await trio.sleep(30)
        assert len(machine.guests) == 1
        await trio.sleep(1)
        assert machine.guests == set()


async def test_an_owner_that_dies_while_its_start_stands_still_leaves_nothing(hosting):
    async with hosting() as (broker, machine, connect):
        peer = await joined(connect)
        machine.holding = True
        await peer.send("start", spec=SPEC)
        await trio.testing.wait_all_tasks_blocked()
        await broker.actor.ask(RequesterGone(ALICE))
        machine.holding = False
        machine.release()
        await trio.testing.wait_all_tasks_blocked()
        assert machine.guests == set()
        assert not any(broker.service.records().values())


async def test_an_abandoned_start_is_rolled_back(hosting):
    async with hosting() as (broker, machine, connect):
        peer = await joined(connect)
        machine.holding = True
        frame = peer.frame("start", spec=SPEC)
        replies = []
        broker.actor.submit(Request(ALICE, frame), lambda value, error: replies.append(value), owner=ALICE)
        await trio.testing.wait_all_tasks_blocked()
        assert broker.actor.abandon(ALICE) == 1
        machine.holding = False
        machine.release()
        assert replies[0]["b"]["name"] == "BAD_STATE"
        assert machine.guests == set()
        assert broker.service.records()["child"] == 0


async def test_a_machine_that_is_gone_takes_its_guests_with_it(hosting):
    async with hosting() as (_, machine, connect):
        peer = await joined(connect)
        child = (await peer.ask("start", spec=SPEC))["child"]

        def gone(_message, deliver, _owner=None):
            deliver(None, LevelGone("the machine"))

        machine.submit = gone
        assert (await peer.ask("stop", child=child))["name"] == "INTERNAL"
        assert (await peer.ask("describe", child=child))["state"] == "LOST"
        assert (await peer.ask("destroy", child=child))["state"] == "RELEASED"


@pytest.mark.parametrize(
    "data",
    [(1 << 17).to_bytes(4, "big"), b"\x00\x00\x00\x01\xc1", b"\x00\x00\x00\x01\x05", b"\x00\x00\x00\x00"],
    ids=["oversized", "no msgpack", "no map", "empty"],
)
async def test_what_is_no_frame_closes_the_connection(hosting, data):
    async with hosting() as (broker, _, connect):
        peer = connect()
        await peer.stream.send_all(data)
        assert await peer.receive() is None
        assert not broker.actor.dead


async def test_a_map_that_is_no_request_is_refused_and_the_connection_stays(hosting):
    async with hosting() as (_, _, connect):
        peer = connect()
        await peer.stream.send_all(pack_frame({"v": 1}))
        assert (await peer.receive())["b"]["name"] == "BAD_FRAME"
        assert (await peer.ask("hello", versions=[1]))["epoch"] == 1


async def test_the_machine_may_be_an_actor():
    async with open_runtime(lambda: 0.0) as runtime:
        guests = Machine()
        machine = Actor("machine", lambda effect: guests.submit(effect, lambda *_: None), runtime)
        broker = Broker(Service(), machine, lambda: 0, runtime)
        peer = Peer(None)
        for kind, body in (
            ("hello", {"versions": [1]}),
            ("image.put", {"digest": DIGEST, "size": len(IMAGE), "offset": 0, "data": IMAGE}),
            ("start", {"spec": SPEC}),
        ):
            reply = await broker.actor.ask(Request(ALICE, peer.frame(kind, **body)))
            assert reply["t"] == "ok"
        assert reply["b"]["state"] == "READY"
