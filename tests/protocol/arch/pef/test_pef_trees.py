"""Device trees that no boot loader makes: a guest writes its own, and the ultravisor reads it.

Whatever it says, the transition ends: the guest goes on as a normal one, and nothing of it stays behind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import Bench, esm_step

from protocol.arch.pef import fdt
from protocol.arch.pef.fdt import Node, cell
from protocol.arch.pef.kvm import pages
from protocol.arch.pef.profiles import MIB
from protocol.arch.pef.status import PARAMETER, signed
from protocol.arch.pef.tables import PAGE
from protocol.effects import run

SIZE = 8 * MIB
Reserved = list[tuple[int, int]]


def aborted(change: Callable[[Node, Reserved], None]) -> bool:
    """Does a guest stay normal whose tree was changed? Nothing of an attempt may be left."""
    bench = Bench(0)
    vm = bench.vm(SIZE)
    areas = bench.load(vm)
    tree, reserved = fdt.unpack(areas["fdt"].data)
    change(tree, reserved)
    data = fdt.pack(tree, reserved)
    assert len(data) <= PAGE
    assert run(pages.store(bench.kvm, bench.cpu, vm, areas["fdt"].address, data)) is None
    done = bench.results(vm, esm_step(areas))
    machine = bench.rig.machines[0]
    if vm.secure:
        return False
    assert signed(int(done[0]["r3"], 16)) == PARAMETER
    assert not machine.svms and machine.secure.free_units == machine.secure.units
    return True


def memory(base: int, size: int) -> Callable[[Node, Reserved], None]:
    def change(tree: Node, reserved: Reserved) -> None:
        tree.child("memory").properties["reg"] = cell(base) + cell(size)

    return change


def test_a_tree_as_it_was_makes_it_secure() -> None:
    assert not aborted(lambda tree, reserved: None)
    assert not aborted(memory(0, SIZE))


@pytest.mark.parametrize(
    ("node", "name"),
    [("memory", "reg"), ("chosen", "bootargs"), ("chosen", "linux,initrd-end"), ("rtas", "rtas-size")],
)
def test_a_tree_without_what_the_ultravisor_needs_stays_normal(node: str, name: str) -> None:
    assert aborted(lambda tree, reserved: tree.child(node).properties.__delitem__(name))
    assert aborted(lambda tree, reserved: tree.child(node).properties.__setitem__(name, b"\1" * 3))
    assert aborted(lambda tree, reserved: tree.children.__delitem__(node))


@pytest.mark.parametrize(("first", "last"), [(8, 0), (0, 1 << 63)])
def test_an_area_that_ends_before_it_begins_or_has_no_end_stays_normal(first: int, last: int) -> None:
    def change(tree: Node, reserved: Reserved) -> None:
        chosen = tree.child("chosen").properties
        chosen["linux,initrd-start"], chosen["linux,initrd-end"] = cell(first), cell(last)

    assert aborted(change)


def test_memory_that_is_larger_than_its_slot_leaves_no_room_for_the_ultravisor() -> None:
    assert aborted(memory(0, SIZE + PAGE))


@pytest.mark.parametrize("pages_left", [0, 6])
def test_memory_without_room_for_the_ultravisor_stays_normal(pages_left: int) -> None:
    assert aborted(memory(SIZE - pages_left * PAGE, pages_left * PAGE))
    assert not aborted(memory(SIZE - 7 * PAGE, 7 * PAGE))


def test_the_ultravisor_takes_the_highest_pages_that_nothing_reserves() -> None:
    bench = Bench(0)
    vm = bench.vm(SIZE)
    areas = bench.load(vm)
    tree, reserved = fdt.unpack(areas["fdt"].data)
    top = SIZE // PAGE
    reserved += [((top - 1) * PAGE + 8, 8), ((top - 4) * PAGE, 2 * PAGE), ((top - 3) * PAGE + 1, 1)]
    data = fdt.pack(tree, reserved)
    assert run(pages.store(bench.kvm, bench.cpu, vm, areas["fdt"].address, data)) is None
    bench.esm(vm, areas)
    (svm,) = bench.rig.machines[0].svms.values()
    assert sorted(svm.shared.values()) == [*range(top - 10, top - 4), top - 2]


def test_a_guest_that_reserves_all_of_a_huge_memory_ends_soon() -> None:
    """It was gone through page by page: 2^48 of them."""

    def change(tree: Node, reserved: Reserved) -> None:
        memory(0, (1 << 64) - 1)(tree, reserved)
        reserved.append((0, (1 << 64) - 1))

    assert aborted(change)
