"""The hosting broker: a thin shell around `protocol.hosting.Service`.

It hands messages to the service, has the service's effects performed by L0's machine through a port,
wakes waits, and passes on what watchers are to be sent. Whatever is decided is decided in the service.
Nothing leaves (effect, reply, event) before the journal says that what was decided is durable.

A requester reaches it by `Request` messages to the actor, or over a stream with `serve`, in frames of
docs/wire.md. Who asks is said by whoever accepted the link, never by the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import trio

from actors.runtime.actor import Actor, Runtime
from actors.runtime.port import Deliver, Port, ignore
from protocol.effects import Effect, Step
from protocol.errors import OperationalError, RemoteProtocolError
from protocol.hosting import Identity, Service
from protocol.hosting.journal import Row
from protocol.hosting.limits import FRAME_BYTES
from protocol.hosting.machine import Await
from protocol.hosting.messages import rid_of
from protocol.wire import FrameDecoder, pack_frame

TICK_SECONDS = 0.25  # also how late the end of a wait may be noticed
UNSENT = 1024  # frames that wait for one connection; who reads slower than that loses it
RECEIVE_BYTES = 65_536

Frame = dict[str, Any]
Sink = Callable[[Frame], None]


@dataclass(frozen=True, slots=True)
class Request:
    """One frame of a requester; the answer is the reply frame."""

    who: Identity
    frame: object
    via: str = ""  # where channels open for whoever came this way; empty: as the service offers


@dataclass(frozen=True, slots=True)
class RequesterGone:
    """A notice: that boot of a guest host is over."""

    who: Identity


@dataclass(frozen=True, slots=True)
class Tick:
    """A notice: time has passed."""


@dataclass(frozen=True, slots=True)
class GuestEnded:
    """A notice of L0's machine: the guest of `child` ended by itself. No `status`: it is gone altogether."""

    child: bytes
    status: int | None


@dataclass(frozen=True, slots=True)
class Recover:
    """Begin a later life with these rows of the journal. The answer is a `Recovery`."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Redeem:
    """The first word on a channel's stream. The answer is a `Channel`, or None: turn it away."""

    who: Identity
    token: bytes


@dataclass(frozen=True, slots=True)
class ChannelOver:
    """A notice: the stream of a channel has ended."""

    who: Identity
    channel: bytes


@dataclass(frozen=True, slots=True)
class Look:
    """Ask the machine what there is, in case a notice was lost."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Hold the records against the machine. The answer is a list of what only one of the two knows."""


@dataclass(frozen=True, slots=True)
class Durable(Effect):
    """Wait until the journal has kept what was decided."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A step of the service that is due by itself."""

    step: Step[None]


class Broker:
    """The actor `broker`. `machine` takes the service's machine effects as messages; `clock` says ms."""

    def __init__(self, service: Service, machine: Port, clock: Callable[[], int], runtime: Runtime) -> None:
        self.service = service
        self.runtime = runtime
        self.actor = Actor("broker", self._handle, runtime, perform=self._perform)
        self._machine = machine
        self._journal = service.journal
        self._clock = clock
        self._waits: list[tuple[int, Deliver]] = []
        self._version = service.version
        self._sinks: dict[Identity, dict[object, Sink]] = {}
        self.on_cut: Callable[[bytes], None] = lambda channel: None  # a channel is over: end its stream

    async def run(self) -> None:
        """Tell the service that time passes, until cancelled."""
        while True:
            await trio.sleep(TICK_SECONDS)
            await self.actor.ask(Tick())

    def attach(self, who: Identity, connection: object, sink: Sink) -> None:
        """Have what `who` watches passed to `sink`, at once and perhaps before the watch is answered."""
        self._sinks.setdefault(who, {})[connection] = sink

    def detach(self, who: Identity, connection: object) -> None:
        sinks = self._sinks.get(who, {})
        sinks.pop(connection, None)
        if not sinks:
            self._sinks.pop(who, None)

    def _handle(self, message: object) -> object:
        match message:
            case Request(who, frame, via):
                return self._finish(self.service.handle(who, frame, self._clock(), via))
            case RequesterGone(who):
                return self._finish(self.service.requester_gone(who.cid, who.epoch, self._clock()))
            case GuestEnded(child, None):
                self.service.guest_lost(child, self._clock())
                self._pass_on()
                return None
            case GuestEnded(child, int(status)):
                self.service.guest_ended(child, status, self._clock())
                self._pass_on()
                return None
            case Recover(rows):
                return self._finish(self.service.recover(rows, self._clock()))
            case Redeem(who, token):
                self.service.at(self._clock())
                return self.service.redeem(who, token)
            case ChannelOver(who, channel):
                self.service.channel_over(who, channel)
                return None
            case Look():
                return self._finish(self.service.look(self._clock()))
            case Audit():
                return self._finish(self.service.audit())
            case Drive(step):
                return self._finish(step)
            case Tick():
                for step in self.service.tick(self._clock()):
                    self.actor.submit(Drive(step), ignore)
                self._pass_on()
                return None
        raise TypeError(f"not a message to the broker: {type(message).__name__}")

    def _finish(self, step: Step[Any]) -> Step[Any]:
        result = yield from step
        self._pass_on()
        if self._journal.pending:
            yield Durable()
        return result

    def _perform(self, effect: Effect, deliver: Deliver) -> None:
        if isinstance(effect, Durable):
            self._journal.after(lambda: deliver(None, None))
            return
        if isinstance(effect, Await):
            self._waits.append((effect.until_ms, deliver))
            self._pass_on()
            return

        def answered(value: object, error: BaseException | None) -> None:
            self.service.at(self._clock())
            deliver(value, error)

        self._journal.after(lambda: self._machine.submit(effect, answered))
        self._pass_on()

    def _pass_on(self) -> None:
        """Send watchers their events, and wake the waits for which there may be something new."""
        frames = self.service.events()
        if frames:
            self._journal.after(lambda: self._tell(frames))
        for channel in self.service.cuts():
            self.on_cut(channel)
        now_ms, moved = self._clock(), self.service.version != self._version
        self._version = self.service.version
        due = [wait for wait in self._waits if moved or wait[0] <= now_ms]
        if due:
            self._waits = [wait for wait in self._waits if wait not in due]
            for _, deliver in due:
                deliver(now_ms, None)

    def _tell(self, frames: list[tuple[Identity, Frame]]) -> None:
        for who, frame in frames:
            for sink in list(self._sinks.get(who, {}).values()):
                sink(frame)


async def serve(broker: Broker, who: Identity, stream: trio.abc.Stream, via: str = "") -> None:
    """Speak docs/wire.md with `who` until the stream ends or breaks the rules; `via` as in `Request`.

    The end of a connection ends its watches; it does not end the requester.
    """
    async with stream, trio.open_nursery() as nursery:
        connection = _Connection(broker, who, stream, nursery, via)
        broker.attach(who, connection, connection.event)
        nursery.start_soon(connection.write)
        try:
            await connection.read()
        finally:
            connection.close()


class _Connection:
    """One stream of one requester: a task for each request under way, one that writes."""

    def __init__(
        self, broker: Broker, who: Identity, stream: trio.abc.Stream, nursery: trio.Nursery, via: str
    ) -> None:
        self._broker = broker
        self._via = via
        self._who = who
        self._stream = stream
        self._nursery = nursery
        self._outgoing, self._unsent = trio.open_memory_channel[Frame](UNSENT)
        # By rid of the watch: what came before its `established` was sent; None from then on.
        self._watches: dict[bytes, list[Frame] | None] = {}

    async def read(self) -> None:
        """Have each request answered. Ends with the stream, and at the first byte that breaks the rules."""
        decoder = FrameDecoder(FRAME_BYTES)
        try:
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                for frame in decoder.feed(data):
                    self._nursery.start_soon(self._answer, frame)
        except (RemoteProtocolError, trio.BrokenResourceError):
            return  # nothing tells where the next frame would begin

    async def write(self) -> None:
        """Send what has gathered. A peer that is gone ends the connection."""
        try:
            async for frame in self._unsent:
                await self._stream.send_all(pack_frame(frame, FRAME_BYTES))
        except trio.BrokenResourceError:
            self._nursery.cancel_scope.cancel()

    def event(self, frame: Frame) -> None:
        """Take what a watch of this requester is to be sent; another connection's is not for this one."""
        if frame["rid"] not in self._watches:
            return
        early = self._watches[frame["rid"]]
        if early is None:
            self._send(frame)
        else:
            early.append(frame)

    def close(self) -> None:
        self._broker.detach(self._who, self)
        for rid in self._watches:
            self._broker.service.unwatch(self._who, rid)
        self._nursery.cancel_scope.cancel()

    async def _answer(self, frame: object) -> None:
        rid = rid_of(frame)
        watch = isinstance(frame, dict) and frame.get("t") == "watch" and rid not in self._watches
        if watch:
            self._watches[rid] = []
        try:
            reply: Frame = await self._broker.actor.ask(Request(self._who, frame, self._via))
        except OperationalError:
            self._nursery.cancel_scope.cancel()
            return
        self._send(reply)
        if watch:
            early, self._watches[rid] = self._watches[rid], None
            for event in early or ():
                self._send(event)
            if reply["t"] == "err":
                del self._watches[rid]

    def _send(self, frame: Frame) -> None:
        try:
            self._outgoing.send_nowait(frame)
        except trio.WouldBlock:
            self._nursery.cancel_scope.cancel()  # who does not read loses the connection
