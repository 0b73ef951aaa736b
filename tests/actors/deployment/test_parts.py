"""Which processes a deployment has, and which machines an instance of a platform runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.deployment.parts import NoRank, Rank, Role, machines_of, parts_of, rank_of
from actors.deployment.settings import Deployment


def names(**settings: object) -> list[str]:
    return [part.name for part in parts_of(Deployment.model_validate(settings), 2)]


def test_apart_is_a_process_for_each_l1() -> None:
    assert names(machines=2) == [
        "l0-0", "l0-0.l1-0", "l0-0.l1-1", "l0-1", "l0-1.l1-0", "l0-1.l1-1", "load",
    ]  # fmt: skip


def test_together_is_a_process_for_each_machine() -> None:
    assert names(machines=2, placement="together") == ["l0-0", "l0-1", "load"]
    assert names(load=None, placement="together") == ["l0-0"]


def test_parts_know_what_they_are_for() -> None:
    machine, host, load = parts_of(Deployment(), 1)
    assert (machine.role, machine.machine) == (Role.MACHINE, 0)
    assert (host.role, host.machine, host.host) == (Role.HOSTS, 0, 0)
    assert load.role is Role.LOAD


@given(st.integers(1, 64), st.integers(1, 64))
def test_every_machine_has_one_instance(count: int, machines: int) -> None:
    dealt = [machine for rank in range(count) for machine in machines_of(rank, count, machines)]
    assert sorted(dealt) == list(range(machines))


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank(0, 1, "alone")),
        ({"NESTBED_RANK": "2", "NESTBED_COUNT": "3"}, Rank(2, 3, "NESTBED_RANK")),
        ({"JOB_COMPLETION_INDEX": "1", "NESTBED_COUNT": "4"}, Rank(1, 4, "JOB_COMPLETION_INDEX")),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}, Rank(5, 6, "SLURM_PROCID")),
        ({"POD_NAME": "nestbed-l0-7", "NESTBED_COUNT": "8"}, Rank(7, 8, "POD_NAME")),
        ({"POD_INDEX": "1", "POD_NAME": "x-9", "NESTBED_COUNT": "2"}, Rank(1, 2, "POD_INDEX")),
    ],
)
def test_a_platform_says_which_instance_this_is(environment: dict[str, str], rank: Rank) -> None:
    assert rank_of(None, None, environment) == rank


def test_flags_win() -> None:
    assert rank_of(1, 2, {"SLURM_PROCID": "5", "SLURM_NTASKS": "6"}) == Rank(1, 2, "--rank")


@pytest.mark.parametrize(
    ("rank", "count", "environment", "why"),
    [
        (3, 3, {}, "allowed: 0 to 2"),
        (0, None, {}, "give --count"),
        (None, None, {"SLURM_PROCID": "1"}, "SLURM_NTASKS"),
        (None, None, {"JOB_COMPLETION_INDEX": "-1", "NESTBED_COUNT": "2"}, "a whole number"),
        (None, None, {"POD_NAME": "nestbed", "NESTBED_COUNT": "2"}, "StatefulSet"),
        (None, 0, {}, "allowed: 1 to"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(
    rank: int | None, count: int | None, environment: dict[str, str], why: str
) -> None:
    with pytest.raises(NoRank, match=why):
        rank_of(rank, count, environment)
