"""Peers that mean harm, or do harm without meaning it: counted, closed, never more memory than a limit."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import msgpack
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from actors.runtime.link import FRAME_S, HELLO_S, UNSENT_BYTES, WINDOW, Link
from actors.runtime.port import Deliver
from actors.runtime.transport.tls import only
from protocol.roles import HOSTS, may_ask
from protocol.wire import DEPTH, FRAME_LIMIT, Envelope, Kind, pack_envelope, pack_frame

MEMORY = 8 << 20  # more than this no peer may make a link allocate, whatever it sends


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


HELLO = pack_envelope(Envelope(Kind.HELLO, 0, None, "", {"window": 64}))


def ask(number: int, target: str = "kvm", body: object = None) -> bytes:
    return pack_envelope(Envelope(Kind.ASK, number, None, target, body))


HOSTILE = {
    "wrong version": (pack_frame([9, 1, 1, None, "kvm", None]), "version"),
    "no kind of frame": (pack_frame([1, 77, 1, None, "kvm", None]), "kind"),
    "not an envelope": (pack_frame({"call": 1}), "shape"),
    "oversized": ((FRAME_LIMIT + 1).to_bytes(4, "big"), "oversized"),
    "four gigabytes": (b"\xff\xff\xff\xff" + b"\0" * 4096, "oversized"),
    "deep": (framed(b"\x91" * (DEPTH + 8) + b"\xc0"), "too_deep"),
    "very deep": (framed(b"\x91" * 200_000 + b"\xc0"), "too_deep"),
    "claims forty million elements": (framed(b"\xdd\x02\x62\x5a\x00"), "malformed"),
    "nested claims": (framed(b"\xdd\x00\x0f\x42\x40" * 400), "malformed"),
    "nested claims that are within the limits": (framed(b"\xdd\x00\x00\xff\xff" * 1000), "malformed"),
    "such claims in a small frame": (framed(b"\xdd\x00\x00\xff\xff" * DEPTH), "malformed"),
    "trailing bytes": (framed(ask(1)[4:] + b"\xc0"), "malformed"),
    "cut short": (framed(ask(1)[4:-2]), "malformed"),
    "an extension type": (
        framed(msgpack.packb([1, 1, 1, None, "kvm", msgpack.ExtType(5, b"x")])),
        "extension",
    ),
    "a timestamp": (framed(msgpack.packb([1, 1, 1, None, "kvm", msgpack.Timestamp(1)])), "extension"),
    "duplicate keys": (framed(b"\x96\x01\x01\x01\xc0\xa3kvm\x82\xa1a\x01\xa1a\x02"), "duplicate_key"),
    "keys that are no text": (framed(b"\x96\x01\x01\x01\xc0\xa3kvm\x81\x01\x02"), "malformed"),
    "bad text": (framed(b"\x96\x01\x01\x01\xc0\xa3kv\xff\xc0"), "malformed"),
    "an empty frame": (framed(b""), "empty"),
    "a second hello": (HELLO, "order"),
    "an answer to nothing": (pack_envelope(Envelope(Kind.REPLY, 5, None, "", None)), "order"),
    "the same call twice": (ask(1) + ask(1), "order"),
    "more calls than granted": (b"".join(map(ask, range(WINDOW + 1))), "credit"),
    "a guest host that speaks as Trusted Entity": (ask(1, "te"), "role"),
    "a guest host that drives a run": (ask(1, "node"), "role"),
}


class Peer:
    """The other end of a link under test, which serves by holding every call."""

    def __init__(self) -> None:
        self.stream, ours = memory_stream_pair()
        self.link = Link(ours, only(may_ask(HOSTS), self.hold))

    def hold(self, _target: str, _message: object, _deliver: Deliver) -> None:
        return


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_peer_that_breaks_the_protocol_is_counted_and_closed(name: str) -> None:
    sent, reason = HOSTILE[name]
    peer = Peer()
    tracemalloc.start()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.link.run)
            await peer.stream.send_all(HELLO + sent)
            while await peer.stream.receive_some(65536):
                pass  # our hello, then the end
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peer.link.statistics().violations == {reason: 1}
    assert peak < MEMORY


async def test_a_peer_that_says_nothing_is_closed(autojump_clock: MockClock) -> None:
    peer = Peer()
    began = trio.current_time()
    await peer.link.run()
    assert trio.current_time() - began == pytest.approx(HELLO_S)
    assert peer.link.statistics().violations == {"order": 1}


@pytest.mark.parametrize("before", [b"", HELLO], ids=["of its hello", "of its first call"])
async def test_a_peer_that_sends_a_byte_now_and_then_is_closed(
    autojump_clock: MockClock, before: bytes
) -> None:
    peer = Peer()
    began = trio.current_time()

    async def drip() -> None:
        with suppress(trio.BrokenResourceError):
            await peer.stream.send_all(before)
            for byte in framed(b"\xc4" * 1000):
                await peer.stream.send_all(bytes([byte]))
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        await peer.link.run()
    assert peer.link.statistics().violations == {"order": 1}
    assert trio.current_time() - began <= FRAME_S + 2


async def test_a_slow_frame_is_no_offence_while_frames_go_on(autojump_clock: MockClock) -> None:
    peer = Peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.link.run)
        await peer.stream.send_all(HELLO)
        for number in range(8):  # each a second half of one call and the first half of the next
            frame = ask(number)
            await peer.stream.send_all(frame[:7])
            await trio.sleep(FRAME_S / 2)
            await peer.stream.send_all(frame[7:])
        await wait_all_tasks_blocked()
        assert peer.link.statistics().serving == 8
        nursery.cancel_scope.cancel()
    assert peer.link.violation is None


async def test_a_flood_of_calls_whose_answers_nobody_reads_ends_at_a_limit() -> None:
    stream, ours = memory_stream_pair()
    link = Link(ours, lambda _target, _message, deliver: deliver(b"x" * 60_000, None))
    # A pipe that is full, as a socket's is: nothing that we send is taken.
    blocked = trio.Event()
    ours.send_stream.send_all_hook = blocked.wait
    numbers = count()

    def calls() -> Iterator[bytes]:
        while True:
            yield b"".join(ask(next(numbers)) for _ in range(8))

    async def flood() -> None:
        for some in calls():
            await stream.send_all(some)
            await wait_all_tasks_blocked()

    tracemalloc.start()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await stream.send_all(HELLO)
            with pytest.raises(trio.BrokenResourceError):
                await flood()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert link.statistics().violations == {"credit": 1}
    assert UNSENT_BYTES < peak < UNSENT_BYTES + MEMORY
