"""Launching SNP guests: what is measured, what pages become, who may run. The digest is computed twice."""

from __future__ import annotations

import hashlib
import struct

import pytest
from driver import number
from sev_field import HSAVE, MIB, PAGE, POLICY, Sev, SnpVm, Tables, Vcpu

try:  # the program that owners of guests use, where it is installed
    from sevsnpmeasure.gctx import GCTX
except ImportError:
    GCTX = None

NORMAL, VMSA, ZERO, UNMEASURED, SECRETS, CPUID = range(1, 7)
REGISTERS = ("eax", "ebx", "ecx", "edx")
VMSA_GPA = 0xFFFFFFFFF000


def extended(digest: bytes, kind: int, page: bytes, gpa: int, imi: int = 0, vmpls: bytes = bytes(3)) -> bytes:
    """The launch digest with one more page, from the documents: PAGE_INFO is 0x70 bytes."""
    contents = hashlib.sha384(page).digest() if kind in (NORMAL, VMSA) else bytes(48)
    info = digest + contents + struct.pack("<HBBB", 0x70, kind, imi, 0) + vmpls + struct.pack("<Q", gpa)
    assert len(info) == 0x70
    return hashlib.sha384(info).digest()


def attested(vm: SnpVm, key: bytes) -> bytes:
    """The report that the guest with this message key gets."""
    from sev_messages import report

    return report(vm.host, vm.gctx, key)


def secret_key(vm: SnpVm) -> bytes:
    """VMPCK0, as the guest reads it from its secrets page at GPA 0."""
    left = vm.vcpu.do({"read": 1 << 51 | 0x20, "len": 32})
    return bytes.fromhex(left["steps"][0]["hex"])


def test_a_launched_guest_has_the_measurement_that_its_owner_expects(snp: Sev) -> None:
    vm = SnpVm(snp, private=3, secrets=True)
    digest = extended(bytes(48), SECRETS, b"", 0)
    for gpa in (PAGE, 2 * PAGE):
        digest = extended(digest, NORMAL, bytes(PAGE), gpa)
    vmsa = bytearray(PAGE)
    vmsa[0x3B0] = 1
    digest = extended(digest, VMSA, bytes(vmsa), VMSA_GPA)
    report = attested(vm, secret_key(vm))
    assert report[0x90:0xC0] == digest


@pytest.mark.skipif(GCTX is None, reason="sev-snp-measure is not installed")
def test_the_measurement_is_that_of_the_owners_program(snp: Sev) -> None:
    vm = SnpVm(snp, private=3, secrets=True)
    context = GCTX()
    context.update_secrets_page(0)
    context.update_normal_pages(PAGE, bytes(2 * PAGE))
    vmsa = bytearray(PAGE)
    vmsa[0x3B0] = 1
    context.update_vmsa_page(bytes(vmsa))
    assert attested(vm, secret_key(vm))[0x90:0xC0] == context.ld()


@pytest.mark.parametrize("kind", [NORMAL, ZERO, UNMEASURED, CPUID])
def test_what_a_guest_finds_in_a_page_of_each_type(snp: Sev, kind: int) -> None:
    gctx = snp.snp_guest()
    secrets, page, vmsa = snp.pages(3)
    snp.measure(gctx, secrets, 0, kind=SECRETS)
    snp.write(page, b"" if kind == CPUID else b"contents")
    snp.measure(gctx, page, PAGE, kind=kind)
    snp.write(vmsa + 0x3B0, b"\1")
    snp.measure(gctx, vmsa, VMSA_GPA, kind=VMSA)
    snp.did("SNP_LAUNCH_FINISH", gctx=gctx)
    tables = Tables(snp)
    tables.map(0, secrets)
    tables.map(PAGE, page)
    vcpu = Vcpu(snp, tables, 1, 7, vmsa)
    left = vcpu.do({"read": 1 << 51 | PAGE, "len": 8})
    assert left["steps"] == [{"hex": (bytes(8) if kind in (ZERO, CPUID) else b"contents").hex()}]
    assert snp.read(page, 8) not in (bytes(8), b"contents")


def test_a_large_page_is_measured_in_chunks(snp: Sev) -> None:
    gctx = snp.snp_guest()
    secrets, vmsa = snp.pages(2)
    block = snp.alloc(2 * MIB, 2 * MIB)
    snp.measure(gctx, secrets, 0, kind=SECRETS)
    snp.write(block + 511 * PAGE, b"last")
    snp.give(block, 2 * MIB, 1, size=1, immutable=1)
    snp.did("SNP_LAUNCH_UPDATE", gctx=gctx, flags=NORMAL << 1 | 1, pa=block)
    snp.write(vmsa + 0x3B0, b"\1")
    snp.measure(gctx, vmsa, VMSA_GPA, kind=VMSA)
    snp.did("SNP_LAUNCH_FINISH", gctx=gctx)
    digest = extended(bytes(48), SECRETS, b"", 0)
    for n in range(512):
        digest = extended(
            digest, NORMAL, (b"last" if n == 511 else b"").ljust(PAGE, b"\0"), 2 * MIB + n * PAGE
        )
    area = bytearray(PAGE)
    area[0x3B0] = 1
    digest = extended(digest, VMSA, bytes(area), VMSA_GPA)
    tables = Tables(snp)
    tables.map(0, secrets)
    tables.map(2 * MIB, block, shift=21)
    vcpu = Vcpu(snp, tables, 1, 7, vmsa)
    left = vcpu.do({"read": 1 << 51 | 0x20, "len": 32}, {"read": 1 << 51 | 4 * MIB - PAGE, "len": 4})
    assert left["steps"][1] == {"hex": b"last".hex()}
    from sev_messages import report

    assert report(snp, gctx, bytes.fromhex(left["steps"][0]["hex"]))[0x90:0xC0] == digest


def test_launch_pages_carry_the_masks_of_the_command(snp: Sev) -> None:
    gctx = snp.snp_guest()
    page = snp.alloc()
    snp.measure(gctx, page, PAGE, vmpl1=0xF, vmpl2=3, vmpl3=1)
    low, high = snp.entry(page)
    assert low == 1 | PAGE | 1 << 51 | 1 << 62
    assert high & 0xFFFFFF00 == 0x01030F00


def test_a_vmsa_page_is_marked_as_one(snp: Sev) -> None:
    gctx = snp.snp_guest()
    page = snp.alloc()
    snp.measure(gctx, page, VMSA_GPA, kind=VMSA)
    assert snp.entry(page)[0] == 1 | VMSA_GPA | 1 << 51 | 1 << 61 | 1 << 62


def test_guest_status_follows_the_launch(snp: Sev) -> None:
    page = snp.alloc()
    snp.firmware(page)
    gctx = snp.snp_guest(start=False)

    def status() -> tuple[int, int, int]:
        snp.did("SNP_GUEST_STATUS", gctx=gctx, status=page)
        policy, asid, state = struct.unpack_from("<QIB", snp.read(page, 16))
        return policy, asid, state

    seen = [status()]
    snp.did("SNP_LAUNCH_START", gctx=gctx, policy=POLICY)
    seen.append(status())
    snp.did("SNP_ACTIVATE", gctx=gctx, asid=3)
    seen.append(status())
    snp.did("SNP_LAUNCH_FINISH", gctx=gctx)
    seen.append(status())
    assert seen == [(0, 0, 0), (POLICY, 0, 1), (POLICY, 3, 1), (POLICY, 3, 2)]


def test_decommission_gives_the_context_page_back_to_the_firmware(snp: Sev) -> None:
    gctx = snp.snp_guest()
    assert snp.entry(gctx)[0] == 5 | 1 << 61
    snp.did("SNP_DECOMMISSION", gctx=gctx)
    assert snp.entry(gctx) == (5, 0)
    assert snp.cmd("SNP_DECOMMISSION", gctx=gctx) == 0x10
    snp.take_back(gctx)


def test_an_asid_that_was_used_needs_a_flush(snp: Sev) -> None:
    gctx = snp.snp_guest(asid=1)
    snp.did("SNP_DECOMMISSION", gctx=gctx)  # never in use: clean
    gctx = snp.snp_guest(asid=1)
    snp.did("SNP_LAUNCH_FINISH", gctx=gctx)
    snp.did("SNP_DECOMMISSION", gctx=gctx)
    again = snp.snp_guest(asid=0)
    assert snp.cmd("SNP_ACTIVATE", gctx=again, asid=1) == 0x0F
    assert snp.cmd("SNP_DF_FLUSH") == 0x0E
    snp.flush("SNP_DF_FLUSH")
    assert snp.cmd("SNP_ACTIVATE", gctx=again, asid=1) == 0


def test_an_asid_with_pages_in_the_rmp_is_refused(snp: Sev) -> None:
    page = snp.alloc()
    snp.give(page, 0, 5)
    gctx = snp.snp_guest(asid=0)
    assert snp.cmd("SNP_ACTIVATE", gctx=gctx, asid=5) == 0x03
    snp.shared(page)
    assert snp.cmd("SNP_ACTIVATE", gctx=gctx, asid=5) == 0


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (0x30000, 0),
        (0x30137, 0),
        (0x30138, 7),
        (0x30200, 7),
        (0x10000, 7),
        (0x20000, 7),
        (0x230000, 7),
        (1 << 63 | 0x30000, 7),
        (0x1B0000, 0),
    ],
)
def test_policies_that_the_platform_cannot_keep_are_refused(snp: Sev, policy: int, status: int) -> None:
    gctx = snp.snp_guest(start=False)
    assert snp.cmd("SNP_LAUNCH_START", gctx=gctx, policy=policy) == status


# -- the CPUID page ------------------------------------------------------------------------------------


def cpuid_page(*entries: tuple[int, int, int, int, int, int]) -> bytes:
    raw = struct.pack("<IIQ", len(entries), 0, 0)
    for leaf, sub, *registers in entries:
        raw += struct.pack("<IIQQIIIIQ", leaf, sub, 0, 0, *registers, 0)
    return raw.ljust(PAGE, b"\0")


def test_a_cpuid_page_may_promise_what_the_machine_has(snp: Sev) -> None:
    have = {name: number(value) for name, value in snp.insn("cpuid", eax=7).items()}
    page = snp.alloc()
    gctx = snp.snp_guest()
    snp.write(page, cpuid_page((7, 0, have["eax"], have["ebx"], have["ecx"], have["edx"])))
    snp.measure(gctx, page, PAGE, kind=CPUID)


def test_a_cpuid_page_that_promises_more_comes_back_corrected(snp: Sev) -> None:
    have = {name: number(value) for name, value in snp.insn("cpuid", eax=7).items()}
    lacking = ~have["ebx"] & 0xFFFFFFFF
    assert lacking
    page = snp.alloc()
    gctx = snp.snp_guest()
    snp.write(page, cpuid_page((7, 0, 0, 0xFFFFFFFF, have["ecx"], 0)))
    snp.give(page, PAGE, 1, immutable=1)
    assert snp.cmd("SNP_LAUNCH_UPDATE", gctx=gctx, flags=CPUID << 1, pa=page) == 0x16
    assert snp.read(page, 128) == cpuid_page((7, 0, 0, have["ebx"], have["ecx"], 0))[:128]
    assert snp.entry(page)[0] == 5 | PAGE | 1 << 51  # still Pre-Guest
    assert snp.cmd("SNP_LAUNCH_UPDATE", gctx=gctx, flags=CPUID << 1, pa=page) == 0


def test_addresses_and_the_c_bit_are_those_of_the_machine(snp: Sev) -> None:
    """What is no feature of the machine, as a hypervisor's own leaves, may say anything."""
    sizes, sev = (
        [number(snp.insn("cpuid", eax=leaf)[one]) for one in REGISTERS] for leaf in (0x80000008, 0x8000001F)
    )
    page = snp.alloc()
    gctx = snp.snp_guest()
    own = (0x40000000, 0, 0xFFFFFFFF, 1, 2, 3)
    snp.write(page, cpuid_page(own, (0x80000008, 0, sizes[0] + 1, 0, 0, 0), (0x8000001F, 0, 0, 47, 0, 0)))
    snp.give(page, PAGE, 1, immutable=1)
    assert snp.cmd("SNP_LAUNCH_UPDATE", gctx=gctx, flags=CPUID << 1, pa=page) == 0x16
    right = cpuid_page(own, (0x80000008, 0, sizes[0], 0, 0, 0), (0x8000001F, 0, 0, sev[1] & 0x3F, 0, 0))
    assert snp.read(page, PAGE) == right
    assert sev[1] & 0x3F == 51
    snp.did("SNP_LAUNCH_UPDATE", gctx=gctx, flags=CPUID << 1, pa=page)


def test_a_malformed_cpuid_page_is_not_touched(snp: Sev) -> None:
    page = snp.alloc()
    gctx = snp.snp_guest()
    raw = struct.pack("<IIQ", 65, 0, 0)
    snp.write(page, raw)
    snp.give(page, PAGE, 1, immutable=1)
    assert snp.cmd("SNP_LAUNCH_UPDATE", gctx=gctx, flags=CPUID << 1, pa=page) == 0x16
    assert snp.read(page, 16) == raw


# -- entering ------------------------------------------------------------------------------------------


def test_a_guest_that_is_only_pending_does_not_run(snp: Sev) -> None:
    gctx = snp.snp_guest()
    vmsa = snp.alloc()
    snp.write(vmsa + 0x3B0, b"\1")
    snp.measure(gctx, vmsa, VMSA_GPA, kind=VMSA)
    vcpu = Vcpu(snp, Tables(snp), 1, 7, vmsa)
    assert vcpu.enter()["exitcode"] == "0xffffffffffffffff"
    snp.did("SNP_LAUNCH_FINISH", gctx=gctx)
    assert vcpu.enter()["exitcode"] == "0x60"
    snp.did("SNP_DECOMMISSION", gctx=gctx)
    assert vcpu.enter()["exitcode"] == "0xffffffffffffffff"


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0x58, struct.pack("<I", 0)),
        (0x58, struct.pack("<I", 16)),
        (0x58, struct.pack("<I", 2)),
        (0x90, struct.pack("<Q", 5)),
        (0x108, struct.pack("<Q", 0x800)),
        (0x108, struct.pack("<Q", 0xA0000)),
        (0x108, struct.pack("<Q", 0x200000)),
    ],
    ids=[
        "asid 0",
        "asid too large",
        "asid unbound",
        "ES without SEV",
        "unaligned",
        "no memory",
        "not a VMSA",
    ],
)
def test_control_blocks_that_are_invalid(snp: Sev, offset: int, value: bytes) -> None:
    vm = SnpVm(snp)
    snp.write(vm.vcpu.vmcb + offset, value)
    left = vm.vcpu.do({"exit": "vmgexit"})
    assert (left["exitcode"], left["steps"]) == ("0xffffffffffffffff", [])
    assert snp.read(vm.vcpu.vmcb + 0x70, 8) == b"\xff" * 8


def test_vmrun_needs_a_save_area_and_a_control_block_of_the_hypervisors(snp: Sev) -> None:
    vm = SnpVm(snp)
    saved = snp.rdmsr(HSAVE)
    snp.wrmsr(HSAVE, 0)
    assert snp.fault("enter", vcpu=vm.vcpu.vmcb)["name"] == "#GP"
    snp.wrmsr(HSAVE, vm.pages[0])
    assert snp.fault("enter", vcpu=vm.vcpu.vmcb)["name"] == "#GP"
    snp.wrmsr(HSAVE, saved)
    assert snp.fault("enter", vcpu=vm.pages[0])["name"] == "#GP"
    assert snp.fault("enter", vcpu=vm.vcpu.vmcb + 8)["name"] == "#GP"
    snp.ok("cpu", cpl=3)
    assert snp.fault("enter", vcpu=vm.vcpu.vmcb)["name"] == "#GP"
    snp.ok("cpu", cpl=0)
    assert vm.vcpu.enter()["exitcode"] == "0x60"


def test_a_vcpu_runs_on_one_cpu_at_a_time_and_its_vmsa_is_in_use(snp: Sev) -> None:
    vm = SnpVm(snp)
    other = Vcpu(snp, vm.tables, 1, 7, vm.vmsa)
    assert snp.ok("enter", vcpu=vm.vcpu.vmcb, stay=True)["running"] is True
    assert snp.error("insn", name="wbinvd")["code"] == "bad_request"
    snp.write(snp.buffer, bytes(16))
    assert number(snp.insn("rmpupdate", 1, rax=vm.vmsa, rcx=snp.buffer)["rax"]) == 3
    assert snp.ok("enter", vcpu=other.vmcb, cpu=1)["exitcode"] == "0xffffffffffffffff"
    ran = snp.ok("guest", vcpu=vm.vcpu.vmcb, do=[{"read": hex(1 << 51), "len": 2}])
    assert ran["steps"] == [{"hex": "0000"}]
    left = snp.ok("kick")
    assert (left["exitcode"], left["steps"]) == ("0x60", [])
    assert number(snp.insn("rmpupdate", 1, rax=vm.vmsa, rcx=snp.buffer)["rax"]) == 0


def test_a_migration_agent_needs_the_policys_consent_and_has_none_itself(snp: Sev) -> None:
    """The policy's bit 18 allows one (inferred: an agent may not be watched over by another)."""
    agent, watched, late = (snp.snp_guest(start=False) for _ in range(3))
    consents = POLICY | 1 << 18
    snp.did("SNP_LAUNCH_START", gctx=agent, policy=POLICY)
    start = {"gctx": watched, "ma": agent, "flags": 1}
    assert snp.cmd("SNP_LAUNCH_START", **start, policy=POLICY) == 0x07
    snp.did("SNP_LAUNCH_START", **start, policy=consents)
    assert snp.cmd("SNP_LAUNCH_START", gctx=late, ma=watched, flags=1, policy=consents) == 0x07


def test_an_snp_guest_can_be_bound_to_some_cpus(snp: Sev, sev_depth: int) -> None:
    gctx, ids = snp.snp_guest(asid=0), snp.alloc()
    snp.write(ids, struct.pack("<II", 0, 1))
    status = snp.cmd("SNP_ACTIVATE_EX", length=0x20, gctx=gctx, asid=1, numids=2, ids=ids)
    assert status == (0x15 if sev_depth else 0)  # difference: kept below
    if not sev_depth:
        vmsa = snp.alloc()
        snp.write(vmsa + 0x3B0, struct.pack("<Q", 1))
        snp.measure(gctx, vmsa, 0xFFFFFFFFF000, 1, kind=2)
        snp.did("SNP_LAUNCH_FINISH", gctx=gctx)
        vcpu = Vcpu(snp, Tables(snp), 1, 7, vmsa)
        assert vcpu.enter(cpu=1)["exitcode"] == "0x60"
        assert vcpu.enter(cpu=2)["exitcode"] == "0xffffffffffffffff"


def test_pages_of_a_migration_image_are_measured_twice(snp: Sev) -> None:
    """Begun with IMI_EN: such pages count for the guest's measurement, too, marked as what they are."""
    gctx, page, other = snp.snp_guest(start=False), snp.alloc(), snp.alloc()
    snp.did("SNP_LAUNCH_START", gctx=gctx, policy=POLICY, flags=2)
    snp.did("SNP_ACTIVATE", gctx=gctx, asid=1)
    snp.give(page, 0, 1, immutable=1)
    snp.did("SNP_LAUNCH_UPDATE", gctx=gctx, flags=1 << 1 | 1 << 4, pa=page)
    assert snp.entry(page)[0] >> 62 & 1, "validated"
    snp.give(other, PAGE, 1, immutable=1)
    snp.did("SNP_LAUNCH_UPDATE", gctx=gctx, flags=1 << 1, pa=other)
    assert snp.cmd("SNP_LAUNCH_FINISH", gctx=gctx) == 0x02
