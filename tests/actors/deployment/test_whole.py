"""Deployments of real processes: brought up, driven, watched, taken down; any placement does the same."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from actors.deployment import words
from actors.deployment.account import read
from nestbed.client import Hosting, HostingError
from protocol.arch import architectures, load

pytestmark = pytest.mark.slow

Lab = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.mark.parametrize("arch", architectures())
@pytest.mark.parametrize(
    ("placement", "parts"),
    [("apart", ["l0-0", "l0-0.l1-0", "l0-0.l1-1", "load"]), ("together", ["l0-0", "load"])],
)
async def test_a_load_has_its_rounds_and_nothing_of_it_is_left(
    lab: Lab, arch: str, placement: str, parts: list[str]
) -> None:
    async with lab(arch=arch, placement=placement, load={"rounds": 2}) as running:
        assert list(running.deployed.seen) == parts
        targets = json.loads(running.place.targets.read_text())
        assert [target["labels"]["part"] for target in targets] == [*parts, "supervisor"]
        await running.until(lambda: running.deployed.seen["load"].state == "done")
    totals, begun = read(running.place.journal)
    assert (totals.failed, totals.unknown, totals.rounds, begun) == (0, 0, 8, {})


async def test_every_part_has_metrics_and_says_that_it_is_ready(lab: Lab) -> None:
    async with lab() as running:
        await running.until(lambda: running.numbers("load").get("ok", 0) > 20)
        ports = {part: running.deployed.targets[part] for part in running.deployed.seen}
        for part, port in ports.items():
            page = await trio.to_thread.run_sync(fetched, port, "/metrics")
            assert b"nestbed_build_info" in page, part
            assert await trio.to_thread.run_sync(fetched, port, "/readyz") == b"ready\n"
        page = await trio.to_thread.run_sync(fetched, ports["l0-0"], "/metrics")
        counted = [line for line in page.splitlines() if line.startswith(b"nestbed_te_issued_total")]
        assert any(float(line.split()[-1]) > 0 for line in counted)


async def test_who_keeps_the_parts_says_how_many_and_what_the_budget_has_left(lab: Lab) -> None:
    async with lab(load=None) as running:
        (mine,) = json.loads(running.place.targets.read_text())[-1]["targets"]
        port = int(mine.rpartition(":")[2])

        async def told() -> dict[str, float]:
            page = await trio.to_thread.run_sync(fetched, port, "/metrics")
            lines = [
                line.decode().rpartition(" ") for line in page.splitlines() if b'supervisor="root"' in line
            ]
            return {name.partition("{")[0]: float(value) for name, _, value in lines}

        begun = await told()
        assert begun["nestbed_supervised_children"] == len(running.deployed.seen)
        assert begun["nestbed_supervisor_restarts_total"] == 0
        os.kill(running.pid("l0-0.l1-0"), signal.SIGKILL)
        await running.until(lambda: running.epoch("l0-0.l1-0") == 2 and running.is_ready("l0-0.l1-0"))
        after = await told()
        assert after["nestbed_supervisor_restarts_total"] == 1
        left = "nestbed_supervisor_restarts_left"
        assert after[left] == begun[left] - 1
        assert await trio.to_thread.run_sync(fetched, port, "/readyz") == b"ready\n"


def fetched(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        content: bytes = answer.read()
        return content


async def test_a_hypervisor_between_and_its_hosts_share_a_process(lab: Lab) -> None:
    async with lab({"depth": "2"}, load={"rounds": 1, "paths": ["nested"]}) as running:
        assert list(running.deployed.seen) == ["l0-0", "l0-0.l1-0", "load"]
        await running.until(lambda: running.deployed.seen["load"].state == "done")
    totals, _ = read(running.place.journal)
    assert (totals.failed, totals.unknown, totals.rounds) == (0, 0, 2)


async def test_two_machines_are_driven_at_once(lab: Lab) -> None:
    async with lab(machines=2, placement="together", load={"rounds": 1}) as running:
        await running.until(lambda: running.deployed.seen["load"].state == "done")
    assert read(running.place.journal)[0].rounds == 8


async def test_a_program_of_somebody_else_asks_the_broker_of_a_machine(lab: Lab) -> None:
    comparison = load("s390").comparison
    assert comparison is not None
    image = comparison.pack_image(comparison.image(1, 4, None))

    def program(address: str) -> list[str]:
        with Hosting(address) as hosting:
            with pytest.raises(HostingError):
                hosting.start(image, vcpus=1, memory_mib=1 << 30)  # more than the machine has
            child = hosting.start(image, vcpus=1, memory_mib=2)
            states = [each["state"] for each in hosting.list()]
            hosting.destroy(child.id)
            return states

    async with lab(load=None) as running:
        address = f"unix:{running.place.hosting('l0-0')}"
        assert await trio.to_thread.run_sync(program, address) == ["READY"]
        assert (await running.ask("l0-0", words.MACHINE, words.Audit()))["remains"]["configs"] == 0
        assert running.epoch("l0-0") == 1, "it never went down"
