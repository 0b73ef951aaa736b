"""A POWER host whose memory is used up: whatever KVM is asked has an answer, and goes on with a page."""

from __future__ import annotations

from typing import Any

from driver import number
from pef_field import MIB, P2, PAGE, PARAMETER, SUCCESS, UNSUPPORTED, code, load_step, store_step, ucall_step
from test_pef_nested_api import MEMORY, Hypervisor

ENOMEM = -12
GFN = 0x40
GPA = GFN * PAGE


class UsedUp:
    """All memory of a host that KVM could take is given out at the keyboard; it comes back page by page."""

    def __init__(self, host: Any) -> None:
        self._host = host
        self._pages = [host.alloc() for _ in range(16)]
        for size in (64 * MIB, 16 * MIB, 4 * MIB, MIB, PAGE):
            while "ok" in host.keyboard.ask("alloc", len=size):
                pass

    def give(self, pages: int = 1) -> None:
        for _ in range(pages):
            self._host.ok("free", addr=hex(self._pages.pop()))


def test_no_vm_is_made_and_none_is_left(pef: Any) -> None:
    host = pef()
    memory = UsedUp(host)
    assert host.kvm("KVM_CREATE_VM", vm=3) == ENOMEM
    assert host.audit["tracked"]["vms"] == 0
    memory.give()
    assert host.kvm("KVM_CREATE_VM", vm=3) == 0


def test_the_vmm_gets_a_sigbus(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    memory = UsedUp(host)
    requests: tuple[tuple[str, dict[str, Any]], ...] = (
        ("read", {"len": 8}),
        ("write", {"hex": "00"}),
        ("fill", {"len": 8, "byte": 1}),
    )
    for op, fields in requests:
        fault = host.fault(op, addr=hex(GPA), space=vm.space, **fields)
        assert (fault["name"], number(fault["address"])) == ("SIGBUS", GPA)
    fault = host.fault("load", vm=3, at=hex(MIB), kernel=hex(PAGE), initrd=0, cmdline="")
    assert (fault["name"], number(fault["address"])) == ("SIGBUS", MIB)
    memory.give()
    assert vm.read(GPA) == bytes(8)


def test_a_storage_interrupt_that_kvm_cannot_resolve_is_the_vmms(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    memory = UsedUp(host)
    left = vm.enter(load_step(GPA))
    assert (left["trap"], number(left["asdr"]), left["steps"]) == ("0xe00", GPA, [])
    memory.give(2)  # one may be a table
    assert vm.enter()["steps"] == [{"value": "00" * 8}]


def test_a_page_is_there_and_a_table_for_it_is_not(pef: Any) -> None:
    """Regions of memory far from each other need tables of their own, until a page of tables is full."""
    host = pef()
    vm = host.vm()
    far = [which << 39 for which in range(1, 10)]
    for which, gpa in enumerate(far, 1):
        assert vm.slot(which, gpa, PAGE) == 0
        vm.write(gpa, b"far")
    vm.run(load_step(far[0]))
    memory = UsedUp(host)
    left = vm.enter(*(load_step(gpa) for gpa in far))
    done = left["steps"]
    assert (left["trap"], number(left["asdr"])) == ("0xe00", far[len(done)]) and 0 < len(done) < len(far)
    memory.give()
    done += vm.enter()["steps"]
    assert done == [{"value": b"far".hex() + "00" * 5}] * len(far)


def test_a_page_stays_inside_the_ultravisor(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.run(store_step(GPA, b"inside"))
    memory = UsedUp(host)
    assert vm.hcall("H_SVM_PAGE_OUT", GPA, 0, 16)[0] == PARAMETER
    assert vm.hcall("H_SVM_PAGE_IN", GPA, 1, 16)[0] == PARAMETER
    assert vm.run(load_step(GPA)) == [{"value": b"inside".hex() + "0000"}]
    assert vm.gcall("SHARE_PAGE", GFN, 1) == P2
    memory.give()
    assert vm.gcall("SHARE_PAGE", GFN, 1) == SUCCESS


def test_a_page_that_kvm_has_not_made_yet_does_not_go_into_the_ultravisor(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    assert vm.hcall("H_SVM_INIT_START", srr1=0)[0] == UNSUPPORTED
    left = vm.enter(ucall_step("ESM", 1, GPA), stop=["H_SVM_PAGE_IN"])
    assert number(left["r4"]) == 0 or number(left["r4"]) == GPA
    memory = UsedUp(host)
    assert vm.hcall("H_SVM_PAGE_IN", GPA, 0, 16)[0] == PARAMETER
    memory.give()
    assert vm.hcall("H_SVM_PAGE_IN", GPA, 0, 16)[0] == SUCCESS
    assert code(vm.enter(gpr={"r3": hex((1 << 64) - 4)})["steps"][0]["r3"]) == PARAMETER


def test_a_nested_guest_waits_for_memory(pef: Any) -> None:
    host = pef()
    hypervisor = Hypervisor(host)
    hypervisor.boot()
    hypervisor.vm.write(MEMORY, b"there   ")
    memory = UsedUp(host)
    assert hypervisor.enter(load_step(0)) == (PARAMETER, [])
    memory.give()  # for the root of its table, and none for what hangs on it
    assert hypervisor.enter(load_step(0)) == (0xE00, [])
    memory.give()
    assert hypervisor.enter() == (0x980, [{"value": b"there   ".hex()}])
