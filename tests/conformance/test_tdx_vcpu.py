"""VCPUs: create, control pages, initial state, association with an LP, metadata."""

from __future__ import annotations

import pytest
from tdx_field import TdxHost, td_params
from tdx_names import (
    EXTERNAL_INTERRUPT,
    FIELD_ID_INCORRECT,
    FIELD_NOT_INITIALIZED,
    FIELD_NOT_WRITABLE,
    FIELD_VALUE_NOT_VALID,
    MAX_VCPUS_EXCEEDED,
    NON_RECOVERABLE_VCPU,
    OP_STATE_INCORRECT,
    OPERAND_INVALID,
    PAGE_METADATA_INCORRECT,
    RCX,
    RDX,
    SUCCESS,
    TDCX_NUM_INCORRECT,
    TDVPR,
    TRIPLE_FAULT,
    VCPU_ASSOCIATED,
    VCPU_NOT_ASSOCIATED,
    VCPU_STATE_INCORRECT,
)

PI_VECTOR, PI_DESCRIPTOR = 0x0024000100000002, 0x0024000300002016
SHARED_EPTP, PIN_BASED, PEND_NMI = 0x002400030000203C, 0x0024000200004000, 0x202000000000000B
INDEX, PAGES, LPID, EPOCH = 0xA020000200000002, 0xA020000000000003, 0xA020000200000004, 0xA020000300000006
ALL = (1 << 64) - 1
NO_LP = 0xFFFFFFFF


def test_a_vcpu_needs_six_pages_and_takes_fifteen(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    vcpu = td.created_vcpu(pages=4)
    assert tdx_host.kind(vcpu) == TDVPR
    assert tdx_host.call("VP.INIT", rcx=vcpu).rax == TDCX_NUM_INCORRECT
    for _ in range(10):
        tdx_host.good("VP.ADDCX", rcx=tdx_host.alloc(), rdx=vcpu)
    assert tdx_host.call("VP.ADDCX", rcx=8, rdx=vcpu).rax == TDCX_NUM_INCORRECT
    tdx_host.good("VP.INIT", rcx=vcpu)
    assert tdx_host.call("VP.INIT", rcx=vcpu).rax == VCPU_STATE_INCORRECT
    assert tdx_host.call("VP.ADDCX", rcx=8, rdx=vcpu).rax == VCPU_STATE_INCORRECT


def test_with_l2_vms_a_vcpu_needs_more(tdx_host: TdxHost) -> None:
    td = tdx_host.keyed(pages=7)
    tdx_host.good("MNG.INIT", rcx=td.tdr, rdx=tdx_host.buffer(td_params(l2_vms=1)))
    vcpu = td.created_vcpu(pages=7)
    assert tdx_host.call("VP.INIT", rcx=vcpu).rax == TDCX_NUM_INCORRECT
    tdx_host.good("VP.ADDCX", rcx=tdx_host.alloc(), rdx=vcpu)
    tdx_host.good("VP.INIT", rcx=vcpu)


def test_as_many_vcpus_as_the_td_may_have(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized(td_params(max_vcpus=2))
    for index in range(2):
        vcpu = td.vcpu()
        assert tdx_host.good("VP.RD", rcx=vcpu, rdx=INDEX).r8 == index
    third = td.created_vcpu()
    assert tdx_host.call("VP.INIT", rcx=third).rax == MAX_VCPUS_EXCEEDED


def test_handles_are_checked(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    vcpu = td.vcpu()
    page = tdx_host.alloc()
    assert tdx_host.call("VP.CREATE", rcx=page, rdx=vcpu).rax == PAGE_METADATA_INCORRECT | RDX
    assert tdx_host.call("VP.CREATE", rcx=vcpu, rdx=td.tdr).rax == PAGE_METADATA_INCORRECT | RCX
    assert tdx_host.call("VP.INIT", rcx=td.tdr).rax == PAGE_METADATA_INCORRECT | RCX
    assert tdx_host.call("VP.ENTER", rcx=td.tdr).rax == PAGE_METADATA_INCORRECT | RCX
    assert tdx_host.call("VP.FLUSH", rcx=td.tdr + 8).rax == OPERAND_INVALID | RCX


def test_a_vcpu_belongs_to_the_lp_that_initialised_it(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    vcpu = td.vcpu(cpu=1)
    tdx_host.good("MR.FINALIZE", rcx=td.tdr)
    assert tdx_host.call("VP.ENTER", 0, rcx=vcpu).rax == VCPU_ASSOCIATED
    assert tdx_host.call("VP.RD", 0, rcx=vcpu, rdx=INDEX).rax == VCPU_ASSOCIATED
    assert tdx_host.call("VP.WR", 0, rcx=vcpu, rdx=PEND_NMI, r8=1, r9=1).rax == VCPU_ASSOCIATED
    assert tdx_host.call("VP.FLUSH", 0, rcx=vcpu).rax == VCPU_NOT_ASSOCIATED
    assert td.enter(cpu=1).rax == EXTERNAL_INTERRUPT
    tdx_host.good("VP.FLUSH", 1, rcx=vcpu)
    assert tdx_host.call("VP.FLUSH", 1, rcx=vcpu).rax == VCPU_NOT_ASSOCIATED
    assert td.enter(cpu=0).rax == EXTERNAL_INTERRUPT


@pytest.mark.parametrize("leaf", ["VP.ENTER", "VP.RD", "VP.WR"])
def test_using_a_vcpu_associates_it(tdx_host: TdxHost, leaf: str) -> None:
    td = tdx_host.runnable()
    vcpu = td.vcpus[0]
    tdx_host.good("VP.FLUSH", rcx=vcpu)
    assert tdx_host.good("MNG.RD", rcx=td.tdr, rdx=0x9010000200000002).r8 == 0
    extra = {"VP.RD": {"rdx": INDEX}, "VP.WR": {"rdx": PEND_NMI, "r8": 1, "r9": 1}}.get(leaf, {})
    tdx_host.call(leaf, 1, rcx=vcpu, **extra)
    assert tdx_host.good("MNG.RD", rcx=td.tdr, rdx=0x9010000200000002).r8 == 1
    assert tdx_host.good("VP.RD", 1, rcx=vcpu, rdx=LPID).r8 == 1
    assert tdx_host.call("VP.ENTER", 0, rcx=vcpu).rax == VCPU_ASSOCIATED


def test_enter_takes_a_handle_and_two_flags(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    vcpu = td.vcpus[0]
    for bit in (0, 3, 11, 54, 63):
        assert tdx_host.call("VP.ENTER", rcx=vcpu | 1 << bit).rax == OPERAND_INVALID | RCX
    for flag in (52, 53):
        assert tdx_host.call("VP.ENTER", rcx=vcpu | 1 << flag).rax == OPERAND_INVALID | RCX
    out = tdx_host.ok("enter", vcpu=vcpu | 1 << 53)
    assert int(out["rax"], 16) == OPERAND_INVALID | RCX
    assert out["steps"] == []


def test_enter_before_the_td_may_run(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    vcpu = td.vcpu()
    assert tdx_host.call("VP.ENTER", rcx=vcpu).rax == OP_STATE_INCORRECT
    other = td.created_vcpu()
    tdx_host.good("MR.FINALIZE", rcx=td.tdr)
    assert tdx_host.call("VP.ENTER", rcx=other).rax == VCPU_STATE_INCORRECT
    assert tdx_host.call("VP.INIT", rcx=other).rax == OP_STATE_INCORRECT
    assert tdx_host.call("VP.ENTER", rcx=vcpu).rax == EXTERNAL_INTERRUPT


def test_a_triple_fault_disables_the_vcpu_for_good(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    vcpu = td.vcpus[0]
    out = td.enter({"exit": "triple_fault"})
    assert out.rax == NON_RECOVERABLE_VCPU | TRIPLE_FAULT
    assert tdx_host.call("VP.ENTER", rcx=vcpu).rax == VCPU_STATE_INCORRECT
    assert tdx_host.call("VP.WR", rcx=vcpu, rdx=PEND_NMI, r8=1, r9=1).rax == VCPU_STATE_INCORRECT
    assert tdx_host.call("VP.RD", rcx=vcpu, rdx=INDEX).rax == SUCCESS
    td.destroy()


# -- metadata --------------------------------------------------------------------------


def test_what_a_host_reads_of_a_vcpu(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(vcpus=2)
    read = {field: tdx_host.good("VP.RD", rcx=td.vcpus[1], rdx=field).r8 for field in (INDEX, PAGES, LPID)}
    assert read == {INDEX: 1, PAGES: 6, LPID: 0}
    assert tdx_host.good("VP.RD", rcx=td.vcpus[1], rdx=0x9120000300000100).r8 == 0
    td.enter(vcpu=1)
    assert tdx_host.good("VP.RD", rcx=td.vcpus[1], rdx=EPOCH).r8 == 1
    assert tdx_host.call("VP.RD", rcx=td.vcpus[1], rdx=0xA020000200000099).rax == FIELD_ID_INCORRECT
    assert tdx_host.call("VP.WR", rcx=td.vcpus[1], rdx=INDEX, r8=0, r9=ALL).rax == FIELD_NOT_WRITABLE


def test_posted_interrupts_are_set_up_in_order(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    vcpu = td.vcpus[0]
    wanted = {"rcx": vcpu, "rdx": PIN_BASED, "r8": 0x80, "r9": 0x80}
    assert tdx_host.call("VP.WR", **wanted).rax == FIELD_NOT_INITIALIZED | 2
    tdx_host.good("VP.WR", rcx=vcpu, rdx=PI_VECTOR, r8=0xF2, r9=0xFFFF)
    assert tdx_host.call("VP.WR", **wanted).rax == FIELD_NOT_INITIALIZED | 0x2016
    descriptor = tdx_host.plain()
    tdx_host.good("VP.WR", rcx=vcpu, rdx=PI_DESCRIPTOR, r8=descriptor, r9=ALL)
    tdx_host.good("VP.WR", **wanted)
    assert tdx_host.good("VP.RD", rcx=vcpu, rdx=PIN_BASED).r8 == 0x80
    assert tdx_host.good("VP.RD", rcx=vcpu, rdx=PI_DESCRIPTOR).r8 == descriptor
    assert tdx_host.good("VP.RD", rcx=vcpu, rdx=PI_VECTOR).r8 == 0xF2


def test_a_vector_has_eight_bits(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    write = {"rcx": td.vcpus[0], "rdx": PI_VECTOR, "r9": 0xFFFF}
    assert tdx_host.call("VP.WR", r8=0x100, **write).rax == FIELD_VALUE_NOT_VALID
    tdx_host.good("VP.WR", r8=0xFF, **write)


def test_a_vcpu_has_the_features_of_its_td(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(td_params(xfam=3 | 1 << 2))
    assert tdx_host.good("VP.RD", rcx=td.vcpus[0], rdx=0x202000030000000C).r8 == 3 | 1 << 2


def test_addresses_in_the_vmcs_are_shared_ones(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    root = tdx_host.plain()
    write = {"rcx": td.vcpus[0], "rdx": SHARED_EPTP, "r9": ALL}
    assert tdx_host.call("VP.WR", r8=root | 20 << 46, **write).rax == FIELD_VALUE_NOT_VALID
    assert tdx_host.call("VP.WR", r8=root | 6, **write).rax == FIELD_VALUE_NOT_VALID
    tdx_host.good("VP.WR", r8=root, **write)
    assert tdx_host.good("VP.RD", rcx=td.vcpus[0], rdx=SHARED_EPTP).r8 == root
    old = tdx_host.good("VP.WR", r8=tdx_host.plain(), **write).r8
    assert old == root


def test_an_nmi_is_made_pending(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    assert tdx_host.good("VP.WR", rcx=td.vcpus[0], rdx=PEND_NMI, r8=1, r9=0xFF).r8 == 0
    assert tdx_host.good("VP.RD", rcx=td.vcpus[0], rdx=PEND_NMI).r8 == 1


def test_the_linux_profile_takes_an_x2apic_id(tdx) -> None:  # type: ignore[no-untyped-def]
    host = tdx(profile="linux").boot()
    td = host.initialized()
    host.good("VP.INIT", version=1, rcx=td.created_vcpu(), rdx=0, r8=7)
    plain = tdx().boot()
    vcpu = plain.initialized().created_vcpu()
    assert plain.call("VP.INIT", version=1, rcx=vcpu).rax == OPERAND_INVALID
