"""What every leaf checks in the same way: handles, pages, locks, the state block, the walk. Section 3.3.

Each rule is one test that goes through all leaves with an operand of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tdx_field import DEBUG, GIB, Td, TdxHost, td_params
from tdx_names import (
    ADDR_RANGE_ERROR,
    BY_RDX,
    BY_VCPU,
    EPT_WALK_FAILED,
    GPA_RANGE_NOT_BLOCKED,
    LEGAL,
    MIB2,
    OP_STATE,
    OPERAND_BUSY,
    OPERAND_INVALID,
    PAGE,
    PAGE_METADATA_INCORRECT,
    RCX,
    RDX,
    SEPT_TREE,
    TD_FATAL,
    TD_KEYS_NOT_CONFIGURED,
    TDCX_NUM_INCORRECT,
    TDR,
    TLB_TRACKING_NOT_DONE,
)

R8 = 8
MAX_MIGS_NUM_EXCEEDED = 0xC0000E0600000000
WITH_STATE = {line.split()[0] for line in LEGAL.strip().splitlines()}
TD_LEAVES = sorted((WITH_STATE - BY_VCPU) | {"MNG.KEY.CONFIG", "MNG.VPFLUSHDONE", "MNG.KEY.FREEID"})
VCPU_LEAVES = sorted(BY_VCPU | {"VP.FLUSH"})
TDR_ALONE = {  # these own the TDR, so nothing inside the TD has to be locked
    *("MNG.ADDCX", "MNG.INIT", "MNG.KEY.CONFIG", "MNG.VPFLUSHDONE", "MNG.KEY.FREEID", "MEM.PAGE.ADD"),
    *("MR.EXTEND", "MR.FINALIZE", "EXPORT.PAUSE", "IMPORT.END", "IMPORT.COMMIT", "IMPORT.TRACK"),
    *("IMPORT.STATE.IMMUTABLE", "IMPORT.STATE.TD", "IMPORT.ABORT"),
}
# Leaves that walk to an entry of level `level`; those that want the whole tree.
WALKS = {
    **dict.fromkeys(("MEM.SEPT.RD", "MEM.PAGE.AUG", "MEM.PAGE.REMOVE", "MEM.PAGE.RELOCATE"), 0),
    **dict.fromkeys(("MEM.RANGE.BLOCK", "MEM.RANGE.UNBLOCK"), 0),
    **dict.fromkeys(("MEM.SEPT.ADD", "MEM.SEPT.REMOVE", "MEM.PAGE.DEMOTE", "MEM.PAGE.PROMOTE"), 1),
}
WANT_THE_TREE = {"MEM.RANGE.BLOCK", "MEM.RANGE.UNBLOCK", "MEM.SEPT.REMOVE"}


@pytest.fixture
def host(tdx: Any) -> TdxHost:
    booted: TdxHost = tdx(profile="migration").boot()
    return booted


def handle_of(leaf: str) -> tuple[str, int]:
    """The register that names the TD or the VCPU, and its operand id."""
    return ("rdx", RDX) if leaf in BY_RDX else ("rcx", RCX)


def ask(host: TdxHost, leaf: str, handle: int, cpu: int = 0, **more: int) -> int:
    """The leaf with this handle: its status."""
    register, _ = handle_of(leaf)
    return host.call(leaf, cpu, **more | {register: handle}).rax


def wrong_forms(address: int) -> Iterator[int]:
    yield from (address | 8, address | 1 << 46, address | 1 << 51)


# -- handles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", [*TD_LEAVES, *VCPU_LEAVES])
def test_a_handle_is_a_page_of_its_type_in_an_initialised_gib(host: TdxHost, leaf: str) -> None:
    _, operand = handle_of(leaf)
    page = host.alloc()
    for bad in wrong_forms(page):
        assert ask(host, leaf, bad) == OPERAND_INVALID | operand
    for outside in (host.plain(), 3 * GIB):
        assert ask(host, leaf, outside) == ADDR_RANGE_ERROR | operand
    assert ask(host, leaf, page) == PAGE_METADATA_INCORRECT | operand


@pytest.fixture
def locked(host: TdxHost) -> tuple[Td, int, int]:
    """A TD whose TDR somebody owns, with a VCPU that is not initialised and one that is."""
    td = host.initialized()
    ready, raw = td.vcpu(), td.created_vcpu(pages=2)
    td.tables_for(0)
    host.park("MEM.PAGE.ADD", 1, rcx=0, rdx=td.tdr, r8=host.alloc(), r9=host.plain())
    return td, ready, raw


def test_a_tdr_that_somebody_owns(host: TdxHost, locked: tuple[Td, int, int]) -> None:
    td, ready, raw = locked
    for leaf in TD_LEAVES:
        assert (leaf, ask(host, leaf, td.tdr)) == (leaf, OPERAND_BUSY | handle_of(leaf)[1])
    for leaf in VCPU_LEAVES:
        handle = raw if leaf == "VP.ADDCX" else ready
        assert (leaf, ask(host, leaf, handle)) == (leaf, OPERAND_BUSY | TDR)


def test_a_tdvpr_that_somebody_owns(host: TdxHost) -> None:
    td = host.initialized()
    tdvpr = td.created_vcpu(pages=0)
    host.park("VP.ADDCX", 1, rcx=host.alloc(), rdx=tdvpr)
    for leaf in VCPU_LEAVES:
        assert (leaf, ask(host, leaf, tdvpr)) == (leaf, OPERAND_BUSY | handle_of(leaf)[1])


# -- the state block ------------------------------------------------------------------------------


def test_an_op_state_that_somebody_owns(host: TdxHost) -> None:
    """Those that own the TDR cannot get it meanwhile; the others find the op state locked."""
    td = host.initialized()
    ready, raw = td.vcpu(), td.created_vcpu(pages=0)
    host.park("MIG.STREAM.CREATE", 1, rcx=host.alloc(), rdx=td.tdr)
    for leaf in sorted(WITH_STATE):
        handle = (raw if leaf == "VP.ADDCX" else ready) if leaf in BY_VCPU else td.tdr
        expected = handle_of(leaf)[1] if leaf in TDR_ALONE else OP_STATE
        assert (leaf, ask(host, leaf, handle)) == (leaf, OPERAND_BUSY | expected)


def test_a_dead_tds_vcpus(host: TdxHost) -> None:
    td = host.initialized()
    td.vcpu()
    raw = td.created_vcpu(pages=0)
    page = td.add(0)
    host.good("MR.FINALIZE", rcx=td.tdr)
    host.write(page, b"oops")
    assert td.enter({"touch": 0}).rax >> 61 & 1
    for leaf in sorted(BY_VCPU):
        assert (leaf, ask(host, leaf, raw)) == (leaf, TD_FATAL)


def test_vcpus_of_a_td_that_lost_its_key(host: TdxHost) -> None:
    td = host.initialized()
    tdvpr = td.created_vcpu()
    host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    for leaf in VCPU_LEAVES:
        assert (leaf, ask(host, leaf, tdvpr)) == (leaf, TD_KEYS_NOT_CONFIGURED)


def test_a_vcpu_that_lacks_pages(host: TdxHost) -> None:
    td = host.initialized()
    td.vcpu()
    tdvpr = td.created_vcpu(pages=4)
    host.good("MR.FINALIZE", rcx=td.tdr)
    for leaf in ("VP.ENTER", "VP.FLUSH", "VP.RD", "VP.WR"):
        assert (leaf, ask(host, leaf, tdvpr)) == (leaf, TDCX_NUM_INCORRECT)
    other = host.initialized().created_vcpu(pages=4)
    assert ask(host, "VP.INIT", other) == TDCX_NUM_INCORRECT


# -- pages that are given -------------------------------------------------------------------------

Give = Callable[[TdxHost], tuple[str, dict[str, int]]]


def _keyed(host: TdxHost) -> dict[str, int]:
    return {"rdx": host.keyed(pages=0).tdr}


def _vcpu(host: TdxHost) -> dict[str, int]:
    return {"rdx": host.initialized().created_vcpu(pages=0)}


def _entry(host: TdxHost, level: int = 0, aug: bool = False) -> dict[str, int]:
    td = host.initialized()
    td.tables_for(0, level + 1)
    if aug:
        td.aug(0, level)
    return {"rcx": level, "rdx": td.tdr, "r9": host.plain()}


GIVEN: dict[str, tuple[str, Callable[[TdxHost], dict[str, int]]]] = {
    "MNG.CREATE": ("rcx", lambda host: {"rdx": host.hkid()}),
    "MNG.ADDCX": ("rcx", _keyed),
    "VP.CREATE": ("rcx", lambda host: {"rdx": host.initialized().tdr}),
    "VP.ADDCX": ("rcx", _vcpu),
    "MEM.SEPT.ADD": ("r8", lambda host: _entry(host, 1)),
    "MEM.PAGE.ADD": ("r8", _entry),
    "MEM.PAGE.AUG": ("r8", _entry),
    "MEM.PAGE.RELOCATE": ("r8", lambda host: _entry(host, aug=True)),
    "MEM.PAGE.DEMOTE": ("r8", lambda host: _entry(host, 1, aug=True)),
    "MIG.STREAM.CREATE": ("rcx", lambda host: {"rdx": host.initialized().tdr}),
}


@pytest.mark.parametrize("leaf", GIVEN)
def test_a_page_that_is_given_is_free_and_in_an_initialised_gib(host: TdxHost, leaf: str) -> None:
    register, arrange = GIVEN[leaf]
    operand = {"rcx": RCX, "r8": R8}[register]
    registers = arrange(host)
    page, used = host.alloc(), host.created().tdr
    for bad in wrong_forms(page):
        assert host.call(leaf, **registers | {register: bad}).rax == OPERAND_INVALID | operand
    for outside in (host.plain(), 3 * GIB):
        assert host.call(leaf, **registers | {register: outside}).rax == ADDR_RANGE_ERROR | operand
    assert host.call(leaf, **registers | {register: used}).rax == PAGE_METADATA_INCORRECT | operand
    host.park("MNG.KEY.CONFIG", 1, rcx=used)
    assert host.call(leaf, **registers | {register: used}).rax == OPERAND_BUSY | operand
    host.good(leaf, **registers | {register: page})


@pytest.mark.parametrize("leaf", ["PHYMEM.PAGE.RDMD", "PHYMEM.PAGE.RECLAIM", "PHYMEM.PAGE.WBINVD"])
def test_a_page_that_is_asked_about(host: TdxHost, leaf: str) -> None:
    td = host.keyed(pages=0)
    form = (td.tdr | 8, td.tdr | 1 << 51) if leaf == "PHYMEM.PAGE.WBINVD" else wrong_forms(td.tdr)
    for bad in form:
        if leaf != "PHYMEM.PAGE.WBINVD" or bad & 8:  # WBINVD takes an address with a KeyID
            assert host.call(leaf, rcx=bad).rax == OPERAND_INVALID | RCX
    for outside in (host.plain(), 3 * GIB):
        assert host.call(leaf, rcx=outside).rax == ADDR_RANGE_ERROR | RCX
    host.park("MNG.ADDCX", 1, rcx=host.alloc(), rdx=td.tdr)
    assert host.call(leaf, rcx=td.tdr).rax == OPERAND_BUSY | RCX


# -- the walk -------------------------------------------------------------------------------------


@pytest.fixture
def debug(host: TdxHost) -> Td:
    """A debug TD, initialised, with a page at 0 and tables for its neighbours."""
    td = host.initialized(td_params(attributes=DEBUG))
    td.add(0)
    return td


def test_tables_that_are_not_there(host: TdxHost, debug: Td) -> None:
    far = 5 << 39
    for leaf, level in WALKS.items():
        out = host.call(leaf, rcx=far | level, rdx=debug.tdr, r8=8)
        assert (leaf, out.rax, out.level) == (leaf, EPT_WALK_FAILED | RCX, 3)
    out = host.call("MEM.PAGE.ADD", rcx=far, rdx=debug.tdr, r8=8, r9=8)
    assert (out.rax, out.level) == (EPT_WALK_FAILED | RCX, 3)


def test_a_tree_that_somebody_owns(host: TdxHost, debug: Td) -> None:
    host.park("MEM.RANGE.BLOCK", 1, rcx=0, rdx=debug.tdr)
    for leaf, level in WALKS.items():
        out = host.call(leaf, rcx=4 << 30 | level, rdx=debug.tdr, r8=8)
        assert (leaf, out.rax) == (leaf, OPERAND_BUSY | SEPT_TREE)
    for leaf in ("MEM.RD", "MEM.WR"):
        assert (leaf, host.call(leaf, rcx=0, rdx=debug.tdr).rax) == (leaf, OPERAND_BUSY | SEPT_TREE)


def test_an_entry_that_somebody_holds(host: TdxHost, debug: Td) -> None:
    """Who holds an entry shares the tree, so those that want all of it do not get that far."""
    for level, gpa in ((0, 0), (1, 0)):
        request = host.park("MEM.SEPT.RD", 1, rcx=gpa | level, rdx=debug.tdr)
        for leaf, mine in WALKS.items():
            if mine != level:
                continue
            out = host.call(leaf, rcx=gpa | level, rdx=debug.tdr, r8=8)
            expected = SEPT_TREE if leaf in WANT_THE_TREE else RCX
            assert (leaf, out.rax) == (leaf, OPERAND_BUSY | expected)
        for leaf in ("MEM.RD", "MEM.WR") if level == 0 else ():
            assert (leaf, host.call(leaf, rcx=0, rdx=debug.tdr).rax) == (leaf, OPERAND_BUSY | RCX)
        host.resume(request)


def test_debug_accesses_want_a_private_address_of_eight_bytes(host: TdxHost, debug: Td) -> None:
    for leaf in ("MEM.RD", "MEM.WR"):
        for bad in (4, 1 << 47, 1 << 52):
            assert host.call(leaf, rcx=bad, rdx=debug.tdr).rax == OPERAND_INVALID | RCX


def test_changing_the_size_of_a_page_wants_blocking_and_tracking(tdx: Any) -> None:
    host = tdx().boot()
    td = host.runnable()
    td.aug(MIB2, level=1)
    assert td.mem("MEM.PAGE.DEMOTE", MIB2, 1, r8=8).rax == GPA_RANGE_NOT_BLOCKED | RCX
    host.good("MEM.RANGE.BLOCK", rcx=MIB2 | 1, rdx=td.tdr)
    assert td.mem("MEM.PAGE.DEMOTE", MIB2, 1, r8=8).rax == TLB_TRACKING_NOT_DONE | RCX
    host.good("MEM.RANGE.BLOCK", rcx=1, rdx=td.tdr)
    assert td.mem("MEM.PAGE.PROMOTE", 0, 1).rax == TLB_TRACKING_NOT_DONE | RCX


# -- migration streams ----------------------------------------------------------------------------


def test_there_are_at_most_512_streams(host: TdxHost) -> None:
    td = host.initialized()
    first = host.alloc(512 * PAGE)
    for number in range(512):
        host.good("MIG.STREAM.CREATE", rcx=first + number * PAGE, rdx=td.tdr)
    assert host.call("MIG.STREAM.CREATE", rcx=host.alloc(), rdx=td.tdr).rax == MAX_MIGS_NUM_EXCEEDED


def test_who_changes_a_migration_is_alone(host: TdxHost) -> None:
    """The op state is owned before, so nobody ever finds the migration itself locked."""
    td = host.initialized()
    host.park("MIG.STREAM.CREATE", 1, rcx=host.alloc(), rdx=td.tdr)
    assert host.call("MIG.STREAM.CREATE", rcx=host.alloc(), rdx=td.tdr).rax == OPERAND_BUSY | OP_STATE
