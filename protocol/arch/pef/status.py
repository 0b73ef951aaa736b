"""What calls answer: section 2 of the fact sheet. Registers hold 64 bits; codes are written signed."""

from __future__ import annotations

MASK = (1 << 64) - 1

SUCCESS = 0
BUSY = 1
NOT_AVAILABLE = 3
TOO_HARD = 9999  # the kernel leaves it to userspace; never seen by a guest
HARDWARE = -1
FUNCTION = -2
PARAMETER = -4
RETRY = -5
BAD_MODE_HCALL = -5
NOT_FOUND = -7
NO_MEM = -9
AUTHORITY = -10
PERMISSION = -11
RESOURCE = -16
P2, P3, P4, P5 = -55, -56, -57, -58
BAD_MODE = -59
UNSUPPORTED = -67
STATE = -75
INVALID = -75  # no number is published; guess of the fact sheet

NAMES = {
    SUCCESS: "SUCCESS",
    BUSY: "BUSY",
    NOT_AVAILABLE: "NOT_AVAILABLE",
    HARDWARE: "HARDWARE",
    FUNCTION: "FUNCTION",
    PARAMETER: "PARAMETER",
    RETRY: "RETRY",
    NOT_FOUND: "NOT_FOUND",
    NO_MEM: "NO_MEM",
    AUTHORITY: "AUTHORITY",
    PERMISSION: "PERMISSION",
    RESOURCE: "RESOURCE",
    P2: "P2",
    P3: "P3",
    P4: "P4",
    P5: "P5",
    BAD_MODE: "BAD_MODE",
    UNSUPPORTED: "UNSUPPORTED",
    STATE: "STATE",
}


def unsigned(code: int) -> int:
    """A code as a register holds it."""
    return code & MASK


def signed(register: int) -> int:
    """The code that a register holds."""
    return register - (1 << 64) if register >> 63 else register
