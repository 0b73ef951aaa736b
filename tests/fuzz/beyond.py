"""What comes from other machines, and from guests: a fleet's directory on NATS, VSOCK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgpack
from draw import anything, changed, number

from protocol.errors import RemoteProtocolError
from protocol.fleet.entry import Entry, open_entry, pack_entry
from protocol.fleet.placing import (
    Answer,
    Placement,
    open_answer,
    open_placement,
    pack_answer,
    pack_placement,
)
from protocol.fleet.subjects import Cell
from protocol.vsock import hybrid, packet

WORDS = (
    "nb",
    "nb-inbox",
    "alpha",
    "beta",
    "l0-1",
    "any",
    "machine",
    "driver",
    "hosting",
    "*",
    ">",
    "",
    "x y",
)


def fleet(random: Random) -> Iterator[str]:
    """Values of the directory, answers of machines, subjects: an entry that packs again, or a refusal."""
    for _ in range(40):
        yield _opened(random, open_entry, pack_entry, pack_entry(Entry("l0-1", 3, "10.0.0.1:4000")))
        yield _opened(random, open_placement, pack_placement, pack_placement(Placement("l0-1", 3)))
        answer = Answer("l0-1", 3, {"t": "ok", "b": {}}, machines=(("l0-2", 7),))
        yield _opened(random, open_answer, pack_answer, pack_answer(answer))
        yield _subject(random)


def _opened(random: Random, open_it: Callable[[bytes], Any], pack: Any, right: bytes) -> str:
    data = changed(random, right) if random.random() < 0.8 else right
    if random.random() < 0.3:
        body = msgpack.unpackb(right)
        body[random.choice(list(body) if isinstance(body, dict) else range(len(body)))] = anything(random)
        try:
            data = msgpack.packb(body)
        except (TypeError, ValueError, OverflowError):
            return "no value"
    try:
        value = open_it(data)
    except RemoteProtocolError:
        return "refused"
    if pack is not None:
        assert open_it(pack(value)) == value
    return "taken"


def _subject(random: Random) -> str:
    cell = Cell("alpha")
    subject = ".".join(random.choice(WORDS) for _ in range(random.randrange(8)))
    reply = ".".join(random.choice(WORDS) for _ in range(random.randrange(6)))
    if random.random() < 0.5:
        who = random.choice(("beta", "driver"))
        subject, reply = cell.ask(who, "l0-1", "hosting"), f"{cell.inbox(who)}.7"
        if random.random() < 0.5:
            subject = changed(random, subject.encode()).decode("latin-1")
    try:
        asked = cell.opened(subject, reply)
    except RemoteProtocolError:
        return "refused"
    assert cell.ask(*asked) == subject
    assert reply.startswith(cell.inbox(asked.who) + ".")
    return "taken"


def vsock(random: Random) -> Iterator[str]:
    """Packets and the lines of the hybrid socket."""
    for _ in range(60):
        right = packet.HEADER.pack(2, 3, 1, 2, 0, 1, random.randrange(9), 0, number(random, bits=32), 0)
        for read, data in (
            (packet.unpack, right),
            (hybrid.read_connect, hybrid.connect_line(number(random, bits=32))),
            (hybrid.read_ok, hybrid.ok_line(number(random, bits=32))),
        ):
            try:
                read(changed(random, data) if random.random() < 0.8 else data)
            except ValueError as error:
                assert str(error)
                yield "refused"
            else:
                yield "taken"
