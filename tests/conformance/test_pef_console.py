"""The console of a POWER host: its form, VMs, memory, counts, resets."""

from __future__ import annotations

from typing import Any

import pytest
from driver import number
from pef_field import MIB, PAGE, SECURE_MEMORY, SF, code, load_step, store_step


@pytest.mark.parametrize(
    ("profile", "memory", "frames"),
    [("default", 4096 * MIB, 65536), ("small", 192 * MIB, 3072), ("frames", 192 * MIB, 16), ("none", 0, 0)],
)
def test_info_says_what_a_host_can_discover(pef: Any, profile: str, memory: int, frames: int) -> None:
    host = pef(profile=profile)
    info = host.ok("info")
    assert (info["arch"], info["page_size"], info["profile"], info["cpus"]) == ("pef", PAGE, profile, 2)
    te = info["te"]
    assert (te["ultravisor"], number(te["secure_memory"]), te["unit"]) == (memory > 0, memory, "0x200000")
    assert (te["lpids"], te["mem_slots"], te["device_frames"], te["nested"]) == (4095, 512, frames, "v1")
    assert ("KVM_CAP_PPC_SECURE_GUEST" in te["caps"]) == (memory > 0)
    assert "KVM_CAP_PPC_NESTED_HV" in te["caps"]


def test_a_host_has_512_mib_unless_it_is_told_otherwise(pef: Any) -> None:
    assert pef(memory_mib=None).ok("info")["memory"] == 512 * MIB


def test_memory_is_given_out_in_pages_of_64_kib_and_zeroed(pef: Any) -> None:
    host = pef()
    first = host.alloc(1)
    assert first % PAGE == 0
    host.write(first, b"\xff" * 8)
    host.ok("free", addr=hex(first))
    again = host.alloc(2 * PAGE)
    assert host.read(again, 8) == bytes(8)
    assert again + 2 * PAGE <= host.ok("info")["memory"]


def test_memory_that_kvm_uses_is_not_given_out(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    vm.write(0, b"mine")
    top = host.ok("info")["memory"]
    taken = []
    while True:
        answer = host.keyboard.ask("alloc", len=MIB)
        if "error" in answer:
            assert answer["error"]["code"] == "limit"
            break
        taken.append(number(answer["ok"]["addr"]))
        host.ok("fill", addr=taken[-1], len=MIB, byte=0xEE)
    assert len(taken) > 100 and all(at + MIB <= top for at in taken)
    assert vm.read(0, 4) == b"mine"


@pytest.mark.parametrize("address", [SECURE_MEMORY, SECURE_MEMORY + PAGE, 1 << 40, 128 * MIB, 128 * MIB - 4])
def test_secure_memory_and_what_is_not_there_are_a_machine_check(pef: Any, address: int) -> None:
    host = pef()
    for op, fields in (("read", {"len": 8}), ("write", {"hex": "00" * 8}), ("fill", {"len": 8})):
        fault = host.fault(op, addr=hex(address), **fields)
        assert (fault["code"], fault["name"]) == ("0x200", "machine check")
        assert fault["write"] is (op != "read")


def test_the_vmm_maps_what_slots_there_are(pef: Any) -> None:
    host = pef()
    vm = host.vm(size=2 * MIB)
    assert vm.read(2 * MIB - 8) == bytes(8)
    fault = host.fault("read", addr=hex(2 * MIB), len=1, space=vm.space)
    assert (fault["code"], fault["name"]) == ("0xb", "SIGSEGV")
    fault = host.fault("write", addr=hex(2 * MIB - 4), hex="ff" * 8, space=vm.space)
    assert fault["code"] == "0xb" and vm.read(2 * MIB - 8) == bytes(8)
    host.error("read", "bad_value", addr=0, len=1, space="vm:77")


def test_a_host_without_memory_left_gives_its_vmm_a_sigbus(pef: Any) -> None:
    host = pef(memory_mib=64)
    vm = host.vm(size=256 * MIB)
    fault = host.fault("fill", addr=0, len=256 * MIB, byte=1, space=vm.space)
    assert (fault["code"], fault["name"]) == ("0x7", "SIGBUS")


def test_vms_are_named_by_their_lpid(pef: Any) -> None:
    host = pef()
    assert host.ok("kvm", name="KVM_CREATE_VM") == {"ret": 0, "vm": "0x1"}
    assert host.ok("kvm", name="KVM_CREATE_VM", vm=4095)["vm"] == "0xfff"
    assert host.kvm("KVM_CREATE_VM", vm=1) < 0
    assert host.ok("kvm", name="KVM_CREATE_VM")["vm"] == "0x2"
    for wrong in (0, 4096, -1, "x"):
        host.error("kvm", "bad_value", name="KVM_CREATE_VM", vm=wrong)
    host.error("kvm", "bad_value", name="KVM_CREATE_VCPU", vm=77, vcpu=0)
    host.error("kvm", "bad_value", name="KVM_PATCH", vm=1)
    assert host.kvm("close", vm=1) == 0
    host.error("enter", "bad_value", vm=1, vcpu=0)
    assert host.ok("kvm", name="KVM_CREATE_VM")["vm"] == "0x1"


def test_vcpus_and_slots_have_their_rules(pef: Any) -> None:
    vm = pef().vm(size=2 * MIB)
    assert vm.sys("KVM_CREATE_VCPU", vcpu=0) == -17
    assert vm.sys("KVM_CREATE_VCPU", vcpu=5) == 0
    assert vm.slot(1, MIB, 4 * MIB) == -17  # overlaps
    assert vm.slot(512, 8 * MIB, MIB) == -22
    assert vm.slot(1, 8 * MIB + 1, MIB) == -22
    assert vm.slot(1, 8 * MIB, MIB + 1) == -22
    assert vm.slot(1, 8 * MIB, 0) == -22
    assert vm.slot(511, 8 * MIB, MIB) == 0
    assert vm.slot(511, 8 * MIB, MIB) == 0
    assert vm.slot(511, 8 * MIB, 2 * MIB) == -22
    assert vm.slot(511, 0, 0) == 0
    assert vm.slot(9, 1 << 40, 1 << 45) == -12  # more than anybody has


def test_a_deleted_slot_is_gone_for_guest_and_vmm(pef: Any) -> None:
    host = pef()
    vm = host.vm(size=2 * MIB)
    assert vm.slot(1, 4 * MIB, MIB) == 0
    assert vm.run(store_step(4 * MIB, b"12345678"), load_step(4 * MIB))[1] == {"value": b"12345678".hex()}
    assert vm.slot(1, 0, 0) == 0
    left = vm.enter(load_step(4 * MIB))
    assert (left["trap"], left["asdr"], left["steps"]) == ("0xe00", hex(4 * MIB), [])
    assert host.fault("read", addr=hex(4 * MIB), len=1, space=vm.space)["code"] == "0xb"
    assert vm.slot(2, 4 * MIB, MIB) == 0
    assert vm.enter()["steps"] == [{"value": "00" * 8}]  # the access is tried again, and finds fresh memory


def test_a_hashed_vm_is_for_a_host_on_the_machine_only(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    assert vm.sys("KVM_PPC_CONFIGURE_V3_MMU", radix=False) == (-22 if host.depth else 0)
    assert vm.sys("KVM_PPC_CONFIGURE_V3_MMU", radix=True) == 0
    assert vm.run(store_step(0, b"x"))[0] == {}


def test_unknown_capabilities_are_invalid(pef: Any) -> None:
    assert pef().vm().sys("KVM_ENABLE_CAP", cap="KVM_CAP_NOBODY_KNOWS") == -22


@pytest.mark.parametrize(
    "step",
    [
        {},
        {"touch": 0, "read": 0},
        {"touch": 0, "value": "00"},
        {"touch": 0, "write": True, "value": "0"},
        {"touch": 0, "write": True, "value": "00" * (PAGE + 1)},
        {"read": 0},
        {"exit": 0xC00},
        {"exit": 0x981},
        {"call": {"r4": 0}},
        {"call": {"r3": 0, "r32": 0}},
        {"hcall": {"r3": 0}, "pr": True},
        {"fetch": "x"},
    ],
)
def test_a_step_that_makes_no_sense_changes_nothing(pef: Any, step: dict[str, Any]) -> None:
    host = pef()
    vm = host.vm()
    answer = host.keyboard.ask("guest", vm=3, vcpu=0, do=[{"read": 0, "len": 1}, step])
    assert answer["error"]["code"] in ("bad_value", "bad_request")
    assert vm.enter()["steps"] == []


def test_a_normal_guest_reads_what_its_vmm_wrote_and_the_other_way_round(pef: Any) -> None:
    vm = pef().vm()
    vm.write(PAGE - 4, b"abcdefgh")
    assert vm.run({"read": hex(PAGE - 4), "len": 8}) == [{"hex": b"abcdefgh".hex()}]
    assert vm.run(store_step(5 * PAGE - 2, b"wxyz"), {"fetch": 0}) == [{}, {}]
    assert vm.read(5 * PAGE - 2, 4) == b"wxyz"


def test_a_hypercall_that_nobody_knows_comes_out_and_is_answered_h_function(pef: Any) -> None:
    vm = pef().vm()
    left = vm.enter({"hcall": {"r3": "0x1234", "r4": 7, "r12": 9}})
    assert (left["trap"], left["secure"], left["r3"], left["r4"], left["r12"]) == (
        *("0xc00", False, "0x1234"),
        *("0x7", "0x9"),
    )
    assert left["srr1"] == hex(SF) and left["steps"] == []
    (done,) = vm.enter()["steps"]
    assert code(done["r3"]) == -2 and done["r4"] == "0x7" and done["nip"] == left["srr0"]


def test_the_keyboard_answers_a_hypercall(pef: Any) -> None:
    vm = pef().vm()
    vm.enter({"hcall": {"r3": "0x1234"}})
    (done,) = vm.enter(gpr={"r3": "0x5", "r4": "0x6"})["steps"]
    assert (done["r3"], done["r4"], done["r5"]) == ("0x5", "0x6", "0x0")
    other = vm.host.vm(lpid=4)
    vm.host.error("enter", "bad_value", vm=4, vcpu=0, gpr={"r3": 0})  # nothing is open
    assert other.enter(stop=["0xE00"])["trap"] == "0x980"
    vm.host.error("enter", "bad_value", vm=4, vcpu=0, stop=["0xe01"])
    vm.host.error("enter", "bad_value", vm=4, vcpu=0, stop="0xe00")


def test_a_guest_ends_its_time_slice_or_stays(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    assert vm.enter()["trap"] == "0x980"
    assert vm.enter(store_step(0, b"a"), stay=True) == {"running": True, "steps": [{}]}
    host.error("enter", "bad_request", vm=3, vcpu=0)
    host.error("call", "bad_request", r3=0)
    host.error("enter", "bad_value", vm=3, vcpu=0, cpu=1)
    answer = vm.queue(load_step(0))
    assert answer["steps"] == [{"value": "6100000000000000"}]
    assert host.kvm("close", vm=3) == -16  # a vcpu runs
    assert host.ok("kick", cpu=0)["trap"] == "0xe80"


@pytest.mark.parametrize("vector", [0x100, 0x200, 0x500, 0x980, 0xE40, 0xE60, 0xE80, 0xEA0, 0xF80])
def test_an_interrupt_of_a_normal_guest_comes_out(pef: Any, vector: int) -> None:
    vm = pef().vm()
    left = vm.enter({"exit": hex(vector)}, load_step(0))
    assert (left["trap"], left["secure"], left["steps"]) == (hex(vector), False, [{}])
    assert vm.enter()["steps"] == [{"value": "00" * 8}]


def test_parking_is_not_offered(pef: Any) -> None:
    host = pef()
    host.vm()
    host.error("call", "bad_value", r3="0xf104", park=True)
    host.error("enter", "bad_value", vm=3, vcpu=0, park=True)
    host.error("insn", "bad_value", name="mtmsr")


def test_counts_are_what_the_host_issued_and_received(pef: Any) -> None:
    host = pef()
    host.counts()
    vm = host.loaded()
    assert {name: body for name, body in host.counts().items() if name != "machine"} == {
        "ucalls": {"UV_WRITE_PATE": 1}
    }
    vm.esm()
    counts = host.counts()
    pages = 2 + 1 + 1 + 1 + 1  # kernel, initrd, RTAS, device tree, blob
    assert counts["hcalls"] == {
        "H_SVM_INIT_START": 1,
        "H_SVM_PAGE_IN": pages + 1 + 7,
        "H_SVM_TPM_COMM": 3,
        "H_SVM_INIT_DONE": 1,
    }
    assert counts["ucalls"] == {
        "UV_REGISTER_MEM_SLOT": 1,
        "UV_PAGE_IN": pages + 1 + 7,
        "UV_RETURN": 2 + pages + 1 + 7 + 3,
    }
    assert counts["reflections"] == {"0xc00": counts["ucalls"]["UV_RETURN"], "0x980": 1}
    assert "ucalls" not in host.counts()


def test_a_reset_ends_every_vm_and_keeps_the_book(pef: Any) -> None:
    host = pef()
    kept = host.alloc()
    host.svm()
    host.ok("reset", kind="system")
    assert host.audit["te"] == {"svms": 0, "slots": 0, "units": 0, "open_reflections": 0}
    assert host.audit["tracked"]["vms"] == 0
    assert host.alloc() != kept
    assert host.svm().gcall("SHARE_PAGE", 0x40, 1) == 0
    host.error("reset", "bad_value", kind="load-clear")


def test_a_killed_host_has_a_fresh_one_in_its_place(pef: Any) -> None:
    host = pef(hosts=2)
    other = host.sibling(1)
    vm = other.svm(lpid=3)
    page = host.alloc()
    host.write(page, b"\xff" * 8)
    host.svm(lpid=3)
    host.ok("kill")
    assert host.alloc() == page and host.read(page, 8) == bytes(8)
    assert host.audit["te"]["svms"] == 0
    assert other.audit["te"]["svms"] == 1
    assert vm.run(load_step(0)) == [{"value": "00" * 8}]
    assert host.svm(lpid=3).run(load_step(0)) == [{"value": "00" * 8}]


def test_siblings_use_the_same_lpids_and_the_same_quota(pef: Any) -> None:
    host = pef(hosts=2)
    for one in (host, host.sibling(1)):
        one.svm(lpid=3, size=64 * MIB)
        assert one.audit["te"]["units"] == 32
    assert host.ucall("REGISTER_MEM_SLOT", 3, 64 * MIB, 128 * MIB, 0, 7) == 0
    assert host.ucall("REGISTER_MEM_SLOT", 3, 256 * MIB, 2 * MIB, 0, 8) == -4
    assert host.sibling(1).ucall("REGISTER_MEM_SLOT", 3, 64 * MIB, 128 * MIB, 0, 7) == 0


def test_without_an_ultravisor_calls_go_to_the_host_itself(pef: Any) -> None:
    host = pef(profile="none")
    for name in ("WRITE_PATE", "ESM", "PAGE_IN", "RETURN", "SHARE_PAGE"):
        assert host.ucall(name, 1) == -2
    vm = host.loaded(opt_in=False)
    assert vm.sys("KVM_ENABLE_CAP", cap="KVM_CAP_PPC_SECURE_GUEST") == -22
    (done,) = vm.run(vm.esm_step())
    assert code(done["r3"]) == -2
    assert vm.hcall("H_SVM_INIT_START") == (-67, "ultravisor")
    assert vm.run(store_step(0, b"a"), load_step(0))[1] == {"value": "61" + "00" * 7}
    assert vm.sys("close") == 0
