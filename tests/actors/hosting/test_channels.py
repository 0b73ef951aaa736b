"""What a channel's stream costs and who waits on it, as a scrape shows it."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from actors.broker import Broker, Request
from actors.hosting.channels import ChannelServer
from actors.observe.collector import Collector, registry_of
from actors.runtime.actor import open_runtime
from protocol.hosting import Identity, Limits, Service
from protocol.hosting.limits import Offer, Share

WHO, IMAGE = Identity(3, 1), b"image"


class Slow(trio.abc.HalfCloseableStream):
    """A guest's port that takes a while over whatever it is sent, answers nothing, and ends when told to."""

    TAKES_S = 3

    def __init__(self):
        self.over = trio.Event()

    async def send_all(self, data):
        await trio.sleep(self.TAKES_S)

    async def wait_send_all_might_not_block(self):
        raise NotImplementedError

    async def receive_some(self, max_bytes=None):
        await self.over.wait()
        return b""

    async def send_eof(self):
        self.over.set()

    async def aclose(self):
        pass


class Silent(Slow):
    """A guest's port that takes what it is sent, never answers, and does not end either."""

    async def send_all(self, data):
        pass

    async def send_eof(self):
        pass


class Machine:
    """L0's machine, which does at once what it is asked."""

    def submit(self, message, deliver, owner=None):
        deliver(None, None)


class Proxy:
    """A service with one child, whose channels are carried to `Slow`."""

    def __init__(self, broker, scrape, nursery, dialed):
        self.dialed = dialed
        self.broker, self.scrape, self.nursery = broker, scrape, nursery
        self.asked = 0
        self.child = b""
        self.server = ChannelServer(broker, self.dial)

    async def dial(self, child, port):
        return self.dialed()

    async def ask(self, kind, **body):
        self.asked += 1
        rid = self.asked.to_bytes(16, "big")
        return await self.broker.actor.ask(
            Request(WHO, {"v": 1, "t": kind, "rid": rid, "epoch": 1, "b": body})
        )

    async def begin(self):
        digest = hashlib.sha256(IMAGE).digest()
        await self.ask("hello", versions=[1])
        await self.ask("image.put", digest=digest, size=len(IMAGE), offset=0, data=IMAGE)
        started = await self.ask("start", spec={"image": digest, "vcpus": 1, "memory_mib": 1})
        self.child = started["b"]["child"]

    async def offered(self):
        return await self.ask("channel.open", child=self.child, port=7)

    async def attend(self, stream):
        """As the reception does."""
        async with stream:
            await self.server.open(WHO, stream)

    async def opened(self):
        token = (await self.offered())["b"]["token"]
        ours, theirs = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self.attend, theirs)
        await ours.send_all(token)
        answer = await ours.receive_some()
        assert answer == b"OK\n"
        return ours

    def shown(self, name, **labels):
        return self.scrape(f"nestbed_{name}", {"arch": "s390", "path": "hosted", **labels})


async def test_a_child_that_never_answers_holds_a_half_open_channel_for_its_time_only(autojump_clock):
    """Found by reading: one side had ended, and the channel stayed until its guest went."""
    async with a_proxy(channels=1, half_open=20_000, dial=Silent) as proxy:
        proxy.nursery.start_soon(proxy.broker.run)
        stream = await proxy.opened()
        await stream.send_all(b"a question")
        await stream.send_eof()
        assert (await proxy.offered())["b"]["name"] == "QUOTA"
        with trio.fail_after(100):
            assert await stream.receive_some() == b""
        assert trio.current_time() - proxy.began == pytest.approx(20, abs=1)
        assert proxy.shown("channel_resets_total", cause="half_open") == 1
        assert proxy.shown("channels", state="open") == 0
        assert (await proxy.offered())["t"] == "ok"


@asynccontextmanager
async def a_proxy(channels, half_open=0, dial=Slow):
    service = Service(
        Limits(each=Share(channels=channels), half_open=half_open), offer=Offer(channels="memory")
    )
    collector = Collector()
    collector.attach_service("s390", service)
    scrape = registry_of(collector).get_sample_value
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        began = trio.current_time()
        broker = Broker(service, Machine(), lambda: round(1000 * (trio.current_time() - began)), runtime)
        proxy = Proxy(broker, scrape, nursery, dial)
        proxy.began = began
        await proxy.begin()
        yield proxy
        nursery.cancel_scope.cancel()


async def test_channels_their_limit_and_who_was_turned_away_are_shown():
    async with a_proxy(channels=2) as proxy:
        assert proxy.shown("channels", state="open") == proxy.shown("channels_refused_total") == 0
        stream = await proxy.opened()
        await proxy.offered()
        refused = await proxy.offered()
        assert refused["b"]["detail"]["dimension"] == "channels"
        assert [proxy.shown("channels", state=state) for state in ("offered", "open")] == [1, 1]
        assert proxy.shown("channel_limit", of="requester") == 2
        assert proxy.shown("channels_refused_total") == 1
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert proxy.shown("channels", state="open") == 0


async def test_thirty_channels_at_once_wait_for_nobody(autojump_clock):
    """Where a proxy has four workers, the thirtieth waits for seven rounds of others, and nothing says so."""
    async with a_proxy(channels=30) as proxy:
        streams = [await proxy.opened() for _ in range(30)]
        assert proxy.shown("channels", state="open") == proxy.shown("channel_limit", of="requester") == 30
        assert (await proxy.offered())["b"]["name"] == "QUOTA"
        assert proxy.shown("channels_refused_total") == 1
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(one_request, stream)
        assert trio.current_time() - began == pytest.approx(Slow.TAKES_S), "all of them side by side"
        waited = proxy.shown("channel_credit_wait_seconds_total", dir="sent")
        assert waited == pytest.approx(30 * Slow.TAKES_S), "and how long their bytes waited is seen"


async def one_request(stream):
    """Say something, and wait until the other side has taken it and ended."""
    await stream.send_all(b"a request")
    await stream.send_eof()
    assert await stream.receive_some() == b""


async def test_a_slow_child_shows_as_waiting_while_its_channel_is_open(autojump_clock):
    async with a_proxy(channels=2) as proxy:
        stream = await proxy.opened()
        for _ in range(2):
            await stream.send_all(b"x" * 1000)
            await trio.sleep(5)
        assert proxy.shown("channel_bytes_total", dir="sent") == 2000
        assert proxy.shown("channel_credit_wait_seconds_total", dir="sent") == pytest.approx(6)
        assert proxy.shown("channel_credit_wait_seconds_total", dir="received") == 0
