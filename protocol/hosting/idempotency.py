"""Keys: the same request asked twice makes one child.

A key is bound to the digest of what was asked. It lives as long as its child and ten minutes more. A
start that failed and was rolled back without a rest frees its key, so that the same request may be tried
again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

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
    )
    return hashlib.sha256(msgpack.packb(fields, use_bin_type=True)).digest()


@dataclass(slots=True)
class Entry:
    """One key: what it was used for, the child it made, what the start answered."""

    digest: bytes
    child: bytes
    answer: Mapping[str, object] = field(default_factory=dict)
    refusal: Refusal | None = None  # of a start whose rest could not be rolled back
    expires_ms: int | None = None  # None while the child lives


class Keys:
    """The keys of one requester; they are few, and the quota bounds them."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}

    def find(self, key: bytes, digest: bytes) -> Entry | None:
        """Return the entry of `key`, if any. Raises Refusal (KEY_CONFLICT) if it was for something else."""
        entry = self._entries.get(key)
        if entry is not None and entry.digest != digest:
            raise Refusal(Code.KEY_CONFLICT, "the key was used for another spec")
        return entry

    def bind(self, key: bytes, digest: bytes, child: bytes) -> Entry:
        assert key not in self._entries, "a key is bound once"
        entry = self._entries[key] = Entry(digest, child)
        return entry

    def entry(self, key: bytes) -> Entry | None:
        return self._entries.get(key)

    def drop(self, key: bytes) -> bool:
        return self._entries.pop(key, None) is not None

    def end(self, key: bytes, expires_ms: int) -> bool:
        """Let `key` live until `expires_ms`: its child has ended. False if there is no such key any more."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        entry.expires_ms = expires_ms
        return True

    def expired(self, now_ms: int) -> list[bytes]:
        return [k for k, e in self._entries.items() if e.expires_ms is not None and e.expires_ms <= now_ms]

    def all(self) -> list[bytes]:
        return list(self._entries)
