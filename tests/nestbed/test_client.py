"""The client library: typed errors, retries within a budget, and nothing done twice."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import msgpack
import pytest

from nestbed import client
from nestbed.client import ERRORS, Budget, Hosting, HostingError, HostingProtocolError, HostingUnreachable

QUICK = Budget(tries=4, seconds=600, first_s=0.001, longest_s=0.01)  # the tries end it, not the time


class Host:
    """A host that answers what a test gives it: a body, an error, or a connection that ends."""

    def __init__(self, path: Path, answers: list[Any], kind: str = "ok") -> None:
        self.answers, self.asked, self.connections = answers, [], 0
        self.kind = kind
        self.stream: socket.socket | None = None
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Close the door, and the connection that is there."""
        self.listener.shutdown(socket.SHUT_RDWR)
        if self.stream is not None:
            with contextlib.suppress(OSError):
                self.stream.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.path.unlink()

    def serve(self) -> None:
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.stream = stream
            with stream:
                while self.turn(stream):
                    pass

    def turn(self, stream: socket.socket) -> bool:
        head = stream.recv(4, socket.MSG_WAITALL)
        if len(head) < 4:
            return False
        frame = msgpack.unpackb(stream.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))
        self.asked.append(frame)
        answer = self.answers.pop(0)
        if answer is None:
            return False
        kind = "err" if isinstance(answer, dict) and "code" in answer else self.kind
        packed = msgpack.packb({"v": 1, "t": kind, "rid": frame["rid"], "b": answer})
        stream.sendall(struct.pack(">I", len(packed)) + packed)
        return True


def an_error(name: str, retryable: bool = False, **more: Any) -> dict[str, Any]:
    code = {row.name: int(row) for row in __import__("protocol.hosting.errors", fromlist=["Code"]).Code}[name]
    return {"code": code, "name": name, "retryable": retryable, "retry_after_ms": 0, "stage": "",
            "cause": ["because"], "who": "host", "detail": {}} | more  # fmt: skip


@pytest.fixture
def asking(tmp_path):
    def make(*answers: Any, budget: Budget = QUICK) -> tuple[Hosting, Host]:
        host = Host(tmp_path / "s", list(answers))
        hosting = Hosting(f"unix:{tmp_path}/s", budget=budget, timeout_s=60, rng=random.Random(1))
        made.append((hosting, host))
        return hosting, host

    made: list[tuple[Hosting, Host]] = []
    yield make
    for hosting, host in made:
        hosting.close()
        host.end()
        host.thread.join(2)


def test_every_error_of_the_interface_is_an_exception_of_its_own():
    assert len(ERRORS) > 25
    for name, kind in ERRORS.items():
        assert issubclass(kind, HostingError)
        assert getattr(client, kind.__name__) is kind
        assert kind.__name__ in client.__all__
        assert kind.__doc__.startswith(name)


def test_a_refusal_is_raised_with_all_that_it_says(asking):
    hosting, host = asking(an_error("QUOTA", detail={"dimension": "vcpus"}))
    with pytest.raises(ERRORS["QUOTA"]) as refused:
        hosting.quota()
    assert refused.value.detail == {"dimension": "vcpus"}
    assert (refused.value.retryable, refused.value.who) == (False, "host")
    assert "because" in str(refused.value)
    assert len(host.asked) == 1, "what cannot be tried again is not"


def test_what_may_be_tried_again_is_with_the_same_key(asking):
    busy = an_error("NO_RESOURCE", True)
    answer = {"child": b"c" * 16, "cid": 7, "state": "READY", "replayed": False, "charged": {}}
    have = {"have": 5, "complete": True}
    hosting, host = asking(have, busy, None, busy | {"retry_after_ms": 1}, answer)
    assert hosting.start(b"image", vcpus=1, memory_mib=1).cid == 7
    starts = [frame for frame in host.asked if frame["t"] == "start"]
    assert len(starts) == 4
    assert len({frame["key"] for frame in starts}) == 1
    assert len({frame["rid"] for frame in starts}) == 4
    assert host.connections == 2, "a lost connection is made anew"


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"code": 5}, "b.name"),
        ({"code": 5, "name": "QUOTA"}, "b.retryable"),
        ({"code": None, "name": "QUOTA"}, "b.code"),
        (7, "the frame"),
        ([], "the frame"),
        ({"children": {"limit": 1}}, "b.children.charged"),
    ],
)
def test_a_host_that_breaks_the_protocol_is_told_field_by_field_and_left_alone(asking, answer, field):
    hosting, host = asking(*[answer] * 2)
    with pytest.raises(HostingProtocolError) as wrong:
        hosting.quota()
    assert (wrong.value.message, wrong.value.field) == ("quota.get", field)
    assert f"the answer to quota.get: {field} {wrong.value.allowed}" in str(wrong.value)
    assert len(host.asked) == 1, "nothing is tried again"
    with pytest.raises(HostingProtocolError):
        hosting.quota()
    assert host.connections == 2, "it cost the connection"


def test_what_a_later_host_says_besides_is_passed_over(asking):
    hosting, _ = asking(hello("peer") | {"weather": "fine"}, {"a": ROW | {"colour": 1}})
    assert hosting.hello()["weather"] == "fine"
    assert hosting.quota()["a"]["colour"] == 1


@pytest.mark.parametrize("have", [0, 6])
def test_a_host_that_never_has_an_image_is_not_fed_for_ever(asking, have):
    hosting, _ = asking(*[HAVE | {"have": have}] * 20)
    with pytest.raises(HostingProtocolError, match="grows with each piece"):
        hosting.put(b"image")


def test_a_dump_that_does_not_end_is_given_up(asking):
    hosting, _ = asking({"size": 9, "data": b"12345"}, {"size": 9, "data": b""})
    with pytest.raises(HostingProtocolError, match="not empty before their end"):
        list(hosting.dump(b"c" * 16))


def test_a_list_that_does_not_end_is_given_up(asking):
    hosting, _ = asking(*[{"children": [], "after": b"a" * 16}] * 2)
    with pytest.raises(HostingProtocolError, match="beyond the page before"):
        list(hosting.list())


@pytest.mark.parametrize("detail", [{}, {"pages": 0}, {"pages": "many"}])
def test_who_lacks_pages_has_to_say_how_many(asking, detail):
    hosting, _ = asking(hello("l1vh"), HAVE, LACKING | {"detail": detail})
    hosting.hello()
    with pytest.raises(HostingProtocolError, match=r"b\.detail\.pages"):
        hosting.start(b"image", vcpus=1, memory_mib=1, deposit=True)


def test_a_host_that_answers_byte_by_byte_without_end_is_not_waited_for_without_end(tmp_path):
    """Each byte comes in time; the answer never does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)

    def drip() -> None:
        stream, _ = listener.accept()
        with stream, contextlib.suppress(OSError):
            stream.sendall(struct.pack(">I", 60_000))
            while not over.wait(0.02):
                stream.sendall(b"x")

    over = threading.Event()
    dripping = threading.Thread(target=drip)
    dripping.start()
    with listener, pytest.raises(HostingUnreachable, match="timed out"):
        Hosting(f"unix:{tmp_path}/s", budget=Budget(tries=1), timeout_s=0.3).hello()
    over.set()
    dripping.join()


@pytest.mark.parametrize("after", [[], [{"kind": "established", "seq": 3, "last": 3}]])
def test_events_end_within_the_budget_where_nobody_answers_any_more(tmp_path, after):
    """A service that went away: what a watcher waits for will not come."""
    host = Host(tmp_path / "s", [*after, None], kind="ev")
    events = Hosting(f"unix:{tmp_path}/s", budget=QUICK).events()
    assert [next(events) for _ in after] == after
    host.end()
    with pytest.raises(HostingUnreachable):
        next(events)


def test_the_budget_ends_and_the_last_error_is_told(asking):
    hosting, host = asking(*[an_error("BUSY_RELEASING", True)] * 9)
    with pytest.raises(ERRORS["BUSY_RELEASING"]):
        hosting.destroy(b"c" * 16)
    assert len(host.asked) == QUICK.tries
    assert hosting.retries == QUICK.tries - 1


LACKING = an_error("NEED_MEMORY", True, detail={"pages": 50})
STARTED = {"child": b"c" * 16, "cid": 7, "state": "READY", "replayed": False, "charged": {}}
HAVE = {"have": 5, "complete": True}


ROW = {"limit": 50, "charged": 0, "free": 50, "unit": "page", "requested": 0}


def hello(profile: str) -> dict[str, Any]:
    told = {"version": 1, "features": [], "id": 3, "epoch": 1, "credential": bytes(32), "policy": bytes(32)}
    return told | {"profile": profile, "lease": {"length_ms": 9, "renew_ms": 3}, "limits": {}, "cids": [5, 6]}


def test_what_waits_for_long_keeps_its_lease_meanwhile(tmp_path):
    """Found by walking: a boot of 35 seconds outlived the lease of whoever waited for it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)
    asked: list[str] = []

    def serve() -> None:
        stream, _ = listener.accept()
        waiting: list[dict[str, Any]] = []
        with stream:
            while len(asked) < 4:
                head = stream.recv(4, socket.MSG_WAITALL)
                if not head:
                    return
                frame = msgpack.unpackb(stream.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL))
                asked.append(frame["t"])
                waiting.append(frame)
                if frame["t"] == "hello" or len(asked) == 4:
                    stream.sendall(b"".join(map(answered, reversed(waiting))))
                    waiting.clear()
            stream.recv(1)  # the client has read all, and closes

    def answered(frame: dict[str, Any]) -> bytes:
        body = {"hello": hello("peer"), "stop": {"state": "STOPPED"}}.get(frame["t"])
        kind, body = ("ok", body) if body else ("err", an_error("NOT_PERMITTED"))
        packed = msgpack.packb({"v": 1, "t": kind, "rid": frame["rid"], "b": body})
        return struct.pack(">I", len(packed)) + packed

    serving = threading.Thread(target=serve)
    serving.start()
    with listener, Hosting(f"unix:{tmp_path}/s", budget=Budget(tries=1)) as hosting:
        assert hosting.stop(bytes(16)) == "STOPPED"
    serving.join()
    assert asked == ["hello", "stop", "lease.renew", "lease.renew"], "however those are answered"


def test_pages_that_are_lacking_are_deposited_and_the_start_goes_on_with_its_key(asking):
    hosting, host = asking(hello("l1vh"), HAVE, LACKING, ROW, HAVE, STARTED)
    hosting.hello()
    assert hosting.start(b"image", vcpus=1, memory_mib=1, deposit=True).cid == 7
    assert [frame["b"] for frame in host.asked if frame["t"] == "memory.deposit"] == [{"pages": 50}]
    assert len({frame["key"] for frame in host.asked if frame["t"] == "start"}) == 1
    assert hosting.retries == 0, "nothing was waited for"


def test_lacking_pages_do_not_come_by_waiting(asking):
    hosting, host = asking(hello("l1vh"), HAVE, LACKING)
    hosting.hello()
    with pytest.raises(ERRORS["NEED_MEMORY"]) as refused:
        hosting.start(b"image", vcpus=1, memory_mib=1)
    assert refused.value.detail == {"pages": 50}
    assert [frame["t"] for frame in host.asked].count("start") == 1


def test_where_the_host_itself_lacks_memory_it_may_come(asking):
    hosting, _ = asking(hello("peer"), HAVE, LACKING, STARTED)
    hosting.hello()
    assert hosting.start(b"image", vcpus=1, memory_mib=1).cid == 7
    assert hosting.retries == 1


def test_a_long_budget_does_not_run_out_of_numbers(asking):
    tries = 1_100
    budget = Budget(tries=tries, seconds=600, first_s=1e-6, longest_s=1e-5)
    hosting, host = asking(*[an_error("BUSY_RELEASING", True)] * tries, budget=budget)
    with pytest.raises(ERRORS["BUSY_RELEASING"]):
        hosting.destroy(b"c" * 16)
    assert len(host.asked) == tries


def test_a_budget_of_one_try_tries_once(asking):
    hosting, host = asking(None, budget=Budget(tries=1))
    with pytest.raises(HostingUnreachable):
        hosting.quota()
    assert len(host.asked) == 1


def test_nobody_there_is_told_after_the_budget(tmp_path):
    with pytest.raises(HostingUnreachable, match="nobody"):
        Hosting(f"unix:{tmp_path}/nobody", budget=QUICK).hello()


def test_a_handshake_has_a_deadline(tmp_path):
    """A guest between bind and listen: the multiplexer takes the connection and never answers."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "s"))
    listener.listen(8)
    with listener, pytest.raises(HostingUnreachable, match="timed out"):
        Hosting(f"hybrid:{tmp_path}/s:5200", budget=Budget(tries=1), timeout_s=0.05).hello()


def test_keys_grow_and_name_the_epoch():
    hosting = Hosting("unix:/nowhere")
    hosting.epoch = 3
    keys = [hosting.key() for _ in range(3)]
    assert keys == sorted(set(keys))
    assert {key[:4] for key in keys} == {b"\0\0\0\3"}


def test_an_address_that_is_none_is_refused_at_once():
    with pytest.raises(ValueError, match="allowed"):
        Hosting("somewhere")
    with pytest.raises(ValueError, match="vsock, hybrid, unix and tcp"):
        Hosting("memory:2:5200", budget=Budget(tries=1)).hello()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"memory_mib": 1 << 70}, "b.spec.memory_mib is uint 1..4294967295"),
        ({"launch": bytes(1 << 17)}, "b.spec.launch is bin of 0..4096 bytes"),
        ({"labels": {"a": object()}}, "b.spec.labels.a is str of 1..64 characters"),
    ],
)
def test_what_no_message_holds_is_told_by_its_field_and_not_asked(asking, spec, said):
    hosting, host = asking(HAVE)
    with pytest.raises(ValueError, match=re.escape(said)):
        hosting.start(b"image", **({"vcpus": 1, "memory_mib": 1} | spec))
    assert [frame["t"] for frame in host.asked] == ["image.put"]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e9])
def test_a_time_has_bounds(seconds):
    with pytest.raises(ValueError, match="allowed: 0 to 600"):
        Hosting("unix:/nowhere").wait(bytes(16), timeout_s=seconds)
    with pytest.raises(ValueError, match="allowed: 0 to 600"):
        Hosting("unix:/nowhere").stop(bytes(16), grace_s=seconds)


def test_an_image_travels_only_as_far_as_the_host_lacks_it(asking):
    data = bytes(range(256)) * 200
    hosting, host = asking({"have": 40_000, "complete": False}, {"have": len(data), "complete": True})
    hosting.put(data)
    assert [frame["b"]["offset"] for frame in host.asked] == [0, 40_000]
    assert host.asked[1]["b"]["data"] == data[40_000:]


def test_all_pages_of_a_list_are_one_iterator(asking):
    record = {
        "cid": 7,
        "state": "RELEASED",
        "reason": "",
        "failure": None,
        "exit": 0,
        "labels": {},
        "timings": {},
    }
    first, second = (record | {"child": name * 16, "reason": "request"} for name in (b"a", b"b"))
    hosting, host = asking({"children": [first], "after": b"a" * 16}, {"children": [second], "after": None})
    assert list(hosting.list()) == [first, second]
    assert host.asked[1]["b"]["after"] == b"a" * 16
