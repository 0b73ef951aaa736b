"""Bytes between a socket and two descriptors: neither direction waits for the other."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from actors.runtime.transport.blocking import pump

MANY = b"a line of many\n" * 200_000  # more than all buffers between hold


def echo(end: socket.socket) -> None:
    """Answer what comes at once, and end when it ends."""
    with end:
        while data := end.recv(65_536):
            end.sendall(data)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_more_than_all_buffers_goes_there_and_back(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").write_bytes(MANY)
    out = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT, 0o600)
    ours, theirs = socket.socketpair()
    helpers = [threading.Thread(target=echo, args=(theirs,))]
    source = os.open(tmp_path / "in", os.O_RDONLY)
    if kind == "pipe":
        taken = source
        source, into = os.pipe()

        def feed() -> None:
            with open(taken, "rb") as file, open(into, "wb") as pipe:
                pipe.write(file.read())

        helpers.append(threading.Thread(target=feed))
    for helper in helpers:
        helper.start()
    with ours:
        pump(ours, source, out)
    for helper in helpers:
        helper.join()
    os.close(source)
    os.close(out)
    assert (tmp_path / "out").read_bytes() == MANY
