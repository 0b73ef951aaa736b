"""A call that fails at a check changes nothing: what levels and kernels keep is one number before and after.

One case for each check of the call table that can fail so. What a failing call does change where its row says
so (`on_error`) has tests of its own: the transition, shares that are taken back, cookies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from driver import Keyboard, in_process
from pef_field import MIB, PAGE, S_BIT, PefHost, code, ucall_step
from pef_state import state

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.status import signed

ROWS = {row.name: row for row in CALLS.values()}
SIZE = 4 * MIB
SHARED, OUT, PLAIN, NEXT = 0x30, 0x31, 0x32, 0x33  # GFNs of the secure VM, beyond what it booted with
FAR = 1 << 40
UNKNOWN = 99
STOP = {"stop": ["H_SVM_PAGE_IN"]}

Act = Callable[[Any, Any], int]


class Case(NamedTuple):
    """`call` fails at check number `place` when `act` is done in this scene."""

    call: str
    place: int
    act: Act
    scene: str = "secure"


# -- scenes: a host, and a VM of its ------------------------------------------------------------------------


def secure(host: PefHost) -> Any:
    """An SVM with one page shared, one paged out, and a normal VM beside it, LPID 4."""
    host.vm(lpid=4, size=MIB, opt_in=False)
    vm = host.svm(size=SIZE)
    assert vm.gcall("SHARE_PAGE", SHARED, 1) == 0
    vm.read(OUT * PAGE)
    vm.write(OUT * PAGE, b"changed")
    return vm


def between(host: PefHost) -> Any:
    """An SVM in the middle of an unshare: its first page is HV_UNSHARED, its second HV_UNSHARING."""
    vm = host.svm(size=SIZE)
    assert vm.gcall("SHARE_PAGE", PLAIN, 2) == 0
    vm.enter(ucall_step("UNSHARE_PAGE", PLAIN, 2), **STOP)
    vm.enter(**STOP)
    return vm


def aborting(host: PefHost) -> Any:
    """A VM whose transition has failed, before its hypervisor knows."""
    vm = host.loaded(size=SIZE)
    vm.write(vm.areas["initrd"], b"!")
    vm.esm(stop=["H_SVM_INIT_ABORT"])
    return vm


def normal(host: PefHost) -> Any:
    return host.vm(size=MIB)


def without_tpm(host: PefHost) -> Any:
    return host.vm(size=MIB, tpm_proxy=False)


SCENES = {
    "secure": secure,
    "between": between,
    "aborting": aborting,
    "normal": normal,
    "changing": normal,
    "without tpm": without_tpm,
}

# -- how each check is failed --------------------------------------------------------------------------------


def host_call(name: str, *arguments: int, hv: bool = True) -> Act:
    """`sc 2` by hand; an argument PAGE_HERE is a page of the host's."""

    def act(host: PefHost, vm: Any) -> int:
        if not hv:
            host.ok("cpu", hv=False)
        try:
            given = [host.page_here if each == PAGE_HERE else each for each in arguments]  # type: ignore[attr-defined]
            return host.ucall(name, *given)
        finally:
            host.ok("cpu", hv=True)

    return act


def guest_call(name: str, *arguments: int, pr: bool = False) -> Act:
    return lambda host, vm: vm.gcall(name, *arguments, pr=pr)


def from_normal(name: str, *arguments: int) -> Act:
    """By the normal VM that stands beside."""

    def act(host: PefHost, vm: Any) -> int:
        left = host.ok("guest", vm=4, vcpu=0, do=[ucall_step(name, *arguments)])
        assert left == {"queued": 1}
        return code(host.ok("enter", vm=4, vcpu=0)["steps"][0]["r3"])

    return act


def kvm_call(name: str, *arguments: int, srr1: int = S_BIT) -> Act:
    return lambda host, vm: vm.hcall(name, *arguments, srr1=srr1)[0]


PAGE_HERE = -1
_NAME = [int.from_bytes(b"nobody".ljust(64, b"\0")[at : at + 8], "big") for at in range(0, 64, 8)]
_ORDER = 16

HOST = [
    Case(f"UV_{name}", 0, host_call(name, 3, hv=False))
    for name in (
        *("WRITE_PATE", "RETURN", "REGISTER_MEM_SLOT", "UNREGISTER_MEM_SLOT", "PAGE_IN", "PAGE_OUT"),
        *("PAGE_INVAL", "SVM_TERMINATE", "RESTRICTED_SPR_WRITE", "RESTRICTED_SPR_READ", "READ_SCOM"),
        *("WRITE_SCOM", "READ_MEM", "WRITE_MEM", "SEND_SBE_COMMAND"),
    )
] + [
    Case("UV_WRITE_PATE", 1, host_call("WRITE_PATE", 4096, 1, 1)),
    Case("UV_REGISTER_MEM_SLOT", 1, host_call("REGISTER_MEM_SLOT", UNKNOWN, 64 * MIB, MIB, 0, 1)),
    Case("UV_REGISTER_MEM_SLOT", 2, host_call("REGISTER_MEM_SLOT", 3, 64 * MIB, 400 * MIB, 0, 1)),
    Case("UV_REGISTER_MEM_SLOT", 2, host_call("REGISTER_MEM_SLOT", 3, 2 * MIB, MIB, 0, 1)),
    Case("UV_REGISTER_MEM_SLOT", 2, host_call("REGISTER_MEM_SLOT", 3, 64 * MIB, MIB, 0, 0)),
    Case("UV_UNREGISTER_MEM_SLOT", 1, host_call("UNREGISTER_MEM_SLOT", UNKNOWN, 0)),
    Case("UV_UNREGISTER_MEM_SLOT", 2, host_call("UNREGISTER_MEM_SLOT", 3, 5)),
    Case("UV_PAGE_IN", 1, host_call("PAGE_IN", 3, PAGE_HERE, OUT * PAGE, 0, 12)),
    Case("UV_PAGE_IN", 2, host_call("PAGE_IN", 3, 0, OUT * PAGE, 0, _ORDER)),
    Case("UV_PAGE_IN", 3, host_call("PAGE_IN", UNKNOWN, PAGE_HERE, OUT * PAGE, 0, _ORDER)),
    Case("UV_PAGE_IN", 4, host_call("PAGE_IN", 3, PAGE_HERE, MIB, 0, _ORDER), "aborting"),
    Case("UV_PAGE_IN", 5, host_call("PAGE_IN", 3, PAGE_HERE, FAR, 0, _ORDER)),
    Case("UV_PAGE_IN", 6, host_call("PAGE_IN", 3, PAGE_HERE, PLAIN * PAGE, 0, _ORDER)),
    Case("UV_PAGE_IN", 6, host_call("PAGE_IN", 3, PAGE_HERE, PLAIN * PAGE, 0, _ORDER), "between"),
    Case("UV_PAGE_IN", 7, host_call("PAGE_IN", 3, PAGE_HERE, OUT * PAGE, 0, _ORDER)),
    Case("UV_PAGE_OUT", 1, host_call("PAGE_OUT", 3, PAGE_HERE, PLAIN * PAGE, 0, 12)),
    Case("UV_PAGE_OUT", 2, host_call("PAGE_OUT", 3, 0, PLAIN * PAGE, 0, _ORDER)),
    Case("UV_PAGE_OUT", 3, host_call("PAGE_OUT", UNKNOWN, PAGE_HERE, PLAIN * PAGE, 0, _ORDER)),
    Case("UV_PAGE_OUT", 4, host_call("PAGE_OUT", 3, PAGE_HERE, FAR, 0, _ORDER)),
    Case("UV_PAGE_OUT", 5, host_call("PAGE_OUT", 3, PAGE_HERE, PLAIN * PAGE, 0, _ORDER), "between"),
    Case("UV_PAGE_OUT", 6, host_call("PAGE_OUT", 3, PAGE_HERE, SHARED * PAGE, 0, _ORDER)),
    Case("UV_PAGE_OUT", 6, host_call("PAGE_OUT", 3, PAGE_HERE, OUT * PAGE, 0, _ORDER)),
    Case("UV_PAGE_INVAL", 1, host_call("PAGE_INVAL", 3, SHARED * PAGE, 12)),
    Case("UV_PAGE_INVAL", 2, host_call("PAGE_INVAL", UNKNOWN, SHARED * PAGE, _ORDER)),
    Case("UV_PAGE_INVAL", 3, host_call("PAGE_INVAL", 3, MIB, _ORDER), "aborting"),
    Case("UV_PAGE_INVAL", 4, host_call("PAGE_INVAL", 3, FAR, _ORDER)),
    Case("UV_PAGE_INVAL", 5, host_call("PAGE_INVAL", 3, PLAIN * PAGE, _ORDER)),
    Case("UV_SVM_TERMINATE", 1, host_call("SVM_TERMINATE", UNKNOWN)),
    Case("UV_SVM_TERMINATE", 2, host_call("SVM_TERMINATE", 4)),
    Case("UV_RESTRICTED_SPR_WRITE", 1, host_call("RESTRICTED_SPR_WRITE", 0xB5, 1)),
    Case("UV_RESTRICTED_SPR_READ", 1, host_call("RESTRICTED_SPR_READ", 0x352)),
    Case("UV_READ_SCOM", 1, host_call("READ_SCOM", 0, 0)),
    Case("UV_WRITE_SCOM", 1, host_call("WRITE_SCOM", 0, 0, 1)),
    Case("UV_READ_MEM", 1, host_call("READ_MEM", 0, 0, 0, 8)),
    Case("UV_WRITE_MEM", 1, host_call("WRITE_MEM", 0, 0, 0, 8)),
    Case("UV_SEND_SBE_COMMAND", 1, host_call("SEND_SBE_COMMAND", 1, 2, 3)),
]
GUEST = [
    Case("UV_ESM", 0, guest_call("ESM", 1, 1, pr=True)),
    Case("UV_ESM", 1, guest_call("ESM", 0, 1)),
    Case("UV_ESM", 2, guest_call("ESM", 1, 0)),
    Case("UV_ESM", 3, host_call("ESM", 1, 1, hv=False), "normal"),
    *(Case(f"UV_{name}", 0, from_normal(name, 0, 1)) for name in ("SHARE_PAGE", "UNSHARE_PAGE")),
    Case("UV_UNSHARE_ALL_PAGES", 0, from_normal("UNSHARE_ALL_PAGES")),
    *(Case(f"UV_{name}", 1, guest_call(name, PLAIN, 1, pr=True)) for name in ("SHARE_PAGE", "UNSHARE_PAGE")),
    Case("UV_UNSHARE_ALL_PAGES", 1, guest_call("UNSHARE_ALL_PAGES", pr=True)),
    *(Case(f"UV_{name}", 2, guest_call(name, PLAIN, 1 << 30)) for name in ("SHARE_PAGE", "UNSHARE_PAGE")),
    Case("UV_ESMB_GET_FILE", 0, from_normal("ESMB_GET_FILE", 0)),
    Case("UV_ESMB_GET_FILE", 1, guest_call("ESMB_GET_FILE", 0, *_NAME)),
]
KVM = [
    *(
        Case(name, 0, kvm_call(name, OUT * PAGE, 0, _ORDER, srr1=0))
        for name in ("H_SVM_PAGE_IN", "H_SVM_PAGE_OUT", "H_SVM_INIT_START", "H_SVM_INIT_DONE")
    ),
    *(
        Case(name, 1, kvm_call(name, 0, 0, _ORDER), "normal")
        for name in ("H_SVM_PAGE_IN", "H_SVM_PAGE_OUT", "H_SVM_INIT_DONE")
    ),
    Case("H_SVM_PAGE_IN", 2, kvm_call("H_SVM_PAGE_IN", OUT * PAGE, 0, 12)),
    Case("H_SVM_PAGE_IN", 3, kvm_call("H_SVM_PAGE_IN", OUT * PAGE, 2, _ORDER)),
    Case("H_SVM_PAGE_IN", 4, kvm_call("H_SVM_PAGE_IN", FAR, 0, _ORDER)),
    Case("H_SVM_PAGE_IN", 4, kvm_call("H_SVM_PAGE_IN", PLAIN * PAGE, 0, _ORDER)),
    Case("H_SVM_PAGE_IN", 4, kvm_call("H_SVM_PAGE_IN", OUT * PAGE, 0, _ORDER)),
    Case("H_SVM_PAGE_OUT", 2, kvm_call("H_SVM_PAGE_OUT", PLAIN * PAGE, 0, 12)),
    Case("H_SVM_PAGE_OUT", 3, kvm_call("H_SVM_PAGE_OUT", PLAIN * PAGE, 1, _ORDER)),
    Case("H_SVM_PAGE_OUT", 4, kvm_call("H_SVM_PAGE_OUT", FAR, 0, _ORDER)),
    Case("H_SVM_TPM_COMM", 0, kvm_call("H_SVM_TPM_COMM", 2), "without tpm"),
    Case("H_SVM_TPM_COMM", 1, kvm_call("H_SVM_TPM_COMM", 3)),
    Case("H_SVM_TPM_COMM", 2, kvm_call("H_SVM_TPM_COMM", 1, 0, 4097, 0, 4096)),
    Case("H_SVM_TPM_COMM", 3, kvm_call("H_SVM_TPM_COMM", 1, 0, 10, 0, 4095)),
    Case("H_SVM_TPM_COMM", 4, kvm_call("H_SVM_TPM_COMM", 1, FAR, 10, 0, 4096)),
    Case("H_SVM_INIT_ABORT", 0, kvm_call("H_SVM_INIT_ABORT"), "normal"),
    Case("H_SVM_INIT_ABORT", 1, kvm_call("H_SVM_INIT_ABORT")),
]
CASES = (*HOST, *GUEST, *KVM)

# What fails later than at a check, or is no failure: each has tests of its own, named here.
ELSEWHERE = {
    ("UV_SVM_TERMINATE", 3): "no keyboard shows it: tests/protocol/arch/pef/test_pef_overtaking.py",
    ("UV_ESM", 4): "test_a_second_uv_esm_finds_an_object: the transition goes on meanwhile",
    ("UV_ESM", 5): "test_whatever_the_hypervisor_refuses_leads_to_an_abort",
    ("UV_ESM", 6): "test_whatever_the_hypervisor_refuses_leads_to_an_abort",
    (
        "UV_SHARE_PAGE",
        3,
    ): "test_an_svm_starts_its_other_vcpus: another call is under way",
    ("UV_SHARE_PAGE", 4): "test_a_share_that_fails_is_taken_back",
    ("UV_UNSHARE_PAGE", 3): "test_the_ultravisors_own_pages_stay_what_they_are",
    ("UV_UNSHARE_PAGE", 4): "test_a_page_that_its_hypervisor_does_not_take_back_stays_shared",
    ("UV_UNSHARE_ALL_PAGES", 2): "test_a_page_that_its_hypervisor_does_not_take_back_stays_shared",
    ("UV_ESMB_GET_FILE", 2): "test_an_attached_file_is_read_forward_and_once: it has to be read before",
    ("H_SVM_INIT_START", 1): "test_without_an_ultravisor_calls_go_to_the_host_itself: INIT_START is set",
    ("H_SVM_INIT_START", 2): "test_a_hashed_vm_stays_normal: INIT_START is set, at depth 0 alone",
    ("H_SVM_INIT_START", 3): "test_init_start_sets_its_flag_before_it_checks",
    ("H_SVM_INIT_START", 4): "test_a_vm_larger_than_secure_memory_stays_normal: INIT_START is set",
    ("H_SVM_INIT_DONE", 2): "test_a_host_without_device_frames_fails_at_the_end",
    ("H_SVM_INIT_ABORT", 2): "it is the way the call succeeds",
}


@pytest.fixture(scope="module", params=[0, 1, 2], ids=[f"depth{depth}" for depth in (0, 1, 2)])
def scenes(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """One console for each scene: no case changes anything, so all of them may share it."""
    made: dict[str, tuple[PefHost, Any]] = {}

    def scene(name: str) -> tuple[PefHost, Any]:
        if name not in made:
            console = in_process("pef", request.param, profile="small", memory_mib=32)
            host = PefHost(Keyboard(console, request.param))
            host.page_here = host.buffer(b"nothing that was ever sealed")  # type: ignore[attr-defined]
            made[name] = host, SCENES[name](host)
        return made[name]

    yield scene
    for host, _ in made.values():
        assert host.audit


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.call}-{case.place}")
def test_it_answers_its_code_and_nothing_changes(scenes: Callable[[str], Any], case: Case) -> None:
    host, vm = scenes(case.scene)
    console = host.keyboard.console
    before = state(console)
    answered = case.act(host, vm)
    check = ROWS[case.call].checks[case.place]
    assert answered == signed(check.code), check.text
    assert state(console) == before, "it changed something all the same"


def test_every_check_of_the_table_is_here_or_named() -> None:
    checks = {(row.name, place) for row in CALLS.values() for place in range(len(row.checks))}
    here = {(case.call, case.place) for case in CASES}
    assert here.isdisjoint(ELSEWHERE)
    assert checks == here | set(ELSEWHERE)


def test_every_test_that_is_named_instead_exists() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parent.glob("test_pef_*.py"))
    names = [why.partition(":")[0] for why in ELSEWHERE.values() if why.startswith("test_")]
    assert [name for name in names if f"def {name}(" not in text] == []


def test_the_state_shows_what_a_call_that_succeeds_does(scenes: Callable[[str], Any]) -> None:
    """Each part of it moves: or no test above could fail."""
    host, vm = scenes("changing")
    seen = [state(host.keyboard.console)]
    for act in (
        lambda: host.ucall("WRITE_PATE", 9, 0, 1),
        lambda: host.ucall("RESTRICTED_SPR_WRITE", 0xB4, 1),
        lambda: host.write(host.page_here, b"other"),
        lambda: host.kvm("KVM_CREATE_VCPU", vm=vm.lpid, vcpu=1),
        lambda: host.kvm("KVM_CREATE_VM", vm=7),
        lambda: vm.hcall("H_SVM_INIT_START"),
    ):
        act()
        seen.append(state(host.keyboard.console))
    assert len(set(seen)) == len(seen)
