"""What is not a request of this protocol is refused, and nothing has changed."""

from __future__ import annotations

from copy import deepcopy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.hosting.limits import CHUNK_BYTES
from protocol.hosting.messages import MESSAGES

ID, DIGEST = bytes(16), bytes(32)

GOOD = {
    "hello": {"versions": [1]},
    "quota.get": {},
    "image.put": {"digest": DIGEST, "size": 4, "offset": 0, "data": b""},
    "start": {"spec": {"image": DIGEST, "vcpus": 1, "memory_mib": 1}, "mode": "run"},
    "wait": {"child": ID, "until": "READY", "timeout_ms": 0},
    "describe": {"child": ID},
    "list": {},
    "stop": {"child": ID, "how": "kill"},
    "reset": {"child": ID},
    "destroy": {"child": ID},
    "ack_exit": {"child": ID},
    "lease.renew": {},
    "console.read": {"child": ID, "cursor": 0, "max": 1},
    "channel.open": {"child": ID, "port": 7},
    "channel.close": {"channel": ID},
    "adopt": {"credential": DIGEST, "epoch": 1},
    "attest": {"child": ID, "nonce": b"n"},
    "dump": {"child": ID},
    "memory.deposit": {"pages": 1},
    "watch": {"since": 0},
    "unwatch": {"watch": ID},
    "explain": {"error": 100},
    "migrate": {},
}
REQUIRED = [
    (kind, name)
    for kind, body in GOOD.items()
    for name in body
    if name not in {"mode", "timeout_ms", "how", "since", "cursor", "max"}
]
WRONG = [None, True, -1, 1 << 70, 1.5, "", "x" * 5000, b"", b"x" * (CHUNK_BYTES + 1), [], [[]], {}, {1: 2}]


def unchanged(client, frame, *names):
    before = client.world.service.records()
    charged = client.ask("quota.get")
    reply = client.send(frame)
    assert (reply["t"], reply["b"].get("name")) in [("err", name) for name in names], reply
    assert client.world.service.records() == before
    assert client.ask("quota.get") == charged
    assert client.world.machine.asked == []
    return reply["b"]


def test_the_table_of_good_bodies_is_complete():
    assert set(GOOD) == set(MESSAGES)


@pytest.mark.parametrize("frame", [None, 0, "hello", b"\x00", [], [1, 2], {}, {"v": 1}, {1: 2}, {b"v": 1}])
def test_what_is_no_frame_is_a_bad_frame(alice, frame):
    assert alice.send(frame)["rid"] == bytes(16)
    unchanged(alice, frame, "BAD_FRAME")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("v", None),
        ("v", "1"),
        ("v", True),
        ("rid", None),
        ("rid", b"short"),
        ("rid", "0123456789abcdef"),
        ("rid", bytes(16)),
        ("epoch", None),
        ("epoch", -1),
        ("epoch", 1 << 32),
        ("epoch", True),
        ("dl", -1),
        ("dl", "soon"),
        ("dl", 1 << 32),
        ("key", "k"),
        ("key", b"k" * 15),
        ("key", b"k" * 17),
        ("t", None),
        ("t", 5),
        ("t", "hello!"),
        ("t", "adopted"),
        ("who", 3),
        ("", 0),
    ],
)
def test_each_field_of_a_frame_is_looked_at(alice, name, value):
    unchanged(alice, alice.frame("quota.get") | {name: value}, "BAD_FRAME")


@pytest.mark.parametrize("name", ["v", "t", "rid", "epoch"])
def test_a_frame_without_one_of_its_fields_is_a_bad_frame(alice, name):
    frame = alice.frame("quota.get")
    del frame[name]
    unchanged(alice, frame, "BAD_FRAME")


def test_dl_and_key_may_be_left_out(alice):
    frame = alice.frame("quota.get")
    del frame["dl"], frame["key"]
    assert alice.send(frame)["t"] == "ok"


def test_another_version_is_told_which_there_are(alice):
    error = unchanged(alice, alice.frame("quota.get") | {"v": 2}, "UNSUPPORTED")
    assert error["detail"] == {"versions": [1]}


def test_a_refusal_finds_back_by_its_rid(alice):
    frame = alice.frame("no.such") | {"rid": b"r" * 16}
    assert alice.send(frame)["rid"] == b"r" * 16


@pytest.mark.parametrize(("kind", "name"), REQUIRED)
def test_a_missing_field_is_named(alice, kind, name):
    body = deepcopy(GOOD[kind])
    del body[name]
    error = unchanged(alice, alice.frame(kind, **body), "BAD_ARGUMENT")
    assert error["cause"] == [f"b.{name} is required"]


@pytest.mark.parametrize("kind", GOOD)
def test_an_unknown_field_is_named(alice, kind):
    error = unchanged(alice, alice.frame(kind, **GOOD[kind], owner=3), "BAD_ARGUMENT")
    assert error["cause"] == ["b.owner is not a field of this message"]


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("body", [None, 0, "b", b"b", [], [1]])
def test_a_body_that_is_no_map_is_a_bad_argument(alice, kind, body):
    unchanged(alice, alice.frame(kind) | {"b": body}, "BAD_ARGUMENT")


RIGHT_AFTER_ALL = [("image.put", "data", b""), ("hello", "versions", []), ("attest", "nonce", b"")]


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(*of, value) for of in REQUIRED for value in WRONG if (*of, value) not in RIGHT_AFTER_ALL],
    ids=lambda value: repr(value)[:12],
)
def test_a_field_of_the_wrong_type_or_size_changes_nothing(alice, kind, name, value):
    unchanged(alice, alice.frame(kind, **(GOOD[kind] | {name: value})), "BAD_ARGUMENT")


@pytest.mark.parametrize(
    "change",
    [
        {"vcpus": 0},
        {"vcpus": True},
        {"memory_mib": 0},
        {"image": b"short"},
        {"launch": b"x" * 4097},
        {"labels": {"n" * 33: "v"}},
        {"labels": {"n": "v" * 65}},
        {"labels": {"n": 1}},
        {"labels": {str(n): "v" for n in range(9)}},
        {"on_owner_loss": "forget"},
        {"on_owner_loss": "linger"},
        {"linger_s": 5},
        {"on_owner_loss": "linger", "linger_s": 3601},
        {"colour": "red"},
    ],
    ids=lambda change: repr(change)[:30],
)
def test_each_field_of_a_spec_is_looked_at(alice, spec, change):
    unchanged(alice, alice.frame("start", spec=spec(**change)), "BAD_ARGUMENT")


def test_a_kind_of_ready_that_needs_a_channel_is_unsupported(alice, spec):
    unchanged(alice, alice.frame("start", spec=spec(ready="notified")), "UNSUPPORTED")


scalars = st.none() | st.booleans() | st.integers(-9, 1 << 65) | st.binary(max_size=40) | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
names = st.sampled_from(sorted({name for body in GOOD.values() for name in body}))
frames = st.fixed_dictionaries(
    {
        "v": st.just(1),
        "t": st.sampled_from([*MESSAGES]),
        "rid": st.just(b"r" * 16),
        "epoch": st.just(1),
        "b": st.dictionaries(names, values, max_size=4) | values,
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # both make new things each time
@given(frame=frames | values)
def test_no_frame_whatever_makes_a_child_or_raises(new_world, join, frame):
    alice = join(new_world(), 3)
    reply = alice.send(frame)
    assert reply["t"] in {"ok", "err", "ev"}
    assert alice.world.service.records()["child"] == 0
    assert reply["b"].get("name") != "INTERNAL"
