"""The order of checks of what moves guests and their pages: send, receive, swap out and in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sev_cases import (
    DEPTHS,
    NOWHERE,
    Case,
    Try,
    Wrong,
    area,
    in_documented_order,
    is_,
    keeps_handle,
    named,
    no_context,
    no_handle,
    of_the_guest,
    off,
    shut,
    snp_gone,
    stray,
)
from sev_field import PAGE, Sev, Sevs, SnpVm

CERT = 2084
CHAIN = 6252
ES = 4


def exported(host: Sev) -> int:
    at = area(host)
    host.did("PDH_CERT_EXPORT", pdh=at, len=CERT, chain=at + PAGE, chain_len=CHAIN)
    return at


def leaving(host: Sev, policy: int, asid: int) -> dict[str, int]:
    """A guest in SUPDATE: its handle, and the fields of a RECEIVE_START."""
    at, session, handle = exported(host), host.alloc(), host.launched(policy, asid)
    host.did("SEND_START", handle=handle, pdh=at, pdh_len=CERT, session=session, session_len=128)
    return {"handle": handle, "dh": at, "dh_len": CERT, "session": session, "session_len": 128}


def packet(host: Sev, handle: int) -> dict[str, int]:
    hdr, guest, trans = host.pages(3)
    lengths = {"hdr_len": 52, "guest_len": PAGE, "trans_len": PAGE}
    return {"handle": handle, "hdr": hdr, "guest": guest, "trans": trans} | lengths


def sending(policy: int, asid: int) -> Callable[[Sev], Try]:
    def prepare(host: Sev) -> Try:
        host.sev_up()
        return Try(host, packet(host, leaving(host, policy, asid)["handle"]))

    return prepare


def receiving(policy: int, asid: int) -> Callable[[Sev], Try]:
    def prepare(host: Sev) -> Try:
        host.sev_up()
        start = leaving(host, policy, asid)
        start.pop("handle")
        host.did("RECEIVE_START", policy=policy, **start)
        there = host.out("RECEIVE_START", "handle")
        host.did("ACTIVATE", handle=there, asid=asid + 1)
        t = Try(host, packet(host, there))
        t.made["handle"] = there
        return t

    return prepare


def travelling(host: Sev) -> Try:
    """A guest that runs, and any machine's own exported certificate."""
    host.sev_up()
    at, session = exported(host), host.alloc()
    fields = {"pdh": at, "pdh_len": CERT, "session": session, "session_len": 128}
    return Try(host, {"handle": host.launched(), **fields})


def arriving(host: Sev) -> Try:
    host.sev_up()
    start = leaving(host, 0, 8)
    start.pop("handle")
    t = Try(host, {"policy": 0, **start})
    t.made["other"] = host.legacy_guest(policy=1)
    return t


PACKET: list[Wrong] = [
    (0x08, "no ASID", of_the_guest("DEACTIVATE")),
    (0x04, "lengths", is_(guest_len=24, trans_len=24)),
    (0x09, "addresses", off("guest")),
]

SENT: list[Wrong] = [
    (0x01, "platform is not working", shut),
    (0x04, "header", is_(hdr_len=51)),
    (0x10, "no such handle", no_handle),
    (0x02, "not SUPDATE", of_the_guest("SEND_CANCEL")),
]

RECEIVED: list[Wrong] = [
    (0x01, "platform is not working", shut),
    (0x10, "no such handle", no_handle),
    (0x02, "not RUPDATE", of_the_guest("RECEIVE_FINISH")),
]


def swappable(host: Sev) -> Try:
    host.sev_up()
    src, dst, mdata = host.pages(3)
    t = Try(host, {"handle": host.launched(), "src": src, "dst": dst, "mdata": mdata})
    t.made["handle"] = t.fields["handle"]
    return t


SWAPPED: list[Wrong] = [
    (0x01, "platform is not working", shut),
    (0x09, "addresses", off("src")),
    (0x16, "overlap, or a large VMSA", lambda t: t.set(mdata=t.fields["dst"])),
    (0x10, "no such handle", no_handle),
    (0x08, "no ASID", of_the_guest("DEACTIVATE")),
]

TYPE: Wrong = (0x16, "type", is_(flags=4))


def coming_back(host: Sev) -> Try:
    """A page that was swapped out, and a page of the guest's that waits for it."""
    host.snp_up()
    vm, other = SnpVm(host, private=2), host.snp_guest(asid=2)
    mdata, theirs, out, target = host.pages(4)
    host.firmware(mdata, theirs, out)
    host.did("SNP_PAGE_MD_INIT", gctx=vm.gctx, pa=mdata)
    host.did("SNP_PAGE_MD_INIT", gctx=other, pa=theirs)
    assert host.rmpupdate(vm.pages[1], PAGE, 1, 0, 1, vm.asid) == 0
    host.did("SNP_PAGE_SWAP_OUT", gctx=vm.gctx, src=vm.pages[1], dst=out, mdata=mdata)
    host.give(target, PAGE, vm.asid, immutable=1)
    fields = {"gctx": vm.gctx, "src": out, "dst": target, "mdata": mdata, "flags": 0}
    return Try(host, fields, {"gctx": vm.gctx, "other": other, "theirs": theirs})


def foreign_page(t: Try) -> None:
    at = t.host.alloc()
    t.host.give(at, PAGE, 2, immutable=1)
    t.set(dst=at)


def changed(t: Try) -> None:
    src = t.fields["src"]
    t.host.take_back(src)
    t.host.write(src, b"forged")


LEGACY = [
    Case("SEND_UPDATE_DATA", keeps_handle(sending(0, 8)), [*SENT, *PACKET], last=(0,)),
    Case("SEND_UPDATE_VMSA", keeps_handle(sending(ES, 1)), [*SENT, *PACKET], last=(0,)),
    Case(
        "SEND_UPDATE_VMSA",
        keeps_handle(sending(0, 8)),
        [SENT[3], (0x15, "not an ES guest", None), *PACKET],
        "kind",
    ),
    Case(
        "RECEIVE_UPDATE_DATA",
        receiving(0, 8),
        [*RECEIVED, *PACKET, (0x0B, "MAC", None)],
        last=(0,),
    ),
    Case(
        "RECEIVE_UPDATE_VMSA",
        receiving(ES, 1),
        [*RECEIVED, *PACKET, (0x0B, "MAC", None)],
        last=(0,),
    ),
    Case(
        "SEND_START",
        travelling,
        [
            (0x01, "platform is not working", shut),
            (0x10, "no such handle", no_handle),
            (0x04, "session length", is_(session_len=127)),
            (0x09, "address", is_(session=NOWHERE)),
            (0x04, "certificate length", is_(pdh_len=16)),
            (0x06, "certificate", lambda t: t.set(pdh=t.host.alloc())),
        ],
        "certificates",
        last=(0,),
    ),
    Case(
        "RECEIVE_START",
        arriving,
        [
            (0x01, "not initialised", shut),
            (0x04, "lengths", is_(session_len=127)),
            (0x09, "addresses", is_(session=NOWHERE)),
            (0x06, "certificate", lambda t: t.set(dh=t.host.alloc())),
            (0x0B, "session", is_(policy=2)),
            (0x10, "no guest to share with", is_(handle=99)),
        ],
        last=(0,),
    ),
    Case(
        "RECEIVE_START",
        arriving,
        [
            (0x0B, "session", is_(policy=2)),
            (0x07, "policies differ", lambda t: t.set(handle=t.made["other"])),
        ],
        "shared",
    ),
    Case("SWAP_OUT", swappable, [*SWAPPED, TYPE], last=(0,)),
    Case("SWAP_IN", swappable, [*SWAPPED, (0x16, "type", None)], last=(0,)),
]
SNP_SWAP_IN = [
    Case(
        "SNP_PAGE_SWAP_IN",
        coming_back,
        [
            (0x16, "reserved bits", stray),
            (0x01, "SNP is not initialised", snp_gone),
            (0x10, "not a context page", no_context),
            (0x09, "in place elsewhere", lambda t: t.set(flags=t.fields["flags"] | 8)),
            (0x16, "metadata place", lambda t: t.set(mdata=t.fields["mdata"] + 8)),
            (0x1A, "not Metadata", lambda t: t.set(mdata=t.host.alloc() + t.fields["mdata"] % PAGE)),
        ],
        clash=((1, 2),),
        last=(1,),
    ),
    Case(
        "SNP_PAGE_SWAP_IN",
        coming_back,
        [
            (0x16, "metadata place", lambda t: t.set(mdata=t.fields["mdata"] + 8)),
            (0x1C, "metadata owner", lambda t: t.set(mdata=t.made["theirs"] + t.fields["mdata"] % PAGE)),
            (0x1B, "entry", is_(flags=4)),
            (0x1A, "pages", lambda t: t.set(dst=t.host.alloc())),
        ],
        "entry",
    ),
    Case(
        "SNP_PAGE_SWAP_IN",
        coming_back,
        [(0x1B, "entry", is_(flags=4)), (0x1C, "owner", foreign_page), (0x0B, "tag", changed)],
        "owner",
    ),
    Case(
        "SNP_PAGE_SWAP_IN",
        coming_back,
        [(0x1A, "pages", lambda t: t.set(dst=t.host.alloc())), (0x0B, "tag", changed)],
        "pages",
    ),
]


@pytest.mark.parametrize("sev_depth", DEPTHS)
@pytest.mark.parametrize("case", [*LEGACY, *SNP_SWAP_IN], ids=named)
def test_the_first_check_that_fails_decides(sev: Sevs, case: Case) -> None:
    in_documented_order(sev, case)
