"""The module comes up and goes down: the dispatcher, TDH.SYS.*, every order of checks that is known."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from tdx_field import GLOBAL_HKID, TdxHost
from tdx_names import (
    ADDR_RANGE_ERROR,
    FIELD_ID_INCORRECT,
    FIRST_FIELD_ID,
    GIB,
    INVALID_PAMT,
    INVALID_RESERVED,
    INVALID_TDMR,
    KEY_CONFIGURED,
    LEAVES,
    MIB,
    NDA,
    NON_ORDERED_RESERVED,
    NON_ORDERED_TDMR,
    OPERAND_INVALID,
    PAGE,
    PAMT_OUTSIDE_CMRS,
    PAMT_OVERLAP,
    R8,
    R9,
    RAX,
    RCX,
    RDX,
    RSVD,
    SUCCESS,
    SYS_CONFIG_NOT_PENDING,
    SYS_INIT_NOT_PENDING,
    SYS_INVALID_HANDOFF,
    SYS_KEY_CONFIG_NOT_PENDING,
    SYS_LP_INIT_DONE,
    SYS_LP_INIT_NOT_DONE,
    SYS_LP_INIT_NOT_PENDING,
    SYS_NOT_READY,
    SYS_SHUTDOWN,
    SYS_STATE_INCORRECT,
    TDMR_ALREADY_INITIALIZED,
    TDMR_OUTSIDE_CMRS,
)

BEFORE_READY = {
    "SYS.INFO", "SYS.RD", "SYS.RDALL", "SYS.INIT", "SYS.LP.INIT", "SYS.CONFIG", "SYS.KEY.CONFIG",
    "SYS.LP.SHUTDOWN", "SYS.UPDATE",
}  # fmt: skip
MIGRATION = {name for name, leaf in LEAVES.items() if leaf in (48, 49) or leaf >= 64}
VERSIONED = {"MEM.PAGE.PROMOTE", "MEM.SEPT.ADD", "MEM.SEPT.REMOVE", "MNG.RD", "VP.RD"}
NULL_FIELD = (1 << 64) - 1


# -- the dispatcher ----------------------------------------------------------------


@pytest.mark.parametrize("leaf", sorted(set(LEAVES) - BEFORE_READY), ids=str)
def test_before_ready_only_a_few_leaves_are_served(tdx_raw: TdxHost, leaf: str) -> None:
    assert tdx_raw.call(leaf).rax == SYS_NOT_READY


def test_an_unknown_leaf_answers_by_the_state_of_the_platform(tdx_raw: TdxHost) -> None:
    for rax in (42, 46, 51, 63, 97, 0xFFFF):
        assert int(tdx_raw.ok("call", rax=rax)["rax"], 16) == SYS_NOT_READY
    tdx_raw.boot(gibs=(1,))
    for rax in (42, 46, 51, 63, 97, 0xFFFF):
        assert int(tdx_raw.ok("call", rax=rax)["rax"], 16) == OPERAND_INVALID | RAX


@pytest.mark.parametrize("bit", [24, 31, 32, 47, 62])
def test_reserved_bits_of_rax_come_first(tdx_raw: TdxHost, bit: int) -> None:
    for leaf in (LEAVES["SYS.INIT"], LEAVES["MNG.CREATE"], 42):
        assert int(tdx_raw.ok("call", rax=leaf | 1 << bit)["rax"], 16) == OPERAND_INVALID | RAX


def test_only_some_leaves_have_versions(tdx_raw: TdxHost) -> None:
    for leaf in sorted(LEAVES):
        expected = SYS_NOT_READY if leaf in VERSIONED else OPERAND_INVALID | RAX
        assert tdx_raw.call(leaf, version=1).rax == expected, leaf


@pytest.mark.parametrize("leaf", sorted(VERSIONED))
def test_those_with_versions_take_one_and_refuse_two(tdx_host: TdxHost, leaf: str) -> None:
    td = tdx_host.runnable()
    which = td.vcpus[0] if leaf == "VP.RD" else td.tdr
    assert tdx_host.call(leaf, version=2, rcx=which, rdx=which).rax == OPERAND_INVALID | RAX
    assert tdx_host.call(leaf, version=1, rcx=which, rdx=which).rax != OPERAND_INVALID | RAX


def test_leaves_of_migration_are_unknown_in_other_profiles(tdx_host: TdxHost) -> None:
    for leaf in sorted(MIGRATION):
        assert tdx_host.call(leaf).rax == OPERAND_INVALID | RAX, leaf


# -- SYS.INIT, SYS.LP.INIT ------------------------------------------------------------


def test_init_looks_at_its_attributes_before_the_state(tdx_raw: TdxHost) -> None:
    assert tdx_raw.call("SYS.INIT", rcx=1).rax == OPERAND_INVALID | RCX
    tdx_raw.good("SYS.INIT")
    assert tdx_raw.call("SYS.INIT", rcx=1).rax == OPERAND_INVALID | RCX
    assert tdx_raw.call("SYS.INIT").rax == SYS_INIT_NOT_PENDING


def test_lp_init_once_on_each_lp(tdx_raw: TdxHost) -> None:
    assert tdx_raw.call("SYS.LP.INIT").rax == SYS_LP_INIT_NOT_PENDING
    tdx_raw.good("SYS.INIT")
    tdx_raw.good("SYS.LP.INIT", 1)
    assert tdx_raw.call("SYS.LP.INIT", 1).rax == SYS_LP_INIT_DONE
    tdx_raw.good("SYS.LP.INIT", 0)


def test_lp_init_after_config_is_too_late(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    assert tdx_raw.configure(tdx_raw.tdmr(GIB)).rax == SUCCESS
    assert tdx_raw.call("SYS.LP.INIT").rax == SYS_LP_INIT_NOT_PENDING


# -- SYS.INFO, SYS.RD, SYS.RDALL ---------------------------------------------------------


def test_what_describes_the_module_needs_lp_init_on_this_lp(tdx_raw: TdxHost) -> None:
    tdx_raw.good("SYS.INIT")
    tdx_raw.good("SYS.LP.INIT", 0)
    for leaf in ("SYS.INFO", "SYS.RD", "SYS.RDALL"):
        assert tdx_raw.call(leaf, 1).rax == SYS_LP_INIT_NOT_DONE
    assert tdx_raw.call("SYS.RD", 0, rdx=0x0800000100000004).r8 == 1


def test_info_fills_both_buffers(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    buffer, cmrs = tdx_raw.plain(1024, 1024), tdx_raw.plain(512, 512)
    out = tdx_raw.good("SYS.INFO", rcx=buffer, rdx=1024, r8=cmrs, r9=32)
    assert (out.rdx, out.r9) == (1024, 32)
    info = tdx_raw.read(buffer, 1024)
    assert struct.unpack_from("<I", info, 4)[0] == 0x8086
    assert struct.unpack_from("<3H", info, 32) == (64, 16, 16)
    assert struct.unpack_from("<H2xH", info, 48) == (24576, 24576)
    assert struct.unpack_from("<Q", info, 64 + 24)[0] == 3
    told = tdx_raw.info["te"]["cmrs"]
    pairs = [struct.unpack_from("<QQ", tdx_raw.read(cmrs, 512), 16 * i) for i in range(32)]
    assert [(hex(base), hex(size)) for base, size in pairs if size] == [(c["base"], c["size"]) for c in told]


def test_the_order_of_infos_checks(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    buffer, cmrs = tdx_raw.plain(1024, 1024), tdx_raw.plain(512, 512)
    wrong = {"rcx": buffer + 8, "rdx": 1023, "r8": cmrs + 16, "r9": 31}
    right = {"rcx": buffer, "rdx": 1024, "r8": cmrs, "r9": 32}
    for name, operand in (("rcx", RCX), ("rdx", RDX), ("r8", R8), ("r9", R9)):
        assert tdx_raw.call("SYS.INFO", **wrong).rax == OPERAND_INVALID | operand
        wrong[name] = right[name]
    assert tdx_raw.call("SYS.INFO", **wrong).rax == SUCCESS


def test_a_buffer_may_carry_a_shared_keyid_but_no_private_one_and_not_reach_into_seamrr(
    tdx_raw: TdxHost,
) -> None:
    tdx_raw.lps()
    buffer, cmrs = tdx_raw.plain(1024, 1024), tdx_raw.plain(512, 512)
    tdx_raw.good("SYS.INFO", rcx=buffer | 15 << 46, rdx=1024, r8=cmrs, r9=32)
    for bad in (buffer | 16 << 46, int(tdx_raw.info["te"]["seamrr"]["base"], 16), 1 << 52, buffer | 1 << 53):
        assert tdx_raw.call("SYS.INFO", rcx=bad, rdx=1024, r8=cmrs, r9=32).rax == OPERAND_INVALID | RCX


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0x0800000100000004, 1),
        (0x0800000100000003, 5),
        (0x0800000100000005, 1),
        (0x9100000100000008, 64),
        (0x9100000100000009, 16),
        (0x9100000100000010, 16),
        (0x9800000100000100, 24576),
        (0x9800000100000200, 24576),
        (0x1900000300000003, 3),
        (0x9900000100000004, 12),
    ],
)
def test_metadata_that_linux_reads(tdx_raw: TdxHost, field: int, value: int) -> None:
    tdx_raw.lps()
    assert tdx_raw.good("SYS.RD", rdx=field).r8 == value


def test_features_hide_migration_and_service_tds(tdx: Any) -> None:
    features = {}
    for profile in ("small", "migration", "linux"):
        host = tdx(profile=profile)
        host.lps()
        features[profile] = host.good("SYS.RD", rdx=0x0A00000300000008).r8
    assert features["small"] & 0b101 == 0
    assert features["migration"] & 0b101 == 0b101
    assert features["small"] >> 18 & 1
    assert features["linux"] == features["small"] | 1 << 20


def test_reading_all_sys_fields_one_after_the_other(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    first = tdx_raw.call("SYS.RD", rdx=NULL_FIELD)
    assert first.rax == FIRST_FIELD_ID
    seen, at = [], first.rdx
    while at != NULL_FIELD:
        out = tdx_raw.good("SYS.RD", rdx=at)
        seen.append(at)
        at = out.rdx
    assert len(seen) == len(set(seen))
    assert 0x0A00000300000008 in seen


def test_an_unknown_sys_field_and_one_in_a_wrong_form(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    assert tdx_raw.call("SYS.RD", rdx=0x0800000100000099).rax == FIELD_ID_INCORRECT
    assert tdx_raw.call("SYS.RD", rdx=0x0800000100000004 | 1 << 34).rax == FIELD_ID_INCORRECT
    assert tdx_raw.call("SYS.RD", rdx=0x0800000100000004 | 1 << 38).rax == FIELD_ID_INCORRECT
    ignored = 0x0800000100000004 ^ 3 << 32 | 1 << 50 | 1 << 51 | 1 << 52
    assert tdx_raw.call("SYS.RD", rdx=ignored).r8 == 1


def test_rdall_lists_what_rd_reads(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    buffer = tdx_raw.plain()
    assert tdx_raw.call("SYS.RDALL", rdx=buffer + 8, r8=NULL_FIELD).rax == OPERAND_INVALID | RDX
    assert tdx_raw.good("SYS.RDALL", rdx=buffer, r8=NULL_FIELD).r8 == NULL_FIELD
    data = tdx_raw.read(buffer, PAGE)
    size, sequences = struct.unpack_from("<HH", data)
    at = 8
    for _ in range(sequences):
        header = struct.unpack_from("<Q", data, at)[0]
        count = ((header >> 34 & 0xF) + 1) * ((header >> 38 & 0x1FF) + 1)
        field = header & ~(0x1FFF << 34)
        assert tdx_raw.good("SYS.RD", rdx=field).r8 == struct.unpack_from("<Q", data, at + 8)[0]
        at += 8 * (count + 1)
    assert at == size


# -- SYS.CONFIG ---------------------------------------------------------------------------


def test_config_needs_every_lp(tdx_raw: TdxHost) -> None:
    tdmr = tdx_raw.tdmr(GIB)
    assert tdx_raw.configure(tdmr).rax == SYS_CONFIG_NOT_PENDING
    tdx_raw.good("SYS.INIT")
    tdx_raw.good("SYS.LP.INIT", 0)
    assert tdx_raw.configure(tdmr).rax == SYS_CONFIG_NOT_PENDING
    tdx_raw.good("SYS.LP.INIT", 1)
    assert tdx_raw.configure(tdmr).rax == SUCCESS
    assert tdx_raw.configure(tdmr).rax == SYS_CONFIG_NOT_PENDING


def test_the_order_of_configs_operands(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    pointers = tdx_raw.buffer(struct.pack("<Q", tdx_raw.buffer(tdx_raw.tdmr(GIB), 512)), 512)
    wrong = {"rcx": pointers + 8, "rdx": 65, "r8": 15}
    assert tdx_raw.call("SYS.CONFIG", **wrong).rax == OPERAND_INVALID | RCX
    assert tdx_raw.call("SYS.CONFIG", **wrong | {"rcx": pointers}).rax == OPERAND_INVALID | RDX
    assert tdx_raw.call("SYS.CONFIG", **wrong | {"rcx": pointers, "rdx": 0}).rax == OPERAND_INVALID | RDX
    for hkid in (0, 15, 64, 1 << 16 | 17):
        assert tdx_raw.call("SYS.CONFIG", rcx=pointers, rdx=1, r8=hkid).rax == OPERAND_INVALID | R8
    tdx_raw.good("SYS.CONFIG", rcx=pointers, rdx=1, r8=GLOBAL_HKID)


def test_a_pointer_to_a_tdmr_is_an_operand_too(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    info = tdx_raw.buffer(tdx_raw.tdmr(GIB), 512)
    for bad in (info + 8, info | 20 << 46, 1 << 52):
        pointers = tdx_raw.buffer(struct.pack("<Q", bad), 512)
        assert tdx_raw.call("SYS.CONFIG", rcx=pointers, rdx=1, r8=16).rax == OPERAND_INVALID | RCX


def patched(tdmr: bytes, **words: int) -> bytes:
    """TDMR_INFO with other words: `w<index>`."""
    data = bytearray(tdmr)
    for name, value in words.items():
        struct.pack_into("<Q", data, 8 * int(name[1:]), value)
    return bytes(data)


def test_what_is_wrong_with_one_tdmr(tdx_raw: TdxHost) -> None:
    host = tdx_raw
    host.lps()
    good = host.tdmr(GIB)
    word = [value[0] for value in struct.iter_unpack("<Q", good)]
    cases = [
        (patched(good, w0=(1 << 64) - GIB, w1=2 * GIB), INVALID_TDMR),
        (patched(good, w0=GIB + MIB), INVALID_TDMR),
        (patched(good, w1=0), INVALID_TDMR),
        (patched(good, w1=GIB + PAGE), INVALID_TDMR),
        (patched(good, w0=GIB | 1 << 46), INVALID_TDMR),
        (patched(good, w2=word[2] + 8), INVALID_PAMT | 2 << 8),
        (patched(good, w3=0), INVALID_PAMT | 2 << 8),
        (patched(good, w5=PAGE), INVALID_PAMT | 1 << 8),
        (patched(good, w7=word[7] - PAGE), INVALID_PAMT),
        (patched(good, w4=word[6]), PAMT_OVERLAP | 0 << 8),
        (patched(good, w2=word[4]), PAMT_OVERLAP | 1 << 8),
        (patched(good, w6=GIB), PAMT_OVERLAP | 0 << 8),
        (patched(good, w2=0), PAMT_OUTSIDE_CMRS | 2 << 8),
        (patched(good, w8=8, w9=PAGE), INVALID_RESERVED),
        (patched(good, w8=0, w9=GIB + PAGE), INVALID_RESERVED),
        (patched(good, w8=2 * PAGE, w9=PAGE, w10=PAGE, w11=PAGE), NON_ORDERED_RESERVED | 1 << 8),
        (patched(good, w8=0, w9=2 * PAGE, w10=PAGE, w11=PAGE), NON_ORDERED_RESERVED | 1 << 8),
        (patched(good, w10=PAGE, w11=PAGE), NON_ORDERED_RESERVED),
        (patched(good, w8=(1 << 64) - PAGE, w9=2 * PAGE), INVALID_RESERVED),
    ]
    for tdmr, status in cases:
        assert hex(host.configure(tdmr).rax) == hex(status)
    assert host.configure(patched(good, w0=4 * GIB)).rax == TDMR_OUTSIDE_CMRS
    assert host.configure(good).rax == SUCCESS


def test_tdmrs_are_ordered_and_apart(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    one, two = tdx_raw.tdmr(GIB), tdx_raw.tdmr(2 * GIB)
    assert tdx_raw.configure(two, one).rax == NON_ORDERED_TDMR | 1
    assert tdx_raw.configure(one, one).rax == NON_ORDERED_TDMR | 1
    wide = patched(tdx_raw.tdmr(GIB, 2 * GIB), w1=2 * GIB)
    assert tdx_raw.configure(wide, two).rax == NON_ORDERED_TDMR | 1
    areas = struct.unpack_from("<8Q", one)
    same = patched(two, w2=areas[2])
    assert tdx_raw.configure(one, same).rax == PAMT_OVERLAP | 1 | 2 << 8
    inside = patched(one, w2=2 * GIB)
    assert tdx_raw.configure(inside, two).rax == PAMT_OVERLAP | 0 | 2 << 8 | 1 << 16
    assert tdx_raw.configure(one, two).rax == SUCCESS


def test_reserved_areas_cover_what_is_not_convertible(tdx_raw: TdxHost) -> None:
    host = tdx_raw
    host.lps()
    seamrr = host.info["te"]["seamrr"]
    base, size = int(seamrr["base"], 16), int(seamrr["size"], 16)
    areas = [host.alloc(length, above=GIB) for length in (PAGE, 8192, 4 << 20)]
    pamt = list(zip(areas, (PAGE, 8192, 4 << 20), strict=True))
    tdmr = patched(host.tdmr(0, pamt=pamt), w8=0, w9=MIB, w10=base, w11=size)
    assert host.configure(patched(tdmr, w9=MIB - PAGE)).rax == TDMR_OUTSIDE_CMRS
    assert host.configure(tdmr).rax == SUCCESS
    for cpu in host.packages():
        host.good("SYS.KEY.CONFIG", cpu)
    assert host.call("PHYMEM.PAGE.RDMD", rcx=MIB).rax == ADDR_RANGE_ERROR | RCX
    assert host.good("SYS.TDMR.INIT", rcx=0).rdx == GIB
    assert (host.kind(0), host.kind(MIB), host.kind(base)) == (RSVD, NDA, RSVD)


def test_the_keyid_of_a_failed_config_stays_reserved(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    assert tdx_raw.configure(patched(tdx_raw.tdmr(GIB), w1=0), hkid=20).rax == INVALID_TDMR
    assert tdx_raw.configure(tdx_raw.tdmr(GIB)).rax == SUCCESS
    for cpu in tdx_raw.packages():
        tdx_raw.good("SYS.KEY.CONFIG", cpu)
    tdx_raw.good("SYS.TDMR.INIT", rcx=GIB)
    page = tdx_raw.alloc()
    assert tdx_raw.call("MNG.CREATE", rcx=page, rdx=20).rax == 0xC000082000000000
    tdx_raw.good("MNG.CREATE", rcx=page, rdx=21)


# -- SYS.KEY.CONFIG, SYS.TDMR.INIT ---------------------------------------------------------


def test_the_last_package_makes_the_platform_ready(tdx: Any) -> None:
    host = tdx(profile="small-2p")
    assert host.call("SYS.KEY.CONFIG").rax == SYS_KEY_CONFIG_NOT_PENDING
    host.lps()
    assert host.configure(host.tdmr(GIB)).rax == SUCCESS
    host.good("SYS.KEY.CONFIG", 1)
    assert host.call("SYS.KEY.CONFIG", 1).rax == KEY_CONFIGURED
    assert host.call("SYS.TDMR.INIT", rcx=GIB).rax == SYS_NOT_READY
    host.good("SYS.KEY.CONFIG", 0)
    assert host.call("SYS.KEY.CONFIG", 0).rax == SYS_KEY_CONFIG_NOT_PENDING
    host.good("SYS.TDMR.INIT", rcx=GIB)


def test_one_gib_is_initialised_with_each_call(tdx_raw: TdxHost) -> None:
    host = tdx_raw
    host.lps()
    assert host.configure(host.tdmr(GIB, 2 * GIB)).rax == SUCCESS
    host.good("SYS.KEY.CONFIG")
    page = host.alloc(above=2 * GIB)
    assert host.call("MNG.CREATE", rcx=page, rdx=17).rax == ADDR_RANGE_ERROR | RCX
    assert host.good("SYS.TDMR.INIT", rcx=GIB).rdx == 2 * GIB
    assert host.kind(GIB) == NDA
    assert host.call("PHYMEM.PAGE.RDMD", rcx=page).rax == ADDR_RANGE_ERROR | RCX
    assert host.call("SYS.TDMR.INIT", rcx=2 * GIB).rax == OPERAND_INVALID | RCX
    assert host.good("SYS.TDMR.INIT", rcx=GIB).rdx == 3 * GIB
    host.good("MNG.CREATE", rcx=page, rdx=17)
    out = host.call("SYS.TDMR.INIT", rcx=GIB)
    assert (out.rax, out.rdx) == (TDMR_ALREADY_INITIALIZED, 0)


@pytest.mark.parametrize("base", [GIB + PAGE, 3 * GIB, GIB | 1 << 46, 1 << 52])
def test_tdmr_init_wants_the_base_of_a_tdmr(tdx_host: TdxHost, base: int) -> None:
    assert tdx_host.call("SYS.TDMR.INIT", rcx=base).rax == OPERAND_INVALID | RCX


# -- the end of the module ------------------------------------------------------------------


def test_after_shutdown_only_lp_shutdown_is_served(tdx_host: TdxHost) -> None:
    assert tdx_host.call("SYS.SHUTDOWN", rcx=1).rax == OPERAND_INVALID | RCX
    tdx_host.good("SYS.SHUTDOWN")
    for leaf in ("SYS.INIT", "SYS.RD", "MNG.CREATE", "SYS.SHUTDOWN"):
        assert tdx_host.call(leaf).rax == SYS_SHUTDOWN
    assert int(tdx_host.ok("call", rax=42)["rax"], 16) == SYS_SHUTDOWN
    assert tdx_host.call("MNG.CREATE", version=1).rax == OPERAND_INVALID | RAX
    tdx_host.good("SYS.LP.SHUTDOWN")


def test_update_finds_no_handoff_data(tdx_raw: TdxHost) -> None:
    assert tdx_raw.call("SYS.UPDATE").rax == SYS_STATE_INCORRECT
    tdx_raw.good("SYS.INIT")
    assert tdx_raw.call("SYS.UPDATE").rax == SYS_STATE_INCORRECT
    for cpu in (0, 1):
        tdx_raw.good("SYS.LP.INIT", cpu)
    assert tdx_raw.call("SYS.UPDATE").rax == SYS_INVALID_HANDOFF
    tdx_raw.good("SYS.LP.SHUTDOWN")
