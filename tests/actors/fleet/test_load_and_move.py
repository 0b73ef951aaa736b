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
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app
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
            f'name = "fleet"\narch = "{arch}"\nmachines = 2\ntenants = ["blue"]\nload = false\n[set]\n{SMALL}'
        )
        self._folder = folder
        self.cluster = cluster
        self.servers = [word for url in cluster.urls for word in ("--nats", url)]
        self.operator = str(cluster.credentials("driver", "operator").certificate)
        self.machine = str(cluster.credentials("machine", "one").certificate)

    def command(self, *words: str) -> Any:
        return CliRunner().invoke(app, [*words, *self.servers])

    def answered(self, *words: str) -> Any:
        done = self.command(*words, "--certificate", self.operator, "--json")
        assert done.exit_code == exit_codes.OK, done.stderr
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


@pytest.fixture(scope="module")
def fleet(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Fleet]]:
    """`fleet(arch)`: two machines that are up; of the same architecture, those of the test before."""
    with ExitStack() as stack:
        held: dict[str, Fleet] = {}

        def of(arch: str) -> Fleet:
            if arch not in held:
                stack.close()  # there is one l0-0 in a cell
                held.clear()
                folder = tmp_path_factory.mktemp(arch)
                held[arch] = stack.enter_context(brought_up(cluster, folder, arch))
            return held[arch]

        yield of


@contextmanager
def brought_up(cluster: Any, folder: Path, arch: str) -> Iterator[Fleet]:
    made = Fleet(cluster, folder, arch)
    done = made.command("fleet", "init", str(made.deployment), "--certificate", made.machine)
    assert done.exit_code == exit_codes.OK, done.stderr
    with ExitStack() as stack:
        processes = [stack.enter_context(made.running(rank)) for rank in range(2)]
        while not all(
            made.answered("fleet", "machines").get(f"l0-{rank}", {}).get("endpoint") for rank in range(2)
        ):
            assert all(process.poll() is None for process in processes)
        yield made


def test_a_tenant_starts_a_guest_once_lists_and_ends_it(fleet: Any, tmp_path: Path) -> None:
    up = fleet("s390")
    image = tmp_path / "guest.img"
    image.write_bytes(b"any file")
    blue = str(up.cluster.credentials("tenant", "blue").certificate)

    def asked(*words: str) -> Any:
        done = up.command("fleet", *words, "--certificate", blue)
        assert done.exit_code == exit_codes.OK, done.stderr
        return done.stdout

    while up.command("fleet", "list", "--certificate", blue).exit_code == exit_codes.ENVIRONMENT:
        pass  # drivers reach a machine a moment before its tenants do

    start = ("start", str(image), "--memory", "2", "--key", "7")
    made, again = (json.loads(asked(*start)) for _ in range(2))
    assert (made["child"], made["machine"]) == (again["child"], again["machine"])
    assert [made["replayed"], again["replayed"]] == [False, True]
    assert made["child"] in asked("list")
    assert json.loads(asked("destroy", made["child"][:8])) == {
        "machine": made["machine"],
        "state": "RELEASED",
    }
    assert asked("list") == ""
    operator = up.command("fleet", "list", "--certificate", up.operator)
    assert operator.exit_code == exit_codes.USAGE
    assert "allowed: of a tenant" in operator.stderr


def test_a_fleet_bears_load_and_answers_as_one(fleet: Any) -> None:
    up = fleet("s390")
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


def reach_of(up: Fleet) -> Elsewhere:
    """The way to both machines."""
    entries = up.answered("fleet", "machines")
    endpoints = {name: entries[name]["endpoint"].split(":") for name in ("l0-0", "l0-1")}
    where = {name: (host, int(port)) for name, (host, port) in endpoints.items()}
    return Elsewhere(where, up.cluster.credentials("driver", "operator"))


async def with_guests(up: Fleet, reach: Elsewhere) -> None:
    """Guests run on the host l0-0/0, and have done something."""
    _, resolved = read_deployment(up.deployment)
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


async def audited(reach: Elsewhere) -> dict[str, Any]:
    """What each machine says of its books."""
    found = {}
    for name in ("l0-0", "l0-1"):
        async with reach.control(name, name) as link:
            found[name] = await link.ask(words.MACHINE, words.Audit())
            found[name]["guests"] = await link.ask(words.MACHINE, words.Guests(0))
    return found


@pytest.mark.parametrize(("arch", "way"), [("s390", "restart"), ("sev", "send")])
def test_a_guest_host_moves_to_another_machine_and_its_guests_come_after(
    fleet: Any, arch: str, way: str
) -> None:
    up = fleet(arch)
    reach = reach_of(up)
    trio.run(with_guests, up, reach)
    told = up.answered("fleet", "move", str(up.deployment), "l0-0/0", "l0-1/0")
    assert (told["way"], told["arrived"], told["stayed"]) == (way, [0, 1], [])
    for guest in told["guests"].values():
        assert guest["modelled"]["ns"] > 0
        assert (guest["bytes"] > 0) == (way == "send")
        assert guest["modelled"]["with_boot"] == (way == "restart")
    assert told["counts"]["source"]["exits"] > 0 < told["counts"]["target"]["exits"]
    books = trio.run(audited, reach)
    assert books["l0-1"]["guests"] == (0, 1)
    assert not books["l0-0"]["guests"]
    assert [found["leaks"] for found in books.values()] == [(), ()]
    refused = up.command(
        "fleet", "move", str(up.deployment), "l0-0/0", "l0-1/0", "--certificate", up.operator
    )
    assert refused.exit_code == exit_codes.USAGE
    assert "has guests" in refused.stderr
