"""Every call that looks at a Secure EPT entry, with the entry in each of its sixteen states.

No host can bring an entry into all of them: what is exported needs a migration key. So the entry is written
behind the module's back, in the tables of the real module, whatever lies between it and the host that asks.
"""

from __future__ import annotations

from typing import Any

import pytest
from tdx_field import DEBUG, Td, TdxHost, td_params
from tdx_names import (
    EPT_ENTRY_NOT_PRESENT,
    EPT_ENTRY_STATE_INCORRECT,
    EPT_VIOLATION,
    GPA_RANGE_ALREADY_BLOCKED,
    MIB2,
    PAGE,
    PAGE_ALREADY_ACCEPTED,
    PAGE_SIZE_MISMATCH,
    RCX,
)

# code, bits 9 and 53 to 56 as one number, leaf with bits 6 and 7, rights of the guest
STATES = {
    "FREE": (0, 0x0E, 0, 0),
    "REMOVED": (5, 0x0C, 0, 0),
    "NL_MAPPED": (132, 0x00, 0, 7),
    "NL_BLOCKED": (129, 0x08, 0, 0),
    "MAPPED": (4, 0x00, 3, 7),
    "BLOCKED": (1, 0x08, 3, 0),
    "BLOCKEDW": (8, 0x04, 3, 5),
    "EXPORTED_BLOCKEDW": (9, 0x06, 3, 5),
    "EXPORTED_DIRTY": (11, 0x03, 3, 7),
    "EXPORTED_DIRTY_BLOCKEDW": (12, 0x07, 3, 5),
    "PENDING": (2, 0x10, 3, 0),
    "PENDING_BLOCKED": (3, 0x18, 3, 0),
    "PENDING_BLOCKEDW": (16, 0x14, 3, 0),
    "PENDING_EXPORTED_BLOCKEDW": (17, 0x16, 3, 0),
    "PENDING_EXPORTED_DIRTY": (19, 0x13, 3, 0),
    "PENDING_EXPORTED_DIRTY_BLOCKEDW": (20, 0x17, 3, 0),
}
ORDER = list(STATES)
BLOCKED_KIND = {"NL_BLOCKED", "BLOCKED", "PENDING_BLOCKED"}
# The level of the entry, and the states that the call takes, in the order of STATES.
HOST = {
    "MEM.PAGE.ADD": (0, "x..............."),
    "MEM.SEPT.ADD": (1, "x.x............."),
    "MEM.PAGE.RELOCATE": (0, "....xxxxxxxxxxxx"),
    "MEM.PAGE.AUG": (0, "xx.............."),
    "MEM.RANGE.BLOCK": (0, "..x.x.x...x.x..."),
    "MEM.RANGE.UNBLOCK": (0, "...x.x.....x...."),
    "MEM.RD": (0, "....x.xxxx......"),
    "MEM.WR": (0, "....x...x......."),
    "MEM.PAGE.DEMOTE": (1, "....xx....xx...."),
    "MR.EXTEND": (0, "....x..........."),
    "MEM.PAGE.PROMOTE": (1, "..xx............"),
    "MEM.SEPT.RD": (0, "xxxxxxxxxxxxxxxx"),
    "MEM.PAGE.REMOVE": (0, "....xxx...xxx..."),
    "MEM.SEPT.REMOVE": (1, "..xx............"),
}
GUEST = {
    6: "..........x...x.",  # ACCEPT
    23: "....x.xxxxx.xxxx",  # ATTR.RD
    24: "....x...x.x...x.",  # ATTR.WR
}
BY_ADDRESS = {"MEM.RD", "MEM.WR", "MR.EXTEND"}  # a guest address alone: the entry is found, not named
NAMES_A_TABLE = {"NL_MAPPED", "NL_BLOCKED"}
ADDRESS, SUPPRESS_VE = 0x000FFFFFFFFFF000, 1 << 63


def bits(state: str) -> int:
    _, middle, leaf, rights = STATES[state]
    return (middle & 1) << 9 | middle >> 1 << 53 | leaf << 6 | rights | (6 << 3 if leaf else 0) | SUPPRESS_VE


def put(td: Td, gpa: int, level: int, state: str) -> None:
    """Bring the entry for `gpa` into a state, with a page or a table where the state has one."""
    if state in NAMES_A_TABLE:
        td.tables_for(gpa, level)
    elif state in ("FREE", "REMOVED"):
        td.tables_for(gpa, level + 1)
    else:
        td.aug(gpa, level)
    console: Any = td.host.keyboard.console
    (real,) = console._rig.machines[0].tds.values()
    place = real.sept.walk(gpa, level)
    assert place.level == level
    real.sept.put(place, place.entry & ADDRESS | bits(state))


def takes(cells: str, state: str) -> bool:
    return cells[ORDER.index(state)] == "x"


@pytest.mark.parametrize("state", STATES)
def test_which_states_a_hosts_call_takes(tdx_host: TdxHost, state: str) -> None:
    td = tdx_host.initialized(td_params(attributes=DEBUG))
    for number, (leaf, (usual, cells)) in enumerate(HOST.items(), 1):
        level = 1 if state in NAMES_A_TABLE else usual  # there are no tables below
        if level and leaf in ("MEM.PAGE.ADD", "MEM.PAGE.RELOCATE"):
            continue  # these are about pages of 4 KiB, whose entries name no table
        gpa = number * (MIB2 if level else PAGE) + (1 << 30)
        put(td, gpa, level, state)
        operands = {"r8": tdx_host.alloc(MIB2, MIB2), "r9": tdx_host.plain()}
        if leaf in BY_ADDRESS:
            out = tdx_host.call(leaf, rcx=gpa, rdx=td.tdr)
        else:
            existing = leaf == "MEM.SEPT.ADD"  # a table that is there may be
            out = tdx_host.call(leaf, rcx=gpa | level, rdx=td.tdr | existing, **operands)
        told = (leaf, hex(out.rax), out.entry_state)
        expected = EPT_ENTRY_STATE_INCORRECT | RCX
        if takes(cells, state):
            assert out.rax not in (expected, EPT_ENTRY_NOT_PRESENT | RCX), told
            continue
        if leaf == "MEM.RANGE.BLOCK" and state in BLOCKED_KIND:
            expected = GPA_RANGE_ALREADY_BLOCKED | RCX
        elif leaf in BY_ADDRESS and state not in NAMES_A_TABLE and STATES[state][3] == 0:
            expected = EPT_ENTRY_NOT_PRESENT | RCX
        elif leaf in BY_ADDRESS and state in NAMES_A_TABLE:
            # A table leads on to a free entry; a blocked one does not.
            assert out.rax == EPT_ENTRY_NOT_PRESENT | RCX, told
            continue
        elif leaf == "MR.EXTEND":
            assert out.rax == EPT_ENTRY_NOT_PRESENT, told
            continue
        assert told == (leaf, hex(expected), STATES[state][0])


@pytest.mark.parametrize("state", STATES)
def test_which_states_a_guests_call_takes(tdx_host: TdxHost, state: str) -> None:
    td = tdx_host.runnable()
    for leaf, cells in GUEST.items():
        level = int(state in NAMES_A_TABLE)
        gpa = leaf * (MIB2 if level else PAGE) + (1 << 30)
        put(td, gpa, level, state)
        td.queue({"call": {"rax": leaf, "rcx": gpa | (level if leaf != 23 else 0)}}, replace=True)
        out = td.enter()
        if takes(cells, state):
            assert [step["rax"] for step in out.steps] == ["0x0"], (leaf, hex(out.rax))
        elif leaf == 6 and STATES[state][3] and state != "NL_MAPPED":
            assert [step["rax"] for step in out.steps] == [hex(PAGE_ALREADY_ACCEPTED)]
        elif (leaf != 23 and state in NAMES_A_TABLE) or (leaf == 24 and state == "REMOVED"):
            assert [step["rax"] for step in out.steps] == [hex(PAGE_SIZE_MISMATCH | level)]
        else:
            assert (out.rax, out.r8) == (EPT_VIOLATION, gpa), (leaf, out)
