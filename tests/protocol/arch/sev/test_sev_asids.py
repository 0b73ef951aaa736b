"""ASIDs: four masks of core complexes, and what ACTIVATE, DEACTIVATE and DF_FLUSH make of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.sev.asids import Asids
from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.asids import AsidPool, FlushLock
from protocol.arch.sev.host.driver import Driver, Failed
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import PAGE
from protocol.crossing import Thread, inline
from protocol.effects import Step
from protocol.nesting.composition import Seat

CORES = 0b11


def test_a_fresh_platform_has_to_be_flushed_on_every_core() -> None:
    asids = Asids(15, 8, CORES)
    asids.all_dirty()
    assert asids.unready(8, CORES, False) is Status.DFFLUSH_REQUIRED
    asids.wbinvd(0)
    assert asids.flush() is Status.WBINVD_REQUIRED
    assert asids.unready(8, 0b01, False) is Status.SUCCESS
    assert asids.unready(8, CORES, False) is Status.DFFLUSH_REQUIRED
    asids.wbinvd(1)
    assert asids.flush() is Status.SUCCESS
    assert asids.all_clean()


def test_an_asid_that_never_ran_needs_no_flush() -> None:
    asids = Asids(15, 8, CORES)
    asids.bind(3, CORES, running=False)
    assert asids.refusal(3) == Status.ASID_OWNED
    assert not asids.may_run(3, 0)
    asids.release(3)
    assert asids.all_clean()
    asids.bind(3, CORES, running=False)
    asids.finish(3)
    assert asids.may_run(3, 1)
    asids.flushed = CORES
    asids.release(3)
    assert asids.unready(3, CORES, True) is Status.DFFLUSH_REQUIRED
    assert asids.flushed == 0


# -- a host's numbers, and who else has them --------------------------------------------------------------


def legacy_host(depth: int) -> tuple[Rig, Any, Driver]:
    """A host that has its legacy platform up, on levels that live apart."""
    rig = compose(PROFILES["small"], depth, 1, memory_bytes=32 * MIB, apart=True)
    seat, place = rig.seats[0], [8 * MIB]

    def allocate(length: int, align: int) -> int:
        at = -(-place[0] // align) * align
        place[0] = at + -(-length // PAGE) * PAGE
        return at

    level = rig.seen(seat.level)
    driver = Driver(Hands(Seat(0, level, seat.cpus, seat.memory_bytes), depth + 1), allocate)
    inline(driver.probe(), rig.below(0))
    return rig, level, driver


@pytest.mark.parametrize("first", ["flush", "leave"])
def test_nobody_leaves_an_asid_between_the_wbinvds_and_the_flush(first: str) -> None:
    """Whoever comes second looks again until the first is done; both get what they asked for."""
    rig, level, driver = legacy_host(1)
    lock = FlushLock()
    threads = {
        "flush": Thread("flush", lock.flush(level, driver), rig.below(0)),
        "leave": Thread("leave", lock.leave(level, driver.command("NOP")), rig.below(0)),
    }
    one, other = threads.pop(first), next(iter(threads.values()))
    one.hop()
    for _ in range(9):
        other.hop()
    assert not other.done
    assert lock.contention["absorbed_busy"] == 3
    for thread in (one, other):
        while not thread.done:
            thread.hop()
        assert thread.error is None
    assert (lock.flushing, lock.leaving) == (False, 0)


def test_numbers_that_somebody_else_has_are_none_of_a_hosts() -> None:
    """Each is tried twice: a flush lies between."""
    rig, _, driver = legacy_host(0)

    def bound() -> Step[int]:
        yield from driver.command("LAUNCH_START", policy=0)
        handle = driver.field("LAUNCH_START", "handle")
        return (yield from AsidPool(range(8, 10)).activate(driver, "ACTIVATE", handle=handle))

    assert [inline(bound(), rig.below(0)) for _ in range(2)] == [8, 9]
    with pytest.raises(Failed, match="no ASID is free"):
        inline(bound(), rig.below(0))


acts = st.lists(
    st.tuples(st.sampled_from(["bind", "run", "finish", "release", "flush", "wbinvd"]), st.integers(1, 15)),
    max_size=40,
)


@settings(max_examples=30, deadline=None)
@given(acts)
def test_each_complex_is_in_exactly_one_mask(script: list[tuple[str, int]]) -> None:
    asids = Asids(15, 8, CORES)
    asids.all_dirty()
    for act, n in script:
        free = asids.refusal(n) is Status.SUCCESS and asids.unready(n, CORES, n < 8) is Status.SUCCESS
        if act in ("bind", "run") and free:
            asids.bind(n, CORES, act == "run")
        elif act == "finish":
            asids.finish(n)
        elif act == "release":
            asids.release(n)
        elif act == "flush":
            asids.flush()
        elif act == "wbinvd":
            asids.wbinvd(n & 1)
    for masks in zip(asids._dirty, asids._clean, asids._allocated, asids._used, strict=True):
        assert sum(masks) == CORES  # no bit twice, none missing
        assert masks[0] | masks[1] | masks[2] | masks[3] == CORES
