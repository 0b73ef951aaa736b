"""Whatever is changed in what a host says: an answer, or one error that says what is wrong with it."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app
from nestbed import connection
from nestbed.client import Budget, Hosting, HostingError, HostingProtocolError, HostingUnreachable
from protocol.hosting import Identity, Service
from protocol.hosting.evidence import Measured, Trust
from protocol.hosting.limits import FRAME_BYTES, Offer
from protocol.hosting.machine import AttestGuest, Await, DumpGuest
from protocol.hosting.replies import ANSWERS
from protocol.wire import FrameDecoder, pack_frame

ADDRESS = "unix:/host"
IMAGE = b"image"
Change = Callable[[bytes], bytes]  # of a frame's bytes


class Key:
    """Signs anything."""

    def sign(self, payload: bytes) -> bytes:
        return b"signed"

    def public_key(self) -> bytes:
        return b"key"


class Host:
    """A real service in this process, and one reply of it that is changed on the way."""

    def __init__(self, changed: str = "", change: Change = bytes) -> None:
        self.service = Service(
            offer=Offer(channels="unix:/channels", dump=True), trust=Trust(bytes(32), Key())
        )
        self.changed, self.change = changed, change
        self.decoder = FrameDecoder(FRAME_BYTES)
        self.said = b""
        self.watches: list[bytes] = []

    def settimeout(self, seconds: float | None) -> None:
        pass

    def close(self) -> None:
        """A watch ends with its connection."""
        self.said = b""
        for rid in self.watches:
            self.service.unwatch(Identity(3, 1), rid)

    def sendall(self, data: bytes) -> None:
        for frame in self.decoder.feed(data):
            assert isinstance(frame, dict)
            self.watches += [frame["rid"]] if frame["t"] == "watch" else []
            reply = self.drive(self.service.handle(Identity(3, 1), frame, 0))
            frames = [reply, *(event for _, event in self.service.events())]
            for each in frames:
                packed = pack_frame(each)
                self.said += self.change(packed) if frame["t"] == self.changed else packed

    def drive(self, step: Iterator[Any]) -> Any:
        answer: Any = None
        try:
            while True:
                match step.send(answer):  # type: ignore[attr-defined] # a generator
                    case Await(until):
                        answer = until
                    case AttestGuest():
                        answer = Measured(hashlib.sha384(IMAGE).digest(), None)
                    case DumpGuest(_, offset, count):
                        answer = (len(IMAGE), IMAGE[offset : offset + count])
                    case _:
                        answer = None
        except StopIteration as done:
            return done.value

    def recv(self, most: int) -> bytes:
        data, self.said = self.said[:most], self.said[most:]
        return data


def dial_of(host: Host) -> Callable[..., Host]:
    def dial(address: object, *_: object) -> Host:
        if str(address) != ADDRESS:
            raise ConnectionRefusedError("nobody there")
        host.decoder = FrameDecoder(FRAME_BYTES)
        return host

    return dial


CALLS: dict[str, Callable[[Hosting, bytes], object]] = {
    "hello": lambda host, child: (host.hello(), host.key()),
    "quota.get": lambda host, child: host.quota(),
    "image.put": lambda host, child: host.put(b"another"),
    "start": lambda host, child: host.start(IMAGE, vcpus=1, memory_mib=1, debug=True),
    "wait": lambda host, child: host.wait(child),
    "describe": lambda host, child: host.describe(child),
    "list": lambda host, child: list(host.list(exited=True)),
    "stop": lambda host, child: host.stop(child),
    "reset": lambda host, child: host.reset(child),
    "destroy": lambda host, child: host.destroy(child),
    "ack_exit": lambda host, child: host.acknowledge(bytes(16)),
    "lease.renew": lambda host, child: host.renew(),
    "console.read": lambda host, child: host.console(child),
    "channel.open": lambda host, child: host.channel(child, 7),
    "channel.close": lambda host, child: host.ask("channel.close", channel=bytes(16)),
    "adopt": lambda host, child: host.adopt(host.credential, 1, [child]),
    "attest": lambda host, child: host.attest(child, b"nonce"),
    "dump": lambda host, child: list(host.dump(child)),
    "memory.deposit": lambda host, child: host.deposit(1),
    "watch": lambda host, child: list(islice(host.events(0), 4)),
    "unwatch": lambda host, child: host.ask("unwatch", watch=bytes(16)),
    "explain": lambda host, child: host.explain(400),
    "migrate": lambda host, child: host.migrate(),
}
COMMANDS = {
    "hello": ["hello"],
    "quota.get": ["quota"],
    "wait": ["wait", "CHILD"],
    "describe": ["describe", "CHILD"],
    "list": ["list", "--exited"],
    "stop": ["stop", "CHILD"],
    "destroy": ["destroy", "CHILD", "--ack"],
    "console.read": ["console", "CHILD"],
    "attest": ["attest", "CHILD"],
    "watch": ["watch", "--since", "0", "--count", "2"],
    "explain": ["explain", "400"],
    "migrate": ["migrate"],
}

LEAVES = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.binary(max_size=20)
)
VALUES = st.recursive(
    LEAVES | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Something is taken away, replaced or added anywhere in a reply."""
    value, seed = draw(VALUES), draw(st.integers(0, 1 << 32))
    way = draw(st.sampled_from(["replace", "replace", "drop", "add"]))

    def change(packed: bytes) -> bytes:
        (reply,) = FrameDecoder().feed(packed)
        within, name = random.Random(seed).choice(list(places(reply)))
        if way == "replace":
            within[name] = value
        elif isinstance(within, list):
            within[name : name + 1] = [] if way == "drop" else [value, value]
        elif way == "drop":
            del within[name]
        else:
            within["more"] = value
        return pack_frame(reply)

    return change


def places(inside: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a reply: what it is in, and under which name or number."""
    for name, value in list(inside.items() if isinstance(inside, dict) else enumerate(inside)):
        yield inside, name
        if isinstance(value, dict | list):
            yield from places(value)


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> Callable[[Host], tuple[Hosting, bytes]]:
    """A client of such a host, and its child; only what comes after that is changed."""

    def reach(host: Host) -> tuple[Hosting, bytes]:
        changed, host.changed = host.changed, ""
        monkeypatch.setattr(connection, "dial", dial_of(host))
        hosting = Hosting(ADDRESS, budget=Budget(tries=1))
        hosting.hello()
        child = hosting.start(IMAGE, vcpus=1, memory_mib=1, debug=True)
        host.changed = changed
        return hosting, child.id

    return reach


def test_every_message_is_asked_here() -> None:
    assert CALLS.keys() == ANSWERS.keys() | {"quota.get"}


@pytest.mark.parametrize(
    "message", [each for each in CALLS if each not in ("channel.open", "memory.deposit")]
)
def test_unchanged_it_is_an_answer(reached, message):
    hosting, child = reached(Host())
    if message == "migrate":
        hosting.destroy(child)
    CALLS[message](hosting, child)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(message=st.sampled_from(sorted(CALLS)), change=changes())
def test_whatever_is_changed_is_an_answer_or_told_as_the_hosts_mistake(reached, message, change):
    hosting, child = reached(Host(message, change))
    try:
        CALLS[message](hosting, child)
    except HostingProtocolError as wrong:
        assert wrong.message == message
        assert wrong.field
        assert wrong.allowed
    except HostingError as refused:
        assert (message, refused.name) in {
            ("migrate", "POLICY"),
            ("memory.deposit", "UNSUPPORTED"),
        } or refused.code
    except ConnectionRefusedError:
        assert message == "channel.open"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    message=st.sampled_from(sorted(CALLS)),
    at=st.integers(0, 400),
    byte=st.integers(0, 255),
    cut=st.booleans(),
)
def test_whichever_byte_is_changed_or_the_last_one(reached, message, at, byte, cut):
    def change(packed: bytes) -> bytes:
        place = at % len(packed)
        return packed[:place] + (b"" if cut else bytes([byte]) + packed[place + 1 :])

    hosting, child = reached(Host(message, change))
    try:
        CALLS[message](hosting, child)
    except (HostingProtocolError, HostingError, HostingUnreachable):
        pass
    except ConnectionRefusedError:
        assert message == "channel.open"


def command(*words: str) -> Any:
    return CliRunner().invoke(app, ["hosted", *words, "--to", ADDRESS])


def test_a_number_beyond_what_a_message_holds_is_the_callers_mistake(reached, tmp_path):
    reached(Host())
    (tmp_path / "image").write_bytes(IMAGE)
    for words in (
        ["start", f"{tmp_path}/image", "--memory", str(1 << 70)],
        ["deposit", str(1 << 70)],
        ["watch", "--since", str(1 << 70)],
        ["adopt", "--credential", "00" * 32, "--epoch", str(1 << 70)],
    ):
        ended = command(*words)
        assert (ended.exit_code, "is uint" in ended.output) == (exit_codes.USAGE, True), ended.output


def test_a_dump_that_is_refused_leaves_the_file_alone(reached, tmp_path):
    reached(Host())
    kept = tmp_path / "dump"
    kept.write_text("the last one")
    refused = command("dump", "ff" * 16, "-o", str(kept))
    assert (refused.exit_code, "NOT_FOUND" in refused.output) == (exit_codes.FAILED, True)
    assert kept.read_text() == "the last one"


@pytest.mark.parametrize("words", [("keep",), ("watch", "--since", "0", "--count", "9")])
def test_who_keeps_or_watches_waits_for_a_service_that_is_started_again(reached, monkeypatch, words):
    """Found by walking: both gave up after a few seconds, and the guests went with their lease."""
    host, naps = Host(), []
    reached(host)
    dial, refused = connection.dial, iter([True] * 40)

    def away(*where: Any) -> Host:
        if naps and next(refused, False):
            raise ConnectionRefusedError("it is being started again")
        return dial(*where)

    def nap(seconds: float) -> None:
        naps.append(seconds)
        host.recv = lambda most: b"" if len(naps) == 1 else Host.recv(host, most)
        if next(beats, None) is None:
            raise KeyboardInterrupt

    beats = iter(range(60))
    monkeypatch.setattr(connection, "dial", away)
    monkeypatch.setattr(time, "sleep", nap)
    ended = command(*words)
    assert (ended.exit_code, len(naps) > 40) == (exit_codes.INTERRUPTED, True), ended.output


def test_no_children_are_said_to_be_none(reached):
    hosting, child = reached(Host())
    hosting.destroy(child)
    empty = command("list")
    assert (empty.stdout, "--exited" in empty.stderr) == ("", True)
    assert child.hex() in command("list", "--exited").stdout


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=12)
@given(message=st.sampled_from(sorted(COMMANDS)), change=changes())
def test_the_command_ends_with_words_whatever_is_changed(reached, message, change):
    host = Host(message, change)
    _, child = reached(host)
    words = [child.hex() if word == "CHILD" else word for word in COMMANDS[message]]
    ended = CliRunner().invoke(app, ["hosted", *words, "--to", ADDRESS])
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    if "breaks the protocol" in ended.output:
        assert ended.exit_code == exit_codes.ENVIRONMENT
