"""Every call that asks for the op state, in every op state; and where the calls of migration lead."""

from __future__ import annotations

from typing import Any

import pytest
from tdx_field import MIGRATABLE, Td, TdxHost, td_params
from tdx_names import (
    BY_RDX,
    BY_VCPU,
    EXTERNAL_INTERRUPT,
    FREE,
    GPA_RANGE_NOT_BLOCKED,
    INVALID_MBMD,
    LEGAL,
    MAPPED,
    NDA,
    OP_STATE_INCORRECT,
    OP_STATES,
    OPERAND_INVALID,
    PAGE,
    PAGE_METADATA_INCORRECT,
    R8,
    R10,
    RCX,
    SUCCESS,
    TD_FATAL,
    TD_KEYS_NOT_CONFIGURED,
    TD_NOT_MIGRATABLE,
    TDCS_NOT_ALLOCATED,
    TDCX,
)

ROWS = {line.split()[0]: line.split()[1] for line in LEGAL.strip().splitlines()}
OP_STATE = 0x9010000200000004
REMOVED = 5


@pytest.fixture
def host(tdx: Any) -> TdxHost:
    booted: TdxHost = tdx(profile="migration").boot()
    return booted


def in_state(host: TdxHost, op_state: str) -> Td:
    """A TD in that op state, with a VCPU and a page where it can have them."""
    if op_state == "UNINITIALIZED":
        return host.keyed()
    td = host.initialized(td_params(attributes=1))
    td.vcpu()
    td.created_vcpu()
    td.add(0)
    if op_state == "RUNNABLE":
        host.good("MR.FINALIZE", rcx=td.tdr)
    elif op_state != "INITIALIZED":
        host.stage(td, op_state)
    return td


def ask(host: TdxHost, td: Td, leaf: str) -> int:
    """The call, with its handle and otherwise with nothing that could make it succeed."""
    if leaf in BY_VCPU:
        handle = td.vcpus[1 if leaf in ("VP.ADDCX", "VP.INIT", "IMPORT.STATE.VP") else 0]
        return host.call(leaf, **{"rdx" if leaf == "VP.ADDCX" else "rcx": handle}).rax
    if leaf in BY_RDX:
        return host.call(leaf, rcx=8, rdx=td.tdr, r8=8, r9=8).rax
    if leaf == "SERVTD.BIND":
        return host.call(leaf, rcx=td.tdr, rdx=8).rax
    return host.call(leaf, rcx=td.tdr, rdx=1 << 34, r8=0, r10=1).rax


@pytest.mark.parametrize("op_state", OP_STATES)
def test_where_each_call_is_legal(host: TdxHost, op_state: str) -> None:
    column = OP_STATES.index(op_state)
    for leaf, cells in ROWS.items():
        td = (
            in_state(host, op_state)
            if leaf in ("MR.FINALIZE", "EXPORT.PAUSE", "IMPORT.END", "IMPORT.COMMIT")
            else None
        )
        td = td or shared_td(host, op_state)
        if not td.vcpus and leaf in BY_VCPU:
            continue
        status = ask(host, td, leaf)
        if (
            leaf == "MNG.ADDCX"
        ):  # it has a check of its own, behind the page operand, from the seventh page on
            assert status == OPERAND_INVALID | RCX
            continue
        assert (leaf, status == OP_STATE_INCORRECT) == (leaf, cells[column] != "x"), hex(status)


_shared: dict[int, tuple[TdxHost, str, Td]] = {}


def shared_td(host: TdxHost, op_state: str) -> Td:
    """One TD for all calls that leave it in its state."""
    known = _shared.get(0)
    if known is None or known[0] is not host or known[1] != op_state:
        _shared[0] = (host, op_state, in_state(host, op_state))
    return _shared[0][2]


# -- what comes before the op state -------------------------------------------------------------

FIRST = sorted(leaf for leaf in ROWS if leaf not in BY_VCPU and leaf != "MNG.ADDCX")


@pytest.mark.parametrize("leaf", FIRST)
def test_the_state_block_in_order(host: TdxHost, leaf: str) -> None:
    td = host.created()
    assert ask(host, td, leaf) == TD_KEYS_NOT_CONFIGURED
    for cpu in host.packages():
        host.good("MNG.KEY.CONFIG", cpu, rcx=td.tdr)
    assert ask(host, td, leaf) == TDCS_NOT_ALLOCATED
    for _ in range(6):
        host.good("MNG.ADDCX", rcx=host.alloc(), rdx=td.tdr)
    assert (ask(host, td, leaf) == OP_STATE_INCORRECT) == (ROWS[leaf][0] != "x")


@pytest.mark.parametrize("leaf", FIRST)
def test_the_handle_comes_first(host: TdxHost, leaf: str) -> None:
    page = host.alloc()
    operand = 2 if leaf in BY_RDX else 1
    assert ask(host, Td(host, page + 8, 0), leaf) == OPERAND_INVALID | operand
    assert ask(host, Td(host, page, 0), leaf) == PAGE_METADATA_INCORRECT | operand


def test_a_dead_td_answers_so_and_can_be_torn_down(host: TdxHost) -> None:
    td = host.runnable()
    host.write(td.pages[0], b"oops")
    assert td.enter({"touch": 0}).rax >> 61 & 1
    for leaf in FIRST:
        assert (leaf, ask(host, td, leaf)) == (leaf, TD_FATAL)
    assert host.call("MNG.ADDCX", rcx=8, rdx=td.tdr).rax == TD_FATAL
    assert host.call("MNG.KEY.CONFIG", rcx=td.tdr).rax == TD_FATAL
    assert td.enter().rax == TD_FATAL
    td.destroy()


# -- migration ------------------------------------------------------------------------------------


def test_a_migratable_td(host: TdxHost) -> None:
    host.initialized(td_params(attributes=MIGRATABLE))
    td = host.keyed()
    buffer = host.buffer(td_params(attributes=MIGRATABLE | 1))
    assert host.call("MNG.INIT", rcx=td.tdr, rdx=buffer).rax == OPERAND_INVALID | 64


def test_streams_are_donated_pages(host: TdxHost) -> None:
    td = host.runnable()
    page = host.alloc()
    host.good("MIG.STREAM.CREATE", rcx=page, rdx=td.tdr)
    assert host.kind(page) == TDCX
    assert host.call("MIG.STREAM.CREATE", rcx=page, rdx=td.tdr).rax == PAGE_METADATA_INCORRECT | RCX
    td.tdcs.append(page)
    td.destroy()
    assert host.kind(page) == NDA


def test_pause_moves_on_and_nobody_enters(host: TdxHost) -> None:
    td = host.runnable()
    host.stage(td, "LIVE_EXPORT")
    assert td.enter().rax == EXTERNAL_INTERRUPT
    epoch = host.good("MNG.RD", rcx=td.tdr, rdx=0x9210000300000000).r8
    host.good("EXPORT.PAUSE", rcx=td.tdr)
    assert host.good("MNG.RD", rcx=td.tdr, rdx=OP_STATE).r8 == 4
    assert host.good("MNG.RD", rcx=td.tdr, rdx=0x9210000300000000).r8 == epoch + 1
    assert td.enter().rax == OP_STATE_INCORRECT
    assert host.call("EXPORT.ABORT", rcx=td.tdr, r10=1).rax == OPERAND_INVALID | R10
    host.good("EXPORT.ABORT", rcx=td.tdr)
    assert td.enter().rax == EXTERNAL_INTERRUPT


def test_behind_the_export_only_a_token_helps(host: TdxHost) -> None:
    td = host.runnable()
    host.stage(td, "POST_EXPORT")
    assert host.call("EXPORT.ABORT", rcx=td.tdr).rax == OPERAND_INVALID | R8
    buffer = host.plain()
    assert host.call("EXPORT.ABORT", rcx=td.tdr, r8=48 << 52 | buffer).rax == INVALID_MBMD


def test_an_import_is_committed_and_ended(host: TdxHost) -> None:
    td = host.runnable()
    host.stage(td, "POST_IMPORT")
    host.good("IMPORT.COMMIT", rcx=td.tdr)
    assert host.good("MNG.RD", rcx=td.tdr, rdx=OP_STATE).r8 == 9
    assert td.enter().rax == EXTERNAL_INTERRUPT
    host.good("IMPORT.END", rcx=td.tdr)
    assert host.good("MNG.RD", rcx=td.tdr, rdx=OP_STATE).r8 == 2
    host.stage(td, "POST_IMPORT")
    host.good("IMPORT.END", rcx=td.tdr)


def test_a_failed_import(host: TdxHost) -> None:
    td = host.runnable()
    host.stage(td, "STATE_IMPORT")
    assert host.call("IMPORT.ABORT", rcx=td.tdr).rax == OPERAND_INVALID | R8
    assert host.call("IMPORT.ABORT", rcx=td.tdr, r8=48 << 52 | host.plain()).rax == 1 << 61
    assert host.good("MNG.RD", rcx=td.tdr, rdx=OP_STATE).r8 == 10
    td.destroy()


def test_exporting_needs_a_td_that_may_be_migrated(host: TdxHost) -> None:
    td = host.runnable()
    assert host.call("EXPORT.STATE.IMMUTABLE", rcx=td.tdr).rax == TD_NOT_MIGRATABLE


def test_while_importing_a_removed_page_leaves_its_mark(host: TdxHost) -> None:
    td = host.runnable()
    host.stage(td, "POST_IMPORT")
    host.good("MEM.PAGE.REMOVE", rcx=0, rdx=td.tdr)
    assert td.state(0) == REMOVED
    host.stage(td, "LIVE_IMPORT")
    td.pages[0] = host.alloc()
    host.good("MEM.PAGE.AUG", rcx=0, rdx=td.tdr, r8=td.pages[0])


@pytest.mark.parametrize(
    ("op_state", "tracked"),
    [("PAUSED_EXPORT", False), ("POST_EXPORT", False), ("LIVE_EXPORT", True), ("LIVE_IMPORT", True)],
)
def test_tracking_is_needed_where_the_td_may_run(host: TdxHost, op_state: str, tracked: bool) -> None:
    td = host.runnable()
    host.stage(td, op_state)
    out = td.mem("MEM.PAGE.REMOVE", 0)
    if tracked:
        assert (out.rax, out.entry_state) == (GPA_RANGE_NOT_BLOCKED | RCX, MAPPED)
    else:
        assert (out.rax, td.state(0)) == (SUCCESS, FREE)
        td.pages.clear()


def test_the_service_td_of_a_binding_has_op_states_of_its_own(host: TdxHost) -> None:
    td, service = host.runnable(), host.initialized()
    assert host.call("SERVTD.BIND", rcx=td.tdr, rdx=service.tdr).rax == OP_STATE_INCORRECT
    assert host.call("SERVTD.BIND", rcx=td.tdr, rdx=host.runnable().tdr).rax != OP_STATE_INCORRECT


def test_every_stage_is_undone_by_a_teardown(host: TdxHost) -> None:
    for op_state in OP_STATES[1:]:
        td = in_state(host, op_state)
        td.destroy()
    assert set(host.ok("audit")["hosts"][0]["te"].values()) == {0}
    assert PAGE
