"""docs/wire.md suffices: a client of nothing but socket, struct and msgpack."""

from __future__ import annotations

import hashlib
import socket
import struct

import msgpack
import pytest


class Plain:
    """Frames as the document has them: four bytes of length, one map."""

    def __init__(self, path):
        self.stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.stream.settimeout(20)
        self.stream.connect(path)
        self.epoch, self.number = 0, 0

    def say(self, kind, body, key=None):
        self.number += 1
        rid = struct.pack(">QQ", 7, self.number)
        frame = {"v": 1, "t": kind, "rid": rid, "epoch": self.epoch, "key": key, "b": body}
        packed = msgpack.packb(frame)
        self.stream.sendall(struct.pack(">I", len(packed)) + packed)
        return rid

    def hear(self):
        (length,) = struct.unpack(">I", self.exactly(4))
        return msgpack.unpackb(self.exactly(length))

    def exactly(self, n):
        got = b""
        while len(got) < n:
            more = self.stream.recv(n - len(got))
            assert more, "the host closed the connection"
            got += more
        return got

    def ask(self, kind, body, key=None):
        rid = self.say(kind, body, key)
        reply = self.hear()
        assert reply["rid"] == rid
        return reply["t"], reply["b"]


@pytest.mark.slow
def test_a_life_told_with_the_document_alone(service_process):
    directory = service_process().directory
    client = Plain(f"{directory}/3.vsock_5200")
    _, hello = client.ask("hello", {"versions": [1]})
    client.epoch = hello["epoch"]

    image = b"#!nestbed\nprint hello\nready\n"
    digest = hashlib.sha256(image).digest()
    put = {"digest": digest, "size": len(image), "offset": 0, "data": image}
    assert client.ask("image.put", put) == ("ok", {"have": len(image), "complete": True})

    watcher = Plain(f"{directory}/3.vsock_5200")
    watcher.epoch = client.epoch
    kind, established = watcher.ask("watch", {})
    assert (kind, established["kind"]) == ("ev", "established")

    spec = {"image": digest, "vcpus": 1, "memory_mib": 16, "ready": "notified", "debug": True}
    key = struct.pack(">IIQ", client.epoch, 0, 1)
    kind, started = client.ask("start", {"spec": spec}, key)
    assert (kind, started["state"], started["replayed"]) == ("ok", "READY", False)
    child = started["child"]
    assert client.ask("start", {"spec": spec}, key)[1]["replayed"] is True
    assert client.ask("start", {"spec": spec | {"vcpus": 2}}, key)[1]["name"] == "KEY_CONFLICT"
    assert [watcher.hear()["b"]["state"] for _ in range(4)] == ["RESERVED", "LOADING", "STARTING", "READY"]

    _, offered = client.ask("channel.open", {"child": child, "port": 7})
    channel = Plain(offered["address"].removeprefix("unix:"))
    channel.stream.sendall(offered["token"] + b"ping")
    assert channel.exactly(7) == b"OK\nping"
    assert client.ask("console.read", {"child": child})[1]["data"] == b"hello\n"

    kind, error = client.ask("stop", {"child": child, "how": "never"})
    assert (kind, error["code"], error["name"]) == ("err", 101, "BAD_ARGUMENT")
    assert client.ask("stop", {"child": child})[1] == {"state": "STOPPED"}
    assert client.ask("destroy", {"child": child})[1] == {"state": "RELEASED"}
    assert client.ask("describe", {"child": child})[1]["exit"] == 0
    assert client.ask("ack_exit", {"child": child}) == ("ok", {})
    assert client.ask("list", {"exited": True})[1] == {"children": [], "after": None}

    client.stream.sendall(struct.pack(">I", 1 << 20))
    assert client.stream.recv(1) == b"", "a frame beyond the limit ends the connection"
