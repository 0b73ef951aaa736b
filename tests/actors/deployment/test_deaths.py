"""Any process is killed at any moment, or stands still past its lease: everything comes back.

What each death means: of a machine, a power failure that takes its L1s along; of an L1, the sudden death of
a guest host; of the load, operations whose outcome is unknown; of the helper that forks, nothing at all.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any

import pytest

from actors.deployment import words
from actors.deployment.account import read
from actors.deployment.asker import asking
from benchmarks.progress import Progress

pytestmark = pytest.mark.slow

Lab = Callable[..., AbstractAsyncContextManager[Any]]
KILLS = int(os.environ.get("NESTBED_KILLS", "40"))
HELPER = "the helper that forks"


async def settled(running: Any) -> None:
    """Everything is up again, and what is done next succeeds."""
    await running.until(lambda: all(running.is_ready(part) for part in running.deployed.seen))
    before = running.numbers("load").get("ok", 0)
    await running.until(lambda: running.numbers("load").get("ok", 0) > before)


async def audited(running: Any) -> dict[str, Any]:
    audit: dict[str, Any] = await running.ask("l0-0", words.MACHINE, words.Audit())
    return audit


async def kill(running: Any, victim: str) -> None:
    """SIGKILL; everything that is to come back has come back afterwards."""
    if victim == HELPER:
        os.kill(running.deployed.forker.pid, signal.SIGKILL)
        return
    epoch = running.epoch(victim)
    os.kill(running.pid(victim), signal.SIGKILL)
    await running.until(lambda: running.epoch(victim) > epoch)
    await settled(running)


async def emptied(running: Any) -> dict[str, Any]:
    """The audit of the machine once its guest hosts were reset and its children destroyed."""
    for seat in range(2):
        await running.ask("l0-0", words.MACHINE, words.ResetHost(seat))
        async with asking(running.place.hosting("l0-0", f"l1-{seat}")) as asker:
            for child in (await asker.ask("list"))["children"]:
                await asker.ask("destroy", child=child["child"])
    return await audited(running)


@pytest.mark.parametrize(
    ("arch", "paths", "kills"),
    [
        ("s390", ["nested"], KILLS // 2),
        ("s390", ["nested", "hosted"], KILLS // 2),
        ("sev", ["nested", "hosted"], KILLS // 8),
    ],
    ids=["nested", "both", "sev"],
)
async def test_whoever_is_killed_at_any_moment_everything_comes_back(
    lab: Lab, arch: str, paths: list[str], kills: int
) -> None:
    random, said = Random(f"{arch}:{paths}"), Progress(f"deaths, {arch} {paths}", kills, "kills")
    async with lab(arch=arch, load={"paths": paths}, patience_s=240 + 10 * kills) as running:
        victims = [*running.deployed.seen, HELPER]
        await settled(running)
        for killed in range(kills):
            said(killed)
            done, later = running.numbers("load").get("ok", 0), random.randrange(60)
            await running.until(lambda until=done + later: running.numbers("load").get("ok", 0) >= until)
            await kill(running, random.choice(victims))
            if "hosted" not in paths:  # L0's own guests stand in no book of a guest host
                assert (await audited(running))["leaks"] == ()
        await settled(running)
        await running.deployed.supervisor.stop("load")
        totals, begun = read(running.place.journal)
        assert begun == {}
        assert totals.ok > 0
        assert totals.unknown <= (kills + 1) * 2 * len(paths), "of each driver one for each death"
        audit = await emptied(running)
        assert audit == {
            "leaks": (), "remains": dict.fromkeys(audit["remains"], 0), "children": 0, "seated": 2,
        }  # fmt: skip


async def test_the_death_of_a_machine_takes_its_l1s_along_and_costs_one_restart(lab: Lab) -> None:
    async with lab() as running:
        await settled(running)
        epochs = {part: running.epoch(part) for part in running.deployed.seen}
        os.kill(running.pid("l0-0"), signal.SIGKILL)
        await running.until(lambda: running.epoch("l0-0") > epochs["l0-0"])
        await settled(running)
        assert all(running.epoch(part) > epochs[part] for part in ("l0-0", "l0-0.l1-0", "l0-0.l1-1"))
        assert running.epoch("load") == epochs["load"]
        assert running.deployed.supervisor.restarts == 1


async def test_it_costs_one_restart_too_where_the_ends_of_l1s_are_heard_of_first(lab: Lab) -> None:
    """The supervisor stands still until all of them are over: in which order it hears of that is chance."""
    async with lab() as running:
        await settled(running)
        processes = [seen.life.process for name, seen in running.deployed.seen.items() if name != "load"]
        processes[0].signal(signal.SIGKILL)
        for process in processes:
            over = select.poll()
            over.register(process.pidfd, select.POLLIN)
            assert over.poll(60_000), "an L1 ends when its machine does"
        await running.until(lambda: running.epoch("l0-0") > 1)
        await settled(running)
        assert running.deployed.supervisor.restarts == 1


async def test_an_l1_dies_alone_and_its_sibling_does_not_notice(lab: Lab) -> None:
    async with lab() as running:
        await settled(running)
        epochs = {part: running.epoch(part) for part in running.deployed.seen}
        os.kill(running.pid("l0-0.l1-1"), signal.SIGKILL)
        await running.until(lambda: running.epoch("l0-0.l1-1") > epochs["l0-0.l1-1"])
        await settled(running)
        assert [part for part in epochs if running.epoch(part) != epochs[part]] == ["l0-0.l1-1"]
        assert (await audited(running))["seated"] == 2


@pytest.mark.parametrize("victim", ["l0-0", "l0-0.l1-0"])
async def test_who_stands_still_past_its_lease_is_fenced_when_it_returns(lab: Lab, victim: str) -> None:
    async with lab(lease={"length_ms": 5000}) as running:
        await settled(running)
        old = running.deployed.seen[victim].life
        os.kill(old.process.pid, signal.SIGSTOP)
        await running.until(lambda: running.epoch(victim) > old.epoch)
        await settled(running)
        assert not old.process.ended.is_set(), "it still stands there, and another has its place"
        os.kill(old.process.pid, signal.SIGCONT)
        await old.process.watched.wait()
        await settled(running)
        await running.deployed.supervisor.stop("load")
        assert (await emptied(running))["leaks"] == ()
    assert "silent past its lease: fenced" in " ".join(running.said)


async def test_a_budget_that_is_spent_takes_everything_down(lab: Lab) -> None:
    from actors.runtime.supervisor import RestartsExceeded

    with pytest.RaisesGroup(RestartsExceeded, flatten_subgroups=True):
        async with lab(restart={"intensity": 1, "period_s": 600}) as running:
            for _ in range(2):
                await settled(running)
                os.kill(running.pid("l0-0.l1-0"), signal.SIGKILL)
                await running.until(lambda: not running.is_ready("l0-0.l1-0"))
            await running.until(lambda: False)
