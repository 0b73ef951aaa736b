"""The ready handshake: a word is kept, answered, then known to be; what was written before it is there."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import trio

from actors.hosting import machine
from actors.hosting.machine import ProcessMachine
from actors.hosting.ready import ReadyChannel
from actors.hosting.vmm.emulated import Emulated
from actors.hosting.vmm.files import GuestFiles
from actors.runtime.mailbox import Reply
from actors.runtime.transport.address import listen_unix
from protocol.hosting.machine import CreateGuest, DestroyGuest, Spec, StartGuest

FACTS = {"ready": "notified", "nonce": "0f" * 16}


async def test_a_word_on_the_channel_is_kept_before_it_is_answered_and_after(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of Unix sockets are short
    files, kept = GuestFiles(Path()), []

    async def guest(stream):
        await stream.send_all(b"noise of a boot" + FACTS["nonce"].encode() + b"\xb7")
        kept.append(files.ready())
        assert await stream.receive_some(1) == b"\xb7"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, guest, [listen_unix("channel")])
        with ReadyChannel(files, FACTS) as channel:
            assert files.ready() == (b"", False)
            assert await channel.announced(0) == b"\xb7"
        assert files.ready() == (b"\xb7", True)
        nursery.cancel_scope.cancel()


IMAGE = b"#!nestbed\nprint up\nready\nhang\n"


def dialled(path, process):
    """A connection to a socket of a guest that comes up."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    while process.poll() is None:
        with suppress(OSError):
            made.connect(str(path))
            return made
    raise AssertionError("it ended")


def received(stream, count):
    """So many bytes: with a time limit one `recv` gives what is there."""
    got = b""
    while len(got) < count:
        piece = stream.recv(count - len(got))
        assert piece, got
        got += piece
    return got


@contextmanager
def a_guest(files, image):
    """An emulated guest without a service, and what talks to its VMM; before that, `files` has it all."""
    files.make(b"c" * 16, 77, image, {"ready_port": 5, "nonce": FACTS["nonce"]})
    with subprocess.Popen(Emulated().command(files)) as process:
        try:
            with dialled(files.socket("control"), process) as control:
                control.settimeout(60)
                yield process, control
        finally:
            process.kill()


def test_a_guest_says_its_word_once_what_it_printed_is_with_whoever_reads(short_directory):
    files = GuestFiles(short_directory / "77")
    with ExitStack() as held:
        ready = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        (process, control) = held.enter_context(a_guest(files, IMAGE))
        ready.bind(files.socket("vsock_5"))
        ready.listen()
        ready.setblocking(False)
        control.sendall(b"reset\n")
        assert control.recv(100) == b"ok\n", "it has booted while somebody listens for its word"
        with pytest.raises(BlockingIOError):
            ready.accept()
        console = held.enter_context(dialled(files.socket("console"), process))
        assert received(console, 6) == b"up\nup\n"
        ready.settimeout(60)
        announced = held.enter_context(ready.accept()[0])
        assert received(announced, 17) == bytes.fromhex(FACTS["nonce"]) + b"\xb7"


def test_what_a_guest_had_begun_is_over_with_its_boot(short_directory):
    """Each boot sleeps once: the timer of one does not go on with the program of the next."""
    files = GuestFiles(short_directory / "77")
    with a_guest(files, b"#!nestbed\nsleep 1\nprint a\nsleep 3600000\nprint b\nhang\n") as (_, control):
        control.sendall(b"reset\nreset\n")
        assert received(control, 6) == b"ok\nok\n"
        left = 4
        while left == 4:
            control.sendall(b"dump\n")
            assert received(control, 3) == b"ok\n"
            left = int((files.path / "dump").read_bytes().split()[5])
        assert left == 2, "it prints `b` in an hour"


@asynccontextmanager
async def a_machine_with_a_guest(directory, wrote):
    """A guest that has said its word; it is destroyed at the end."""
    child, spec = b"c" * 16, Spec(hashlib.sha256(IMAGE).digest(), 1, 1, ready="notified")
    async with trio.open_nursery() as nursery:
        mine = ProcessMachine(
            directory / "guests",
            {"emulated": Emulated()},
            nursery,
            lambda *_: None,
            lambda _, data: wrote.append(data),
        )

        async def done(effect):
            answer = Reply()
            mine.submit(effect, answer.deliver)
            assert await answer.wait() is None

        await done(CreateGuest(child, 77, spec, IMAGE, 3))
        await done(StartGuest(child, 60_000))
        yield mine._running[child]
        await done(DestroyGuest(child))
        nursery.cancel_scope.cancel()


async def test_what_a_guest_printed_before_its_word_was_told_before_the_word(short_directory, monkeypatch):
    """Also where whoever reads its console has not come to it."""
    monkeypatch.setattr(machine, "wait_readable", lambda _: trio.sleep_forever())
    wrote = []
    async with a_machine_with_a_guest(short_directory, wrote):
        assert b"".join(wrote) == b"up\n"
        monkeypatch.undo()


async def test_a_console_that_is_closed_is_read_by_nobody(short_directory, monkeypatch):
    """Its number may be another's file at once."""
    closed, over = [], trio.Event()
    async with a_machine_with_a_guest(short_directory, []) as running:
        close = trio.SocketStream.aclose

        async def noted(stream):
            closed.append(running.console)
            over.set()
            await close(stream)

        monkeypatch.setattr(trio.SocketStream, "aclose", noted)
        os.kill(running.pid, signal.SIGKILL)
        await over.wait()
    assert closed == [-1]
