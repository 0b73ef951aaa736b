"""The faults that need real processes: each by its name, on a service in the test's own run."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from actors.hosting import serve
from actors.hosting.machine import ProcessMachine
from actors.hosting.serve import Options, open_service
from actors.hosting.vmm.emulated import Emulated
from actors.hosting.vmm.files import GuestFiles
from actors.runtime.mailbox import Reply
from nestbed.client import ERRORS, Budget, Hosting
from protocol.errors import OutcomeUnknown
from protocol.hosting import Limits
from protocol.hosting.machine import (
    CreateGuest,
    DestroyGuest,
    Found,
    ImageChanged,
    Inventory,
    LoadGuest,
    ResetGuest,
    Spec,
    StartGuest,
)

BootDied, BootTimeout = ERRORS["BOOT_DIED"], ERRORS["BOOT_TIMEOUT"]
SPEC = {"vcpus": 1, "memory_mib": 16, "ready": "notified"}
pytestmark = pytest.mark.slow


@asynccontextmanager
async def serving(directory, **limits):
    options = Options(directory / "h", (3, 4), replace(Limits(), **limits))
    async with open_service(options) as hosting:
        try:
            yield hosting
        finally:
            for path in (options.directory / "guests").iterdir():
                GuestFiles(path).kill()


def client(hosting, cid=3):
    budget = Budget(tries=50, seconds=30, first_s=0.01, longest_s=0.1)
    return Hosting(f"unix:{hosting.socket_of(cid)}", budget=budget)


@asynccontextmanager
async def asking(hosting, cid=3):
    """A client that blocks threads and not the run that serves it."""
    host = client(hosting, cid)
    await in_a_thread(host.hello)
    yield host
    host.close()


async def in_a_thread(call, *arguments, **more):
    return await trio.to_thread.run_sync(lambda: call(*arguments, **more))


async def test_a_start_storm_from_two_requesters_all_get_ready(short_directory):
    """Each child has a ready endpoint of its own, so starts at once do not meet on one port."""
    async with serving(short_directory) as hosting:
        started = []

        async def start(cid, number):
            async with asking(hosting, cid) as host:
                image = f"#!nestbed\nprint {number}\nready\n".encode()
                started.append((await in_a_thread(host.start, image, **SPEC)).cid)

        async with trio.open_nursery() as nursery:
            for number in range(12):
                nursery.start_soon(start, 3 + number % 2, number)
        assert len(set(started)) == 12
        assert await hosting.audit() == []
        assert hosting.service.statistics().children["READY"] == 12


async def test_late_ready_is_a_timeout_and_nothing_stays(short_directory):
    async with serving(short_directory, boot_base=300, boot_per_gib=0) as hosting:
        async with asking(hosting) as host:
            with pytest.raises(BootTimeout) as late:
                await in_a_thread(host.start, b"#!nestbed\nsleep 3600000\nready\n", **SPEC)
            assert late.value.detail == {"timeout_ms": 300}
            assert list(await in_a_thread(lambda: [*host.list()])) == []
        assert await hosting.audit() == []


async def test_a_guest_that_has_said_ready_to_a_service_that_died_need_not_say_it_again(short_directory):
    """The service dies between the handshake and its journal: the next life finds what the guest said."""
    async with serving(short_directory) as hosting, asking(hosting) as host:
        child = await in_a_thread(host.start, b"#!nestbed\nready\n", **SPEC)
        async with trio.open_nursery() as nursery:
            guests = hosting.options.directory / "guests"
            later = ProcessMachine(guests, hosting.options.vmms, nursery, lambda *_: None, lambda *_: None)
            for effect in (Inventory(), StartGuest(child.id, 10_000)):
                answer = Reply()
                later.submit(effect, answer.deliver)
                found = await answer.wait()
            assert found is None, "it is ready"
            nursery.cancel_scope.cancel()
        await in_a_thread(host.reset, child.id)
        assert (await in_a_thread(host.describe, child.id))["state"] == "READY", "each boot says it anew"
        await in_a_thread(host.destroy, child.id)


async def asked(machine, *effects):
    """What a machine answers to the last of `effects`."""
    for effect in effects:
        answer = Reply()
        machine.submit(effect, answer.deliver)
        said = await answer.wait()
    return said


async def test_a_guest_whose_word_was_kept_and_not_answered_may_take_its_time_to_repeat_it(short_directory):
    """Its start is over at once, its word is answered whenever it comes, and its program goes on."""
    guests, bound = short_directory / "guests", short_directory / "guests" / "77" / "bound"
    image = b"#!nestbed\nsleep 1200\nready\nbind 6f6b\nhang\n"
    spec = Spec(hashlib.sha256(image).digest(), 1, 1, ready="notified")
    child, facts = b"c" * 16, ({"emulated": Emulated()}, lambda *_: None, lambda *_: None)

    async with trio.open_nursery() as nursery:
        first = ProcessMachine(guests, facts[0], nursery, *facts[1:])
        await asked(first, CreateGuest(child, 77, spec, image, 3), LoadGuest(child))
        first.submit(StartGuest(child, 10_000), lambda *_: None)
        while not (guests / "77" / "process").exists() or GuestFiles(guests / "77").process() is None:
            await trio.sleep(0.01)
        GuestFiles(guests / "77").note_ready(b"\xb7")
        nursery.cancel_scope.cancel()  # the service dies before it answers
    async with trio.open_nursery() as nursery:
        later = ProcessMachine(guests, facts[0], nursery, *facts[1:])
        assert await asked(later, Inventory(), StartGuest(child, 30_000)) is None, "it is ready"
        with trio.fail_after(60):
            while not bound.exists():
                await trio.sleep(0.01)
        assert await asked(later, ResetGuest(child, 30_000)) is None, "the next boot says it anew"
        assert await asked(later, DestroyGuest(child)) is None
        nursery.cancel_scope.cancel()


async def test_forged_ready_from_a_sibling_is_turned_away_and_counted(short_directory):
    """It even knows the nonce: the kernel says which process dials, and it is not the child's."""
    async with serving(short_directory) as hosting, asking(hosting) as host:

        async def forge():
            guests = hosting.options.directory / "guests"
            while not (found := [*guests.glob("*/vsock_*")]):
                await trio.sleep(0.01)
            files = GuestFiles(found[0].parent)
            await in_a_thread(_announce, str(found[0]), bytes.fromhex(files.facts()["nonce"]))
            await killed_once(lambda: hosting.machine.forged == 1, files)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(forge)
            with pytest.raises(BootDied):
                await in_a_thread(host.start, b"#!nestbed\nhang\n", **SPEC)
        assert hosting.machine.forged == 1


async def killed_once(so, files):
    """End a guest when it is `so`: its boot is over then, and was not before."""
    while not so() or files.process() is None:
        await trio.sleep(0.01)
    files.kill()


def _announce(path, nonce):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        while made.connect_ex(path):  # its name is there a moment before it listens
            pass
        with suppress(ConnectionResetError, BrokenPipeError):  # turned away with our bytes unread
            made.sendall(nonce + b"\xb7")
            assert made.recv(1) == b""


async def test_a_wrong_nonce_of_the_right_guest_does_not_count_either(short_directory):
    async with serving(short_directory) as hosting, asking(hosting) as host:

        async def end():
            guests = hosting.options.directory / "guests"
            while not (found := [*guests.iterdir()]):
                await trio.sleep(0.01)
            await killed_once(lambda: hosting.machine.forged, GuestFiles(found[0]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            with pytest.raises(BootDied):
                await in_a_thread(host.start, b"#!nestbed\nforge " + b"00" * 16 + b"\n", **SPEC)


async def test_the_image_changes_between_digest_and_load(short_directory):
    async with serving(short_directory) as hosting:
        answers = []

        def answered(value, error):
            answers.append(error or value)

        async def until(n):
            while len(answers) < n:
                await trio.sleep(0.01)

        import hashlib

        spec = Spec(hashlib.sha256(b"announced").digest(), 1, 16)
        hosting.machine.submit(CreateGuest(b"c" * 16, 77, spec, b"announced", 3), answered)
        await until(1)
        (hosting.options.directory / "guests" / "77" / "image").write_bytes(b"another")
        hosting.machine.submit(LoadGuest(b"c" * 16), answered)
        await until(2)
        assert answers == [None, ImageChanged()]
        assert await hosting.audit() == [{"kind": "no_owner", "child": b"c" * 16}]


async def test_a_guest_that_is_killed_again_and_again_is_told_each_time(short_directory):
    async with serving(short_directory) as hosting:
        async with asking(hosting) as host:
            for _ in range(3):
                child = await in_a_thread(host.start, b"#!nestbed\nready\n", **SPEC)
                pid = GuestFiles(hosting.options.directory / "guests" / str(child.cid)).process()
                os.kill(pid, signal.SIGKILL)
                told = await in_a_thread(host.wait, child.id, "STOPPED")
                assert told["state"] == "STOPPED"
                await in_a_thread(host.destroy, child.id)
                assert (await in_a_thread(host.describe, child.id))["exit"] == 137
        assert await hosting.audit() == []


async def test_a_creation_that_was_cut_short_is_cleared_away(short_directory):
    async with serving(short_directory) as hosting:
        half = hosting.options.directory / "guests" / "99"
        half.mkdir()
        (half / "image").write_bytes(b"half")
        found = []
        hosting.machine.submit(Inventory(), lambda value, error: found.append(value))
        while not found:
            await trio.sleep(0.01)
        assert found == [{}]
        assert not half.exists()


@pytest.mark.parametrize("name", ["guest.facts", "process", "stat"])
async def test_a_look_without_a_file_left_takes_no_guest_for_one_that_is_over(
    short_directory, monkeypatch, name
):
    """Where the system has no descriptor to give, nothing can be said of what lies there."""
    monkeypatch.setattr(serve, "LOOK_S", 0.01)
    looks, read = [], Path.read_text

    def full(path, *arguments):
        if path.name != name:
            return read(path, *arguments)
        looks.append(path)
        raise OSError(errno.EMFILE, "too many open files")

    async with serving(short_directory) as hosting, asking(hosting) as host:
        child = await in_a_thread(host.start, b"#!nestbed\nready\n", **SPEC)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", full)
            while len(looks) < 3:
                assert not looks or looks[0].exists()
                await trio.sleep(0.01)
            with pytest.raises(OutcomeUnknown):
                await hosting.audit()
        assert (await in_a_thread(host.describe, child.id))["state"] == "READY"
        assert await hosting.audit() == []
        assert looks[0].exists()


async def test_a_process_that_was_made_and_not_noted_is_found_and_ended(short_directory):
    """The service died between the two: the next life looks for it by the directory that it was given."""
    async with serving(short_directory) as hosting:
        files = GuestFiles(hosting.options.directory / "guests" / "88")
        facts = {"vmm": "emulated", "ready": "entered", "ready_port": 1, "nonce": "00" * 16, "digest": ""}
        files.make(b"u" * 16, 88, b"#!nestbed\nhang\n", facts)
        files.note_spawning()
        process = await trio.lowlevel.open_process(Emulated().command(files))
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():
            await trio.sleep(0.01)  # its arguments show a moment after it was made
        answers = []
        for effect in (Inventory(), DestroyGuest(b"u" * 16)):
            hosting.machine.submit(effect, lambda value, error: answers.append(error or value))
            with trio.fail_after(60):
                while len(answers) == 0 or (len(answers) == 1 and isinstance(effect, DestroyGuest)):
                    await trio.sleep(0.01)
        assert answers == [{b"u" * 16: Found(True)}, None]
        assert not Path(f"/proc/{process.pid}").exists(), "it is ended, and reaped"
        assert not files.path.exists()


async def test_what_the_guest_binds_is_in_its_evidence(short_directory):
    """The key of a channel comes with evidence: whoever asked for the child is not trusted by it."""
    from protocol.hosting.evidence import verify

    async with serving(short_directory) as hosting, asking(hosting) as host:
        image = b"#!nestbed\nbind c0ffee\nready\n"
        child = await in_a_thread(host.start, image, **SPEC)
        evidence = await in_a_thread(host.attest, child.id, b"nonce")
        key = (hosting.options.directory / "host.pub").read_bytes()
        said = verify(evidence, key, b"nonce")
        assert (said["guest_data"], said["requester"], said["epoch"]) == (b"\xc0\xff\xee", 3, 1)


async def test_nothing_listens_that_was_not_asked_for(short_directory):
    async with serving(short_directory) as hosting:
        directory = hosting.options.directory
        async with asking(hosting) as host:
            child = await in_a_thread(host.start, b"#!nestbed\nready\n", **SPEC)
            sockets = sorted(path.name for path in directory.iterdir() if path.is_socket())
            assert sockets == ["3.vsock_5200", "3.vsock_5202", "4.vsock_5200", "4.vsock_5202"]
            guest = directory / "guests" / str(child.cid)
            assert sorted(path.name for path in guest.iterdir() if path.is_socket()) == [
                "console",
                "control",
                "vsock",
            ], "the ready endpoint is gone once it was used"
            for path in (directory, guest):
                assert path.stat().st_mode & 0o077 == 0
            await in_a_thread(host.destroy, child.id)
