"""The service as a process, killed at any time: what it hosts lives on, and its next life knows all of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

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


def test_a_guest_that_is_killed_is_told_with_its_exit(service_process):
    service = service_process()
    with service.client() as host:
        child = host.start(IMAGE, **SPEC)
        os.kill(service.guests()[child.cid], signal.SIGKILL)
        assert host.wait(child.id, "STOPPED")["state"] == "STOPPED"
        assert host.describe(child.id)["exit"] == 137
        host.destroy(child.id)
        assert host.describe(child.id)["exit"] == 137, "the exit record stays until it is acknowledged"


def test_a_guest_that_died_while_the_service_was_away(service_process):
    service = service_process()
    with service.client() as host:
        child = host.start(IMAGE, **SPEC)
        service.kill()
        os.kill(service.guests()[child.cid], signal.SIGKILL)
        service.start()
        told = host.describe(child.id)
        assert (told["state"], told["exit"]) == ("STOPPED", 137)
        host.destroy(child.id)


@pytest.mark.slow
def test_two_services_do_not_share_a_directory(service_process):
    service = service_process()
    command = [sys.executable, "-P", "-m", "nestbed", "hosted", "serve", str(service.directory)]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 3
    assert "in use by another hosting service" in second.stderr
