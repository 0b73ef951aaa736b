"""Machines and guest hosts put together: the host at the top has what was asked for at every depth."""

from __future__ import annotations

import numpy as np
import pytest
from nested_host import NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import RESETS, compose
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.profiles import MIB, PROFILES
from protocol.arch.s390.structs import EXECUTED, QUI_LENGTH, Query, header
from protocol.effects import run

SMALL = PROFILES["small"]
DEPTHS = (0, 1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow))


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"depth": -1}, "depth -1: allowed are 0 to 8"),
        ({"depth": 9}, "depth 9"),
        ({"hosts": 0}, "0 hosts: allowed are 1 to 64"),
        ({"memory_bytes": 4096}, "whole pages, at least"),
        ({"memory_bytes": (1 << 31) + 1}, "whole pages"),
        ({"cpus": 0}, "0 CPUs: allowed is 1 or more"),
    ],
)
def test_what_cannot_be_is_refused_with_what_is_allowed(options: dict[str, int], allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        compose(SMALL, **options)


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_host_has_its_memory_cpus_and_limits_at_every_depth(depth: int) -> None:
    rig = compose(SMALL, depth, 2, 2100 * MIB, 2)
    assert [seat.level.size for seat in rig.seats] == [2100 * MIB] * 2
    assert [[cpu.running for cpu in seat.cpus] for seat in rig.seats] == [[True, False]] * 2
    for which in range(2):
        host = NestedHost(rig, which)
        outcome = run(host.uvc(header(QUI_LENGTH, 1), out=QUI_LENGTH))
        query = Query.unpack(bytes(8) + outcome.out[0][1])
        assert (query.max_configs, query.max_cpu_id) == (SMALL.max_configs, SMALL.max_cpu_id)
        assert (query.base_len, query.conf_base_len, query.cpu_len) == (
            SMALL.base_len,
            SMALL.conf_base_len,
            SMALL.cpu_len,
        )
        assert query.max_storage == (SMALL.max_storage if not depth else 2100 * MIB)
    if depth:
        check(rig)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_every_sibling_can_use_all_that_its_profile_allows(depth: int) -> None:
    """All configurations, of the largest size, with all CPUs: the levels below have the room."""
    rig = compose(SMALL, depth, 2, 2200 * MIB, 1)
    hosts = [NestedHost(rig, which) for which in range(2)]
    for host in hosts:
        run(host.init())
    for _ in range(SMALL.max_configs):
        for host in hosts:
            run(host.create(2200, SMALL.max_cpu_id + 1))
    check(rig)
    for host in hosts:
        with pytest.raises(AssertionError, match="rc=259"):
            run(host.create())


def test_machines_at_depth_0_have_one_host_key_and_handles_of_their_own() -> None:
    rig = compose(SMALL, 0, 2)
    hosts = [NestedHost(rig, which) for which in range(2)]
    for host in hosts:
        run(host.init())
    guests = [run(host.boot()) for host in hosts]
    assert guests[0].handle != guests[1].handle
    assert run(hosts[1].handle_call(0x0302, guests[0].handle)).rc == 0x0020


def test_frames_are_scattered_by_seed() -> None:
    one, same, other = (compose(SMALL, 1, seed=seed).seats[0].level for seed in (1, 1, 2))
    assert isinstance(one, Nested) and isinstance(same, Nested) and isinstance(other, Nested)
    assert np.array_equal(one.slots, same.slots)
    assert not np.array_equal(one.slots, other.slots)
    assert np.count_nonzero(np.diff(one.slots) == 1) < 10, "hardly any neighbours"


@pytest.mark.parametrize("depth", [0, 1])
def test_resets_and_deaths_are_steps_of_the_rig(depth: int) -> None:
    rig = compose(SMALL, depth, 2)
    host = NestedHost(rig)
    for kind in RESETS:
        run(host.init())
        run(host.boot())
        run(rig.reset(0, kind))
        host.restart()
    run(host.init())
    host.write(0x123000, b"must not outlive its host")
    run(rig.kill(0))
    host.restart()
    assert host.read(0x123000, 8) == bytes(8)
    assert run(host.handle_call(0x0302, 1)).rc == 0x0003
    run(host.init())
    assert run(host.handle_call(0x0302, 1)).rc != EXECUTED
    with pytest.raises(ValueError, match="allowed are modified-clear, load-normal, load-clear"):
        run(rig.reset(0, "none"))


def test_a_fresh_host_finds_nothing_of_its_predecessors() -> None:
    """Neither in its memory nor in frames that the level below used for them."""
    rig = compose(SMALL, 1)
    host = NestedHost(rig)
    run(host.init())
    for page in range(300, 3000, 7):
        host.write(page << 12, b"a secret of a dead host")
    run(host.boot())
    run(rig.kill(0))
    level, machine = rig.seats[0].level, rig.machines[0]
    assert isinstance(level, Nested) and isinstance(machine, Machine)
    assert not any(machine.storage.read(frame << 12, 64).strip(b"\0") for frame in level.slots[::37].tolist())
    assert not any(level.peek(page << 12, 64).strip(b"\0") for page in range(level.attention.size)[::41])
