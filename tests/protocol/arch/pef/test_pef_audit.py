"""The audit can fail: each of its findings, from books that somebody has changed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import LPID, Bench

from protocol.arch.pef.audit import audit
from protocol.arch.pef.machine import Machine
from protocol.arch.pef.nesting import Nested


def kinds(bench: Bench) -> list[str]:
    return [leak["kind"] for leak in audit(bench.rig, [bench.kvm])["leaks"]]


def bench_with_svm(depth: int) -> tuple[Bench, Machine, Any]:
    bench = Bench(depth)
    bench.svm()
    assert kinds(bench) == []
    machine: Machine = bench.rig.machines[0]
    (svm,) = machine.svms.values()
    return bench, machine, svm


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_unit_that_two_hold_or_nobody_is_found(depth: int) -> None:
    bench, _, svm = bench_with_svm(depth)
    slot = svm.slots[0]
    svm.slots[0] = replace(slot, units=slot.units[1:])
    assert "units" in kinds(bench)
    svm.slots[0] = replace(slot, units=[slot.units[1], *slot.units[1:]])
    assert "units" in kinds(bench)
    svm.slots[0] = slot
    assert kinds(bench) == []


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_page_of_a_slot_that_is_somebody_elses_is_found(depth: int) -> None:
    bench, machine, svm = bench_with_svm(depth)
    machine.secure.owner[svm.slots[0].frames[3]] += 1
    assert kinds(bench) == ["slot"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_cookie_that_outlives_its_svm_is_found(depth: int) -> None:
    bench, machine, svm = bench_with_svm(depth)
    machine.reflected[7] = svm
    assert kinds(bench) == ["cookie"]


def test_a_cookie_that_a_level_in_between_knows_alone_is_found() -> None:
    bench, _, _ = bench_with_svm(1)
    level = bench.rig.seats[0].level
    level.open[7] = level.records[LPID]
    assert kinds(bench) == ["cookie"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_svm_that_kvm_knows_nothing_of_is_found(depth: int) -> None:
    bench, _, _ = bench_with_svm(depth)
    del bench.kvm.vms[LPID]
    assert kinds(bench) == ["svm"]


def test_an_svm_that_a_level_in_between_has_lost_is_found() -> None:
    bench, _, _ = bench_with_svm(2)
    middle = bench.rig.levels[1]
    assert isinstance(middle, Nested)
    del middle.records[next(iter(middle.records))]
    found = kinds(bench)
    assert "svm" in found and "svms" in found, "the machine has one, and the host's own books say so"
