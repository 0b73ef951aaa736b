"""Whose end is heard of first is chance: processes here end when the test says so, and time stands still."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import exit_codes
from actors.deployment import supervise
from actors.deployment.life import End, Life
from actors.deployment.parts import Part, Role, parts_of
from actors.deployment.place import Place
from actors.deployment.process import Assignment
from actors.deployment.settings import Deployment, scenario_of
from actors.deployment.supervise import GONE_S, Deployed
from actors.runtime.forker import Process
from actors.runtime.link import Link

Up = Callable[[], AbstractAsyncContextManager[Deployed]]
KILLED = -signal.SIGKILL


class Played(Process):
    """A process that ends at a word of the test; a signal alone ends it later, as on a busy machine."""

    def signal(self, number: signal.Signals) -> None:
        """Heard, and not yet obeyed."""

    @property
    def is_over(self) -> bool:
        return self.ended.is_set()


class Told:
    """Its lifeline: what is told to end does so."""

    def __init__(self) -> None:
        self.life: Life | None = None

    async def ask(self, _target: str, _message: object) -> None:
        assert self.life is not None
        end(self.life, exit_codes.OK)


def end(life: Life, code: int) -> None:
    life.process.code = code
    life.process.ended.set()
    life.process.watched.set()
    life.finish(End.ENDED)


async def ends(life: Life, code: int) -> None:
    """This process ends, and whoever waits for that has heard of it."""
    end(life, code)
    await wait_all_tasks_blocked()


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Up:
    """`async with up() as deployed`: a machine with two L1s, all of them ready at once in every life."""

    async def begin(_nursery: object, _forker: object, _mine: object, part: Part, epoch: int) -> Life:
        told = Told()
        life = told.life = Life(
            part, epoch, Played(-1, -1), cast(Link, told), trio.CancelScope(), {"port": 1}
        )
        life.ready.set()
        return life

    monkeypatch.setattr(supervise, "begin", begin)

    @asynccontextmanager
    async def brought_up() -> AsyncIterator[Deployed]:
        deployment = Deployment.model_validate({"load": None})
        parts = parts_of(deployment, 2)
        place = Place(tmp_path / "run")
        place.prepare(tuple(part.name for part in parts))
        place.remember = lambda _pids: None  # type: ignore[method-assign] # these are nobody's
        scenario = scenario_of(deployment).scenario
        deployed = Deployed(Assignment(deployment, scenario, parts, place, tmp_path, {}), lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(deployed.run)
            await deployed.ready.wait()
            yield deployed
            nursery.cancel_scope.cancel()

    return brought_up


def lives(deployed: Deployed) -> dict[str, Any]:
    return {name: seen.life for name, seen in deployed.seen.items()}


def epochs(deployed: Deployed) -> list[int]:
    return [life.epoch for life in lives(deployed).values()]


async def test_an_l1_may_be_over_before_the_machine_that_took_it_along(up: Up, mock_clock: MockClock) -> None:
    """The kernel closes a process's links first and tells of its end at last; an L1 may end in between."""
    async with up() as deployed:
        machine, first, second = lives(deployed).values()
        await ends(first, exit_codes.GONE)
        assert epochs(deployed) == [1, 1, 1], "it says that its machine is gone: that is waited for"
        await ends(machine, KILLED)
        await ends(second, exit_codes.GONE)
        assert epochs(deployed) == [2, 2, 2]
        assert deployed.supervisor.restarts == 1


async def test_an_l1_may_take_longer_to_end_than_its_machine_to_come_back(up: Up) -> None:
    async with up() as deployed:
        machine, *l1s = lives(deployed).values()
        await ends(machine, KILLED)
        assert epochs(deployed) == [2, 1, 1]
        for l1 in l1s:
            await ends(l1, KILLED)
        assert epochs(deployed) == [2, 2, 2]
        assert deployed.supervisor.restarts == 1


async def test_both_l1s_may_hear_of_the_end_before_the_machine_is_known_to_be_over(up: Up) -> None:
    """Each of them finds it over and waits for the next: both for the same."""
    async with up() as deployed:
        machine, first, second = lives(deployed).values()
        machine.process.ended.set()  # the kernel says so; whoever watches has not heard it
        end(first, KILLED)
        end(second, KILLED)
        await wait_all_tasks_blocked()
        await ends(machine, KILLED)
        assert epochs(deployed) == [2, 2, 2]
        assert deployed.supervisor.restarts == 1


async def test_an_l1_that_its_machine_turned_away_costs_a_restart(up: Up, mock_clock: MockClock) -> None:
    async with up() as deployed:
        _, first, _ = lives(deployed).values()
        await ends(first, exit_codes.GONE)
        mock_clock.jump(GONE_S)
        await wait_all_tasks_blocked()
        assert epochs(deployed) == [1, 2, 1]
        assert deployed.supervisor.restarts == 1


async def test_an_l1_that_dies_by_itself_is_begun_again_at_once(up: Up) -> None:
    async with up() as deployed:
        assert [seen.part.role for seen in deployed.seen.values()] == [Role.MACHINE, Role.HOSTS, Role.HOSTS]
        await ends(lives(deployed)["l0-0.l1-1"], KILLED)
        assert epochs(deployed) == [1, 1, 2]
        assert deployed.supervisor.restarts == 1
