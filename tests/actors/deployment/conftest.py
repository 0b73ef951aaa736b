"""A deployment of real processes, small, and what must be left of it: nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.deployment.load import linked
from actors.deployment.parts import parts_of
from actors.deployment.place import Place
from actors.deployment.process import Assignment
from actors.deployment.settings import Deployment, scenario_of
from actors.deployment.supervise import Deployed

PATIENCE_S = 240  # far more than it takes; a test that hangs has failed
SMALL = {
    "l1.count": "2",
    "guest.per_l1": "1",
    "guest.memory_mib": "2",
    "guest.image_pages": "4",
    "guest.touch_pages": "8",
    "guest.share_pages": "2",
    "run.swap_pages": "2",
    "run.exits.diag_notify": "3",
    "run.exits.diag_500": "2",
    "run.exits.sclp": "1",
    "run.exits.wait": "2",
}
Lab = Callable[..., AbstractAsyncContextManager["Running"]]


class Running:
    """A deployment that is up, as a test has it."""

    def __init__(self, deployed: Deployed) -> None:
        self.deployed = deployed
        self.place = deployed.assignment.place
        self.said: list[str] = []

    def pid(self, part: str) -> int:
        life = self.deployed.seen[part].life
        assert life is not None
        return life.process.pid

    def epoch(self, part: str) -> int:
        life = self.deployed.seen[part].life
        return 0 if life is None else life.epoch

    def is_ready(self, part: str) -> bool:
        return self.deployed.seen[part].state == "ready"

    def numbers(self, part: str) -> dict[str, int]:
        life = self.deployed.seen[part].life
        found: dict[str, int] = {} if life is None else life.status.get("numbers", {})
        return found

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that processes do by themselves."""
        while not holds():
            await trio.sleep(0.01)

    async def ask(self, part: str, target: str, message: object) -> Any:
        async with linked(self.place.control(part)) as link:
            return await link.ask(target, message)


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def memory_files() -> list[str]:
    """RAM files that this process has open."""
    names = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if fd.isdigit() and os.path.exists(f"/proc/self/fd/{fd}")
    ]
    return [name for name in names if "nestbed-ram" in name]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """`async with lab(...) as running`: a deployment with these settings, up; afterwards nothing is left."""

    @asynccontextmanager
    async def brought_up(
        scenario: dict[str, str] | None = None, patience_s: float = PATIENCE_S, **settings: Any
    ) -> AsyncIterator[Running]:
        words = {"restart": {"intensity": 1000, "period_s": 60}, **settings}
        deployment = Deployment.model_validate({"set": {**SMALL, **(scenario or {})}, **words})
        resolved = scenario_of(deployment)
        l1s = resolved.scenario.l1.count if resolved.scenario.depth == 1 else 1
        place = Place(tmp_path / "run")
        parts = parts_of(deployment, l1s)
        place.prepare(tuple(part.name for part in parts))
        assignment = Assignment(deployment, resolved.scenario, parts, place, tmp_path, {})
        said: list[str] = []
        deployed = Deployed(assignment, said.append)
        running, pids = Running(deployed), set[int]()
        running.said = said
        with trio.fail_after(patience_s):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deployed.run)
                await deployed.ready.wait()
                yield running
                pids = {seen.life.process.pid for seen in deployed.seen.values() if seen.life is not None}
                nursery.cancel_scope.cancel()
            await running.until(lambda: not any(is_alive(pid) for pid in pids))
        assert memory_files() == []

    return brought_up
