"""Operands of a guest's calls: in private memory, in shared memory, in none; and fields that it may write."""

from __future__ import annotations

import struct

import pytest
from tdx_field import PRESENT_LEAF, SHARED, SharedEpt, Td, TdxHost
from tdx_names import (
    EPT_VIOLATION,
    FIELD_VALUE_NOT_VALID,
    NON_ACCESSIBLE,
    OPERAND_INVALID,
    PAGE,
    RCX,
    RDX,
    SUCCESS,
)

VEINFO, REPORT, ACCEPT, VM_RD, VM_WR, SYS_RD, SYS_RDALL = 3, 4, 6, 7, 8, 11, 12
NOTIFY_ENABLES, TD_CTLS = 0x9110000300000010, 0x1110000300000017
NULL_FIELD = (1 << 64) - 1
READ, WRITE = 1, 2
BUFFER = SHARED | 0x7000


@pytest.fixture
def td(tdx_host: TdxHost) -> Td:
    """A runnable TD with pages at 0 and 4 KiB."""
    return tdx_host.runnable(pages=(0, PAGE))


# -- shared memory -----------------------------------------------------------------------------------------


def test_a_report_is_made_in_memory_that_the_host_sees(td: Td) -> None:
    ept, page = SharedEpt(td), td.host.plain()
    ept.put(BUFFER, page | PRESENT_LEAF)
    challenge = b"a verifier's challenge".ljust(64, b"!")
    td.host.write(page + 0x800, challenge)
    assert td.tdcall(REPORT, rcx=BUFFER, rdx=BUFFER + 0x800)["rax"] == SUCCESS
    assert td.host.read(page + 128, 64) == challenge
    assert td.host.read(page, 1) == b"\x81"
    assert td.host.read(page + 0x400, 0x400) == bytes(0x400), "nothing behind it"


def test_an_operand_that_is_not_mapped_leaves_and_is_looked_for_again(td: Td) -> None:
    ept, page = SharedEpt(td), td.host.plain()
    out = td.enter({"call": {"rax": REPORT, "rcx": BUFFER, "rdx": 0}})
    assert (out.rax, out.rcx & 7, out.r8 & ~0xFFF) == (EPT_VIOLATION, READ | WRITE, BUFFER)
    ept.put(BUFFER, page | PRESENT_LEAF)
    assert int(td.enter().steps[0]["rax"], 16) == SUCCESS
    assert td.host.read(page, 1) == b"\x81"


@pytest.mark.parametrize(
    "step", [{"read": BUFFER, "len": 1}, {"call": {"rax": REPORT, "rcx": 0, "rdx": BUFFER}}]
)
def test_a_spoilt_line_of_shared_memory_kills_the_td_that_reads_it(td: Td, step: dict[str, object]) -> None:
    """The page is the TD's own: its host has mapped it as shared, too, and stored to it."""
    SharedEpt(td).put(BUFFER, td.pages[PAGE] | PRESENT_LEAF)
    td.host.write(td.pages[PAGE], b"x")
    assert td.enter(step).rax == NON_ACCESSIBLE


def test_a_spoilt_table_of_shared_memory_kills_the_td_as_well(td: Td) -> None:
    ept = SharedEpt(td)
    table = td.pages[PAGE]
    td.host.write(ept.entry(BUFFER, level=1), struct.pack("<Q", table | 7))
    td.host.write(table + 8 * 7, bytes(8))
    assert td.enter({"touch": BUFFER}).rax == NON_ACCESSIBLE


def test_rights_are_those_of_all_tables_and_the_leaf_says_who_hears_of_it(td: Td) -> None:
    """A table that may only be read: a store is the host's to know of, or the guest's if bit 63 is clear."""
    ept, page = SharedEpt(td), td.host.plain()
    ept.put(BUFFER, page | PRESENT_LEAF)
    upper = ept.entry(BUFFER, level=1)
    (table,) = struct.unpack("<Q", td.host.read(upper, 8))
    td.host.write(upper, struct.pack("<Q", table & ~2))
    store = {"touch": BUFFER, "write": True}
    out = td.enter({"touch": BUFFER}, store)
    assert (out.rax, out.rcx & 7, out.rcx >> 3 & 7, out.steps) == (EPT_VIOLATION, WRITE, 5, [{}])
    ept.put(BUFFER, page | PRESENT_LEAF & ~(1 << 63))
    td.queue(store, replace=True)
    assert td.enter().steps[0]["fault"]["name"] == "#VE"


# -- lists and fields --------------------------------------------------------------------------------------


def test_a_guest_lists_what_it_may_read_of_the_module(td: Td) -> None:
    assert td.tdcall(SYS_RDALL, rdx=PAGE + 8, r8=NULL_FIELD)["rax"] == OPERAND_INVALID | RDX
    out = td.tdcall(SYS_RDALL, rdx=PAGE, r8=NULL_FIELD)
    assert (out["rax"], out["r8"]) == (SUCCESS, NULL_FIELD)
    data = bytes.fromhex(td.enter({"read": PAGE, "len": PAGE}).steps[0]["hex"])
    size, sequences = struct.unpack_from("<HH", data)
    at = 8
    for _ in range(sequences):
        (header,) = struct.unpack_from("<Q", data, at)
        count = ((header >> 34 & 0xF) + 1) * ((header >> 38 & 0x1FF) + 1)
        one = td.tdcall(SYS_RD, rdx=header & ~(0x1FFF << 34))
        assert (one["rax"], one["r8"]) == (SUCCESS, struct.unpack_from("<Q", data, at + 8)[0])
        at += 8 * (count + 1)
    assert (at, sequences > 1, data[size:]) == (size, True, bytes(PAGE - size))


def test_a_guest_writes_bits_that_are_its_own(td: Td) -> None:
    write = {"rdx": NOTIFY_ENABLES, "r8": 1, "r9": 1}
    assert td.tdcall(VM_WR, rcx=1, **write)["rax"] == OPERAND_INVALID | RCX
    assert td.tdcall(VM_WR, rcx=0, **write)["rax"] == SUCCESS
    assert td.tdcall(VM_RD, rcx=0, rdx=NOTIFY_ENABLES)["r8"] == 1
    out = td.tdcall(VM_WR, rcx=0, rdx=NOTIFY_ENABLES, r8=2, r9=3)
    assert (out["rax"], out["r8"]) == (FIELD_VALUE_NOT_VALID, 0)
    assert td.tdcall(VM_RD, rcx=0, rdx=NOTIFY_ENABLES)["r8"] == 1


# -- the zero-step filter and the guest that wants to know ---------------------------------------------------


def stuck(td: Td, gpa: int, times: int = 8) -> None:
    """VCPU 0 is kept from this page, again and again."""
    td.queue({"touch": gpa}, replace=True)
    for _ in range(times):
        assert td.enter().rax == EPT_VIOLATION


def test_a_guest_is_told_of_attempts_to_step_it_if_it_asked_to_be(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(vcpus=2, pages=(0,))
    assert td.tdcall(VM_WR, rcx=0, rdx=NOTIFY_ENABLES, r8=1, r9=1)["rax"] == SUCCESS
    stuck(td, 5 * PAGE)
    td.aug(5 * PAGE)
    assert td.tdcall(ACCEPT, vcpu=1, rcx=5 * PAGE)["rax"] == SUCCESS
    td.queue({"call": {"rax": 1}}, {"call": {"rax": VEINFO}}, {"touch": 5 * PAGE}, replace=True)
    steps = td.enter().steps
    assert steps[0]["fault"]["name"] == "#VE"
    assert (int(steps[1]["rax"], 16), int(steps[1]["r9"], 16)) == (SUCCESS, 5 * PAGE)
    assert steps[2] == {}, "once"


def test_the_filter_suspects_thirty_two_places(tdx_host: TdxHost) -> None:
    """The pages of the first ones have come; a violation at one more is shown as it was made."""
    td = tdx_host.runnable(vcpus=2, pages=(0,))
    places = [n * PAGE for n in range(1, 34)]
    for gpa in places:
        stuck(td, gpa, 7 if gpa == PAGE else 2)
        if gpa == places[-1]:
            break
        td.aug(gpa)
        assert td.tdcall(ACCEPT, vcpu=1, rcx=gpa)["rax"] == SUCCESS
    assert td.enter().rcx & 7 == READ, "not that of the filter, which writes"
