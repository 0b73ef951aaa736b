"""Two machines in processes of their own, found in a directory on three servers and driven over TLS."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from actors import exit_codes
from actors.deployment import words
from actors.deployment.reach import Elsewhere
from actors.deployment.settings import read_deployment
from actors.node import Boot, End
from protocol.load.histogram import Histogram, merged
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SMALL = '"l1.count" = 1\n"guest.per_l1" = 2\n"guest.image_pages" = 4\n"guest.memory_mib" = 2\n'
SMALL += '"guest.touch_pages" = 8\n"guest.share_pages" = 2\n"run.page_changes" = 2\n"run.swap_pages" = 2\n'
LOAD = ("load.rate_per_min=1200", "load.duration_s=1", "load.pairs=1", "load.warm_up=none")


class Fleet:
    """Two machines, and who drives them."""

    def __init__(self, cluster: Any, folder: Path, arch: str) -> None:
        self.deployment = folder / "fleet.toml"
        self.deployment.write_text(
            f'name = "fleet"\narch = "{arch}"\nmachines = 2\nload = false\n[set]\n{SMALL}'
        )
        self._folder = folder
        self.cluster = cluster
        self.servers = [word for url in cluster.urls for word in ("--nats", url)]
        self.operator = str(cluster.credentials("driver", "operator").certificate)
        self.machine = str(cluster.credentials("machine", "one").certificate)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        whole = [sys.executable, "-m", "nestbed", *words, *self.servers]
        return subprocess.run(whole, capture_output=True, text=True, timeout=120, check=False)

    def answered(self, *words: str) -> Any:
        done = self.command(*words, "--certificate", self.operator, "--json")
        assert done.returncode == exit_codes.OK, done.stderr
        return json.loads(done.stdout)

    @contextmanager
    def running(self, rank: int) -> Iterator[subprocess.Popen[str]]:
        """The machine of that rank; it may take a while until it can be driven."""
        words = ["node", str(self.deployment), "--rank", str(rank), "--count", "2"]
        words += ["--directory", str(self._folder / f"run{rank}"), "--listen", "127.0.0.1:0"]
        words += ["--certificate", self.machine, *self.servers]
        process = subprocess.Popen(
            [sys.executable, "-m", "nestbed", *words], stderr=subprocess.DEVNULL, text=True
        )
        try:
            yield process
        finally:
            process.terminate()
            assert process.wait(60) == exit_codes.OK


@pytest.fixture
def fleet(cluster: Any, tmp_path: Path) -> Callable[[str], Any]:
    @contextmanager
    def up(arch: str) -> Iterator[Fleet]:
        made = Fleet(cluster, tmp_path, arch)
        done = made.command("fleet", "init", str(made.deployment), "--certificate", made.machine)
        assert done.returncode == exit_codes.OK, done.stderr
        with ExitStack() as stack:
            processes = [stack.enter_context(made.running(rank)) for rank in range(2)]
            while not all(
                made.answered("fleet", "machines").get(f"l0-{rank}", {}).get("endpoint") for rank in range(2)
            ):
                assert all(process.poll() is None for process in processes)
            yield made

    return up


def test_a_fleet_bears_load_and_answers_as_one(fleet: Any) -> None:
    with fleet("s390") as up:
        settings = [word for each in LOAD for word in ("--set", each)]
        found = up.answered("load", "--deployment", str(up.deployment), "-q", *settings)
        whole, machines = found["load"]["s390"]["paths"], found["machines"]
        assert sorted(machines) == ["l0-0", "l0-1"]
        for path in ("nested", "hosted"):
            sides = [machines[name]["paths"][path] for name in machines]
            assert all(side["measured"] > 0 and side["errors"] == 0 for side in sides)
            assert whole[path]["measured"] == sum(side["measured"] for side in sides)
            together = merged(Histogram.of(side["latency"]) for side in sides)
            assert whole[path]["latency"] == together.as_dict()
            assert whole[path]["figures"]["p99_ms"] == round(together.percentile(99) / 1e6, 6)
        assert found["load"]["s390"]["comparison"] is not None


# -- moves ---------------------------------------------------


async def with_guests(up: Any) -> None:
    """Guests run on the host l0-0/0, and have done something."""
    _, resolved = read_deployment(up.deployment)
    endpoints = {
        name: entry["endpoint"].split(":") for name, entry in up.answered("fleet", "machines").items()
    }
    where = {name: (host, int(port)) for name, (host, port) in endpoints.items()}
    reach = Elsewhere(where, up.cluster.credentials("driver", "operator"))
    guest = resolved.scenario.guest
    async with reach.control("l0-0", "l0-0") as link:
        await link.ask("node.0", End(0))
        await link.ask(words.MACHINE, words.ResetHost(0))
        await link.ask("node.0", Boot(0, 7))
        await link.ask("host.0", op.BootHost())
        for number in range(guest.per_l1):
            for act in (op.Create(number, guest.memory_mib, guest.vcpus), op.Load(number), op.Start(number)):
                await link.ask("host.0", act)
            first = FIRST_PAGES + guest.image_pages
            await link.ask(
                "host.0", op.Touch(number, 0, op.Pages(first, guest.touch_pages, guest.touch_pages))
            )


async def audited(up: Any) -> dict[str, Any]:
    """What each machine says of its books."""
    found = {}
    entries = up.answered("fleet", "machines")
    for name in ("l0-0", "l0-1"):
        host, port = entries[name]["endpoint"].split(":")
        reach = Elsewhere({name: (host, int(port))}, up.cluster.credentials("driver", "operator"))
        async with reach.control(name, name) as link:
            found[name] = await link.ask(words.MACHINE, words.Audit())
            found[name]["guests"] = await link.ask(words.MACHINE, words.Guests(0))
    return found


@pytest.mark.parametrize(("arch", "way"), [("s390", "restart"), ("sev", "send")])
def test_a_guest_host_moves_to_another_machine_and_its_guests_come_after(
    fleet: Any, arch: str, way: str
) -> None:
    with fleet(arch) as up:
        trio.run(with_guests, up)
        told = up.answered("fleet", "move", str(up.deployment), "l0-0/0", "l0-1/0")
        assert (told["way"], told["arrived"], told["stayed"]) == (way, [0, 1], [])
        for guest in told["guests"].values():
            assert guest["modelled"]["ns"] > 0
            assert (guest["bytes"] > 0) == (way == "send")
            assert guest["modelled"]["with_boot"] == (way == "restart")
        assert told["counts"]["source"]["exits"] > 0 < told["counts"]["target"]["exits"]
        books = trio.run(audited, up)
        assert books["l0-1"]["guests"] == (0, 1)
        assert not books["l0-0"]["guests"]
        assert [found["leaks"] for found in books.values()] == [(), ()]
        refused = up.command(
            "fleet", "move", str(up.deployment), "l0-0/0", "l0-1/0", "--certificate", up.operator
        )
        assert refused.returncode == exit_codes.USAGE
        assert "has guests" in refused.stderr
