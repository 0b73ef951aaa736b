"""TDCALLs about L2 VMs of a TD, and about service TDs: refused, in the module's order."""

from __future__ import annotations

from typing import Any

import pytest
from tdx_field import Td, TdxHost, td_params
from tdx_names import EPT_VIOLATION, MIB2, OPERAND_BUSY, OPERAND_INVALID, PAGE, R8, RAX, RCX, RDX, SUCCESS

SERVTD_RD, SERVTD_WR, ATTR_RD, ATTR_WR, ENTER, INVEPT, INVVPID = 18, 20, 23, 24, 25, 26, 27
L2_VAPIC_GPA = 170
PAGE_SIZE_MISMATCH, PAGE_ATTR_INVALID = 0xC0000B0B00000000, 0xC0000B1100000000
L2_SEPT_WALK_FAILED, GLA_NOT_CANONICAL = 0xC0000B0F00000000, 0xC000116000000000
PENDING = 1 << 62
VALID, R, W, X, SVE = 1 << 15, 1, 2, 4, 1 << 7
VM1 = 1 << 52


@pytest.fixture
def td(tdx_host: TdxHost) -> Td:
    """A TD that hosts nobody, with a page at 0 and a pending one at 4 KiB."""
    made = tdx_host.runnable(pages=(0,))
    made.aug(PAGE)
    return made


@pytest.fixture
def partitioned(tdx_host: TdxHost) -> Td:
    """A TD with two L2 VMs configured, and the pages that they cost."""
    td = tdx_host.keyed(pages=8)
    buffer = tdx_host.buffer(td_params(l2_vms=2))
    tdx_host.good("MNG.INIT", rcx=td.tdr, rdx=buffer)
    tdvpr = td.created_vcpu(pages=5 + 2 * 3)
    tdx_host.good("VP.INIT", rcx=tdvpr, rdx=0)
    td.add(0)
    tdx_host.good("MR.FINALIZE", rcx=td.tdr)
    return td


# -- attributes of pages --------------------------------------------------------------------------


def test_a_pages_attributes_say_how_large_it_is_and_whether_it_is_pending(td: Td) -> None:
    out = td.tdcall(ATTR_RD, rcx=0x123)
    assert (out["rax"], out["rcx"], out["rdx"]) == (SUCCESS, 0, 0)
    assert td.tdcall(ATTR_RD, rcx=PAGE)["rcx"] == PAGE | PENDING
    td.aug(MIB2, level=1)
    assert td.tdcall(ATTR_RD, rcx=MIB2 + 7 * PAGE)["rcx"] == MIB2 | 1 | PENDING


@pytest.mark.parametrize("leaf", [ATTR_RD, ATTR_WR])
@pytest.mark.parametrize("gpa", [1 << 47, 1 << 48, 1 << 52])
def test_attributes_are_of_private_addresses(td: Td, leaf: int, gpa: int) -> None:
    out = td.tdcall(leaf, rcx=gpa)
    assert (out["rax"], out["rcx"], out["rdx"]) == (OPERAND_INVALID | RCX, 0, 0)


def test_attributes_of_what_is_not_there_leave_the_guest(td: Td) -> None:
    out = td.enter({"call": {"rax": ATTR_RD, "rcx": 5 * PAGE}})
    assert (out.rax, out.rcx, out.rdx, out.r8) == (EPT_VIOLATION, 0, 0, 5 * PAGE)


def test_writing_them_wants_the_very_size(td: Td) -> None:
    assert td.tdcall(ATTR_WR, rcx=0)["rcx"] == 0
    assert td.tdcall(ATTR_WR, rcx=PAGE)["rcx"] == PAGE | PENDING
    assert td.tdcall(ATTR_WR, rcx=0 | 1)["rax"] == PAGE_SIZE_MISMATCH | 1
    for bad in (3, 1 << 3, PAGE | 1):
        assert td.tdcall(ATTR_WR, rcx=bad)["rax"] == OPERAND_INVALID | RCX
    out = td.enter({"call": {"rax": ATTR_WR, "rcx": 5 * PAGE}})
    assert (out.rax, out.rdx & 0xF, out.r8) == (EPT_VIOLATION, 5, 5 * PAGE)


def test_writing_them_where_no_table_is_says_how_far_the_walk_came(td: Td) -> None:
    far = 3 << 30
    out = td.enter({"call": {"rax": ATTR_WR, "rcx": far}})
    assert (out.rax, out.rdx & 0xF, out.r8) == (EPT_VIOLATION, 5, far)
    assert out.rdx >> 32 & 7 == 0, "the level that was asked for"
    assert out.rdx >> 35 & 7 == 2, "and that of the entry that is free"


def test_the_td_itself_and_vms_that_are_not_there_have_no_attributes(td: Td) -> None:
    for vm in range(4):
        assert td.tdcall(ATTR_WR, rcx=8, rdx=VALID << 16 * vm)["rax"] == OPERAND_INVALID | RDX
        assert td.tdcall(ATTR_WR, rcx=8, r8=1 << 16 * vm)["rax"] == OPERAND_INVALID | R8


def test_an_l2_vms_attributes_are_judged_and_find_no_tables(partitioned: Td) -> None:
    td = partitioned
    assert td.tdcall(ATTR_WR, rcx=0, rdx=R << 16, r8=R << 16)["rax"] == OPERAND_INVALID | RDX
    assert td.tdcall(ATTR_WR, rcx=0, rdx=VALID << 48)["rax"] == OPERAND_INVALID | RDX
    for wrong in (W, VALID | SVE | R):
        out = td.tdcall(ATTR_WR, rcx=0, rdx=(VALID | wrong) << 32, r8=0xFF << 32)
        assert (out["rax"], out["rcx"], out["rdx"]) == (PAGE_ATTR_INVALID, 0, 0)
    out = td.tdcall(ATTR_WR, rcx=0, rdx=(VALID | R | X) << 32, r8=0xFF << 32)
    assert (out["rax"], out["rdx"]) == (L2_SEPT_WALK_FAILED | 2 << 16 | 3, 0)
    out = td.tdcall(ATTR_WR, rcx=0, rdx=VALID << 32, r8=0xFF << 32)
    assert (out["rax"], out["rdx"]) == (SUCCESS, VALID << 32)


def test_a_host_that_holds_the_entry_comes_first(td: Td) -> None:
    host = td.host
    request = host.park("MEM.SEPT.RD", 1, rcx=0, rdx=td.tdr)
    for leaf in (ATTR_RD, ATTR_WR):
        assert td.tdcall(leaf, rcx=0)["rax"] == OPERAND_BUSY | RCX
    host.resume(request)


# -- L2 VMs ---------------------------------------------------------------------------------------


def test_no_l2_vm_is_entered(td: Td, partitioned: Td) -> None:
    assert td.tdcall(ENTER, rcx=VM1, rdx=0x80)["rax"] == OPERAND_INVALID | RDX
    assert td.tdcall(ENTER, rcx=VM1, rdx=1 << 47)["rax"] == OPERAND_INVALID | RDX
    assert td.tdcall(ENTER, rcx=VM1, rdx=0)["rax"] == OPERAND_INVALID | RCX
    for bad in (0, 3 * VM1, VM1 | 4, VM1 | 1 << 54):
        assert partitioned.tdcall(ENTER, rcx=bad, rdx=0)["rax"] == OPERAND_INVALID | RCX
    assert partitioned.tdcall(ENTER, rcx=2 * VM1 | 3, rdx=0x100)["rax"] == OPERAND_INVALID | L2_VAPIC_GPA


def test_what_is_cached_of_l2_vms(td: Td, partitioned: Td) -> None:
    assert td.tdcall(INVEPT, rcx=0)["rax"] == SUCCESS
    assert td.tdcall(INVEPT, rcx=2)["rax"] == OPERAND_INVALID | RCX
    assert partitioned.tdcall(INVEPT, rcx=6)["rax"] == SUCCESS
    for bad in (1, 8, 1 << 63):
        assert partitioned.tdcall(INVEPT, rcx=bad)["rax"] == OPERAND_INVALID | RCX


def test_linear_addresses_of_an_l2_vm(td: Td, partitioned: Td) -> None:
    assert td.tdcall(INVVPID, rcx=VM1)["rax"] == OPERAND_INVALID | RCX
    assert partitioned.tdcall(INVVPID, rcx=VM1 | 2)["rax"] == OPERAND_INVALID | RCX
    assert partitioned.tdcall(INVVPID, rcx=VM1, rdx=0x7000_0000_0003)["rax"] == SUCCESS
    assert partitioned.tdcall(INVVPID, rcx=VM1, rdx=1 << 50)["rax"] == GLA_NOT_CANONICAL


def test_a_list_of_linear_addresses(partitioned: Td) -> None:
    td = partitioned
    listed = b"".join(each.to_bytes(8, "little") for each in (0x1000, 0x2001, 1 << 55))
    td.enter({"touch": 0, "write": True, "value": listed.hex()})
    one = VM1 | 1
    for bad in (1 << 9, 1 << 62, 1 << 52 | 511 | 1 << 53, 1 << 47):
        assert td.tdcall(INVVPID, rcx=one, rdx=bad)["rax"] == OPERAND_INVALID | RDX
    out = td.tdcall(INVVPID, rcx=one, rdx=2 << 52)
    assert (out["rax"], out["rdx"]) == (SUCCESS, 2)
    assert td.tdcall(INVVPID, rcx=one, rdx=2 << 52 | 1)["rax"] == GLA_NOT_CANONICAL
    assert td.enter({"call": {"rax": INVVPID, "rcx": one, "rdx": 1 << 52 | 9 * PAGE}}).rax == EPT_VIOLATION


# -- service TDs ----------------------------------------------------------------------------------


def test_service_tds_are_for_the_profile_that_offers_them(td: Td, tdx: Any) -> None:
    assert td.tdcall(SERVTD_RD)["rax"] == td.tdcall(SERVTD_WR)["rax"] == OPERAND_INVALID | RAX
    other = tdx(profile="migration").boot().runnable()
    out = other.tdcall(SERVTD_RD, rcx=1, rdx=0, r8=5)
    assert (out["rax"], out["rdx"], out["r8"]) == (OPERAND_INVALID | RCX, (1 << 64) - 1, 0)
    out = other.tdcall(SERVTD_WR, rcx=1, rdx=7, r8=5)
    assert (out["rax"], out["rdx"], out["r8"]) == (OPERAND_INVALID | RCX, 7, 0)
