"""Three machines made of network namespaces, a NATS server on each."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from actors import exit_codes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
NAMES = ("one", "two", "three")
SETTINGS = ("guest.per_l1=1", "guest.touch_pages=8", "guest.image_pages=4", "run.swap_pages=2")
SMALL = '"l1.count" = 1\n"guest.per_l1" = 1\n"guest.touch_pages" = 16\n"run.swap_pages" = 2\n'
LEASE_S = 8.0
PATIENCE_S = 60
STARTING_S = 120


class Fleet:
    """Three machines that are up: a namespace, a server and a folder with its own keys for each."""

    def __init__(self, made: dict[str, str], cluster: Any, folder: Path) -> None:
        self.made, self.cluster, self.folder = made, cluster, folder

    def inside(self, name: str, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.made[name], sys.executable, "-m", "nestbed", *command]

    def keys(self, role: str, name: str) -> Path:
        """What one process has: its own certificate and key, and the authority's certificate, and no more."""
        folder = self.folder / f"{role}-{name}"
        folder.mkdir(exist_ok=True)
        given = self.cluster.credentials(role, name)
        for path in (given.certificate, given.key, given.authority):
            shutil.copy(path, folder)
        return folder

    def begin(self) -> None:
        """A directory that is new; waits until the servers have one."""
        self.lab = self.folder / "lab.toml"
        lease = f"[lease]\nlength_ms = {LEASE_S * 1000:.0f}\n"
        self.lab.write_text(f'name = "lab"\n{lease}[load]\npause_ms = 5\n[set]\n{SMALL}')
        certificate = str(self.keys("machine", "one") / "machine-one.pem")
        command = ("fleet", "init", str(self.lab), "--certificate", certificate, *self.servers)
        until = time.monotonic() + STARTING_S
        while True:
            done = subprocess.run(self.inside("one", *command), capture_output=True, text=True, check=False)
            if done.returncode == exit_codes.OK:
                return
            assert time.monotonic() < until, done.stderr

    @property
    def servers(self) -> list[str]:
        return [word for url in self.cluster.urls for word in ("--nats", url)]

    @contextmanager
    def running(self, name: str, until: str, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A process on one machine, from when it says `until`."""
        process = subprocess.Popen(self.inside(name, *command), stderr=subprocess.PIPE, text=True)
        try:
            said(process, until)
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()


def said(process: subprocess.Popen[str], what: str) -> str:
    """The line in which it says so."""
    assert process.stderr is not None
    lines = []
    while line := process.stderr.readline():
        if what in line:
            return line
        lines.append(line)
    raise AssertionError(f"it ended: {''.join(lines)}")


@pytest.fixture
def fleet(new_cluster: Any, machines: Any, tmp_path: Path) -> Iterator[Fleet]:
    with machines(list(NAMES)) as made:
        spaces = dict(zip(("n1", "n2", "n3"), NAMES, strict=True))
        cluster = new_cluster(
            [made[f"{name}.address"] for name in NAMES],
            lambda name: ["ip", "netns", "exec", made[spaces[name]]],
        )
        with cluster:
            fleet = Fleet(made, cluster, tmp_path)
            fleet.begin()
            yield fleet


def compared(command: list[str]) -> Any:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    whole = [*command, *settings]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    # Who waited for whom depends on timing, and stands outside of every comparison.
    return [{name: value for name, value in result.items() if name != "contention"} for result in results]


def test_three_machines_count_what_one_does_found_in_a_directory_on_all_of_them(fleet: Fleet) -> None:
    """Agents are found by name; the results are those of one machine, to the byte, with a server gone too."""
    with ExitStack() as agents:
        for name in NAMES:
            where = f"{fleet.made[f'{name}.address']}:7700"
            keys = str(fleet.keys("machine", name))
            listen = ("agent", "--listen", where, "--keys", keys, *fleet.servers)
            agents.enter_context(fleet.running(name, f"agent-{name} is in the directory", *listen))
        compare = ("compare", "--json", "-q", "--arch", "s390")
        alone = compared([sys.executable, "-m", "nestbed", *compare])
        operator = str(fleet.keys("driver", "operator"))
        together = (*compare, *fleet.servers, "--keys", operator)
        assert compared(fleet.inside("one", *together)) == alone
        fleet.cluster.kill("n2")
        assert compared(fleet.inside("three", *together)) == alone


def test_a_machine_that_stood_still_past_its_lease_is_fenced_when_it_returns(
    fleet: Fleet, tmp_path: Path
) -> None:
    def node(name: str) -> tuple[str, ...]:
        certificate = fleet.keys("machine", name) / f"machine-{name}.pem"
        where = ("--directory", str(tmp_path / f"run-{name}"), "--certificate", str(certificate))
        return ("node", str(fleet.lab), *where, *fleet.servers)

    with fleet.running("one", "is held here", *node("one")) as first:
        first.send_signal(signal.SIGSTOP)
        with fleet.running("two", "is held here", *node("two")) as second:
            first.send_signal(signal.SIGCONT)
            assert first.wait(PATIENCE_S) == exit_codes.GONE, "it finds itself fenced"
            second.send_signal(signal.SIGTERM)
            assert second.wait(PATIENCE_S) == exit_codes.OK
