"""Sharing and unsharing: page by page through the hypervisor, with the keyboard in its place."""

from __future__ import annotations

from typing import Any

import pytest
from driver import number
from pef_field import (
    MIB,
    P2,
    PAGE,
    PARAMETER,
    RETRY,
    SUCCESS,
    code,
    load_step,
    store_step,
    ucall_step,
)

STOP = {"stop": ["H_SVM_PAGE_IN"]}
GFN = 0x40
GPA = GFN * PAGE


def asked(left: dict[str, Any], gfn: int, flags: int) -> None:
    """The ultravisor asks for this page."""
    assert (left["trap"], left["r3"], left["secure"]) == ("0xc00", "0xef00", True), left
    assert (number(left["r4"]), number(left["r5"]), number(left["r6"])) == (gfn * PAGE, flags, 16)


def test_a_shared_page_is_zero_for_both_and_then_one(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    done = vm.run(store_step(GPA, b"secret"), ucall_step("SHARE_PAGE", GFN, 1), load_step(GPA))
    assert (code(done[1]["r3"]), done[2]) == (SUCCESS, {"value": "00" * 8})
    assert vm.read(GPA) == bytes(8)
    vm.write(GPA, b"from VMM")
    assert vm.run(load_step(GPA), store_step(GPA + 8, b"from SVM")) == [{"value": b"from VMM".hex()}, {}]
    assert vm.read(GPA, 16) == b"from VMMfrom SVM"
    assert host.audit["tracked"]["gfns_shared"] == 9


def test_sharing_asks_once_for_each_page_and_moves_nothing_out(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    host.counts()
    assert vm.gcall("SHARE_PAGE", GFN, 5) == SUCCESS
    counts = host.counts()
    assert counts["hcalls"] == {"H_SVM_PAGE_IN": 5}
    assert counts["ucalls"]["UV_PAGE_IN"] == 5 and "UV_PAGE_OUT" not in counts["ucalls"]
    assert counts["ucalls"].get("UV_PAGE_INVAL", 0) <= 5
    assert counts["ucalls"]["UV_RETURN"] == 5 + 1  # and the way in


def test_sharing_what_is_shared_asks_for_nothing(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 1)
    vm.write(GPA, b"kept")
    host.counts()
    assert vm.gcall("SHARE_PAGE", GFN - 1, 3) == SUCCESS
    assert host.counts()["hcalls"] == {"H_SVM_PAGE_IN": 2}
    assert vm.read(GPA, 4) == b"kept"


def test_unsharing_makes_a_page_secure_and_zero(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 2)
    vm.write(GPA, b"public")
    host.counts()
    done = vm.run(ucall_step("UNSHARE_PAGE", GFN, 2), load_step(GPA))
    assert (code(done[0]["r3"]), done[1]) == (SUCCESS, {"value": "00" * 8})
    counts = host.counts()
    assert counts["hcalls"] == {"H_SVM_PAGE_IN": 2}
    assert counts["ucalls"]["UV_PAGE_IN"] == 2 and counts["ucalls"]["UV_PAGE_INVAL"] <= 2
    assert host.audit["tracked"]["gfns_shared"] == 8
    vm.run(store_step(GPA, b"secret again"))
    assert vm.read(GPA, 12) not in (b"secret again", b"public" + bytes(6))


def test_unsharing_what_is_secure_changes_nothing(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.run(store_step(GPA, b"mine"))
    host.counts()
    assert vm.gcall("UNSHARE_PAGE", GFN, 3) == SUCCESS
    assert "hcalls" not in host.counts()
    assert vm.run(load_step(GPA)) == [{"value": "6d696e6500000000"}]


def test_unshare_all_takes_every_page_that_was_shared_on_purpose(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 3)
    vm.gcall("SHARE_PAGE", GFN + 9, 1)
    host.counts()
    assert vm.gcall("UNSHARE_ALL_PAGES") == SUCCESS
    assert host.counts()["hcalls"] == {"H_SVM_PAGE_IN": 4}
    assert host.audit["tracked"]["gfns_shared"] == 8
    assert vm.gcall("UNSHARE_ALL_PAGES") == SUCCESS


@pytest.mark.parametrize("name", ["SHARE_PAGE", "UNSHARE_PAGE"])
def test_a_range_must_lie_in_slots(pef: Any, name: str) -> None:
    vm = pef().svm()
    for first, count in ((512, 1), (511, 2), (1 << 40, 1), (0, 1 << 60), ((1 << 64) - 1, 2), (0, 0)):
        assert vm.gcall(name, first, count) == P2, (first, count)
    assert vm.gcall(name, 511 - 16, 1) == SUCCESS


def test_the_ultravisors_own_pages_stay_what_they_are(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    vm.esm(**STOP)
    own = []
    while True:
        left = vm.enter(**STOP)
        if left["trap"] != "0xc00":
            break
        if number(left["r5"]) == 1:
            own.append(number(left["r4"]) // PAGE)
    implicit, rtas = own[:7], own[7]
    assert rtas == vm.areas["rtas"] // PAGE
    host.counts()
    for gfn in (implicit[0], rtas):
        assert vm.gcall("SHARE_PAGE", gfn, 1) == SUCCESS  # nothing to do
        assert vm.gcall("UNSHARE_PAGE", gfn, 1) == P2
    assert "hcalls" not in host.counts()
    # a call that names one of them changes nothing at all
    vm.gcall("SHARE_PAGE", implicit[0] - 1, 1)
    assert vm.gcall("UNSHARE_PAGE", implicit[0] - 1, 2) == P2
    assert host.audit["tracked"]["gfns_shared"] == 9
    assert vm.gcall("UNSHARE_ALL_PAGES") == SUCCESS
    assert vm.run({"fetch": hex(rtas * PAGE)}, load_step(rtas * PAGE))[0] == {}  # it keeps its own frame


# -- the transient states, held open by the keyboard ---------------------------------------------------------


def test_a_page_that_is_being_shared(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    frame, newer = host.alloc(), host.alloc()
    asked(vm.enter(ucall_step("SHARE_PAGE", GFN, 1), **STOP), GFN, 1)
    assert vm.inval(GPA) == P2  # HV_SHARING
    assert vm.page_out(frame, GPA) == PARAMETER
    assert vm.page_in(frame, GPA) == SUCCESS  # HV_SHARED
    assert vm.page_out(frame, GPA) == PARAMETER
    assert vm.inval(GPA) == SUCCESS  # HV_SHARED_INV
    assert vm.inval(GPA) == SUCCESS
    assert vm.page_out(frame, GPA) == PARAMETER
    assert vm.page_in(newer, GPA) == SUCCESS
    host.write(newer, b"rubbish")
    left = host.back()
    assert code(left["steps"][0]["r3"]) == SUCCESS
    assert host.read(newer, 8) == bytes(8)
    vm.run(store_step(GPA, b"here"))
    assert host.read(newer, 4) == b"here" and host.read(frame, 4) == bytes(4)


def test_a_page_that_is_being_unshared(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 2)
    frame = host.alloc()
    asked(vm.enter(ucall_step("UNSHARE_PAGE", GFN, 2), **STOP), GFN, 0)
    assert vm.page_out(frame, GPA) == PARAMETER  # HV_UNSHARING
    assert vm.page_in(frame, GPA) == SUCCESS
    assert vm.inval(GPA) == SUCCESS  # HV_UNSHARING_INV
    assert vm.inval(GPA) == SUCCESS
    assert vm.page_out(frame, GPA) == PARAMETER
    assert vm.page_in(frame, GPA) == SUCCESS
    asked(host.back(), GFN + 1, 0)  # the first one is HV_UNSHARED now
    assert vm.page_out(frame, GPA) == RETRY
    assert vm.page_in(frame, GPA) == P2
    assert vm.inval(GPA) == P2
    left = vm.enter()
    assert code(left["steps"][0]["r3"]) == SUCCESS
    assert vm.page_out(frame, GPA) == SUCCESS


def test_another_vcpu_meets_a_page_in_between(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert vm.sys("KVM_CREATE_VCPU", vcpu=1) == 0
    asked(vm.enter(ucall_step("SHARE_PAGE", GFN, 1), **STOP), GFN, 1)
    # it is no vcpu of the ultravisor's: it has no secure bit, and sees none of the VM's memory
    assert code(vm.enter(ucall_step("SHARE_PAGE", GFN, 1), vcpu=1, cpu=1)["steps"][0]["r3"]) == -11
    left = vm.enter()
    assert code(left["steps"][0]["r3"]) == SUCCESS


@pytest.mark.parametrize("how", ["refused", "nothing done"])
def test_a_share_that_fails_is_taken_back(pef: Any, how: str) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 1)
    vm.write(GPA, b"kept")
    vm.run(store_step(GPA + PAGE, b"lost"))
    asked(vm.enter(ucall_step("SHARE_PAGE", GFN, 3), **STOP), GFN + 1, 1)
    asked(vm.enter(**STOP), GFN + 2, 1)
    status = {"r3": hex((1 << 64) - 4)} if how == "refused" else {"r3": 0}
    asked(vm.enter(gpr=status, **STOP), GFN + 1, 0)
    asked(vm.enter(**STOP), GFN + 2, 0)
    left = vm.enter()
    assert code(left["steps"][0]["r3"]) == P2
    assert vm.read(GPA, 4) == b"kept" and host.audit["tracked"]["gfns_shared"] == 9
    assert vm.run(load_step(GPA + PAGE), load_step(GPA)) == [
        {"value": "00" * 8},
        {"value": "6b65707400000000"},
    ]


@pytest.mark.parametrize("name", ["UNSHARE_PAGE", "UNSHARE_ALL_PAGES"])
def test_a_page_that_its_hypervisor_does_not_take_back_stays_shared(pef: Any, name: str) -> None:
    """The pages before it are secure, and zero; it and the ones behind it are what they were."""
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 3)
    for page in range(3):
        vm.write(GPA + page * PAGE, b"kept")
    asked(vm.enter(ucall_step(name, GFN, 3), **STOP), GFN, 0)
    asked(vm.enter(**STOP), GFN + 1, 0)
    left = vm.enter(gpr={"r3": hex((1 << 64) - 4)})
    assert code(left["steps"][0]["r3"]) == P2
    assert [vm.read(GPA + page * PAGE, 4) for page in (1, 2)] == [b"kept", b"kept"]
    done = vm.run(*(load_step(GPA + page * PAGE) for page in range(3)))
    assert [step["value"] for step in done] == ["00" * 8, "6b657074" + "00" * 4, "6b657074" + "00" * 4]
    assert host.audit["tracked"]["gfns_shared"] == 8 + 2


def test_a_page_that_is_out_is_brought_in_before_it_is_shared(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.read(GPA)  # the VMM touches it
    assert host.audit["tracked"]["gfns_paged_out"] == 1
    asked(vm.enter(ucall_step("SHARE_PAGE", GFN, 1), **STOP), GFN, 0)
    asked(vm.enter(**STOP), GFN, 1)
    assert code(vm.enter()["steps"][0]["r3"]) == SUCCESS


def test_a_page_that_does_not_come_in_is_asked_for_four_times(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.write(GPA, b"tampered")
    host.counts()
    assert vm.gcall("SHARE_PAGE", GFN, 1) == P2
    counts = host.counts()
    assert counts["hcalls"] == {"H_SVM_PAGE_IN": 4} and counts["ucalls"]["UV_PAGE_IN"] == 4


# -- shared pages whose frame goes ---------------------------------------------------------------------------


def test_an_invalidated_page_is_bound_again_by_a_storage_interrupt(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 1)
    vm.write(GPA, b"kept")
    host.counts()
    assert vm.inval(GPA) == SUCCESS and vm.inval(GPA) == SUCCESS
    assert vm.run(load_step(GPA)) == [{"value": "6b65707400000000"}]
    counts = host.counts()
    assert counts["reflections"] == {"0xe00": 1, "0x980": 1}
    assert counts["ucalls"] == {"UV_PAGE_INVAL": 2, "UV_PAGE_IN": 1, "UV_RETURN": 2}


def test_the_keyboard_binds_another_frame(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 1)
    assert vm.inval(GPA) == SUCCESS
    left = vm.enter({"touch": hex(GPA + 0x123)}, stop=["0xe00"])
    assert (left["trap"], left["secure"], number(left["asdr"]) & -PAGE) == ("0xe00", True, GPA)
    frame = host.buffer(b"\x11" * 0x200)
    assert vm.page_in(frame, GPA) == SUCCESS
    assert host.back()["steps"] == [{"value": "11" * 8}]
    assert vm.page_in(host.buffer(b"\x22" * 16), GPA) == SUCCESS  # SHARED: another one at once
    assert vm.run(load_step(GPA)) == [{"value": "22" * 8}]


def test_a_shared_page_holds_no_code(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    vm.gcall("SHARE_PAGE", GFN, 1)
    left = vm.enter({"fetch": hex(GPA)})
    assert (left["trap"], left["steps"]) == ("0x980", [])  # it tries until its slice ends
    assert vm.enter()["steps"] == []


def test_a_page_of_the_ultravisors_own_kills_who_touches_it(pef: Any) -> None:
    host = pef()
    vm = host.loaded()
    vm.esm(stop=["H_SVM_TPM_COMM"])
    bounce = number(host.ok("enter", vm=3, vcpu=0, stop=["H_SVM_TPM_COMM"])["r5"])
    vm.enter(gpr={"r3": 0, "r4": 0})  # the answer was no answer: the transition fails
    vm.load()
    assert vm.esm()["secure"]
    left = vm.enter(load_step(bounce))
    assert (left["trap"], left["r3"], left["secure"]) == ("0xc00", "0xf000", True)
    assert vm.read(number(left["r4"]), 4) == (0x201F).to_bytes(4, "big")
    assert left["steps"] == []


def test_unsharing_survives_a_slot_that_goes(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    assert vm.slot(1, 64 * MIB, MIB) == 0
    first = 64 * MIB // PAGE
    vm.gcall("SHARE_PAGE", first, 2)
    asked(vm.enter(ucall_step("UNSHARE_PAGE", first, 2), **STOP), first, 0)
    assert vm.slot(1, 0, 0) == 0
    left = vm.enter()
    assert code(left["steps"][0]["r3"]) == P2


@pytest.mark.parametrize(("name", "flags"), [("SHARE_PAGE", 1), ("UNSHARE_PAGE", 0)])
def test_a_page_whose_slot_goes_while_the_next_one_is_asked_for_is_left_out(
    pef: Any, name: str, flags: int
) -> None:
    host = pef()
    vm = host.svm()
    first = 64 * MIB // PAGE
    for slot in (1, 2):
        assert vm.slot(slot, (first + slot - 1) * PAGE, PAGE) == 0
    if name == "UNSHARE_PAGE":
        vm.gcall("SHARE_PAGE", first, 2)
    asked(vm.enter(ucall_step(name, first, 2), **STOP), first, flags)
    asked(vm.enter(**STOP), first + 1, flags)
    assert vm.slot(1, 0, 0) == 0
    assert code(vm.enter()["steps"][0]["r3"]) == SUCCESS
    assert host.audit["tracked"]["gfns_shared"] == 8 + flags
    assert vm.run(store_step((first + 1) * PAGE, b"there"), load_step((first + 1) * PAGE))[1] == {
        "value": b"there".hex() + "00" * 3
    }


def test_a_page_that_is_invalidated_while_it_is_being_shared_is_bound_at_its_use(pef: Any) -> None:
    host = pef()
    vm = host.svm()
    asked(vm.enter(ucall_step("SHARE_PAGE", GFN, 2), **STOP), GFN, 1)
    asked(vm.enter(**STOP), GFN + 1, 1)
    assert vm.inval(GPA) == SUCCESS
    assert code(vm.enter()["steps"][0]["r3"]) == SUCCESS
    left = vm.enter(load_step(GPA), stop=["0xe00"])
    assert (left["trap"], number(left["asdr"])) == ("0xe00", GPA)
    assert vm.enter()["steps"] == [{"value": "00" * 8}]
