"""What a guest does: TDCALL, accesses, acceptance, #VE, the shared EPT, the zero-step filter."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pytest
from tdx_field import (
    FIVE_LEVELS,
    PRESENT_LEAF,
    SEPT_VE_DISABLE,
    SHARED,
    SharedEpt,
    Td,
    TdxHost,
    td_params,
)
from tdx_names import (
    EPT_MISCONFIGURATION,
    EPT_VIOLATION,
    EXTERNAL_INTERRUPT,
    FIELD_ID_INCORRECT,
    FIELD_VALUE_NOT_VALID,
    FREE,
    INVALID_CPUSVN,
    INVALID_REPORTMACSTRUCT,
    MAPPED,
    MIB2,
    NMI,
    NO_VALID_VE_INFO,
    OPERAND_BUSY,
    OPERAND_INVALID,
    PAGE,
    PAGE_ALREADY_ACCEPTED,
    PAGE_SIZE_MISMATCH,
    R8,
    RAX,
    RCX,
    RDX,
    SEPT_TREE,
    SMI,
    SUCCESS,
    TDCALL,
)

(
    VMCALL,
    INFO,
    EXTEND,
    VEINFO,
    REPORT,
    CPUIDVE,
    ACCEPT,
    VM_RD,
    VM_WR,
    VP_RD,
    VP_WR,
    SYS_RD,
    SYS_RDALL,
    VERIFY,
) = (*(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22),)
VE, DF, PAGE_FAULT = "#VE", "#DF", "#PF"
MRTD, RTMR, TD_CTLS, OP_STATE = 0x1310000300000000, 0x1310000300000040, 0x1110000300000017, 0x9010000200000004
ALL = (1 << 64) - 1
READ, WRITE = 1, 2


@pytest.fixture
def td(tdx_host: TdxHost) -> Td:
    """A runnable TD with pages at 0, 4 KiB and 8 KiB."""
    return tdx_host.runnable(pages=(0, PAGE, 2 * PAGE))


def accept(gpa: int, level: int = 0) -> dict[str, Any]:
    return {"call": {"rax": ACCEPT, "rcx": gpa | level}}


def names(steps: list[Any]) -> list[str]:
    return [step["fault"]["name"] if "fault" in step else "done" for step in steps]


# -- steps and exits ----------------------------------------------------------------------


def test_memory_of_a_guest_keeps_what_is_written(td: Td) -> None:
    out = td.enter(
        {"touch": 0xFFE, "write": True, "value": "0a0b0c0d"}, {"read": 0xFFC, "len": 8}, {"touch": 0}
    )
    assert out.steps == [{}, {"hex": "00000a0b0c0d0101"}, {}]
    assert (out.rax, out.rcx, out.rdx, out.r8) == (EXTERNAL_INTERRUPT, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "reason"), [("external_interrupt", EXTERNAL_INTERRUPT), ("nmi", NMI), ("smi", SMI)]
)
def test_exits_of_a_guests_own(td: Td, name: str, reason: int) -> None:
    out = td.enter({"touch": 0}, {"exit": name}, {"read": 0, "len": 1})
    assert (out.rax, len(out.steps)) == (reason, 1)
    assert (out.r9 != 0) == (name == "nmi")
    assert td.enter().steps == [{"hex": "00"}]


def test_a_waiting_interrupt_comes_before_the_first_step(td: Td) -> None:
    td.queue({"touch": 0})
    td.host.ok("cpu", interrupt=True)
    out = td.enter()
    assert (out.rax, out.steps) == (EXTERNAL_INTERRUPT, [])
    assert td.host.ok("cpu")["interrupt"] is False
    assert td.enter().steps == [{}]


def test_a_guest_that_stays_does_new_steps_at_once(td: Td) -> None:
    assert td.stay({"touch": 0}) == [{}]
    assert td.queue({"read": 0, "len": 2}) == {"queued": 1, "steps": [{"hex": "0000"}]}
    answer = td.queue({"call": {"rax": VMCALL, "rcx": 0x800, "r11": 5}})
    assert (answer["exit"]["rax"], answer["exit"]["r11"], answer["steps"]) == ("0x4d", "0x5", [])
    td.host.error("kick", "bad_request")


def test_an_lp_in_a_guest_does_nothing_else_until_it_is_kicked(td: Td) -> None:
    td.stay()
    td.host.error("call", "bad_request", rax=24, rcx=td.tdr)
    td.host.error("insn", "bad_request", name="wbinvd")
    td.host.error("enter", "bad_request", vcpu=td.vcpus[0])
    assert td.host.good("PHYMEM.PAGE.RDMD", 1, rcx=td.tdr).rcx == 4
    assert td.kick().rax == EXTERNAL_INTERRUPT
    td.host.good("PHYMEM.PAGE.RDMD", rcx=td.tdr)


def test_replace_drops_what_was_queued(td: Td) -> None:
    td.queue({"touch": 5 * PAGE}, {"touch": 0})
    assert td.enter().rax == EPT_VIOLATION
    assert td.queue({"read": 0, "len": 1}, replace=True) == {"queued": 1}
    assert td.enter().steps == [{"hex": "00"}]


# -- TDVMCALL ---------------------------------------------------------------------------------


def test_a_tdvmcall_shows_what_the_guest_selects_and_takes_the_answer(td: Td) -> None:
    out = td.enter(
        {"call": {"rax": VMCALL, "rcx": 0x3C00, "rdx": 1, "r10": 0, "r11": 30, "r12": 7, "r13": 8, "r14": 9}}
    )
    assert (out.rax, out.rcx) == (TDCALL, 0x3C00)
    assert (out.rdx, out.r8, out.r10, out.r11, out.r12, out.r13) == (0, 0, 0, 30, 7, 8)
    out = td.enter(r10=0, r11=0xAA, r12=0xBB, rdx=0xCC)
    assert len(out.steps) == 1
    step = {name: int(value, 16) for name, value in out.steps[0].items()}
    assert (step["rax"], step["rcx"], step["rdx"]) == (0, 0x3C00, 1)
    assert (step["r10"], step["r11"], step["r12"], step["r13"]) == (0, 0xAA, 0xBB, 0)


@pytest.mark.parametrize("mask", [1 << 0, 1 << 1, 1 << 4, 1 << 32, 1 << 63])
def test_some_registers_cannot_be_shown(td: Td, mask: int) -> None:
    assert td.tdcall(VMCALL, rcx=0xC00 | mask)["rax"] == OPERAND_INVALID | RCX


def test_rbp_only_without_no_rbp_mod(tdx_host: TdxHost, td: Td) -> None:
    assert td.enter({"call": {"rax": VMCALL, "rcx": 1 << 5}}).rax == TDCALL
    other = tdx_host.runnable(td_params(flags=1 << 2))
    assert other.tdcall(VMCALL, rcx=1 << 5)["rax"] == OPERAND_INVALID | RCX


# -- TDCALL ------------------------------------------------------------------------------------


def test_a_guest_asks_about_itself(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(td_params(max_vcpus=7, attributes=SEPT_VE_DISABLE), vcpus=2)
    out = td.tdcall(INFO, vcpu=1)
    assert (out["rax"], out["rcx"], out["rdx"]) == (SUCCESS, 48, SEPT_VE_DISABLE)
    assert (out["r8"], out["r9"], out["r10"]) == (2 | 7 << 32, 1, 1)


def test_a_wide_guest(tdx_host: TdxHost) -> None:
    td = tdx_host.initialized(td_params(eptp=FIVE_LEVELS, flags=1))
    td.vcpu()
    td.tables_for(0, top=4)
    td.add(0)
    tdx_host.good("MR.FINALIZE", rcx=td.tdr)
    assert td.tdcall(INFO)["rcx"] == 52
    out = td.enter({"touch": 1 << 50})
    assert (out.rax, out.r8) == (EPT_VIOLATION, 1 << 50)
    td.queue({"touch": 1 << 51}, replace=True)
    assert td.enter().r8 == 1 << 51


@pytest.mark.parametrize("rax", [13, 18, 20, 21, 24 << 16, 28, 99, 1 << 16 | 1, 1 << 24, 1 << 40])
def test_other_leaves_and_forms_are_refused(td: Td, rax: int) -> None:
    assert td.tdcall(rax)["rax"] == OPERAND_INVALID | RAX


def test_run_time_measurement(td: Td) -> None:
    td.enter({"touch": 0x40, "write": True, "value": "5a" * 48})
    assert td.tdcall(EXTEND, rcx=0x40, rdx=2)["rax"] == SUCCESS
    expected = hashlib.sha384(bytes(48) + b"\x5a" * 48).digest()
    words = [td.tdcall(VM_RD, rcx=0, rdx=RTMR + 12 + i)["r8"] for i in range(6)]
    assert b"".join(struct.pack("<Q", word) for word in words) == expected
    assert td.tdcall(EXTEND, rcx=0x41, rdx=9)["rax"] == OPERAND_INVALID | RCX
    assert td.tdcall(EXTEND, rcx=SHARED, rdx=9)["rax"] == OPERAND_INVALID | RCX
    assert td.tdcall(EXTEND, rcx=0x40, rdx=4)["rax"] == OPERAND_INVALID | RDX


def report(td: Td) -> bytes:
    td.enter({"touch": PAGE, "write": True, "value": "d1" * 64})
    assert td.tdcall(REPORT, rcx=0x400, rdx=PAGE, r8=0)["rax"] == SUCCESS
    return bytes.fromhex(td.enter({"read": 0x400, "len": 1024}).steps[0]["hex"])


def test_a_report_says_what_the_td_is(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(td_params(at_80=b"c" * 48), pages=(0, PAGE, 2 * PAGE))
    data = report(td)
    assert data[0] == 0x81
    assert data[128:192] == b"\xd1" * 64
    tcb, info = data[256:512], data[512:]
    assert data[32:80] == hashlib.sha384(tcb).digest()
    assert data[80:128] == hashlib.sha384(info).digest()
    mrtd = b"".join(struct.pack("<Q", tdx_host.good("MNG.RD", rcx=td.tdr, rdx=MRTD + i).r8) for i in range(6))
    assert info[16:64] == mrtd
    assert info[64:112] == b"c" * 48
    assert info[:16] == struct.pack("<QQ", 0, 3)


def test_a_report_is_verified_on_the_machine_that_made_it(td: Td) -> None:
    made = report(td)
    mac = 2 * PAGE
    td.enter({"touch": mac, "write": True, "value": made[:256].hex()})
    assert td.tdcall(VERIFY, rcx=mac)["rax"] == SUCCESS
    td.enter({"touch": mac + 130, "write": True, "value": "00"})
    assert td.tdcall(VERIFY, rcx=mac)["rax"] == INVALID_REPORTMACSTRUCT
    td.enter({"touch": mac + 16, "write": True, "value": "ff"})
    assert td.tdcall(VERIFY, rcx=mac)["rax"] == INVALID_CPUSVN
    assert td.tdcall(VERIFY, rcx=mac + 64)["rax"] == OPERAND_INVALID | RCX


def test_the_order_of_a_reports_operands(td: Td) -> None:
    wrong = {"rcx": 8, "rdx": 8, "r8": 1}
    assert td.tdcall(REPORT, **wrong)["rax"] == OPERAND_INVALID | RCX
    assert td.tdcall(REPORT, **wrong | {"rcx": 0x400})["rax"] == OPERAND_INVALID | RDX
    out = td.enter({"call": {"rax": REPORT, "rcx": 0x400, "rdx": 9 * PAGE, "r8": 1}})
    assert (out.rax, out.r8) == (EPT_VIOLATION, 9 * PAGE)
    td.queue({"touch": 0}, replace=True)
    td.enter()
    assert td.tdcall(REPORT, rcx=0x400, rdx=PAGE, r8=1)["rax"] == OPERAND_INVALID | R8
    out = td.enter({"call": {"rax": REPORT, "rcx": 9 * PAGE, "rdx": PAGE, "r8": 0}})
    assert (out.rax, out.r8) == (EPT_VIOLATION, 9 * PAGE)


def test_metadata_as_a_guest_sees_it(td: Td) -> None:
    assert td.tdcall(VM_RD, rcx=0, rdx=0x1110000300000001)["r8"] == 3
    assert td.tdcall(VM_RD, rcx=1, rdx=MRTD)["rax"] == OPERAND_INVALID | RCX
    assert td.tdcall(VM_RD, rcx=0, rdx=OP_STATE)["rax"] == 0xC0000C0200000000
    assert td.tdcall(VM_RD, rcx=0, rdx=MRTD + 0x99)["rax"] == FIELD_ID_INCORRECT
    assert td.tdcall(VM_RD | 1 << 16, rcx=0, rdx=MRTD)["rdx"] == MRTD + 1
    assert td.tdcall(VM_RD | 2 << 16, rcx=0, rdx=MRTD)["rax"] == OPERAND_INVALID | RAX
    assert td.tdcall(VM_WR, rcx=0, rdx=TD_CTLS, r8=1, r9=1)["rax"] == FIELD_VALUE_NOT_VALID
    assert td.tdcall(VP_RD, rdx=0xA020000200000002)["r8"] == 0
    assert td.tdcall(SYS_RD, rdx=0x0800000100000004)["r8"] == 1
    assert td.tdcall(SYS_RD, rdx=0x9100000100000008)["rax"] == 0xC0000C0200000000


def test_cpuid_exceptions_are_switched(td: Td) -> None:
    assert td.tdcall(CPUIDVE, rcx=4)["rax"] == OPERAND_INVALID | RCX
    assert td.tdcall(CPUIDVE, rcx=1)["rax"] == SUCCESS
    assert td.tdcall(VP_RD, rdx=0xA020000000000007)["r8"] == 1
    assert td.tdcall(VP_WR, rdx=0xA020000000000008, r8=1, r9=0xFF)["rax"] == SUCCESS
    assert td.tdcall(VP_RD, rdx=0xA020000000000008)["r8"] == 1


# -- private memory that is not there ------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "kind"), [({"touch": 5 * PAGE}, READ), ({"touch": 5 * PAGE, "write": True}, WRITE)]
)
def test_a_miss_leaves_and_runs_again(td: Td, step: dict[str, Any], kind: int) -> None:
    out = td.enter({"touch": 0}, step, {"read": 0, "len": 1})
    assert (out.rax, out.rcx & 7, out.rdx, out.r8, out.r9) == (EPT_VIOLATION, kind, 0, 5 * PAGE, 0)
    assert out.steps == [{}]
    again = td.enter()
    assert (again.rax, again.r8, again.steps) == (EPT_VIOLATION, 5 * PAGE, [])
    td.aug(5 * PAGE)
    assert names(td.enter().steps) == [VE, "done"]


def test_a_blocked_page_is_a_miss(td: Td) -> None:
    td.host.good("MEM.RANGE.BLOCK", rcx=PAGE, rdx=td.tdr)
    out = td.enter({"read": PAGE, "len": 1})
    assert (out.rax, out.r8) == (EPT_VIOLATION, PAGE)
    td.host.good("MEM.TRACK", rcx=td.tdr)
    td.host.good("MEM.RANGE.UNBLOCK", rcx=PAGE, rdx=td.tdr)
    assert td.enter().steps == [{"hex": "01"}]


def test_a_pending_page_is_an_exception_of_the_guest(td: Td) -> None:
    td.aug(5 * PAGE)
    out = td.enter(
        {"touch": 5 * PAGE + 8, "write": True}, {"call": {"rax": VEINFO}}, {"call": {"rax": VEINFO}}
    )
    assert names(out.steps[:1]) == [VE]
    assert out.steps[0]["fault"]["code"] == "0x14"
    info = {name: int(value, 16) for name, value in out.steps[1].items()}
    assert (info["rax"], info["rcx"], info["rdx"] & 7, info["r9"]) == (
        SUCCESS,
        EPT_VIOLATION,
        WRITE,
        5 * PAGE + 8,
    )
    assert int(out.steps[2]["rax"], 16) == NO_VALID_VE_INFO


def test_a_second_exception_before_the_first_was_read_is_a_double_fault(td: Td) -> None:
    td.aug(5 * PAGE)
    out = td.enter({"touch": 5 * PAGE}, {"touch": 5 * PAGE}, {"call": {"rax": VEINFO}}, {"touch": 5 * PAGE})
    assert names(out.steps) == [VE, DF, "done", VE]


def test_with_sept_ve_disable_a_pending_page_is_an_exit(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(td_params(attributes=SEPT_VE_DISABLE))
    td.aug(5 * PAGE)
    out = td.enter({"touch": 5 * PAGE})
    assert (out.rax, out.rdx & 0xF, out.r8) == (EPT_VIOLATION, 6, 5 * PAGE)
    out = td.enter(accept(5 * PAGE))
    assert out.rax == EPT_VIOLATION
    td.queue(accept(5 * PAGE), {"touch": 5 * PAGE}, replace=True)
    assert names(td.enter().steps) == ["done", "done"]


def test_a_guest_may_be_allowed_to_choose(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(td_params(flags=1 << 1))
    td.aug(5 * PAGE)
    assert td.tdcall(VM_WR, rcx=0, rdx=TD_CTLS, r8=1, r9=1)["rax"] == SUCCESS
    assert td.enter({"touch": 5 * PAGE}).rdx & 0xF == 6


def test_addresses_above_the_shared_bit_are_page_faults(td: Td) -> None:
    out = td.enter({"touch": 1 << 48}, {"touch": 1 << 51}, {"touch": 0})
    assert names(out.steps) == [PAGE_FAULT, PAGE_FAULT, "done"]


# -- ACCEPT ----------------------------------------------------------------------------------------


def test_an_accepted_page_is_zero_and_the_guests(td: Td) -> None:
    page = td.host.alloc()
    td.host.write(page, b"left over")
    td.host.good("MEM.PAGE.AUG", rcx=5 * PAGE, rdx=td.tdr, r8=page)
    td.pages[5 * PAGE] = page
    out = td.enter(accept(5 * PAGE), {"read": 5 * PAGE, "len": 16}, {"touch": 5 * PAGE, "write": True})
    assert int(out.steps[0]["rax"], 16) == SUCCESS
    assert out.steps[1:] == [{"hex": "00" * 16}, {}]
    assert td.state(5 * PAGE) == MAPPED
    assert td.tdcall(ACCEPT, rcx=5 * PAGE)["rax"] == PAGE_ALREADY_ACCEPTED


def test_accepting_a_large_page(td: Td) -> None:
    td.aug(MIB2, level=1)
    out = td.enter(accept(MIB2), {"touch": 0})
    assert (out.rax, out.rdx & 0xF, out.r8, out.steps) == (EPT_VIOLATION, 1, MIB2, [])
    td.queue(accept(MIB2, 1), {"touch": MIB2 + 300 * PAGE, "write": True}, replace=True)
    assert names(td.enter().steps) == ["done", "done"]
    assert td.tdcall(ACCEPT, rcx=MIB2)["rax"] == PAGE_ALREADY_ACCEPTED | 1
    assert td.tdcall(ACCEPT, rcx=MIB2 | 1)["rax"] == PAGE_ALREADY_ACCEPTED | 1


def test_accepting_where_pages_are_smaller(td: Td) -> None:
    td.tables_for(MIB2)
    assert td.tdcall(ACCEPT, rcx=MIB2 | 1)["rax"] == PAGE_SIZE_MISMATCH | 1


@pytest.mark.parametrize("bad", [2, 7, 1 << 3, PAGE | 1, SHARED, 1 << 48, 1 << 52])
def test_what_cannot_be_accepted(td: Td, bad: int) -> None:
    assert td.tdcall(ACCEPT, rcx=bad)["rax"] == OPERAND_INVALID | RCX


def test_accepting_nothing_leaves_and_runs_again(td: Td) -> None:
    out = td.enter(accept(5 * PAGE), {"touch": 5 * PAGE})
    assert (out.rax, out.rcx & 7, out.rdx & 0xF, out.r8) == (EPT_VIOLATION, WRITE, 1, 5 * PAGE)
    info = out.rdx >> 32
    assert (info & 7, info >> 3 & 7, info >> 6 & 0xFF) == (0, 0, FREE)
    td.aug(5 * PAGE)
    assert names(td.enter().steps) == ["done", "done"]
    far = td.enter(accept(1 << 40))
    assert (far.rax, far.rdx >> 35 & 7) == (EPT_VIOLATION, 3)


def test_a_host_that_holds_the_entry_makes_the_guest_busy(td: Td) -> None:
    host = td.host
    td.aug(5 * PAGE)
    request = host.park("MEM.SEPT.RD", 1, rcx=5 * PAGE, rdx=td.tdr)
    assert td.tdcall(ACCEPT, rcx=5 * PAGE)["rax"] == OPERAND_BUSY | RCX
    host.resume(request)
    assert td.tdcall(ACCEPT, rcx=5 * PAGE)["rax"] == SUCCESS


def test_a_host_that_was_turned_away_has_priority_over_the_guest(tdx: Any) -> None:
    host = tdx(cpus=3).boot()
    td = host.runnable()
    td.aug(5 * PAGE)
    request = host.park("MEM.SEPT.RD", 1, rcx=5 * PAGE, rdx=td.tdr)
    assert host.call("MEM.SEPT.RD", 2, rcx=5 * PAGE, rdx=td.tdr).rax == OPERAND_BUSY | RCX
    host.resume(request)
    for _ in range(2):
        assert td.tdcall(ACCEPT, rcx=5 * PAGE)["rax"] == OPERAND_BUSY | RCX
    host.good("MEM.SEPT.RD", 2, rcx=5 * PAGE, rdx=td.tdr)
    assert td.tdcall(ACCEPT, rcx=5 * PAGE)["rax"] == SUCCESS


# -- shared memory ---------------------------------------------------------------------------------


def test_a_guest_and_its_host_share_memory(td: Td) -> None:
    ept, page = SharedEpt(td), td.host.plain()
    ept.put(SHARED | 0x7000, page | PRESENT_LEAF)
    td.host.write(page, b"from the host")
    out = td.enter(
        {"read": SHARED | 0x7000, "len": 13}, {"touch": SHARED | 0x7100, "write": True, "value": "c0de"}
    )
    assert out.steps == [{"hex": b"from the host".hex()}, {}]
    assert td.host.read(page + 0x100, 2) == b"\xc0\xde"


def test_a_shared_miss_is_an_exit_or_an_exception_as_the_host_says(td: Td) -> None:
    ept = SharedEpt(td)
    out = td.enter({"touch": SHARED | 0x7000, "write": True})
    assert (out.rax, out.rcx & 7, out.r8) == (EPT_VIOLATION, WRITE, SHARED | 0x7000)
    page = td.host.plain()
    ept.put(SHARED | 0x7000, page | PRESENT_LEAF)
    assert td.enter().steps == [{}]
    ept.put(SHARED | 0x8000, 0)
    out = td.enter({"touch": SHARED | 0x8010}, {"call": {"rax": VEINFO}})
    assert names(out.steps) == [VE, "done"]
    assert int(out.steps[1]["r9"], 16) == SHARED | 0x8010


def test_a_shared_page_that_may_only_be_read(td: Td) -> None:
    ept, page = SharedEpt(td), td.host.plain()
    ept.put(SHARED | 0x7000, page | PRESENT_LEAF & ~2)
    out = td.enter({"touch": SHARED | 0x7000}, {"touch": SHARED | 0x7000, "write": True})
    assert (out.rax, out.rcx & 7, out.rcx >> 3 & 7, out.steps) == (EPT_VIOLATION, WRITE, 5, [{}])


def test_a_large_shared_page(td: Td) -> None:
    ept, page = SharedEpt(td), td.host.plain(MIB2, MIB2)
    ept.put(SHARED | MIB2, page | PRESENT_LEAF | 1 << 7, level=1)
    td.host.write(page + 9 * PAGE, b"deep")
    assert td.enter({"read": SHARED | MIB2 | 9 * PAGE, "len": 4}).steps == [{"hex": b"deep".hex()}]


@pytest.mark.parametrize("entry", [2 | 6 << 3, PRESENT_LEAF & ~(7 << 3) | 7 << 3, PRESENT_LEAF | 20 << 46])
def test_a_shared_entry_that_makes_no_sense(td: Td, entry: int) -> None:
    ept, page = SharedEpt(td), td.host.plain()
    ept.put(SHARED | 0x7000, page | entry)
    out = td.enter({"touch": SHARED | 0x7000})
    assert (out.rax, out.rcx, out.r8) == (EPT_MISCONFIGURATION, 0, SHARED | 0x7000)


def test_a_shared_page_is_remapped_and_unmapped(td: Td) -> None:
    ept, one, two = SharedEpt(td), td.host.plain(), td.host.plain()
    td.host.write(one, b"one")
    td.host.write(two, b"two")
    for page, text in ((one, b"one"), (two, b"two"), (one, b"one")):
        ept.put(SHARED | 0x7000, page | PRESENT_LEAF)
        assert td.enter({"read": SHARED | 0x7000, "len": 3}).steps == [{"hex": text.hex()}]
    ept.put(SHARED | 0x7000, 1 << 63)
    assert td.enter({"read": SHARED | 0x7000, "len": 3}).rax == EPT_VIOLATION


# -- the zero-step filter --------------------------------------------------------------------------


def test_too_many_violations_at_one_place_arm_the_filter(td: Td) -> None:
    host = td.host
    td.queue({"touch": 5 * PAGE})
    for _ in range(7):
        assert td.enter().rax == EPT_VIOLATION
    request = host.park("MEM.SEPT.RD", 1, rcx=0, rdx=td.tdr)
    assert td.enter().rax == OPERAND_BUSY | SEPT_TREE
    host.resume(request)
    out = td.enter()
    assert (out.rax, out.rcx, out.rdx, out.r8) == (EPT_VIOLATION, WRITE, 0, 5 * PAGE)
    td.aug(5 * PAGE)
    assert td.enter().rax == EPT_VIOLATION
    td.queue(accept(5 * PAGE), {"touch": 5 * PAGE}, replace=True)
    assert td.enter().r8 == 5 * PAGE


def test_progress_disarms_it(td: Td) -> None:
    host = td.host
    for _ in range(4):
        td.queue({"touch": 0}, {"touch": 5 * PAGE})
        for _ in range(5):
            assert td.enter().rax == EPT_VIOLATION
        td.queue({"touch": 0}, replace=True)
        td.enter()
    request = host.park("MEM.SEPT.RD", 1, rcx=0, rdx=td.tdr)
    assert td.enter({"touch": 0}).rax == EXTERNAL_INTERRUPT
    host.resume(request)
