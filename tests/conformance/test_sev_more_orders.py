"""The order of checks, continued: the platforms' commands, guests on their way, the extended ACTIVATEs.

As in `test_sev_orders`, each violation is tried alone and with each that comes later, in the documented
order. The console explains itself here, so that checks with the same status are told apart.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from driver import number
from sev_field import (
    C_BIT,
    HSAVE,
    IDS,
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
    SnpVm,
    buffer,
)

CERT, CHAIN, ES = 2084, 6252, 4
NOWHERE = 0xA0000
SNP_EN = 1 << 24
RAW = {  # commands of which the other tests type the bytes
    "ACTIVATE_EX": ("<IIIIQ", "length handle asid numids ids"),
    "RING_BUFFER": ("<QQQQBBHHH", "lo_cmd lo_sts hi_cmd hi_sts lo_n hi_n lo_thr hi_thr on_empty"),
    "SNP_PAGE_SET_STATE": ("<IIQ", "length r list"),
    "SNP_INIT_EX": ("<I4xQH46x", "flags list max_asid"),
}


@dataclass
class Try:
    """One attempt: what is asked for, and what the preparation made."""

    host: Sev
    fields: dict[str, Any]
    made: dict[str, int] = field(default_factory=dict)

    def set(self, **fields: Any) -> None:
        self.fields.update(fields)


Wrong = tuple[int, str, Callable[[Try], object] | None]
"""Status, the check's name, what makes it so; None: the preparation left it wrong."""


@dataclass
class Case:
    """`prepare` makes an attempt that passes all checks; `wrongs` come in their documented order.

    `first` are violations that have to be made before the others, `last` those that nothing survives.
    """

    name: str
    prepare: Callable[[Sev], Try]
    wrongs: list[Wrong]
    label: str = ""
    clash: tuple[tuple[int, int], ...] = ()
    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    profile: str = "small"


def is_(**fields: Any) -> Callable[[Try], None]:
    return lambda t: t.set(**fields)


def off(name: str, by: int = 8) -> Callable[[Try], None]:
    return lambda t: t.set(**{name: t.fields[name] + by})


# -- the legacy platform -----------------------------------------------------------------------------------


def down(extended: bool) -> Callable[[Sev], Try]:
    def prepare(host: Sev) -> Try:
        nv, tmr = host.alloc(0x8000), host.alloc(MIB, MIB)
        fields = {"flags": 1, "tmr": tmr, "tmr_len": MIB}
        if extended:
            fields |= {"length": 0x24, "nv": nv, "nv_len": 0x8000}
        return Try(host, fields)

    return prepare


def up(t: Try) -> None:
    t.host.sev_up()


def no_sme(t: Try) -> None:
    t.host.wrmsr(SYSCFG, t.host.rdmsr(SYSCFG, 1) & ~(1 << 23), 1)


def snp_switched_on(t: Try) -> None:
    for cpu in range(t.host.cpus):
        t.host.wrmsr(SYSCFG, t.host.rdmsr(SYSCFG, cpu) | SNP_EN, cpu)


def shut(t: Try) -> None:
    t.host.did("SHUTDOWN")


def ready(**fields: Any) -> Callable[[Sev], Try]:
    """The legacy platform is up; areas that are asked for by name are made."""

    def prepare(host: Sev) -> Try:
        host.sev_up()
        made = {name: value(host) if callable(value) else value for name, value in fields.items()}
        return Try(host, made)

    return prepare


def area(host: Sev) -> int:
    return host.alloc(4 * PAGE)


INIT_WRONGS: list[Wrong] = [
    (0x01, "not UNINIT", up),
    (0x13, "SME is off", no_sme),
    (0x03, "reserved bits", is_(flags=3)),
    (0x01, "SNP_EN is on and there is no RMP", snp_switched_on),
]
TMR_WRONGS: list[Wrong] = [(0x09, "TMR misplaced", off("tmr")), (0x04, "TMR length", is_(tmr_len=PAGE))]
NV_WRONGS: list[Wrong] = [
    (0x04, "length", is_(length=0x20)),
    (0x09, "NV misplaced", off("nv")),
    (0x04, "NV length", is_(nv_len=16)),
    (0x09, "NV and TMR overlap", lambda t: t.set(tmr=t.fields["nv"] & ~(MIB - 1))),
]
PLATFORM = [
    Case("INIT", down(False), [*INIT_WRONGS, *TMR_WRONGS], first=(0,)),
    Case(
        "INIT_EX",
        down(True),
        [*INIT_WRONGS, *NV_WRONGS, *TMR_WRONGS],
        first=(0,),
        clash=((5, 7), (6, 7), (7, 8), (7, 9)),
    ),
    Case(
        "PEK_CSR",
        ready(pa=area, len=CERT),
        [(0x01, "not initialised", shut), (0x04, "short", is_(len=16)), (0x09, "address", is_(pa=NOWHERE))],
        last=(0,),
    ),
    Case(
        "PEK_CERT_IMPORT",
        ready(pek=area, pek_len=CERT, oca=area, oca_len=CERT),
        [
            (0x01, "not INIT", lambda t: t.host.legacy_guest()),
            (0x04, "lengths", is_(pek_len=16)),
            (0x09, "addresses", is_(oca=NOWHERE)),
            (0x06, "certificates", None),
        ],
    ),
    Case(
        "PEK_CERT_IMPORT",
        ready(pek=area, pek_len=CERT, oca=area, oca_len=CERT),
        [
            (0x01, "not INIT", lambda t: t.host.legacy_guest()),
            (0x05, "owned", None),
            (0x04, "lengths", is_(pek_len=16)),
        ],
        "owned",
        profile="owned",
    ),
    Case(
        "PDH_CERT_EXPORT",
        ready(pdh=area, len=CERT, chain=area, chain_len=CHAIN),
        [
            (0x01, "not initialised", shut),
            (0x04, "short", is_(chain_len=16)),
            (0x09, "addresses", is_(pdh=NOWHERE)),
        ],
        last=(0,),
    ),
    Case(
        "DOWNLOAD_FIRMWARE",
        lambda host: Try(host, {"pa": host.alloc(), "len": PAGE}),
        [(0x01, "not UNINIT", up), (0x09, "address", off("pa")), (0x15, "not modelled", None)],
    ),
    Case(
        "GET_ID",
        lambda host: Try(host, {"pa": host.alloc(), "len": 64}),
        [(0x04, "short", is_(len=16)), (0x09, "address", is_(pa=NOWHERE))],
    ),
    Case(
        "RING_BUFFER",
        lambda host: Try(host, {}),
        [(0x01, "not initialised", None)],
        "down",
    ),
    Case("RING_BUFFER", ready(), [(0x01, "not initialised", shut), (0x15, "not modelled", None)]),
]


# -- legacy guests on their way ----------------------------------------------------------------------------


def bindable(host: Sev) -> Try:
    host.sev_up()
    ids = host.alloc()
    host.write(ids, struct.pack("<II", 0, 1))
    handle = host.legacy_guest()
    return Try(host, {"length": 0x18, "handle": handle, "asid": 9, "numids": 2, "ids": ids})


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


def no_handle(t: Try) -> None:
    t.set(handle=77)


def of_the_guest(name: str) -> Callable[[Try], None]:
    """The command is done for the guest of the preparation, whatever handle is asked for."""

    def make(t: Try) -> None:
        t.host.did(name, handle=t.made.get("handle", t.fields["handle"]))

    return make


def keeps_handle(prepare: Callable[[Sev], Try]) -> Callable[[Sev], Try]:
    def prepared(host: Sev) -> Try:
        t = prepare(host)
        t.made["handle"] = t.fields["handle"]
        return t

    return prepared


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
LEGACY = [
    Case(
        "ACTIVATE_EX",
        keeps_handle(bindable),
        [
            (0x04, "length", is_(length=0x17)),
            (0x01, "platform is not working", shut),
            (0x10, "no such handle", no_handle),
            (0x16, "CPUs", is_(numids=0)),
            (0x0D, "ASID 0 or out of range", is_(asid=16)),
            (0x12, "guest has an ASID", lambda t: t.host.did("ACTIVATE", handle=t.made["handle"], asid=10)),
            (0x0D, "wrong range for this kind of guest", is_(asid=3)),
        ],
        clash=((4, 6),),
        last=(1,),
    ),
    Case(
        "ACTIVATE_EX",
        keeps_handle(bindable),
        [
            (0x16, "CPUs", is_(numids=0)),
            (0x0C, "ASID is bound", lambda t: t.host.legacy_guest(asid=9)),
            (0x12, "guest has an ASID", lambda t: t.host.did("ACTIVATE", handle=t.made["handle"], asid=10)),
        ],
        "owned",
    ),
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


# -- legacy commands where SNP is on: pages come last, but for the work ------------------------------------


def both(host: Sev) -> None:
    host.snp_up()
    tmr = host.alloc(2 * MIB, 2 * MIB)
    host.firmware(*range(tmr, tmr + 2 * MIB, PAGE))
    host.did("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB)
    host.flush()


def beside_snp(policy: int = 0, **fields: Any) -> Callable[[Sev], Try]:
    """A legacy guest in LUPDATE, SNP on; nothing is the firmware's."""

    def prepare(host: Sev) -> Try:
        both(host)
        status, page = host.guarded("LAUNCH_START", policy=policy)
        assert status == 0
        handle = struct.unpack("<I", host.read(page, 4))[0]
        host.did("ACTIVATE", handle=handle, asid=8)
        made = {name: value(host) if callable(value) else value for name, value in fields.items()}
        return Try(host, {"handle": handle, **made}, {"handle": handle})

    return prepare


NO_ASID: Wrong = (0x08, "no ASID", of_the_guest("DEACTIVATE"))
BESIDE_SNP = [
    Case(
        "LAUNCH_UPDATE_DATA",
        beside_snp(pa=area, len=PAGE),
        [NO_ASID, (0x09, "address", off("pa")), (0x04, "length", is_(len=24)), (0x1A, "pages", None)],
        "pages",
    ),
    Case(
        "COPY",
        beside_snp(src=area, dst=area, len=PAGE),
        [
            NO_ASID,
            (0x04, "length", is_(len=24)),
            (0x09, "addresses", off("dst")),
            (0x1A, "target pages", None),
        ],
        "pages",
    ),
    Case(
        "DBG_DECRYPT",
        beside_snp(src=area, dst=area, len=64),
        [
            (0x09, "addresses", off("dst")),
            (0x04, "length", is_(len=24)),
            (0x1A, "output pages", None),
            NO_ASID,
        ],
        "pages",
    ),
    Case(
        "DBG_ENCRYPT",
        beside_snp(policy=1, src=area, dst=area, len=64),
        [(0x10, "no such handle", no_handle), (0x07, "NODBG", None), NO_ASID],
        "pages",
    ),
]


# -- SNP's platform ----------------------------------------------------------------------------------------


def placed(**fields: Any) -> Callable[[Sev], Try]:
    """The RMP has its place on every CPU, and SNP is not switched on yet (`on` does that)."""

    def prepare(host: Sev) -> Try:
        for cpu in range(host.cpus):
            host.wrmsr(RMP_BASE, RMP_AT, cpu)
            host.wrmsr(RMP_END, RMP_AT + RMP_LEN - 1, cpu)
        return Try(host, dict(fields))

    return prepare


def at_c_bit(t: Try) -> None:
    for cpu in range(t.host.cpus):
        t.host.wrmsr(RMP_BASE, RMP_AT | C_BIT, cpu)
        t.host.wrmsr(RMP_END, RMP_AT + RMP_LEN - 1 | C_BIT, cpu)


def cpus_differ(t: Try) -> None:
    t.host.wrmsr(HSAVE, t.host.alloc(), 1)


def on(t: Try) -> None:
    for cpu in range(t.host.cpus):
        t.host.wrmsr(SYSCFG, SNP_CPU, cpu)


def initialised(t: Try) -> None:
    on(t)
    t.host.did("SNP_INIT")


def with_rmp(host: Sev) -> Try:
    """SNP was up, and its RMP is valid still."""
    host.snp_up()
    host.did("SNP_SHUTDOWN")
    return Try(host, {"flags": 1})


def snp(**fields: Any) -> Callable[[Sev], Try]:
    def prepare(host: Sev) -> Try:
        host.snp_up()
        made = {name: value(host) if callable(value) else value for name, value in fields.items()}
        return Try(host, made)

    return prepare


def page(host: Sev) -> int:
    return host.alloc()


def firmware_page(host: Sev) -> int:
    at = host.alloc()
    host.firmware(at)
    return at


def legacy_up(t: Try) -> None:
    tmr = t.host.alloc(2 * MIB, 2 * MIB)
    t.host.firmware(*range(tmr, tmr + 2 * MIB, PAGE))
    t.host.did("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB)


def asid_dirty(t: Try) -> None:
    gctx = t.host.snp_guest()
    t.host.did("SNP_LAUNCH_FINISH", gctx=gctx)
    t.host.did("SNP_DECOMMISSION", gctx=gctx)


def not_firmware(name: str) -> Callable[[Try], None]:
    return lambda t: t.set(**{name: t.host.alloc() + t.fields[name] % PAGE})


def snp_gone(t: Try) -> None:
    for gctx in {t.made.get("gctx"), t.made.get("other")} - {None}:
        t.host.cmd("SNP_DECOMMISSION", gctx=gctx)
    t.host.flush("SNP_DF_FLUSH")
    t.host.did("SNP_SHUTDOWN")


def to_fix(host: Sev) -> Try:
    host.snp_up()
    block, listed = host.alloc(2 * MIB, 2 * MIB), host.alloc()
    host.firmware(block)
    host.write(listed, struct.pack("<IIQII", 1, 0, block, 1, 0))
    return Try(host, {"length": 0x10, "list": listed})


def lists(base: int, count: int = 1) -> Callable[[Try], None]:
    def make(t: Try) -> None:
        listed = t.host.alloc()
        t.host.write(listed, struct.pack("<IIQII", count, 0, base, 1, 0))
        t.set(list=listed)

    return make


SNP_PLATFORM = [
    Case(
        "SNP_INIT",
        placed(),
        [
            (0x01, "", initialised),
            (0x03, "", cpus_differ),
            (0x15, "", at_c_bit),
        ],
        clash=((0, 2),),
        first=(2, 0),
    ),
    Case(
        "SNP_INIT_EX",
        placed(flags=1),
        [
            (0x16, "reserved bits", lambda t: t.set(flags=t.fields["flags"] | 1 << 20)),
            (0x01, "", initialised),
            (0x20, "", lambda t: t.set(flags=t.fields["flags"] & ~1)),
            (0x03, "", cpus_differ),
            (0x15, "", at_c_bit),
        ],
        clash=((1, 4),),
        first=(4, 1),
    ),
    Case(
        "SNP_INIT_EX",
        with_rmp,
        [
            (0x16, "reserved bits", lambda t: t.set(flags=t.fields["flags"] | 1 << 20)),
            (0x01, "", lambda t: t.host.did("SNP_INIT")),
            (0x16, "list without a new RMP", lambda t: t.set(flags=t.fields["flags"] & ~1 | 2)),
        ],
        "list",
    ),
    Case(
        "SNP_SHUTDOWN_EX",
        snp(length=8),
        [(0x01, "", legacy_up), (0x0F, "", asid_dirty), (0x16, "", is_(length=7))],
        first=(1,),
    ),
    Case(
        "SNP_PLATFORM_STATUS",
        snp(status=firmware_page),
        [
            (0x16, "", off("status", 0xFF0)),
            (0x09, "", lambda t: t.set(status=NOWHERE + t.fields["status"] % PAGE)),
        ],
    ),
    Case(
        "SNP_PLATFORM_STATUS",
        snp(status=firmware_page),
        [(0x16, "", off("status", 0xFF0)), (0x1A, "", not_firmware("status"))],
        "page",
    ),
    Case(
        "SNP_DOWNLOAD_FIRMWARE_EX",
        lambda host: Try(host, {"length": 0x18, "pa": host.alloc(), "len": PAGE}),
        [
            (0x01, "SEV is not UNINIT", up),
            (0x16, "reserved bits", is_(length=0x17)),
            (0x09, "address", off("pa")),
            (0x15, "not modelled", None),
        ],
    ),
    Case(
        "SNP_VLEK_LOAD",
        snp(length=0x10, pa=page),
        [(0x16, "length", is_(length=8)), (0x09, "address", is_(pa=NOWHERE)), (0x21, "TCB", None)],
    ),
    Case(
        "SNP_FEATURE_INFO",
        snp(length=0x10, pa=firmware_page),
        [
            (0x16, "length", is_(length=8)),
            (0x09, "", off("pa", 2)),
            (0x1A, "", not_firmware("pa")),
            (0x16, "subfunction", is_(ecx=2)),
        ],
    ),
    Case(
        "SNP_PAGE_SET_STATE",
        to_fix,
        [
            (0x04, "length", is_(length=8)),
            (0x16, "reserved bits", is_(r=1)),
            (0x01, "SNP is not initialised", snp_gone),
            (0x16, "list", lists(PAGE)),
        ],
        last=(2,),
    ),
    Case("SNP_PAGE_SET_STATE", to_fix, [(0x16, "list", lists(RMP_AT, 256))], "count"),
    Case("SNP_PAGE_SET_STATE", to_fix, [(0x09, "the RMP's pages", lists(RMP_AT))], "table"),
    Case("SNP_PAGE_SET_STATE", to_fix, [(0x1A, "not Firmware", lists(0x1000000))], "state"),
]


# -- SNP guests --------------------------------------------------------------------------------------------


def snp_bindable(host: Sev) -> Try:
    host.snp_up()
    gctx = host.snp_guest(asid=0)
    fields = {"length": 0x20, "gctx": gctx, "asid": 3, "numids": 1, "ids": host.alloc()}
    return Try(host, fields, {"gctx": gctx})


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


def stray(t: Try) -> None:
    t.set(gctx=t.fields["gctx"] | 0x10)


def no_context(t: Try) -> None:
    t.set(gctx=t.host.alloc() | t.fields["gctx"] & 0xFFF)


def never_launched(t: Try) -> None:
    t.set(gctx=t.host.snp_guest(start=False) | t.fields["gctx"] & 0xFFF)


def asid_has_pages(t: Try) -> None:
    at = t.host.alloc()
    t.host.give(at, 0, t.fields["asid"])


def foreign_page(t: Try) -> None:
    at = t.host.alloc()
    t.host.give(at, PAGE, 2, immutable=1)
    t.set(dst=at)


def changed(t: Try) -> None:
    src = t.fields["src"]
    t.host.take_back(src)
    t.host.write(src, b"forged")


SNP_GUESTS = [
    Case(
        "SNP_ACTIVATE_EX",
        snp_bindable,
        [
            (0x16, "length", is_(length=0x1F)),
            (0x16, "reserved bits", stray),
            (0x01, "SNP is not initialised", snp_gone),
            (0x10, "not a context page", no_context),
            (0x16, "CPUs", is_(numids=0)),
            (0x0D, "ASID out of range", is_(asid=1 << 20)),
        ],
        clash=((2, 3),),
        last=(2,),
    ),
    Case(
        "SNP_ACTIVATE_EX",
        snp_bindable,
        [
            (0x16, "CPUs", is_(numids=0)),
            (0x02, "not launched", never_launched),
            (0x03, "pages of that ASID", asid_has_pages),
            (0x12, "guest has an ASID", lambda t: t.host.did("SNP_ACTIVATE", gctx=t.made["gctx"], asid=5)),
        ],
        "guest",
    ),
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


# -- the test ----------------------------------------------------------------------------------------------


def attempt(host: Sev, case: Case, chosen: tuple[int, ...]) -> tuple[int, str]:
    host.ok("reset", kind="power")
    t = case.prepare(host)
    early = [at for at in case.first if at in chosen]
    late = [at for at in case.last if at in chosen]
    for at in (*early, *(at for at in chosen if at not in (*early, *late)), *late):
        make = case.wrongs[at][2]
        if make is not None:
            make(t)
    if case.name in ("SNP_INIT", "SNP_INIT_EX") and host.rdmsr(SYSCFG) != SNP_CPU:
        on(t)
    if case.name in RAW:
        form, names = RAW[case.name]
        raw = struct.pack(form, *(t.fields.get(one, 0) for one in names.split()))
    else:
        raw = buffer(case.name, **t.fields)
    return rung(host, case.name, raw)


def rung(host: Sev, name: str, raw: bytes) -> tuple[int, str]:
    """The status, and the check that the console names. A written buffer is the firmware's under SNP."""
    at = host.buffer
    if raw:
        host.write(at, raw)
    code = IDS[name]
    answer = host.ask("call", cmdresp=code << 16, lo=at & 0xFFFFFFFF, hi=at >> 32)
    return number(answer["ok"]["cmdresp"]) & 0xFFFF, answer.get("explain", {}).get("check", "")


def named(case: Case) -> str:
    return f"{case.name} {case.label}".strip()


@pytest.mark.parametrize(
    "sev_depth", [pytest.param(depth, marks=[pytest.mark.slow] * (depth > 0)) for depth in (0, 1, 2)]
)
@pytest.mark.parametrize("case", [*PLATFORM, *LEGACY, *BESIDE_SNP, *SNP_PLATFORM, *SNP_GUESTS], ids=named)
def test_the_first_check_that_fails_decides(sev: Sevs, case: Case) -> None:
    host = sev(explain=True, profile=case.profile)
    always = {at for at, (_, _, make) in enumerate(case.wrongs) if make is None}
    singles = [(at,) for at in range(len(case.wrongs))]
    pairs = [pair for pair in combinations(range(len(case.wrongs)), 2) if pair not in case.clash]
    for chosen in (*singles, *pairs):
        status, text, _ = case.wrongs[min(always | set(chosen))]
        found = attempt(host, case, chosen)
        assert found[0] == status, f"violations {chosen}: {found[0]:#x} ({found[1]}), wanted {status:#x}"
        assert not text or found[1] == text, f"violations {chosen}: {found[1]!r}, wanted {text!r}"
