"""Locks that never wait: calls that stopped at their commit point, and what others meet (section 3.5)."""

from __future__ import annotations

from typing import Any

import pytest
from tdx_field import MIGRATABLE, Td, TdxHost, td_params
from tdx_names import (
    EXTERNAL_INTERRUPT,
    KET,
    KOT,
    LEAVES,
    MIB2,
    NO_HKID_READY_TO_WBCACHE,
    OP_STATE,
    OPERAND_BUSY,
    PAGE,
    PREVIOUS_TLB_EPOCH_BUSY,
    R8,
    RCX,
    RDX,
    SEPT_TREE,
    SUCCESS,
    SYS_BUSY,
    TD_EPOCH,
    TDR,
    VCPU_ASSOCIATED,
    VCPU_STATE_INCORRECT,
    WBCACHE,
)

GIB = 1 << 30
MIGRATION_DECRYPTION_KEY_NOT_SET, MIN_MIGS_NOT_CREATED = 0xC0000E0800000000, 0xC0000E1400000000
INDEX = 0xA020000200000002


@pytest.fixture
def td(tdx_host: TdxHost) -> Td:
    return tdx_host.runnable()


# -- park itself -----------------------------------------------------------------------------


def test_a_parked_call_has_changed_nothing_and_goes_on_when_it_is_resumed(tdx_host: TdxHost) -> None:
    page = tdx_host.alloc()
    request = tdx_host.park("MNG.CREATE", rcx=page, rdx=17)
    tdx_host.error("call", "bad_request", rax=LEAVES["SYS.RD"])
    tdx_host.error("enter", "bad_request", vcpu=page)
    assert tdx_host.ok("audit")["hosts"][0]["te"]["tdr"] == 0
    assert tdx_host.call("PHYMEM.PAGE.RDMD", 1, rcx=page).rax == OPERAND_BUSY | RCX
    out = tdx_host.resume(request)
    assert (out.rax, out.rcx, out.rdx) == (SUCCESS, page, 17)
    assert tdx_host.kind(page) == 4
    tdx_host.error("resume", "bad_value", call=request)


def test_a_call_that_ends_before_its_commit_point_is_not_parked(tdx_host: TdxHost) -> None:
    answer = tdx_host.ok("call", rax=LEAVES["MNG.CREATE"], rcx=8, rdx=17, park=True)
    assert int(answer["rax"], 16) == 0xC000010000000000 | RCX
    tdx_host.kind(tdx_host.alloc())


def test_a_restart_ends_parked_calls_and_stays(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    td.stay()
    tdx_host.park("MNG.CREATE", 1, rcx=tdx_host.alloc(), rdx=40)
    assert tdx_host.ok("reset", kind="boot") == {}
    tdx_host.boot()
    tdx_host.created(40)


@pytest.mark.parametrize("leaf", ["SYS.INIT", "SYS.CONFIG", "SYS.KEY.CONFIG"])
def test_the_global_lock(tdx_raw: TdxHost, leaf: str) -> None:
    host = tdx_raw
    registers: dict[str, int] = {}
    if leaf != "SYS.INIT":
        host.lps()
        pointers = host.buffer(host.buffer(host.tdmr(GIB), 512).to_bytes(8, "little"), 512)
        registers = {"rcx": pointers, "rdx": 1, "r8": 16}
    if leaf == "SYS.KEY.CONFIG":
        host.good("SYS.CONFIG", **registers)
        registers = {}
    request = host.park(leaf, **registers)
    for other in ("SYS.INIT", "SYS.LP.INIT", "SYS.CONFIG", "SYS.KEY.CONFIG", "SYS.UPDATE"):
        assert host.call(other, 1, rcx=1).rax == SYS_BUSY
    assert host.resume(request).rax == SUCCESS


def test_lp_init_shares_the_global_lock(tdx_raw: TdxHost) -> None:
    tdx_raw.good("SYS.INIT")
    request = tdx_raw.park("SYS.LP.INIT", 0)
    tdx_raw.good("SYS.LP.INIT", 1)
    assert tdx_raw.call("SYS.INIT", 1).rax == SYS_BUSY
    assert tdx_raw.resume(request).rax == SUCCESS


def test_one_lp_at_a_time_initialises_a_tdmr(tdx_raw: TdxHost) -> None:
    host = tdx_raw
    host.lps()
    assert host.configure(host.tdmr(GIB), host.tdmr(2 * GIB)).rax == SUCCESS
    host.good("SYS.KEY.CONFIG")
    request = host.park("SYS.TDMR.INIT", rcx=GIB)
    assert host.call("SYS.TDMR.INIT", 1, rcx=GIB).rax == OPERAND_BUSY | RCX
    host.good("SYS.TDMR.INIT", 1, rcx=2 * GIB)
    assert host.resume(request).rdx == 2 * GIB


def test_shutdown_while_another_lp_is_in_seam(td: Td) -> None:
    host = td.host
    request = host.park("MNG.RD", 1, rcx=td.tdr, rdx=0x9010000200000004)
    assert host.call("SYS.SHUTDOWN").rax == SYS_BUSY
    host.resume(request)
    td.stay(cpu=0)
    assert host.call("SYS.SHUTDOWN", 1).rax == SYS_BUSY
    td.kick()
    host.good("SYS.SHUTDOWN")


def test_a_large_page_on_its_way_holds_up_who_asks_for_a_part_of_it(td: Td) -> None:
    host = td.host
    td.tables_for(MIB2, 2)
    page = host.alloc(MIB2, MIB2)
    request = host.park("MEM.PAGE.AUG", 1, rcx=MIB2 | 1, rdx=td.tdr, r8=page)
    assert host.call("PHYMEM.PAGE.RDMD", rcx=page + 5 * PAGE).rax == OPERAND_BUSY | RCX
    assert host.kind(page + MIB2) == 0
    assert host.resume(request).rax == SUCCESS
    assert host.kind(page + 5 * PAGE) == 3


# -- KOT, KET, caches --------------------------------------------------------------------------


def test_creations_and_ends_of_tds_meet_at_the_key_ownership_table(tdx_host: TdxHost) -> None:
    host = tdx_host
    going, gone = host.keyed(), host.keyed()
    host.good("MNG.VPFLUSHDONE", rcx=gone.tdr)
    host.good("PHYMEM.CACHE.WB")
    request = host.park("MNG.CREATE", rcx=host.alloc(), rdx=40)
    assert host.call("MNG.CREATE", 1, rcx=host.alloc(), rdx=41).rax == OPERAND_BUSY | KOT
    assert host.call("MNG.VPFLUSHDONE", 1, rcx=going.tdr).rax == OPERAND_BUSY | KOT
    assert host.call("MNG.KEY.FREEID", 1, rcx=gone.tdr).rax == OPERAND_BUSY | KOT
    assert host.call("PHYMEM.CACHE.WB", 1).rax == OPERAND_BUSY | KOT
    assert host.resume(request).rax == SUCCESS
    host.good("MNG.KEY.FREEID", 1, rcx=gone.tdr)


def test_the_operand_page_is_looked_at_before_the_table(tdx_host: TdxHost) -> None:
    page = tdx_host.alloc()
    request = tdx_host.park("MNG.CREATE", rcx=page, rdx=40)
    assert tdx_host.call("MNG.CREATE", 1, rcx=page, rdx=41).rax == OPERAND_BUSY | RCX
    tdx_host.resume(request)


def test_one_key_is_programmed_at_a_time(tdx_host: TdxHost) -> None:
    one, two = tdx_host.created(), tdx_host.created()
    request = tdx_host.park("MNG.KEY.CONFIG", rcx=one.tdr)
    assert tdx_host.call("MNG.KEY.CONFIG", 1, rcx=two.tdr).rax == OPERAND_BUSY | KET
    assert tdx_host.call("MNG.KEY.CONFIG", 1, rcx=one.tdr).rax == OPERAND_BUSY | RCX
    tdx_host.resume(request)
    tdx_host.good("MNG.KEY.CONFIG", 1, rcx=two.tdr)


def test_one_lp_of_a_package_writes_back(tdx_host: TdxHost) -> None:
    td = tdx_host.keyed()
    assert tdx_host.call("PHYMEM.CACHE.WB").rax == NO_HKID_READY_TO_WBCACHE
    tdx_host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    request = tdx_host.park("PHYMEM.CACHE.WB")
    assert tdx_host.call("PHYMEM.CACHE.WB", 1).rax == OPERAND_BUSY | WBCACHE
    assert tdx_host.call("MNG.CREATE", 1, rcx=tdx_host.alloc(), rdx=50).rax == OPERAND_BUSY | KOT
    assert tdx_host.resume(request).rax == SUCCESS
    tdx_host.good("MNG.KEY.FREEID", rcx=td.tdr)


def test_packages_write_back_side_by_side(tdx: Any) -> None:
    host = tdx(profile="small-2p").boot()
    td = host.keyed()
    host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    request = host.park("PHYMEM.CACHE.WB", 0)
    host.good("PHYMEM.CACHE.WB", 1)
    assert host.resume(request).rax == SUCCESS
    host.good("MNG.KEY.FREEID", rcx=td.tdr)


# -- the TD ----------------------------------------------------------------------------------------


def test_while_a_vcpu_is_inside(tdx_host: TdxHost) -> None:
    """A running VCPU holds its TDVPR and its TDR shared, and nothing else."""
    td = tdx_host.runnable(vcpus=2)
    host, (inside, other) = tdx_host, td.vcpus
    td.aug(PAGE)
    td.stay()
    page = host.alloc()
    assert host.call("MEM.PAGE.ADD", 1, rcx=PAGE, rdx=td.tdr, r8=page, r9=page).rax == OPERAND_BUSY | RDX
    assert host.call("MR.EXTEND", 1, rcx=0, rdx=td.tdr).rax == OPERAND_BUSY | RDX
    assert host.call("MNG.ADDCX", 1, rcx=page, rdx=td.tdr).rax == OPERAND_BUSY | RDX
    for leaf in ("MR.FINALIZE", "MNG.INIT", "MNG.VPFLUSHDONE", "MNG.KEY.FREEID", "MNG.KEY.CONFIG"):
        assert host.call(leaf, 1, rcx=td.tdr).rax == OPERAND_BUSY | RCX
    for leaf in ("VP.FLUSH", "VP.INIT"):
        assert host.call(leaf, 1, rcx=inside).rax == OPERAND_BUSY | RCX
    assert host.call("VP.ADDCX", 1, rcx=page, rdx=inside).rax == OPERAND_BUSY | RDX
    assert host.call("VP.ENTER", 1, rcx=inside).rax == VCPU_STATE_INCORRECT
    assert host.call("VP.RD", 1, rcx=inside, rdx=INDEX).rax == VCPU_STATE_INCORRECT
    host.good("MEM.PAGE.AUG", 1, rcx=2 * PAGE, rdx=td.tdr, r8=page)
    host.good("MEM.RANGE.BLOCK", 1, rcx=2 * PAGE, rdx=td.tdr)
    host.good("MEM.TRACK", 1, rcx=td.tdr)
    host.good("MNG.RD", 1, rcx=td.tdr, rdx=0x9010000200000004)
    assert host.call("VP.ENTER", 1, rcx=other).rax == VCPU_ASSOCIATED
    td.kick()
    host.good("VP.FLUSH", 0, rcx=inside)
    assert td.enter(cpu=1).rax == EXTERNAL_INTERRUPT


def test_a_td_alone_and_a_td_shared(td: Td) -> None:
    host = td.host
    request = host.park("MNG.RD", 1, rcx=td.tdr, rdx=0x9010000200000004)
    assert host.call("MNG.VPFLUSHDONE", rcx=td.tdr).rax == OPERAND_BUSY | RCX
    assert host.call("PHYMEM.PAGE.RDMD", rcx=td.tdr).rax == SUCCESS
    assert host.resume(request).r8 == 2
    request = host.park("MNG.ADDCX", 1, rcx=host.alloc(), rdx=host.keyed(pages=1).tdr)
    assert host.call("MNG.RD", rcx=td.tdr, rdx=0x9010000200000004).rax == SUCCESS
    assert host.resume(request).rax == SUCCESS


def test_a_page_of_a_locked_td_is_not_reclaimed(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    td.block()
    request = tdx_host.park("PHYMEM.PAGE.RECLAIM", 1, rcx=td.pages[0])
    assert tdx_host.call("PHYMEM.PAGE.RECLAIM", rcx=td.pages[0]).rax == OPERAND_BUSY | RCX
    assert tdx_host.call("PHYMEM.PAGE.RECLAIM", rcx=td.tdr).rax == OPERAND_BUSY | RCX
    tdx_host.good("PHYMEM.PAGE.RECLAIM", rcx=td.tdcs[0])
    assert tdx_host.resume(request).rax == SUCCESS


def test_the_owner_of_a_page_may_be_busy(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.add(0)
    td.tables_for(PAGE)
    source = tdx_host.plain()
    request = tdx_host.park("MEM.PAGE.ADD", 1, rcx=PAGE, rdx=td.tdr, r8=tdx_host.alloc(), r9=source)
    out = tdx_host.call("PHYMEM.PAGE.RECLAIM", rcx=td.pages[0])
    assert (out.rax, out.rcx) == (OPERAND_BUSY | TDR, 3)
    assert tdx_host.resume(request).rax == SUCCESS


def test_the_op_state_while_migration_changes_it(tdx: Any) -> None:
    host = tdx(profile="migration").boot()
    td = host.runnable()
    request = host.park("MIG.STREAM.CREATE", 1, rcx=host.alloc(), rdx=td.tdr)
    assert host.call("MNG.RD", rcx=td.tdr, rdx=0x9010000200000004).rax == OPERAND_BUSY | OP_STATE
    assert host.call("MEM.TRACK", rcx=td.tdr).rax == OPERAND_BUSY | OP_STATE
    assert td.enter().rax == OPERAND_BUSY | OP_STATE
    assert host.call("MR.FINALIZE", rcx=td.tdr).rax == OPERAND_BUSY | RCX
    assert host.resume(request).rax == SUCCESS
    assert td.enter().rax == EXTERNAL_INTERRUPT


def test_two_exports_of_one_td_collide_and_end_where_the_key_would_be_needed(tdx: Any) -> None:
    host = tdx(profile="migration").boot()
    td = host.runnable(td_params(attributes=MIGRATABLE))
    export = {"rcx": td.tdr, "rdx": 1 << 52, "r8": 128 << 52 | host.plain(), "r9": host.plain()}
    assert host.call("EXPORT.STATE.IMMUTABLE", **export).rax == MIN_MIGS_NOT_CREATED
    for _ in range(2):
        host.good("MIG.STREAM.CREATE", rcx=host.alloc(), rdx=td.tdr)
    request = host.park("EXPORT.STATE.IMMUTABLE", 1, **export)
    assert host.call("EXPORT.STATE.IMMUTABLE", **export).rax == OPERAND_BUSY | OP_STATE
    assert host.resume(request).rax == MIGRATION_DECRYPTION_KEY_NOT_SET


# -- Secure EPT ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", ["MEM.RANGE.BLOCK", "MEM.RANGE.UNBLOCK", "MEM.SEPT.REMOVE"])
def test_who_wants_the_whole_tree_collides_with_everybody(td: Td, leaf: str) -> None:
    host = td.host
    td.tables_for(MIB2)
    where = {"rcx": 0 if leaf != "MEM.SEPT.REMOVE" else MIB2 | 1, "rdx": td.tdr}
    if leaf != "MEM.RANGE.BLOCK":
        host.good("MEM.RANGE.BLOCK", **where)
        host.good("MEM.TRACK", rcx=td.tdr)
    request = host.park(leaf, 1, **where)
    for other in ("MEM.SEPT.RD", "MEM.PAGE.REMOVE", "MEM.RANGE.BLOCK", "MEM.PAGE.AUG", "MEM.SEPT.REMOVE"):
        level = 1 if other == "MEM.SEPT.REMOVE" else 0
        assert host.call(other, rcx=4 << 30 | level, rdx=td.tdr, r8=8).rax == OPERAND_BUSY | SEPT_TREE
    host.good("MEM.TRACK", rcx=td.tdr)
    assert td.enter().rax == EXTERNAL_INTERRUPT
    assert host.resume(request).rax == SUCCESS


def test_who_shares_the_tree_collides_at_the_same_entry_only(td: Td) -> None:
    host = td.host
    td.tables_for(0)
    page = host.alloc()
    request = host.park("MEM.PAGE.AUG", 1, rcx=PAGE, rdx=td.tdr, r8=page)
    out = host.call("MEM.SEPT.RD", rcx=PAGE, rdx=td.tdr)
    assert (out.rax, out.level) == (OPERAND_BUSY | RCX, 0)
    host.good("MEM.SEPT.RD", rcx=2 * PAGE, rdx=td.tdr)
    assert host.call("MEM.RANGE.BLOCK", rcx=2 * PAGE, rdx=td.tdr).rax == OPERAND_BUSY | SEPT_TREE
    assert host.call("MEM.PAGE.AUG", rcx=2 * PAGE, rdx=td.tdr, r8=page).rax == OPERAND_BUSY | R8
    assert host.resume(request).rax == SUCCESS


def test_neighbours_of_a_page_that_is_being_given_keep_a_large_one_away(td: Td) -> None:
    host = td.host
    td.tables_for(MIB2, level=2)
    area = host.alloc(MIB2, MIB2)
    request = host.park("MNG.CREATE", 1, rcx=area + PAGE, rdx=50)
    assert host.call("MEM.PAGE.AUG", rcx=MIB2 | 1, rdx=td.tdr, r8=area).rax == OPERAND_BUSY | R8
    assert host.resume(request).rax == SUCCESS
    assert host.call("MEM.PAGE.AUG", rcx=MIB2 | 1, rdx=td.tdr, r8=area).rax == 0xC000030000000000 | R8


def test_promotion_locks_all_entries_of_the_table(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.tables_for(0)
    host, first = tdx_host, tdx_host.alloc(MIB2, MIB2)
    for offset in range(0, MIB2, PAGE):
        host.good("MEM.PAGE.AUG", rcx=offset, rdx=td.tdr, r8=first + offset)
    request = host.park("MEM.SEPT.RD", 1, rcx=7 * PAGE, rdx=td.tdr)
    assert td.mem("MEM.PAGE.PROMOTE", 0, 1).rax == OPERAND_BUSY | RCX
    host.resume(request)
    request = host.park("MEM.PAGE.PROMOTE", 1, rcx=1, rdx=td.tdr)
    assert td.mem("MEM.SEPT.RD", 9 * PAGE).rax == OPERAND_BUSY | RCX
    assert host.resume(request).rax == SUCCESS


# -- the epoch -------------------------------------------------------------------------------------


def test_track_and_enter_meet_at_the_epoch(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    host = tdx_host
    assert host.ok("enter", vcpu=td.vcpus[0], cpu=0, park=True) == {"parked": True}
    request = host.keyboard.transcript[-1][0]["id"]
    assert host.call("MEM.TRACK", 1, rcx=td.tdr).rax == OPERAND_BUSY | TD_EPOCH
    assert host.resume(request).rax == EXTERNAL_INTERRUPT
    request = host.park("MEM.TRACK", 1, rcx=td.tdr)
    assert td.enter().rax == OPERAND_BUSY | TD_EPOCH
    assert host.call("MEM.TRACK", rcx=td.tdr).rax == OPERAND_BUSY | TD_EPOCH
    assert host.resume(request).rax == SUCCESS


def test_a_parked_entry_has_its_vcpu_and_lets_the_op_state_go_when_it_is_in(tdx: Any) -> None:
    host = tdx(profile="migration").boot()
    td = host.runnable()
    host.ok("enter", vcpu=td.vcpus[0], park=True)
    request = host.keyboard.transcript[-1][0]["id"]
    assert host.call("VP.ENTER", 1, rcx=td.vcpus[0]).rax == VCPU_ASSOCIATED
    assert host.call("MIG.STREAM.CREATE", 1, rcx=host.alloc(), rdx=td.tdr).rax == OPERAND_BUSY | OP_STATE
    assert host.resume(request).rax == EXTERNAL_INTERRUPT
    td.stay()
    host.good("MIG.STREAM.CREATE", 1, rcx=host.alloc(), rdx=td.tdr)
    td.kick()


def test_two_vcpus_of_two_epochs(tdx: Any) -> None:
    host = tdx(cpus=3).boot()
    td = host.initialized(td_params())
    td.vcpu(0)
    td.vcpu(1)
    td.add(0)
    host.good("MR.FINALIZE", rcx=td.tdr)
    td.stay(vcpu=0, cpu=0)
    host.good("MEM.TRACK", 2, rcx=td.tdr)
    td.stay(vcpu=1, cpu=1)
    assert host.call("MEM.TRACK", 2, rcx=td.tdr).rax == PREVIOUS_TLB_EPOCH_BUSY
    td.kick(0)
    host.good("MEM.TRACK", 2, rcx=td.tdr)
    assert host.call("MEM.TRACK", 2, rcx=td.tdr).rax == PREVIOUS_TLB_EPOCH_BUSY
    td.kick(1)
    host.good("MEM.TRACK", 2, rcx=td.tdr)
