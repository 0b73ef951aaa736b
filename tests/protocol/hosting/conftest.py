"""A hosting service over a machine that does what a test tells it, and two requesters that talk to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from protocol.hosting import CountingBook, Identity, Limits, MemoryJournal, Service
from protocol.hosting.evidence import Measured
from protocol.hosting.limits import CHUNK_BYTES, FRAME_BYTES
from protocol.hosting.machine import (
    AttestGuest,
    Await,
    CreateGuest,
    DestroyGuest,
    DumpGuest,
    Found,
    Inventory,
    MachineEffect,
    StartGuest,
    StopGuest,
    TeError,
    Vanished,
)
from protocol.hosting.replies import check_body

IMAGE = b"a kernel, an initial ramdisk and a header " * 3
DIGEST = hashlib.sha256(IMAGE).digest()
TRUST_ENTITY_SAYS_NO = TeError("create_config", 0x0A, 0x104)


class Machine:
    """L0's machine. `fail[effect type]` is a list of answers to give before it works again."""

    def __init__(self) -> None:
        self.guests: dict[bytes, str] = {}
        self.cids: dict[bytes, int] = {}
        self.fail: dict[type, list[Any]] = {}
        self.asked: list[MachineEffect] = []

    def perform(self, effect: MachineEffect) -> Any:
        self.asked.append(effect)
        if isinstance(effect, Inventory):
            return {name: Found(state == "running") for name, state in self.guests.items()}
        script = self.fail.get(type(effect))
        if script:
            return script.pop(0)
        child = effect.child
        if isinstance(effect, CreateGuest):
            assert child not in self.guests, "the same guest twice"
            assert effect.cid not in self.cids.values(), "two guests with one CID"
            self.guests[child] = "created"
            self.cids[child] = effect.cid
            return None
        if child not in self.guests:
            return Vanished()
        if isinstance(effect, DestroyGuest):
            del self.guests[child], self.cids[child]
        elif isinstance(effect, StartGuest):
            self.guests[child] = "running"
        elif isinstance(effect, StopGuest):
            self.guests[child] = "stopped"
        elif isinstance(effect, AttestGuest):
            return Measured(hashlib.sha384(IMAGE).digest(), b"what the TE signed over " + effect.nonce)
        elif isinstance(effect, DumpGuest):
            return len(IMAGE), IMAGE[effect.offset : effect.offset + effect.count]
        return None

    def names(self) -> list[str]:
        return [type(effect).__name__ for effect in self.asked]


class World:
    """The service, its machine, its counts, and the time."""

    def __init__(self, limits: Limits, **more: Any) -> None:
        self.machine = Machine()
        self.journal = MemoryJournal()
        self.book = CountingBook()
        self.service = Service(limits, self.journal, seed=7, book=self.book, **more)
        self.now_ms = 1_000

    def drive(self, step: Generator[Any, Any, Any]) -> Any:
        """Run `step` to its end; time jumps to the end of a wait, because nothing else happens here."""
        answer: Any = None
        try:
            while True:
                effect = step.send(answer)
                if isinstance(effect, Await):
                    self.now_ms = max(self.now_ms, effect.until_ms)
                    answer = self.now_ms
                else:
                    answer = self.machine.perform(effect)
        except StopIteration as stop:
            self.check()
            return stop.value

    def pass_time(self, ms: int) -> None:
        self.now_ms += ms
        for step in self.service.tick(self.now_ms):
            self.drive(step)
        self.check()

    def gone(self, who: Identity) -> None:
        self.drive(self.service.requester_gone(who.cid, who.epoch, self.now_ms))

    def check(self) -> None:
        """What was counted is what is there."""
        held = {kind: n for kind, n in self.service.records().items() if n}
        assert held == {kind: n for kind, n in self.book.live.items() if n}
        assert held.get("journal", 0) == len(self.journal.intents())


class Client:
    """One boot of a guest host."""

    def __init__(self, world: World, cid: int, epoch: int = 1) -> None:
        self.world = world
        self.who = Identity(cid, epoch)
        self.rids = 0

    def frame(self, kind: str, key: bytes | None = None, **body: Any) -> dict[str, Any]:
        self.rids += 1
        return {
            "v": 1,
            "t": kind,
            "rid": self.rids.to_bytes(16, "big"),
            "epoch": self.who.epoch,
            "dl": None,
            "key": key,
            "b": body,
        }

    def begin(self, kind: str, key: bytes | None = None, **body: Any) -> Generator[Any, Any, Any]:
        return self.world.service.handle(self.who, self.frame(kind, key, **body), self.world.now_ms)

    def send(self, frame: Any) -> dict[str, Any]:
        """Send any frame at all, and hold what every answer has."""
        reply = self.world.drive(self.world.service.handle(self.who, frame, self.world.now_ms))
        packed = msgpack.packb(reply)
        assert len(packed) <= FRAME_BYTES
        assert set(reply) == {"v", "t", "rid", "b"}
        kind = frame.get("t") if isinstance(frame, dict) else None
        check_body(str(kind), reply["t"], msgpack.unpackb(packed)["b"], more=False)
        return reply

    def ask(self, kind: str, key: bytes | None = None, **body: Any) -> dict[str, Any]:
        """Send a request that is granted; return the body of the answer."""
        reply = self.send(self.frame(kind, key, **body))
        assert reply["t"] != "err", reply["b"]
        return reply["b"]

    def refused(self, kind: str, key: bytes | None = None, **body: Any) -> dict[str, Any]:
        """Send a request that is refused; return the error."""
        reply = self.send(self.frame(kind, key, **body))
        assert reply["t"] == "err", reply["b"]
        return reply["b"]

    def put(self, image: bytes = IMAGE) -> bytes:
        digest = hashlib.sha256(image).digest()
        for offset in range(0, len(image), CHUNK_BYTES):
            piece = image[offset : offset + CHUNK_BYTES]
            self.ask("image.put", digest=digest, size=len(image), offset=offset, data=piece)
        return digest

    def start(self, key: bytes | None = None, mode: str = "run", **spec: Any) -> dict[str, Any]:
        return self.ask("start", key, spec=a_spec(**spec), mode=mode)

    def events(self) -> list[dict[str, Any]]:
        bodies = [frame["b"] for who, frame in self.world.service.events() if who == self.who]
        for body in bodies:
            check_body("watch", "ev", body, more=False)
        return bodies


def a_spec(**changes: Any) -> dict[str, Any]:
    return {"image": DIGEST, "vcpus": 2, "memory_mib": 64} | changes


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def world(limits: Limits) -> World:
    return World(limits)


@pytest.fixture
def small_world() -> Callable[..., World]:
    """Worlds with bounds of one's own: `small_world(children=1)` bounds a requester, `host=` the host."""

    def make(
        host: dict[str, int] | None = None,
        limits: dict[str, Any] | None = None,
        service: dict[str, Any] | None = None,
        **each: int,
    ) -> World:
        bounds = Limits()
        return World(
            replace(
                bounds,
                each=replace(bounds.each, **each),
                host=replace(bounds.host, **(host or {})),
                **(limits or {}),
            ),
            **(service or {}),
        )

    return make


@pytest.fixture
def join() -> Callable[..., Client]:
    """Have a requester say hello and send its image."""

    def made(world: World, cid: int, epoch: int = 1, image: bool = True) -> Client:
        client = Client(world, cid, epoch)
        client.ask("hello", versions=[1])
        if image:
            client.put()
        return client

    return made


@pytest.fixture
def alice(world: World, join: Callable[..., Client]) -> Client:
    return join(world, 3)


@pytest.fixture
def bob(world: World, join: Callable[..., Client]) -> Client:
    return join(world, 4)


@pytest.fixture
def stranger(world: World) -> Client:
    """Somebody who has not said hello."""
    return Client(world, 9)


@pytest.fixture
def spec() -> Callable[..., dict[str, Any]]:
    return a_spec


@pytest.fixture
def image() -> bytes:
    return IMAGE


@pytest.fixture
def new_world() -> Callable[[], World]:
    return lambda: World(Limits())


@pytest.fixture
def no() -> TeError:
    return TRUST_ENTITY_SAYS_NO
