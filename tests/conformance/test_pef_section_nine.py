"""Where documentation, firmware and KVM disagree: section 9 of the fact sheet, one case for each of its rows.

The profiles `documentation` and `firmware` follow one of them wherever they differ and both forms are there;
all others follow the one that the sheet tells to use. What has one form only is in one form in all of them.
"""

from __future__ import annotations

from typing import Any

import pytest
from driver import number
from pef_field import (
    FUNCTION,
    MIB,
    P2,
    P3,
    P5,
    PAGE,
    PARAMETER,
    PERMISSION,
    RETRY,
    STATE,
    SUCCESS,
    code,
    hcall_step,
    load_step,
    store_step,
    ucall_step,
)

USED, DOCUMENTATION, FIRMWARE = "small", "documentation", "firmware"
GFN = 0x40
GPA = GFN * PAGE
INVALID = STATE  # the number that this project gives it
FAR = 1 << 40


@pytest.fixture(params=[USED, DOCUMENTATION, FIRMWARE])
def side(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def host(pef: Any, side: str) -> Any:
    return pef(profile=side)


def answer(side: str, used: int, documentation: int, firmware: int) -> int:
    return {USED: used, DOCUMENTATION: documentation, FIRMWARE: firmware}[side]


def test_arguments_of_uv_esm(host: Any, side: str) -> None:
    vm = host.vm()
    assert vm.gcall("ESM", 0, 1) == answer(side, P2, PARAMETER, P2)
    assert vm.gcall("ESM", 1, 0) == answer(side, P3, P2, P3)


def test_uv_esm_of_a_secure_vm(host: Any, side: str) -> None:
    vm = host.svm()
    again = code(vm.run(vm.esm_step())[0]["r3"])
    assert again == answer(side, SUCCESS, SUCCESS, RETRY)


def test_a_shared_page_out(host: Any, side: str) -> None:
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 1)
    vm.write(GPA, b"shared")
    page = host.buffer(b"kept")
    assert vm.page_out(page, GPA) == answer(side, PARAMETER, SUCCESS, PARAMETER)
    assert host.read(page, 4) == b"kept", "whatever it answers, nothing goes out"
    assert vm.read(GPA, 6) == b"shared"


def test_an_invalidation_outside_slots(host: Any, side: str) -> None:
    assert host.svm().inval(FAR) == answer(side, P3, P2, P3)


def test_the_partition_table_entry_of_an_svm(host: Any, side: str) -> None:
    """Either way a changed first half never takes effect."""
    vm = host.svm()
    assert host.ucall("WRITE_PATE", 3, 0x1234 << 16, 7) == answer(side, SUCCESS, PERMISSION, SUCCESS)
    assert vm.run(store_step(0, b"mine"), load_step(0))[1] == {"value": "6d696e6500000000"}


def test_the_end_of_what_is_no_svm(host: Any, side: str) -> None:
    host.vm()
    assert host.ucall("SVM_TERMINATE", 99) == answer(side, PARAMETER, PARAMETER, SUCCESS)
    assert host.ucall("SVM_TERMINATE", 3) == answer(side, INVALID, INVALID, SUCCESS)
    assert host.svm(lpid=4).run(load_step(0)) == [{"value": "00" * 8}]


def test_codes_of_a_new_slot(host: Any, side: str) -> None:
    host.svm()  # one slot of 32 MiB, number 0; 192 MiB of secure memory

    def register(gpa: int, size: int, slot: int) -> int:
        return host.ucall("REGISTER_MEM_SLOT", 3, gpa, size, 0, slot)

    assert register(64 * MIB + 4096, MIB, 1) == answer(side, PARAMETER, P2, PARAMETER)
    assert register((1 << 64) - PAGE, 2 * PAGE, 1) == answer(side, PARAMETER, P3, PARAMETER)
    assert register(64 * MIB, MIB, 512) == answer(side, PARAMETER, P5, PARAMETER)
    assert register(64 * MIB, MIB, 0) == answer(side, PARAMETER, P5, PARAMETER)
    assert register(31 * MIB, 2 * MIB, 1) == answer(side, PARAMETER, P2, PARAMETER)
    assert register(64 * MIB, 162 * MIB, 1) == answer(side, PARAMETER, P3, PARAMETER)
    assert register(64 * MIB, 162 * MIB, 512) == answer(side, PARAMETER, P5, PARAMETER), "memory comes last"
    assert host.audit["te"]["units"] == 16


def test_slots_of_an_unknown_lpid(host: Any) -> None:
    """The firmware does not look, and follows a null pointer: nobody can want that form."""
    assert host.ucall("REGISTER_MEM_SLOT", 99, 0, MIB, 0, 0) == PARAMETER
    assert host.ucall("UNREGISTER_MEM_SLOT", 99, 0) == PARAMETER


@pytest.mark.parametrize("name", ["SHARE_PAGE", "UNSHARE_PAGE"])
def test_sharing_outside_slots(host: Any, side: str, name: str) -> None:
    assert host.svm().gcall(name, 512, 1) == answer(side, P2, PARAMETER, P2)


@pytest.mark.parametrize("name", ["SHARE_PAGE", "UNSHARE_PAGE", "UNSHARE_ALL_PAGES"])
def test_sharing_from_a_normal_vm(host: Any, side: str, name: str) -> None:
    assert host.vm().gcall(name, 0, 1) == answer(side, PERMISSION, INVALID, PERMISSION)


def test_r3_after_a_share_that_had_to_ask(host: Any) -> None:
    """By reading the firmware does not set it, and Linux does not look; success in every profile."""
    vm = host.svm()
    assert vm.gcall("SHARE_PAGE", GFN, 2) == SUCCESS
    assert vm.gcall("UNSHARE_PAGE", GFN, 2) == SUCCESS


def test_h_random(host: Any, side: str) -> None:
    vm = host.svm()
    host.counts()
    (one,), (other,) = (vm.run(hcall_step(0x300)) for _ in range(2))
    assert code(one["r3"]) == answer(side, SUCCESS, SUCCESS, FUNCTION)
    assert (number(one["r4"]) != number(other["r4"])) == (side != FIRMWARE)
    assert "hcalls" not in host.counts(), "no hypervisor has a hand in it"


def test_init_start_in_the_wrong_state(host: Any, side: str) -> None:
    vm = host.svm()
    assert vm.hcall("H_SVM_INIT_START")[0] == answer(side, PARAMETER, STATE, PARAMETER)
    assert vm.run(load_step(0)) == [{"value": "00" * 8}]


def test_the_page_cipher(host: Any) -> None:
    """AES-GCM: as long as the page, never the same twice, and one bit that is changed is found."""
    vm = host.svm()
    vm.run(store_step(GPA, b"secret"))
    first = vm.read(GPA, PAGE)
    assert len(first) == PAGE and b"secret" not in first
    vm.run(load_step(GPA))
    second = vm.read(GPA, PAGE)
    assert first != second
    vm.write(GPA, bytes([second[0] ^ 1]))
    page = host.buffer(vm.read(GPA, PAGE))
    assert vm.page_in(page, GPA) == P3


def test_whose_pages_the_ultravisor_brings_in(pef: Any) -> None:
    """The older model, profile `all-pages`: every page of the VM, one by one, and none in silence."""
    host = pef(profile="all-pages")
    vm = host.loaded(size=8 * MIB)
    host.counts()
    assert vm.esm()["secure"]
    pairs = 8 * MIB // PAGE - 7 + 1 + 7
    counts = host.counts()
    assert (counts["hcalls"]["H_SVM_PAGE_IN"], counts["ucalls"]["UV_PAGE_IN"]) == (pairs, pairs)
    assert vm.run(ucall_step("SHARE_PAGE", GFN, 1))[0]["r3"] == "0x0"


def test_an_ultravisor_as_it_is_refuses_whoever_is_a_guest(pef: Any) -> None:
    """Section 3: profile `as-is`. A guest host's ultracalls never reach the level below it."""
    host = pef(profile="as-is")
    below = host.depth > 0
    assert host.ucall("WRITE_PATE", 1) == (PERMISSION if below else SUCCESS)
    assert host.ucall("PAGE_IN", 1, 0, 0, 0, 0) == (PERMISSION if below else P5)
    if not below:
        assert host.svm().run(load_step(0)) == [{"value": "00" * 8}]
