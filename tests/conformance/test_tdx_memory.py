"""Private memory: tables, pages in and out, blocking, tracking, promotion, debug accesses."""

from __future__ import annotations

import pytest
from tdx_field import DEBUG, FIVE_LEVELS, Td, TdxHost, td_params
from tdx_names import (
    BLOCKED,
    EPT,
    EPT_ENTRY_NOT_PRESENT,
    EPT_ENTRY_STATE_INCORRECT,
    EPT_PAGE_NOT_FREE,
    EPT_WALK_FAILED,
    FREE,
    GPA_RANGE_ALREADY_BLOCKED,
    GPA_RANGE_NOT_BLOCKED,
    INTERRUPTED_RESTARTABLE,
    INVALID_PROMOTE,
    MAPPED,
    MIB2,
    NDA,
    NL_BLOCKED,
    NL_MAPPED,
    OP_STATE_INCORRECT,
    OPERAND_INVALID,
    PAGE,
    PAGE_METADATA_INCORRECT,
    PENDING,
    PENDING_BLOCKED,
    PREVIOUS_TLB_EPOCH_BUSY,
    R8,
    R9,
    RCX,
    RDX,
    REG,
    SEPT_TREE,
    SUCCESS,
    TD_NON_DEBUG,
    TLB_TRACKING_NOT_DONE,
)

ADDRESS = 0x000FFFFFFFFFF000
NOT_USED = 1 << 63
NULL = (1 << 64) - 1
SEPT_CALLS = (
    *("MEM.SEPT.ADD", "MEM.PAGE.AUG", "MEM.RANGE.BLOCK", "MEM.RANGE.UNBLOCK", "MEM.PAGE.REMOVE"),
    *("MEM.PAGE.RELOCATE", "MEM.PAGE.DEMOTE", "MEM.PAGE.PROMOTE", "MEM.SEPT.RD", "MEM.SEPT.REMOVE"),
)


@pytest.fixture
def td(tdx_host: TdxHost) -> Td:
    """A runnable TD with a measured page at 0."""
    return tdx_host.runnable()


# -- the operand GPA_LEVEL ---------------------------------------------------------------


@pytest.mark.parametrize("leaf", SEPT_CALLS)
def test_gpa_level_has_a_form(td: Td, leaf: str) -> None:
    for bad in (1 << 3, 1 << 11, 1 << 52, 1 << 63, 7, PAGE | 2, 1 << 47, 1 << 48, 1 << 51):
        out = td.host.call(leaf, rcx=bad, rdx=td.tdr, r8=td.host.alloc())
        assert (hex(bad), out.rax, out.rcx, out.rdx) == (hex(bad), OPERAND_INVALID | RCX, 0, 0)


@pytest.mark.parametrize(
    ("leaf", "levels"),
    [
        ("MEM.SEPT.ADD", {1, 2, 3}),
        ("MEM.SEPT.REMOVE", {1, 2, 3}),
        ("MEM.SEPT.RD", {0, 1, 2, 3}),
        ("MEM.PAGE.AUG", {0, 1}),
        ("MEM.RANGE.BLOCK", {0, 1, 2, 3}),
        ("MEM.RANGE.UNBLOCK", {0, 1, 2, 3}),
        ("MEM.PAGE.REMOVE", {0, 1, 2}),
        ("MEM.PAGE.RELOCATE", {0}),
        ("MEM.PAGE.DEMOTE", {1, 2}),
        ("MEM.PAGE.PROMOTE", {1, 2}),
    ],
)
def test_each_call_has_its_levels(td: Td, leaf: str, levels: set[int]) -> None:
    refused = {
        level for level in range(8) if td.mem(leaf, 0, level, r8=td.host.alloc()).rax == OPERAND_INVALID | RCX
    }
    assert refused == set(range(8)) - levels


def test_five_levels_have_one_more(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized(td_params(eptp=FIVE_LEVELS, flags=1))
    assert td.mem("MEM.SEPT.RD", 0, 4).rax == SUCCESS
    td.tables_for(0, top=4)
    assert [td.state(0, level) for level in range(5)] == [FREE, NL_MAPPED, NL_MAPPED, NL_MAPPED, NL_MAPPED]
    assert td.mem("MEM.SEPT.RD", 1 << 50, 4).rax == SUCCESS
    assert td.mem("MEM.SEPT.RD", 1 << 51, 4).rax == OPERAND_INVALID | RCX


# -- tables --------------------------------------------------------------------------------


def test_tables_grow_from_the_root(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    out = td.mem("MEM.SEPT.ADD", 0, 1, r8=tdx_host.alloc())
    assert (out.rax, out.level, out.entry_state) == (EPT_WALK_FAILED | RCX, 3, FREE)
    td.tables_for(0)
    assert [td.state(0, level) for level in (0, 1, 2, 3)] == [FREE, NL_MAPPED, NL_MAPPED, NL_MAPPED]
    assert all(tdx_host.kind(page) == EPT for page in td.tables.values())
    free = td.entry(0)
    assert (free.rcx, free.rdx) == (1 << 63, 0)


def test_a_table_that_is_there(td: Td) -> None:
    host = td.host
    out = td.mem("MEM.SEPT.ADD", 0, 1, r8=8)
    assert (out.rax, out.entry_state) == (EPT_ENTRY_STATE_INCORRECT | RCX, NL_MAPPED)
    page = host.alloc()
    out = host.call("MEM.SEPT.ADD", rcx=1, rdx=td.tdr | 1, r8=page)
    assert (out.rax, host.kind(page)) == (SUCCESS, NDA)
    out = host.call("MEM.SEPT.ADD", version=1, rcx=1, rdx=td.tdr | 1, r8=page, r9=NULL, r10=NULL, r11=NULL)
    assert (out.rax, out.r8, out.r9) == (SUCCESS, page | NOT_USED, NULL)
    out = host.call("MEM.SEPT.ADD", version=1, rcx=1, rdx=td.tdr, r8=NULL, r9=NULL, r10=NULL, r11=NULL)
    assert (out.rax, out.r8) == (SUCCESS, NULL)


def test_where_a_table_is_the_page_stays_what_it_was(td: Td) -> None:
    """Also if it is a table itself, of another TD. A fuzzer found an emulation that noted a new owner."""
    host = td.host
    other = host.initialized()
    other.tables_for(0)
    out = host.call("MEM.SEPT.ADD", rcx=1, rdx=td.tdr | 1, r8=other.tables[1, 0])
    assert out.rax == SUCCESS
    assert host.ok("audit")["leaks"] == []
    other.destroy()


def test_a_null_page_is_legal_in_version_one_where_a_table_is(td: Td) -> None:
    host = td.host
    assert td.mem("MEM.SEPT.ADD", 0, 1, r8=NULL).rax == OPERAND_INVALID | R8
    empty = {"rcx": 1 << 30 | 1, "rdx": td.tdr, "r8": NULL, "r9": NULL, "r10": NULL, "r11": NULL}
    td.tables_for(1 << 30, level=2)
    out = host.call("MEM.SEPT.ADD", version=1, **empty)
    assert (out.rax, out.entry_state) == (EPT_ENTRY_STATE_INCORRECT | RCX, FREE)
    page = host.alloc()
    out = host.call("MEM.SEPT.ADD", version=1, **empty | {"r8": page | NOT_USED})
    assert (out.rax, out.r8, host.kind(page)) == (SUCCESS, NULL, EPT)


def test_version_one_takes_no_page_for_an_l2_vm_that_is_not_there(td: Td) -> None:
    new, other = td.host.alloc(), td.host.alloc()
    where = {"rcx": MIB2 | 1, "rdx": td.tdr, "r8": new, "r10": NULL, "r11": NULL}
    assert td.host.call("MEM.SEPT.ADD", version=1, r9=other, **where).rax == OPERAND_INVALID | R9
    assert td.host.call("MEM.SEPT.ADD", version=1, r9=NULL, **where).rax == SUCCESS


def test_reserved_bits_beside_the_handle_of_sept_add(td: Td) -> None:
    for bit in (1, 5, 11, 52, 63):
        assert td.host.call("MEM.SEPT.ADD", rcx=1, rdx=td.tdr | 1 << bit, r8=8).rax == OPERAND_INVALID | RDX


def test_a_table_is_removed_when_it_is_empty(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.add(0)
    out = td.mem("MEM.SEPT.REMOVE", 0, 1)
    assert (out.rax, out.entry_state) == (EPT_PAGE_NOT_FREE | RCX, NL_MAPPED)
    tdx_host.good("MEM.PAGE.REMOVE", rcx=0, rdx=td.tdr)
    out = td.mem("MEM.SEPT.REMOVE", 0, 1)
    assert (out.rax, out.rcx, out.rdx) == (SUCCESS, td.tables[1, 0], 0)
    assert tdx_host.kind(out.rcx) == NDA
    assert td.state(0, 1) == FREE
    del td.tables[1, 0], td.pages[0]


def test_in_a_td_that_may_run_a_table_is_blocked_and_tracked_first(td: Td) -> None:
    td.tables_for(1 << 30)
    out = td.mem("MEM.SEPT.REMOVE", 1 << 30, 1)
    assert (out.rax, out.entry_state) == (GPA_RANGE_NOT_BLOCKED | RCX, NL_MAPPED)
    td.host.good("MEM.RANGE.BLOCK", rcx=1 << 30 | 1, rdx=td.tdr)
    assert td.state(1 << 30, 1) == NL_BLOCKED
    assert td.mem("MEM.SEPT.REMOVE", 1 << 30, 1).rax == TLB_TRACKING_NOT_DONE | RCX
    td.host.good("MEM.TRACK", rcx=td.tdr)
    assert td.host.good("MEM.SEPT.REMOVE", rcx=1 << 30 | 1, rdx=td.tdr).rcx == td.tables[1, 1 << 30]


def test_version_one_of_removing_a_table_says_there_are_no_l2_pages(td: Td) -> None:
    td.tables_for(1 << 30)
    td.host.good("MEM.RANGE.BLOCK", rcx=1 << 30 | 1, rdx=td.tdr)
    td.host.good("MEM.TRACK", rcx=td.tdr)
    out = td.host.good("MEM.SEPT.REMOVE", version=1, rcx=1 << 30 | 1, rdx=td.tdr)
    assert (out.r9, out.r10, out.r11) == (NULL, NULL, NULL)


# -- pages ----------------------------------------------------------------------------------


def test_a_page_that_was_added_is_mapped(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    page = td.add(0x3000)
    assert tdx_host.kind(page) == REG
    out = td.entry(0x3000)
    assert (out.entry_state, out.rcx & ADDRESS, out.rcx & 7) == (MAPPED, page, 7)
    again = td.mem("MEM.PAGE.ADD", 0x3000, r8=tdx_host.alloc(), r9=tdx_host.plain())
    assert (again.rax, again.entry_state, again.rcx & ADDRESS) == (
        EPT_ENTRY_STATE_INCORRECT | RCX,
        MAPPED,
        page,
    )


def test_pages_are_added_before_the_td_runs_only(td: Td) -> None:
    assert td.mem("MEM.PAGE.ADD", PAGE, r8=8, r9=8).rax == OP_STATE_INCORRECT


def test_the_source_comes_before_the_page(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.tables_for(0)
    page = tdx_host.alloc()
    for bad in (8, tdx_host.plain() | 16 << 46, int(tdx_host.info["te"]["seamrr"]["base"], 16)):
        assert td.mem("MEM.PAGE.ADD", 0, r8=8, r9=bad).rax == OPERAND_INVALID | R9
    source = tdx_host.buffer(b"s" * PAGE)
    assert td.mem("MEM.PAGE.ADD", 0, r8=8, r9=source).rax == OPERAND_INVALID | R8
    assert td.mem("MEM.PAGE.ADD", 0, r8=page, r9=source | 5 << 46).rax == SUCCESS


def test_a_page_that_was_augmented_is_pending(td: Td) -> None:
    page = td.aug(PAGE)
    out = td.entry(PAGE)
    assert (out.entry_state, out.rcx & ADDRESS, out.rcx & 7) == (PENDING, page, 0)
    out = td.mem("MEM.PAGE.AUG", PAGE, r8=td.host.alloc())
    assert (out.rax, out.entry_state) == (EPT_ENTRY_STATE_INCORRECT | RCX, PENDING)


def test_a_large_page_is_one_of_two_mib(td: Td) -> None:
    host = td.host
    page = td.aug(MIB2, level=1)
    out = td.entry(MIB2, 1)
    assert (out.entry_state, out.level, out.rcx & ADDRESS) == (PENDING, 1, page)
    for address in (page, page + PAGE, page + MIB2 - PAGE):
        out = host.good("PHYMEM.PAGE.RDMD", rcx=address)
        assert (out.rcx, out.rdx, out.r8) == (REG, td.tdr, 1)
    out = td.mem("MEM.PAGE.AUG", MIB2, r8=host.alloc())
    assert (out.rax, out.level, out.entry_state) == (EPT_WALK_FAILED | RCX, 1, PENDING)
    assert host.call("MNG.CREATE", rcx=page + PAGE, rdx=60).rax == PAGE_METADATA_INCORRECT | RCX
    assert td.drop(MIB2, level=1) == page
    assert host.kind(page + PAGE) == NDA


def test_a_large_page_wants_a_whole_free_range(td: Td) -> None:
    host = td.host
    range_ = host.alloc(MIB2, MIB2)
    assert td.mem("MEM.PAGE.AUG", MIB2, 1, r8=range_ + PAGE).rax == OPERAND_INVALID | R8
    other = host.created(40)
    used = range_ + 5 * PAGE
    host.good("MNG.CREATE", rcx=used, rdx=41)
    assert td.mem("MEM.PAGE.AUG", MIB2, 1, r8=range_).rax == PAGE_METADATA_INCORRECT | R8
    assert td.mem("MEM.PAGE.AUG", MIB2, 1, r8=host.plain(MIB2, MIB2)).rax == 0xC000010100000000 | R8
    assert host.kind(other.tdr) == 4


def test_in_initialized_a_page_is_removed_at_once(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    page = td.add(0)
    out = tdx_host.good("MEM.PAGE.REMOVE", rcx=0, rdx=td.tdr)
    assert (out.rcx, out.rdx) == (page, 0)
    assert (td.state(0), tdx_host.kind(page)) == (FREE, NDA)
    td.pages.clear()


def test_block_track_remove(td: Td) -> None:
    host, page = td.host, td.pages[0]
    out = td.mem("MEM.PAGE.REMOVE", 0)
    assert (out.rax, out.entry_state) == (GPA_RANGE_NOT_BLOCKED | RCX, MAPPED)
    host.good("MEM.RANGE.BLOCK", rcx=0, rdx=td.tdr)
    assert td.state(0) == BLOCKED
    assert td.mem("MEM.PAGE.REMOVE", 0).rax == TLB_TRACKING_NOT_DONE | RCX
    host.good("MEM.TRACK", rcx=td.tdr)
    assert host.good("MEM.PAGE.REMOVE", rcx=0, rdx=td.tdr).rcx == page
    td.pages.clear()


def test_blocking_what_is_blocked_is_a_success_that_says_so(td: Td) -> None:
    td.aug(PAGE)
    td.host.good("MEM.RANGE.BLOCK", rcx=PAGE, rdx=td.tdr)
    out = td.mem("MEM.RANGE.BLOCK", PAGE)
    assert (out.rax, out.entry_state) == (GPA_RANGE_ALREADY_BLOCKED | RCX, PENDING_BLOCKED)
    out = td.mem("MEM.RANGE.BLOCK", 2 * PAGE)
    assert (out.rax, out.entry_state) == (EPT_ENTRY_STATE_INCORRECT | RCX, FREE)


def test_unblocking_wants_tracking_and_names_the_tree(td: Td) -> None:
    host = td.host
    host.good("MEM.RANGE.BLOCK", rcx=0, rdx=td.tdr)
    assert td.mem("MEM.RANGE.UNBLOCK", 0).rax == TLB_TRACKING_NOT_DONE | SEPT_TREE
    host.good("MEM.TRACK", rcx=td.tdr)
    host.good("MEM.RANGE.UNBLOCK", rcx=0, rdx=td.tdr)
    assert td.state(0) == MAPPED
    assert td.mem("MEM.RANGE.UNBLOCK", 0).rax == EPT_ENTRY_STATE_INCORRECT | RCX


def test_a_blocked_table_hides_everything_below(td: Td) -> None:
    td.host.good("MEM.RANGE.BLOCK", rcx=1, rdx=td.tdr)
    out = td.mem("MEM.SEPT.RD", 0)
    assert (out.rax, out.level, out.entry_state) == (EPT_WALK_FAILED | RCX, 1, NL_BLOCKED)
    td.host.good("MEM.TRACK", rcx=td.tdr)
    td.host.good("MEM.RANGE.UNBLOCK", rcx=1, rdx=td.tdr)
    assert td.state(0) == MAPPED


def test_one_track_covers_any_number_of_blocks(td: Td) -> None:
    host = td.host
    pages = [td.aug(gpa) for gpa in (PAGE, 2 * PAGE, 3 * PAGE)]
    for gpa in (PAGE, 2 * PAGE, 3 * PAGE):
        host.good("MEM.RANGE.BLOCK", rcx=gpa, rdx=td.tdr)
    host.good("MEM.TRACK", rcx=td.tdr)
    assert [
        host.good("MEM.PAGE.REMOVE", rcx=gpa, rdx=td.tdr).rcx for gpa in (PAGE, 2 * PAGE, 3 * PAGE)
    ] == pages


def test_what_was_tracked_twice_is_as_good_as_tracked_once(td: Td) -> None:
    """The epoch of the blocked page is older than the one before now."""
    host, page = td.host, td.pages[0]
    host.good("MEM.RANGE.BLOCK", rcx=0, rdx=td.tdr)
    for _ in range(3):
        host.good("MEM.TRACK", rcx=td.tdr)
    td.stay()
    assert host.good("MEM.PAGE.REMOVE", 1, rcx=0, rdx=td.tdr).rcx == page, "whoever runs now came later"
    td.kick()


def test_a_guest_that_runs_holds_up_the_tracking(td: Td) -> None:
    host = td.host
    td.aug(PAGE)
    td.stay()
    host.good("MEM.RANGE.BLOCK", 1, rcx=PAGE, rdx=td.tdr)
    host.good("MEM.TRACK", 1, rcx=td.tdr)
    assert host.call("MEM.PAGE.REMOVE", 1, rcx=PAGE, rdx=td.tdr).rax == TLB_TRACKING_NOT_DONE | RCX
    assert host.call("MEM.TRACK", 1, rcx=td.tdr).rax == PREVIOUS_TLB_EPOCH_BUSY
    td.kick()
    host.good("MEM.PAGE.REMOVE", 1, rcx=PAGE, rdx=td.tdr)
    host.good("MEM.TRACK", 1, rcx=td.tdr)


def test_a_removed_page_can_come_back_elsewhere(td: Td) -> None:
    page = td.drop(0)
    td.host.good("PHYMEM.PAGE.WBINVD", rcx=page | td.hkid << 46)
    td.host.clean(page)
    td.host.good("MEM.PAGE.AUG", rcx=5 * PAGE, rdx=td.tdr, r8=page)
    assert td.entry(5 * PAGE).rcx & ADDRESS == page


# -- RELOCATE ---------------------------------------------------------------------------------


def test_relocate_moves_the_content(td: Td) -> None:
    host, old = td.host, td.pages[0]
    new = host.alloc()
    out = td.mem("MEM.PAGE.RELOCATE", 0, r8=new)
    assert (out.rax, out.entry_state) == (GPA_RANGE_NOT_BLOCKED | RCX, MAPPED)
    assert td.mem("MEM.PAGE.RELOCATE", 0, r8=old).rax == OPERAND_INVALID | R8
    host.good("MEM.RANGE.BLOCK", rcx=0, rdx=td.tdr)
    assert td.mem("MEM.PAGE.RELOCATE", 0, r8=8).rax == TLB_TRACKING_NOT_DONE | RCX
    host.good("MEM.TRACK", rcx=td.tdr)
    assert td.mem("MEM.PAGE.RELOCATE", 0, r8=8).rax == OPERAND_INVALID | R8
    assert host.good("MEM.PAGE.RELOCATE", rcx=0, rdx=td.tdr, r8=new).rcx == old
    assert (td.state(0), host.kind(old), host.kind(new)) == (MAPPED, NDA, REG)
    assert td.enter({"read": 0, "len": 4}).steps == [{"hex": "00" * 4}]
    td.pages[0] = new


def test_a_pending_page_is_relocated_and_stays_pending(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.aug(PAGE)
    new = tdx_host.alloc()
    td.pages[PAGE] = new
    tdx_host.good("MEM.PAGE.RELOCATE", rcx=PAGE, rdx=td.tdr, r8=new)
    out = td.entry(PAGE)
    assert (out.entry_state, out.rcx & ADDRESS) == (PENDING, new)


# -- PROMOTE and DEMOTE -------------------------------------------------------------------------


def whole(td: Td, accept: bool = False) -> int:
    """512 pages that fit together at 2 MiB."""
    host = td.host
    td.tables_for(MIB2)
    first = host.alloc(MIB2, MIB2)
    for offset in range(0, MIB2, PAGE):
        host.good("MEM.PAGE.AUG", rcx=MIB2 + offset, rdx=td.tdr, r8=first + offset)
    return first


def settle(td: Td, gpa: int, level: int) -> None:
    td.host.good("MEM.RANGE.BLOCK", rcx=gpa | level, rdx=td.tdr)
    td.host.good("MEM.TRACK", rcx=td.tdr)


def test_promote_and_demote_are_each_others_reverse(td: Td) -> None:
    host, first = td.host, whole(td)
    out = td.mem("MEM.PAGE.PROMOTE", MIB2, 1)
    assert (out.rax, out.entry_state) == (GPA_RANGE_NOT_BLOCKED | RCX, NL_MAPPED)
    settle(td, MIB2, 1)
    freed = host.good("MEM.PAGE.PROMOTE", rcx=MIB2 | 1, rdx=td.tdr).rcx
    assert (freed, host.kind(freed)) == (td.tables.pop((1, MIB2)), NDA)
    out = td.entry(MIB2, 1)
    assert (out.entry_state, out.rcx & ADDRESS) == (PENDING, first)
    assert host.good("PHYMEM.PAGE.RDMD", rcx=first + PAGE).r8 == 1
    settle(td, MIB2, 1)
    table = host.alloc()
    host.good("MEM.PAGE.DEMOTE", rcx=MIB2 | 1, rdx=td.tdr, r8=table)
    assert (td.state(MIB2, 1), host.kind(table)) == (NL_MAPPED, EPT)
    out = td.entry(MIB2 + 7 * PAGE)
    assert (out.entry_state, out.rcx & ADDRESS) == (PENDING, first + 7 * PAGE)
    assert host.good("PHYMEM.PAGE.RDMD", rcx=first + PAGE).r8 == 0


def test_promote_wants_512_pages_that_fit_together(td: Td) -> None:
    host = td.host
    whole(td)
    host.good("MEM.RANGE.BLOCK", rcx=MIB2 + PAGE, rdx=td.tdr)
    settle(td, MIB2, 1)
    out = td.mem("MEM.PAGE.PROMOTE", MIB2, 1)
    assert (out.rax, out.entry_state) == (INVALID_PROMOTE | RCX, NL_BLOCKED)
    host.good("MEM.RANGE.UNBLOCK", rcx=MIB2 | 1, rdx=td.tdr)
    host.good("MEM.RANGE.UNBLOCK", rcx=MIB2 + PAGE, rdx=td.tdr)
    settle(td, MIB2, 1)
    host.good("MEM.PAGE.PROMOTE", rcx=MIB2 | 1, rdx=td.tdr)


def test_demote_of_what_is_no_large_page(td: Td) -> None:
    td.tables_for(MIB2)
    for level in (1, 2):
        out = td.mem("MEM.PAGE.DEMOTE", 0, level, r8=8)
        assert (out.rax, out.entry_state) == (EPT_ENTRY_STATE_INCORRECT | RCX, NL_MAPPED)


@pytest.mark.parametrize("leaf", ["MEM.PAGE.PROMOTE", "MEM.PAGE.DEMOTE"])
def test_an_interrupt_restarts_a_change_of_size(td: Td, leaf: str) -> None:
    host = td.host
    if leaf == "MEM.PAGE.PROMOTE":
        whole(td)
    else:
        td.aug(MIB2, level=1)
    settle(td, MIB2, 1)
    host.ok("cpu", interrupt=True)
    page = host.alloc()
    out = host.call(leaf, rcx=MIB2 | 1, rdx=td.tdr, r8=page)
    assert (out.rax, out.rcx, out.rdx) == (INTERRUPTED_RESTARTABLE, MIB2 | 1, td.tdr)
    host.good(leaf, rcx=MIB2 | 1, rdx=td.tdr, r8=page)


# -- debug accesses, measurement ------------------------------------------------------------------


def test_memory_of_a_debug_td_is_read_and_written(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(td_params(attributes=DEBUG))
    out = tdx_host.good("MEM.WR", rcx=0x10, rdx=td.tdr, r8=0x1122334455667788)
    assert out.r8 == 0
    assert tdx_host.good("MEM.RD", rcx=0x10, rdx=td.tdr).r8 == 0x1122334455667788
    assert td.enter({"read": 0x10, "len": 8}).steps == [{"hex": "8877665544332211"}]
    assert tdx_host.call("MEM.RD", rcx=0x11, rdx=td.tdr).rax == OPERAND_INVALID | RCX
    assert tdx_host.call("MEM.RD", rcx=1 << 47, rdx=td.tdr).rax == OPERAND_INVALID | RCX
    out = tdx_host.call("MEM.RD", rcx=PAGE, rdx=td.tdr)
    assert (out.rax, out.entry_state) == (EPT_ENTRY_NOT_PRESENT | RCX, FREE)
    td.aug(PAGE)
    out = tdx_host.call("MEM.WR", rcx=PAGE, rdx=td.tdr)
    assert (out.rax, out.entry_state) == (EPT_ENTRY_NOT_PRESENT | RCX, PENDING)


def test_memory_of_another_td_is_not(td: Td) -> None:
    for leaf in ("MEM.RD", "MEM.WR"):
        out = td.host.call(leaf, rcx=1, rdx=td.tdr)
        assert (out.rax, out.rcx, out.rdx) == (TD_NON_DEBUG, 0, 0)


def test_attributes_of_l2_vms_are_for_debug_tds(tdx_host: TdxHost) -> None:
    plain = tdx_host.initialized()
    debug = tdx_host.initialized(td_params(attributes=DEBUG))
    assert tdx_host.call("MEM.SEPT.RD", rcx=3, rdx=plain.tdr | 1).rax == OPERAND_INVALID | RDX
    assert tdx_host.call("MEM.SEPT.RD", rcx=3, rdx=debug.tdr | 1).rax == SUCCESS


def test_extending_what_is_not_there(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized()
    td.add(0)
    assert tdx_host.call("MR.EXTEND", rcx=128, rdx=td.tdr).rax == OPERAND_INVALID | RCX
    out = tdx_host.call("MR.EXTEND", rcx=PAGE, rdx=td.tdr)
    assert (out.rax, out.entry_state) == (EPT_ENTRY_NOT_PRESENT | RCX, FREE)
    out = tdx_host.call("MR.EXTEND", rcx=1 << 40, rdx=td.tdr)
    assert (out.rax, out.level) == (EPT_ENTRY_NOT_PRESENT | RCX, 3)


# -- entry states x calls --------------------------------------------------------------------------

TAKES = {
    "MEM.SEPT.ADD": {"FREE"},
    "MEM.PAGE.AUG": {"FREE"},
    "MEM.RANGE.BLOCK": {"MAPPED", "PENDING"},
    "MEM.RANGE.UNBLOCK": {"BLOCKED", "PENDING_BLOCKED"},
    "MEM.PAGE.REMOVE": {"MAPPED", "BLOCKED", "PENDING", "PENDING_BLOCKED"},
    "MEM.PAGE.RELOCATE": {"MAPPED", "BLOCKED", "PENDING", "PENDING_BLOCKED"},
    "MEM.SEPT.RD": {"FREE", "MAPPED", "BLOCKED", "PENDING", "PENDING_BLOCKED"},
}
CODES = {
    "FREE": FREE,
    "MAPPED": MAPPED,
    "BLOCKED": BLOCKED,
    "PENDING": PENDING,
    "PENDING_BLOCKED": PENDING_BLOCKED,
}


def in_state(host: TdxHost, state: str) -> Td:
    """A TD, initialised, whose page at 0x5000 is in that state."""
    td = host.initialized()
    td.tables_for(0x5000)
    if state in ("MAPPED", "BLOCKED"):
        td.add(0x5000)
    elif state != "FREE":
        td.aug(0x5000)
    if "BLOCKED" in state:
        host.good("MEM.RANGE.BLOCK", rcx=0x5000, rdx=td.tdr)
    assert td.state(0x5000) == CODES[state]
    return td


@pytest.mark.parametrize("state", sorted(CODES))
@pytest.mark.parametrize("leaf", sorted(set(TAKES) - {"MEM.SEPT.ADD"}))
def test_which_entry_states_a_call_takes(tdx_host: TdxHost, leaf: str, state: str) -> None:
    td = in_state(tdx_host, state)
    out = td.mem(leaf, 0x5000, r8=tdx_host.alloc())
    if state in TAKES[leaf]:
        assert out.rax == SUCCESS
    elif leaf == "MEM.RANGE.BLOCK" and "BLOCKED" in state:
        assert (out.rax, out.entry_state) == (GPA_RANGE_ALREADY_BLOCKED | RCX, CODES[state])
    else:
        assert (out.rax, out.entry_state) == (EPT_ENTRY_STATE_INCORRECT | RCX, CODES[state])
