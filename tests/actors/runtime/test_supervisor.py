"""Children are started, restarted, stopped and mourned as their data says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.runtime.supervisor import (
    Child,
    Death,
    How,
    Restart,
    RestartsExceeded,
    Running,
    Supervisor,
    unwrap,
)


class Family:
    """Makes children that note what happens to them; `die` ends one, `log` is what was seen, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self._ends: dict[str, trio.Event] = {}
        self._faults: dict[str, Exception | None] = {}

    def start(self, name: str) -> Callable[[Running], Awaitable[None]]:
        async def live(running: Running) -> None:
            self._ends[name] = trio.Event()
            self.log.append(f"{name} starts")
            running.started()
            try:
                await self._ends[name].wait()
                if fault := self._faults.pop(name, None):
                    raise fault
            finally:
                self.log.append(f"{name} ends")

        return live

    async def die(self, name: str, fault: Exception | None = None) -> None:
        self._faults[name] = fault
        self._ends[name].set()
        await wait_all_tasks_blocked()


@pytest.fixture
def family() -> Family:
    return Family()


def children(family: Family, *names: str, **how: Any) -> list[Child]:
    return [Child(name, family.start(name), **how) for name in names]


async def test_children_start_left_to_right_and_stop_right_to_left(family: Family) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor(children(family, "te", "kvm", "l1")).run)
        assert family.log == ["te starts", "kvm starts", "l1 starts"]
        nursery.cancel_scope.cancel()
    assert family.log[3:] == ["l1 ends", "kvm ends", "te ends"]


async def test_the_next_child_waits_until_the_one_before_has_started(nursery: trio.Nursery) -> None:
    log: list[str] = []
    go = trio.Event()

    async def slow(running: Running) -> None:
        await go.wait()
        log.append("slow started")
        running.started()

    async def after(running: Running) -> None:
        log.append("after")
        running.started()

    temporary = Restart.TEMPORARY
    nursery.start_soon(Supervisor([Child("slow", slow, temporary), Child("after", after, temporary)]).run)
    await wait_all_tasks_blocked()
    assert log == []
    go.set()
    await wait_all_tasks_blocked()
    assert log == ["slow started", "after"]


@pytest.mark.parametrize(
    ("policy", "fault", "again"),
    [
        (Restart.PERMANENT, None, True),
        (Restart.PERMANENT, KeyError("x"), True),
        (Restart.TRANSIENT, None, False),
        (Restart.TRANSIENT, KeyError("x"), True),
        (Restart.TEMPORARY, None, False),
        (Restart.TEMPORARY, KeyError("x"), False),
    ],
)
async def test_a_child_is_started_again_as_its_policy_says(
    family: Family, policy: Restart, fault: Exception | None, again: bool
) -> None:
    deaths: list[Death] = []
    supervisor = Supervisor(children(family, "l1", restart=policy), lingers=True)
    supervisor.watch(deaths.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await family.die("l1", fault)
        assert ("l1" in supervisor) is again
        assert supervisor.restarts == again
        nursery.cancel_scope.cancel()
    assert deaths[0] == Death("l1", 1, How.FAILED if fault else How.DONE, fault, final=not again)
    assert deaths[1:] == ([Death("l1", 2, How.STOPPED, None, final=True)] if again else [])


async def test_more_restarts_than_the_budget_fail_upward_with_the_last_fault(family: Family) -> None:
    supervisor = Supervisor(children(family, "te", "l1"), intensity=2)
    with pytest.RaisesGroup(RestartsExceeded) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            for life in range(3):
                await family.die("l1", KeyError(life))
    assert repr(caught.value.exceptions[0].__cause__) == "KeyError(2)"
    assert family.log[-1] == "te ends"
    assert supervisor.restarts == 2


async def test_restarts_long_ago_are_forgiven(family: Family, mock_clock: MockClock) -> None:
    supervisor = Supervisor(children(family, "l1"), intensity=1, period_s=5)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        for _ in range(4):
            await family.die("l1", KeyError())
            mock_clock.jump(5)
        assert supervisor.restarts == 4
        nursery.cancel_scope.cancel()


async def test_a_child_that_fails_before_it_started_fails_the_start(family: Family) -> None:
    async def broken(_running: Running) -> None:
        raise OSError("port taken")

    supervisor = Supervisor([*children(family, "te"), Child("kvm", broken), *children(family, "l1")])
    with pytest.raises(OSError, match="port taken"):
        await supervisor.run()
    assert family.log == ["te starts", "te ends"]


async def test_a_late_child_that_fails_before_it_started_is_the_adders_problem(family: Family) -> None:
    async def broken(_running: Running) -> None:
        raise OSError("port taken")

    supervisor = Supervisor(children(family, "te"))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        with pytest.raises(OSError, match="port taken"):
            await supervisor.add(Child("l1", broken))
        assert "te" in supervisor
        assert "l1" not in supervisor
        with pytest.raises(ValueError, match="'te'"):
            await supervisor.add(children(family, "te")[0])
        nursery.cancel_scope.cancel()


async def test_a_stopped_child_is_not_started_again(family: Family) -> None:
    supervisor = Supervisor(children(family, "te", "l1"))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.stop("l1")
        await supervisor.stop("l1")
        assert family.log[2:] == ["l1 ends"]
        nursery.cancel_scope.cancel()


async def test_a_child_is_asked_politely_before_it_is_cancelled(autojump_clock: MockClock) -> None:
    ended: list[tuple[str, float]] = []

    async def polite(running: Running) -> None:
        running.started()
        await running.stopping.wait()
        await trio.sleep(1)
        ended.append(("polite", trio.current_time()))

    async def stubborn(running: Running) -> None:
        running.started()
        try:
            await trio.sleep_forever()
        finally:
            ended.append(("stubborn", trio.current_time()))

    kept = [Child("polite", polite, shutdown_s=5), Child("stubborn", stubborn, shutdown_s=3)]
    async with trio.open_nursery() as nursery:
        await nursery.start(Supervisor(kept).run)
        start = trio.current_time()
        nursery.cancel_scope.cancel()
    assert [(name, round(at - start, 6)) for name, at in ended] == [("stubborn", 3), ("polite", 4)]


async def test_it_ends_when_all_children_are_done(family: Family) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(Supervisor(children(family, "a", "b", restart=Restart.TRANSIENT)).run)
            await family.die("a")
            await family.die("b")


async def test_a_fault_that_travels_with_a_cancellation_is_kept(family: Family) -> None:
    async def child(running: Running) -> None:
        running.started()
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("while it was cancelled")

    deaths: list[Death] = []
    supervisor = Supervisor([Child("l1", child)])
    supervisor.watch(deaths.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        nursery.cancel_scope.cancel()
    assert [(death.how, type(death.error)) for death in deaths] == [(How.FAILED, KeyError)]


async def test_a_fault_in_a_childs_own_nursery_arrives_as_itself(family: Family) -> None:
    async def fails(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        raise KeyError("inner")

    async def child(running: Running) -> None:
        running.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails)
            nursery.start_soon(trio.sleep_forever)

    deaths: list[Death] = []
    supervisor = Supervisor([Child("l1", child, Restart.TEMPORARY)])
    supervisor.watch(deaths.append)
    await supervisor.run()
    assert [type(death.error) for death in deaths] == [KeyError]


def test_unwrapping_keeps_two_faults_together() -> None:
    both = ExceptionGroup("", [KeyError(), ExceptionGroup("", [OSError()])])
    found = unwrap(both)
    assert isinstance(found, ExceptionGroup)
    assert [type(fault) for fault in found.exceptions] == [KeyError, OSError]
    assert isinstance(unwrap(ExceptionGroup("", [OSError()])), OSError)


@pytest.mark.parametrize("passes", range(12))
async def test_it_may_be_cancelled_at_every_point(family: Family, passes: int) -> None:
    """Whatever the moment: all that started has ended, in reverse order."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Supervisor(children(family, "te", "kvm", "l1")).run)
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    started = [line.split()[0] for line in family.log if line.endswith("starts")]
    ended = [line.split()[0] for line in family.log if line.endswith("ends")]
    assert ended == started[::-1]
