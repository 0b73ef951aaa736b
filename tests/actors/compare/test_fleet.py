"""Comparisons on several machines: a path is one machine's work; results are those of one, to the byte.

Three machines are made of network namespaces, which takes root. Frames cross real interfaces there.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.compare.fleet import Agent, Agents, NobodyLeft, gathered
from actors.compare.run import one
from actors.runtime.link import Link
from actors.runtime.transport.pki import Authority
from actors.runtime.transport.tls import dial
from protocol.errors import LevelGone, OperationFailed
from protocol.plan.scenario import Guests, Run, Scenario
from protocol.roles import DRIVER, HOSTS, MACHINE

SMALL = Scenario(
    paths=("direct", "nested", "hosted"),
    guest=Guests(per_l1=1, touch_pages=8, image_pages=4),
    run=Run(swap_pages=2, page_changes=2),
)
SETTINGS = ("guest.per_l1=1", "guest.touch_pages=8", "guest.image_pages=4", "run.swap_pages=2")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("keys"))


async def started(nursery: trio.Nursery, authority: Authority, name: str) -> tuple[Agent, tuple[str, int]]:
    agent = Agent(authority.issue(MACHINE, name))
    address: tuple[str, int] = await nursery.start(agent.run, "127.0.0.1", 0)
    return agent, address


@pytest.mark.slow
async def test_agents_come_to_the_results_of_this_machine(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_of_each = threading.Barrier(len(SMALL.paths) - 1)  # the last path is for whoever is ready again
    pieces = itertools.count(1)

    def side_by_side(scenario: Scenario, arch: str, path: str) -> Any:
        if next(pieces) <= first_of_each.parties:
            first_of_each.wait(60)
        return one(scenario, arch, path)

    monkeypatch.setattr("actors.compare.run.one", side_by_side)
    async with trio.open_nursery() as nursery:
        first, here = await started(nursery, authority, "a")
        second, there = await started(nursery, authority, "b")
        made = await gathered(SMALL, Agents((here, there), authority.issue(DRIVER, "me")))
        nursery.cancel_scope.cancel()
    assert (first.done > 0, second.done > 0, first.done + second.done) == (True, True, 3)
    for path in SMALL.paths:
        expected = await trio.to_thread.run_sync(one, SMALL, "s390", path)
        assert made["s390", path] == json.loads(json.dumps(expected))


@pytest.mark.slow
async def test_work_of_an_agent_that_is_gone_is_done_by_another(authority: Authority) -> None:
    async with trio.open_nursery() as nursery:
        _, here = await started(nursery, authority, "a")
        doomed = Agent(authority.issue(MACHINE, "b"))
        scope = trio.CancelScope()

        async def live(task_status: trio.TaskStatus[tuple[str, int]]) -> None:
            with scope:
                async with trio.open_nursery() as inner:
                    task_status.started(await inner.start(doomed.run, "127.0.0.1", 0))

        there = await nursery.start(live)

        async def die() -> None:
            while not doomed.busy:
                await trio.sleep(0)
            scope.cancel()

        nursery.start_soon(die)
        made = await gathered(SMALL, Agents((here, there), authority.issue(DRIVER, "me")))
        assert sorted(path for _, path in made) == ["direct", "hosted", "nested"]
        nursery.cancel_scope.cancel()


async def test_nobody_there_is_an_error_that_names_everybody(authority: Authority) -> None:
    agents = Agents((("127.0.0.1", 1), ("127.0.0.1", 2)), authority.issue(DRIVER, "me"))
    with pytest.raises(NobodyLeft) as nobody:
        await gathered(SMALL, agents)
    assert all(f"127.0.0.1:{port}" in str(nobody.value) for port in (1, 2))


async def test_an_agent_looks_at_what_it_is_sent_and_at_who_sends_it(authority: Authority) -> None:
    async with trio.open_nursery() as nursery:
        agent, address = await started(nursery, authority, "a")
        link = Link(await dial(*address, authority.issue(DRIVER, "me"), MACHINE, "compare"))
        nursery.start_soon(link.run)
        with pytest.raises(OperationFailed, match=r"guest\.vcpus = 0"):
            await link.ask("compare", ["s390", "nested", {"guest.vcpus": "0"}])
        stranger = Link(await dial(*address, authority.issue(HOSTS, "l1"), MACHINE, "compare"))
        nursery.start_soon(stranger.run)
        with pytest.raises(LevelGone):
            await stranger.ask("compare", ["s390", "nested", {}])
        assert agent.exchange.violations == {"role": 1}
        nursery.cancel_scope.cancel()


# -- three machines ----------------------------------------


@contextmanager
def agent_in(space: str, address: str, keys: Path) -> Iterator[subprocess.Popen[str]]:
    command = ["ip", "netns", "exec", space, sys.executable, "-m", "nestbed", "agent"]
    command += ["--listen", f"{address}:7700", "--keys", str(keys)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert "agent on" in process.stderr.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def keys_of(authority: Authority, folder: Path, role: str, name: str) -> Path:
    """What one machine has: its own certificate and key, and the authority's certificate, and no more."""
    folder.mkdir()
    given = authority.issue(role, name)
    for path in (given.certificate, given.key, given.authority):
        shutil.copy(path, folder)
    return folder


def compared(command: list[str], *more: str) -> Any:
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    whole = [*command, sys.executable, "-m", "nestbed", "compare", "--json", "-q", *settings, *more]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    # Who waited for whom depends on timing, and stands outside of every comparison.
    return [{name: value for name, value in result.items() if name != "contention"} for result in results]


@pytest.mark.slow
def test_three_machines_count_what_one_does(authority: Authority, tmp_path: Path, machines: Any) -> None:
    with machines(["driver", "one", "other"]) as made, ExitStack() as agents:
        for name in ("one", "other"):
            keys = keys_of(authority, tmp_path / name, MACHINE, name)
            agents.enter_context(agent_in(made[name], made[f"{name}.address"], keys))
        mine = keys_of(authority, tmp_path / "driver", DRIVER, "driver")
        where = [f"--on={made[f'{name}.address']}:7700" for name in ("one", "other")]
        inside = ["ip", "netns", "exec", made["driver"]]
        assert compared(inside, *where, "--keys", str(mine)) == compared([])
