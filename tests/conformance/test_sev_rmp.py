"""The RMP as a host changes and reads it: page states, RMPUPDATE, PSMASH, RECLAIM, UNSMASH."""

from __future__ import annotations

import pytest
from driver import number
from sev_field import MIB, PAGE, RMP_AT, RMP_LEN, Sev, SnpVm

INPUT, PERMISSION, INUSE, OVERLAP = 1, 2, 3, 4
LARGE = 2 * MIB


def guest_entry(asid: int, gpa: int, **bits: int) -> int:
    """The first word of an assigned page."""
    places = {"size": 1, "immutable": 2, "vmsa": 61, "validated": 62}
    return 1 | gpa | asid << 51 | sum(value << places[name] for name, value in bits.items())


@pytest.mark.parametrize(
    ("fields", "low"),
    [
        ({"immutable": 1}, 5),
        ({}, 1),
        ({"asid": 3, "gpa": 0x7000, "immutable": 1}, guest_entry(3, 0x7000, immutable=1)),
        ({"asid": 15, "gpa": 0xFFFFFFFFF000}, guest_entry(15, 0xFFFFFFFFF000)),
    ],
    ids=["firmware", "reclaim", "pre-guest", "guest-invalid"],
)
def test_rmpupdate_makes_the_states_of_the_documents(snp: Sev, fields: dict[str, int], low: int) -> None:
    page = snp.alloc()
    assert snp.rmpupdate(page, **fields) == 0
    assert snp.entry(page) == (low, 0)


@pytest.mark.parametrize(
    ("at", "fields", "code"),
    [
        (0x800, {}, INPUT),
        (512 * MIB * 4, {}, INPUT),
        (PAGE, {"size": 1, "asid": 1}, INPUT),
        (0, {"asid": 1, "gpa": 0x800}, INPUT),
        (0, {"size": 1, "asid": 1, "gpa": PAGE}, INPUT),
        (0, {"assigned": 0, "asid": 1}, PERMISSION),
        (0, {"assigned": 0, "immutable": 1}, PERMISSION),
    ],
)
def test_rmpupdate_refuses_what_is_no_state(snp: Sev, at: int, fields: dict[str, int], code: int) -> None:
    block = snp.alloc(LARGE, LARGE)
    before = snp.entry(block)
    assert snp.rmpupdate(block + at, **fields) == code
    assert snp.entry(block) == before


def test_pages_that_are_immutable_stay(snp: Sev) -> None:
    page = snp.alloc()
    snp.firmware(page)
    assert snp.rmpupdate(page, assigned=0) == PERMISSION
    assert snp.rmpupdate(page, immutable=1) == PERMISSION
    for fixed in (RMP_AT, RMP_AT + RMP_LEN - PAGE, 0xA0000):
        assert snp.rmpupdate(fixed, assigned=0) == PERMISSION


def test_a_change_of_owner_or_place_takes_validation_away(snp: Sev) -> None:
    vm = SnpVm(snp)
    page = vm.pages[1]
    valid = guest_entry(1, PAGE, validated=1)
    assert snp.entry(page)[0] == valid
    assert snp.rmpupdate(page, PAGE, asid=1) == 0
    assert snp.entry(page)[0] == valid  # the same again changes nothing
    assert snp.rmpupdate(page, 2 * PAGE, asid=1) == 0
    assert snp.entry(page)[0] == guest_entry(1, 2 * PAGE)
    assert snp.rmpupdate(vm.pages[2], 2 * PAGE, asid=2) == 0
    assert snp.entry(vm.pages[2])[0] == guest_entry(2, 2 * PAGE)
    assert snp.rmpupdate(vm.vmsa, 0xFFFFFFFFF000, asid=2) == 0
    assert snp.entry(vm.vmsa)[0] == guest_entry(2, 0xFFFFFFFFF000)


def test_a_large_entry_is_that_of_its_first_page(snp: Sev) -> None:
    block = snp.alloc(LARGE, LARGE)
    snp.give(block, LARGE, asid=2, size=1)
    assert snp.entry(block) == (guest_entry(2, LARGE, size=1), 0)
    assert snp.entry(block + PAGE) == snp.entry(block + LARGE - PAGE) == (1, 0)
    assert snp.rmpupdate(block + 5 * PAGE, LARGE + 5 * PAGE, asid=2) == OVERLAP
    assert snp.rmpupdate(block, LARGE, asid=2) == OVERLAP
    assert snp.rmpupdate(block, assigned=0, size=1) == 0
    assert snp.entry(block) == snp.entry(block + PAGE) == (0, 0)


def test_a_large_entry_does_not_swallow_small_ones(snp: Sev) -> None:
    block = snp.alloc(LARGE, LARGE)
    snp.give(block + 7 * PAGE, 7 * PAGE, asid=2)
    assert snp.rmpupdate(block, 0, size=1, asid=2) == OVERLAP
    snp.shared(block + 7 * PAGE)
    assert snp.rmpupdate(block, 0, size=1, asid=2) == 0


def test_the_head_of_the_table_counts_pages_of_each_asid(snp: Sev) -> None:
    def count(asid: int) -> int:
        return int.from_bytes(snp.read(RMP_AT + 8 * asid, 8), "little")

    pages = snp.pages(3)
    for n, page in enumerate(pages):
        snp.give(page, n * PAGE, asid=4)
    assert (count(4), count(5)) == (3, 0)
    snp.shared(pages[0])
    assert snp.rmpupdate(pages[1], PAGE, asid=5) == 0
    assert (count(4), count(5)) == (1, 1)


def test_an_entry_is_read_in_any_piece(snp: Sev) -> None:
    pages = snp.pages(2)
    snp.give(pages[0], 0x123000, asid=7)
    snp.give(pages[1], 0x456000, asid=6, immutable=1)
    at = RMP_AT + 0x4000 + 16 * (pages[0] // PAGE)
    whole = snp.read(at, 32)
    assert [snp.read(at + n, 1) for n in range(32)] == [whole[n : n + 1] for n in range(32)]
    assert snp.read(at + 5, 20) == whole[5:25]
    head = snp.read(RMP_AT + 0x4000 - 8, 24)
    assert head == snp.read(RMP_AT + 0x3FF8, 8) + snp.read(RMP_AT + 0x4000, 16)


def test_memory_beyond_the_table_is_default_and_takes_anything(sev: object) -> None:
    host = sev()  # type: ignore[operator]
    host.alloc(MIB, MIB, above=RMP_AT)
    host.cpus_up(RMP_AT, MIB)  # covers 252 MiB
    host.did("SNP_INIT")
    beyond = 300 * MIB
    assert host.rmpupdate(beyond, immutable=1) == INPUT
    host.write(beyond, b"plain")
    assert host.cmd("SNP_PLATFORM_STATUS", status=beyond) == 0
    assert host.read(beyond, 2) == bytes((1, 55))


def test_entries_without_memory_stay_as_they_are(snp: Sev) -> None:
    """The RMP of a small host has room for more than it has."""
    assert snp.rmpupdate(snp.memory, immutable=1) == PERMISSION


# -- PSMASH and UNSMASH --------------------------------------------------------------------------------


def test_psmash_keeps_what_the_large_entry_said(snp: Sev) -> None:
    block = snp.alloc(LARGE, LARGE)
    snp.give(block, 4 * LARGE, asid=3, size=1, immutable=1)
    assert number(snp.insn("psmash", rax=block)["rax"]) == 0
    for n in (0, 1, 511):
        assert snp.entry(block + n * PAGE) == (guest_entry(3, 4 * LARGE + n * PAGE, immutable=1), 0)
    assert number(snp.insn("psmash", rax=block)["rax"]) != 0
    assert number(snp.insn("psmash", rax=block + PAGE)["rax"]) != 0
    assert number(snp.insn("psmash", rax=512 * MIB)["rax"]) != 0


def test_unsmash_joins_entries_that_differ_in_their_place_alone(snp: Sev) -> None:
    block = snp.alloc(LARGE, LARGE)
    assert snp.cmd("SNP_PAGE_UNSMASH", pa=block) == 0x1A
    assert snp.cmd("SNP_PAGE_UNSMASH", pa=block + PAGE) == 0x16
    assert snp.cmd("SNP_PAGE_UNSMASH", pa=RMP_AT) == 0x09
    snp.give(block, LARGE, asid=3, size=1, immutable=1)
    assert snp.cmd("SNP_PAGE_UNSMASH", pa=block) == 0x1A
    assert number(snp.insn("psmash", rax=block)["rax"]) == 0
    assert snp.cmd("SNP_PAGE_UNSMASH", pa=block) == 0
    assert snp.entry(block) == (guest_entry(3, LARGE, size=1, immutable=1), 0)
    assert snp.entry(block + PAGE) == (1, 0)


def test_unsmash_refuses_entries_that_are_not_alike(snp: Sev) -> None:
    block = snp.alloc(LARGE, LARGE)
    snp.give(block, LARGE, asid=3, size=1, immutable=1)
    snp.insn("psmash", rax=block)
    snp.did("SNP_PAGE_RECLAIM", pa=block + 9 * PAGE)
    assert snp.cmd("SNP_PAGE_UNSMASH", pa=block) == 0x1A
    snp.give(block + 9 * PAGE, LARGE + 8 * PAGE, asid=3, immutable=1)
    assert snp.cmd("SNP_PAGE_UNSMASH", pa=block) == 0x1A


# -- RECLAIM -------------------------------------------------------------------------------------------


def test_reclaim_takes_pages_out_of_the_firmwares_hands(snp: Sev) -> None:
    firmware, pre = snp.pages(2)
    snp.firmware(firmware)
    snp.give(pre, PAGE, asid=2, immutable=1)
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=firmware) == 0
    assert snp.entry(firmware) == (1, 0)
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=pre) == 0
    assert snp.entry(pre) == (guest_entry(2, PAGE), 0)
    snp.shared(firmware, pre)


def test_reclaim_of_a_page_that_is_not_immutable_succeeds_and_does_nothing(snp: Sev) -> None:
    page = snp.alloc()
    for prepare in (lambda: None, lambda: snp.rmpupdate(page), lambda: snp.rmpupdate(page, PAGE, asid=2)):
        prepare()
        before = snp.entry(page)
        assert snp.cmd("SNP_PAGE_RECLAIM", pa=page) == 0
        assert snp.entry(page) == before


def test_what_reclaim_refuses(snp: Sev) -> None:
    gctx = snp.snp_guest(start=False)
    block = snp.alloc(LARGE, LARGE)
    snp.give(block, 0, asid=2, size=1, immutable=1)
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=gctx) == 0x1A
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=gctx + 2) == 0x16
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=RMP_AT) == 0x09
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=0xA0000) == 0x09
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=gctx | 1) == 0x19
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=block) == 0x19
    assert snp.cmd("SNP_PAGE_RECLAIM", pa=block | 1) == 0
    assert snp.entry(block) == (guest_entry(2, 0, size=1), 0)


# -- a command that stands still -----------------------------------------------------------------------


def test_a_parked_command_keeps_its_entries_busy_and_the_mailbox_shut(snp: Sev) -> None:
    gctx = snp.alloc()
    snp.firmware(gctx)
    snp.write(snp.buffer, gctx.to_bytes(8, "little"))
    parked = snp.ask("call", cmdresp=0x093 << 16, lo=snp.buffer, park=True)
    assert parked["ok"] == {"parked": True}
    assert number(snp.insn("rmpupdate", 1, rax=gctx, rcx=snp.buffer + 0x100)["rax"]) == INUSE
    assert snp.error("call", cmdresp=0x00E << 16, cpu=1)["code"] == "bad_request"
    done = snp.ok("resume", call=parked["id"])
    assert done["cmdresp"] == "0x80930000"
    assert snp.entry(gctx) == (5 | 1 << 61, 0)
    snp.did("NOP")


def test_a_launch_update_that_is_parked_shows_as_in_use(snp: Sev) -> None:
    gctx = snp.snp_guest()
    page = snp.alloc()
    snp.give(page, 0, 1, immutable=1)
    snp.write(
        snp.buffer,
        gctx.to_bytes(8, "little") + (2).to_bytes(8, "little") + page.to_bytes(8, "little") + bytes(8),
    )
    parked = snp.ask("call", cmdresp=0x0A1 << 16, lo=snp.buffer, park=True)
    assert parked["ok"] == {"parked": True}
    state = snp.buffer + 0x800
    snp.write(state, bytes(8) + bytes((1, 0, 0, 0)) + (1).to_bytes(4, "little"))
    assert number(snp.insn("rmpupdate", 1, rax=page, rcx=state)["rax"]) == INUSE
    snp.ok("resume", call=parked["id"])
    assert snp.entry(page)[0] == guest_entry(1, 0, validated=1)


def test_a_command_that_fails_its_checks_does_not_park(snp: Sev) -> None:
    snp.write(snp.buffer, bytes(8))
    answer = snp.ok("call", cmdresp=0x090 << 16, lo=snp.buffer, park=True)
    assert answer["cmdresp"] == "0x80900010"
