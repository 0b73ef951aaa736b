"""The order of checks of legacy commands where SNP is on: pages come last, but for the work."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from sev_cases import (
    DEPTHS,
    Case,
    Try,
    Wrong,
    area,
    in_documented_order,
    is_,
    named,
    no_handle,
    of_the_guest,
    off,
)
from sev_field import MIB, PAGE, Sev, Sevs


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


@pytest.mark.parametrize("sev_depth", DEPTHS)
@pytest.mark.parametrize("case", BESIDE_SNP, ids=named)
def test_the_first_check_that_fails_decides(sev: Sevs, case: Case) -> None:
    in_documented_order(sev, case)
