"""Golden counts of section 8.5, derived by hand there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import Bench, store

from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.guest import Touch
from protocol.arch.pef.kvm import pages, vmm
from protocol.arch.pef.profiles import MIB, PROFILES, Choices, Profile
from protocol.arch.pef.tables import PAGE
from protocol.effects import run

GPA = 0x40 * PAGE
PAIR = (("H_SVM_PAGE_IN", "passed"), ("UV_PAGE_IN", "modified"))


@pytest.mark.slow
def test_the_example_of_the_fact_sheet() -> None:
    """4 GiB in one slot, 40 MiB of kernel, 60 MiB of initrd; here the blob lies beside that."""
    bench = Bench(1, 512, PROFILES["default"])
    vm = bench.vm(4096 * MIB)
    areas = bench.load(vm, 40 * MIB, 60 * MIB - PAGE)
    assert [-(-len(areas[name].data) // PAGE) for name in ("fdt", "rtas", "kernel", "initrd", "blob")] == [
        *(1, 1, 640, 959, 1)
    ]
    bench.ledger.reset()
    bench.kvm.ucalls.clear()
    bench.esm(vm, areas)
    counted = bench.kvm.counted()
    assert counted["hcalls"] == {
        "H_SVM_INIT_START": 1,
        "H_SVM_PAGE_IN": 1610,
        "H_SVM_TPM_COMM": 3,
        "H_SVM_INIT_DONE": 1,
    }
    assert counted["ucalls"] == {"UV_REGISTER_MEM_SLOT": 1, "UV_PAGE_IN": 1610, "UV_RETURN": 1615}
    tracked = bench.kvm.tracked()
    assert tracked["gfns_secure"] == 1601 + 63927 and tracked["gfns_shared"] == 8
    assert bench.rig.machines[0].secure.units - bench.rig.machines[0].secure.free_units == 2048
    flat = bench.ledger.flat()
    # L0 and L1: two round trips for a page, one for START and DONE each, one slot, three for the TPM.
    assert flat["exits.1.ultracall.kernel"] == 1610 + 1
    assert flat["exits.1.enter_nested.kernel"] == 1615 + 1  # and the way in
    assert flat["exits.1.tpm.vmm"] == 3
    assert flat["exits.2.uv_c00.kernel"] == 1615
    of_pages = [flat[f"te_calls.{call}.memory.{how}.1"] for call, how in PAIR]
    assert of_pages == [1610, 1610] and sum(of_pages) == 3220, "round trips between L0 and L1, two for a page"


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(("mib", "kernel", "initrd"), [(4, 1, 1), (8, 5, 2), (48, 300, 90)])
def test_a_transition_takes_what_section_6_says(depth: int, mib: int, kernel: int, initrd: int) -> None:
    """M measured pages, R = 1 page of RTAS, 7 that the ultravisor shares, one slot, 3 words with the TPM."""
    bench = Bench(depth)
    vm = bench.vm(mib * MIB)
    areas = bench.load(vm, kernel * PAGE, initrd * PAGE)
    measured = sum(-(-len(areas[name].data) // PAGE) for name in ("fdt", "rtas", "initrd", "blob", "kernel"))
    assert measured == 3 + kernel + initrd
    bench.kvm.ucalls.clear()
    bench.esm(vm, areas)
    counted = bench.kvm.counted()
    pairs = measured + 1 + 7
    assert counted["hcalls"] == {
        "H_SVM_INIT_START": 1,
        "H_SVM_PAGE_IN": pairs,
        "H_SVM_TPM_COMM": 3,
        "H_SVM_INIT_DONE": 1,
    }
    assert counted["ucalls"] == {"UV_REGISTER_MEM_SLOT": 1, "UV_PAGE_IN": pairs, "UV_RETURN": 2 + pairs + 3}
    pages = mib * MIB // PAGE
    assert bench.kvm.tracked()["gfns_secure"] == pages - 8, (
        "all but those that are shared, most without a call"
    )
    secure = bench.rig.machines[0].secure
    assert secure.units - secure.free_units == mib // 2
    bench.kvm.ucalls.clear()
    assert run(vmm.svm_off(bench.kvm, bench.cpu, vm)) == 0  # 6.4: S + 1 + 1
    assert bench.kvm.ucalls == {"UV_UNREGISTER_MEM_SLOT": 1, "UV_SVM_TERMINATE": 1, "UV_WRITE_PATE": 1}
    bench.kvm.ucalls.clear()
    assert run(vmm.close(bench.kvm, bench.cpu, vm)) == 0  # 6.5, of a VM that is normal again
    assert bench.kvm.ucalls == {"UV_WRITE_PATE": 1}


@pytest.mark.slow
def test_everything_can_be_paged_in() -> None:
    bench = Bench(0, 64, Profile("all", 192, choices=Choices(esm_pagein="all")))
    bench.svm(8 * MIB)
    assert bench.kvm.counted()["hcalls"]["H_SVM_PAGE_IN"] == 128 - 7 + 1 + 7


@pytest.mark.parametrize(("depth", "exits"), [(0, {1: 2}), (1, {1: 3, 2: 2}), (2, {1: 6, 2: 3, 3: 2})])
def test_a_page_in_takes_two_round_trips_between_neighbours(depth: int, exits: dict[int, int]) -> None:
    """One access to a page that is out: the hypercall up, UV_PAGE_IN and UV_RETURN down; around it one entry.

    The other exit of the guest, and the other entry, are those of its time slice.
    """
    bench = Bench(depth)
    vm = bench.svm()
    bench.enter(vm, store(GPA, b"x"))
    assert isinstance(run(pages.load(bench.kvm, bench.cpu, vm, GPA, 1)), bytes)
    bench.ledger.reset()
    bench.enter(vm, Touch(GPA))
    flat = bench.ledger.flat()
    found = {
        level: sum(n for key, n in flat.items() if key.startswith(f"exits.{level}.")) for level in (1, 2, 3)
    }
    assert {level: n for level, n in found.items() if n} == exits
    assert flat["te_issued.UV_PAGE_IN." + str(depth)] == 1


@pytest.mark.slow
def test_every_copy_of_a_vcpus_state_is_whole() -> None:
    bench = Bench(1)
    vm = bench.svm()
    bench.ledger.reset()
    bench.enter(vm, Touch(0))
    assert bench.ledger.flat()["copied_bytes.hv_guest_state"] == 2 * (248 + 352)


@pytest.mark.parametrize("depth", [1, 2])
def test_what_a_level_issues_is_counted_by_its_origin(depth: int) -> None:
    bench = Bench(depth)
    bench.ledger.reset()
    bench.svm()
    flat = bench.ledger.flat()
    assert flat["te_issued"] == sum(flat[key] for key in flat if key.count(".") == 2 and "te_issued" in key)
    assert all(key.endswith(f".{depth}") for key in flat if key.startswith("te_issued."))
    assert flat["te_calls.UV_ESM.guest.native.guest"] == 1
    assert flat[f"te_calls.UV_PAGE_IN.memory.modified.{depth}"] == 14
    assert flat[f"te_calls.H_SVM_PAGE_IN.memory.passed.{depth}"] == 14
    assert flat[f"te_calls.UV_RETURN.vcpu.emulated.{depth}"] == 19
    assert isinstance(bench.cpu, Cpu)
