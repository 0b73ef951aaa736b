"""A connection to NATS, for a Trio program: questions and answers on subjects, values in key-value buckets.

nats-py speaks asyncio; it runs under trio-asyncio, which costs several times what a native client would, so
nothing hot comes this way. What is certain of a question that failed is in its exception: NotDelivered
(nobody subscribes, or the server does not let us), OutcomeUnknown (no answer in time).

The connection comes back by itself, to any of the servers. A question that is asked meanwhile waits in it.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from actors.runtime.supervisor import unwrap
from actors.runtime.transport.pki import Credentials
from protocol.errors import NestbedError, NotDelivered, OutcomeUnknown
from protocol.fleet.directory import Asking, Get, Put, T, Value
from protocol.fleet.lease import SILENT
from protocol.fleet.subjects import Cell

ANSWER_S = 2.0  # of the server
CONNECT_S = 10.0
ELECTION_S = 20.0  # measured: 4 to 9 s from the death of a leader to the next acknowledged write
AGAIN_S = 0.2
QUEUED = 256  # questions that came and were not looked at yet: beyond it they are dropped, and counted
REPLICAS = 3


class NoDirectory(Exception):
    """The extra is not installed, or no server can be reached. The message says which."""


class NobodyListens(NotDelivered):
    """No subscriber is there at the moment, as far as the server that was asked knows."""


@dataclass(frozen=True, slots=True)
class Door:
    """How to get in: the servers, and who we are to them (no certificate: to a server on the loopback)."""

    servers: tuple[str, ...]
    who: str = "machine"
    cell: str = "lab"
    credentials: Credentials | None = None
    inbox: str = ""  # our own part of the inbox of `who`, where several share one


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What somebody published; `reply` is where the answer goes."""

    subject: str
    reply: str
    data: bytes


class Bucket:
    """One key-value bucket. Its store says no by exceptions of many kinds; here they are answers."""

    def __init__(self, bus: Bus, store: Any, name: str, remake: Callable[[], Any] | None = None) -> None:
        """`remake` makes the bucket if it is not there: for those that may."""
        self._bus, self._store, self._name, self._remake = bus, store, name, remake
        self.failures = 0  # of the directory: what it did not answer, or refused

    async def get(self, key: str) -> Value:
        try:
            with trio.fail_after(ANSWER_S):
                entry = await self._bus.ask(self._store.get, key)
        except Exception as error:
            missing = type(error).__name__ in ("KeyNotFoundError", "KeyDeletedError", "NotFoundError")
            self.failures += not missing
            return Value(0 if missing else SILENT)
        return Value(entry.revision, bytes(entry.value or b""))

    async def put(self, key: str, data: bytes, over: int) -> int:
        """Write over revision `over`, 0 for none. Returns the new revision; 0: not accepted, or no answer."""
        call = partial(self._store.create, key, data) if over == 0 else partial(
            self._store.update, key, data, over
        )  # fmt: skip
        try:
            with trio.fail_after(ANSWER_S):
                revision: int = await self._bus.ask(call)
        except Exception as error:
            self.failures += 1
            if self._remake is not None and type(error).__name__ == "NoStreamResponseError":
                await self._made_again(self._remake)
            return 0
        return revision

    async def _made_again(self, remake: Callable[[], Any]) -> None:
        """The bucket is gone, or has no leader: it is soft state and made anew; an election goes on."""
        with trio.move_on_after(ANSWER_S):
            try:
                self._store = await self._bus.ask(remake)
            except Exception:
                self.failures += 1

    async def keys(self) -> list[str]:
        """All keys that have a value. Raises NotDelivered where nobody answers."""
        prefix = f"$KV.{self._name}."
        try:
            with trio.fail_after(ANSWER_S):
                info = await self._bus.ask(self._bus.jetstream.stream_info, f"KV_{self._name}", f"{prefix}>")
        except Exception as error:
            self.failures += 1
            raise NotDelivered(f"the directory does not answer: {type(error).__name__}") from error
        return sorted(subject.removeprefix(prefix) for subject in info.state.subjects or ())


async def asked(steps: Asking[T], buckets: Mapping[str, Bucket]) -> T:
    """Drive what asks the directory; `buckets` by the names of `protocol.fleet.directory`."""
    found: Value | int | None = None
    while True:
        try:
            effect = steps.send(found)
        except StopIteration as end:
            result: T = end.value
            return result
        found = await answered(effect, buckets)


async def answered(effect: Get | Put, buckets: Mapping[str, Bucket]) -> Value | int:
    """What the directory says to one question."""
    bucket = buckets[effect.bucket]
    if isinstance(effect, Get):
        return await bucket.get(effect.key)
    return await bucket.put(effect.key, effect.data, effect.over)


class Bus:
    """The connection. Made by `open_bus`."""

    def __init__(self, client: Any, call: Callable[..., Any], door: Door, heard: _Heard) -> None:
        self._client, self.ask, self.door = client, call, door
        self._heard = heard
        self.cell = Cell(door.cell)
        self.jetstream = client.jetstream(timeout=ANSWER_S)
        self.dropped = 0

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        """Ask, and return the answer. Raises NobodyListens, NotDelivered, OutcomeUnknown."""
        refused = self._heard.of(subject)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._refused, subject, refused)
                with trio.fail_after(timeout_s + ANSWER_S):
                    message = await self.ask(self._client.request, subject, data, timeout_s)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _meaning(unwrap(group), subject) from None
        finally:
            self._heard.forget(subject)
        answer: bytes = message.data
        return answer

    async def _refused(self, subject: str, refused: trio.Event) -> None:
        await refused.wait()
        raise NotDelivered(f"the server does not let {self.door.who} publish to {subject}")

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Say something; `reply` is where an answer is to go."""
        await self.ask(self._client.publish, subject, data, reply)

    async def subscribe(self, subject: str, queue: str = "") -> trio.MemoryReceiveChannel[Question]:
        """What is published there from now on; with a queue, each message goes to one of its members.

        Raises NotDelivered if the server does not let us.
        """
        send, receive = trio.open_memory_channel[Question](QUEUED)

        async def came(message: Any) -> None:
            try:
                send.send_nowait(Question(message.subject, message.reply, bytes(message.data)))
            except (trio.WouldBlock, trio.BrokenResourceError):
                self.dropped += 1

        refused = self._heard.of(subject)
        await self.ask(partial(self._client.subscribe, subject, queue=queue, cb=came))
        await self.ask(self._client.flush)  # a refusal comes before the answer to this
        self._heard.forget(subject)
        if refused.is_set():
            raise NotDelivered(f"the server does not let {self.door.who} subscribe to {subject}")
        return receive

    async def bucket(self, name: str, replicas: int = REPLICAS, keep_s: float | None = None) -> Bucket:
        """A bucket; it is made if it is not there, and forgets values after `keep_s`. Raises NoDirectory."""
        from nats.js.api import KeyValueConfig

        made = KeyValueConfig(bucket=name, history=1, replicas=replicas, direct=False, ttl=keep_s)
        way = partial(self.jetstream.create_key_value, made)
        return await self._opened(name, way, way)

    async def _opened(
        self, name: str, way: Callable[[], Any], remake: Callable[[], Any] | None = None
    ) -> Bucket:
        """The bucket; a cluster that elects a leader gets the time for it."""
        why: Exception | None = None
        with trio.move_on_after(ELECTION_S):
            while True:
                try:
                    return Bucket(self, await self.ask(way), name, remake)
                except Exception as error:
                    why = error
                await trio.sleep(AGAIN_S)
        raise NoDirectory(f"{', '.join(self.door.servers)}: bucket {name}: {type(why).__name__}: {why}")

    async def found(self, name: str) -> Bucket:
        """A bucket that somebody else made: for those that may read and not write. Raises NoDirectory."""
        return await self._opened(name, partial(self.jetstream.key_value, name))


class _Heard:
    """What the client says beside its answers: it goes on by itself, but some of it ends a question."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last: Exception | None = None
        self._waiting: dict[str, trio.Event] = {}
        self._refused = trio.Event()

    def of(self, subject: str) -> trio.Event:
        """Set once the server says that we may not do something on `subject`."""
        return self._waiting.setdefault(subject, trio.Event())

    def forget(self, subject: str) -> None:
        self._waiting.pop(subject, None)

    async def turned_away(self) -> None:
        """Wait until the server does not let us in, and raise what it said."""
        await self._refused.wait()
        assert self.last is not None
        raise self.last

    async def error(self, error: Exception) -> None:
        text = str(error).lower()
        self.counts[type(error).__name__] += 1
        self.last = error
        if "permissions violation" in text:
            for subject, event in self._waiting.items():
                if f'"{subject.lower()}"' in text:
                    event.set()
        elif "authorization" in text or isinstance(error, ssl.SSLError):
            self._refused.set()


def _meaning(error: BaseException | None, subject: str) -> BaseException:
    """What can be said of a question that failed so."""
    if error is None or isinstance(error, NestbedError) or not isinstance(error, Exception):
        return error or OutcomeUnknown(subject)
    if type(error).__name__ == "NoRespondersError":
        return NobodyListens(f"nobody is at {subject}")
    return OutcomeUnknown(f"{subject}: {type(error).__name__}")


@asynccontextmanager
async def open_bus(door: Door) -> AsyncIterator[Bus]:
    """A connection to one of the servers of `door`. Raises NoDirectory, and what ends the block as it is."""
    try:
        import trio_asyncio
        from nats.aio.client import Client
    except ImportError:
        raise NoDirectory("nats-py and trio-asyncio are not installed: pip install 'nestbed[nats]'") from None

    heard = _Heard()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of how nats-py ends a connection
    try:
        async with trio_asyncio.open_loop() as loop:

            async def call(what: Callable[..., Any], *arguments: object) -> Any:
                return await trio_asyncio.aio_as_trio(what, loop=loop)(*arguments)

            client = Client()
            try:
                await _connected(client, door, call, heard)
                yield Bus(client, call, door, heard)
            finally:  # else its own tasks would go on, whatever is cancelled
                with trio.move_on_after(ANSWER_S, shield=True):
                    await call(client.close)
    except BaseExceptionGroup as group:  # trio-asyncio's nurseries make one of whatever ends the block
        fault = unwrap(group)
        if fault is None or isinstance(fault, BaseExceptionGroup):
            raise
        raise fault from fault.__cause__


async def _connected(client: Any, door: Door, call: Any, heard: _Heard) -> None:
    inbox = Cell(door.cell).inbox(door.who) + (f".{door.inbox}" if door.inbox else "")
    options: dict[str, Any] = {
        "max_reconnect_attempts": -1, "reconnect_time_wait": AGAIN_S, "connect_timeout": ANSWER_S,
        "error_cb": heard.error, "inbox_prefix": inbox, "ping_interval": 2, "max_outstanding_pings": 2,
    }  # fmt: skip
    where = ", ".join(door.servers)
    try:
        if door.credentials is not None:
            options["tls"] = _context(door.credentials)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heard.turned_away)
            with trio.fail_after(CONNECT_S):
                await call(partial(client.connect, list(door.servers), **options))
            nursery.cancel_scope.cancel()
    except (Exception, ExceptionGroup) as error:
        fault = unwrap(error) if isinstance(error, BaseExceptionGroup) else error
        last = heard.last or fault
        raise NoDirectory(f"{where}: {type(last).__name__}: {last}".rstrip(": ")) from fault


def _context(credentials: Credentials) -> ssl.SSLContext:
    """TLS with our certificate to a server whose certificate names the host that was dialled."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_verify_locations(credentials.authority)
    made.load_cert_chain(credentials.certificate, credentials.key)
    return made
