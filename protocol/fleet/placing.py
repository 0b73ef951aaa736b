"""Where a hosted guest of a fleet is started: any machine with room, and never two machines for one key.

A start carries a number that its tenant chose. Before a machine does anything about it, it writes the number
into the directory, with its own name and life (`Placement`): the directory takes one of two that write at
once. Whoever finds the number there sends the tenant to that machine, whose broker knows what it did. A
machine that did nothing, for want of room or because the request was none, gives the number back. One whose
life is over has no guests any more, so the number may be taken over.

The tenant's side is a generator: it yields what to ask of whom, and is sent what came of it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from protocol.errors import NestbedError, NotDelivered, OutcomeUnknown, RemoteProtocolError
from protocol.fleet.entry import EPOCHS, Entry
from protocol.fleet.subjects import ANY, is_token
from protocol.wire import unpack_body

PLACEMENT_BYTES = 256
ANSWER_BYTES = 120_000
KEY_BYTES = 12  # of a number, as in the keys of docs/wire.md behind their epoch
TRIES = 64  # questions for one start
AGAIN = 3  # times the same question, after an outcome that is unknown
UNDONE = 16  # times the same question to machines that did nothing, as others wrote into the directory
# Refusals after which certainly nothing of a start is left, by name: the number is free again.
NOTHING_DONE = frozenset(
    {
        "BAD_FRAME", "BAD_ARGUMENT", "UNSUPPORTED", "NOT_PERMITTED", "STALE_EPOCH", "POLICY", "NOT_FOUND",
        "QUOTA", "NO_RESOURCE", "BUSY_RELEASING", "RATE_LIMITED", "NEED_MEMORY", "CID_EXHAUSTED",
        "IMAGE_INVALID", "SIGNATURE", "LEASE_EXPIRED",
    }
)  # fmt: skip
FULL = frozenset({"QUOTA", "NO_RESOURCE", "BUSY_RELEASING", "NEED_MEMORY", "CID_EXHAUSTED"})


class NoRoom(NestbedError):
    """Every machine that is there has refused for want of room. Nothing was started."""


# -- what stands under a number ------------------------------


@dataclass(frozen=True, slots=True)
class Placement:
    """The machine that has a number, and in which life. An empty name: given back."""

    machine: str
    epoch: int


def pack_placement(placement: Placement) -> bytes:
    data: bytes = msgpack.packb([1, placement.machine, placement.epoch], use_bin_type=True)
    return data


def open_placement(data: bytes) -> Placement:
    """The placement of a value. Raises RemoteProtocolError."""
    if len(data) > PLACEMENT_BYTES:
        raise RemoteProtocolError("oversized", f"a value of {len(data)} bytes")
    match unpack_body(data):
        case [int(version), str(machine), int(epoch)] if True not in (version is True, epoch is True):
            if version != 1:
                raise RemoteProtocolError("version", f"{version}")
            if (machine == "" or is_token(machine)) and 0 <= epoch <= EPOCHS:
                return Placement(machine, epoch)
    raise RemoteProtocolError("shape", "no placement")


def placement_key(tenant: str, number: bytes) -> str:
    """Where the number of a tenant stands."""
    assert is_token(tenant)
    assert len(number) == KEY_BYTES
    return f"{tenant}.{number.hex()}"


def turn_of(found: Placement | None, machine: str, epoch: int, entries: Mapping[str, Entry]) -> str:
    """Whose turn it is: `machine`, which asks and is in its life `epoch`, or the one that has the number.

    Where it is another's, that one may still live: its entry says the very life, or there is none that would
    say that it is over.
    """
    if found is None or not found.machine:
        return machine
    if found.machine == machine:
        return machine if found.epoch <= epoch else ""
    entry = entries.get(found.machine)
    over = entry is not None and (entry.epoch > found.epoch or not entry.holder)
    return machine if over else found.machine


# -- what a machine answers ----------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """Of `machine`, in its life `epoch`: its broker's reply frame; or `to`, who is to be asked instead.

    An answer with neither, and no list of machines: nothing was done, as nobody knows whose turn it is.
    """

    machine: str
    epoch: int
    reply: Mapping[str, Any] | None = None
    to: str = ""
    machines: tuple[tuple[str, int], ...] = field(
        default_factory=tuple
    )  # name, guests that there is room for

    @property
    def error(self) -> str:
        """The name of a refusal; empty for any other answer."""
        if self.reply is None or self.reply["t"] != "err":
            return ""
        return str(self.reply["b"].get("name", ""))


def pack_answer(answer: Answer) -> bytes:
    body = [
        1,
        answer.machine,
        answer.epoch,
        answer.reply,
        answer.to,
        [list(each) for each in answer.machines],
    ]
    data: bytes = msgpack.packb(body, use_bin_type=True)
    return data


def open_answer(data: bytes) -> Answer:
    """The answer of a machine. Raises RemoteProtocolError."""
    if len(data) > ANSWER_BYTES:
        raise RemoteProtocolError("oversized", f"an answer of {len(data)} bytes")
    match unpack_body(data):
        case [1, str(machine), int(epoch), reply, str(to), list(listed)]:
            pass
        case _:
            raise RemoteProtocolError("shape", "no answer of a machine")
    match reply:
        case None | {"t": "ok" | "err", "b": dict()}:
            pass
        case _:
            raise RemoteProtocolError("shape", "no reply of a broker")
    if not is_token(machine) or (to and not is_token(to)):
        raise RemoteProtocolError("shape", f"no machine: {machine[:40]!r}, {to[:40]!r}")
    machines = []
    for each in listed:
        match each:
            case [str(name), int(room)] if is_token(name):
                machines.append((name, room))
            case _:
                raise RemoteProtocolError("shape", "no list of machines")
    return Answer(machine, epoch, reply, to, tuple(machines))


# -- the tenant's side ---------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Put the start to `machine`. Answered with an Answer, or the NotDelivered or OutcomeUnknown of it."""

    machine: str


@dataclass(frozen=True, slots=True)
class Bring:
    """Bring the image to `machine`, then it is asked again."""

    machine: str


@dataclass(frozen=True, slots=True)
class List:
    """Ask any machine who else is there. Answered with an Answer."""


Place = Generator[Ask | Bring | List, Any, Answer]


def placed() -> Place:
    """See a start to its end. Returns the answer; raises NoRoom, NotDelivered, OutcomeUnknown."""
    machine, sent_there = ANY, False
    full: list[str] = []
    unknown = undone = 0
    for _ in range(TRIES):
        found = yield Ask(machine)
        if isinstance(found, NotDelivered) and machine not in (ANY, *full) and not sent_there:
            full.append(machine)
            machine = yield from _another(full)
        elif isinstance(found, NotDelivered) and sent_there:
            raise OutcomeUnknown(f"{machine} has the number, and is not there: ask again with it later")
        elif isinstance(found, OutcomeUnknown) and unknown < AGAIN:
            unknown += 1
        elif isinstance(found, BaseException):
            raise found
        elif found.reply is None and not found.to:
            undone += 1
            if undone > UNDONE:
                raise NotDelivered("the directory does not say whose the number is")
        elif found.to:
            machine, sent_there = found.to, True
        elif found.error == "NOT_FOUND":
            yield Bring(found.machine)
            machine = found.machine
        elif found.error in FULL:
            full.append(found.machine)
            machine, sent_there = (yield from _another(full)), False
        else:
            answer: Answer = found
            return answer
    raise OutcomeUnknown(f"no end after {TRIES} questions")


def _another(full: list[str]) -> Generator[Ask | Bring | List, Any, str]:
    """The machine with most room that was not asked yet. Raises NoRoom."""
    answer: Answer = yield List()
    left = [(room, name) for name, room in answer.machines if name not in full]
    if not left:
        raise NoRoom(f"no room: {', '.join(full)}")
    return max(left, key=lambda each: (each[0], [-ord(letter) for letter in each[1]]))[1]
