"""What comes over a wire: frames, records of every architecture, structures, hosting messages."""

from __future__ import annotations

import inspect
import struct
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from random import Random
from typing import Any

import msgpack
from draw import anything, changed, number

from protocol.arch import architectures, load
from protocol.codec import Codec
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.hosting import Identity, Service
from protocol.hosting.limits import FRAME_BYTES
from protocol.hosting.machine import Await, Inventory
from protocol.hosting.messages import MESSAGES
from protocol.hosting.replies import HostingProtocolError, check_reply
from protocol.wire import FrameDecoder, open_envelope, pack_frame, unpack_body

LIMIT = 4096
SIZES = (16, 512, 4096)
PACKS_A_PART = {"Query"}  # what comes behind the header of its block


def frames(random: Random) -> Iterator[str]:
    """Streams of frames with mistakes, in pieces of any size."""
    for _ in range(50):
        stream = b"".join(_frame(random) for _ in range(random.randrange(1, 5)))
        if random.random() < 0.8:
            stream = changed(random, stream)
        decoder = FrameDecoder(LIMIT)
        at = 0
        try:
            while at < len(stream):
                size = random.choice((1, 3, 16, 4096))
                for message in decoder.feed(stream[at : at + size]):
                    try:
                        open_envelope(message)
                    except RemoteProtocolError:
                        continue
                at += size
        except RemoteProtocolError:
            yield "refused"
        else:
            yield "taken"


def _frame(random: Random) -> bytes:
    try:
        return pack_frame(anything(random), LIMIT)
    except (LocalProtocolError, TypeError, ValueError, OverflowError):
        body = random.randbytes(random.randrange(64))
        return len(body).to_bytes(4, "big") + body


def records(random: Random) -> Iterator[str]:
    """Arrays that are nearly records of an architecture."""
    codec = Codec(load(random.choice(architectures())).comparison.wire)
    names = [*codec._classes, "Nobody", 0, 7]
    for _ in range(50):
        value: Any = [random.choice(names), *(anything(random) for _ in range(random.randrange(9)))]
        if random.random() < 0.3:
            value = ["Issue", "uvc", [0, value]]
        try:
            codec.decode(value)
        except RemoteProtocolError:
            yield "refused"
        else:
            yield "taken"


def structs(random: Random) -> Iterator[str]:
    """Whatever an architecture unpacks from bytes: it packs to bytes that it unpacks to."""
    for arch in architectures():
        if find_spec(f"protocol.arch.{arch}.structs") is None:
            continue
        module = import_module(f"protocol.arch.{arch}.structs")
        for name, kind in vars(module).items():
            if not inspect.isclass(kind) or kind.__module__ != module.__name__ or not hasattr(kind, "unpack"):
                continue
            _unpacked(kind, random)
            yield name


def _unpacked(kind: Any, random: Random) -> None:
    wants = next(iter(inspect.signature(kind.unpack).parameters.values()))
    if wants.annotation in ("int", int):
        kind.unpack(number(random))
        return
    more = [random.randrange(4)] if len(inspect.signature(kind.unpack).parameters) > 1 else []
    for size in SIZES:
        data = random.randbytes(size) if random.random() < 0.7 else bytes(size)
        try:
            value = kind.unpack(data, *more)
        except struct.error:  # it wants another size, to the byte
            continue
        if hasattr(value, "pack") and not more and kind.__name__ not in PACKS_A_PART:
            packed = bytes(value.pack())
            assert bytes(kind.unpack(packed.ljust(size, b"\0")[:size]).pack()) == packed
        return
    raise AssertionError(f"no size suits {kind}")


def hosting(random: Random) -> Iterator[str]:
    """Messages to the hosting service, right and wrong; the machine answers at random. One reply each."""
    service = Service(seed=random.getrandbits(20))
    now, requesters = 1000, [Identity(3, 1), Identity(4, 1), Identity(3, 2)]
    children: list[bytes] = [bytes(16)]
    for rid in range(60):
        now += random.randrange(5000)
        who = random.choice(requesters)
        frame = _message(random, rid, who.epoch, children)
        reply = driven(service.handle(who, frame, now), now)
        assert set(reply) == {"v", "t", "rid", "b"}
        assert len(msgpack.packb(reply)) <= FRAME_BYTES
        body = reply["b"]
        if isinstance(body.get("child"), bytes):
            children.append(body["child"])
        for step in service.tick(now):
            driven(step, now)
        yield str(body.get("name", "granted")) if reply["t"] == "err" else "granted"


def replies(random: Random) -> Iterator[str]:
    """What a host answers, changed in one place, as its client reads it: an answer, or what is wrong."""
    service, children = Service(seed=random.getrandbits(20)), [bytes(16)]
    for rid in range(1, 40):
        frame = _message(random, rid, 1, children)
        reply = driven(service.handle(Identity(3, 1), frame, 1000), 1000)
        if isinstance(reply["b"].get("child"), bytes):
            children.append(reply["b"]["child"])
        said = unpack_body(msgpack.packb(reply))
        within, name = random.choice(list(_places(said)))
        within[name] = anything(random)
        asked = frame.get("t") if isinstance(frame, dict) else None
        asked = asked if isinstance(asked, str) and asked in MESSAGES else "explain"
        try:
            kind, _ = check_reply(asked, reply["rid"], said)
        except HostingProtocolError as wrong:
            assert wrong.field
            assert wrong.allowed
            yield wrong.field[:40]
        else:
            yield kind


def _places(inside: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside of a value: what it is in, and under which name or number."""
    for name, value in list(inside.items() if isinstance(inside, dict) else enumerate(inside)):
        yield inside, name
        if isinstance(value, dict | list):
            yield from _places(value)


def _message(random: Random, rid: int, epoch: int, children: list[bytes]) -> Any:
    if random.random() < 0.1:
        return anything(random)
    kind = random.choice(["hello", "nonsense", *MESSAGES])
    body: Any = {"versions": [1]} if kind == "hello" else {}
    for name in getattr(MESSAGES.get(kind), "__dataclass_fields__", {}):
        likely = {
            "child": random.choice(children), "digest": bytes(32), "size": 4, "offset": 0, "data": b"abcd",
            "mode": "run", "until": "READY", "how": "kill",
            "spec": {"image": bytes(32), "vcpus": 1, "memory_mib": 1},
        }  # fmt: skip
        if name in likely and random.random() < 0.85:
            body[name] = likely[name]
        elif random.random() < 0.2:
            body[name] = anything(random)
    frame = {
        "v": 1,
        "t": kind,
        "rid": rid.to_bytes(16, "big"),
        "epoch": epoch,
        "dl": None,
        "key": None,
        "b": body,
    }
    if random.random() < 0.15:
        frame[random.choice(list(frame))] = anything(random)
    return frame


def driven(step: Any, now: int, flush: Callable[[], None] = lambda: None) -> Any:
    """Drive a step over a machine that does everything; `flush` makes durable what has gathered."""
    answer: Any = None
    while True:
        try:
            effect = step.send(answer)
        except StopIteration as stop:
            return stop.value
        flush()
        if isinstance(effect, Await):
            answer = max(now, effect.until_ms)
        elif isinstance(effect, Inventory):
            answer = {}
        else:
            answer = None
