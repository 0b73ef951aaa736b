"""Commands about the platform, legacy and SNP: states, lengths, pages, what is kept where."""

from __future__ import annotations

import struct

import pytest
from sev_field import (
    HSAVE,
    MIB,
    PAGE,
    RMP_AT,
    RMP_BASE,
    RMP_END,
    RMP_LEN,
    SNP_CPU,
    SYSCFG,
    Sev,
    Sevs,
)

CERT, CHAIN = 2084, 6252


def test_the_legacy_platform_goes_up_and_down(sev: Sevs) -> None:
    host = sev()
    states = []
    for step in ("", "INIT", "LAUNCH_START", "DECOMMISSION", "SHUTDOWN"):
        if step == "INIT":
            host.sev_up()
        elif step == "LAUNCH_START":
            handle = host.legacy_guest()
        elif step == "DECOMMISSION":
            host.did(step, handle=handle)
        elif step:
            host.did(step)
        host.did("PLATFORM_STATUS")
        states.append((host.out("PLATFORM_STATUS", "state"), host.out("PLATFORM_STATUS", "guests")))
    assert states == [(0, 0), (1, 0), (2, 1), (1, 0), (0, 0)]


def test_platform_status_tells_version_owner_and_config(sev: Sevs) -> None:
    host = sev()
    host.sev_up()
    host.did("PLATFORM_STATUS")
    names = ("major", "minor", "build", "owner", "config")
    assert [host.out("PLATFORM_STATUS", name) for name in names] == [1, 55, 25, 0, 1]
    owned = sev(profile="owned")
    owned.did("PLATFORM_STATUS")
    assert owned.out("PLATFORM_STATUS", "owner") & 1 == 1


def test_without_es_nobody_looks_at_the_trusted_region(sev: Sevs) -> None:
    host = sev()
    host.did("INIT", flags=0, tmr=0x123, tmr_len=7)
    assert host.cmd("LAUNCH_START", policy=4) == 0x15
    assert host.cmd("LAUNCH_START", policy=0) == 0


def test_shutdown_ends_guests_and_is_accepted_in_every_state(legacy: Sev) -> None:
    handle = legacy.launched(asid=8)
    legacy.did("SHUTDOWN")
    legacy.did("SHUTDOWN")
    legacy.sev_up()
    legacy.did("GUEST_STATUS", handle=handle)
    assert legacy.out("GUEST_STATUS", "state") == 0


def test_a_factory_reset_is_for_a_platform_that_is_down(legacy: Sev) -> None:
    assert legacy.cmd("PLATFORM_RESET") == 0x01
    legacy.did("SHUTDOWN")
    assert legacy.cmd("PLATFORM_RESET") == 0


def test_an_owner_from_outside_goes_with_a_factory_reset(sev: Sevs) -> None:
    host = sev(profile="owned")
    host.did("PLATFORM_RESET")
    host.did("PLATFORM_STATUS")
    assert host.out("PLATFORM_STATUS", "owner") & 1 == 0


def test_certificate_commands_tell_the_lengths_that_they_need(legacy: Sev) -> None:
    assert legacy.cmd("PEK_CSR", pa=0x120000, len=0) == 0x04
    assert legacy.out("PEK_CSR", "len") == CERT
    assert legacy.cmd("PDH_CERT_EXPORT", len=CERT, chain_len=CHAIN - 1) == 0x04
    assert (legacy.out("PDH_CERT_EXPORT", "len"), legacy.out("PDH_CERT_EXPORT", "chain_len")) == (CERT, CHAIN)
    assert legacy.cmd("GET_ID") == 0x04
    assert legacy.out("GET_ID", "len") == 64


def test_the_exported_chain_hangs_together(legacy: Sev) -> None:
    area = legacy.alloc(4 * PAGE)
    legacy.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    pdh, chain = legacy.read(area, CERT), legacy.read(area + PAGE, CHAIN)
    usages = [struct.unpack_from("<I", cert, 8)[0] for cert in (pdh, *(chain[n * CERT :] for n in range(3)))]
    assert usages == [0x1003, 0x1002, 0x1001, 0x1004]
    legacy.did("PDH_GEN")
    legacy.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    assert legacy.read(area, CERT) != pdh
    assert legacy.read(area + PAGE, CHAIN) == chain
    legacy.did("PEK_GEN")
    legacy.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    assert legacy.read(area + PAGE, CERT) != chain[:CERT]


def test_an_owner_is_taken_by_its_certificates_alone(legacy: Sev) -> None:
    area = legacy.alloc(4 * PAGE)
    assert legacy.cmd("PEK_CERT_IMPORT", pek=area, pek_len=CERT, oca=area, oca_len=CERT - 1) == 0x04
    assert legacy.cmd("PEK_CERT_IMPORT", pek=area, pek_len=CERT, oca=area, oca_len=CERT) == 0x06
    legacy.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    pek, oca = area + PAGE, area + PAGE + CERT
    broken = bytearray(legacy.read(oca, CERT))
    broken[0x424] ^= 1
    legacy.write(area, bytes(broken))
    assert legacy.cmd("PEK_CERT_IMPORT", pek=pek, pek_len=CERT, oca=area, oca_len=CERT) == 0x0A
    assert legacy.cmd("PEK_CERT_IMPORT", pek=pek, pek_len=CERT, oca=oca, oca_len=CERT) == 0
    assert legacy.cmd("PEK_CERT_IMPORT", pek=pek, pek_len=CERT, oca=oca, oca_len=CERT) == 0x05


def test_the_chip_has_one_id(sev: Sevs) -> None:
    host = sev()
    page = host.alloc()
    host.did("GET_ID", pa=page, len=64)
    first = host.read(page, 64)
    assert any(first)
    host.did("GET_ID", pa=page + 64, len=4096)
    assert host.read(page + 64, 64) == first


def test_a_flush_needs_every_core_but_flushes_those_that_did(sev: Sevs) -> None:
    host = sev()
    tmr = host.alloc(MIB, MIB)
    host.did("INIT", flags=1, tmr=tmr, tmr_len=MIB)
    assert host.cmd("DF_FLUSH") == 0x0E
    host.insn("wbinvd", cpu=0)
    assert host.cmd("DF_FLUSH") == 0x0E
    handle = host.legacy_guest()
    assert host.cmd("ACTIVATE", handle=handle, asid=8) == 0x0F
    host.insn("wbinvd", cpu=2)
    assert host.cmd("DF_FLUSH") == 0
    assert host.cmd("ACTIVATE", handle=handle, asid=8) == 0


def test_a_damaged_nv_area_is_erased_and_one_retry_succeeds(sev: Sevs) -> None:
    host = sev()
    nv = host.alloc(32768)
    host.ok("fill", addr=nv, len=32768, byte=0x5A)
    assert host.cmd("INIT_EX", length=0x24, nv=nv, nv_len=32768) == 0x18
    assert host.cmd("INIT_EX", length=0x24, nv=nv, nv_len=32768) == 0
    saved = host.read(nv, 32768)
    assert saved not in (b"\xff" * 32768, b"\x5a" * 32768)
    area = host.alloc(4 * PAGE)
    host.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    pdh = host.read(area, CERT)
    host.did("PDH_GEN")
    changed = host.read(nv, 32768)
    assert changed != saved
    host.did("SHUTDOWN")
    host.write(nv, saved)
    host.did("INIT_EX", length=0x24, nv=nv, nv_len=32768)
    host.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    assert host.read(area, CERT) == pdh


def test_an_nv_area_lies_in_memory(sev: Sevs) -> None:
    host = sev()
    assert host.cmd("INIT_EX", length=0x24, nv=0xA0000, nv_len=32768) == 0x09
    host.did("INIT_EX", length=0x24, nv=host.alloc(32768), nv_len=32768)


@pytest.mark.parametrize("name", ["DOWNLOAD_FIRMWARE", "SNP_DOWNLOAD_FIRMWARE_EX"])
def test_an_update_of_the_firmware_is_not_modelled(sev: Sevs, name: str) -> None:
    host = sev()
    image = host.alloc(2 * PAGE)
    more = {"length": 0x18} if name.startswith("SNP") else {}
    assert host.cmd(name, pa=image + 16, len=64, **more) == 0x09
    assert host.cmd(name, pa=image + 32, len=64, **more) == 0x15
    host.sev_up()
    assert host.cmd(name, pa=image + 32, len=64, **more) == 0x01


# -- SNP -----------------------------------------------------------------------------------------------


def test_the_snp_platform_goes_up_and_down(snp: Sev) -> None:
    page = snp.alloc()
    snp.firmware(page)
    snp.did("SNP_PLATFORM_STATUS", status=page)
    raw = snp.read(page, 0x20)
    assert raw[:4] == bytes((1, 55, 1, 1))
    assert struct.unpack_from("<III", raw, 4) == (25, 8, 0)
    assert raw[0x10:0x18] == raw[0x18:0x20]
    assert 0xFF not in raw[0x10:0x18]
    snp.snp_guest()
    snp.did("SNP_PLATFORM_STATUS", status=page)
    assert struct.unpack_from("<I", snp.read(page, 0x20), 0xC)[0] == 1


def test_shutdown_needs_clean_asids(sev: Sevs) -> None:
    host = sev()
    host.alloc(RMP_LEN, MIB, above=RMP_AT)
    host.cpus_up()
    host.did("SNP_SHUTDOWN")
    host.did("SNP_INIT")
    assert host.cmd("SNP_SHUTDOWN") == 0x0F
    host.flush("SNP_DF_FLUSH")
    assert host.cmd("SNP_SHUTDOWN_EX", length=4) == 0x16
    assert host.cmd("SNP_SHUTDOWN_EX", length=8, flags=2) == 0x16
    assert host.cmd("SNP_SHUTDOWN_EX", length=8, flags=4) == 0x16
    assert host.cmd("SNP_SHUTDOWN") == 0
    assert host.cmd("SNP_GCTX_CREATE", gctx=0x1000000) == 0x01


def test_a_plain_shutdown_leaves_the_rmp_valid(snp: Sev) -> None:
    page = snp.alloc()
    snp.firmware(page)
    snp.did("SNP_SHUTDOWN")
    assert snp.cmd("SNP_INIT_EX", flags=0) == 0
    snp.flush("SNP_DF_FLUSH")
    assert snp.entry(page) == (5, 0)
    snp.did("SNP_SHUTDOWN_EX", length=8, flags=1)
    assert snp.cmd("SNP_INIT_EX", flags=0) == 0x20
    assert snp.cmd("SNP_INIT_EX", flags=1) == 0
    assert snp.entry(page) == (0, 0)


def test_the_rmp_is_built_as_the_documents_say(sev: Sevs) -> None:
    host = sev()
    host.alloc(RMP_LEN, MIB, above=RMP_AT)
    listed = host.alloc()
    host.write(listed, struct.pack("<IIQII", 1, 0, 0x2000000, 16, 0))
    host.cpus_up()
    host.did("SNP_INIT_EX", flags=3, list=listed)
    assert host.entry(0x1000000) == (0, 0)  # Hypervisor
    assert host.entry(RMP_AT) == host.entry(RMP_AT + RMP_LEN - PAGE) == (5, 0)  # Firmware
    assert host.entry(0xA0000) == host.entry(0xFF000) == (4, 0)  # no memory: fixed
    assert host.entry(0x9F000) == host.entry(0x100000) == (0, 0)
    assert host.entry(0x2000000) == host.entry(0x200F000) == (4, 0)
    assert host.entry(0x2010000) == (0, 0)
    assert host.read(RMP_AT, 0x4000) == bytes(0x4000)
    assert host.rmpupdate(0x2000000, immutable=1) == 2


def _odd_cpu(msr: int, value: int) -> object:
    def spoil(host: Sev) -> None:
        if msr == SYSCFG:
            host.wrmsr(SYSCFG, value, cpu=3)
        else:
            host.ok("reset", kind="power")
            for cpu in range(host.cpus):
                host.wrmsr(RMP_BASE, RMP_AT, cpu)
                host.wrmsr(RMP_END, RMP_AT + RMP_LEN - 1, cpu)
                if cpu == 3:
                    host.wrmsr(msr, value, cpu)
                host.wrmsr(SYSCFG, SNP_CPU, cpu)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        _odd_cpu(SYSCFG, 0x1800000),
        _odd_cpu(SYSCFG, SNP_CPU & ~(1 << 19)),
        _odd_cpu(RMP_BASE, RMP_AT + MIB),
        _odd_cpu(RMP_END, RMP_AT + 2 * RMP_LEN - 1),
        _odd_cpu(HSAVE, 0x200000),
    ],
    ids=["vmpl_en", "mfdm", "base", "end", "hsave"],
)
def test_all_cpus_have_to_be_set_up_alike(sev: Sevs, spoil: object) -> None:
    host = sev()
    host.cpus_up()
    spoil(host)  # type: ignore[operator]
    assert host.cmd("SNP_INIT") == 0x03


@pytest.mark.parametrize(
    ("base", "end", "status"),
    [
        (0x400000 + PAGE, 0x700000 - 1, 0x03),
        (0x400000, 0x700000, 0x03),
        (0x400000 | 1 << 51, (0x700000 | 1 << 51) - 1, 0x15),
        (0x700000, 0x400000 - 1, 0x26),
        (512 * MIB - MIB, 512 * MIB + MIB - 1, 0x26),
        (0x1F000000, 0x1F100000 - 1, 0x26),
    ],
    ids=[
        "base unaligned",
        "end is not the last byte",
        "C-bit",
        "upside down",
        "no memory",
        "does not cover itself",
    ],
)
def test_snp_init_judges_where_the_rmp_lies(sev: Sevs, base: int, end: int, status: int) -> None:
    host = sev()
    for cpu in range(host.cpus):
        host.wrmsr(RMP_BASE, base, cpu)
        host.wrmsr(RMP_END, end, cpu)
        host.wrmsr(SYSCFG, SNP_CPU, cpu)
    assert host.cmd("SNP_INIT") == status


def test_snp_init_needs_snp_switched_on(sev: Sevs) -> None:
    host = sev()
    for cpu in range(host.cpus):
        host.wrmsr(RMP_BASE, RMP_AT, cpu)
        host.wrmsr(RMP_END, RMP_AT + RMP_LEN - 1, cpu)
    assert host.cmd("SNP_INIT") == 0x03


def test_snp_comes_before_legacy_where_the_cpus_have_it_on(sev: Sevs) -> None:
    host = sev()
    host.alloc(RMP_LEN, MIB, above=RMP_AT)
    tmr = host.alloc(2 * MIB, 2 * MIB)
    host.cpus_up()
    assert host.cmd("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB) == 0x01
    host.did("SNP_INIT")
    assert host.cmd("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB) == 0x1A
    host.firmware(*range(tmr, tmr + 2 * MIB, PAGE))
    assert host.cmd("INIT", flags=1, tmr=tmr, tmr_len=MIB) == 0x04
    assert host.cmd("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB) == 0
    assert host.cmd("SNP_SHUTDOWN") == 0x01


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"flags": 4}, 0x16),
        ({"flags": 1, "max_asid": 5}, 0x16),
        ({"flags": 0}, 0x20),
        ({"flags": 2, "list": 0x200000}, 0x20),
        ({"flags": 3, "list": 0xA0000}, 0x09),
    ],
)
def test_options_of_snp_init_are_looked_at(sev: Sevs, fields: dict[str, int], status: int) -> None:
    host = sev()
    host.cpus_up()
    assert host.cmd("SNP_INIT_EX", **fields) == status


def test_a_list_needs_a_new_rmp(snp: Sev) -> None:
    snp.did("SNP_SHUTDOWN")
    assert snp.cmd("SNP_INIT_EX", flags=2, list=0x200000) == 0x16


def test_snp_config_changes_what_status_reports(snp: Sev) -> None:
    page = snp.alloc()
    snp.firmware(page)
    snp.did("SNP_PLATFORM_STATUS", status=page)
    tcb = snp.read(page + 0x10, 8)
    older = bytes((tcb[0] - 1,)) + tcb[1:]
    newer = tcb[:7] + bytes((tcb[7] + 1,))
    assert snp.cmd("SNP_CONFIG", tcb=int.from_bytes(newer, "little")) == 0x16
    assert snp.cmd("SNP_CONFIG", tcb=int.from_bytes(older, "little"), masks=4) == 0x16
    snp.did("SNP_CONFIG", tcb=int.from_bytes(older, "little"), masks=3)
    snp.did("SNP_PLATFORM_STATUS", status=page)
    assert snp.read(page + 0x10, 16) == tcb + older
    assert snp.read(page + 8, 1)[0] & 3 == 3


def test_commands_that_look_at_a_page_want_it_from_the_firmware(snp: Sev) -> None:
    page = snp.alloc()
    assert snp.cmd("SNP_PLATFORM_STATUS", status=page) == 0x1A
    assert snp.cmd("SNP_PLATFORM_STATUS", status=page + PAGE - 0x1F) == 0x16
    assert snp.cmd("SNP_FEATURE_INFO", length=0x10, pa=page) == 0x1A
    assert snp.cmd("SNP_FEATURE_INFO", length=0x10, pa=page + 2) == 0x09
    assert snp.cmd("SNP_FEATURE_INFO", length=0x10, pa=page + PAGE - 8) == 0x09
    assert snp.cmd("SNP_FEATURE_INFO", length=0x8, pa=page + 2) == 0x16
    snp.firmware(page)
    assert snp.cmd("SNP_FEATURE_INFO", length=0x10, pa=page) == 0
    assert snp.cmd("SNP_FEATURE_INFO", length=0x10, pa=page, ecx=2) == 0x16
    assert snp.cmd("SNP_PLATFORM_STATUS", status=page) == 0


def test_what_is_kept_below_makes_its_checks_all_the_same(snp: Sev, sev_depth: int) -> None:
    assert snp.cmd("SNP_COMMIT", length=8) == 0x16
    assert snp.cmd("SNP_COMMIT", length=4) == (0x15 if sev_depth else 0)
    assert snp.cmd("SNP_VLEK_LOAD", length=8) == 0x16
    page = snp.alloc()
    assert snp.cmd("SNP_VLEK_LOAD", length=0x10, pa=page) == 0x21
    assert snp.cmd("RING_BUFFER") == 0x15


def test_set_state_fixes_firmware_pages_for_good(snp: Sev) -> None:
    block = snp.alloc(2 * MIB, 2 * MIB)
    listed = snp.alloc()
    snp.write(listed, struct.pack("<IIQII", 1, 0, block, 2, 0))
    snp.firmware(block)
    assert snp.cmd("SNP_PAGE_SET_STATE", length=8, list=listed) == 0x04
    assert snp.cmd("SNP_PAGE_SET_STATE", length=0x10, list=listed) == 0x1A
    assert snp.entry(block) == (5, 0)
    snp.firmware(block + PAGE)
    assert snp.cmd("SNP_PAGE_SET_STATE", length=0x10, list=listed) == 0
    assert snp.entry(block) == snp.entry(block + PAGE) == (4, 0)
    snp.write(block, b"the hypervisor's")
    assert snp.rmpupdate(block, assigned=0) == 2
    snp.write(listed, struct.pack("<IIQII", 1, 0, RMP_AT, 1, 0))
    assert snp.cmd("SNP_PAGE_SET_STATE", length=0x10, list=listed) == 0x09


# -- what SNP changes for legacy commands (2.1) --------------------------------------------------------


@pytest.fixture
def both(snp: Sev) -> Sev:
    """SNP and legacy SEV up."""
    tmr = snp.alloc(2 * MIB, 2 * MIB)
    snp.firmware(*range(tmr, tmr + 2 * MIB, PAGE))
    snp.did("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB)
    snp.flush()
    return snp


def test_a_written_buffer_has_to_be_the_firmwares(both: Sev) -> None:
    page = both.alloc()
    assert both.submit("PLATFORM_STATUS", page) == 0x1A
    assert both.entry(page) == (0, 0)
    both.firmware(page)
    assert both.submit("PLATFORM_STATUS", page) == 0
    assert both.entry(page) == (1, 0)  # dropped to Reclaim
    assert both.read(page, 3) == bytes((1, 55, 1))
    assert both.submit("PLATFORM_STATUS", page) == 0x1A
    both.did("SNP_PAGE_RECLAIM", pa=page)
    both.shared(page)


def test_the_buffer_is_dropped_even_if_the_command_fails(both: Sev) -> None:
    status, page = both.guarded("LAUNCH_MEASURE", handle=99)
    assert status == 0x01
    assert both.entry(page) == (1, 0)


def test_output_pages_have_to_be_the_firmwares_and_stay_so(both: Sev) -> None:
    page = both.alloc()
    status, _ = both.guarded("GET_ID", pa=page, len=64)
    assert status == 0x1A
    both.firmware(page)
    status, _ = both.guarded("GET_ID", pa=page, len=64)
    assert status == 0
    assert both.entry(page) == (5, 0)
    status, used = both.guarded("GET_ID", pa=page, len=1)
    assert status == 0x04
    assert struct.unpack_from("<I", both.read(used, 12), 8)[0] == 64


def test_a_legacy_launch_works_on_firmware_pages(both: Sev) -> None:
    status, page = both.guarded("LAUNCH_START", policy=0)
    assert status == 0
    handle = struct.unpack("<I", both.read(page, 4))[0]
    both.did("ACTIVATE", handle=handle, asid=8)
    memory = both.alloc()
    both.write(memory, b"\x11" * PAGE)
    assert both.cmd("LAUNCH_UPDATE_DATA", handle=handle, pa=memory, len=PAGE) == 0x1A
    both.firmware(memory)
    assert both.cmd("LAUNCH_UPDATE_DATA", handle=handle, pa=memory, len=PAGE) == 0
    both.take_back(memory)
    assert both.read(memory, 16) != b"\x11" * 16
