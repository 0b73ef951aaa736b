"""A hosting service in a directory of its own, as a process or in the test's own run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nestbed.client import Budget, Hosting


class ServiceProcess:
    """`nestbed hosted serve` as a process that can be killed and started again."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.arguments = arguments
        self.process: subprocess.Popen[str] | None = None
        self.said = ""

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, "-P", "-m", "nestbed", "hosted", "serve", str(self.directory)]
        self.process = subprocess.Popen(
            [*command, *self.arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        assert self.said, "it ended before it listened"

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()

    def order(self, line: str) -> dict[str, object]:
        """What `--admin` answers to one line."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def client(self, cid: int = 3, **more: object) -> Hosting:
        budget = Budget(tries=200, seconds=60, first_s=0.02, longest_s=0.2)
        return Hosting(f"unix:{self.directory}/{cid}.vsock_5200", budget=budget, **more)

    def guests(self) -> dict[int, int]:
        """Processes of guests, by context id."""
        alive = {}
        for path in (self.directory / "guests").glob("*/process"):
            try:
                pid, _, born = path.read_text().partition(" ")
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() if born else []
            except OSError:
                continue  # it ended just now, or its directory was cleared away
            if not fields:
                continue  # its maker has not said yet who it is
            if fields[19] == born and fields[0] not in "ZX":
                alive[int(path.parent.name)] = int(pid)
        return alive

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for pid in self.guests().values():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory whose name leaves room for sockets."""
    made = Path(tempfile.mkdtemp(prefix="nb-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def service_process(short_directory: Path) -> Iterator[Callable[..., ServiceProcess]]:
    """Services as processes; what they leave behind is ended with the test."""
    made: list[ServiceProcess] = []

    def make(*arguments: str) -> ServiceProcess:
        service = ServiceProcess(short_directory / "h", *arguments)
        made.append(service)
        service.start()
        return service

    yield make
    for service in made:
        service.end()
