"""A guest host moves to another machine: it is made anew there, and then its guests come, one by one.

No secure host can be moved itself: its guests are bound to the Trusted Entity that runs them. What an
architecture allows for a guest is one of two ways:

- SEND: the platform packs it for the other one's platform, and it goes on there with its memory (legacy SEV,
  which Linux does; section 6.8 of the fact sheet).
- RESTART: it ends here and starts cold there, with its downtime. What it knew is gone.

A generator: it yields what to do on which side and is sent what came of it. A guest that cannot be taken in
is started again where it was, and nothing further is moved.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from protocol.errors import OperationFailed
from protocol.plan import operations as op

SOURCE, TARGET = "source", "target"
SEND, RESTART = "send", "restart"
PACKETS = 128  # pages in one message: a frame has room for 255


def way_of(comparison: Any) -> tuple[str, str]:
    """How guests of an architecture move, and why so: `moves` of its comparison, where it says anything."""
    way, why = getattr(comparison, "moves", (RESTART, "nothing is known of another way"))
    assert way in (SEND, RESTART), way
    return way, why


@dataclass(frozen=True, slots=True)
class Do:
    """Have the guest host on one side do an operation. Answered with what came of it, or OperationFailed."""

    side: str
    operation: op.Operation


@dataclass(frozen=True, slots=True)
class Boot:
    """Make the guest host anew on one side: nothing is left of what was there."""

    side: str


@dataclass(frozen=True, slots=True)
class There:
    """Say whether the guest host on one side has a guest of that number. Answered with a truth value."""

    side: str
    guest: int


@dataclass(frozen=True, slots=True)
class Mark:
    """From here on guest `guest` stands still, or (`up`) it runs again."""

    guest: int
    up: bool


Acts = Generator[Do | Boot | There | Mark, Any, "Moved"]


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of it: guests by where they are now; `sent` are the bytes that travelled by guest."""

    arrived: Sequence[int]
    stayed: Sequence[int]
    sent: Mapping[int, int]
    trouble: str = ""


def moved(guests: Sequence[int], way: str, memory_mib: int, vcpus: int) -> Acts:
    """Move a host with these guests, each of that size. Raises OperationFailed: the target cannot host."""
    yield Boot(TARGET)
    yield from _do(TARGET, op.BootHost())
    peer = (yield from _do(TARGET, op.Certify())) if way == SEND and guests else b""
    arrived: list[int] = []
    sent: dict[int, int] = {}
    trouble = ""
    for guest in guests:
        yield Mark(guest, False)
        try:
            if way == SEND:
                sent[guest] = yield from _sent(guest, peer)
            else:
                yield from _do(SOURCE, op.Destroy(guest))
                yield from _started(TARGET, guest, memory_mib, vcpus)
        except OperationFailed as failed:
            trouble = f"guest {guest}: {failed}"
            yield from _back(guest, memory_mib, vcpus)
            yield Mark(guest, True)
            break
        yield Mark(guest, True)
        arrived.append(guest)
    stayed = [guest for guest in guests if guest not in arrived]
    if not stayed:
        yield from _do(SOURCE, op.Shutdown())
        yield Boot(SOURCE)
    return Moved(arrived, stayed, sent, trouble)


def _sent(guest: int, peer: bytes) -> Generator[Do, Any, int]:
    """Pack, carry, unpack; then its end here. Returns how many bytes travelled."""
    head = yield from _do(SOURCE, op.Leave(guest, peer))
    size = 0
    for first in range(0, head["packets"], PACKETS):
        packets = yield from _do(SOURCE, op.Unload(guest, first, PACKETS))
        size += sum(len(header) + len(data) for _, header, data in packets)
        yield from _do(TARGET, op.Carry(guest, packets))
    fields = {name: head[name] for name in ("policy", "certificate", "session", "pages", "vcpus")}
    yield from _do(TARGET, op.Arrive(guest, **fields))
    yield from _do(SOURCE, op.Destroy(guest))
    return size


def _started(side: str, guest: int, memory_mib: int, vcpus: int) -> Generator[Do, Any, None]:
    for operation in (op.Create(guest, memory_mib, vcpus), op.Load(guest), op.Start(guest)):
        yield from _do(side, operation)


def _back(guest: int, memory_mib: int, vcpus: int) -> Generator[Do | There, Any, None]:
    """Start a guest cold where it was. What is half there on either side goes first."""
    for side in (TARGET, SOURCE):
        if (yield There(side, guest)):
            yield from _do(side, op.Destroy(guest))
    yield from _started(SOURCE, guest, memory_mib, vcpus)


def _do(side: str, operation: op.Operation) -> Generator[Do, Any, Any]:
    """Do it. Raises OperationFailed as the host does."""
    found = yield Do(side, operation)
    if isinstance(found, OperationFailed):
        raise found
    return found
