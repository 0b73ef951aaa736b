"""The console of an AMD host:

memory, instructions, faults, and what makes no sense. Also the contract's examples.
"""

from __future__ import annotations

import pytest
from driver import number
from sev_field import (
    HSAVE,
    IDS,
    MIB,
    PAGE,
    RMP_BASE,
    RMP_END,
    SNP_CPU,
    SYSCFG,
    Sev,
    Sevs,
    SnpVm,
    buffer,
)


def test_a_small_host_tells_what_it_is(sev: Sevs, sev_depth: int) -> None:
    host = sev()
    info = host.ok("info")
    assert (info["arch"], info["depth"], info["page_size"]) == ("sev", sev_depth, PAGE)
    assert (host.memory, host.cpus) == (512 * MIB, 4)
    te = host.te
    assert (te["api_major"], te["api_minor"], te["build"]) == (1, 55, 25)
    assert (te["asids"], te["min_sev_asid"], te["c_bit"], te["smt"], te["sockets"]) == (15, 8, 51, True, 1)
    assert te["nested_msr"] is (sev_depth > 0)
    assert [cpu["core"] for cpu in te["cpus"]] == [0, 0, 1, 1]
    assert te["dram"] == [{"base": "0x0", "len": "0xa0000"}, {"base": "0x100000", "len": hex(511 * MIB)}]


def test_legacy_sev_comes_up_as_in_the_contract(sev: Sevs) -> None:
    host = sev()
    assert host.ok("alloc", len=MIB, align=MIB) == {"addr": "0x200000"}
    host.ok("write", addr=0x300000, hex="0100000000000000000020000000000000001000")
    answer = host.ok("call", cmdresp=0x10000, lo=0x300000, hi=0)
    assert answer == {"cmdresp": "0x80010000", "lo": "0x0", "hi": "0x0"}
    assert host.insn("wbinvd") == {}


def test_a_firmware_page_looks_as_in_the_contract(snp: Sev) -> None:
    snp.ok("write", addr=0x301000, hex="00000000000000000100010000000000")
    assert snp.insn("rmpupdate", rax=0x1000000, rcx=0x301000) == {"rax": "0x0"}
    assert snp.ok("read", addr=0x414000, len=16) == {"hex": "05000000000000000000000000000000"}


def test_a_guest_takes_a_private_page_as_in_the_contract(snp: Sev) -> None:
    vm = SnpVm(snp, private=4)
    page = snp.alloc()
    snp.give(page, 0x5000, vm.asid)
    vm.tables.map(0x5000, page)
    left = vm.vcpu.do(
        {"insn": "pvalidate", "rax": 0x5000, "ecx": 0, "edx": 1},
        {"touch": 0x8000000005000, "write": True, "value": "2a"},
    )
    assert left == {
        "exitcode": "0x60",
        "exitinfo1": "0x0",
        "exitinfo2": "0x0",
        "exitintinfo": "0x0",
        "steps": [{"rax": "0x0", "cf": 0}, {}],
    }


def test_cpus_start_with_memory_encryption_on_and_nothing_else(sev: Sevs) -> None:
    host = sev()
    for cpu in range(host.cpus):
        assert host.rdmsr(SYSCFG, cpu) == 0x800000
        assert [host.rdmsr(msr, cpu) for msr in (HSAVE, RMP_BASE, RMP_END)] == [0, 0, 0]


def test_the_rmp_cannot_be_moved_once_snp_is_on(sev: Sevs) -> None:
    host = sev()
    host.wrmsr(RMP_BASE, 0x123456789ABCDEF)
    assert host.rdmsr(RMP_BASE) == 0x123456789ABCDEF
    host.wrmsr(SYSCFG, SNP_CPU)
    assert host.fault("insn", name="wrmsr", ecx=RMP_BASE, rax=0)["code"] == "0xd"
    assert host.fault("insn", name="wrmsr", ecx=RMP_END, rax=0)["code"] == "0xd"
    host.wrmsr(RMP_BASE, 0x400000, cpu=1)  # each CPU for itself


def test_snp_enable_stays_until_a_reset(sev: Sevs) -> None:
    host = sev()
    host.wrmsr(SYSCFG, SNP_CPU)
    host.wrmsr(SYSCFG, 0x800000)
    assert host.rdmsr(SYSCFG) == 0x1800000
    host.ok("reset", kind="power")
    assert host.rdmsr(SYSCFG) == 0x800000


@pytest.mark.parametrize("msr", [0x10, 0xC0000080, GHCB := 0xC0010130, 0xC0010131])
def test_other_msrs_are_not_there(sev: Sevs, msr: int) -> None:
    host = sev()
    assert host.fault("insn", name="rdmsr", ecx=msr)["name"] == "#GP"
    assert host.fault("insn", name="wrmsr", ecx=msr, rax=1)["name"] == "#GP"


@pytest.mark.parametrize("name", ["rmpupdate", "psmash", "wrmsr", "rdmsr", "wbinvd"])
def test_a_user_may_issue_no_privileged_instruction(sev: Sevs, name: str) -> None:
    host = sev()
    assert host.ok("cpu", cpu=1, cpl=3) == {"cpl": 3}
    assert host.fault("insn", name=name, cpu=1)["code"] == "0xd"


@pytest.mark.parametrize(
    ("msr", "value"), [(0xC0010010, 1), (0xC0010117, 0x100800), (0xC0010117, 1 << 52)], ids=hex
)
def test_a_value_that_an_msr_cannot_hold_is_a_fault(sev: Sevs, msr: int, value: int) -> None:
    host = sev()
    before = host.rdmsr(msr)
    answer = host.fault("insn", name="wrmsr", ecx=msr, rax=value & 0xFFFFFFFF, rdx=value >> 32)
    assert answer["name"] == "#GP"
    assert host.rdmsr(msr) == before


def test_the_rmp_instructions_are_undefined_before_snp_is_on(sev: Sevs) -> None:
    host = sev()
    assert host.fault("insn", name="rmpupdate", rax=0x1000000, rcx=0x300000)["name"] == "#UD"
    assert host.fault("insn", name="psmash", rax=0x1000000)["name"] == "#UD"
    host.wrmsr(SYSCFG, SNP_CPU, cpu=1)
    assert host.fault("insn", name="psmash", rax=0x1000000)["name"] == "#UD"
    assert host.fault("insn", name="rmpread", rax=0x1000000)["name"] == "#UD"


def test_the_trapping_msrs_follow_what_cpuid_says(snp: Sev, sev_depth: int) -> None:
    leaf = snp.insn("cpuid", eax=0x8000001F, ecx=0)
    assert bool(number(leaf["eax"]) & 1 << 29) is (sev_depth > 0)
    assert number(leaf["ebx"]) & 0x3F == 51
    assert (number(leaf["ecx"]), number(leaf["edx"])) == (15, 8)
    answer = snp.ask("insn", name="wrmsr", ecx=0xC001F001, rax=0x1000000, rdx=0, r8=0x10001)
    if sev_depth:
        assert number(answer["ok"]["rax"]) == 0
        assert snp.entry(0x1000000) == (5, 0)
    else:
        assert answer["fault"]["name"] == "#GP"


def test_what_is_no_memory_cannot_be_reached(sev: Sevs) -> None:
    host = sev()
    for address in (0xA0000, 0xBFFFF, 0xFFFFF, 512 * MIB, 0x9FFFF):
        fault = host.fault("read", addr=address, len=2)
        assert (fault["code"], fault["write"]) == ("0xe", False)
        assert number(fault["error"]) & 1 << 31 == 0
    assert host.fault("write", addr=512 * MIB - 1, hex="0000")["address"] == hex(512 * MIB)


def test_nothing_is_written_where_a_part_cannot_be(snp: Sev) -> None:
    page = snp.alloc(2 * PAGE)
    snp.firmware(page + PAGE)
    fault = snp.fault("write", addr=page + PAGE - 2, hex="aabbccdd")
    assert number(fault["address"]) == page + PAGE
    assert number(fault["error"]) & 1 << 31
    assert fault["write"] is True
    assert snp.read(page + PAGE - 2, 4) == bytes(4)
    assert number(snp.fault("fill", addr=page, len=2 * PAGE, byte=1)["address"]) == page + PAGE
    assert snp.read(page, 4) == bytes(4)


def test_alloc_never_gives_the_first_mib_nor_a_page_of_the_firmware(snp: Sev) -> None:
    page = snp.alloc(64 * PAGE)
    snp.firmware(page + PAGE)
    snp.ok("free", addr=page)
    again = snp.alloc(2 * PAGE, above=page)
    assert again > page + PAGE
    assert snp.error("alloc", len=PAGE, below=MIB)["code"] == "limit"


def test_a_power_cycle_is_a_fresh_start(snp: Sev) -> None:
    page = snp.alloc()
    snp.write(page, b"still here")
    snp.firmware(page)
    snp.ok("reset", kind="power")
    assert snp.read(page, 10) == bytes(10)
    snp.write(page, b"x")
    assert snp.cmd("SNP_GCTX_CREATE", gctx=page) == 0x01
    assert snp.alloc() == 0x200000


def test_kill_puts_a_fresh_host_in_its_place(snp: Sev) -> None:
    SnpVm(snp)
    snp.ok("kill")
    assert snp.rdmsr(SYSCFG) == 0x800000
    snp.snp_up()
    SnpVm(snp)


def test_unknown_commands_are_refused_before_anything_else(sev: Sevs) -> None:
    host = sev()
    for code in (0x000, 0x010, 0x01F, 0x045, 0x080, 0x087, 0x0C4, 0x0CC, 0x0D0, 0x0D5, 0x7FF):
        answer = host.ok("call", cmdresp=code << 16, lo=0xFFFFFFFF, hi=0xFFFFFFFF)
        assert number(answer["cmdresp"]) == 1 << 31 | code << 16 | 0x11


@pytest.mark.parametrize("address", [0xA0000, 0x9FFFC, 512 * MIB, 512 * MIB - 4, 1 << 40])
def test_a_buffer_has_to_lie_in_memory(sev: Sevs, address: int) -> None:
    host = sev()
    assert host.submit("SNP_CONFIG", address) == 0x09
    assert host.submit("SNP_PLATFORM_STATUS", address) == 0x09


def test_a_buffer_in_the_rmp_or_in_the_trusted_region_is_refused(sev: Sevs) -> None:
    host = sev()
    host.snp_up()
    assert host.submit("SNP_COMMIT", 0x400000) == 0x09
    host.ok("reset", kind="power")
    host.sev_up()
    assert host.submit("DECOMMISSION", 0x200000) == 0x09
    assert host.submit("DECOMMISSION", 0x200000 - 2) == 0x09


def test_the_c_bit_of_an_address_is_no_part_of_it(snp: Sev) -> None:
    snp.write(snp.buffer, buffer("SNP_COMMIT", length=4) if not snp.te["nested_msr"] else bytes(8))
    status = snp.alloc()
    snp.firmware(status)
    snp.write(snp.buffer, buffer("SNP_PLATFORM_STATUS", status=status | 1 << 51))
    assert snp.submit("SNP_PLATFORM_STATUS", snp.buffer | 1 << 51) == 0
    assert snp.read(status, 3) == bytes((1, 55, 1))


def test_commands_without_a_buffer_do_not_look_at_the_address(sev: Sevs) -> None:
    host = sev()
    assert host.submit("NOP", 1 << 40) == 0
    assert host.submit("SHUTDOWN", 0xA0000) == 0


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"op": "call", "lo": "0x0"}, "bad_request", "cmdresp"),
        ({"op": "call", "cmdresp": "0x1ffffffff"}, "bad_value", "cmdresp"),
        ({"op": "insn", "name": "vmmcall"}, "bad_value", "name"),
        ({"op": "insn", "name": "wbinvd", "cpu": 4}, "bad_value", "cpu"),
        ({"op": "enter"}, "bad_request", "vcpu"),
        ({"op": "guest", "vcpu": "0x1000", "do": [{"exit": "hypercall"}]}, "bad_value", "do"),
        ({"op": "guest", "vcpu": "0x1000", "do": [{}]}, "bad_value", "do"),
        ({"op": "read", "addr": "0x0", "len": 1, "space": "linear"}, "bad_value", "space"),
        ({"op": "reset", "kind": "warm"}, "bad_value", "kind"),
        ({"op": "cpu", "cpl": 4}, "bad_value", "cpl"),
        ({"op": "sequence", "name": "migrate"}, "bad_value", "name"),
        ({"op": "sequence", "name": "destroy", "vm": 7}, "bad_value", "vm"),
        ({"op": "enter", "vcpu": "0x1000", "park": True}, "bad_value", "park"),
    ],
)
def test_requests_that_make_no_sense_are_errors(
    sev: Sevs, fields: dict[str, object], code: str, field: str
) -> None:
    host = sev()
    op, rest = str(fields["op"]), {name: value for name, value in fields.items() if name != "op"}
    error = host.error(op, **rest)
    assert (error["code"], error["field"]) == (code, field)


def test_a_completion_that_is_lost_changes_no_answer(snp: Sev, sev_depth: int) -> None:
    """The command was executed once: whoever waits for it finds that out, and does not try again."""
    page = snp.alloc()
    snp.firmware(page)
    snp.write(snp.buffer, page.to_bytes(8, "little"))
    if not sev_depth:
        lost = snp.error("call", cmdresp=IDS["SNP_GCTX_CREATE"] << 16, lo=snp.buffer, lose=True)
        assert lost["code"] == "bad_request"
        return
    assert snp.submit("SNP_GCTX_CREATE", snp.buffer, lose=True) == 0
    assert snp.entry(page)[0] == 5 | 1 << 61
    assert snp.submit("SNP_GCTX_CREATE", snp.buffer, lose=True) == 0x1A


@pytest.mark.parametrize("end", [("reset", {"kind": "power"}), ("kill", {})])
def test_a_host_ends_while_a_command_is_parked_and_a_cpu_is_in_a_guest(
    snp: Sev, end: tuple[str, dict[str, str]]
) -> None:
    vm = SnpVm(snp)
    assert snp.ok("enter", vcpu=vm.vcpu.vmcb, cpu=2, stay=True)["running"] is True
    page = snp.alloc()
    snp.firmware(page)
    snp.write(snp.buffer, page.to_bytes(8, "little"))
    assert snp.ok("call", cmdresp=IDS["SNP_GCTX_CREATE"] << 16, lo=snp.buffer, park=True) == {"parked": True}
    snp.ok(end[0], **end[1])
    book = snp.ok("audit")
    assert book["leaks"] == []
    assert not any(book["hosts"][0]["te"].values())
    snp.snp_up()
    assert SnpVm(snp).vcpu.enter(cpu=2)["exitcode"] == "0x60"


def test_counts_name_what_was_issued_refused_or_not(sev: Sevs, sev_depth: int) -> None:
    host = sev()
    host.ok("counts")
    host.cmd("NOP")
    host.cmd("LAUNCH_FINISH", handle=1)
    host.insn("wbinvd", cpu=2)
    counts = host.ok("counts")
    machine = counts.pop("machine")
    assert counts == {"psp": {"NOP": 1, "LAUNCH_FINISH": 1}, "wbinvd": 1}
    if not sev_depth:
        assert machine == {"psp": {"NOP": 1, "LAUNCH_FINISH": 1}}
    assert host.ok("counts") == {"machine": {}}


def test_siblings_do_not_see_each_other(sev: Sevs) -> None:
    one = sev(hosts=2)
    other = Sev(one.keyboard, 1)
    one.snp_up()
    gctx = one.snp_guest()
    assert other.cmd("SNP_GUEST_STATUS", gctx=gctx, status=0x120000) == 0x01
    other.snp_up()
    assert other.cmd("SNP_DECOMMISSION", gctx=gctx) == 0x10
    assert one.cmd("SNP_DECOMMISSION", gctx=gctx) == 0
