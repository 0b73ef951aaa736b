"""The architecture's own tables, as data: sections 4.2 to 4.6 and 5.1 of the fact sheet.

Nothing here acts. The module asks these tables, the documentation is made from them, and the tests go
through every cell. A change of a table is a change of behaviour, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class SysState(IntEnum):
    """Platform, section 4.1."""

    INIT_PENDING = 0
    INIT_DONE = 1
    CONFIG_DONE = 2
    READY = 3
    SHUTDOWN = 4


class KeyState(IntEnum):
    """A private KeyID in the key ownership table, section 4.2."""

    FREE = 0
    ASSIGNED = 1
    FLUSHED = 2
    RESERVED = 3


class Lifecycle(IntEnum):
    """A TD in its TDR, section 4.2. FATAL is a flag beside it."""

    HKID_ASSIGNED = 0
    KEYS_CONFIGURED = 1
    BLOCKED = 2
    TEARDOWN = 3


class OpState(IntEnum):
    """A TD in its TDCS, section 4.3."""

    UNINITIALIZED = 0
    INITIALIZED = 1
    RUNNABLE = 2
    LIVE_EXPORT = 3
    PAUSED_EXPORT = 4
    POST_EXPORT = 5
    MEMORY_IMPORT = 6
    STATE_IMPORT = 7
    POST_IMPORT = 8
    LIVE_IMPORT = 9
    FAILED_IMPORT = 10


# Where VP.ENTER is legal, and so where a removed page must have been blocked and tracked before.
MAY_RUN = frozenset({OpState.RUNNABLE, OpState.LIVE_EXPORT, OpState.LIVE_IMPORT})
IMPORTING = frozenset(
    {
        OpState.MEMORY_IMPORT,
        OpState.STATE_IMPORT,
        OpState.POST_IMPORT,
        OpState.LIVE_IMPORT,
        OpState.FAILED_IMPORT,
    }
)


class VcpuState(IntEnum):
    """A VCPU in its TDVPS, section 4.5."""

    UNINITIALIZED = 0
    READY = 2
    ACTIVE = 4
    DISABLED = 8
    IMPORT = 0x10


class PageType(IntEnum):
    """A page in the PAMT, section 5.1. 2 and 7 are unused."""

    NDA = 0
    RSVD = 1
    REG = 3
    TDR = 4
    TDCX = 5
    TDVPR = 6
    EPT = 8


def _op_states(text: str) -> Mapping[int, frozenset[OpState]]:
    """Rows of leaf, name and eleven cells, one for each op state; x where the call is legal."""
    rows = [line.split() for line in text.strip().splitlines()]
    return {
        int(leaf): frozenset(state for state, cell in zip(OpState, cells, strict=True) if cell == "x")
        for leaf, _, cells in rows
    }


# Section 4.4. A leaf that is not here does not look at the op state; VP.FLUSH (18) has a row and never
# asks.
OP_STATES = _op_states(
    """
  0  VP.ENTER                 ..xx.....x.
  1  MNG.ADDCX                x..........
  2  MEM.PAGE.ADD             .x.........
  3  MEM.SEPT.ADD             .xxx..xxxx.
  4  VP.ADDCX                 .x.....x...
  5  MEM.PAGE.RELOCATE        .xxxxx..xx.
  6  MEM.PAGE.AUG             .xxx.....x.
  7  MEM.RANGE.BLOCK          .xxxxx..xx.
 10  VP.CREATE                .x.....x...
 11  MNG.RD                   .xxxxxxxxxx
 12  MEM.RD                   .xxxxxxxxxx
 13  MNG.WR                   .xxx..xxxxx
 14  MEM.WR                   .xxx..xxxxx
 15  MEM.PAGE.DEMOTE          .xxxxx..xx.
 16  MR.EXTEND                .x.........
 17  MR.FINALIZE              .x.........
 18  VP.FLUSH                 xxxxxxxxxxx
 21  MNG.INIT                 x..........
 22  VP.INIT                  .x.........
 23  MEM.PAGE.PROMOTE         .xxxxx..xx.
 25  MEM.SEPT.RD              .xxxxxxxxxx
 26  VP.RD                    .xxxxxxxxxx
 29  MEM.PAGE.REMOVE          .xxxxx..xxx
 30  MEM.SEPT.REMOVE          .xxxxxxxxxx
 38  MEM.TRACK                .xxxxxxxxx.
 39  MEM.RANGE.UNBLOCK        .xxxxx..xx.
 43  VP.WR                    .xxx..xxxxx
 48  SERVTD.BIND              xxxx....xx.
 49  SERVTD.PREBIND           xx.........
 64  EXPORT.ABORT             ...xxx.....
 65  EXPORT.BLOCKW            ...x.......
 66  EXPORT.RESTORE           ..x........
 68  EXPORT.MEM               ...xxx.....
 70  EXPORT.PAUSE             ...x.......
 71  EXPORT.TRACK             ...xx......
 72  EXPORT.STATE.IMMUTABLE   ..x......x.
 73  EXPORT.STATE.TD          ....x......
 74  EXPORT.STATE.VP          ....x......
 75  EXPORT.UNBLOCKW          ..xxxx.....
 80  IMPORT.ABORT             ......xxx.x
 81  IMPORT.END               ........xx.
 82  IMPORT.COMMIT            ........x..
 83  IMPORT.MEM               ......xxxx.
 84  IMPORT.TRACK             ......xx...
 85  IMPORT.STATE.IMMUTABLE   x..........
 86  IMPORT.STATE.TD          ......x....
 87  IMPORT.STATE.VP          .......x...
 96  MIG.STREAM.CREATE        xxx........
    """
)
SERVICE_TD_OP_STATES = frozenset(
    OpState(state) for state in (2, 3, 4, 5, 8, 9)
)  # of the TD that serves, in BIND
NO_OP_STATE_CHECK = frozenset({18})

# -- Secure EPT (section 4.6) ----------------------------------------


@dataclass(frozen=True, slots=True)
class EntryState:
    """One state of a Secure EPT entry.

    `code` is what a host is told in RDX, `bits` how the entry says it (bits 6, 7, 9 and 53 to 56).
    """

    name: str
    code: int
    bits: int
    leaf: bool = False
    readable: bool = False  # the guest may read
    writable: bool = False  # the guest may write
    acceptable: bool = False
    blocked: bool = False
    pending: bool = False
    tracked: bool = True  # translations of it may be cached: they have to be tracked away


def _bits(encoding: int) -> int:
    """Where the bits of an encoding stand in an entry: 0 at 9, 1 to 4 at 53 to 56, 5 and 6 at 6 and 7."""
    return (encoding & 1) << 9 | (encoding >> 1 & 0xF) << 53 | (encoding >> 5) << 6


def _state(name: str, code: int, encoding: int, flags: str = "") -> EntryState:
    """flags: l leaf, r readable, w writable, a acceptable, b blocked, p pending, - no tracking needed."""
    return EntryState(
        name,
        code,
        _bits(encoding),
        leaf="l" in flags,
        readable="r" in flags,
        writable="w" in flags,
        acceptable="a" in flags,
        blocked="b" in flags,
        pending="p" in flags,
        tracked="-" not in flags,
    )


ENTRY_STATES: tuple[EntryState, ...] = (
    _state("FREE", 0, 0x0E, "-"),
    _state("REMOVED", 5, 0x0C, "-"),
    _state("NL_MAPPED", 132, 0x00),
    _state("NL_BLOCKED", 129, 0x08, "b"),
    _state("MAPPED", 4, 0x60, "lrw"),
    _state("BLOCKED", 1, 0x68, "lb"),
    _state("BLOCKEDW", 8, 0x64, "lr"),
    _state("EXPORTED_BLOCKEDW", 9, 0x66, "lr-"),
    _state("EXPORTED_DIRTY", 11, 0x63, "lrw"),
    _state("EXPORTED_DIRTY_BLOCKEDW", 12, 0x67, "lr"),
    _state("PENDING", 2, 0x70, "lap"),
    _state("PENDING_BLOCKED", 3, 0x78, "lbp"),
    _state("PENDING_BLOCKEDW", 16, 0x74, "lp"),
    _state("PENDING_EXPORTED_BLOCKEDW", 17, 0x76, "lp-"),
    _state("PENDING_EXPORTED_DIRTY", 19, 0x73, "lap"),
    _state("PENDING_EXPORTED_DIRTY_BLOCKEDW", 20, 0x77, "lp"),
)
STATE_BITS = _bits(0x7F)
BY_BITS: Mapping[int, EntryState] = {state.bits: state for state in ENTRY_STATES}
STATE: Mapping[str, EntryState] = {state.name: state for state in ENTRY_STATES}


def _entries(cells: str) -> frozenset[str]:
    return frozenset(state.name for state, cell in zip(ENTRY_STATES, cells, strict=True) if cell == "x")


# Which states each call takes, in the order of ENTRY_STATES: FREE REMOVED, NL_MAPPED NL_BLOCKED, MAPPED
# BLOCKED BLOCKEDW, EXPORTED x3, PENDING PENDING_BLOCKED PENDING_BLOCKEDW, PENDING_EXPORTED x3.
HOST_ENTRY_STATES: Mapping[int, frozenset[str]] = {
    2: _entries("x..............."),  # MEM.PAGE.ADD
    3: _entries("x.x............."),  # MEM.SEPT.ADD
    5: _entries("....xxxxxxxxxxxx"),  # MEM.PAGE.RELOCATE
    6: _entries("xx.............."),  # MEM.PAGE.AUG
    7: _entries("..x.x.x...x.x..."),  # MEM.RANGE.BLOCK
    12: _entries("....x.xxxx......"),  # MEM.RD
    14: _entries("....x...x......."),  # MEM.WR
    15: _entries("....xx....xx...."),  # MEM.PAGE.DEMOTE
    16: _entries("....x..........."),  # MR.EXTEND
    23: _entries("..xx............"),  # MEM.PAGE.PROMOTE
    25: _entries("xxxxxxxxxxxxxxxx"),  # MEM.SEPT.RD
    29: _entries("....xxx...xxx..."),  # MEM.PAGE.REMOVE
    30: _entries("..xx............"),  # MEM.SEPT.REMOVE
    39: _entries("...x.x.....x...."),  # MEM.RANGE.UNBLOCK
    65: _entries("....x...x.x...x."),  # EXPORT.BLOCKW
    66: _entries(".......xxx...xxx"),  # EXPORT.RESTORE
    68: _entries("....x.xxxxx.xxxx"),  # EXPORT.MEM
    75: _entries("......xx.x..xx.x"),  # EXPORT.UNBLOCKW
    83: _entries("xx..x.....x....."),  # IMPORT.MEM
}
GUEST_ENTRY_STATES: Mapping[int, frozenset[str]] = {
    6: _entries("..........x...x."),  # MEM.PAGE.ACCEPT
    23: _entries("....x.xxxxx.xxxx"),  # MEM.PAGE.ATTR.RD
    24: _entries("....x...x.x...x."),  # MEM.PAGE.ATTR.WR
}
# BLOCK and UNBLOCK, section 4.6. A state that is no key keeps as it is.
BLOCKED_FROM: Mapping[str, str] = {
    "MAPPED": "BLOCKED",
    "BLOCKEDW": "BLOCKED",
    "PENDING": "PENDING_BLOCKED",
    "PENDING_BLOCKEDW": "PENDING_BLOCKED",
    "NL_MAPPED": "NL_BLOCKED",
}
UNBLOCKED_TO: Mapping[str, str] = {
    "BLOCKED": "MAPPED",
    "PENDING_BLOCKED": "PENDING",
    "NL_BLOCKED": "NL_MAPPED",
}
