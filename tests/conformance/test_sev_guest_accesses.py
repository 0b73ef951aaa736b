"""What guests meet: nested faults, validation, privilege levels, PVALIDATE and RMPADJUST, shared memory."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from driver import number
from sev_field import C_BIT, GHCB, HSAVE, MIB, PAGE, POLICY, Sev, Sevs, SnpVm, Tables, Vcpu

P, W, U = 1, 2, 4
RMP, ENC, SIZEM, VMPL = 1 << 31, 1 << 34, 1 << 35, 1 << 36
NPF, INTR = "0x400", "0x60"
LARGE = 2 * MIB
GPA = 0x100000


def read(gpa: int, length: int = 4) -> dict[str, Any]:
    return {"read": gpa, "len": length}


def touch(gpa: int, value: str = "2a") -> dict[str, Any]:
    return {"touch": gpa, "write": True, "value": value}


def pvalidate(gpa: int, validate: int = 1, size: int = 0) -> dict[str, Any]:
    return {"insn": "pvalidate", "rax": gpa, "ecx": size, "edx": validate}


def npf(left: dict[str, Any]) -> tuple[int, int]:
    assert left["exitcode"] == NPF, left
    return number(left["exitinfo1"]), number(left["exitinfo2"])


@pytest.fixture
def vm(snp: Sev) -> SnpVm:
    return SnpVm(snp)


def given(vm: SnpVm, gpa: int = GPA, size: int = 0) -> int:
    """One more page of the guest's, mapped, not validated."""
    host = vm.host
    page = host.alloc(LARGE, LARGE) if size else host.alloc()
    host.give(page, gpa, vm.asid, size=size)
    vm.tables.map(gpa, page, shift=21 if size else 12)
    return page


def test_private_memory_is_the_guests_alone(vm: SnpVm) -> None:
    left = vm.vcpu.do(touch(C_BIT | 0x1FFE, "01020304"), read(C_BIT | 0x1FFC, 8))
    assert (left["exitcode"], left["steps"]) == (INTR, [{}, {"hex": "0000010203040000"}])
    assert vm.host.read(vm.pages[1] + 0xFFE, 2) != b"\1\2"
    fault = vm.host.fault("write", addr=vm.pages[1], hex="00")
    assert (fault["name"], number(fault["address"])) == ("#PF", vm.pages[1])
    assert number(fault["error"]) & (RMP | W) == RMP | W


def test_shared_memory_is_everybodys(vm: SnpVm) -> None:
    page = vm.host.alloc()
    vm.tables.map(GPA, page)
    vm.host.write(page, b"host")
    left = vm.vcpu.do(read(GPA), touch(GPA, b"guest".hex()))
    assert left["steps"][0] == {"hex": b"host".hex()}
    assert vm.host.read(page, 5) == b"guest"


def test_an_access_to_what_is_not_mapped_exits_and_is_tried_again(vm: SnpVm) -> None:
    left = vm.vcpu.do(read(C_BIT, 1), touch(C_BIT | GPA), read(C_BIT | GPA, 1))
    error, gpa = npf(left)
    assert (gpa, error & (P | W | RMP | ENC)) == (GPA, W | ENC)
    assert left["steps"] == [{"hex": "00"}]
    assert vm.vcpu.enter()["exitcode"] == NPF
    given(vm)
    left = vm.vcpu.enter()
    fault = left["steps"][0]["fault"]
    assert (fault["code"], fault["error"]) == ("0x1d", "0x404")
    assert len(left["steps"]) == 2


@pytest.mark.parametrize(("flags", "write", "bits"), [(5, True, P | W), (3, False, P), (6, False, 0)])
def test_permissions_of_nested_tables_hold(vm: SnpVm, flags: int, write: bool, bits: int) -> None:
    vm.tables.map(GPA, vm.host.alloc(), flags=flags)
    error, _ = npf(vm.vcpu.do({"touch": GPA, "write": write}))
    assert error & (P | W | RMP | ENC) == bits


def test_a_private_page_is_right_only_at_its_place(vm: SnpVm) -> None:
    page = given(vm)
    vm.vcpu.do(pvalidate(GPA))
    vm.tables.map(GPA + PAGE, page)
    error, gpa = npf(vm.vcpu.do(read(C_BIT | GPA + PAGE)))
    assert (gpa, error & (P | RMP | ENC | SIZEM | VMPL)) == (GPA + PAGE, P | RMP | ENC)


def test_another_guests_page_is_out_of_reach(vm: SnpVm) -> None:
    page = vm.host.alloc()
    vm.host.give(page, GPA, 2)
    vm.tables.map(GPA, page)
    error, _ = npf(vm.vcpu.do(touch(C_BIT | GPA)))
    assert error & (RMP | ENC) == RMP | ENC


@pytest.mark.parametrize("write", [False, True])
def test_a_shared_access_to_an_assigned_page_is_a_violation(vm: SnpVm, write: bool) -> None:
    given(vm)
    error, gpa = npf(vm.vcpu.do({"touch": GPA, "write": write}))
    assert (gpa, error & (P | RMP | ENC)) == (GPA, P | RMP)


def test_pages_in_the_firmwares_hands_are_no_guests(vm: SnpVm) -> None:
    page = vm.host.alloc()
    vm.host.give(page, GPA, vm.asid, immutable=1)
    vm.tables.map(GPA, page)
    assert npf(vm.vcpu.do(pvalidate(GPA)))[0] & RMP
    assert npf(vm.vcpu.do(read(C_BIT | GPA), replace=True))[0] & RMP


def test_pvalidate_tells_whether_anything_changed(vm: SnpVm) -> None:
    page = given(vm)
    left = vm.vcpu.do(*(pvalidate(GPA, v) for v in (1, 1, 0, 0)))
    assert left["steps"] == [{"rax": "0x0", "cf": cf} for cf in (0, 1, 0, 1)]
    assert vm.host.entry(page)[0] >> 62 & 1 == 0
    vm.vcpu.do(pvalidate(GPA))
    assert vm.host.entry(page)[0] >> 62 & 1 == 1


def test_sizes_of_pvalidate_have_to_fit(vm: SnpVm) -> None:
    given(vm)
    assert (
        vm.vcpu.do(pvalidate(GPA + 8), pvalidate(GPA, size=2), pvalidate(GPA + PAGE, size=1))["steps"]
        == [{"rax": "0x1", "cf": 0}] * 3
    )
    page = given(vm, LARGE)  # 4 KiB entry and leaf
    left = vm.vcpu.do(pvalidate(LARGE, size=1))
    assert left["steps"] == [{"rax": "0x6", "cf": 0}]
    assert vm.host.entry(page)[0] >> 62 & 1 == 0


def test_a_small_pvalidate_of_a_large_entry_asks_the_host_to_smash_it(vm: SnpVm) -> None:
    block = given(vm, LARGE, size=1)
    error, gpa = npf(vm.vcpu.do(pvalidate(LARGE + 3 * PAGE)))
    assert (gpa, error & (RMP | SIZEM)) == (LARGE + 3 * PAGE, RMP | SIZEM)
    assert number(vm.host.insn("psmash", rax=block)["rax"]) == 0
    tables = Tables(vm.host)
    for n, page in enumerate(vm.pages):
        tables.map(n * PAGE, page)
    for n in range(8):
        tables.map(LARGE + n * PAGE, block + n * PAGE)
    vm.host.write(vm.vcpu.vmcb + 0xB0, struct.pack("<Q", tables.root))
    assert vm.vcpu.enter()["steps"] == [{"rax": "0x0", "cf": 0}]
    assert vm.host.entry(block + 3 * PAGE)[0] >> 62 & 1 == 1
    assert vm.host.entry(block + 2 * PAGE)[0] >> 62 & 1 == 0


def test_a_large_page_is_validated_at_once(vm: SnpVm) -> None:
    given(vm, LARGE, size=1)
    left = vm.vcpu.do(
        pvalidate(LARGE, size=1), touch(C_BIT | LARGE + 0x12345), read(C_BIT | LARGE + 0x12345, 1)
    )
    assert left["steps"] == [{"rax": "0x0", "cf": 0}, {}, {"hex": "2a"}]


def test_a_large_leaf_over_small_entries_is_a_violation(vm: SnpVm) -> None:
    block = given(vm, LARGE, size=1)
    vm.vcpu.do(pvalidate(LARGE, size=1))
    vm.host.insn("psmash", rax=block)
    error, _ = npf(vm.vcpu.do(read(C_BIT | LARGE)))
    assert error & (RMP | ENC) == RMP | ENC


def test_a_small_leaf_inside_a_large_entry_is_right(vm: SnpVm) -> None:
    block = vm.host.alloc(LARGE, LARGE)
    vm.host.give(block, LARGE, vm.asid, size=1)
    for n in (0, 9):
        vm.tables.map(LARGE + n * PAGE, block + n * PAGE)
    left = vm.vcpu.do(pvalidate(LARGE, size=1), touch(C_BIT | LARGE + 9 * PAGE))
    assert left["steps"] == [{"rax": "0x0", "cf": 0}, {}]


# -- privilege levels ----------------------------------------------------------------------------------


def adjust(gpa: int, vmpl: int, perms: int = 0, vmsa: int = 0, size: int = 0) -> dict[str, Any]:
    return {"insn": "rmpadjust", "rax": gpa, "ecx": size, "rdx": vmpl | perms << 8 | vmsa << 16}


def second_vcpu(vm: SnpVm, vmpl: int) -> Vcpu:
    """VCPU 0 makes a VMSA for a less privileged one: the way in which Linux starts a CPU."""
    page = given(vm, 0x200000)
    area = bytearray(0x3B8)
    area[0xCA], area[0x3B0] = vmpl, 1
    left = vm.vcpu.do(
        pvalidate(0x200000), touch(C_BIT | 0x200000, area.hex()), adjust(0x200000, 1, 0, vmsa=1)
    )
    assert left["steps"] == [{"rax": "0x0", "cf": 0}, {}, {"rax": "0x0"}]
    assert vm.host.entry(page)[0] >> 61 & 3 == 3
    return Vcpu(vm.host, vm.tables, vm.asid, 7, page)


def test_a_guest_makes_vmsas_of_its_own_pages(vm: SnpVm) -> None:
    vcpu = second_vcpu(vm, vmpl=0)
    assert vcpu.do(touch(C_BIT | 0x3000), pvalidate(0x3000, 0))["steps"] == [{}, {"rax": "0x0", "cf": 0}]


def test_a_less_privileged_level_has_what_it_was_given(vm: SnpVm) -> None:
    vcpu = second_vcpu(vm, vmpl=2)
    error, _ = npf(vcpu.do(read(C_BIT | 0x1000)))
    assert error & (RMP | ENC | VMPL) == RMP | ENC | VMPL
    assert vm.vcpu.do(adjust(0x1000, 2, 1))["steps"] == [{"rax": "0x0"}]
    assert vcpu.enter()["steps"] == [{"hex": "00000000"}]
    error, _ = npf(vcpu.do(touch(C_BIT | 0x1000)))
    assert error & (VMPL | W) == VMPL | W
    vm.vcpu.do(adjust(0x1000, 2, 3))
    assert vcpu.enter()["steps"] == [{}]
    assert vm.host.entry(vm.pages[1])[1] & 0xFFFFFF00 == 3 << 16


def test_rmpadjust_gives_only_downwards_and_only_what_one_has(vm: SnpVm) -> None:
    vcpu = second_vcpu(vm, vmpl=1)
    vm.vcpu.do(adjust(0x1000, 1, 1))
    left = vcpu.do(
        adjust(0x1000, 1, 1),  # its own level
        adjust(0x1000, 0, 1),
        adjust(0x1000, 2, 3),  # more than it has
        adjust(0x1000, 2, 1, vmsa=1),
        adjust(0x1000, 2, 1),
        adjust(0x1000, 4, 1),
        adjust(0x1008, 2, 1),
        pvalidate(0x1000),
    )
    codes = [step.get("rax") for step in left["steps"]]
    assert codes[:7] == ["0x2", "0x2", "0x2", "0x2", "0x0", "0x1", "0x1"]
    assert left["steps"][7]["fault"]["code"] == "0xd"


def test_rmpadjust_of_a_page_that_is_not_validated_is_an_exception_of_the_guest(vm: SnpVm) -> None:
    given(vm)
    fault = vm.vcpu.do(adjust(GPA, 1, 1))["steps"][0]["fault"]
    assert (fault["name"], fault["error"]) == ("#VC", "0x404")


# -- the GHCB and exits --------------------------------------------------------------------------------


def test_rmpadjust_meets_the_entry_as_an_access_does(vm: SnpVm) -> None:
    """A page that is another's is a nested fault; sizes that differ are one, or the instruction's answer."""
    given(vm, GPA)
    foreign = vm.host.alloc()
    vm.host.give(foreign, GPA + PAGE, 2)
    vm.tables.map(GPA + PAGE, foreign)
    assert npf(vm.vcpu.do(adjust(GPA + PAGE, 1), replace=True))[0] & (RMP | ENC) == RMP | ENC
    large = GPA + 8 * LARGE & ~(LARGE - 1)
    given(vm, large, size=1)
    error, at = npf(vm.vcpu.do(adjust(large, 1), replace=True))
    assert (error & (RMP | SIZEM), at) == (RMP | SIZEM, large)
    block = vm.host.alloc(LARGE, LARGE)
    vm.host.give(block, 2 * large, vm.asid)
    vm.tables.map(2 * large, block)
    left = vm.vcpu.do({"insn": "rmpadjust", "rax": 2 * large, "ecx": 1, "rdx": 1}, replace=True)
    assert left["steps"] == [{"rax": "0x6"}], "FAIL_SIZEMISMATCH"


def test_what_is_no_memory_is_the_hosts_to_emulate_and_no_matter_of_the_rmp(vm: SnpVm) -> None:
    vm.tables.map(GPA, vm.host.memory)
    for step in (pvalidate(GPA), touch(C_BIT | GPA)):
        assert npf(vm.vcpu.do(step, replace=True))[0] & (RMP | ENC) == ENC


def test_the_ghcb_msr_is_what_the_host_sees_in_the_control_block(vm: SnpVm) -> None:
    left = vm.vcpu.do(
        {"insn": "wrmsr", "ecx": GHCB, "rax": 0x123456789014},
        {"exit": "vmgexit"},
        {"insn": "rdmsr", "ecx": GHCB},
    )
    assert (left["exitcode"], left["steps"]) == ("0x403", [{}, {}])
    assert struct.unpack("<Q", vm.host.read(vm.vcpu.vmcb + 0xA0, 8))[0] == 0x123456789014
    vm.host.write(vm.vcpu.vmcb + 0xA0, struct.pack("<Q", 0x15))
    assert number(vm.vcpu.enter()["steps"][0]["rax"]) == 0x15


def test_exits_are_stored_in_the_control_block(vm: SnpVm) -> None:
    left = vm.vcpu.do(read(GPA | C_BIT))
    code, info1, info2 = struct.unpack("<QQQ", vm.host.read(vm.vcpu.vmcb + 0x70, 24))
    assert (hex(code), hex(info1), hex(info2)) == (left["exitcode"], left["exitinfo1"], left["exitinfo2"])


def test_hlt_and_shutdown(vm: SnpVm) -> None:
    left = vm.vcpu.do({"exit": "hlt"}, {"exit": "shutdown"}, {"insn": "rdmsr", "ecx": 0x10})
    assert left["exitcode"] == "0x7f"
    assert left["steps"][0]["fault"]["code"] == "0x1d"
    assert vm.vcpu.enter()["steps"][0]["fault"]["name"] == "#GP"


def test_a_program_can_be_replaced(vm: SnpVm) -> None:
    npf(vm.vcpu.do(read(C_BIT | GPA)))
    assert vm.vcpu.do(read(C_BIT, 1), replace=True)["steps"] == [{"hex": "00"}]


# -- guests that are not SNP ---------------------------------------------------------------------------


def legacy_vm(host: Sev, policy: int = 0, asid: int = 8, pages: int = 2) -> tuple[Vcpu, list[int], Tables]:
    """A legacy guest that runs, its first pages measured; no VMSA."""
    handle = host.legacy_guest(policy, asid)
    memory = host.pages(pages)
    tables = Tables(host)
    for n, page in enumerate(memory):
        host.write(page, b"page %d" % n)
        host.did("LAUNCH_UPDATE_DATA", handle=handle, pa=page, len=PAGE)
        tables.map(n * PAGE, page)
    vmsa = 0
    if policy & 4:
        vmsa = host.alloc()
        host.did("LAUNCH_UPDATE_VMSA", handle=handle, pa=vmsa, len=PAGE)
    blob = host.alloc()
    host.did("LAUNCH_MEASURE", handle=handle, pa=blob, len=48)
    host.did("LAUNCH_FINISH", handle=handle)
    return Vcpu(host, tables, asid, 7 if policy & 4 else 3, vmsa), memory, tables


def test_a_sev_guest_reads_what_was_measured(legacy: Sev) -> None:
    vcpu, memory, _ = legacy_vm(legacy)
    assert legacy.read(memory[1], 6) != b"page 1"
    left = vcpu.do(read(C_BIT | PAGE, 6), {"exit": "hlt"})
    assert (left["exitcode"], left["steps"][0]) == ("0x78", {"hex": b"page 1".hex()})


def test_the_host_can_spoil_a_legacy_guests_memory(legacy: Sev) -> None:
    vcpu, memory, _ = legacy_vm(legacy)
    legacy.write(memory[0], b"\0")
    left = vcpu.do(read(C_BIT, 16), read(C_BIT | 16, 16))
    assert left["steps"][0] != {"hex": b"page 0".ljust(16, b"\0").hex()}
    assert left["steps"][1] == {"hex": bytes(16).hex()}


def test_what_only_snp_guests_have(legacy: Sev) -> None:
    vcpu, _, _ = legacy_vm(legacy)
    left = vcpu.do(pvalidate(0), adjust(0, 1), {"insn": "wrmsr", "ecx": GHCB, "rax": 1}, {"exit": "vmgexit"})
    assert [step["fault"]["name"] for step in left["steps"]] == ["#UD", "#UD", "#GP", "#UD"]


def test_an_es_guest_has_a_ghcb_and_its_vmsa_is_proved(legacy: Sev) -> None:
    vcpu, _, _ = legacy_vm(legacy, policy=4, asid=2)
    left = vcpu.do({"insn": "wrmsr", "ecx": GHCB, "rax": 0x2000}, {"exit": "vmgexit"})
    assert (left["exitcode"], left["steps"]) == ("0x403", [{}, {}])
    vmsa = struct.unpack("<Q", legacy.read(vcpu.vmcb + 0x108, 8))[0]
    legacy.write(vmsa + 0x100, b"spoilt")
    assert vcpu.enter()["exitcode"] == "0xffffffffffffffff"


def test_a_plain_guest_runs_without_the_firmware(legacy: Sev) -> None:
    tables = Tables(legacy)
    page = legacy.alloc()
    tables.map(0, page)
    vcpu = Vcpu(legacy, tables, 1, 1)
    assert vcpu.do(touch(0, b"plain".hex()), {"exit": "hlt"})["exitcode"] == "0x78"
    assert legacy.read(page, 5) == b"plain"


def test_a_guest_that_is_not_snp_may_not_write_assigned_pages(snp: Sev) -> None:
    tables = Tables(snp)
    page = snp.alloc()
    snp.firmware(page)
    tables.map(0, page)
    vcpu = Vcpu(snp, tables, 1, 1)
    assert vcpu.do(read(0, 2))["steps"] == [{"hex": "0000"}]
    error, _ = npf(vcpu.do(touch(0)))
    assert error & (RMP | W) == RMP | W


def test_a_vmsa_that_comes_back_from_a_swap_is_proved_where_it_now_is(legacy: Sev) -> None:
    vcpu, _, _ = legacy_vm(legacy, policy=4, asid=2)
    vmsa = struct.unpack("<Q", legacy.read(vcpu.vmcb + 0x108, 8))[0]
    out, back, mdata = legacy.pages(3)
    legacy.did("SWAP_OUT", handle=1, flags=4, src=vmsa, dst=out, mdata=mdata)
    legacy.write(vcpu.vmcb + 0x108, struct.pack("<Q", back))
    assert vcpu.enter()["exitcode"] == "0xffffffffffffffff", "nobody has proved what lies there"
    legacy.did("SWAP_IN", handle=1, flags=4, src=out, dst=back, mdata=mdata)
    assert vcpu.enter()["exitcode"] == "0x60"


@pytest.mark.parametrize("address", [0xA0000, 1 << 40])
def test_a_control_block_that_lies_in_no_memory_is_a_fault(snp: Sev, address: int) -> None:
    vcpu = Vcpu(snp, Tables(snp), 1, 1)
    assert snp.fault("enter", vcpu=address)["name"] == "#GP"
    assert vcpu.do({"exit": "hlt"})["exitcode"] == "0x78"
    snp.wrmsr(HSAVE, address)
    assert snp.fault("enter", vcpu=vcpu.vmcb)["name"] == "#GP"


# -- a CPU stays in a guest while its host does other things ------------------------------------------------


class Plain(Vcpu):
    """Of a guest without SEV. `leaves` is its lowest table."""

    def __init__(self, host: Sev, tables: Tables) -> None:
        super().__init__(host, tables, 1, 1)
        self.leaves = tables._tables[21, 0]


def plain(host: Sev, *contents: bytes) -> Plain:
    """A VCPU; its first pages hold `contents`."""
    tables = Tables(host)
    for n, (page, data) in enumerate(zip(host.pages(len(contents)), contents, strict=True)):
        host.write(page, data)
        tables.map(n * PAGE, page)
    return Plain(host, tables)


def test_a_guest_keeps_its_memory_while_its_host_brings_the_platform_up(sev: Sevs) -> None:
    """Whatever an emulation forgets of its tables, nobody else's come to lie in them."""
    host = sev()
    one, other = plain(host, b"aaaa", b"bbbb"), plain(host, b"cccc", b"dddd")
    host.ok("guest", vcpu=one.vmcb, do=[read(0)])
    assert host.ok("enter", vcpu=one.vmcb, stay=True)["running"] is True
    tmr = host.alloc(MIB, MIB)
    host.buffer += 0x400
    host.write(host.buffer, struct.pack("<H6xQI", 1, tmr, MIB))
    assert host.submit("INIT", host.buffer, cpu=1) == 0
    host.ok("guest", vcpu=other.vmcb, do=[read(0), read(PAGE)])
    assert other.enter(cpu=1)["steps"] == [{"hex": b"cccc".hex()}, {"hex": b"dddd".hex()}]
    answer = host.ok("guest", vcpu=one.vmcb, do=[read(0), read(PAGE)])
    assert answer["steps"][-2:] == [{"hex": b"aaaa".hex()}, {"hex": b"bbbb".hex()}]
    host.ok("kick")
    host.ok("guest", vcpu=other.vmcb, do=[read(0), read(PAGE)])
    assert other.enter(cpu=1)["steps"] == [{"hex": b"cccc".hex()}, {"hex": b"dddd".hex()}]


def test_a_table_that_the_firmware_stores_to_has_changed(legacy: Sev) -> None:
    vcpu, handle = plain(legacy, b"aaaa", b"bbbb"), legacy.launched()
    legacy.ok("guest", vcpu=vcpu.vmcb, do=[read(0)])
    assert vcpu.enter()["steps"] == [{"hex": b"aaaa".hex()}]
    table = vcpu.leaves
    entries, page = legacy.read(table, 16), legacy.alloc()
    legacy.write(page, entries[8:] + entries[8:])
    secret = legacy.alloc()
    legacy.did("DBG_ENCRYPT", handle=handle, src=page, dst=secret, len=16)
    legacy.did("DBG_DECRYPT", handle=handle, src=secret, dst=table, len=16)
    assert legacy.read(table, 16) == entries[8:] * 2
    legacy.ok("guest", vcpu=vcpu.vmcb, do=[read(0)])
    assert vcpu.enter()["steps"] == [{"hex": b"bbbb".hex()}]
    assert legacy.submit("PLATFORM_STATUS", table) == 0
    legacy.ok("guest", vcpu=vcpu.vmcb, do=[read(0)])
    assert npf(vcpu.enter()) == (P | U, 0), "its version is no entry for a guest"


def test_a_table_in_a_page_of_the_firmwares_is_one_all_the_same(snp: Sev) -> None:
    """Nobody may store to it but the firmware; the hardware reads it."""
    owner, vcpu = SnpVm(snp, policy=POLICY | 1 << 19), plain(snp, b"aaaa", b"bbbb")
    entries = snp.read(vcpu.leaves, 16)
    owner.vcpu.do(touch(C_BIT | PAGE, (entries[8:] + entries[8:]).hex()))
    snp.firmware(vcpu.leaves)
    snp.ok("guest", vcpu=vcpu.vmcb, do=[read(0)])
    assert vcpu.enter()["steps"] == [{"hex": b"aaaa".hex()}]
    snp.did("SNP_DBG_DECRYPT", gctx=owner.gctx, src=owner.pages[1], dst=vcpu.leaves)
    assert snp.read(vcpu.leaves, 16) == entries[8:] * 2
    snp.ok("guest", vcpu=vcpu.vmcb, do=[read(0)])
    assert vcpu.enter()["steps"] == [{"hex": b"bbbb".hex()}]
    snp.did("SNP_PAGE_MD_INIT", gctx=owner.gctx, pa=vcpu.leaves)
    snp.ok("guest", vcpu=vcpu.vmcb, do=[read(0)])
    assert npf(vcpu.enter()) == (U, 0), "metadata begins as zeroes"
