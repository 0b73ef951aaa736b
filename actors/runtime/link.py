"""Many calls over one stream of frames, between two processes or two ends of a memory stream.

Theory of operation. Each side opens with a hello that grants the other a *window*: how many calls may be
outstanding. A call beyond the window is held back here, so an overrun is never bad luck but a violation. Each
call has a number, so answers come in any order. One task writes: it joins what has gathered since its last
write. One task reads. One keeps the deadlines of all calls, in one heap: a scope per call would cost more
than the call.

A peer that breaks the protocol is counted and the stream closed at once; nothing is resynchronised. However a
link ends, everyone who still waits gets LevelGone.

A call whose deadline passes is answered with NotDelivered if it was still held back, else with
OutcomeUnknown: it may have been handled. Its answer, if one comes, is dropped; until then its place in the
window stays taken, because the peer is still at it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from actors.runtime.mailbox import MailboxFull, Reply
from actors.runtime.port import Deliver
from actors.runtime.tracing import Tracer, context_of
from protocol.errors import (
    LevelGone,
    LocalProtocolError,
    NestbedError,
    NotDelivered,
    OperationFailed,
    OutcomeUnknown,
    OwnerGone,
    RemoteProtocolError,
)
from protocol.wire import FRAME_LIMIT, Envelope, FrameDecoder, Kind, Trace, open_envelope, pack_envelope

WINDOW = 64  # calls that a peer may have outstanding here
WINDOW_LIMIT = 1 << 16  # the largest grant that is believed
HELD = 1024  # calls that wait for the window
HELLO_S = 5.0
FRAME_S = 30.0  # from the first byte of a frame to its last
UNSENT_BYTES = 8 << 20  # answers that a peer does not read; it may not ask for more of them
READ_BYTES = 65536

Serve = Callable[[str, object, Deliver], None]
Translate = Callable[[object], object]

# The words on the wire for what stands in place of an answer, most special first.
_FAILURES: tuple[tuple[str, type[NestbedError]], ...] = (
    ("mailbox_full", MailboxFull),
    ("not_delivered", NotDelivered),
    ("outcome_unknown", OutcomeUnknown),
    ("owner_gone", OwnerGone),
    ("level_gone", LevelGone),
    ("failed", OperationFailed),
)
_BY_WORD = dict(_FAILURES)


def _as_it_is(value: object) -> object:
    return value


def _serve_nothing(target: str, _message: object, deliver: Deliver) -> None:
    deliver(None, NotDelivered(f"nothing is served here, not {target[:80]!r}"))


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """What a link has done and holds, for metrics."""

    sent: int  # frames
    received: int
    bytes_sent: int
    bytes_received: int
    outstanding: int  # calls of ours
    held: int  # calls of ours that wait for the window
    serving: int  # calls of the peer
    expired: int  # calls of ours whose deadline passed
    violations: dict[str, int]  # by reason


class _Call:
    """A call of ours."""

    __slots__ = ("deliver", "frame", "number")

    def __init__(self, number: int, deliver: Deliver, frame: bytes) -> None:
        self.number = number
        self.deliver: Deliver | None = deliver  # None once it was answered by its deadline
        self.frame = frame


class Link:
    """One end. `run` must be running for anything to move.

    `serve(target, message, deliver)` handles the peer's calls, `Directory.serve` for one. `encode` and
    `decode` turn messages and answers into what msgpack can carry, and back. `link.port(target)` is a `Port`
    to an actor over there.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        serve: Serve = _serve_nothing,
        *,
        window: int = WINDOW,
        limit: int = FRAME_LIMIT,
        encode: Translate = _as_it_is,
        decode: Translate = _as_it_is,
        hello_s: float = HELLO_S,
    ) -> None:
        if not 1 <= window <= WINDOW_LIMIT:
            raise ValueError(f"a window is 1 to {WINDOW_LIMIT} calls, not {window}")
        self._stream, self._serve = stream, serve
        self._window, self._limit = window, limit
        self._encode, self._decode = encode, decode
        self._hello_s = hello_s
        self._granted: int | None = None  # by the peer's hello
        self._numbers = 0
        self._calls: dict[int, _Call] = {}
        self._held: dict[int, _Call] = {}
        self._serving: set[int] = set()
        self._out: list[bytes] = []
        self._unsent = 0  # bytes, those that are being written included
        self._deadlines: list[tuple[float, int]] = []
        self._wake_writer = trio.Event()
        self._wake_timer = trio.Event()
        self._closed = False
        self._sent = self._received = self._bytes_sent = self._bytes_received = self._expired = 0
        self.violation: RemoteProtocolError | None = None
        self.tracer: Tracer | None = None  # of this side, if its messages are to be followed to the other

    # -- asking ----------------------------------------------------------------------------

    async def ask(
        self, target: str, message: object, *, timeout_s: float | None = None, trace: Trace | None = None
    ) -> Any:
        """Send `message` to `target` and return its answer.

        Cancelling ends the wait only. Raises LocalProtocolError if the message has no form on the wire,
        LevelGone, NotDelivered, OutcomeUnknown after `timeout_s`, and what the other side answered in place
        of a value.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        reply = Reply()
        deadline = None if timeout_s is None else trio.current_time() + timeout_s
        self.submit(target, message, reply.deliver, deadline=deadline, trace=trace)
        return await reply.wait()

    def submit(
        self,
        target: str,
        message: object,
        deliver: Deliver,
        *,
        deadline: float | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Send `message`; its answer, or what stands in place of it, is delivered. `deadline` is Trio's time.

        Raises LocalProtocolError if it has no form on the wire.
        """
        if self._closed:
            deliver(None, LevelGone("the link is closed"))
            return
        if self.tracer is not None and trace is None:
            deliver = self.tracer.sent(target, message, deliver)
            trace = context_of(deliver)
        self._numbers = number = self._numbers + 1
        frame = pack_envelope(Envelope(Kind.ASK, number, trace, target, self._encode(message)), self._limit)
        call = _Call(number, deliver, frame)
        if self._granted is not None and len(self._calls) < self._granted:
            self._issue(call)
        elif len(self._held) < HELD:
            self._held[number] = call
        else:
            deliver(None, MailboxFull(f"{HELD} calls wait for this link already"))
            return
        if deadline is not None:
            self._expect(deadline, number)

    def port(self, target: str, timeout_s: float | None = None) -> LinkPort:
        """Return the actor `target` of the other side, as a port."""
        return LinkPort(self, target, timeout_s)

    def statistics(self) -> LinkStatistics:
        return LinkStatistics(
            sent=self._sent,
            received=self._received,
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            outstanding=len(self._calls),
            held=len(self._held),
            serving=len(self._serving),
            expired=self._expired,
            violations={} if self.violation is None else {self.violation.reason: 1},
        )

    # -- running ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Link] = trio.TASK_STATUS_IGNORED) -> None:
        """Move frames until the stream ends, the peer breaks a rule (see `violation`), or it is cancelled."""
        hello = Envelope(Kind.HELLO, 0, None, "", {"window": self._window})
        self._send(pack_envelope(hello))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, nursery.cancel_scope)
                nursery.start_soon(self._keep_deadlines)
                task_status.started(self)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self._close()
            # Without waiting: a peer that is gone, or that breaks rules, is owed no farewell.
            await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        decoder = FrameDecoder(self._limit)
        due = trio.current_time() + self._hello_s  # when what the peer has begun has to be whole
        try:
            while True:
                with trio.CancelScope(deadline=due) as waits:
                    data = await self._stream.receive_some(READ_BYTES)
                if waits.cancelled_caught:
                    wanted = "rest of a frame" if self._granted is not None else "hello"
                    raise RemoteProtocolError("order", f"no {wanted} in its time")
                if not data:
                    decoder.end()
                    return
                self._bytes_received += len(data)
                messages = decoder.feed(data)
                for message in messages:
                    self._received += 1
                    self._take(open_envelope(message))
                if decoder.violation is not None:
                    raise decoder.violation
                if self._granted is not None:
                    due = self._frame_due(due, decoder.pending, len(messages))
        except RemoteProtocolError as violation:
            self.violation = violation
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the same as an end: everyone who waits is told

    @staticmethod
    def _frame_due(due: float, pending: int, complete: int) -> float:
        """By when the frame has to be whole that has begun; never, if none has."""
        if not pending:
            return float("inf")
        return trio.current_time() + FRAME_S if complete or due == float("inf") else due

    async def _write(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                if not self._out:
                    await self._wake_writer.wait()
                    self._wake_writer = trio.Event()
                data = b"".join(self._out)
                self._out.clear()
                self._bytes_sent += len(data)
                await self._stream.send_all(data)
                self._unsent -= len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    async def _keep_deadlines(self) -> None:
        while True:
            now = trio.current_time()
            while self._deadlines and self._deadlines[0][0] <= now:
                self._expire(heapq.heappop(self._deadlines)[1])
            next_at = self._deadlines[0][0] if self._deadlines else float("inf")
            with trio.CancelScope(deadline=next_at):
                await self._wake_timer.wait()
            self._wake_timer = trio.Event()

    def _close(self) -> None:
        self._closed = True
        waiting = [*self._calls.values(), *self._held.values()]
        self._calls, self._held, self._deadlines = {}, {}, []
        self._serving.clear()
        self._out.clear()
        for call in waiting:
            if call.deliver is not None:
                call.deliver(None, LevelGone("the link is closed"))

    # -- frames ----------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        self._sent += 1
        self._unsent += len(frame)
        self._out.append(frame)
        self._wake_writer.set()

    def _take(self, envelope: Envelope) -> None:
        if (envelope.kind is Kind.HELLO) != (self._granted is None):
            raise RemoteProtocolError("order", "one hello, and before anything else")
        match envelope.kind:
            case Kind.HELLO:
                self._take_hello(envelope.body)
            case Kind.ASK:
                self._take_ask(envelope)
            case Kind.REPLY:
                self._settle(envelope.call, self._decode(envelope.body), None)
            case Kind.FAILED:
                self._settle(envelope.call, None, _failure(envelope.body))

    def _take_hello(self, body: object) -> None:
        window = body.get("window") if isinstance(body, dict) else None
        if type(window) is not int or not 1 <= window <= WINDOW_LIMIT:
            raise RemoteProtocolError("shape", f"a hello grants a window of 1 to {WINDOW_LIMIT}")
        self._granted = window
        self._issue_held()

    def _take_ask(self, envelope: Envelope) -> None:
        number = envelope.call
        if number in self._serving:
            raise RemoteProtocolError("order", f"call {number} is outstanding")
        if len(self._serving) >= self._window:
            raise RemoteProtocolError("credit", f"more than {self._window} calls outstanding")
        if self._unsent > UNSENT_BYTES:
            raise RemoteProtocolError("credit", f"{self._unsent} bytes of answers are not read")
        self._serving.add(number)
        deliver: Deliver = partial(self._answer, number)
        body, trace = self._decode(envelope.body), envelope.trace
        if trace is None or not trace.sampled or self.tracer is None:
            self._serve(envelope.target, body, deliver)
            return
        with self.tracer.serving(trace, deliver) as followed:
            self._serve(envelope.target, body, followed)

    def _answer(self, number: int, value: object, error: BaseException | None) -> None:
        if self._closed:
            return
        self._serving.discard(number)
        try:
            if error is None:
                frame = pack_envelope(
                    Envelope(Kind.REPLY, number, None, "", self._encode(value)), self._limit
                )
            else:
                frame = pack_envelope(Envelope(Kind.FAILED, number, None, "", _words(error)), self._limit)
        except LocalProtocolError as unsaid:
            # It was handled; only its answer has no form on the wire.
            words = _words(OutcomeUnknown(f"handled, but the answer cannot be sent: {unsaid}"))
            frame = pack_envelope(Envelope(Kind.FAILED, number, None, "", words))
        self._send(frame)

    # -- calls of ours ---------------------------------------------------------------------

    def _issue(self, call: _Call) -> None:
        self._calls[call.number] = call
        self._send(call.frame)
        call.frame = b""

    def _issue_held(self) -> None:
        while self._held and self._granted is not None and len(self._calls) < self._granted:
            self._issue(self._held.pop(next(iter(self._held))))

    def _settle(self, number: int, value: object, error: BaseException | None) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            raise RemoteProtocolError("order", f"an answer to {number}, which was not asked")
        self._issue_held()
        if call.deliver is not None:
            call.deliver(value, error)

    def _expect(self, deadline: float, number: int) -> None:
        earliest = not self._deadlines or deadline < self._deadlines[0][0]
        if len(self._deadlines) > 2 * (len(self._calls) + len(self._held)) + 64:
            # Calls that were answered in time leave their deadlines behind; most of the heap is such.
            live = [entry for entry in self._deadlines if entry[1] in self._calls or entry[1] in self._held]
            heapq.heapify(live)
            self._deadlines = live
        heapq.heappush(self._deadlines, (deadline, number))
        if earliest:
            self._wake_timer.set()

    def _expire(self, number: int) -> None:
        held = self._held.pop(number, None)
        call = held or self._calls.get(number)
        if call is None or call.deliver is None:
            return
        self._expired += 1
        deliver, call.deliver = call.deliver, None
        if held is not None:
            deliver(None, NotDelivered("it waited for the window until its deadline"))
        else:
            deliver(None, OutcomeUnknown("no answer before its deadline"))


class LinkPort:
    """An actor on the other side of a link. A `Port`."""

    __slots__ = ("_link", "_target", "_timeout_s")

    def __init__(self, link: Link, target: str, timeout_s: float | None) -> None:
        self._link, self._target, self._timeout_s = link, target, timeout_s

    def submit(self, message: object, deliver: Deliver, owner: Hashable = None) -> None:
        """Send `message` there. An owner means nothing over there: it is kept by the handler that asks."""
        deadline = None if self._timeout_s is None else trio.current_time() + self._timeout_s
        self._link.submit(self._target, message, deliver, deadline=deadline)


def _words(error: BaseException) -> list[str]:
    """Say `error` on the wire. What has no word there may have been handled, for all we know."""
    for word, kind in _FAILURES:
        if isinstance(error, kind):
            return [word, str(error)[:200]]
    if isinstance(error, RemoteProtocolError):
        return ["violation", error.reason, error.detail[:200]]
    return ["outcome_unknown", f"{type(error).__name__}: {str(error)[:200]}"]


def _failure(body: object) -> NestbedError:
    match body:
        case [str(word), str(detail)] if word in _BY_WORD:
            return _BY_WORD[word](detail)
        case ["violation", str(reason), str(detail)]:
            return RemoteProtocolError(reason, detail)
    raise RemoteProtocolError("shape", "a failure is a known word and its detail")
