"""The order of checks of the extended ACTIVATEs, which say on which CPUs a guest runs."""

from __future__ import annotations

import struct

import pytest
from sev_cases import (
    DEPTHS,
    Case,
    Try,
    in_documented_order,
    is_,
    keeps_handle,
    named,
    no_context,
    no_handle,
    shut,
    snp_gone,
    stray,
)
from sev_field import Sev, Sevs


def bindable(host: Sev) -> Try:
    host.sev_up()
    ids = host.alloc()
    host.write(ids, struct.pack("<II", 0, 1))
    handle = host.legacy_guest()
    return Try(host, {"length": 0x18, "handle": handle, "asid": 9, "numids": 2, "ids": ids})


def snp_bindable(host: Sev) -> Try:
    host.snp_up()
    gctx = host.snp_guest(asid=0)
    fields = {"length": 0x20, "gctx": gctx, "asid": 3, "numids": 1, "ids": host.alloc()}
    return Try(host, fields, {"gctx": gctx})


def never_launched(t: Try) -> None:
    t.set(gctx=t.host.snp_guest(start=False) | t.fields["gctx"] & 0xFFF)


def asid_has_pages(t: Try) -> None:
    at = t.host.alloc()
    t.host.give(at, 0, t.fields["asid"])


ACTIVATE = [
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
]


@pytest.mark.parametrize("sev_depth", DEPTHS)
@pytest.mark.parametrize("case", ACTIVATE, ids=named)
def test_the_first_check_that_fails_decides(sev: Sevs, case: Case) -> None:
    in_documented_order(sev, case)
