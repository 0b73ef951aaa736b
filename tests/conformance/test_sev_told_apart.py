"""Checks of one command that answer the same status: each is met, and the console says which it was.

What the host did wrong is one thing at a time; the explanation (`--explain`) names the check of the table.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from driver import number
from sev_field import (
    IDS,
    MIB,
    PAGE,
    POLICY,
    RMP_AT,
    RMP_BASE,
    RMP_END,
    RMP_LEN,
    SLOW_AT_DEPTH_2,
    SNP_CPU,
    SYSCFG,
    Sev,
    Sevs,
    SnpVm,
    buffer,
)

CERT, CHAIN = 2084, 6252
NOWHERE = 0xA0000
ES, DOMAIN = 4, 0x10


def rung(host: Sev, name: str, raw: bytes) -> tuple[int, str]:
    """The status of a command with this buffer, and the check that the console names."""
    host.write(host.buffer, raw)
    code, at = IDS[name], host.buffer
    answer = host.ask("call", cmdresp=code << 16, lo=at & 0xFFFFFFFF, hi=at >> 32)
    return number(answer["ok"]["cmdresp"]) & 0xFFFF, answer.get("explain", {}).get("check", "")


def told(host: Sev, name: str, **fields: Any) -> tuple[int, str]:
    return rung(host, name, buffer(name, **fields))


@pytest.fixture
def plain(sev: Sevs) -> Sev:
    return sev(explain=True)


@pytest.fixture
def old(plain: Sev) -> Sev:
    """The legacy platform is up."""
    plain.sev_up()
    return plain


@pytest.fixture
def new(plain: Sev) -> Sev:
    """SNP is up."""
    plain.snp_up()
    return plain


# -- the platforms -----------------------------------------------------------------------------------------


@SLOW_AT_DEPTH_2
def test_two_reasons_why_a_platform_does_not_come_up(plain: Sev) -> None:
    for cpu in range(plain.cpus):
        plain.wrmsr(RMP_BASE, RMP_AT, cpu)
        plain.wrmsr(RMP_END, RMP_AT + RMP_LEN - 1, cpu)
        plain.wrmsr(SYSCFG, SNP_CPU, cpu)
    assert told(plain, "INIT", flags=0) == (0x01, "SNP_EN is on and there is no RMP")
    assert told(plain, "INIT_EX", length=0x24) == (0x01, "SNP_EN is on and there is no RMP")
    listed = plain.alloc()
    plain.write(listed, struct.pack("<I", 256))
    assert told(plain, "SNP_INIT_EX", flags=3, list=listed) == (0x16, "list")
    plain.did("SNP_INIT")
    plain.flush("SNP_DF_FLUSH")
    plain.did("SNP_SHUTDOWN")
    assert told(plain, "SNP_INIT_EX", flags=2, list=listed) == (0x16, "list without a new RMP")


@SLOW_AT_DEPTH_2
def test_a_platform_that_is_up_does_not_come_up_again(old: Sev) -> None:
    assert told(old, "INIT", flags=0) == (0x01, "not UNINIT")
    assert told(old, "INIT_EX", length=0x24) == (0x01, "not UNINIT")


@SLOW_AT_DEPTH_2
def test_a_list_of_pages_to_fix(new: Sev) -> None:
    listed = new.alloc()
    new.write(listed, struct.pack("<IIQII", 1, 0, PAGE, 1, 0))
    assert rung(new, "SNP_PAGE_SET_STATE", struct.pack("<IIQ", 0x10, 1, listed)) == (0x16, "reserved bits")
    assert told(new, "SNP_PAGE_SET_STATE", length=0x10, list=listed) == (0x16, "list")
    for base, reserved in ((PAGE + 8, 0), (PAGE, 1)):
        new.write(listed, struct.pack("<IIQII", 1, 0, base, 1, reserved))
        assert told(new, "SNP_PAGE_SET_STATE", length=0x10, list=listed) == (0x16, "list")


# -- legacy guests -----------------------------------------------------------------------------------------


@SLOW_AT_DEPTH_2
def test_asids_that_a_legacy_guest_cannot_have(old: Sev) -> None:
    handle, bound = old.legacy_guest(), old.legacy_guest(asid=9)
    ids = old.alloc()

    def tried(name: str, asid: int) -> tuple[int, str]:
        if name == "ACTIVATE":
            return told(old, name, handle=handle, asid=asid)
        return rung(old, name, struct.pack("<IIIIQ", 0x18, handle, asid, 1, ids))

    for name in ("ACTIVATE", "ACTIVATE_EX"):
        assert tried(name, 0) == tried(name, 16) == (0x0D, "ASID 0 or out of range")
        assert tried(name, 9) == (0x0C, "ASID is bound")
        assert tried(name, 1) == (0x0D, "wrong range for this kind of guest")
    old.did("DECOMMISSION", handle=handle)
    old.did("DEACTIVATE", handle=bound)


@SLOW_AT_DEPTH_2
def test_a_policy_that_no_guest_may_have_and_one_that_differs(old: Sev) -> None:
    """Reserved bits of a policy count where a session speaks for it."""
    first = old.launched(policy=0x40)
    area, session = old.alloc(4 * PAGE), old.alloc()
    old.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    peer = {"pdh": area, "pdh_len": CERT, "session": session, "session_len": 128}
    old.did("SEND_START", handle=first, **peer)
    start = {"dh": area, "dh_len": CERT, "session": session, "session_len": 128}
    assert told(old, "LAUNCH_START", policy=0x40, **start) == (0x07, "policy")
    other = old.legacy_guest(policy=0)
    assert told(old, "LAUNCH_START", policy=1, handle=other) == (0x07, "policies differ")


@SLOW_AT_DEPTH_2
def test_addresses_of_a_secret(old: Sev) -> None:
    handle = old.legacy_guest(asid=8)
    hdr, guest, trans = old.pages(3)
    good = {"handle": handle, "hdr": hdr, "hdr_len": 52, "guest": guest, "guest_len": 16}
    good |= {"trans": trans, "trans_len": 16}
    assert told(old, "LAUNCH_SECRET", **good | {"guest": guest + 8}) == (0x09, "guest address")
    assert told(old, "LAUNCH_SECRET", **good | {"hdr": NOWHERE}) == (0x09, "addresses")


def exported(host: Sev) -> int:
    area = host.alloc(4 * PAGE)
    host.did("PDH_CERT_EXPORT", pdh=area, len=CERT, chain=area + PAGE, chain_len=CHAIN)
    return area


@SLOW_AT_DEPTH_2
def test_why_a_guest_is_not_sent(old: Sev) -> None:
    area, session = exported(old), old.alloc()
    peer = {"pdh": area, "pdh_len": CERT, "session": session, "session_len": 128}
    domain, stays, free = old.launched(DOMAIN, 8), old.launched(8, 9), old.launched(0, 10)
    chained = old.launched(0x20, 11)
    assert told(old, "SEND_START", handle=domain, **peer) == (0x07, "domain")
    assert told(old, "SEND_START", handle=stays, **peer) == (0x07, "NOSEND")
    assert told(old, "SEND_START", handle=chained, **peer) == (0x07, "certificates")
    assert told(old, "SEND_START", handle=free, **peer | {"pdh_len": 16}) == (0x04, "certificate length")
    assert told(old, "SEND_START", handle=free, **peer | {"session_len": 16}) == (0x04, "session length")


def packet(host: Sev, handle: int, length: int) -> dict[str, int]:
    hdr, guest, trans = host.pages(3)
    lengths = {"hdr_len": 52, "guest_len": length, "trans_len": length}
    return {"handle": handle, "hdr": hdr, "guest": guest, "trans": trans} | lengths


@SLOW_AT_DEPTH_2
def test_lengths_of_packets_and_packets_that_are_compressed(old: Sev) -> None:
    area, session = exported(old), old.alloc()
    es = old.launched(ES, 1)
    peer = {"pdh": area, "pdh_len": CERT, "session": session, "session_len": 128}
    old.did("SEND_START", handle=es, **peer)
    good = packet(old, es, PAGE)
    for name in ("SEND_UPDATE_DATA", "SEND_UPDATE_VMSA"):
        assert told(old, name, **good | {"hdr_len": 8}) == (0x04, "header")
        assert told(old, name, **good | {"guest_len": 24, "trans_len": 24}) == (0x04, "lengths")
    start = {"dh": area, "dh_len": CERT, "session": session, "session_len": 128}
    old.did("RECEIVE_START", policy=ES, **start)
    there = old.out("RECEIVE_START", "handle")
    old.did("ACTIVATE", handle=there, asid=2)
    arriving = packet(old, there, PAGE)
    old.write(arriving["hdr"], b"\1")
    for name in ("RECEIVE_UPDATE_DATA", "RECEIVE_UPDATE_VMSA"):
        assert told(old, name, **arriving) == (0x15, "compressed")


@SLOW_AT_DEPTH_2
def test_vmsas_are_received_for_es_guests(old: Sev) -> None:
    area, session = exported(old), old.alloc()
    sent = old.launched()
    peer = {"pdh": area, "pdh_len": CERT, "session": session, "session_len": 128}
    old.did("SEND_START", handle=sent, **peer)
    old.did("RECEIVE_START", policy=0, dh=area, dh_len=CERT, session=session, session_len=128)
    there = old.out("RECEIVE_START", "handle")
    old.did("ACTIVATE", handle=there, asid=9)
    arriving = packet(old, there, PAGE)
    assert told(old, "RECEIVE_UPDATE_VMSA", **arriving) == (0x15, "not an ES guest")


@SLOW_AT_DEPTH_2
def test_what_a_swapped_legacy_page_is_said_to_be(old: Sev) -> None:
    handle = old.launched()
    src, dst, mdata = old.pages(3)
    swap = {"handle": handle, "src": src, "dst": dst, "mdata": mdata}
    for name in ("SWAP_OUT", "SWAP_IN"):
        assert told(old, name, **swap | {"mdata": dst}) == (0x16, "overlap, or a large VMSA")
        assert told(old, name, **swap | {"flags": 4}) == (0x16, "type")


# -- SNP guests --------------------------------------------------------------------------------------------


@SLOW_AT_DEPTH_2
def test_why_an_snp_guest_gets_no_asid(new: Sev) -> None:
    ids = new.alloc()
    gctx, bound = new.snp_guest(asid=0), new.snp_guest(asid=2)
    fresh = new.snp_guest(start=False)

    def ex(context: int, asid: int, count: int = 1, length: int = 0x20) -> tuple[int, str]:
        raw = struct.pack("<I4xQIIQ", length, context, asid, count, ids)
        return rung(new, "SNP_ACTIVATE_EX", raw)

    assert ex(gctx, 1, length=0x1F) == (0x16, "length")
    assert ex(gctx | 8, 1) == (0x16, "reserved bits")
    assert ex(gctx, 1, count=0) == (0x16, "CPUs")
    for tried in (ex, lambda context, asid: told(new, "SNP_ACTIVATE", gctx=context, asid=asid)):
        assert tried(fresh, 1) == (0x02, "not launched")
        assert tried(gctx, 1 << 20) == (0x0D, "ASID out of range")
        assert tried(gctx, 0) == (0x0D, "ASID 0 or out of range")
        assert tried(gctx, 2) == (0x0C, "ASID is bound")
        assert tried(gctx, 9) == (0x0D, "wrong range for this kind of guest")
    new.did("SNP_DECOMMISSION", gctx=bound)


@SLOW_AT_DEPTH_2
def test_what_is_wrong_with_a_page_of_a_launch(new: Sev) -> None:
    gctx = new.snp_guest()
    block = new.alloc(2 * MIB, 2 * MIB)
    new.give(block, 2 * MIB, 1, size=1, immutable=1)
    asked = {"gctx": gctx, "pa": block}
    assert told(new, "SNP_LAUNCH_UPDATE", flags=5 << 1 | 1, **asked) == (0x19, "type with 2 MiB")
    assert told(new, "SNP_LAUNCH_UPDATE", flags=1 << 1, **asked) == (0x19, "size")
    page = new.alloc()
    new.give(page, 0, 1, immutable=1)
    asked = {"gctx": gctx, "pa": page}
    assert told(new, "SNP_LAUNCH_UPDATE", flags=7 << 1, **asked) == (0x16, "type")
    assert told(new, "SNP_LAUNCH_UPDATE", flags=1 << 1 | 0x10, **asked) == (0x16, "IMI")
    assert told(new, "SNP_LAUNCH_UPDATE", flags=1 << 1, gctx=gctx | 8, pa=page) == (0x16, "reserved bits")
    assert told(new, "SNP_LAUNCH_FINISH", gctx=gctx, flags=2) == (0x16, "flags")


@SLOW_AT_DEPTH_2
def test_what_is_wrong_with_a_page_that_comes_back(new: Sev) -> None:
    vm, other = SnpVm(new, private=2), new.snp_guest(asid=2)
    mdata, theirs, out, target, foreign = new.pages(5)
    new.firmware(mdata, theirs, out)
    new.did("SNP_PAGE_MD_INIT", gctx=vm.gctx, pa=mdata)
    new.did("SNP_PAGE_MD_INIT", gctx=other, pa=theirs)
    page = vm.pages[1]
    assert new.rmpupdate(page, PAGE, 1, 0, 1, vm.asid) == 0
    new.did("SNP_PAGE_SWAP_OUT", gctx=vm.gctx, src=page, dst=out, mdata=mdata)
    swap = {"gctx": vm.gctx, "src": out, "dst": target, "mdata": mdata}
    name = "SNP_PAGE_SWAP_IN"
    assert told(new, name, **swap | {"gctx": vm.gctx | 8}) == (0x16, "reserved bits")
    assert told(new, name, **swap | {"dst": out, "flags": 8 | 4}) == (0x16, "in place metadata or VMSA")
    assert told(new, name, **swap | {"mdata": mdata + 8}) == (0x16, "metadata place")
    assert told(new, name, **swap | {"mdata": page}) == (0x1A, "not Metadata")
    assert told(new, name, **swap | {"mdata": theirs}) == (0x1C, "metadata owner")
    assert told(new, name, **swap) == (0x1A, "pages")
    new.give(foreign, PAGE, 2, immutable=1)
    assert told(new, name, **swap | {"dst": foreign}) == (0x1C, "owner")
    new.give(target, PAGE, vm.asid, immutable=1)
    assert told(new, name, **swap) == (0, "")


@SLOW_AT_DEPTH_2
def test_what_is_wrong_with_a_page_that_goes_out(new: Sev) -> None:
    vm, other = SnpVm(new, private=2, policy=POLICY), new.snp_guest(asid=2)
    mdata, theirs, out, foreign = new.pages(4)
    new.firmware(mdata, theirs, out)
    new.did("SNP_PAGE_MD_INIT", gctx=vm.gctx, pa=mdata)
    new.did("SNP_PAGE_MD_INIT", gctx=other, pa=theirs)
    swap = {"gctx": vm.gctx, "src": vm.pages[1], "dst": out, "mdata": mdata}
    name = "SNP_PAGE_SWAP_OUT"
    assert told(new, name, **swap | {"gctx": vm.gctx | 8}) == (0x16, "reserved bits")
    assert told(new, name, **swap | {"mdata": mdata + 8}) == (0x16, "metadata place")
    assert told(new, name, **swap | {"mdata": out}) == (0x16, "metadata place")
    for kind in (3 << 1, 1 << 1 | 1, 2 << 1 | 1):  # none of the three; metadata and VMSAs are 4 KiB
        assert told(new, name, **swap | {"flags": kind}) == (0x16, "metadata place")
    assert told(new, name, **swap | {"mdata": vm.pages[0]}) == (0x1A, "not Metadata")
    assert told(new, name, **swap | {"mdata": theirs}) == (0x1C, "metadata owner")
    assert told(new, name, **swap) == (0x1A, "pages")
    new.give(foreign, PAGE, 2, immutable=1)
    assert told(new, name, **swap | {"src": foreign}) == (0x1C, "owner")


# -- what nobody would think of ----------------------------------------------------------------------------


@SLOW_AT_DEPTH_2
def test_an_rmp_that_lies_in_no_memory_is_not_built(plain: Sev) -> None:
    plain.cpus_up(plain.memory + MIB)
    assert told(plain, "SNP_INIT_EX", flags=1) == (0x26, "RMP cannot be built")


@SLOW_AT_DEPTH_2
def test_a_page_of_the_rmp_itself_is_the_firmwares_and_becomes_no_context(new: Sev) -> None:
    assert told(new, "SNP_GCTX_CREATE", gctx=RMP_AT) == (0x03, "no memory")


@SLOW_AT_DEPTH_2
def test_a_loaded_key_that_nobody_wrapped(new: Sev) -> None:
    """Its TCB is right, which is looked at first; the rest is nothing."""
    status, wrapped = new.pages(2)
    new.firmware(status)
    new.did("SNP_PLATFORM_STATUS", status=status)
    tcb = new.read(status + 0x10, 8)
    new.write(wrapped, bytes(0x190) + tcb)
    assert told(new, "SNP_VLEK_LOAD", length=0x10, pa=wrapped) == (0x0B, "unwrapping")
    new.write(wrapped, bytes(0x190) + b"\xfe" * 8)
    assert told(new, "SNP_VLEK_LOAD", length=0x10, pa=wrapped)[0] == 0x21


@SLOW_AT_DEPTH_2
def test_metadata_outlives_its_guest_and_serves_the_next_one_in_the_same_context_page(new: Sev) -> None:
    """The context page's address is all that a metadata page knows of its guest."""
    vm = SnpVm(new, private=2)
    mdata, out, target = new.pages(3)
    block = new.alloc(2 * MIB, 2 * MIB)
    new.firmware(mdata, out)
    new.did("SNP_PAGE_MD_INIT", gctx=vm.gctx, pa=mdata)
    assert new.rmpupdate(vm.pages[1], PAGE, 1, 0, 1, vm.asid) == 0
    new.did("SNP_PAGE_SWAP_OUT", gctx=vm.gctx, src=vm.pages[1], dst=out, mdata=mdata)
    swap = {"gctx": vm.gctx, "src": out, "dst": target, "mdata": mdata}
    new.give(block, 2 * MIB, vm.asid, size=1, immutable=1)
    assert told(new, "SNP_PAGE_SWAP_IN", **swap | {"dst": block}) == (0x19, "sizes")
    new.did("SNP_DECOMMISSION", gctx=vm.gctx)
    new.did("SNP_GCTX_CREATE", gctx=vm.gctx)
    assert told(new, "SNP_PAGE_SWAP_IN", **swap) == (0x02, "state")
    new.did("SNP_LAUNCH_START", gctx=vm.gctx, policy=POLICY)
    assert told(new, "SNP_PAGE_SWAP_IN", **swap) == (0x08, "no ASID")


@SLOW_AT_DEPTH_2
def test_what_the_level_below_keeps_for_itself_is_said(new: Sev, sev_depth: int) -> None:
    """What passes all checks is unsupported for a guest host alone, and the console says why."""
    status, check = told(new, "SNP_COMMIT", length=4)
    assert status == (0x15 if sev_depth else 0)  # difference: kept below
    assert check == (
        "it would concern everybody on the machine, so the level below keeps it for itself" * (sev_depth > 0)
    )
    raw = bytearray(buffer("DOWNLOAD_FIRMWARE", pa=new.alloc(), len=PAGE))
    new.flush("SNP_DF_FLUSH")
    new.did("SNP_SHUTDOWN")
    assert rung(new, "DOWNLOAD_FIRMWARE", bytes(raw)) == (0x15, "not modelled")


# -- the texts ---------------------------------------------------------------------------------------------


def test_every_reason_that_the_code_gives_is_a_check_of_the_table() -> None:
    """A status that says why says it in the words of a row that has this status."""
    import re
    from pathlib import Path

    from protocol.arch import sev as package
    from protocol.arch.sev.calls import CALLS
    from protocol.arch.sev.status import Status

    rows = {(check.code, check.text) for row in CALLS.values() for check in row.checks}
    given = set()
    for file in Path(next(iter(package.__path__))).rglob("*.py"):
        for name, why in re.findall(r'Status\.([A-Z_]+)\.because\(\s*"([^"]+)"', file.read_text()):
            given.add((int(Status[name]), why))
    assert len(given) > 40
    assert given <= rows, given - rows
    said = Status.INVALID_PARAM.because("list")
    assert said == Status.INVALID_PARAM and said.why == "list" and not Status.INVALID_PARAM.why
    assert isinstance(said, Status) and said.name == "INVALID_PARAM" and f"{int(said):x}" == "16"
