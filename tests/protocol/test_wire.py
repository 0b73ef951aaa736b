"""Frames and envelopes: what goes round, what is refused and why, and that nothing else ever comes out."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.wire import (
    DEPTH,
    REASONS,
    VERSION,
    Envelope,
    FrameDecoder,
    Kind,
    Trace,
    open_envelope,
    pack_body,
    pack_envelope,
    pack_frame,
    unpack_body,
)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
)
messages = st.lists(values, max_size=6) | st.dictionaries(st.text(max_size=8), values, max_size=6)
traces = st.none() | st.builds(
    Trace, st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8), st.booleans()
)
envelopes = st.builds(
    Envelope, st.sampled_from(Kind), st.integers(0, 2**64 - 1), traces, st.text(max_size=20), values
)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def everything(decoder: FrameDecoder, pieces: list[bytes]) -> tuple[list[Any], str | None]:
    """What a decoder returns for `pieces`, and the reason it ends with."""
    got: list[Any] = []
    try:
        for piece in pieces:
            got += decoder.feed(piece)
        decoder.end()
    except RemoteProtocolError as error:
        return got, error.reason
    return got, None


@given(st.lists(messages, max_size=4))
def test_messages_come_out_as_they_went_in(sent: list[Any]) -> None:
    stream = b"".join(pack_frame(message) for message in sent)
    assert everything(FrameDecoder(), [stream]) == (sent, None)


@given(st.lists(messages | st.just(b"\xc1"), max_size=3), st.lists(st.integers(1, 9), min_size=1))
def test_the_outcome_does_not_depend_on_how_the_bytes_were_cut(sent: list[Any], sizes: list[int]) -> None:
    stream = b"".join(framed(m) if isinstance(m, bytes) else pack_frame(m) for m in sent)
    pieces, at, turn = [], 0, 0
    while at < len(stream):
        pieces.append(stream[at : at + sizes[turn % len(sizes)]])
        at, turn = at + len(pieces[-1]), turn + 1
    assert everything(FrameDecoder(), pieces) == everything(FrameDecoder(), [stream])


@given(st.binary(max_size=300))
def test_random_bytes_end_in_messages_or_in_a_named_violation(noise: bytes) -> None:
    _, reason = everything(FrameDecoder(limit=200), [noise])
    assert reason is None or reason in REASONS


@given(st.binary(max_size=200))
def test_a_random_body_is_a_message_or_a_violation(body: bytes) -> None:
    try:
        assert isinstance(unpack_body(body), list | dict)
    except RemoteProtocolError as error:
        assert error.reason in REASONS


@given(messages, st.data())
def test_a_stream_that_ends_inside_a_frame_is_truncated(message: Any, data: st.DataObject) -> None:
    frame = pack_frame(message)
    kept = data.draw(st.integers(1, len(frame) - 1))
    assert everything(FrameDecoder(), [frame[:kept]]) == ([], "truncated")


def test_the_length_is_refused_before_any_byte_of_the_body_arrives() -> None:
    decoder = FrameDecoder(limit=100)
    with pytest.raises(RemoteProtocolError, match="oversized"):
        decoder.feed((101).to_bytes(4, "big"))
    assert decoder.pending == 0


def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    frame = pack_frame([b"x" * 95])
    assert FrameDecoder(limit=len(frame) - 4).feed(frame) == [[b"x" * 95]]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"\xc1", "malformed"),
        (b"\x91", "malformed"),
        (b"\x91\x01\x01", "malformed"),
        (b"\x91\xa1\xff", "malformed"),
        (b"\xdd\x02\x62\x5a\x00", "malformed"),
        (b"\x81\x01\x01", "malformed"),
        (b"\x81\x90\x01", "malformed"),
        (b"\x91\xd4\x05a", "extension"),
        (b"\x91\xd6\xff\x00\x00\x00\x00", "extension"),
        (b"\x81\xa1a\xd7\xff" + b"\x00" * 8, "extension"),
        (b"\x91\xc7\x0c\xff" + b"\x00" * 12, "extension"),
        (b"\x82\xa1a\x01\xa1a\x02", "duplicate_key"),
        (b"\x91\x82\xa1a\x01\xa1a\x01", "duplicate_key"),
        (b"\x91" * DEPTH + b"\x90", "too_deep"),
        (b"\x91" * 2000, "too_deep"),
        (b"\x05", "shape"),
        (b"\xa1a", "shape"),
        (b"\xc0", "shape"),
        (b"\xda\x10\x01" + b"a" * 4097, "shape"),
        (b"\xd6\xff\x00\x00\x00\x00", "shape"),
    ],
)
def test_a_body_that_is_not_allowed_is_refused_by_its_reason(body: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        FrameDecoder().feed(framed(body))
    assert caught.value.reason == reason
    assert reason in REASONS


def test_the_deepest_message_that_is_allowed_is_allowed() -> None:
    assert unpack_body(b"\x91" * (DEPTH - 1) + b"\x90")


def test_bytes_that_only_look_like_a_timestamp_are_data() -> None:
    message = [b"\xd6\xff\xd7\xff\xc7\x0c\xff" * 3, "x" * 5000]
    assert FrameDecoder().feed(pack_frame(message)) == [message]


def test_messages_before_a_violation_are_returned_and_the_violation_stays() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(pack_frame([1]) + framed(b"\xc1")) == [[1]]
    assert decoder.violation is not None
    for data in (b"", pack_frame([2])):
        with pytest.raises(RemoteProtocolError, match="malformed"):
            decoder.feed(data)


@pytest.mark.parametrize("message", [[2**64], [object()], ["\ud800"], {1, 2}, [-(2**63) - 1]])
def test_what_has_no_form_on_the_wire_is_our_own_mistake(message: object) -> None:
    with pytest.raises(LocalProtocolError):
        pack_frame(message)


def test_a_frame_over_the_limit_is_not_made() -> None:
    with pytest.raises(LocalProtocolError, match="limit is 10"):
        pack_frame([b"x" * 20], limit=10)


@given(envelopes)
def test_envelopes_come_out_as_they_went_in(envelope: Envelope) -> None:
    (message,) = FrameDecoder().feed(pack_envelope(envelope))
    assert open_envelope(message) == envelope


@given(messages)
def test_any_other_message_is_no_envelope_but_a_violation(message: Any) -> None:
    try:
        open_envelope(message)
    except RemoteProtocolError as error:
        assert error.reason in REASONS


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        (0, 2, "version"),
        (0, True, "version"),
        (0, "1", "version"),
        (1, 99, "kind"),
        (1, False, "kind"),
        (1, None, "kind"),
        (2, -1, "shape"),
        (2, 1.0, "shape"),
        (3, [b"x" * 16, b"y" * 8], "shape"),
        (3, [b"x" * 15, b"y" * 8, True], "shape"),
        (3, [b"x" * 16, b"y" * 8, 1], "shape"),
        (3, "00-11-22-01", "shape"),
        (4, b"te", "shape"),
        (4, None, "shape"),
    ],
)
def test_each_field_of_an_envelope_has_its_type(field: int, value: object, reason: str) -> None:
    record: list[Any] = [VERSION, int(Kind.ASK), 7, None, "l0.te", []]
    assert open_envelope(list(record)).call == 7
    record[field] = value
    with pytest.raises(RemoteProtocolError) as caught:
        open_envelope(record)
    assert caught.value.reason == reason


def test_a_violation_quotes_only_a_little_of_what_it_was_sent() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        open_envelope(["v" * 10_000, 1, 1, None, "", None])
    assert len(str(caught.value)) < 200


def test_msgpack_is_new_enough_to_refuse_a_key_without_leaking() -> None:
    assert msgpack.version >= (1, 2, 3)


@given(messages)
def test_a_body_alone_comes_out_as_it_went_in(message: Any) -> None:
    assert unpack_body(pack_body(message)) == message


@pytest.mark.parametrize("message", [object(), 1 << 64, {1: {2}}], ids=["object", "2**64", "set"])
def test_a_body_that_has_no_form_is_our_own_mistake(message: object) -> None:
    with pytest.raises(LocalProtocolError, match="not to be packed"):
        pack_body(message)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_of_any_kind_are_taken_and_not_kept(kind: type) -> None:
    """The buffer that a message came in may be used again while the message lives."""
    frame = bytearray(pack_frame([b"payload"]))
    (message,) = FrameDecoder().feed(kind(frame))
    frame[:] = bytes(len(frame))
    assert message == [b"payload"]
