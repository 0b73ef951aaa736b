"""TDs: create, key, control pages, parameters, metadata, and the way down to nothing."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
from tdx_field import DEBUG, FIVE_LEVELS, MIGRATABLE, PERFMON, TdxHost, td_params
from tdx_names import (
    ADDR_RANGE_ERROR,
    ARCH_CAPABILITIES,
    ATTRIBUTES,
    CPUID_CONFIG,
    EPT,
    EPTP_CONTROLS,
    EXEC_CONTROLS,
    FIELD_ID_INCORRECT,
    FIELD_NOT_READABLE,
    FIELD_NOT_WRITABLE,
    FIELD_VALUE_NOT_VALID,
    FIRST_FIELD_ID,
    FLUSHVP_NOT_DONE,
    GIB,
    HKID_NOT_FREE,
    INTERRUPTED_RESUMABLE,
    KEY_CONFIGURED,
    LIFECYCLE_STATE_INCORRECT,
    MAX_VCPUS,
    NDA,
    NO_HKID_READY_TO_WBCACHE,
    NO_VCPUS,
    NUM_L2_VMS,
    OP_STATE_INCORRECT,
    OPERAND_BUSY,
    OPERAND_INVALID,
    PAGE,
    PAGE_METADATA_INCORRECT,
    RCX,
    RDX,
    REG,
    SUCCESS,
    TD_ASSOCIATED_PAGES_EXIST,
    TD_KEYS_NOT_CONFIGURED,
    TDCS_NOT_ALLOCATED,
    TDCX,
    TDCX_NUM_INCORRECT,
    TDR_PAGE,
    TDVPR,
    TSC_FREQUENCY,
    WBCACHE_NOT_COMPLETE,
    WBCACHE_RESUME_ERROR,
    WR_MASK_NOT_VALID,
    XFAM,
)

MRTD, RTMR = 0x1310000300000000, 0x1310000300000040
LIFECYCLE, OP_STATE, CHLDCNT, HKID_FIELD = (
    *(0x8010000200000005, 0x9010000200000004, 0x8010000300000004, 0x8110000100000001),
)
NUM_TDCX, NUM_VCPUS, MAX_VCPUS_FIELD, GPAW_FIELD = (
    *(0x8010000200000002, 0x9010000200000001, 0x1110000200000002, 0x1110000000000003),
)
HP_LOCK_TIMEOUT = 0x9110000300000011
ALL = (1 << 64) - 1


# -- MNG.CREATE ---------------------------------------------------------------------


def test_a_new_td_takes_one_page_and_a_keyid(tdx_host: TdxHost) -> None:
    td = tdx_host.created()
    assert tdx_host.kind(td.tdr) == TDR_PAGE
    assert tdx_host.call("MNG.CREATE", rcx=tdx_host.alloc(), rdx=td.hkid).rax == HKID_NOT_FREE
    assert tdx_host.call("MNG.CREATE", rcx=td.tdr, rdx=30).rax == PAGE_METADATA_INCORRECT | RCX


@pytest.mark.parametrize("hkid", [0, 1, 15, 64, 1 << 16 | 17, 1 << 63])
def test_a_td_needs_a_private_keyid(tdx_host: TdxHost, hkid: int) -> None:
    assert tdx_host.call("MNG.CREATE", rcx=8, rdx=hkid).rax == OPERAND_INVALID | RDX


def test_the_global_keyid_is_reserved(tdx_host: TdxHost) -> None:
    assert tdx_host.call("MNG.CREATE", rcx=tdx_host.alloc(), rdx=16).rax == HKID_NOT_FREE


def test_the_operand_of_a_private_page(tdx_host: TdxHost) -> None:
    page = tdx_host.alloc()
    for bad in (page + 8, page | 17 << 46, page | 1 << 46, page | 1 << 52, page | 1 << 63):
        assert tdx_host.call("MNG.CREATE", rcx=bad, rdx=17).rax == OPERAND_INVALID | RCX
    for outside in (0, tdx_host.plain(), 3 * GIB, 4 * GIB, 1 << 45):
        assert tdx_host.call("MNG.CREATE", rcx=outside, rdx=17).rax == ADDR_RANGE_ERROR | RCX


def test_forty_seven_tds_at_once(tdx_host: TdxHost) -> None:
    tds = [tdx_host.created() for _ in range(47)]
    assert {td.hkid for td in tds} == set(range(17, 64))
    assert tdx_host.call("MNG.CREATE", rcx=tdx_host.alloc(), rdx=63).rax == HKID_NOT_FREE
    assert tdx_host.ok("audit")["hosts"][0]["te"]["hkid_assigned"] == 47


# -- MNG.KEY.CONFIG -----------------------------------------------------------------------


def test_a_second_key_config_on_one_package_meets_the_lifecycle(tdx_host: TdxHost) -> None:
    td = tdx_host.created()
    tdx_host.good("MNG.KEY.CONFIG", rcx=td.tdr)
    assert tdx_host.call("MNG.KEY.CONFIG", rcx=td.tdr).rax == LIFECYCLE_STATE_INCORRECT


def test_with_two_packages_the_key_is_configured_already(tdx: Any) -> None:
    host = tdx(profile="small-2p").boot()
    td = host.created()
    host.good("MNG.KEY.CONFIG", 1, rcx=td.tdr)
    assert host.call("MNG.KEY.CONFIG", 1, rcx=td.tdr).rax == KEY_CONFIGURED
    assert host.call("MNG.ADDCX", rcx=host.alloc(), rdx=td.tdr).rax == TD_KEYS_NOT_CONFIGURED
    host.good("MNG.KEY.CONFIG", 0, rcx=td.tdr)
    host.good("MNG.ADDCX", rcx=host.alloc(), rdx=td.tdr)


# -- MNG.ADDCX ----------------------------------------------------------------------------


def test_a_td_takes_six_to_nine_control_pages(tdx_host: TdxHost) -> None:
    td = tdx_host.keyed(pages=9)
    assert [tdx_host.kind(page) for page in td.tdcs] == [TDCX] * 9
    assert tdx_host.call("MNG.ADDCX", rcx=8, rdx=td.tdr).rax == TDCX_NUM_INCORRECT
    out = tdx_host.good("PHYMEM.PAGE.RDMD", rcx=td.tdcs[0])
    assert out.rdx == td.tdr


def test_more_control_pages_only_before_init(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    assert tdx_host.call("MNG.ADDCX", rcx=8, rdx=td.tdr).rax == OPERAND_INVALID | RCX
    assert tdx_host.call("MNG.ADDCX", rcx=tdx_host.alloc(), rdx=td.tdr).rax == OP_STATE_INCORRECT


def test_a_page_is_given_once(tdx_host: TdxHost) -> None:
    td = tdx_host.keyed(pages=1)
    other = tdx_host.created()
    for page in (other.tdr, td.tdcs[0]):
        assert tdx_host.call("MNG.ADDCX", rcx=page, rdx=td.tdr).rax == PAGE_METADATA_INCORRECT | RCX
    # The call itself holds the TDR when it comes to its page.
    assert tdx_host.call("MNG.ADDCX", rcx=td.tdr, rdx=td.tdr).rax == OPERAND_BUSY | RCX
    assert (
        tdx_host.call("MNG.ADDCX", rcx=tdx_host.alloc(), rdx=td.tdcs[0]).rax == PAGE_METADATA_INCORRECT | RDX
    )


# -- MNG.INIT -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "operand"),
    [
        ({"attributes": 1 << 1}, ATTRIBUTES),
        ({"attributes": MIGRATABLE}, ATTRIBUTES),
        ({"xfam": 2}, XFAM),
        ({"xfam": 3 | 1 << 3}, XFAM),
        ({"xfam": 3 | 1 << 5}, XFAM),
        ({"xfam": 3 | 0b111 << 5}, XFAM),
        ({"xfam": 3 | 1 << 11}, XFAM),
        ({"xfam": 3 | 1 << 17}, XFAM),
        ({"max_vcpus": 0}, MAX_VCPUS),
        ({"l2_vms": 4}, NUM_L2_VMS),
        ({"at_20": b"\1"}, RDX),
        ({"flags": 1 << 3}, EXEC_CONTROLS),
        ({"eptp": 5 | 3 << 3}, EPTP_CONTROLS),
        ({"eptp": 6 | 2 << 3}, EPTP_CONTROLS),
        ({"eptp": 6 | 3 << 3 | 1 << 6}, EPTP_CONTROLS),
        ({"eptp": 6 | 3 << 3 | 1 << 12}, EPTP_CONTROLS),
        ({"flags": 1}, EPTP_CONTROLS),
        ({"tsc": 3}, TSC_FREQUENCY),
        ({"tsc": 401}, TSC_FREQUENCY),
        ({"at_42": b"\1"}, RDX),
        ({"at_79": b"\1"}, RDX),
        ({"at_232": b"\1"}, RDX),
        ({"at_256": struct.pack("<I", 1 << 31)}, CPUID_CONFIG),
        ({"at_1023": b"\1"}, RDX),
        ({"at_224": struct.pack("<Q", 1)}, ARCH_CAPABILITIES),
    ],
)
def test_what_a_host_may_not_ask_of_a_td(tdx_host: TdxHost, params: dict[str, Any], operand: int) -> None:
    td = tdx_host.keyed()
    buffer = tdx_host.buffer(td_params(**params))
    out = tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer)
    assert hex(out.rax) == hex(OPERAND_INVALID | operand)
    assert out.rcx == (1 | 0xFFFFFFFF << 32 if operand == CPUID_CONFIG else 0)
    tdx_host.write(buffer, td_params())
    assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == SUCCESS


@pytest.mark.parametrize(
    ("at", "value", "leaf"),
    [
        (256, 0x806F7, 1 | 0xFFFFFFFF << 32),  # EAX of leaf 1: a family that is not the platform's
        (256 + 5 * 16 + 4, 1 << 4, 7),  # EBX of leaf 7: HLE without RTM
        (256 + 5 * 16 + 4, 1 << 11, 7),  # and RTM without HLE
    ],
)
def test_cpuid_that_no_cpu_of_this_kind_has(tdx_host: TdxHost, at: int, value: int, leaf: int) -> None:
    td = tdx_host.keyed()
    buffer = tdx_host.buffer(td_params(**{f"at_{at}": struct.pack("<I", value)}))
    out = tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer)
    assert (out.rax, out.rcx) == (OPERAND_INVALID | CPUID_CONFIG, leaf)
    both = struct.pack("<I", 1 << 4 | 1 << 11)
    tdx_host.write(buffer, td_params(at_256=struct.pack("<I", 0x806F8), **{f"at_{256 + 5 * 16 + 4}": both}))
    assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == SUCCESS


def test_a_td_that_migrates_has_no_l2_vms(tdx: Any) -> None:
    host = tdx(profile="migration").boot()
    td = host.keyed(7)
    buffer = host.buffer(td_params(attributes=MIGRATABLE, l2_vms=1))
    assert host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == OPERAND_INVALID | RDX
    host.write(buffer, td_params(attributes=MIGRATABLE))
    assert host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == SUCCESS


@pytest.mark.parametrize(
    "params",
    [
        {"attributes": DEBUG},
        {"attributes": 1 << 28 | 1 << 30 | PERFMON},
        {"xfam": 0x6DBE7},
        {"xfam": 3 | 1 << 2 | 0b111 << 5},
        {"flags": 0b111, "eptp": FIVE_LEVELS},
        {"eptp": FIVE_LEVELS},
        {"tsc": 4},
        {"tsc": 400, "max_vcpus": 0xFFFF},
    ],
    ids=str,
)
def test_what_a_host_may_ask_of_a_td(tdx_host: TdxHost, params: dict[str, Any]) -> None:
    tdx_host.initialized(td_params(**params))


def test_the_order_of_the_parameters(tdx_host: TdxHost) -> None:
    """Everything wrong at once, then mended one by one."""
    td = tdx_host.keyed()
    wrong: dict[str, Any] = {
        "attributes": 2, "xfam": 0, "max_vcpus": 0, "l2_vms": 4, "at_20": b"\1", "flags": 8, "eptp": 0,
        "tsc": 0, "at_42": b"\1", "at_256": b"\xff" * 4, "at_1023": b"\1", "at_224": b"\1",
    }  # fmt: skip
    order = (
        *(("attributes", ATTRIBUTES), ("xfam", XFAM), ("max_vcpus", MAX_VCPUS), ("l2_vms", NUM_L2_VMS)),
        *(("at_20", RDX), ("flags", EXEC_CONTROLS), ("eptp", EPTP_CONTROLS), ("tsc", TSC_FREQUENCY)),
        *(("at_42", RDX), ("at_256", CPUID_CONFIG), ("at_1023", RDX), ("at_224", ARCH_CAPABILITIES)),
    )
    buffer = tdx_host.buffer(td_params())
    for name, operand in order:
        tdx_host.write(buffer, td_params(**wrong))
        assert hex(tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax) == hex(OPERAND_INVALID | operand)
        del wrong[name]
    tdx_host.write(buffer, td_params(**wrong))
    assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == SUCCESS
    assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == OP_STATE_INCORRECT


def test_init_needs_six_pages_and_one_more_for_each_l2_vm(tdx_host: TdxHost) -> None:
    td = tdx_host.keyed(pages=5)
    buffer = tdx_host.buffer(td_params(l2_vms=1))
    assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=8).rax == TDCS_NOT_ALLOCATED
    tdx_host.good("MNG.ADDCX", rcx=tdx_host.alloc(), rdx=td.tdr)
    assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=8).rax == OPERAND_INVALID | RDX
    assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == TDCS_NOT_ALLOCATED
    tdx_host.good("MNG.ADDCX", rcx=tdx_host.alloc(), rdx=td.tdr)
    tdx_host.good("MNG.INIT", rcx=td.tdr, rdx=buffer)


def test_the_buffer_of_the_parameters(tdx_host: TdxHost) -> None:
    td = tdx_host.keyed()
    buffer = tdx_host.buffer(td_params())
    for bad in (buffer + 512, buffer | 16 << 46, 1 << 52):
        assert tdx_host.call("MNG.INIT", rcx=td.tdr, rdx=bad).rax == OPERAND_INVALID | RDX
    tdx_host.good("MNG.INIT", rcx=td.tdr, rdx=buffer | 3 << 46)


# -- measurement --------------------------------------------------------------------------


def test_mrtd_is_what_was_added_and_extended(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.vcpu()
    digest = hashlib.sha384()
    for gpa in (0x5000, 0x2000):
        data = bytes([gpa >> 12]) * PAGE
        td.add(gpa, data, measure=gpa == 0x2000)
        digest.update((b"MEM.PAGE.ADD".ljust(16, b"\0") + struct.pack("<Q", gpa)).ljust(128, b"\0"))
        for chunk in range(gpa, gpa + PAGE, 256) if gpa == 0x2000 else ():
            digest.update((b"MR.EXTEND".ljust(16, b"\0") + struct.pack("<Q", chunk)).ljust(128, b"\0"))
            digest.update(data[:256])
    assert measurement(tdx_host, td.tdr) == bytes(48)
    tdx_host.good("MR.FINALIZE", rcx=td.tdr)
    assert measurement(tdx_host, td.tdr) == digest.digest()


def measurement(host: TdxHost, tdr: int) -> bytes:
    return b"".join(struct.pack("<Q", host.good("MNG.RD", rcx=tdr, rdx=MRTD + i).r8) for i in range(6))


def test_finalize_wants_a_vcpu(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.created_vcpu()
    assert tdx_host.call("MR.FINALIZE", rcx=td.tdr).rax == NO_VCPUS
    tdx_host.good("VP.INIT", rcx=td.vcpus[0])
    tdx_host.good("MR.FINALIZE", rcx=td.tdr)
    assert tdx_host.call("MR.FINALIZE", rcx=td.tdr).rax == OP_STATE_INCORRECT


# -- metadata -----------------------------------------------------------------------------


def test_what_a_host_reads_of_a_td(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(td_params(max_vcpus=9, at_80=b"C" * 48, at_128=b"O" * 48, at_176=b"o" * 48))
    values = {
        LIFECYCLE: 1, OP_STATE: 2, HKID_FIELD: td.hkid, NUM_TDCX: 6, NUM_VCPUS: 1, MAX_VCPUS_FIELD: 9,
        GPAW_FIELD: 0, CHLDCNT: 6 + 6 + 3 + 1, 0x1110000300000000: 0, 0x1110000300000001: 3,
        0x111000010000000C: 40, 0x8010000000000001: 0, 0x9010000200000002: 1,
        0x1310000300000010: int.from_bytes(b"C" * 8, "little"),
        0x1310000300000018: int.from_bytes(b"O" * 8, "little"),
        0x1310000300000020: int.from_bytes(b"o" * 8, "little"),
        0x8010000300000010: td.tdcs[0] | td.hkid << 46,
        0x1110000300000004: td.tdcs[3] | 6 | 3 << 3,
    }  # fmt: skip
    for field, value in values.items():
        assert (hex(field), tdx_host.good("MNG.RD", rcx=td.tdr, rdx=field).r8) == (hex(field), value)


def test_fields_that_a_host_does_not_read_or_write(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    assert tdx_host.call("MNG.RD", rcx=td.tdr, rdx=RTMR).rax == FIELD_NOT_READABLE
    assert tdx_host.call("MNG.RD", rcx=td.tdr, rdx=0x1310000300000099).rax == FIELD_ID_INCORRECT
    assert tdx_host.call("MNG.RD", rcx=td.tdr, rdx=MRTD | 1 << 34).rax == FIELD_ID_INCORRECT
    assert tdx_host.call("MNG.WR", rcx=td.tdr, rdx=MRTD, r8=1, r9=ALL).rax == FIELD_NOT_WRITABLE
    assert tdx_host.call("MNG.WR", rcx=td.tdr, rdx=HP_LOCK_TIMEOUT, r8=1, r9=0).rax == FIELD_NOT_WRITABLE


def test_size_increment_and_context_of_a_field_id_are_ignored(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    for change in (3 << 32, 1 << 50, 1 << 51, 7 << 52, 1 << 63):
        assert tdx_host.good("MNG.RD", rcx=td.tdr, rdx=OP_STATE ^ change).r8 == 2


def test_the_one_field_that_a_host_writes(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    before = tdx_host.good("MNG.RD", rcx=td.tdr, rdx=HP_LOCK_TIMEOUT).r8
    out = tdx_host.good("MNG.WR", rcx=td.tdr, rdx=HP_LOCK_TIMEOUT, r8=2 * before, r9=ALL)
    assert out.r8 == before
    assert tdx_host.good("MNG.RD", rcx=td.tdr, rdx=HP_LOCK_TIMEOUT).r8 == 2 * before
    assert tdx_host.call("MNG.WR", rcx=td.tdr, rdx=HP_LOCK_TIMEOUT, r8=1, r9=ALL).rax == FIELD_VALUE_NOT_VALID
    assert tdx_host.call("MNG.WR", rcx=td.tdr, rdx=HP_LOCK_TIMEOUT, r8=1, r9=ALL - 1).rax == WR_MASK_NOT_VALID
    assert tdx_host.good("MNG.RD", rcx=td.tdr, rdx=HP_LOCK_TIMEOUT).r8 == 2 * before


def test_version_one_names_the_next_field(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    first = tdx_host.call("MNG.RD", version=1, rcx=td.tdr, rdx=ALL)
    assert first.rax == FIRST_FIELD_ID
    seen, at = [], first.rdx
    while at != ALL:
        out = tdx_host.good("MNG.RD", version=1, rcx=td.tdr, rdx=at)
        assert out.r8 == tdx_host.good("MNG.RD", rcx=td.tdr, rdx=at).r8
        seen.append(at)
        at = out.rdx
    assert {MRTD, OP_STATE, MRTD + 5} <= set(seen)
    assert RTMR not in seen
    assert tdx_host.call("MNG.RD", rcx=td.tdr, rdx=ALL).rax == FIELD_ID_INCORRECT


# -- the way down ---------------------------------------------------------------------------


def test_the_whole_life_of_a_td(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(pages=(0, PAGE), vcpus=2)
    td.aug(0x200000, level=1)
    td.destroy()
    assert all(tdx_host.kind(page) == NDA for page in (td.tdr, *td.tdcs, *td.vcpus, *td.pages.values()))
    again = tdx_host.created(td.hkid)
    assert again.hkid == td.hkid


def test_flush_done_wants_every_vcpu_flushed(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(vcpus=2)
    assert tdx_host.call("MNG.VPFLUSHDONE", rcx=td.tdr).rax == FLUSHVP_NOT_DONE
    tdx_host.good("VP.FLUSH", rcx=td.vcpus[0])
    assert tdx_host.call("MNG.VPFLUSHDONE", rcx=td.tdr).rax == FLUSHVP_NOT_DONE
    tdx_host.good("VP.FLUSH", rcx=td.vcpus[1])
    tdx_host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    assert tdx_host.call("MNG.VPFLUSHDONE", rcx=td.tdr).rax == LIFECYCLE_STATE_INCORRECT
    assert tdx_host.call("MNG.RD", rcx=td.tdr, rdx=OP_STATE).rax == TD_KEYS_NOT_CONFIGURED
    te = tdx_host.ok("audit")["hosts"][0]["te"]
    assert (te["hkid_assigned"], te["hkid_flushed"]) == (0, 1)


def test_an_aborted_creation_comes_down_at_once(tdx_host: TdxHost) -> None:
    td = tdx_host.created()
    td.block()
    tdx_host.good("PHYMEM.PAGE.RECLAIM", rcx=td.tdr)
    assert tdx_host.kind(td.tdr) == NDA


def test_a_key_is_free_when_every_package_has_written_back(tdx: Any) -> None:
    host = tdx(profile="small-2p").boot()
    td = host.keyed()
    assert host.call("MNG.KEY.FREEID", rcx=td.tdr).rax == LIFECYCLE_STATE_INCORRECT
    host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    assert host.call("MNG.KEY.FREEID", rcx=td.tdr).rax == WBCACHE_NOT_COMPLETE
    host.good("PHYMEM.CACHE.WB", 0)
    assert host.call("MNG.KEY.FREEID", rcx=td.tdr).rax == WBCACHE_NOT_COMPLETE
    host.good("PHYMEM.CACHE.WB", 1)
    host.good("MNG.KEY.FREEID", rcx=td.tdr)
    assert host.call("MNG.KEY.FREEID", rcx=td.tdr).rax == LIFECYCLE_STATE_INCORRECT
    assert host.call("PHYMEM.CACHE.WB", 0).rax == NO_HKID_READY_TO_WBCACHE
    host.created(td.hkid)


def test_a_write_back_is_interrupted_and_resumed(tdx_host: TdxHost) -> None:
    td = tdx_host.keyed()
    assert tdx_host.call("PHYMEM.CACHE.WB", rcx=2).rax == OPERAND_INVALID | RCX
    assert tdx_host.call("PHYMEM.CACHE.WB", rcx=1).rax == WBCACHE_RESUME_ERROR
    assert tdx_host.call("PHYMEM.CACHE.WB", rcx=0).rax == NO_HKID_READY_TO_WBCACHE
    tdx_host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    tdx_host.ok("cpu", interrupt=True)
    assert tdx_host.call("PHYMEM.CACHE.WB", rcx=0).rax == INTERRUPTED_RESUMABLE
    assert tdx_host.ok("cpu")["interrupt"] is False
    assert tdx_host.call("MNG.KEY.FREEID", rcx=td.tdr).rax == WBCACHE_NOT_COMPLETE
    tdx_host.good("PHYMEM.CACHE.WB", rcx=1)
    tdx_host.good("MNG.KEY.FREEID", rcx=td.tdr)
    assert tdx_host.call("PHYMEM.CACHE.WB", rcx=1).rax == WBCACHE_RESUME_ERROR


def test_a_keyid_that_is_flushed_during_a_cycle_waits_for_the_next(tdx_host: TdxHost) -> None:
    first, second = tdx_host.keyed(), tdx_host.keyed()
    tdx_host.good("MNG.VPFLUSHDONE", rcx=first.tdr)
    tdx_host.ok("cpu", interrupt=True)
    assert tdx_host.call("PHYMEM.CACHE.WB", rcx=0).rax == INTERRUPTED_RESUMABLE
    tdx_host.good("MNG.VPFLUSHDONE", rcx=second.tdr)
    tdx_host.good("PHYMEM.CACHE.WB", rcx=1)
    tdx_host.good("MNG.KEY.FREEID", rcx=first.tdr)
    assert tdx_host.call("MNG.KEY.FREEID", rcx=second.tdr).rax == WBCACHE_NOT_COMPLETE
    tdx_host.good("PHYMEM.CACHE.WB", rcx=0)
    tdx_host.good("MNG.KEY.FREEID", rcx=second.tdr)


def test_reclaiming_says_what_the_page_was(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(pages=(0,))
    large = td.aug(0x200000, level=1)
    page = td.pages[0]
    out = tdx_host.call("PHYMEM.PAGE.RECLAIM", rcx=page)
    assert (out.rax, out.rcx, out.rdx, out.r8) == (LIFECYCLE_STATE_INCORRECT, REG, td.tdr, 0)
    td.block()
    out = tdx_host.call("PHYMEM.PAGE.RECLAIM", rcx=large + PAGE)
    assert (out.rax, out.rcx, out.r8) == (OPERAND_INVALID | RCX, REG, 1)
    assert tdx_host.call("PHYMEM.PAGE.RECLAIM", rcx=td.tdr).rax == TD_ASSOCIATED_PAGES_EXIST
    kinds = {page: REG, td.vcpus[0]: TDVPR, td.tdcs[0]: TDCX, next(iter(td.tables.values())): EPT}
    for each, kind in kinds.items():
        out = tdx_host.good("PHYMEM.PAGE.RECLAIM", rcx=each)
        assert (out.rcx, out.rdx, out.r8) == (kind, td.tdr, 0)
    out = tdx_host.good("PHYMEM.PAGE.RECLAIM", rcx=large)
    assert (out.rcx, out.rdx, out.r8) == (REG, td.tdr, 1)
    out = tdx_host.call("PHYMEM.PAGE.RECLAIM", rcx=page)
    assert (out.rax, out.rcx) == (PAGE_METADATA_INCORRECT | RCX, 0)
    assert tdx_host.kind(large + PAGE) == NDA


def test_wbinvd_wants_a_free_page_and_ignores_the_keyid(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    page = td.pages[0]
    assert tdx_host.call("PHYMEM.PAGE.WBINVD", rcx=page | td.hkid << 46).rax == PAGE_METADATA_INCORRECT | RCX
    td.drop(0)
    tdx_host.good("PHYMEM.PAGE.WBINVD", rcx=page | td.hkid << 46)
    assert tdx_host.call("PHYMEM.PAGE.WBINVD", rcx=page + 8).rax == OPERAND_INVALID | RCX


def test_reclaimid_does_nothing(tdx_host: TdxHost) -> None:
    tdx_host.good("MNG.KEY.RECLAIMID", rcx=(1 << 64) - 1)
