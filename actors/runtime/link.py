"""Many calls over one stream of frames, between two processes or two ends of a memory stream.

Theory of operation. Each side opens with a hello that grants the other a *window*: how many calls may be
outstanding. A call beyond the window is held back here, so an overrun is never bad luck but a violation. Each
call has a number, so answers come in any order. One task reads. One keeps the deadlines of all calls, in one
heap: a scope per call would cost more than the call. One writes what has gathered since its last write, and
has little to do: answers that are there when all of what was read is handled are written by the reader, and a
call with no other in flight is written by whoever makes it. So many calls at a time cost few writes, and one
at a time no task switch. What the stream does not take at once, and what comes meanwhile, is the writer's.

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
from actors.runtime.transport.ends import end_of
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
from protocol.wire import FRAME_LIMIT, VERSION, FrameDecoder, Kind, Message, Trace, opened, pack_frame

WINDOW = 64  # calls that a peer may have outstanding here
WINDOW_LIMIT = 1 << 16  # the largest grant that is believed
HELD = 1024  # calls that wait for the window
HELLO_S = 5.0
FRAME_S = 30.0  # from the first byte of a frame to its last
LATE_S = 0.1  # a deadline that is noticed so late was missed by this process
UNSENT_BYTES = 8 << 20  # answers that a peer does not read; it may not ask for more of them
NEVER = float("inf")
_HELLO, _ASK, _REPLY, _FAILED = map(int, (Kind.HELLO, Kind.ASK, Kind.REPLY, Kind.FAILED))

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


def _nobody(_value: object, _error: BaseException | None) -> None:
    """Takes the answer of a call that its deadline has answered."""


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
        encode: Translate | None = None,
        decode: Translate | None = None,
        hello_s: float = HELLO_S,
    ) -> None:
        if not 1 <= window <= WINDOW_LIMIT:
            raise ValueError(f"a window is 1 to {WINDOW_LIMIT} calls, not {window}")
        self._stream, self._serve = stream, serve
        self._end = end_of(stream)
        self._window, self._limit = window, limit
        self._encode, self._decode = encode, decode
        self._hello_s = hello_s
        self._granted = 0  # by the peer's hello
        self._numbers = 0
        self._calls: dict[int, tuple[Deliver, str]] = {}  # ours, each with whom it asks
        self._held: dict[int, tuple[Deliver, str, bytes]] = {}  # the same with their frames
        self._serving: dict[int, str] = {}  # the peer's
        # What is to be written, and by whom:
        self._out: list[bytes] = []
        self._unsent = 0  # bytes, those that are being written included
        self._reading = False  # the reader is at what it read, and will write when it is done
        self._single = False  # the last read brought one frame: nobody else is about to write
        self._writing = False  # the writer waits for the stream
        self._wake_writer = trio.Event()
        # Deadlines, all of them:
        self._deadlines: list[tuple[float, int]] = []  # of calls
        self._due = NEVER  # when what the peer has begun has to be whole
        self._timer_at = NEVER
        self._wake_timer = trio.Event()
        self._scope = trio.CancelScope()
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
        if self._encode is not None:
            message = self._encode(message)
        frame = pack_frame((VERSION, _ASK, number, trace, target, message), self._limit)
        if len(self._calls) < self._granted:
            self._calls[number] = deliver, target
            self._send(frame)
        elif len(self._held) < HELD:
            self._held[number] = deliver, target, frame
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

    def calls(self) -> list[tuple[int, str, Deliver]]:
        """Calls of ours that have no answer yet, those held back included: number, target, what delivers."""
        held = [(number, target, deliver) for number, (deliver, target, _) in self._held.items()]
        return [(number, target, deliver) for number, (deliver, target) in self._calls.items()] + held

    def serves(self) -> list[tuple[int, str]]:
        """Calls of the peer that have no answer yet: number and target."""
        return list(self._serving.items())

    # -- running ---------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[Link] = trio.TASK_STATUS_IGNORED) -> None:
        """Move frames until the stream ends, the peer breaks a rule (see `violation`), or it is cancelled."""
        self._due = trio.current_time() + self._hello_s
        self._send(pack_frame((VERSION, _HELLO, 0, None, "", {"window": self._window})))
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._keep_deadlines)
                    task_status.started(self)
                    await self._read()
                    self._scope.cancel()
        finally:
            self._close()
            # Without waiting: a peer that is gone, or that breaks rules, is owed no farewell.
            await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        decoder = FrameDecoder(self._limit)
        try:
            while True:
                data = await self._end.read()
                if not data:
                    decoder.end()
                    return
                self._bytes_received += len(data)
                messages = decoder.feed(data)
                self._take_all(messages)
                if decoder.violation is not None:
                    raise decoder.violation
                if decoder.pending or self._due != NEVER:
                    self._begun(decoder.pending, len(messages))
        except RemoteProtocolError as violation:
            self.violation = violation
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the same as an end: everyone who waits is told

    def _take_all(self, messages: list[Message]) -> None:
        """Handle what was read, and write what came of it in one go."""
        self._received += len(messages)
        self._single = len(messages) == 1
        self._reading = True
        try:
            for message in messages:
                self._take(message)
        finally:
            self._reading = False
        if self._out:
            self._write_now()

    def _begun(self, pending: int, complete: int) -> None:
        """Say by when the frame has to be whole that has begun, if one has."""
        if not self._granted:
            return  # the hello has its time already
        if not pending:
            self._due = NEVER
        elif complete or self._due == NEVER:
            self._due = trio.current_time() + FRAME_S
            if self._due < self._timer_at:
                self._wake_timer.set()

    def _write_now(self) -> None:
        """Write what has gathered, as far as the stream takes it; the rest is the writer's."""
        if self._writing:
            return  # what comes meanwhile goes after that
        data = self._gathered()
        taken = self._end.write_now(data)
        self._bytes_sent += taken
        self._unsent -= taken
        if taken < len(data):
            self._out.append(data[taken:])
            self._sent -= 1  # of which a part counts once
            self._wake_writer.set()

    def _gathered(self) -> bytes:
        """Take what is to be written."""
        self._sent += len(self._out)
        data = b"".join(self._out)
        self._out.clear()
        return data

    async def _write(self) -> None:
        try:
            while True:
                while not self._out:
                    await self._wake_writer.wait()
                    self._wake_writer = trio.Event()
                data = self._gathered()
                self._writing = True
                await self._end.write(data)
                self._writing = False
                self._bytes_sent += len(data)
                self._unsent -= len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._scope.cancel()

    async def _keep_deadlines(self) -> None:
        while True:
            now = trio.current_time()
            late = now - self._timer_at
            if late > LATE_S:  # this process stood still: the peer's time does not run meanwhile
                self._due += late
                await trio.lowlevel.checkpoint()  # what has come is read before anything is called too late
            if self._due <= now:
                wanted = "rest of a frame" if self._granted else "hello"
                self.violation = RemoteProtocolError("order", f"no {wanted} in its time")
                self._scope.cancel()
                return
            while self._deadlines and self._deadlines[0][0] <= now:
                self._expire(heapq.heappop(self._deadlines)[1])
            first = self._deadlines[0][0] if self._deadlines else NEVER
            self._timer_at = min(first, self._due)
            with trio.CancelScope(deadline=self._timer_at):
                await self._wake_timer.wait()
            self._wake_timer = trio.Event()

    def _close(self) -> None:
        self._closed = True
        waiting = [*(call[0] for call in self._calls.values()), *(call[0] for call in self._held.values())]
        self._calls, self._held, self._deadlines = {}, {}, []
        self._serving.clear()
        self._out.clear()
        for deliver in waiting:
            deliver(None, LevelGone("the link is closed"))

    # -- frames ----------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        self._unsent += len(frame)
        self._out.append(frame)
        if self._reading:
            return
        if self._single and len(self._calls) + len(self._serving) <= 1:
            self._write_now()
        elif len(self._out) == 1:
            self._wake_writer.set()

    def _take(self, message: Message) -> None:
        kind, number, trace, target, body = opened(message)
        if self._decode is not None and kind in (_ASK, _REPLY):
            body = self._decode(body)
        if (kind == _HELLO) == (self._granted > 0):
            raise RemoteProtocolError("order", "one hello, and before anything else")
        if kind == _REPLY:
            self._settle(number, body, None)
        elif kind == _ASK:
            self._take_ask(number, trace, target, body)
        elif kind == _FAILED:
            self._settle(number, None, _failure(body))
        else:
            self._take_hello(body)

    def _take_hello(self, body: object) -> None:
        window = body.get("window") if isinstance(body, dict) else None
        if type(window) is not int or not 1 <= window <= WINDOW_LIMIT:
            raise RemoteProtocolError("shape", f"a hello grants a window of 1 to {WINDOW_LIMIT}")
        self._granted = window
        self._issue_held()

    def _take_ask(self, number: int, trace: Trace | None, target: str, body: object) -> None:
        if number in self._serving:
            raise RemoteProtocolError("order", f"call {number} is outstanding")
        if len(self._serving) >= self._window:
            raise RemoteProtocolError("credit", f"more than {self._window} calls outstanding")
        if self._unsent > UNSENT_BYTES:
            raise RemoteProtocolError("credit", f"{self._unsent} bytes of answers are not read")
        self._serving[number] = target
        deliver: Deliver = partial(self._answer, number)
        if trace is None or not trace.sampled or self.tracer is None:
            self._serve(target, body, deliver)
            return
        with self.tracer.serving(trace, deliver) as followed:
            self._serve(target, body, followed)

    def _answer(self, number: int, value: object, error: BaseException | None) -> None:
        if self._closed:
            return
        self._serving.pop(number, None)
        try:
            if error is None:
                answer = value if self._encode is None else self._encode(value)
                said = (VERSION, _REPLY, number, None, "", answer)
            else:
                said = (VERSION, _FAILED, number, None, "", _words(error))
            frame = pack_frame(said, self._limit)
        except LocalProtocolError as unsaid:
            # It was handled; only its answer has no form on the wire.
            words = _words(OutcomeUnknown(f"handled, but the answer cannot be sent: {unsaid}"))
            frame = pack_frame((VERSION, _FAILED, number, None, "", words))
        self._send(frame)

    # -- calls of ours ---------------------------------------------------------------------

    def _issue_held(self) -> None:
        while self._held and len(self._calls) < self._granted:
            number = next(iter(self._held))
            deliver, target, frame = self._held.pop(number)
            self._calls[number] = deliver, target
            self._send(frame)

    def _settle(self, number: int, value: object, error: BaseException | None) -> None:
        call = self._calls.pop(number, None)
        if call is None:
            raise RemoteProtocolError("order", f"an answer to {number}, which was not asked")
        if self._held:
            self._issue_held()
        call[0](value, error)

    def _expect(self, deadline: float, number: int) -> None:
        if len(self._deadlines) > 2 * (len(self._calls) + len(self._held)) + 64:
            # Calls that were answered in time leave their deadlines behind; most of the heap is such.
            live = [entry for entry in self._deadlines if entry[1] in self._calls or entry[1] in self._held]
            heapq.heapify(live)
            self._deadlines = live
        heapq.heappush(self._deadlines, (deadline, number))
        if deadline < self._timer_at:
            self._wake_timer.set()

    def _expire(self, number: int) -> None:
        if number in self._held:
            self._expired += 1
            deliver = self._held.pop(number)[0]
            deliver(None, NotDelivered("it waited for the window until its deadline"))
        elif number in self._calls:
            self._expired += 1
            deliver, target = self._calls[number]
            self._calls[number] = _nobody, target  # its place in the window stays taken
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
