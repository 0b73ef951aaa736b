"""Keys: the same request asked twice makes one child.

A key is a boot of the requester and a number that grows: (epoch, sequence). It is bound to the digest of what
was asked and lives as long as its child and ten minutes more. What was forgotten leaves a watermark: an
unknown key at or below it is KEY_EXPIRED and never executed, because its request may have been done. A start
that failed and was rolled back without a rest frees its key and moves no watermark: it may be tried again.
Not so where a child was told already, as by a reservation: a key never answers two children.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack

from protocol.hosting.errors import Code, Refusal
from protocol.hosting.machine import Spec


def spec_digest(spec: Spec) -> bytes:
    """Return the SHA-256 over all fields of `spec`; the mode of the start is not part of it."""
    fields = (
        spec.image,
        spec.vcpus,
        spec.memory_mib,
        spec.policy,
        spec.launch,
        sorted(spec.labels.items()),
        spec.ready,
        spec.on_owner_loss,
        spec.linger_s,
        spec.vmm,
        spec.debug,
        spec.signature,
        spec.signer,
        spec.not_after,
    )
    return hashlib.sha256(msgpack.packb(fields, use_bin_type=True)).digest()


class Key(NamedTuple):
    """A key in parts. On the wire 16 bytes, big-endian: 4 of the epoch, 12 of the sequence."""

    epoch: int
    sequence: int

    def packed(self) -> bytes:
        return self.epoch.to_bytes(4, "big") + self.sequence.to_bytes(12, "big")


def open_key(packed: bytes) -> Key:
    """Return the parts of the key `packed`, 16 bytes."""
    return Key(int.from_bytes(packed[:4], "big"), int.from_bytes(packed[4:], "big"))


@dataclass(slots=True)
class Entry:
    """One key: what it was used for, the child it made, what the start answered."""

    digest: bytes
    child: bytes
    answer: Mapping[str, object] = field(default_factory=dict)
    promised: bool = False  # its child was told before it came up: the key is never free for another one
    refusal: Refusal | None = None  # of a start that failed and whose key stays
    expires_ms: int | None = None  # None while the child lives


class Keys:
    """The keys of one requester; they are few, and the quota bounds them."""

    __slots__ = ("_entries", "watermark")

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self.watermark = Key(0, 0)  # the highest key that was forgotten

    def find(self, key: bytes, digest: bytes, epoch: int) -> Entry | None:
        """Return the entry of `key`, None for a new one of the present `epoch`.

        Raises Refusal: KEY_CONFLICT if it was for something else, KEY_EXPIRED, BAD_ARGUMENT.
        """
        entry = self._entries.get(key)
        if entry is not None:
            if entry.digest != digest:
                raise Refusal(Code.KEY_CONFLICT, "the key was used for another spec")
            return entry
        parts = open_key(key)
        if parts <= self.watermark or parts.epoch < epoch:
            detail = {"watermark": self.watermark.packed()}
            raise Refusal(
                Code.KEY_EXPIRED, "describe or list what there is, then use a new key", detail=detail
            )
        if parts.epoch > epoch or not parts.sequence:
            raise Refusal(Code.BAD_ARGUMENT, f"key: its first 4 bytes are the epoch, {epoch}; then 1 and up")
        return None

    def forget(self, key: bytes) -> None:
        """Drop `key`, which is there, and never execute it again."""
        self.drop(key)
        self.watermark = max(self.watermark, open_key(key))

    def bind(self, key: bytes, digest: bytes, child: bytes) -> Entry:
        assert key not in self._entries, "a key is bound once"
        entry = self._entries[key] = Entry(digest, child)
        return entry

    def restore(self, key: bytes, entry: Entry) -> None:
        self._entries[key] = entry

    def entry(self, key: bytes) -> Entry | None:
        return self._entries.get(key)

    def drop(self, key: bytes) -> None:
        del self._entries[key]

    def expired(self, now_ms: int) -> list[bytes]:
        return [k for k, e in self._entries.items() if e.expires_ms is not None and e.expires_ms <= now_ms]

    def oldest_ended(self) -> bytes | None:
        """The key whose end comes first among those of ended children, if there is one."""
        ended = [(e.expires_ms, k) for k, e in self._entries.items() if e.expires_ms is not None]
        return min(ended)[1] if ended else None

    def all(self) -> list[bytes]:
        return list(self._entries)
