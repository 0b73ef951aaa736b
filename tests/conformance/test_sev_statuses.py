"""What each command refuses, one thing wrong at a time, on hosts that are otherwise ready for it.

Orders of what is wrong are tried in `test_sev_orders`; here every status that a source names is met.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from sev_field import (
    C_BIT,
    MIB,
    PAGE,
    POLICY,
    RMP_AT,
    RMP_BASE,
    RMP_END,
    RMP_LEN,
    SLOW_AT_DEPTH_2,
    SYSCFG,
    Sev,
    Sevs,
    SnpVm,
    buffer,
)

CERT, CHAIN = 2084, 3 * 2084
NOWHERE = 0xA0000  # no DRAM
ES = 4


def refused(host: Sev, expected: int, name: str, **fields: Any) -> None:
    """Asked for, with its buffer in the firmware's hands if it has to be."""
    found = host.cmd(name, **fields)
    assert found == expected, f"{name} {fields} -> {found:#x}"


def guarded(host: Sev, status: int, name: str, **fields: Any) -> None:
    found, _ = host.guarded(name, **fields)
    assert found == status, f"{name} {fields} -> {found:#x}"


@pytest.fixture
def both(snp: Sev) -> Sev:
    """SNP and the legacy platform up."""
    tmr = snp.alloc(2 * MIB, 2 * MIB)
    snp.firmware(*range(tmr, tmr + 2 * MIB, PAGE))
    snp.did("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB)
    snp.flush()
    return snp


def started(host: Sev, policy: int = 0, asid: int = 0) -> int:
    """A legacy guest in LUPDATE where SNP is on."""
    status, page = host.guarded("LAUNCH_START", policy=policy)
    assert status == 0
    handle: int = struct.unpack("<I", host.read(page, 4))[0]
    if asid:
        host.did("ACTIVATE", handle=handle, asid=asid)
    return handle


def session_of(host: Sev, handle: int) -> dict[str, int]:
    """Begin to send a guest to the very same platform: the fields of its RECEIVE_START."""
    area = host.alloc(4 * PAGE)
    session = host.alloc()
    host.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    host.did("SEND_START", handle=handle, pdh=area, pdh_len=CERT, session=session, session_len=128)
    return {"dh": area, "dh_len": CERT, "session": session, "session_len": 128}


def packet(host: Sev, handle: int, length: int = 64) -> dict[str, int]:
    hdr, guest, trans = host.pages(3)
    return {
        "handle": handle,
        "hdr": hdr,
        "hdr_len": 52,
        "guest": guest,
        "guest_len": length,
        "trans": trans,
        "trans_len": length,
    }


# -- the legacy platform -----------------------------------------------------------------------------------


NEED_THE_PLATFORM = (
    *("PEK_GEN", "PEK_CSR", "PEK_CERT_IMPORT", "PDH_CERT_EXPORT", "PDH_GEN", "GUEST_STATUS", "RECEIVE_START"),
    *("SEND_UPDATE_VMSA", "RECEIVE_UPDATE_VMSA", "DBG_ENCRYPT", "SWAP_OUT", "SWAP_IN"),
)


@SLOW_AT_DEPTH_2
def test_nothing_works_before_the_platform_is_up(sev: Sevs) -> None:
    host = sev()
    for name in NEED_THE_PLATFORM:
        refused(host, 0x01, name)
    host.write(host.buffer, bytes(0x28))
    assert host.submit("RING_BUFFER", host.buffer) == 0x01


@SLOW_AT_DEPTH_2
def test_init_wants_memory_encryption_and_known_flags(sev: Sevs) -> None:
    host = sev()
    tmr = host.alloc(2 * MIB, MIB)
    refused(host, 0x03, "INIT", flags=2)
    refused(host, 0x09, "INIT", flags=1, tmr=tmr + PAGE, tmr_len=MIB)
    for cpu in range(host.cpus):
        host.wrmsr(SYSCFG, 0, cpu)
    refused(host, 0x13, "INIT", flags=1, tmr=tmr, tmr_len=MIB)


@SLOW_AT_DEPTH_2
def test_areas_that_are_no_memory_are_refused_where_lengths_are_right(legacy: Sev) -> None:
    area = legacy.alloc(4 * PAGE)
    refused(legacy, 0x09, "PEK_CSR", pa=NOWHERE, len=CERT)
    refused(legacy, 0x09, "PEK_CERT_IMPORT", pek=NOWHERE, pek_len=CERT, oca=area, oca_len=CERT)
    refused(legacy, 0x09, "PDH_CERT_EXPORT", pdh=NOWHERE, len=CERT, chain=area, chain_len=CHAIN)
    refused(legacy, 0x09, "GET_ID", pa=NOWHERE, len=64)
    handle = legacy.legacy_guest()
    refused(legacy, 0x09, "LAUNCH_MEASURE", handle=handle, pa=NOWHERE, len=48)
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=area, len=48)
    refused(legacy, 0x09, "ATTESTATION", handle=handle, pa=NOWHERE, len=208)


# -- output pages under SNP --------------------------------------------------------------------------------


@SLOW_AT_DEPTH_2
def test_outputs_have_to_lie_in_pages_of_the_firmwares(both: Sev) -> None:
    """Before the work, and behind everything else: nothing has happened to the guest."""
    area = both.alloc(4 * PAGE)
    guarded(both, 0x1A, "PEK_CSR", pa=area, len=CERT)
    guarded(both, 0x1A, "PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    handle = started(both, ES, 1)
    refused(both, 0x1A, "LAUNCH_UPDATE_VMSA", handle=handle, pa=area, len=PAGE)
    guarded(both, 0x1A, "LAUNCH_MEASURE", handle=handle, pa=area, len=48)
    refused(both, 0x1A, "COPY", handle=handle, len=PAGE, src=area, dst=area + PAGE)
    refused(both, 0x1A, "DBG_DECRYPT", handle=handle, src=area, dst=area + PAGE, len=16)
    refused(both, 0x1A, "DBG_ENCRYPT", handle=handle, src=area, dst=area + PAGE, len=16)
    mdata = both.alloc()
    guarded(both, 0x1A, "SWAP_OUT", handle=handle, src=area, dst=area + PAGE, mdata=mdata)
    raw = buffer("SWAP_IN", handle=handle, src=area, dst=area + PAGE, mdata=mdata)
    both.write(both.buffer, raw)
    assert both.submit("SWAP_IN", both.buffer) == 0x1A
    both.firmware(area)
    guarded(both, 0, "LAUNCH_MEASURE", handle=handle, pa=area, len=48)
    both.take_back(area)
    refused(both, 0x1A, "LAUNCH_SECRET", **packet(both, handle))
    refused(both, 0x1A, "ATTESTATION", handle=handle, pa=area, len=208)


@SLOW_AT_DEPTH_2
def test_outputs_of_sending_and_receiving_are_looked_at_likewise(both: Sev) -> None:
    area, session, blob = both.alloc(4 * PAGE), both.alloc(), both.alloc()
    both.firmware(*range(area, area + 4 * PAGE, PAGE), blob)
    handle = started(both, ES, 1)
    guarded(both, 0, "LAUNCH_MEASURE", handle=handle, pa=blob, len=48)
    both.did("LAUNCH_FINISH", handle=handle)
    guarded(both, 0, "PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    peer = {"handle": handle, "pdh": area, "pdh_len": CERT, "session": session, "session_len": 128}
    guarded(both, 0x1A, "SEND_START", **peer)
    guarded(both, 0x09, "SEND_START", **peer | {"session": NOWHERE})
    both.firmware(session)
    guarded(both, 0, "SEND_START", **peer)
    guarded(both, 0x1A, "SEND_UPDATE_DATA", **packet(both, handle))
    guarded(both, 0x1A, "SEND_UPDATE_VMSA", **packet(both, handle, PAGE))
    status, page = both.guarded(
        "RECEIVE_START", policy=ES, dh=area, dh_len=CERT, session=session, session_len=128
    )
    assert status == 0
    arriving = struct.unpack("<I", both.read(page, 4))[0]
    both.did("ACTIVATE", handle=arriving, asid=2)
    refused(both, 0x1A, "RECEIVE_UPDATE_DATA", **packet(both, arriving))
    refused(both, 0x1A, "RECEIVE_UPDATE_VMSA", **packet(both, arriving, PAGE))


@SLOW_AT_DEPTH_2
def test_the_nv_area_has_to_be_the_firmwares(snp: Sev) -> None:
    tmr, nv = snp.alloc(2 * MIB, 2 * MIB), snp.alloc(32768)
    ex = {"length": 0x24, "flags": 1, "tmr": tmr, "tmr_len": 2 * MIB, "nv": nv, "nv_len": 32768}
    refused(snp, 0x1A, "INIT_EX", **ex)


# -- legacy guests -----------------------------------------------------------------------------------------


@SLOW_AT_DEPTH_2
def test_a_guest_that_was_sent_takes_no_asid(legacy: Sev) -> None:
    handle = legacy.launched()
    session_of(legacy, handle)
    legacy.did("SEND_FINISH", handle=handle)
    legacy.did("DEACTIVATE", handle=handle)
    refused(legacy, 0x02, "ACTIVATE", handle=handle, asid=9)


@SLOW_AT_DEPTH_2
def test_what_sending_refuses(legacy: Sev) -> None:
    """VMSAs are sent of ES guests alone; a guest without an ASID has no key in place."""
    handle = legacy.launched()
    session_of(legacy, handle)
    good = packet(legacy, handle, PAGE)
    refused(legacy, 0x15, "SEND_UPDATE_VMSA", **good)
    refused(legacy, 0x10, "SEND_UPDATE_VMSA", **good | {"handle": 99})
    refused(legacy, 0x09, "SEND_UPDATE_DATA", **good | {"guest": good["guest"] + 8})
    legacy.did("DEACTIVATE", handle=handle)
    refused(legacy, 0x08, "SEND_UPDATE_DATA", **good)
    es = legacy.launched(ES, 1)
    refused(legacy, 0x02, "SEND_UPDATE_VMSA", **packet(legacy, es, PAGE))
    session_of(legacy, es)
    mine = packet(legacy, es, PAGE)
    refused(legacy, 0x09, "SEND_UPDATE_VMSA", **mine | {"trans": NOWHERE})
    legacy.did("DEACTIVATE", handle=es)
    refused(legacy, 0x08, "SEND_UPDATE_VMSA", **mine)


@SLOW_AT_DEPTH_2
def test_what_receiving_refuses(legacy: Sev) -> None:
    es = legacy.launched(ES, 1)
    start = session_of(legacy, es)
    refused(legacy, 0x04, "RECEIVE_START", policy=ES, **start | {"session_len": 127})
    refused(legacy, 0x09, "RECEIVE_START", policy=ES, **start | {"dh": NOWHERE})
    broken = legacy.alloc()
    refused(legacy, 0x06, "RECEIVE_START", policy=ES, **start | {"dh": broken})
    refused(legacy, 0x10, "RECEIVE_START", policy=ES, handle=99, **start)
    other = legacy.legacy_guest()
    refused(legacy, 0x07, "RECEIVE_START", policy=ES, handle=other, **start)
    legacy.did("RECEIVE_START", policy=ES, **start)
    there = legacy.out("RECEIVE_START", "handle")
    good = packet(legacy, there, PAGE)
    for name in ("RECEIVE_UPDATE_DATA", "RECEIVE_UPDATE_VMSA"):
        refused(legacy, 0x08, name, **good)
        refused(legacy, 0x10, name, **good | {"handle": 99})
        refused(legacy, 0x02, name, **good | {"handle": other})
    legacy.did("ACTIVATE", handle=there, asid=2)
    for name in ("RECEIVE_UPDATE_DATA", "RECEIVE_UPDATE_VMSA"):
        refused(legacy, 0x04, name, **good | {"trans_len": 16})
        refused(legacy, 0x09, name, **good | {"guest": good["guest"] + 8})
        refused(legacy, 0x0B, name, **good)


@SLOW_AT_DEPTH_2
def test_an_es_guest_is_received_by_an_es_platform(sev: Sevs) -> None:
    host = sev()
    host.sev_up(flags=0)
    refused(host, 0x15, "LAUNCH_START", policy=ES)
    handle = host.launched()
    start = session_of(host, handle)
    assert host.cmd("RECEIVE_START", policy=ES, **start) in (0x0B, 0x0A)


@SLOW_AT_DEPTH_2
def test_a_platform_full_of_guests_receives_none(legacy: Sev) -> None:
    handle = legacy.launched()
    start = session_of(legacy, handle)
    for _ in range(1023):
        legacy.did("LAUNCH_START", policy=0)
    refused(legacy, 0x17, "LAUNCH_START", policy=0)
    refused(legacy, 0x17, "RECEIVE_START", policy=0, **start)


@SLOW_AT_DEPTH_2
def test_what_debugging_and_swapping_refuse(legacy: Sev) -> None:
    handle = legacy.legacy_guest()
    src, dst, mdata = legacy.pages(3)
    debug = {"handle": handle, "src": src, "dst": dst, "len": 16}
    refused(legacy, 0x09, "DBG_ENCRYPT", **debug | {"src": src + 1})
    refused(legacy, 0x04, "DBG_ENCRYPT", **debug | {"len": 8})
    refused(legacy, 0x10, "DBG_ENCRYPT", **debug | {"handle": 99})
    refused(legacy, 0x08, "DBG_ENCRYPT", **debug)
    secret = legacy.legacy_guest(policy=1)
    refused(legacy, 0x07, "DBG_DECRYPT", **debug | {"handle": secret})
    swap = {"handle": handle, "src": src, "dst": dst, "mdata": mdata}
    for name in ("SWAP_OUT", "SWAP_IN"):
        wrong = {"src": src + 8}, {"handle": 99}, {}
        for status, change in zip((0x09, 0x10, 0x08), wrong, strict=True):
            legacy.write(legacy.buffer, buffer(name, **swap | change))
            assert legacy.submit(name, legacy.buffer) == status


@SLOW_AT_DEPTH_2
def test_a_secret_is_never_compressed(legacy: Sev) -> None:
    handle = legacy.legacy_guest(asid=8)
    legacy.did("LAUNCH_MEASURE", handle=handle, pa=legacy.alloc(), len=48)
    good = packet(legacy, handle)
    legacy.write(good["hdr"], b"\x01")
    refused(legacy, 0x15, "LAUNCH_SECRET", **good)


@SLOW_AT_DEPTH_2
def test_activate_ex_makes_the_checks_of_activate(legacy: Sev) -> None:
    ids = legacy.alloc()
    legacy.write(ids, struct.pack("<II", 0, 1))

    def tried(handle: int, asid: int = 8, length: int = 0x18, count: int = 2) -> int:
        legacy.write(legacy.buffer, struct.pack("<IIIIQ", length, handle, asid, count, ids))
        return legacy.submit("ACTIVATE_EX", legacy.buffer)

    assert tried(1) == 0x01
    handle = legacy.legacy_guest()
    assert tried(handle, length=0x17) == 0x04
    assert tried(99) == 0x10
    assert tried(handle, count=0) == 0x16
    legacy.write(ids + 4, struct.pack("<I", legacy.cpus))
    assert tried(handle) == 0x16, "there is no such CPU"
    legacy.write(ids + 4, struct.pack("<I", 1))
    bound = legacy.legacy_guest(asid=9)
    assert tried(bound) == 0x12
    sent = legacy.launched(asid=10)
    session_of(legacy, sent)
    legacy.did("SEND_FINISH", handle=sent)
    legacy.did("DEACTIVATE", handle=sent)
    assert tried(sent) == 0x02
    assert tried(handle, asid=10) == 0x0F


# -- SNP ---------------------------------------------------------------------------------------------------


@SLOW_AT_DEPTH_2
def test_snp_platform_commands_and_what_they_refuse(both: Sev) -> None:
    refused(both, 0x01, "SNP_INIT")
    refused(both, 0x01, "SNP_INIT_EX", flags=1)
    refused(both, 0x01, "SNP_SHUTDOWN_EX", length=8)
    refused(both, 0x09, "SNP_PLATFORM_STATUS", status=NOWHERE)
    vlek = {"length": 0x10, "pa": NOWHERE}
    refused(both, 0x09, "SNP_VLEK_LOAD", **vlek)
    both.did("SHUTDOWN")
    gctx = both.snp_guest()
    both.did("SNP_LAUNCH_FINISH", gctx=gctx)
    both.did("SNP_DECOMMISSION", gctx=gctx)
    refused(both, 0x0F, "SNP_SHUTDOWN_EX", length=8)
    both.write(both.buffer, bytes(0x14) + struct.pack("<I", 2))
    raw = bytearray(buffer("SNP_DOWNLOAD_FIRMWARE_EX", length=0x18))
    raw[0x14] = 2
    both.write(both.buffer, bytes(raw))
    assert both.submit("SNP_DOWNLOAD_FIRMWARE_EX", both.buffer) == 0x16


@SLOW_AT_DEPTH_2
def test_snp_commands_without_snp(sev: Sevs) -> None:
    host = sev()
    raw = struct.pack("<I4xQIIQ", 0x20, PAGE, 1, 1, PAGE)
    host.write(host.buffer, raw)
    assert host.submit("SNP_ACTIVATE_EX", host.buffer) == 0x01
    refused(host, 0x01, "SNP_PAGE_SWAP_IN")
    refused(host, 0x01, "SNP_PAGE_SET_STATE", length=0x10)


@SLOW_AT_DEPTH_2
def test_snp_activate_ex_makes_the_checks_of_snp_activate(snp: Sev) -> None:
    ids = snp.alloc()
    snp.write(ids, struct.pack("<I", 0))

    def tried(gctx: int, asid: int) -> int:
        snp.write(snp.buffer, struct.pack("<I4xQIIQ", 0x20, gctx, asid, 1, ids))
        return snp.submit("SNP_ACTIVATE_EX", snp.buffer)

    page = snp.alloc()
    assert tried(page, 1) == 0x10
    first = snp.snp_guest(asid=0)
    snp.give(page, 0, 3)
    assert tried(first, 3) == 0x03
    snp.shared(page)
    bound = snp.snp_guest(asid=2)
    assert tried(bound, 1) == 0x12
    used = snp.snp_guest(asid=4)
    snp.did("SNP_LAUNCH_FINISH", gctx=used)
    snp.did("SNP_DECOMMISSION", gctx=used)
    assert tried(first, 4) == 0x0F


@SLOW_AT_DEPTH_2
def test_what_snp_guest_commands_refuse(snp: Sev) -> None:
    gctx = snp.snp_guest()
    page, other = snp.pages(2)
    refused(snp, 0x09, "SNP_LAUNCH_FINISH", gctx=gctx, id_block=NOWHERE, id_auth=page, flags=1)
    debug = snp.snp_guest(asid=0, policy=POLICY | 1 << 19)
    snp.firmware(other)
    snp.give(page, 0, 1, immutable=1)
    refused(snp, 0x1C, "SNP_DBG_ENCRYPT", gctx=debug, src=snp.alloc(), dst=page)
    refused(snp, 0x07, "SNP_DBG_ENCRYPT", gctx=gctx, src=snp.alloc(), dst=page)


@SLOW_AT_DEPTH_2
def test_metadata_and_moves_are_for_guests_that_were_launched(snp: Sev) -> None:
    """A context that was only created has no key yet."""
    fresh = snp.snp_guest(start=False)
    page = snp.alloc()
    snp.firmware(page)
    refused(snp, 0x02, "SNP_PAGE_MD_INIT", gctx=fresh, pa=page)


@SLOW_AT_DEPTH_2
def test_what_swapping_in_refuses(snp: Sev) -> None:
    vm = SnpVm(snp, private=2)
    mdata, out = snp.pages(2)
    snp.firmware(mdata, out)
    snp.did("SNP_PAGE_MD_INIT", gctx=vm.gctx, pa=mdata)
    good = {"gctx": vm.gctx, "src": out, "dst": vm.pages[1], "mdata": mdata}
    refused(snp, 0x10, "SNP_PAGE_SWAP_IN", **good | {"gctx": out})
    refused(snp, 0x09, "SNP_PAGE_SWAP_IN", **good | {"flags": 8})


@SLOW_AT_DEPTH_2
def test_a_session_that_nobody_wrapped_starts_nothing(legacy: Sev) -> None:
    area, session = legacy.alloc(4 * PAGE), legacy.alloc()
    legacy.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    start = {"dh": area, "dh_len": CERT, "session": session, "session_len": 128}
    refused(legacy, 0x0B, "LAUNCH_START", policy=0, **start)


@SLOW_AT_DEPTH_2
def test_a_platform_without_es_receives_no_es_guest(sev: Sevs) -> None:
    one = sev(hosts=2)
    other = Sev(one.keyboard, 1)
    one.sev_up()
    other.sev_up(flags=0)
    theirs = other.alloc(4 * PAGE)
    other.did("PDH_CERT_EXPORT", pdh=theirs, len=CERT, chain=theirs + PAGE, chain_len=CHAIN)
    handle = one.launched(ES, 1)
    pdh, session = one.pages(2)
    one.write(pdh, other.read(theirs, CERT))
    one.did("SEND_START", handle=handle, pdh=pdh, pdh_len=CERT, session=session, session_len=128)
    mine = one.alloc(4 * PAGE)
    one.did("PDH_CERT_EXPORT", pdh=mine, len=CERT, chain=mine + PAGE, chain_len=CHAIN)
    there = other.pages(2)
    other.write(there[0], one.read(mine, CERT))
    other.write(there[1], one.read(session, 128))
    fields = {"dh": there[0], "dh_len": CERT, "session": there[1], "session_len": 128}
    refused(other, 0x15, "RECEIVE_START", policy=ES, **fields)


@SLOW_AT_DEPTH_2
def test_snp_init_ex_looks_at_the_cpus_likewise(sev: Sevs) -> None:
    host = sev()
    for cpu in range(host.cpus):
        host.wrmsr(RMP_BASE, RMP_AT, cpu)
        host.wrmsr(RMP_END, RMP_AT + RMP_LEN - 1, cpu)
    refused(host, 0x03, "SNP_INIT_EX", flags=1)
    for cpu in range(host.cpus):
        host.wrmsr(RMP_BASE, RMP_AT | C_BIT, cpu)
    host.cpus_up(RMP_AT | C_BIT)
    refused(host, 0x15, "SNP_INIT_EX", flags=1)


@SLOW_AT_DEPTH_2
def test_a_large_page_of_the_firmwares_becomes_no_metadata(snp: Sev) -> None:
    vm = SnpVm(snp, private=1)
    block = snp.alloc(2 * MIB, 2 * MIB)
    assert snp.rmpupdate(block, size=1, immutable=1) == 0
    refused(snp, 0x19, "SNP_PAGE_MD_INIT", gctx=vm.gctx, pa=block)
    snp.did("SNP_PAGE_RECLAIM", pa=block | 1)


@SLOW_AT_DEPTH_2
def test_pages_of_a_guest_that_was_never_launched_stay_where_they_are(snp: Sev) -> None:
    fresh = snp.snp_guest(start=False)
    src, dst = snp.pages(2)
    snp.firmware(src, dst)
    refused(snp, 0x02, "SNP_PAGE_MOVE", gctx=fresh, src=src, dst=dst)
    root = {"gctx": fresh, "src": src, "dst": dst, "flags": 0x12}
    refused(snp, 0x02, "SNP_PAGE_SWAP_OUT", **root)
    unbound = snp.snp_guest(asid=0)
    refused(snp, 0x08, "SNP_PAGE_SWAP_OUT", **root | {"gctx": unbound})
