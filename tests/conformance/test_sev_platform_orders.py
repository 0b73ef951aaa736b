"""The order of checks of the platforms' commands, the legacy one's and SNP's."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

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
    named,
    off,
    on,
    page,
    ready,
    shut,
    snp_gone,
)
from sev_field import C_BIT, HSAVE, MIB, PAGE, RMP_AT, RMP_BASE, RMP_END, RMP_LEN, SYSCFG, Sev, Sevs

CERT = 2084
CHAIN = 6252

SNP_EN = 1 << 24


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


@pytest.mark.parametrize("sev_depth", DEPTHS)
@pytest.mark.parametrize("case", [*PLATFORM, *SNP_PLATFORM], ids=named)
def test_the_first_check_that_fails_decides(sev: Sevs, case: Case) -> None:
    in_documented_order(sev, case)
