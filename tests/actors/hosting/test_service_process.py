"""The service as a process, killed at any time: what it hosts lives on, and its next life knows all of it."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios

import pytest

from actors import exit_codes
from nestbed.client import ERRORS

BadState, BootDied, StaleEpoch = (ERRORS[name] for name in ("BAD_STATE", "BOOT_DIED", "STALE_EPOCH"))
IMAGE = b"#!nestbed\nprint up\nready\n"
SPEC = {"vcpus": 1, "memory_mib": 16, "ready": "notified"}


def test_a_guest_outlives_the_service_and_is_taken_on_again(service_process):
    service = service_process()
    with service.client() as host:
        child = host.start(IMAGE, debug=True, **SPEC)
        assert child.state == "READY"
        assert list(service.guests()) == [child.cid]
        before = service.guests()
        service.kill()
        assert service.guests() == before, "it is a process of its own"
        service.start()
        assert json.loads(service.said)["recovered"]["adopted"] == 1
        assert host.describe(child.id)["state"] == "READY"
        assert host.stop(child.id) == "STOPPED"
        host.destroy(child.id)
        assert service.guests() == {}
        host.acknowledge(child.id)
        assert list(host.list(exited=True)) == []


@pytest.mark.slow
def test_the_same_key_gets_the_same_guest_before_and_after_a_death(service_process):
    service = service_process()
    with service.client() as host:
        key = host.key()
        first = host.start(IMAGE, key=key, **SPEC)
        service.kill()
        service.start()
        again = host.start(IMAGE, key=key, **SPEC)
        assert (again.id, again.cid, again.replayed) == (first.id, first.cid, True)
        host.destroy(first.id)


@pytest.mark.slow
def test_a_guest_that_is_killed_is_told_with_its_exit(service_process):
    service = service_process()
    with service.client() as host:
        child = host.start(IMAGE, **SPEC)
        os.kill(service.guests()[child.cid], signal.SIGKILL)
        assert host.wait(child.id, "STOPPED")["state"] == "STOPPED"
        assert host.describe(child.id)["exit"] == 137
        host.destroy(child.id)
        assert host.describe(child.id)["exit"] == 137, "the exit record stays until it is acknowledged"


@pytest.mark.slow
def test_a_guest_that_died_while_the_service_was_away(service_process):
    service = service_process()
    with service.client() as host:
        child = host.start(IMAGE, **SPEC)
        service.kill()
        os.kill(service.guests()[child.cid], signal.SIGKILL)
        service.start()
        assert host.wait(child.id, "STOPPED")["state"] == "STOPPED"
        assert host.describe(child.id)["exit"] == 137
        host.destroy(child.id)


@pytest.mark.slow
def test_two_services_do_not_share_a_directory(service_process):
    service = service_process()
    command = [sys.executable, "-P", "-m", "nestbed", "hosted", "serve", str(service.directory)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 3
    assert "in use by another hosting service" in second.stderr


@pytest.mark.slow
def test_a_channel_reaches_a_port_of_the_child_and_ends_with_it(service_process):
    service = service_process()
    with service.client() as host:
        child = host.start(IMAGE, debug=True, **SPEC)
        with host.channel(child.id, 7) as stream:
            for n in (1, 1000, 100_000):
                stream.sendall(b"x" * n)
                got = b""
                while len(got) < n:
                    got += stream.recv(65_536)
            assert host.console(child.id)[0] == b"up\n"
            assert b"".join(host.dump(child.id)).endswith(IMAGE)
            host.stop(child.id, "kill")
            assert stream.recv(1) == b""
        with pytest.raises(BadState):
            host.channel(child.id, 7)
        host.destroy(child.id)


@pytest.mark.slow
def test_a_port_on_which_nothing_listens_is_the_end_of_the_stream(service_process):
    service = service_process()
    with service.client() as host:
        child = host.start(IMAGE, **SPEC)
        with pytest.raises(ConnectionError):
            host.channel(child.id, 8)
        assert host.quota()["channels"]["charged"] == 0
        host.destroy(child.id)


@pytest.mark.slow
def test_a_reboot_of_the_requester_ends_its_boot_and_adoption_takes_over(service_process):
    service = service_process("--admin")
    with service.client() as host:
        stays = host.start(IMAGE, on_owner_loss="linger", linger_s=60, **SPEC)
        goes = host.start(IMAGE, **SPEC)
        credential = host.credential
        assert service.order("reboot 3") == {"epoch": 2}
        assert list(service.guests()) == [stays.cid]
        with pytest.raises(StaleEpoch):
            host.list().__next__()
        host.hello()
        assert host.epoch == 2
        told = host.adopt(credential, 1, [stays.id, goes.id])
        assert told == {"adopted": [stays.id], "lost": [goes.id]}
        assert host.describe(stays.id)["state"] == "READY"
        host.destroy(stays.id)
        assert service.order("audit") == {"leaks": []}


@pytest.mark.slow
def test_a_guest_that_dies_or_boots_into_emergency_mode_is_rolled_back_with_the_cause(service_process):
    service = service_process("--admin")
    with service.client() as host:
        for steps, status in (
            ("exit 3", 3),
            ("emergency", 0),
            ("redy", 2),
            ("sleep long", 2),
            ("bind xy", 2),
        ):
            with pytest.raises(BootDied) as refused:
                host.start(f"#!nestbed\n# what it does\n\n{steps}\nready\n".encode(), **SPEC)
            assert (refused.value.stage, refused.value.detail) == ("start", {"exit": status})
        assert service.guests() == {}
        assert service.order("audit") == {"leaks": []}


@pytest.mark.slow
def test_ctrl_c_ends_a_service_that_waits_for_the_rest_of_an_order(service_process):
    process = service_process("--admin").process
    process.stdin.write("aud")
    process.stdin.flush()
    while unread_of(process.stdin):
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == exit_codes.INTERRUPTED


def unread_of(pipe):
    """Bytes in a pipe that its reader has not taken."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
