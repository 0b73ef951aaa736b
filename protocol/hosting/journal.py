"""The intent journal: what is written down, how it gathers, and the bodies that keep it.

A record is an `Intent` (a child is about to enter a state, with all that is needed to find it again) or a
`Fact` (something else that has to survive: a requester's boot, a key, what the host has given away). On disk
each is a row, named by kind and id; a newer one takes the place of an older one, so the journal never grows
beyond what lives.

Theory of operation. The service appends and goes on. Nothing that it decided may leave (no effect on the
machine, no reply, no event) before the rows behind it are durable: whoever carries those out asks `after`.
`Gathering` collects rows until its disk takes the next batch, in one transaction; so a batch holds whole
decisions, and many requests share one flush.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgpack

KEPT_PER_CHILD = 8  # intents that the body in memory keeps; a life has 4 to 6 transitions
CHILD = "child"
FORMAT = 2  # of the rows: another one is not read

Body = Mapping[str, Any]
Then = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Intent:
    """What is about to be done to a child. `body`: everything else that a later life needs of it."""

    child: bytes
    owner_cid: int
    owner_epoch: int
    state: str  # that the child is about to enter
    cause: str
    at_ms: int
    body: Body = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that has to survive, or (without a body) need not any more."""

    kind: str
    id: bytes
    body: Body | None = None


Record = Intent | Fact


class Row(NamedTuple):
    """A record as it is kept; no `data` means that the row goes."""

    kind: str
    id: bytes
    data: bytes | None


class DamagedJournal(ValueError):
    """A row that this program did not write; the text says what is wrong with it."""


class Journal(Protocol):
    """Where records are kept."""

    def append(self, record: Record) -> int:
        """Keep `record`; return how many intents became obsolete by it and were dropped."""
        ...

    @property
    def pending(self) -> bool:
        """Whether something that was appended is not durable yet."""
        ...

    def after(self, then: Then) -> None:
        """Call `then` once everything appended so far is durable; at once if it is. In order."""
        ...


def row_of(record: Record) -> Row:
    """Return the row that keeps `record`."""
    if isinstance(record, Fact):
        return Row(record.kind, record.id, None if record.body is None else _pack(record.body))
    head = {
        "owner_cid": record.owner_cid,
        "owner_epoch": record.owner_epoch,
        "state": record.state,
        "cause": record.cause,
        "at_ms": record.at_ms,
    }
    return Row(CHILD, record.child, _pack(head | dict(record.body)))


def open_row(data: bytes) -> dict[str, Any]:
    """Return the body of a kept row. Raises DamagedJournal."""
    try:
        body = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise DamagedJournal(f"a row of the journal is no msgpack: {error!r}") from error
    if type(body) is not dict:
        raise DamagedJournal("a row of the journal is a map")
    return body


def _pack(body: Body) -> bytes:
    packed: bytes = msgpack.packb(dict(body), use_bin_type=True)
    return packed


class MemoryJournal:
    """Intents of the living, in memory. The end of a child makes all of its intents obsolete."""

    pending = False

    def __init__(self) -> None:
        self.writes = 0
        self._intents: dict[bytes, deque[Intent]] = {}

    def append(self, record: Record) -> int:
        if isinstance(record, Fact):
            return 0  # what dies with this process needs no facts
        self.writes += 1
        intents = self._intents.setdefault(record.child, deque())
        intents.append(record)
        if record.state == "RELEASED":
            del self._intents[record.child]
            return len(intents)
        if len(intents) > KEPT_PER_CHILD:
            del intents[1]  # the first one says whose it is and stays
            return 1
        return 0

    def after(self, then: Then) -> None:
        then()

    def intents(self) -> list[Intent]:
        return [intent for intents in self._intents.values() for intent in intents]


class Gathering:
    """A journal before a disk: rows gather, `take` is the next batch, `committed` says that it is durable.

    One batch at a time is under way. `ring` is called when there is something to take.
    """

    def __init__(self, ring: Then | None = None) -> None:
        self.writes = 0
        self.bytes = 0
        self.ring = ring
        self._gathered: dict[tuple[str, bytes], Row] = {}
        self._waiting: deque[tuple[int, Then]] = deque()
        self._appended = 0
        self._durable = 0
        self._taken = 0
        self._has_intent: set[bytes] = set()

    @property
    def pending(self) -> bool:
        return self._durable < self._appended

    def append(self, record: Record) -> int:
        row = row_of(record)
        self.writes += 1
        self.bytes += len(row.data or b"")
        self._appended += 1
        self._gathered.pop((row.kind, row.id), None)  # rows keep the order of their last change
        self._gathered[row.kind, row.id] = row
        dropped = self._obsolete(record)
        if self.ring is not None:
            self.ring()
        return dropped

    def _obsolete(self, record: Record) -> int:
        if isinstance(record, Fact):
            return 0
        older = record.child in self._has_intent
        if record.state == "RELEASED":
            self._has_intent.discard(record.child)
            return 1 + older
        self._has_intent.add(record.child)
        return int(older)

    def found(self, rows: Iterable[Row]) -> None:
        """Say what the disk holds from a former life. Raises DamagedJournal."""
        for row in rows:
            if [*map(type, row)] != [str, bytes, bytes]:
                raise DamagedJournal("a row of the journal is a kind, and bytes")
            if row.kind == CHILD and row.data and open_row(row.data).get("state") != "RELEASED":
                self._has_intent.add(row.id)

    def after(self, then: Then) -> None:
        if self.pending:
            self._waiting.append((self._appended, then))
        else:
            then()

    def take(self) -> list[Row]:
        """The batch to make durable now; empty if there is none."""
        assert self._taken == self._durable, "one batch at a time"
        batch = list(self._gathered.values())
        self._gathered.clear()
        self._taken = self._appended
        return batch

    def committed(self) -> None:
        """What was taken is durable: go on with all that waited for it."""
        self._durable = self._taken
        while self._waiting and self._waiting[0][0] <= self._durable:
            self._waiting.popleft()[1]()


class SimulatedDisk:
    """A disk that keeps exactly what was committed: `crash` is a new life over the same rows."""

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.journal = Gathering()
        self._rows: dict[tuple[str, bytes], bytes] = {}
        self._keep(rows)
        self.journal.found(self.rows())
        self.commits = 0

    def commit(self) -> bool:
        """Make what has gathered durable. False if there was nothing."""
        batch = self.journal.take()
        if not batch:
            return False
        self._keep(batch)
        self.commits += 1
        self.journal.committed()
        return True

    def flush(self) -> None:
        """Commit until nothing more comes of it."""
        while self.commit():
            pass

    def crash(self) -> SimulatedDisk:
        """The disk as the next life finds it; what was not committed is gone."""
        return SimulatedDisk(self.rows())

    def rows(self) -> Iterator[Row]:
        for (kind, name), data in self._rows.items():
            yield Row(kind, name, data)

    def _keep(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.data is None:
                self._rows.pop((row.kind, row.id), None)
            else:
                self._rows[row.kind, row.id] = row.data
