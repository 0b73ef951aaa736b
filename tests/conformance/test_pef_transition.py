"""From normal to secure and back: UV_ESM, its order, its failures, reset, termination, destruction."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from driver import number
from pef_field import (
    AUTHORITY,
    MIB,
    P2,
    PAGE,
    PARAMETER,
    S_BIT,
    SF,
    STATE,
    SUCCESS,
    UNSUPPORTED,
    code,
    hcall_step,
    load_step,
    store_step,
    ucall_step,
)

NONSHARED, SHARED = 0, 1


def pages(address: int, length: int) -> list[int]:
    return list(range(address // PAGE, -(-(address + length) // PAGE)))


def test_success_goes_on_at_the_kernel(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    left = vm.esm()
    (done,) = left["steps"]
    assert (left["trap"], left["secure"]) == ("0x980", True)
    assert (number(done["r3"]), number(done["r4"]), done["r5"]) == (*_ends(vm), "0x0")
    assert number(done["nip"]) == vm.areas["kernel"] and number(done["msr"]) == SF | S_BIT
    audit = host.audit
    assert audit["tracked"] == {"vms": 1, "gfns_secure": 512 - 8, "gfns_paged_out": 0, "gfns_shared": 8}
    assert audit["te"] == {"svms": 1, "slots": 1, "units": 16, "open_reflections": 1}


def _ends(vm: Any) -> tuple[int, int]:
    return vm.areas["fdt"], vm.areas["kernel"]


def test_the_ultravisor_asks_in_its_order(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    vm.load(2 * MIB, kernel=3 * PAGE, initrd=2 * PAGE)
    stop = ["H_SVM_INIT_START", "H_SVM_PAGE_IN", "H_SVM_TPM_COMM", "H_SVM_INIT_DONE"]
    asked = []
    left = vm.esm(stop=stop)
    while left["trap"] == "0xc00":
        assert left["secure"] and number(left["srr1"]) & S_BIT and left["r31"] == left["hsrr0"]
        asked.append((number(left["r3"]), number(left["r4"]), number(left["r5"])))
        if left["r3"] == "0xef00":
            assert left["r6"] == "0x10"
        left = vm.enter(stop=stop)
    ins = [(gpa // PAGE, flags) for call, gpa, flags in asked if call == 0xEF00]
    own = [gfn for gfn, flags in ins if flags == SHARED][:7]
    areas = {name: pages(vm.areas[name], vm.areas[f"{name}_len"]) for name in ("fdt", "rtas", "initrd")}
    areas["blob"], areas["kernel"] = (
        pages(vm.areas["blob"], vm.areas["blob_len"]),
        pages(vm.areas["kernel"], 3 * PAGE),
    )
    wanted = [(gfn, NONSHARED) for gfn in areas["fdt"]]
    wanted += [(gfn, SHARED) for gfn in own]
    wanted += [(gfn, NONSHARED) for gfn in areas["rtas"]] + [(gfn, SHARED) for gfn in areas["rtas"]]
    wanted += [(gfn, NONSHARED) for name in ("initrd", "blob", "kernel") for gfn in areas[name]]
    assert ins == wanted
    measured = {gfn for gfns in areas.values() for gfn in gfns}
    gaps = {gfns[0] - 1 for gfns in areas.values()}
    assert len(set(own)) == 7 and not set(own) & (measured | gaps)
    assert all(2 * MIB <= gfn * PAGE < 32 * MIB for gfn in own)
    others = [call for call, _, _ in asked if call != 0xEF00]
    assert others == [0xEF08, 0xEF10, 0xEF10, 0xEF10, 0xEF0C]
    assert [operation for call, operation, _ in asked if call == 0xEF10] == [1, 1, 2]
    assert asked[0][0] == 0xEF08 and asked[-1][0] == 0xEF0C


def test_areas_lie_apart_in_the_slot_that_was_named(pef: Any) -> None:
    vm = pef().vm()
    vm.load(MIB, kernel=PAGE + 1, initrd=1)
    names = ("kernel", "initrd", "rtas", "fdt", "blob")
    spans = sorted((vm.areas[name], vm.areas[name] + vm.areas[f"{name}_len"]) for name in names)
    assert spans[0][0] >= MIB and spans[-1][1] <= 32 * MIB
    for (_, end), (start, _) in itertools.pairwise(spans):
        assert start % PAGE == 0 and start - -(-end // PAGE) * PAGE >= PAGE
    host = vm.host
    host.error("load", "bad_value", vm=3, at=hex(64 * MIB), kernel=1, initrd=1, cmdline="")
    host.error("load", "bad_value", vm=3, at=hex(31 * MIB), kernel=hex(2 * MIB), initrd=1, cmdline="")
    host.error("load", "bad_value", vm=3, at=0, kernel=0, initrd=1, cmdline="")
    for cmdline in ("é", "a\0b", "x" * 2049):
        wrong = host.error("load", "bad_value", vm=3, at=0, kernel=1, initrd=1, cmdline=cmdline)
        assert wrong["field"] == "cmdline"


def test_what_is_measured_keeps_its_contents_and_the_rest_is_undefined(pef: Any) -> None:
    vm = pef().loaded()
    kernel = vm.read(vm.areas["kernel"], 32)
    vm.write(0, b"not measured")
    vm.esm()
    assert vm.run({"read": hex(vm.areas["kernel"]), "len": 32}) == [{"hex": kernel.hex()}]


def aborted(vm: Any) -> dict[str, Any]:
    """Try to become secure and fail: the guest goes on as a normal one."""
    left = vm.esm()
    assert (left["trap"], left["secure"]) == ("0x980", False), left
    (done,) = left["steps"]
    assert code(done["r3"]) == PARAMETER and not number(done["msr"]) & S_BIT
    return done


@pytest.mark.parametrize("area", ["kernel", "initrd", "rtas"])
def test_a_changed_byte_is_found(pef: Any, area: str) -> None:
    host = pef()
    vm = host.loaded()
    at = vm.areas[area] + vm.areas[f"{area}_len"] - 1
    byte = vm.read(at, 1)
    vm.write(at, bytes([byte[0] ^ 1]))
    host.counts()
    aborted(vm)
    counts = host.counts()
    assert counts["hcalls"]["H_SVM_INIT_ABORT"] == 1 and "H_SVM_INIT_DONE" not in counts["hcalls"]
    assert counts["ucalls"]["UV_PAGE_OUT"] == 6 - 1 and counts["ucalls"]["UV_SVM_TERMINATE"] == 1
    assert host.audit["te"]["svms"] == 0
    assert host.audit["tracked"] == {"vms": 1, "gfns_secure": 0, "gfns_paged_out": 0, "gfns_shared": 0}
    assert vm.run(store_step(0, b"alive"), load_step(0))[1] == {"value": "616c697665000000"}


@pytest.mark.parametrize("area", ["fdt", "blob"])
def test_a_tree_or_a_blob_that_is_none_is_found(pef: Any, area: str) -> None:
    vm = pef().loaded()
    vm.write(vm.areas[area], b"\0\0\0\0")
    aborted(vm)


def test_a_changed_command_line_is_found(pef: Any) -> None:
    vm = pef().vm()
    vm.load(cmdline="a rather unusual command line")
    tree = vm.read(vm.areas["fdt"], vm.areas["fdt_len"])
    vm.write(vm.areas["fdt"], tree.replace(b"unusual", b"USUAL  "))
    aborted(vm)


def test_any_byte_of_the_sealed_part_counts(pef: Any) -> None:
    vm = pef().loaded()
    at = vm.areas["blob"] + vm.areas["blob_len"] - 120
    vm.write(at, bytes([vm.read(at, 1)[0] ^ 0x80]))
    aborted(vm)


def test_addresses_that_lie_nowhere_abort(pef: Any) -> None:
    vm = pef().loaded()
    left = vm.enter(ucall_step("ESM", vm.areas["kernel"], 1 << 40))
    assert code(left["steps"][0]["r3"]) == PARAMETER
    left = vm.enter(ucall_step("ESM", 1 << 40, vm.areas["fdt"]))
    assert code(left["steps"][0]["r3"]) == PARAMETER


def test_a_vm_without_the_opt_in_stays_normal(pef: Any) -> None:
    host = pef()
    vm = host.loaded(opt_in=False)
    host.counts()
    aborted(vm)
    counts = host.counts()
    assert counts["hcalls"] == {"H_SVM_INIT_START": 1, "H_SVM_INIT_ABORT": 1}
    assert counts["ucalls"] == {"UV_RETURN": 1, "UV_SVM_TERMINATE": 1}
    assert vm.sys("KVM_ENABLE_CAP", cap="KVM_CAP_PPC_SECURE_GUEST") == 0
    vm.load()  # an abort leaves nothing of what was inside
    assert vm.esm()["secure"]


def test_a_vm_without_a_tpm_stays_normal(pef: Any) -> None:
    aborted(pef().loaded(tpm_proxy=False))


def test_a_vm_larger_than_secure_memory_stays_normal(pef: Any) -> None:
    host = pef(memory_mib=256)
    vm = host.vm(size=100 * MIB)
    assert vm.slot(1, 128 * MIB, 60 * MIB) == 0
    assert vm.slot(2, 256 * MIB, 60 * MIB) == 0
    vm.load()
    host.counts()
    aborted(vm)
    counts = host.counts()["ucalls"]
    assert (counts["UV_REGISTER_MEM_SLOT"], counts["UV_UNREGISTER_MEM_SLOT"]) == (3, 2)
    assert host.audit["te"]["units"] == 0


def test_a_host_without_device_frames_fails_at_the_end(pef: Any) -> None:
    host = pef(profile="frames")
    vm = host.loaded()
    host.counts()
    aborted(vm)
    assert host.counts()["hcalls"]["H_SVM_INIT_DONE"] == 1
    small = host.vm(lpid=4, size=21 * PAGE)
    small.load(PAGE, kernel=PAGE, initrd=PAGE)
    assert small.esm()["secure"]  # 13 pages inside the ultravisor, 8 shared


def test_a_hashed_vm_stays_normal(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    if vm.sys("KVM_PPC_CONFIGURE_V3_MMU", radix=False) == 0:
        aborted(vm)


@pytest.mark.parametrize(
    "refused", ["H_SVM_INIT_START", "H_SVM_PAGE_IN", "H_SVM_TPM_COMM", "H_SVM_INIT_DONE"]
)
def test_whatever_the_hypervisor_refuses_leads_to_an_abort(pef: Any, refused: str) -> None:
    host = pef()
    vm = host.loaded()
    vm.esm(stop=[refused])
    left = vm.enter(gpr={"r3": hex((1 << 64) - 9)}, stop=["H_SVM_INIT_ABORT"])
    assert (left["trap"], left["secure"], left["r3"]) == ("0xc00", True, "0xef14")
    assert not number(left["srr1"]) & S_BIT  # the guest's own
    (done,) = vm.enter()["steps"]
    started = refused != "H_SVM_INIT_START"
    assert code(done["r3"]) == (PARAMETER if started else UNSUPPORTED)
    assert number(done["nip"]) == number(left["srr0"])
    if started:
        assert host.audit["te"]["svms"] == 0
    else:
        assert host.ucall("SVM_TERMINATE", 3) == SUCCESS
    vm.load()  # an abort leaves nothing of what was inside
    assert vm.esm()["secure"]


def test_while_it_aborts_the_ultravisor_takes_nothing_and_gives_nothing(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    vm.write(vm.areas["initrd"], b"!")
    vm.esm(stop=["H_SVM_INIT_ABORT"])
    page = host.buffer(b"plain")
    gpa = vm.areas["kernel"]
    assert vm.page_in(page, gpa) == STATE
    assert vm.inval(gpa) == STATE
    assert vm.page_out(page, gpa) == SUCCESS
    assert vm.page_out(page, 1 << 40) == SUCCESS
    assert host.read(page, 5) == b"plain"
    assert vm.page_out(page, gpa, order=0) == -58 and vm.page_out(0, gpa) == P2
    assert code(vm.enter()["steps"][0]["r3"]) == PARAMETER


@pytest.mark.parametrize("early", [False, True])
def test_a_hypervisor_may_answer_an_abort_by_uv_return(pef: Any, early: bool) -> None:
    """The guest goes on as a normal one, with what the hypervisor says in R3."""
    host = pef()
    vm = host.loaded()
    stop = {"stop": ["H_SVM_PAGE_IN", "H_SVM_INIT_ABORT"]}
    vm.esm(**stop)
    if early:  # whose LPID changed is killed; one that is not secure yet is aborted
        host.ok("cpu", lpidr=0)
    vm.queue(store_step(0, b"normal"), load_step(0))
    left = host.back() if early else vm.enter(gpr={"r3": hex((1 << 64) - 4)}, **stop)
    assert (left["trap"], left["r3"], left["secure"]) == ("0xc00", "0xef14", True)
    done = host.back(status=-7)
    assert (done["trap"], done["secure"]) == ("0x980", False)
    assert code(done["steps"][0]["r3"]) == -7 and not number(done["steps"][0]["msr"]) & S_BIT
    assert done["steps"][1:] == [{}, {"value": b"normal".hex() + "0000"}]
    assert host.ucall("SVM_TERMINATE", 3) == SUCCESS


def test_a_page_that_was_promised_and_not_given_leads_to_an_abort(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    left = vm.esm(stop=["H_SVM_PAGE_IN"])
    while number(left["r5"]) != SHARED:
        left = vm.enter(stop=["H_SVM_PAGE_IN"])
    left = vm.enter(gpr={"r3": 0}, stop=["H_SVM_INIT_ABORT"])  # and no UV_PAGE_IN before it
    assert (left["r3"], left["secure"]) == ("0xef14", True)
    assert code(vm.enter()["steps"][0]["r3"]) == PARAMETER


def test_a_tpm_buffer_that_is_gone_leads_to_an_abort(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    stop = {"stop": ["H_SVM_PAGE_IN", "H_SVM_TPM_COMM", "H_SVM_INIT_ABORT"]}
    left = vm.esm(**stop)
    own: list[int] = []
    while len(own) < 7:
        left = vm.enter(**stop)
        own += [number(left["r4"])] if number(left["r5"]) == SHARED else []
    left = vm.enter(**stop)  # behind the last of them, the TPM's
    assert vm.inval(own[-1]) == SUCCESS
    while (number(left["r4"]), number(left["r5"])) != (own[-1], SHARED):
        assert left["r3"] == "0xef00", "the TPM is not asked without its buffer"
        left = vm.enter(**stop)
    left = vm.enter(gpr={"r3": hex((1 << 64) - 4)}, **stop)
    assert (left["r3"], left["secure"]) == ("0xef14", True)
    assert code(vm.enter()["steps"][0]["r3"]) == PARAMETER


def test_a_host_without_device_frames_refuses_a_page(pef: Any) -> None:
    host = pef(profile="frames")
    vm = host.vm()
    vm.load(MIB, kernel=24 * PAGE)
    host.counts()
    aborted(vm)
    counts = host.counts()
    assert "H_SVM_INIT_DONE" not in counts["hcalls"]
    assert counts["hcalls"]["H_SVM_PAGE_IN"] > counts["ucalls"]["UV_PAGE_IN"]


def test_two_vms_become_secure_side_by_side(pef: Any) -> None:
    host = pef()
    first, second = host.loaded(3, 8 * MIB), host.loaded(4, 8 * MIB)
    stop = ["H_SVM_TPM_COMM", "H_SVM_PAGE_IN"]
    left = {3: first.esm(stop=stop), 4: second.esm(stop=stop)}
    while any(one["trap"] == "0xc00" for one in left.values()):
        for vm in (first, second):
            if left[vm.lpid]["trap"] == "0xc00":
                left[vm.lpid] = vm.enter(stop=stop)
    assert all(one["secure"] and len(one["steps"]) == 1 for one in left.values())
    assert host.audit["te"]["svms"] == 2


# -- the hypervisor's side, with what no ultravisor sends ----------------------------------------------------


def test_kvm_wants_the_secure_bit(pef: Any) -> None:
    vm = pef().vm()
    for name in ("H_SVM_INIT_START", "H_SVM_PAGE_IN", "H_SVM_PAGE_OUT", "H_SVM_INIT_DONE"):
        assert vm.hcall(name, 0, 0, 16, srr1=0) == (UNSUPPORTED, "guest")
    for name in ("H_SVM_PAGE_IN", "H_SVM_PAGE_OUT", "H_SVM_INIT_DONE", "H_SVM_INIT_ABORT"):
        assert vm.hcall(name, 0, 0, 16) == (UNSUPPORTED, "guest")


def test_init_start_sets_its_flag_before_it_checks(pef: Any) -> None:
    vm = pef().vm(opt_in=False)
    assert vm.hcall("H_SVM_INIT_START") == (AUTHORITY, "ultravisor")
    assert vm.hcall("H_SVM_INIT_ABORT", srr1=0) == (PARAMETER, "guest")
    assert vm.hcall("H_SVM_INIT_ABORT", srr1=0) == (UNSUPPORTED, "guest")


def test_page_calls_check_order_flags_address(pef: Any) -> None:
    vm = pef().svm()
    far = 1 << 40
    assert vm.hcall("H_SVM_PAGE_IN", far, 2, 12)[0] == -56
    assert vm.hcall("H_SVM_PAGE_IN", far, 2, 16)[0] == P2
    assert vm.hcall("H_SVM_PAGE_IN", far, 0, 16)[0] == PARAMETER
    assert vm.hcall("H_SVM_PAGE_IN", 0, 0, 16)[0] == PARAMETER  # inside the ultravisor already
    assert vm.hcall("H_SVM_PAGE_OUT", far, 1, 12)[0] == -56
    assert vm.hcall("H_SVM_PAGE_OUT", far, 1, 16)[0] == P2
    assert vm.hcall("H_SVM_PAGE_OUT", far, 0, 16)[0] == PARAMETER
    assert vm.hcall("H_SVM_PAGE_OUT", 0, 0, 16) == (SUCCESS, "ultravisor")
    assert vm.hcall("H_SVM_PAGE_OUT", 0, 0, 16)[0] == SUCCESS  # it is out already
    assert vm.hcall("H_SVM_PAGE_IN", 0, 0, 16)[0] == SUCCESS
    assert vm.run(load_step(0)) == [{"value": "00" * 8}]


def test_a_secure_vm_cannot_begin_or_abort_again(pef: Any) -> None:
    vm = pef().svm()
    assert vm.hcall("H_SVM_INIT_START")[0] == PARAMETER
    assert vm.hcall("H_SVM_INIT_ABORT", srr1=0) == (STATE, "ultravisor")
    assert vm.hcall("H_SVM_INIT_DONE")[0] == SUCCESS
    assert vm.run(load_step(0)) == [{"value": "00" * 8}]


def test_the_tpm_answers_in_its_order(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    assert vm.hcall("H_SVM_TPM_COMM", 3, 0, 9999, 0, 0, srr1=0)[0] == PARAMETER
    assert vm.hcall("H_SVM_TPM_COMM", 1, 0, 4097, 0, 4095)[0] == -56
    assert vm.hcall("H_SVM_TPM_COMM", 1, 0, 4096, 0, 4095)[0] == -58
    assert vm.hcall("H_SVM_TPM_COMM", 1, 1 << 40, 10, 0, 4096)[0] == -16
    assert vm.hcall("H_SVM_TPM_COMM", 1, 0, 10, 1 << 40, 4096)[0] == -16
    assert vm.hcall("H_SVM_TPM_COMM", 2)[0] == SUCCESS
    assert host.vm(lpid=4, tpm_proxy=False).hcall("H_SVM_TPM_COMM", 9)[0] == -2


def test_unknown_hypercalls_are_answered_by_the_vmm(pef: Any) -> None:
    vm = pef().vm()
    body = vm.host.ok("hcall", vm=3, vcpu=0, r3="0x1234", r4=5)
    assert code(body["r3"]) == -2 and body["to"] == "guest"
    for call in (0xF800, 0xF804, 0xF808, 0xF80C):  # nesting is off
        assert code(vm.run(hcall_step(call))[0]["r3"]) == -2


# -- the end -------------------------------------------------------------------------------------------------


def test_a_reset_of_the_vm_costs_a_call_for_each_slot_and_two_more(pef: Any) -> None:
    host = pef()
    vm = host.vm()
    assert vm.slot(1, 64 * MIB, 4 * MIB) == 0
    vm.load()
    assert vm.sys("KVM_PPC_SVM_OFF") == 0
    vm.esm()
    host.counts()
    assert vm.sys("KVM_PPC_SVM_OFF") == 0
    assert host.counts()["ucalls"] == {
        "UV_UNREGISTER_MEM_SLOT": 2,
        "UV_SVM_TERMINATE": 1,
        "UV_WRITE_PATE": 1,
    }
    assert host.audit["te"]["svms"] == 0
    assert vm.run(store_step(0, b"x"), load_step(0))[1] == {"value": "78" + "00" * 7}
    vm.load()
    vm.load()  # an abort leaves nothing of what was inside
    assert vm.esm()["secure"]


def test_a_running_vcpu_forbids_the_reset(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.enter(stay=True)
    assert vm.sys("KVM_PPC_SVM_OFF") == -16
    assert host.ok("kick")["secure"]
    assert vm.sys("KVM_PPC_SVM_OFF") == 0


def test_destruction_costs_two_calls(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    host.counts()
    assert vm.sys("close") == 0
    assert host.counts()["ucalls"] == {"UV_SVM_TERMINATE": 1, "UV_WRITE_PATE": 1}
    assert host.audit["te"] == {"svms": 0, "slots": 0, "units": 0, "open_reflections": 0}
    assert host.svm().run(load_step(0)) == [{"value": "00" * 8}]


def test_memory_comes_and_goes_while_the_vm_is_secure(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    host.counts()
    assert vm.slot(1, 64 * MIB, 4 * MIB) == 0
    assert host.counts()["ucalls"] == {"UV_REGISTER_MEM_SLOT": 1}
    assert host.audit["tracked"]["gfns_secure"] == 512 - 8 + 64
    assert vm.run(store_step(64 * MIB, b"hot"), load_step(64 * MIB))[1] == {"value": "686f740000000000"}
    assert vm.slot(1, 0, 0) == 0
    assert host.counts()["ucalls"]["UV_UNREGISTER_MEM_SLOT"] == 1
    left = vm.enter(load_step(64 * MIB))
    assert (left["r3"], left["r4"], left["r5"]) == ("0x3c", "0x8", hex(64 * MIB))


def test_termination_by_hand_leaves_a_vm_that_kvm_cannot_enter(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert host.ucall("SVM_TERMINATE", 3) == SUCCESS
    assert host.ucall("SVM_TERMINATE", 3) == PARAMETER
    host.error("enter", "dead", vm=3, vcpu=0)
    host.error("audit", "dead")
    host.ok("reset", kind="system")
    assert host.svm().run(load_step(0)) == [{"value": "00" * 8}]
    assert vm.lpid == 3
