"""What a guest does to its pages, step by step: each with whether it is sure to leave the guest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from protocol.arch.s390 import guest as g
from protocol.arch.s390.host.guests import Guest, Vcpu
from protocol.arch.s390.host.memory import frame_of
from protocol.arch.s390.structs import SHARE, block
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host

Steps = Iterator[tuple[g.GuestStep, bool]]

# Where a guest's program builds its control blocks: behind what the architecture uses of the two prefix
# pages, which are the guest's own whenever it runs. One place for each CPU, as far as there is room.
BLOCKS_AT, BLOCK_ROOM, BLOCKS = 0x1400, 0x40, 48
SHARE_CODE, UNSHARE_CODE, SHARE_LENGTH = 0x1000, 0x1001, 0x30


def touches(host: Host, guest: Guest, pages: Iterable[int]) -> Steps:
    """A store to each page; it exits for sure if the page is not mapped."""
    for number in pages:
        missing = frame_of(host.level, guest.table, number) is None
        yield g.Touch(number << PAGE_SHIFT, write=True), missing


def sharing(host: Host, guest: Guest, vcpu: Vcpu, pages: Iterable[int], code: int) -> Steps:
    """For each page: build the block, issue it."""
    at = block_of(vcpu)
    for number in pages:
        uvcb = bytes(block(SHARE_LENGTH, code, SHARE, number << PAGE_SHIFT))
        yield g.Touch(at, write=True, value=uvcb), False
        yield g.Uvc(at), frame_of(host.level, guest.table, number) is None


def block_of(vcpu: Vcpu) -> int:
    """Where the CPU's program builds a control block."""
    return BLOCKS_AT + BLOCK_ROOM * (vcpu.number % BLOCKS)
