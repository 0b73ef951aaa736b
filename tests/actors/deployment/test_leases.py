"""Leases on a real NATS server: one holder at a time, higher epochs, and who returns too late is fenced."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from actors import exit_codes
from actors.deployment import leases
from actors.deployment.leases import NoDirectory, machines_of, open_leases

BESIDE = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
SERVER = os.environ.get("NESTBED_NATS_SERVER") or shutil.which("nats-server", path=BESIDE)
LEASE_S = 0.6
LONG_S = 60.0  # is not over before a test is, however busy the machine
NODE_LEASE_S = 5.0

pytest.importorskip("nats", reason="nats-py is not here: it comes with the extra nats")
pytest.importorskip("trio_asyncio", reason="trio-asyncio is not here: it comes with the extra nats")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def server(tmp_path: Path, claim_ports: Callable[[int], list[int]]) -> Iterator[str]:
    """The address of a server of this test's own."""
    if SERVER is None:
        pytest.skip("no nats-server: set NESTBED_NATS_SERVER to its path")
    (port,) = claim_ports(1)
    command = [SERVER, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(tmp_path / "store")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as made:
                if made.connect_ex(("127.0.0.1", port)) == 0:
                    break
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def test_a_machine_has_one_holder_and_the_next_one_a_higher_epoch(server: str) -> None:
    with trio.fail_after(60):
        async with (
            open_leases([server], "a", LONG_S) as first,
            open_leases([server], "b", LONG_S) as second,
        ):
            for machine in ("l0-0", "l0-1"):
                await first.give_back(machine)
            mine = await first.claim("l0-0")
            await second.claim("l0-1")
            with trio.move_on_after(LEASE_S / 2) as waited:
                await second.claim("l0-0")
            assert waited.cancelled_caught, "it is held, and its lease is not over"
            await first.release(mine)
            again = await second.claim("l0-0")
            assert again.epoch > mine.epoch


async def test_a_holder_that_renews_keeps_its_machine(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes on from renewal to renewal: on a busy machine, too, none of them comes too late."""
    now = 1000.0
    until: list[float] = []
    lost: list[str] = []
    monkeypatch.setattr(leases, "_now", lambda: now)

    def renewed(end: float) -> None:
        nonlocal now
        until.append(end)
        now += claim.pause_s

    with trio.fail_after(60):
        async with (
            open_leases([server], "a", LEASE_S) as first,
            open_leases([server], "b", LEASE_S) as second,
        ):
            await first.give_back("l0-0")
            claim = await first.claim("l0-0")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(first.keep, claim, renewed, lost.append)
                with trio.CancelScope() as waited:
                    nursery.start_soon(cancel_when, waited, lambda: now > 1000 + LEASE_S * 4)
                    await second.claim("l0-0")
                assert waited.cancelled_caught
                nursery.cancel_scope.cancel()
    assert until == sorted(until)
    assert lost == []


async def cancel_when(scope: trio.CancelScope, holds: Callable[[], bool]) -> None:
    while not holds():
        await trio.sleep(0.01)
    scope.cancel()


async def test_who_was_silent_for_a_lease_loses_its_machine_only_after_its_own_lease_is_over(
    server: str,
) -> None:
    lost: list[str] = []
    with trio.fail_after(60):
        async with (
            open_leases([server], "a", LEASE_S) as first,
            open_leases([server], "b", LEASE_S) as second,
        ):
            claim = await first.claim("l0-0")  # and says nothing more, as a stopped process does
            taken = await second.claim("l0-0")
            assert time.monotonic() > claim.until, "by its own clock the first has nothing any more"
            assert taken.epoch > claim.epoch
            claim.until = time.monotonic() + 60  # even if it believed otherwise
            await first.keep(claim, lambda _: None, lost.append)
    assert lost == ["l0-0: another instance has it"]


async def test_a_bucket_that_is_gone_is_made_again_by_whoever_holds_and_nobody_is_fenced(server: str) -> None:
    until: list[float] = []
    lost: list[str] = []
    with trio.fail_after(60):
        async with open_leases([server], "a", LONG_S) as held, trio.open_nursery() as nursery:
            await held.give_back("l0-0")
            claim = await held.claim("l0-0")
            nursery.start_soon(held.keep, claim, until.append, lost.append)
            await held.bus.ask(held.bus.jetstream.delete_stream, f"KV_{machines_of('lab')}")
            held.say_where("here")  # that is written at once, and not at the next renewal
            while not until:
                await trio.sleep(0.05)
            assert (await held.entries())["l0-0"].epoch == claim.epoch
            assert lost == []
            nursery.cancel_scope.cancel()


async def test_without_a_server_it_says_so() -> None:
    with pytest.raises(NoDirectory, match=r"127\.0\.0\.1:1"):
        async with open_leases(["nats://127.0.0.1:1"], "a", LEASE_S):
            pass


def node(server: str, folder: Path, name: str) -> subprocess.Popen[str]:
    """An instance that wants the one machine of a deployment."""
    deployment = folder / "lab.toml"
    small = '"l1.count" = 1\n"guest.per_l1" = 1\n"guest.touch_pages" = 16\n"run.swap_pages" = 2\n'
    deployment.write_text(
        f'name = "lab"\n[lease]\nlength_ms = {NODE_LEASE_S * 1000:.0f}\n[load]\npause_ms = 5\n[set]\n{small}'
    )
    command = [sys.executable, "-m", "nestbed", "node", str(deployment), "--nats", server]
    command += ["--directory", str(folder / name)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


async def given_back(server: str) -> None:
    """Say that nobody holds the machine: a directory that is empty might have been lost."""
    async with open_leases([server], "before", NODE_LEASE_S) as leases:
        await leases.give_back("l0-0")


def epoch_of(process: subprocess.Popen[str]) -> int:
    """The epoch under which an instance holds the machine, once it does."""
    assert process.stderr is not None
    while "is held here" not in (line := process.stderr.readline()):
        assert line, "it ended"
    return int(line.rpartition("epoch ")[2].rstrip(")\n"))


async def comes(path: Path) -> None:
    """Wait until a file is there."""
    with trio.fail_after(60):
        while not path.exists():
            await trio.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_an_instance_takes_over_from_one_that_is_gone_or_stands_still(
    server: str, tmp_path: Path, how: signal.Signals
) -> None:
    trio.run(given_back, server)
    first = node(server, tmp_path, "a")
    second = None
    try:
        epoch = epoch_of(first)
        second = node(server, tmp_path, "b")
        first.send_signal(how)
        assert epoch_of(second) > epoch
        if how is signal.SIGSTOP:
            first.send_signal(signal.SIGCONT)
            assert first.wait(60) == exit_codes.GONE, "it finds itself fenced"
        trio.run(comes, tmp_path / "b" / "load.sock")
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == exit_codes.OK
    finally:
        for process in (first, second):
            if process is not None:
                process.kill()
                process.wait()
