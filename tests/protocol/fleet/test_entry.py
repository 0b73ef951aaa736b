"""Values of the directory: what was written is read; anything else is refused with a reason."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import RemoteProtocolError
from protocol.fleet.entry import ENTRY_BYTES, EPOCHS, ROOM, Entry, open_entry, pack_entry
from protocol.wire import REASONS

ENTRIES = st.builds(
    Entry,
    holder=st.text(max_size=64),
    epoch=st.integers(1, EPOCHS),
    endpoint=st.text(max_size=64),
    kind=st.sampled_from(["machine", "agent"]),
    children=st.integers(0, ROOM),
    memory_mib=st.integers(0, ROOM),
)


@given(ENTRIES)
def test_an_entry_comes_back_as_it_was(entry: Entry) -> None:
    assert open_entry(pack_entry(entry)) == entry


@given(st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_refused(data: bytes) -> None:
    try:
        open_entry(data)
    except RemoteProtocolError as refused:
        assert refused.reason in REASONS


@given(ENTRIES, st.data())
def test_a_garbled_entry_is_an_entry_or_refused(entry: Entry, data: Any) -> None:
    packed = bytearray(pack_entry(entry))
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        open_entry(bytes(packed))
    except RemoteProtocolError as refused:
        assert refused.reason in REASONS


GOOD = {"v": 1, "holder": "a", "epoch": 3, "endpoint": "", "kind": "machine", "children": 1, "memory_mib": 2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v": 2}, "version"),
        ({"epoch": 0}, "shape"),
        ({"epoch": EPOCHS + 1}, "shape"),
        ({"epoch": True}, "shape"),
        ({"children": -1}, "shape"),
        ({"memory_mib": ROOM + 1}, "shape"),
        ({"holder": "x" * 300}, "shape"),
        ({"more": 1}, "shape"),
        ({"holder": b"a"}, "shape"),
        ({"endpoint": "x" * ENTRY_BYTES}, "oversized"),
    ],
)
def test_what_is_no_entry_has_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        open_entry(msgpack.packb(GOOD | change))
    assert refused.value.reason == reason
