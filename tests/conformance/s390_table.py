"""The program's call table as the matrix needs it: one `Call` for each row that a host may issue.

A row that is added to the table is in the matrix without a change here.
"""

from __future__ import annotations

from s390_blocks import Call, header

from protocol.arch.s390.calls import CALLS as TABLE

ALL_CALLS = tuple(
    Call(
        row.name,
        row.code,
        row.length,
        row.bit,
        row.handle,
        row.handle_at if row.handle else 0x18,
        row.states == "ready",
    )
    for row in TABLE.values()
    if row.for_host()
)
GUESTS_ALONE = {row.name: (row.code, row.length) for row in TABLE.values() if not row.for_host()}


def empty(call: Call) -> bytes:
    """A block of the right length that says nothing but which call is meant."""
    return header(call.code, call.length)
