"""The body of a fleet's directory: values with revisions, as a NATS server keeps them, on simulated time.

A write is taken only over the revision that its writer has seen. What was written is shown and acknowledged
once it is on the disk; a restart loses what is not there yet, with its acknowledgements. A value that is
older than its bucket keeps values, by the server's clock, is there no more.

Nothing in nestbed watches a bucket, so nothing here is watched: whoever lists keys and then reads them one by
one has seen gaps already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.fleet.directory import MACHINES, PLACEMENTS, Get, Put, Value

KEPT_MS: Mapping[str, float] = {MACHINES: float("inf"), PLACEMENTS: 600_000}
Name = tuple[str, str]  # bucket, key


@dataclass(frozen=True, slots=True)
class Written:
    revision: int
    data: bytes
    at_ms: int


@dataclass(slots=True)
class KeyValue:
    stored: dict[Name, Written] = field(default_factory=dict)  # on the disk
    _head: dict[Name, Written] = field(default_factory=dict)  # with what is not there yet
    _sequence: dict[str, int] = field(default_factory=dict)  # revisions are of a bucket
    _durable: dict[str, int] = field(default_factory=dict)

    def get(self, asked: Get, now_ms: int) -> Value:
        """What is on the disk."""
        found = self._living(self.stored, (asked.bucket, asked.key), now_ms)
        return Value(0) if found is None else Value(found.revision, found.data)

    def put(self, asked: Put, now_ms: int) -> int:
        """The new revision, to be told after `commit`; 0: refused."""
        name = (asked.bucket, asked.key)
        found = self._living(self._head, name, now_ms)
        if asked.over != (found.revision if found else 0):
            return 0
        revision = self._sequence.get(asked.bucket, 0) + 1
        self._sequence[asked.bucket] = revision
        self._head[name] = Written(revision, asked.data, now_ms)
        return revision

    def commit(self) -> None:
        self.stored, self._durable = dict(self._head), dict(self._sequence)

    def restart(self) -> None:
        self._head, self._sequence = dict(self.stored), dict(self._durable)

    def keys(self, bucket: str, now_ms: int) -> list[str]:
        names = [key for where, key in self.stored if where == bucket]
        return sorted(key for key in names if self._living(self.stored, (bucket, key), now_ms))

    @staticmethod
    def _living(values: Mapping[Name, Written], name: Name, now_ms: int) -> Written | None:
        found = values.get(name)
        return found if found and now_ms - found.at_ms < KEPT_MS[name[0]] else None
