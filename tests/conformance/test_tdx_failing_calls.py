"""What a call that is refused changes beside RAX: what its row says, and each register of it is seen to.

Every call of every test of TDX is held to the first half (`tdx_field`).
"""

from __future__ import annotations

import pytest
from tdx_field import CHANGED_BY, DEBUG, TdxHost, seen_to_change, td_params
from tdx_names import OPERAND_INVALID, PAGE

NAMES = ("rcx", "rdx", *(f"r{number}" for number in range(8, 14)))
JUNK = {name: 0x1001 * number for number, name in enumerate(NAMES, 1)}
NULL = (1 << 64) - 1
SEPT = {"rcx", "rdx"}
PAGE_DATA = SEPT | {"r8", "r9", "r10", "r11"}
BY_HAND = {  # which registers a refused call leaves otherwise than they were given
    **{f"MEM.PAGE.{name}": SEPT for name in ("ADD", "AUG", "DEMOTE", "RELOCATE", "REMOVE")},
    **{f"MEM.{name}": SEPT for name in ("RANGE.BLOCK", "RANGE.UNBLOCK", "SEPT.ADD", "SEPT.RD")},
    "MR.EXTEND": SEPT,
    "MEM.RD": SEPT | {"r8"},
    "MEM.WR": SEPT | {"r8"},
    "MEM.PAGE.PROMOTE": SEPT | {"r9", "r10", "r11"},
    "MEM.SEPT.REMOVE": SEPT | {"r9", "r10", "r11"},
    "MNG.INIT": {"rcx"},
    "MNG.RD": {"rdx", "r8"},
    "VP.RD": {"rdx", "r8"},
    "SYS.RD": {"rdx", "r8"},
    "MNG.WR": {"r8"},
    "VP.WR": {"r8"},
    "SYS.RDALL": {"r8"},
    "PHYMEM.PAGE.RDMD": PAGE_DATA,
    "PHYMEM.PAGE.RECLAIM": PAGE_DATA,
    "SYS.INFO": {"rdx", "r9"},
    "SYS.TDMR.INIT": {"rdx"},
}


def test_rows_name_what_the_sheet_names() -> None:
    assert {leaf: changed for leaf, changed in CHANGED_BY.items() if changed} == BY_HAND


@pytest.mark.parametrize("leaf", BY_HAND)
def test_each_register_that_a_row_names_is_seen_to_change(tdx_host: TdxHost, leaf: str) -> None:
    seen_to_change[leaf].clear()
    td = tdx_host.initialized(td_params(attributes=DEBUG))
    vcpu = td.vcpu()
    refused = tdx_host.call(leaf, version=leaf in ("MEM.PAGE.PROMOTE", "MEM.SEPT.REMOVE"), **JUNK)
    assert refused.rax & ~0xFF == OPERAND_INVALID or leaf == "SYS.RD"
    if leaf in ("MNG.RD", "MNG.WR"):
        tdx_host.call(leaf, version=leaf == "MNG.RD", **JUNK | {"rcx": td.tdr, "rdx": NULL >> 1})
    elif leaf in ("VP.RD", "VP.WR"):
        tdx_host.call(leaf, version=leaf == "VP.RD", **JUNK | {"rcx": vcpu, "rdx": NULL >> 1})
    elif leaf == "MEM.RD" or leaf == "MEM.WR":
        tdx_host.call(leaf, **JUNK | {"rcx": PAGE, "rdx": td.tdr})
    assert seen_to_change[leaf] == BY_HAND[leaf]
