"""What stands in the directory under a name: who holds it, in which life, where it is, what room it has.

A value is one msgpack map. Whoever may write to the bucket may have written anything, so a value that is
none is a RemoteProtocolError, to be counted; the name counts as held by nobody known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from protocol.errors import RemoteProtocolError
from protocol.wire import unpack_body

ENTRY_BYTES = 4096
WORD_BYTES = 256
EPOCHS = (1 << 32) - 1  # the frames of docs/wire.md carry 4 bytes of it
ROOM = (1 << 53) - 1
VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One holder. `holder` is empty for a name that was given back; `endpoint` is HOST:PORT, or empty."""

    holder: str
    epoch: int
    endpoint: str = ""
    kind: str = "machine"  # machine, agent
    children: int = 0  # hosted guests that there is room for
    memory_mib: int = 0  # and memory for them


def pack_entry(entry: Entry) -> bytes:
    """The value of an entry."""
    body: dict[str, Any] = {
        "v": VERSION, "holder": entry.holder, "epoch": entry.epoch, "endpoint": entry.endpoint,
        "kind": entry.kind, "children": entry.children, "memory_mib": entry.memory_mib,
    }  # fmt: skip
    data: bytes = msgpack.packb(body, use_bin_type=True)
    assert len(data) <= ENTRY_BYTES, "an entry is small"
    return data


def open_entry(data: bytes) -> Entry:
    """The entry of a value. Raises RemoteProtocolError."""
    if len(data) > ENTRY_BYTES:
        raise RemoteProtocolError("oversized", f"a value of {len(data)} bytes")
    match unpack_body(data):
        case {
            "v": int(version), "holder": str(holder), "epoch": int(epoch), "endpoint": str(endpoint),
            "kind": str(kind), "children": int(children), "memory_mib": int(memory_mib), **rest,
        } if not rest:  # fmt: skip
            if version != VERSION:
                raise RemoteProtocolError("version", f"{version}")
        case _:
            raise RemoteProtocolError("shape", "no entry of a directory")
    numbers = (version, epoch, children, memory_mib)
    if any(type(each) is bool for each in numbers) or not 1 <= epoch <= EPOCHS:
        raise RemoteProtocolError("shape", f"an epoch of {epoch}")
    if not (0 <= children <= ROOM and 0 <= memory_mib <= ROOM):
        raise RemoteProtocolError("shape", "room that no machine has")
    if any(len(word) > WORD_BYTES for word in (holder, endpoint, kind)):
        raise RemoteProtocolError("shape", "a word that is too long")
    return Entry(holder, epoch, endpoint, kind, children, memory_mib)
