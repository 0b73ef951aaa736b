"""A running SVM: page crypto, faults, reflections, what a hypervisor may do to it and what not."""

from __future__ import annotations

from typing import Any

import pytest
from driver import Json, number
from pef_field import (
    MIB,
    P2,
    P3,
    PAGE,
    PARAMETER,
    S_BIT,
    SUCCESS,
    code,
    hcall_step,
    load_step,
    store_step,
    ucall_step,
)

GPA = 0x40 * PAGE
OS_TERM = (0x201F).to_bytes(4, "big")


def killed(vm: Any, left: dict[str, Any]) -> None:
    """It ends as hardware shows it."""
    assert (left["trap"], left["r3"], left["secure"]) == ("0xc00", "0xf000", True), left
    assert vm.read(number(left["r4"]), 4) == OS_TERM


# -- pages out and in ----------------------------------------------------------------------------------------


def test_what_the_vmm_touches_goes_out_encrypted_and_comes_back(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.run(store_step(GPA, b"secret" * 1000))
    host.counts()
    seen = vm.read(GPA, PAGE)
    assert b"secret" not in seen and seen != bytes(PAGE)
    assert vm.read(GPA, 16) == seen[:16]
    assert host.counts()["ucalls"] == {"UV_PAGE_OUT": 1}
    assert host.audit["tracked"]["gfns_paged_out"] == 1
    assert vm.run({"read": hex(GPA), "len": 6000}) == [{"hex": (b"secret" * 1000).hex()}]
    counts = host.counts()
    assert counts["hcalls"] == {"H_SVM_PAGE_IN": 1}
    assert counts["ucalls"] == {"UV_PAGE_IN": 1, "UV_RETURN": 2}
    assert host.audit["tracked"]["gfns_paged_out"] == 0


def test_equal_pages_do_not_look_equal(pef: Any) -> None:
    vm = pef().svm()
    vm.run(store_step(GPA, b"same"), store_step(GPA + PAGE, b"same"))
    first, second = vm.read(GPA, PAGE), vm.read(GPA + PAGE, PAGE)
    assert first != second
    vm.run(load_step(GPA))
    assert vm.read(GPA, PAGE) != first  # and not twice the same


@pytest.mark.parametrize("at", [0, PAGE // 2, PAGE - 1])
def test_a_changed_page_is_refused_and_the_guest_keeps_faulting(pef: Any, at: int) -> None:
    host = pef()
    vm = host.svm()
    vm.run(store_step(GPA, b"secret"))
    good = vm.read(GPA, PAGE)
    vm.write(GPA + at, bytes([good[at] ^ 1]))
    host.counts()
    left = vm.enter(load_step(GPA))
    assert (left["trap"], left["steps"]) == ("0x980", [])
    assert host.counts()["hcalls"]["H_SVM_PAGE_IN"] >= 1
    vm.write(GPA + at, good[at : at + 1])
    assert vm.enter()["steps"] == [{"value": b"secret".hex() + "0000"}]


def test_pages_cannot_be_replayed_or_exchanged(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.run(store_step(GPA, b"old"), store_step(GPA + PAGE, b"other"))
    old, other = vm.read(GPA, PAGE), vm.read(GPA + PAGE, PAGE)
    vm.run(store_step(GPA, b"new"))
    new = vm.read(GPA, PAGE)
    page = host.alloc()
    for wrong in (old, other, bytes(PAGE)):
        host.write(page, wrong)
        assert vm.page_in(page, GPA) == P3
    host.write(page, new)
    assert vm.page_in(page, GPA) == SUCCESS
    assert vm.page_in(page, GPA) == P2  # it is the SVM's again


def test_a_page_goes_out_once(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    page = host.alloc()
    assert vm.page_out(page, GPA) == SUCCESS
    assert vm.page_out(page, GPA) == PARAMETER
    assert vm.inval(GPA) == P2
    assert vm.page_in(page, GPA) == SUCCESS


def test_pages_of_another_svm_do_not_come_in(pef: Any) -> None:
    host = pef()
    vm, other = host.svm(3, 8 * MIB), host.svm(4, 8 * MIB)
    page, second = host.alloc(), host.alloc()
    assert vm.page_out(page, GPA) == SUCCESS and other.page_out(second, GPA) == SUCCESS
    assert vm.page_in(second, GPA) == P3 and other.page_in(page, GPA) == P3
    assert vm.page_in(page, GPA) == SUCCESS and other.page_in(second, GPA) == SUCCESS


def test_the_vmm_gets_a_sigbus_where_the_ultravisor_refuses(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    page = host.alloc()
    assert vm.page_out(page, GPA) == SUCCESS  # behind KVM's back
    fault = host.fault("read", addr=hex(GPA), len=1, space=vm.space)
    assert (fault["code"], fault["name"]) == ("0x7", "SIGBUS")
    assert vm.page_in(page, GPA) == SUCCESS
    assert len(vm.read(GPA, 1)) == 1


def test_stores_cross_pages_in_order(pef: Any) -> None:
    vm = pef().svm()
    vm.read(GPA + PAGE)  # the second one is out
    data = bytes(range(200)) * 3
    assert vm.run(store_step(GPA + PAGE - 300, data), {"read": hex(GPA + PAGE - 300), "len": 600}) == [
        {},
        {"hex": data.hex()},
    ]


# -- reflections ---------------------------------------------------------------------------------------------


def test_the_hypervisor_sees_the_inputs_of_a_hypercall_and_nothing_else(pef: Any) -> None:
    vm = pef().svm()
    left = vm.enter(hcall_step(0x1234, 1, 2))
    assert (left["r3"], left["r4"], left["r5"], left["r11"]) == ("0x1234", "0x1", "0x2", "0x0")
    assert left["srr0"] == left["hsrr0"] == left["r31"] and number(left["srr1"]) & S_BIT
    (done,) = vm.enter(gpr={"r3": "0x7", "r4": "0x8", "r12": "0x9"})["steps"]
    assert (done["r3"], done["r4"], done["r5"], done["r12"]) == ("0x7", "0x8", "0x0", "0x9")
    assert number(done["msr"]) & S_BIT


def test_cookies_are_never_the_same(pef: Any) -> None:
    vm = pef().svm()
    cookies = [vm.enter(hcall_step(0x1234))["r31"] for _ in range(20)]
    assert len(set(cookies)) == 20


def test_h_cede_opens_interrupts_and_kvm_answers_it(pef: Any) -> None:
    vm = pef().svm()
    (done,) = vm.run(hcall_step(0xE0))
    assert code(done["r3"]) == SUCCESS and number(done["msr"]) & 0x8000
    left = vm.enter(hcall_step(0xE0, 0x5EC2E7), stop=["H_CEDE"])
    assert left["r3"] == "0xe0" and left["r4"] != "0x5ec2e7"


def test_random_numbers_never_reach_the_hypervisor(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    host.counts()
    done = vm.enter(hcall_step(0x300), hcall_step(0x300), stop=["H_RANDOM"])["steps"]
    assert [code(step["r3"]) for step in done] == [SUCCESS, SUCCESS]
    assert done[0]["r4"] != done[1]["r4"]
    assert "hcalls" not in host.counts()


def test_rtas_goes_through_a_buffer_of_the_ultravisors(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    block = b"".join(word.to_bytes(4, "big") for word in (0x2000, 1, 1, 0xABCD, 0))
    vm.run(store_step(GPA, block))
    left = vm.enter(hcall_step(0xF000, GPA))
    at = number(left["r4"])
    assert left["r3"] == "0xf000" and at != GPA
    assert vm.read(at, 20) == block
    vm.write(at + 16, b"\0\0\0\x2a")
    done = vm.enter(gpr={"r3": 0}, stop=[])["steps"]
    assert code(done[0]["r3"]) == SUCCESS
    assert vm.run({"read": hex(GPA + 16), "len": 4}) == [{"hex": "0000002a"}]
    assert host.audit["tracked"]["gfns_paged_out"] == 0  # the guest's own block was never touched


def test_a_device_is_asked_by_hypercalls(pef: Any) -> None:
    vm = pef().svm()
    far = 1 << 33
    left = vm.enter(load_step(far))
    assert (left["r3"], left["r4"], number(left["r5"])) == ("0x3c", "0x8", far)
    assert vm.enter(gpr={"r3": 0, "r4": "0x1122334455667788"})["steps"] == [{"value": "1122334455667788"}]
    left = vm.enter(store_step(far + 4, b"\x01\x02\x03\x04"))
    assert (left["r3"], left["r4"], number(left["r5"]), left["r6"]) == ("0x40", "0x4", far + 4, "0x1020304")
    assert vm.enter(gpr={"r3": 0})["steps"] == [{}]
    left = vm.enter({"fetch": hex(far)})
    assert (left["trap"], left["secure"], number(left["asdr"])) == ("0xe20", True, far)
    assert vm.enter()["trap"] == "0xe20"  # it is tried again


@pytest.mark.parametrize("vector", [0x100, 0x200, 0x980, 0xE60, 0xE80, 0xEA0, 0xF80])
def test_interrupts_are_reflected(pef: Any, vector: int) -> None:
    vm = pef().svm()
    left = vm.enter({"exit": hex(vector)}, load_step(0))
    assert (left["trap"], left["secure"], left["steps"]) == (hex(vector), True, [{}])
    assert vm.enter()["steps"] == [{"value": "00" * 8}]


def test_an_external_interrupt_stays_in_the_svm(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    host.counts()
    assert vm.run({"exit": "0x500"}, load_step(0)) == [{}, {"value": "00" * 8}]
    assert host.counts()["reflections"] == {"0x980": 1}


def test_an_emulation_assist_kills(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    left = vm.enter({"exit": "0xe40"})
    killed(vm, left)
    assert vm.enter() == left | {"steps": []}  # nothing answers that
    assert vm.sys("KVM_PPC_SVM_OFF") == 0
    vm.load()
    assert vm.esm()["secure"]


# -- UV_RETURN by hand ---------------------------------------------------------------------------------------


def test_uv_return_by_hand(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.enter(hcall_step(0x1234))
    (done,) = host.back(status=-9, r4=5)["steps"]
    assert (code(done["r3"]), done["r4"]) == (-9, "0x5")
    vm.enter(hcall_step(0x1234))
    left = host.back()  # the time slice of what was there ends, and the next one is under the same rules
    assert left["trap"] == "0x980" and left["secure"]


@pytest.mark.parametrize("change", [{"lpidr": 4}, {"lpidr": 0}, {"pidr": 1}])
def test_a_changed_lpidr_or_pidr_kills_that_svm_alone(pef: Any, change: dict[str, int]) -> None:
    host = pef()
    vm, other = host.svm(3, 8 * MIB), host.svm(4, 8 * MIB)
    vm.enter(hcall_step(0x1234))
    host.ok("cpu", **change)
    killed(vm, host.back())
    assert other.run(load_step(0)) == [{"value": "00" * 8}]


@pytest.mark.parametrize("registers", [{"r31": 1, "hsrr0": 1}, {"r31": 0}])
def test_a_bad_cookie_stops_the_machine_of_this_host(pef: Any, registers: dict[str, int]) -> None:
    host = pef(hosts=2)
    vm = host.svm()
    other = host.sibling(1).svm()
    vm.enter(hcall_step(0x1234))
    host.error("call", "dead", r3="0xf11c", **{name: hex(value) for name, value in registers.items()})
    host.error("info", "dead")
    assert other.run(load_step(0)) == [{"value": "00" * 8}]
    host.ok("kill")
    assert host.svm().run(load_step(0)) == [{"value": "00" * 8}]


def test_a_cookie_is_good_once(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    left = vm.enter(hcall_step(0x1234))
    host.back()
    host.error("call", "dead", r3="0xf11c", r31=left["r31"], hsrr0=left["hsrr0"])
    host.ok("reset", kind="system")


def test_a_cookie_of_another_host_is_a_bad_one(pef: Any) -> None:
    host = pef(hosts=2)
    other = host.sibling(1)
    host.svm(3)
    theirs = other.svm(3)
    left = theirs.enter(hcall_step(0x1234))
    host.ok("cpu", lpidr=3)
    host.error("call", "dead", r3="0xf11c", r31=left["r31"], hsrr0=left["r31"])
    assert code(theirs.enter()["steps"][0]["r3"]) == -2
    host.ok("reset", kind="system")


def test_the_end_of_a_killed_svm_does_not_return(pef: Any) -> None:
    host = pef(hosts=2)
    vm = host.svm()
    killed(vm, vm.enter({"exit": "0xe40"}))
    host.error("enter", "dead", vm=3, vcpu=0, gpr={"r3": 0})
    assert host.sibling(1).svm().run(load_step(0)) == [{"value": "00" * 8}]
    host.ok("reset", kind="system")


def test_an_interrupt_for_the_guest_ends_its_access(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", 0x40, 1)
    assert vm.inval(GPA) == SUCCESS
    vm.enter(load_step(GPA), load_step(0), stop=["0xe00"])
    done = host.back(hsrr0=0x300)["steps"]
    assert done[0]["fault"]["code"] == "0x300" and done[1] == {"value": "00" * 8}


@pytest.mark.parametrize("vector", [0x2000, 0x310, 1 << 40])
def test_a_vector_that_is_none_kills(pef: Any, vector: int) -> None:
    host = pef()
    vm = host.svm()
    vm.enter(hcall_step(0x1234))
    killed(vm, host.back(hsrr0=vector))


def test_transactional_memory_in_the_hypervisor_is_an_interrupt_for_the_guest(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.enter(hcall_step(0x1234))
    host.ok("cpu", tm="active")
    (done,) = host.back()["steps"]
    assert number(done["nip"]) == 0x700


def test_while_a_reflection_is_open_the_host_does_other_things(pef: Any) -> None:
    host = pef()
    vm, other = host.svm(3, 8 * MIB), host.svm(4, 8 * MIB)
    left = vm.enter(ucall_step("SHARE_PAGE", 0x40, 1), stop=["H_SVM_PAGE_IN"])
    assert left["r3"] == "0xef00"
    assert other.gcall("SHARE_PAGE", 0x40, 2) == SUCCESS
    assert vm.hcall("H_SVM_PAGE_IN", 0, 2, 16) == (P2, "ultravisor")
    assert host.audit["te"]["open_reflections"] == 2
    assert code(vm.enter()["steps"][0]["r3"]) == SUCCESS


# -- files of the blob ---------------------------------------------------------------------------------------


def get_file(vm: Any, offset: int, name: bytes = b"secret") -> tuple[int, bytes]:
    words = [int.from_bytes(name.ljust(64, b"\0")[at : at + 8], "big") for at in range(0, 64, 8)]
    (done,) = vm.run(ucall_step("ESMB_GET_FILE", offset, *words))
    status = code(done["r3"])
    data = b"".join(number(done[f"r{register}"]).to_bytes(8, "big") for register in range(4, 12))
    return status, data[:status] if status >= 0 else b""


def test_an_attached_file_is_read_forward_and_once(pef: Any) -> None:
    host = pef()
    normal = host.vm(lpid=4)
    assert get_file(normal, 0) == (PARAMETER, b"")
    vm = host.svm()
    assert get_file(vm, 0, b"nobody") == (P2, b"")
    size, first = get_file(vm, 0)
    assert size == 64 and any(first)
    assert get_file(vm, 0) == (PARAMETER, b"")
    size, _ = get_file(vm, 64)
    assert size == 36
    assert get_file(vm, 100) == (0, b"") and get_file(vm, 1 << 40) == (0, b"")
    assert get_file(vm, 99) == (PARAMETER, b"")


def test_an_svm_that_ends_while_its_vcpu_runs_comes_out_and_has_no_way_back(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert vm.enter(stay=True)["running"]
    assert host.ucall("SVM_TERMINATE", 3, cpu=1) == SUCCESS
    left = host.ok("kick")
    assert (left["trap"], left["secure"], left["vm"]) == ("0xe80", True, "0x3")
    host.error("enter", "dead", vm=3, vcpu=0)
    host.ok("reset", kind="system")


def test_an_svm_starts_its_other_vcpus(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    for vcpu in (1, 2):
        assert vm.sys("KVM_CREATE_VCPU", vcpu=vcpu) == 0
    words = (0x2006, 3, 1, 1, 0x4000, 0xCAFE, 0)
    block = b"".join(word.to_bytes(4, "big") for word in words)
    left = vm.enter(store_step(GPA, block), hcall_step(0xF000, GPA))
    assert left["r3"] == "0xf000" and vm.read(number(left["r4"]), 28) == block
    assert code(vm.enter(gpr={"r3": 0})["steps"][0]["r3"]) == SUCCESS
    done = vm.run(ucall_step("SHARE_PAGE", 0x60, 1), load_step(GPA), vcpu=1, cpu=1)
    assert code(done[0]["r3"]) == SUCCESS and done[1] == {"value": block[:8].hex()}
    assert number(done[0]["nip"]) == 0x4004 and number(done[0]["msr"]) & S_BIT
    # nobody has started the third one
    assert code(vm.run(ucall_step("SHARE_PAGE", 0x61, 1), vcpu=2, cpu=1)[0]["r3"]) == -11
    # and one that is in the middle of sharing a page keeps the others from it
    left = vm.enter(ucall_step("SHARE_PAGE", 0x62, 1), stop=["H_SVM_PAGE_IN"])
    assert left["r3"] == "0xef00"
    assert code(vm.run(ucall_step("SHARE_PAGE", 0x61, 2), vcpu=1, cpu=1)[0]["r3"]) == P2
    assert code(vm.run(ucall_step("UNSHARE_PAGE", 0x62, 1), vcpu=1, cpu=1)[0]["r3"]) == P2
    assert vm.enter(load_step(0x62 * PAGE), vcpu=1, cpu=1)["steps"] == []  # it tries until its slice ends
    assert code(vm.enter()["steps"][0]["r3"]) == SUCCESS
    assert vm.enter(vcpu=1, cpu=1)["steps"] == [{"value": "00" * 8}]


def test_a_start_that_the_vmm_refuses_starts_nothing(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert vm.sys("KVM_CREATE_VCPU", vcpu=1) == 0
    block = b"".join(word.to_bytes(4, "big") for word in (0x2006, 3, 1, 1, 0x4000, 0, 0))
    left = vm.enter(store_step(GPA, block), hcall_step(0xF000, GPA))
    vm.write(number(left["r4"]) + 24, (0xFFFF_FFFD).to_bytes(4, "big"))
    vm.enter(gpr={"r3": 0})
    assert code(vm.run(ucall_step("SHARE_PAGE", 0x61, 1), vcpu=1, cpu=1)[0]["r3"]) == -11


def test_a_vcpu_that_stays_takes_what_it_is_given(pef: Any) -> None:
    vm = pef().svm()
    assert vm.enter(stay=True)["running"]
    assert vm.queue(store_step(GPA, b"given"), load_step(GPA))["steps"] == [{}, {"value": "676976656e000000"}]
    assert vm.queue(load_step(0))["steps"] == [{"value": "00" * 8}]
    assert vm.host.ok("kick")["trap"] == "0xe80"


def test_a_vcpu_that_was_in_a_call_of_its_own_finishes_it_before_it_is_secure(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert vm.sys("KVM_CREATE_VCPU", vcpu=1) == 0
    left = vm.enter(hcall_step(0x1234), ucall_step("SHARE_PAGE", 0x60, 1), vcpu=1, cpu=1)
    assert (left["trap"], left["secure"]) == ("0xc00", False)
    block = b"".join(word.to_bytes(4, "big") for word in (0x2006, 3, 1, 1, 0x4000, 0, 0))
    vm.enter(store_step(GPA, block), hcall_step(0xF000, GPA))
    vm.enter(gpr={"r3": 0})
    called, shared = vm.enter(vcpu=1, cpu=1, gpr={"r3": 5})["steps"]
    assert called["r3"] == "0x5" and not number(called["msr"]) & S_BIT
    assert code(shared["r3"]) == SUCCESS and number(shared["msr"]) & S_BIT


def os_term(vm: Any, at: int) -> Json:
    """The guest ends itself by `ibm,os-term`, with its argument block at `at`."""
    block = b"".join(word.to_bytes(4, "big") for word in (0x201F, 1, 1, 0, 0))
    left: Json = vm.enter(store_step(at, block), hcall_step(0xF000, at))
    return left


def test_an_svm_that_ends_itself_does_not_return(pef: Any) -> None:
    host = pef(hosts=2)
    vm = host.svm()
    left = os_term(vm, GPA)
    killed(vm, left | {"steps": []})
    assert vm.enter()["r31"] == left["r31"]  # nothing answers that
    host.error("enter", "dead", vm=3, vcpu=0, gpr={"r3": 0})
    assert host.sibling(1).svm().run(load_step(0)) == [{"value": "00" * 8}]
    host.ok("reset", kind="system")


@pytest.mark.parametrize("token", [0x201F, 0x2000])
def test_rtas_waits_for_the_ultravisors_buffer(pef: Any, token: int) -> None:
    """Its slot is gone: the time slices of the guest end, one after the other, and it gets nowhere."""
    host = pef()
    vm = host.svm()
    far = 64 * MIB
    assert vm.slot(1, far, MIB) == 0
    assert host.ucall("UNREGISTER_MEM_SLOT", 3, 0) == SUCCESS
    block = b"".join(word.to_bytes(4, "big") for word in (token, 1, 1, 0, 0))
    assert vm.run(store_step(far, block), hcall_step(0xF000, far)) == [{}]
    for _ in range(2):
        left = vm.enter()
        assert (left["trap"], left["secure"], left["steps"]) == ("0x980", True, [])


def test_an_answer_of_rtas_whose_buffer_is_gone_changes_nothing_in_the_guest(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    far = 64 * MIB
    assert vm.slot(1, far, MIB) == 0
    assert vm.sys("KVM_CREATE_VCPU", vcpu=1) == 0
    block = b"".join(word.to_bytes(4, "big") for word in (0x2006, 3, 1, 1, 0x4000, 0, 0))
    left = vm.enter(store_step(far, block), hcall_step(0xF000, far))
    assert left["r3"] == "0xf000"
    assert host.ucall("UNREGISTER_MEM_SLOT", 3, 0) == SUCCESS
    done, kept = vm.enter({"read": hex(far), "len": len(block)}, gpr={"r3": 0})["steps"]
    assert code(done["r3"]) == SUCCESS and kept == {"hex": block.hex()}
    left = vm.enter(ucall_step("SHARE_PAGE", 0x401, 1), vcpu=1, cpu=1)
    assert not left["secure"], "it was not started"


def test_rtas_that_its_hypervisor_refuses_starts_nothing(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert vm.sys("KVM_CREATE_VCPU", vcpu=1) == 0
    block = b"".join(word.to_bytes(4, "big") for word in (0x2006, 3, 1, 1, 0x4000, 0, 0))
    vm.enter(store_step(GPA, block), hcall_step(0xF000, GPA))
    assert code(vm.enter(gpr={"r3": hex((1 << 64) - 2)})["steps"][0]["r3"]) == -2
    assert code(vm.run(ucall_step("SHARE_PAGE", 0x61, 1), vcpu=1, cpu=1)[0]["r3"]) == -11
