"""Links: many calls over one stream, a window that is kept, deadlines, and peers that break rules."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from actors.runtime.actor import Actor, Runtime
from actors.runtime.link import Link
from actors.runtime.mailbox import MailboxFull
from actors.runtime.port import Deliver, Directory
from protocol.effects import Issue
from protocol.errors import (
    LevelGone,
    LocalProtocolError,
    NotDelivered,
    OperationFailed,
    OutcomeUnknown,
    OwnerGone,
    RemoteProtocolError,
)
from protocol.wire import Envelope, FrameDecoder, Kind, Trace, open_envelope, pack_envelope, pack_frame


class Held:
    """Serves by holding: `calls` is what arrived, each with its way back."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, Deliver]] = []

    def __call__(self, target: str, message: Any, deliver: Deliver) -> None:
        self.calls.append((target, message, deliver))

    def answer(self, value: object = None, error: BaseException | None = None, *, at: int = 0) -> None:
        self.calls.pop(at)[2](value, error)


def echo(_target: str, message: object, deliver: Deliver) -> None:
    deliver(message, None)


@asynccontextmanager
async def linked(serve: Any, streams: Any = None, **how: Any) -> AsyncIterator[tuple[Link, Link]]:
    """A link that asks, and its other end, which serves."""
    one, other = streams or memory_stream_pair()
    async with trio.open_nursery() as nursery:
        asks = Link(one)
        serves = Link(other, serve, **how)
        await nursery.start(asks.run)
        await nursery.start(serves.run)
        yield asks, serves
        nursery.cancel_scope.cancel()


class RawPeer:
    """Speaks frames by hand to a link under test."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream, self._decoder = stream, FrameDecoder()

    async def say(self, kind: Kind, call: int = 0, body: Any = None, target: str = "") -> None:
        await self.stream.send_all(pack_envelope(Envelope(kind, call, None, target, body)))

    async def hello(self, window: int = 4) -> None:
        await self.say(Kind.HELLO, body={"window": window})

    async def hear(self) -> list[Envelope]:
        return [open_envelope(m) for m in self._decoder.feed(await self.stream.receive_some())]


@asynccontextmanager
async def met_by_hand(serve: Any = echo, **how: Any) -> AsyncIterator[tuple[Link, RawPeer]]:
    """A link under test, and a peer that says what the test makes it say."""
    one, other = memory_stream_pair()
    link = Link(one, serve, **how)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(link.run)
        peer = RawPeer(other)
        (hello,) = await peer.hear()
        assert hello.kind is Kind.HELLO
        yield link, peer
        nursery.cancel_scope.cancel()


# -- calls -----------------------------------------------------------------------------------------


async def test_a_call_gets_its_answer() -> None:
    async with linked(echo) as (link, _):
        assert await link.ask("l0.te", {"op": "query", "pages": [1, 2]}) == {"op": "query", "pages": [1, 2]}


async def test_many_callers_over_a_real_socket_each_get_their_own() -> None:
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair()]
    got: dict[int, list[Any]] = {}

    async def caller(link: Link, name: int) -> None:
        got[name] = [await link.ask("te", [name, turn]) for turn in range(5)]

    async with linked(echo, streams, window=8) as (link, _), trio.open_nursery() as nursery:
        for name in range(40):
            nursery.start_soon(caller, link, name)
    assert got == {name: [[name, turn] for turn in range(5)] for name in range(40)}


async def test_answers_come_in_any_order() -> None:
    held, got = Held(), []

    async def caller(link: Link, name: str) -> None:
        got.append((name, await link.ask("te", name)))

    async with linked(held) as (link, _), trio.open_nursery() as nursery:
        for name in "ab":
            nursery.start_soon(caller, link, name)
        await wait_all_tasks_blocked()
        by_name = {call[1]: call[2] for call in held.calls}
        by_name["b"]("B", None)
        await wait_all_tasks_blocked()
        by_name["a"]("A", None)
    assert got == [("b", "B"), ("a", "A")]


async def test_an_actor_over_there_is_the_level_below_of_one_here(runtime: Runtime) -> None:
    directory = Directory()
    directory.add("te", Actor("te", lambda message: message * 2, runtime))

    def handler(message: int) -> Any:
        first = yield Issue("call", (message,))
        return first + (yield Issue("call", (first,)))

    async with linked(directory.serve) as (link, _):
        port = link.port("te")
        kvm = Actor(
            "kvm", handler, runtime, perform=lambda effect, deliver: port.submit(effect.arguments[0], deliver)
        )
        assert await kvm.ask(3) == 6 + 12
        with pytest.raises(NotDelivered, match="nobody"):
            await link.ask("nobody", 1)


@pytest.mark.parametrize(
    "error",
    [
        NotDelivered("a"),
        MailboxFull("b"),
        OutcomeUnknown("c"),
        OperationFailed("f"),
        OwnerGone("d"),
        LevelGone("e"),
        RemoteProtocolError("shape", "f"),
    ],
)
async def test_what_stands_in_place_of_an_answer_arrives_as_itself(error: Exception) -> None:
    async with linked(lambda _target, _message, deliver: deliver(None, error)) as (link, _):
        with pytest.raises(type(error)) as caught:
            await link.ask("te", 1)
    assert str(caught.value) == str(error)


async def test_what_has_no_form_on_the_wire_is_refused_where_it_is_said() -> None:
    async with linked(echo) as (link, _):
        with pytest.raises(LocalProtocolError):
            await link.ask("te", object())
        assert link.statistics().outstanding == 0


async def test_an_answer_that_has_no_form_was_still_handled() -> None:
    async with linked(lambda _target, _message, deliver: deliver(object(), None)) as (link, _):
        with pytest.raises(OutcomeUnknown, match="handled"):
            await link.ask("te", 1)
        with pytest.raises(OutcomeUnknown):
            await link.ask("te", 1)


async def test_messages_are_translated_on_both_sides() -> None:
    one, other = memory_stream_pair()
    codec = {"encode": lambda value: [value.real, value.imag], "decode": lambda pair: complex(*pair)}
    async with trio.open_nursery() as nursery:
        asks = Link(one, **codec)
        serves = Link(other, lambda _t, message, deliver: deliver(message * 1j, None), **codec)
        nursery.start_soon(asks.run)
        nursery.start_soon(serves.run)
        assert await asks.ask("te", 2 + 3j) == (2 + 3j) * 1j
        nursery.cancel_scope.cancel()


async def test_the_trace_travels_with_the_call() -> None:
    async with met_by_hand() as (link, peer):
        await peer.hello()
        trace = Trace(b"t" * 16, b"s" * 8, True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: link.ask("te", 1, trace=trace))
            (call,) = await peer.hear()
            assert call.trace == trace
            await peer.say(Kind.REPLY, call.call)


# -- the window ------------------------------------------------------------------------------------


async def test_calls_beyond_the_window_are_held_back_and_go_in_order() -> None:
    held = Held()
    async with linked(held, window=2) as (link, serves), trio.open_nursery() as nursery:
        await wait_all_tasks_blocked()
        for number in range(5):
            link.submit("te", number, lambda _value, _error: None)
        await wait_all_tasks_blocked()
        assert [call[1] for call in held.calls] == [0, 1]
        assert link.statistics().held == 3
        assert serves.statistics().serving == 2
        held.answer()
        await wait_all_tasks_blocked()
        assert [call[1] for call in held.calls] == [1, 2]
        nursery.cancel_scope.cancel()


async def test_too_many_held_calls_are_refused_and_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.runtime.link.HELD", 3)
    answers: list[Any] = []
    async with met_by_hand() as (link, _):
        for number in range(4):
            link.submit("te", number, lambda _value, error: answers.append(error))
    assert [type(answer) for answer in answers] == [MailboxFull, LevelGone, LevelGone, LevelGone]


# -- deadlines -------------------------------------------------------------------------------------


async def test_a_deadline_leaves_the_outcome_unknown_and_a_late_answer_is_dropped(
    autojump_clock: MockClock,
) -> None:
    held = Held()
    async with linked(held) as (link, _):
        with pytest.raises(OutcomeUnknown):
            await link.ask("te", 1, timeout_s=2)
        assert trio.current_time() == pytest.approx(2)
        assert link.statistics().outstanding == 1
        held.answer("late")
        await wait_all_tasks_blocked()
        assert link.statistics().outstanding == 0
        assert link.statistics().expired == 1
        assert link.violation is None


async def test_a_deadline_of_a_held_call_is_certainly_not_delivered(autojump_clock: MockClock) -> None:
    held = Held()
    async with linked(held, window=1) as (link, _):
        link.submit("te", 1, lambda _value, _error: None)
        with pytest.raises(NotDelivered, match="window"):
            await link.ask("te", 2, timeout_s=1)
        held.answer()
        await wait_all_tasks_blocked()
        assert held.calls == []


async def test_deadlines_pass_in_their_own_order(autojump_clock: MockClock) -> None:
    passed: list[float] = []

    async def caller(link: Link, timeout_s: float) -> None:
        with pytest.raises(OutcomeUnknown):
            await link.ask("te", 1, timeout_s=timeout_s)
        passed.append(round(trio.current_time(), 3))

    async with linked(Held()) as (link, _), trio.open_nursery() as nursery:
        for timeout_s in (3, 1, 2):
            nursery.start_soon(caller, link, timeout_s)
    assert passed == [1, 2, 3]


async def test_deadlines_of_answered_calls_do_not_pile_up() -> None:
    async with linked(echo) as (link, _):
        for number in range(500):
            await link.ask("te", number, timeout_s=1000)
        assert len(link._deadlines) < 100


async def test_who_stood_still_reads_first_and_then_says_who_was_late(mock_clock: MockClock) -> None:
    """A process that was stopped finds what has come and what should have come by then, both at once."""
    ours, theirs = socket.socketpair()
    got: list[Any] = []
    link = Link(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))

    async def ask() -> None:
        got.append(await link.ask("te", 1, timeout_s=2))

    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.run)
            await wait_all_tasks_blocked()
            theirs.sendall(pack_envelope(Envelope(Kind.HELLO, 0, None, "", {"window": 4})))
            mock_clock.jump(1000)
            await wait_all_tasks_blocked()
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            theirs.sendall(pack_envelope(Envelope(Kind.REPLY, 1, None, "", "in time")))
            mock_clock.jump(1000)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert got == ["in time"]
    assert link.violation is None


async def test_cancelling_a_caller_ends_its_wait_only() -> None:
    held = Held()
    async with linked(held) as (link, _):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.ask, "te", 1)
                await wait_all_tasks_blocked()
                scope.cancel()
        held.answer("for nobody")
        await wait_all_tasks_blocked()
        assert link.statistics().outstanding == 0
        assert link.violation is None


# -- the end ---------------------------------------------------------------------------------------


async def test_the_end_of_the_stream_is_told_to_all_who_wait() -> None:
    answers: list[Any] = []
    async with met_by_hand() as (link, peer):
        await peer.hello(window=1)
        for number in range(3):
            link.submit("te", number, lambda _value, error: answers.append(error))
        await peer.stream.aclose()
        await wait_all_tasks_blocked()
        assert [type(answer) for answer in answers] == [LevelGone] * 3
        assert link.violation is None
        with pytest.raises(LevelGone):
            await link.ask("te", 1)


async def test_cancelling_a_link_is_told_to_all_who_wait() -> None:
    answers: list[Any] = []
    async with linked(Held()) as (link, _):
        link.submit("te", 1, lambda _value, error: answers.append(error))
    assert [type(answer) for answer in answers] == [LevelGone]


async def test_an_answer_after_the_end_is_dropped() -> None:
    held = Held()
    async with met_by_hand(held) as (link, peer):
        await peer.hello()
        await peer.say(Kind.ASK, 1, target="te")
        await wait_all_tasks_blocked()
        await peer.stream.aclose()
        await wait_all_tasks_blocked()
        held.answer("too late")
        assert link.statistics().serving == 0


# -- peers that break rules ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([(Kind.ASK, 1, None)], "order"),
        ([(Kind.HELLO, 0, {"window": 0})], "shape"),
        ([(Kind.HELLO, 0, {"window": True})], "shape"),
        ([(Kind.HELLO, 0, {"window": 1 << 40})], "shape"),
        ([(Kind.HELLO, 0, None)], "shape"),
        ([(Kind.HELLO, 0, {"window": 1})] * 2, "order"),
        ([(Kind.HELLO, 0, {"window": 1}), (Kind.REPLY, 9, None)], "order"),
        ([(Kind.HELLO, 0, {"window": 1}), (Kind.FAILED, 9, ["level_gone", ""])], "order"),
        ([(Kind.HELLO, 0, {"window": 1}), (Kind.FAILED, 9, ["no such word", ""])], "shape"),
        ([(Kind.HELLO, 0, {"window": 1}), (Kind.ASK, 1, None), (Kind.ASK, 1, None)], "order"),
        ([(Kind.HELLO, 0, {"window": 1}), *((Kind.ASK, number, None) for number in range(3))], "credit"),
    ],
)
async def test_a_peer_that_breaks_the_protocol_is_named_counted_and_closed(said: Any, reason: str) -> None:
    async with met_by_hand(Held(), window=2) as (link, peer):
        for kind, call, body in said:
            await peer.say(kind, call, body)
        await wait_all_tasks_blocked()
        assert link.violation is not None
        assert link.violation.reason == reason
        assert link.statistics().violations == {reason: 1}
        with pytest.raises(LevelGone):
            await link.ask("te", 1)


@pytest.mark.parametrize(
    ("noise", "reason"),
    [
        (b"\xff\xff\xff\xff", "oversized"),
        (b"\x00\x00\x00\x01\xc1", "malformed"),
        (b"\x00\x00\x00\x00", "empty"),
        (pack_frame({"v": 1}), "shape"),
        (pack_frame([2, 0, 0, None, "", None]), "version"),
        (pack_frame([1, 77, 0, None, "", None]), "kind"),
    ],
)
async def test_noise_closes_the_link(noise: bytes, reason: str) -> None:
    async with met_by_hand() as (link, peer):
        await peer.stream.send_all(noise)
        await wait_all_tasks_blocked()
        assert link.violation is not None
        assert link.violation.reason == reason


async def test_a_stream_that_ends_inside_a_frame_is_a_violation() -> None:
    async with met_by_hand() as (link, peer):
        await peer.stream.send_all(b"\x00\x00\x00\x09\x95")
        await peer.stream.aclose()
        await wait_all_tasks_blocked()
        assert link.violation is not None
        assert link.violation.reason == "truncated"


async def test_a_peer_that_says_no_hello_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with met_by_hand() as (link, _peer):
        await trio.sleep(6)
        assert link.violation is not None
        assert link.violation.reason == "order"


async def test_calls_before_a_violation_are_served() -> None:
    held = Held()
    async with met_by_hand(held) as (link, peer):
        hello = pack_envelope(Envelope(Kind.HELLO, 0, None, "", {"window": 1}))
        call = pack_envelope(Envelope(Kind.ASK, 1, None, "te", "served"))
        await peer.stream.send_all(hello + call + b"\x00\x00\x00\x01\xc1")
        await wait_all_tasks_blocked()
        assert [call[1] for call in held.calls] == ["served"]
        assert link.violation is not None


@given(st.binary(max_size=120))
def test_whatever_a_peer_says_the_link_ends_or_goes_on(noise: bytes) -> None:
    async def meet() -> None:
        async with met_by_hand(window=2) as (link, peer):
            await peer.hello()
            await peer.stream.send_all(noise)
            await peer.stream.aclose()
            await wait_all_tasks_blocked()
            with pytest.raises(LevelGone):
                await link.ask("te", 1)

    trio.run(meet)
