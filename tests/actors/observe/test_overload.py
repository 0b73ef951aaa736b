"""A process that has more to do than it can: who asks it for metrics is answered all the same."""

from __future__ import annotations

import trio
from prometheus_client.parser import text_string_to_metric_families as parse_text
from trio.testing import memory_stream_pair

from actors.observe.collector import Collector, registry_of
from actors.observe.exporter import _Exporter
from actors.runtime.actor import Actor, open_runtime
from actors.runtime.mailbox import MailboxFull
from actors.runtime.port import ignore

CALLERS = 64
CAPACITY = 64
SCRAPES = 5
MOST = 32  # passes of the scheduler, each of which every task that is ready gets one turn in


class Passes(trio.abc.Instrument):
    """How often the scheduler has gone round."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def scrape(exporter: _Exporter) -> str:
    """Over a stream in memory: how often the system lets sockets wait is none of this test's business."""
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exporter.serve, server)
        await client.send_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n")
        data = b""
        while more := await client.receive_some():
            data += more
        await client.aclose()
    return data.partition(b"\r\n\r\n")[2].decode()


async def test_a_scrape_waits_for_a_few_passes_whatever_is_in_the_mailboxes() -> None:
    """In passes of the scheduler, so that it is the same on a slow machine; a benchmark has the time."""
    handled = refused = 0

    def handle(message: object) -> object:
        nonlocal handled
        handled += 1
        return message

    async def ask(actor: Actor) -> None:
        nonlocal refused
        while True:
            try:
                await actor.ask("something")
            except MailboxFull:
                refused += 1
                await trio.lowlevel.checkpoint()

    async def flood(actor: Actor) -> None:
        """More than the mailbox holds, again and again."""
        nonlocal refused
        while True:
            for _ in range(2 * CAPACITY):
                try:
                    actor.submit("more", ignore)
                except MailboxFull:
                    refused += 1
            await trio.lowlevel.checkpoint()

    collector, passes = Collector(), Passes()
    async with open_runtime() as runtime, trio.open_nursery() as nursery:
        actor = Actor("kvm", handle, runtime, capacity=CAPACITY)
        collector.attach_actors("kvm", lambda: [actor])
        trio.lowlevel.add_instrument(passes)
        exporter = _Exporter(registry_of(collector), lambda: True)
        for _ in range(CALLERS):
            nursery.start_soon(ask, actor)
        nursery.start_soon(flood, actor)
        await trio.lowlevel.checkpoint()
        for _ in range(SCRAPES):
            before, passes.count = handled, 0
            text = await scrape(exporter)
            assert handled > before, "or it was not busy"
            assert passes.count < MOST
        trio.lowlevel.remove_instrument(passes)
        nursery.cancel_scope.cancel()
    assert refused, "more than the mailbox holds"
    shown = {
        sample.name: sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.labels.get("role") == "kvm"
    }
    assert shown["nestbed_mailbox_capacity"] == CAPACITY
    assert shown["nestbed_mailbox_peak_depth"] == CAPACITY, "it was full, and the scrape says so"
