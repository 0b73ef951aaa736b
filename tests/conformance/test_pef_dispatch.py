"""Who may make which ultracall, from where; the order of the checks behind that, violated in pairs."""

from __future__ import annotations

from typing import Any

import pytest
from driver import number
from pef_field import (
    BAD_MODE,
    FOR_HOST,
    FOR_SVM,
    FUNCTION,
    MIB,
    P2,
    P3,
    P5,
    PAGE,
    PARAMETER,
    PERMISSION,
    RETRY,
    SECURE_MEMORY,
    STATE,
    SUCCESS,
    UCALLS,
    code,
    load_step,
    ucall_step,
)

BAD_ORDERS = (0, 12, 21, 1 << 63)


@pytest.mark.parametrize("context", [{"hv": False}, {"pr": True}, {"hv": False, "pr": True}])
def test_calls_of_the_hypervisor_need_hypervisor_state(pef: Any, context: dict[str, bool]) -> None:
    host = pef()
    host.ok("cpu", **context)
    for name in FOR_HOST:
        assert host.ucall(name, 1) == PERMISSION, name
    host.ok("cpu", hv=True, pr=False)
    assert host.ucall("WRITE_PATE", 1) == SUCCESS


def test_calls_of_an_svm_are_refused_to_everybody_else(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    for name in FOR_SVM:
        assert host.ucall(name, 0, 1) == PERMISSION
        assert vm.gcall(name, 0, 1) == PERMISSION
        assert vm.gcall(name, 0, 1, pr=True) == PERMISSION


def test_a_guest_may_not_make_the_calls_of_a_hypervisor(pef: Any) -> None:
    host = pef()
    normal, secure = host.vm(lpid=4), host.svm(lpid=3)
    for vm in (normal, secure):
        for name in FOR_HOST:
            assert vm.gcall(name, 3) == PERMISSION, name
        assert vm.gcall("ESM", 1, 1, pr=True) == PERMISSION
        assert vm.run({"call": {"r3": "0xf154"}})[0]["r3"] == hex(FUNCTION & ((1 << 64) - 1))


def test_unknown_calls_answer_u_function(pef: Any) -> None:
    host = pef()
    assert host.ok("call", r3="0xf104", r4=7) == {"r3": "0x0"}  # it has no other output
    for unknown in (0, 0xF100, 0xF154, 0xEF00, (1 << 64) - 1):
        assert code(host.ok("call", r3=hex(unknown))["r3"]) == FUNCTION


@pytest.mark.parametrize("tm", ["active", "suspended"])
def test_transactional_memory_comes_before_everything_in_the_hypervisor(pef: Any, tm: str) -> None:
    host = pef()
    host.ok("cpu", tm=tm)
    for name in (*UCALLS, "unknown"):
        if name != "RETURN":
            answer = host.ok("call", r3=hex(UCALLS.get(name, 0xF000)))
            assert code(answer["r3"]) == BAD_MODE, name
    host.ok("cpu", tm=tm, pr=True)
    assert host.ucall("PAGE_IN", 1) == BAD_MODE
    host.ok("cpu", tm=tm, pr=False, hv=False)
    assert host.ucall("PAGE_IN", 1) == PERMISSION


def test_uv_esm_by_hand_answers_what_the_dispatcher_answers(pef: Any) -> None:
    host = pef()
    assert host.ucall("ESM", 0, 0) == PERMISSION
    host.ok("cpu", hv=False)
    assert host.ucall("ESM", 0, 0) == P2
    assert host.ucall("ESM", 1, 0) == P3
    assert host.ucall("ESM", 1, 1) == PERMISSION  # partition 0
    host.ok("cpu", pr=True)
    assert host.ucall("ESM", 0, 0) == PERMISSION
    assert host.ucall("ESMB_GET_FILE", 0) == PARAMETER


def test_a_cpu_that_left_hv_mode_makes_uv_esm_as_a_vcpu(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    host.ok("cpu", hv=False, lpidr=3)
    answer = host.call("ESM", vm.areas["kernel"], vm.areas["fdt"])
    assert (answer["trap"], answer["secure"]) == ("0x980", True)
    assert number(answer["steps"][0]["nip"]) == vm.areas["kernel"]
    assert host.ok("cpu")["hv"] is True and host.audit["te"]["svms"] == 1


def test_the_kernel_has_its_own_context(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    host.ok("cpu", hv=False, tm="active")
    assert len(vm.read(0)) == 8  # paged out
    assert vm.sys("KVM_PPC_SVM_OFF") == 0
    assert host.ok("cpu")["hv"] is False


def test_uv_esm_checks_its_parameters_in_their_order(pef: Any) -> None:
    vm = pef().vm()
    assert vm.gcall("ESM", 0, 0) == P2
    assert vm.gcall("ESM", 0, 1) == P2
    assert vm.gcall("ESM", 1, 0) == P3
    assert vm.gcall("ESM", 0, 0, pr=True) == PERMISSION


def test_the_cpu_shows_its_settings(pef: Any) -> None:
    host = pef()
    assert host.ok("cpu") == {"hv": True, "pr": False, "tm": "none", "lpidr": "0x0", "pidr": "0x0"}
    host.ok("cpu", cpu=1, tm="active", lpidr=7, pidr="0x10")
    assert host.ok("cpu", cpu=1)["lpidr"] == "0x7" and host.ok("cpu")["tm"] == "none"
    for wrong in ({"tm": "on"}, {"hv": 1}, {"lpidr": "x"}, {"pidr": -1}):
        host.error("cpu", "bad_value", **wrong)
    host.vm()
    host.ok("cpu", hv=False)
    host.error("enter", "bad_request", vm=3, vcpu=0)


# -- pairs ---------------------------------------------------------------------------------------------------

UNKNOWN = 99


@pytest.mark.parametrize("name", ["PAGE_IN", "PAGE_OUT"])
def test_pages_in_and_out_check_order_address_lpid_gpa(pef: Any, name: str) -> None:
    host = pef()
    host.svm()
    good, far = host.alloc(), 1 << 40
    bad_addresses = (0, SECURE_MEMORY | good, 128 * MIB, good + 4096)

    def call(lpid: int, address: int, gpa: int, order: int = 16) -> int:
        return host.ucall(name, lpid, address, gpa, 0, order)

    for order in BAD_ORDERS:
        assert call(UNKNOWN, 0, far, order) == P5
    for address in bad_addresses:
        assert call(UNKNOWN, address, far) == P2
        assert call(3, address, far) == P2
    assert call(UNKNOWN, good, far) == PARAMETER
    assert call(UNKNOWN, good, 0) == PARAMETER
    assert call(3, good, far) == P3
    assert call(3, good, 32 * MIB) == P3
    assert call(3, good, 0) == (P2 if name == "PAGE_IN" else SUCCESS)


def test_invalidation_checks_order_lpid_gpa_state(pef: Any) -> None:
    host = pef()
    host.svm()
    assert host.ucall("PAGE_INVAL", UNKNOWN, 1 << 40, 12) == P3
    assert host.ucall("PAGE_INVAL", UNKNOWN, 1 << 40, 16) == PARAMETER
    assert host.ucall("PAGE_INVAL", 3, 1 << 40, 16) == P3
    assert host.ucall("PAGE_INVAL", 3, 0, 16) == P2


def test_slots_answer_u_parameter_for_everything(pef: Any) -> None:
    host = pef()
    host.svm()  # one slot of 32 MiB, number 0

    def register(lpid: int, gpa: int, size: int, slot: int) -> int:
        return host.ucall("REGISTER_MEM_SLOT", lpid, gpa, size, 0, slot)

    assert register(UNKNOWN, 64 * MIB, MIB, 1) == PARAMETER
    assert register(3, 64 * MIB + 4096, MIB, 1) == PARAMETER
    assert register(3, (1 << 64) - PAGE, 2 * PAGE, 1) == PARAMETER
    assert register(3, 64 * MIB, MIB, 512) == PARAMETER
    assert register(3, 31 * MIB, 2 * MIB, 1) == PARAMETER
    assert register(3, 64 * MIB, 192 * MIB, 1) == PARAMETER
    assert register(3, 64 * MIB, 1 << 60, 1) == PARAMETER
    assert host.audit["te"] == {"svms": 1, "slots": 1, "units": 16, "open_reflections": 1}
    assert register(3, 64 * MIB, 160 * MIB, 511) == SUCCESS
    assert host.audit["te"]["units"] == 96
    assert register(3, 512 * MIB, PAGE, 1) == PARAMETER
    assert host.ucall("UNREGISTER_MEM_SLOT", UNKNOWN, 0) == PARAMETER
    assert host.ucall("UNREGISTER_MEM_SLOT", 3, 7) == P2
    assert host.ucall("UNREGISTER_MEM_SLOT", 3, 511) == SUCCESS
    assert host.audit["te"]["units"] == 16


def test_a_reservation_is_made_in_units(pef: Any) -> None:
    host = pef()
    host.svm()
    assert host.ucall("REGISTER_MEM_SLOT", 3, 64 * MIB, PAGE, 0, 1) == SUCCESS
    assert host.audit["te"]["units"] == 17
    assert host.ucall("REGISTER_MEM_SLOT", 3, 128 * MIB, 2 * MIB + PAGE, 0, 2) == SUCCESS
    assert host.audit["te"]["units"] == 19


def test_calls_on_a_vm_that_is_no_svm_find_none(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    page = host.alloc()
    assert vm.page_in(page, 0) == PARAMETER
    assert vm.page_out(page, 0) == PARAMETER
    assert vm.inval(0) == PARAMETER
    assert host.ucall("REGISTER_MEM_SLOT", 3, 0, MIB, 0, 0) == PARAMETER
    assert host.ucall("SVM_TERMINATE", 3) == STATE
    assert host.ucall("SVM_TERMINATE", UNKNOWN) == PARAMETER
    assert host.ucall("SVM_TERMINATE", 1 << 40) == PARAMETER
    assert vm.gcall("ESMB_GET_FILE", 0) == PARAMETER


def test_a_partition_table_entry_decides_what_a_normal_guest_sees(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    assert vm.run(load_step(0)) == [{"value": "00" * 8}]
    assert host.ucall("WRITE_PATE", 3, 0, 0) == SUCCESS
    left = vm.enter(load_step(0))
    assert left["trap"] == "0xe00"  # whatever KVM maps, nothing leads there
    assert host.ucall("SVM_TERMINATE", 3) == PARAMETER
    assert host.ucall("WRITE_PATE", 4096, 0, 0) == PARAMETER
    assert vm.sys("KVM_PPC_CONFIGURE_V3_MMU", radix=True) == 0
    assert vm.enter()["steps"] == [{"value": "00" * 8}]


def test_the_entry_of_an_svm_keeps_its_first_half(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert host.ucall("WRITE_PATE", 3, 0x1234 << 16, 7) == SUCCESS
    assert vm.run(load_step(0)) == [{"value": "00" * 8}]


# -- the platform's calls ------------------------------------------------------------------------------------


def test_debug_registers_are_behind_the_ultravisor(pef: Any) -> None:
    host = pef()
    for spr in (0xB4, 0xBC, 0xBB):
        assert host.ucall("RESTRICTED_SPR_WRITE", spr, 0x1000 + spr) == SUCCESS
        answer = host.call("RESTRICTED_SPR_READ", spr)
        assert (code(answer["r3"]), number(answer["r5"])) == (SUCCESS, 0x1000 + spr)
    for spr in (0x352, 0x31F):
        assert host.ucall("RESTRICTED_SPR_WRITE", spr, 1) == SUCCESS
        assert host.ucall("RESTRICTED_SPR_READ", spr) == PARAMETER
    assert host.ucall("RESTRICTED_SPR_WRITE", 0xB5, 1) == PARAMETER


def test_chips_firmware_and_boot_engine_are_refused(pef: Any) -> None:
    host = pef()
    for name in ("READ_SCOM", "WRITE_SCOM", "READ_MEM", "WRITE_MEM", "SEND_SBE_COMMAND"):
        assert host.ucall(name, 0, 0, 0, 0) == PERMISSION


def test_a_second_uv_esm_finds_an_object(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    assert vm.sys("KVM_CREATE_VCPU", vcpu=1) == 0
    left = vm.esm(stop=["H_SVM_INIT_DONE"])
    assert left["r3"] == "0xef0c"
    done = vm.run(vm.esm_step(), ucall_step("SHARE_PAGE", 0, 1), vcpu=1, cpu=1)
    assert [code(step["r3"]) for step in done] == [RETRY, PERMISSION]
    vm.enter()
    assert code(vm.run(vm.esm_step())[0]["r3"]) == SUCCESS
    assert code(vm.run(ucall_step("ESM", 0, 0))[0]["r3"]) == P2
