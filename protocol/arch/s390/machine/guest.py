"""Calls that a secure guest issues itself: no hypervisor is on the way.

Section 2 rows 1, 27 and 28, and 3.5. They run inside SIE; what they need of the host shows as a host
exception or as a notification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390.machine import init
from protocol.arch.s390.machine.entities import PageState, SecureCpu
from protocol.arch.s390.machine.memory import share, unshare
from protocol.arch.s390.structs import DONE, SHARE, Outcome
from protocol.effects import Fault
from protocol.memory.store import OFFSET, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

NOT_GUEST_MEMORY = Outcome(0x0101)


class Pinned(Exception):
    """The page is pinned: the host has to unpin it, and the guest tries again."""


def query(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    return init.answer_query(init.guest_view(uv.profile, uv.guest_calls), block)


def query_keys(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    return init.answer_keys(uv.seed)


def set_shared(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    frame = _frame(uv, secure, SHARE.unpack_from(block)[0])
    if not isinstance(frame, int):
        return frame
    if uv.states[frame] == PageState.SECURE:
        share(uv, secure.config, frame)
    return DONE


def remove_shared(uv: Machine, secure: SecureCpu, block: bytes) -> Outcome | Fault:
    """Raises Pinned."""
    frame = _frame(uv, secure, SHARE.unpack_from(block)[0])
    if not isinstance(frame, int):
        return frame
    if uv.states[frame] == PageState.PINNED:
        raise Pinned
    if uv.states[frame] == PageState.SHARED:
        unshare(uv, secure.config, frame)
    return DONE


def _frame(uv: Machine, secure: SecureCpu, address: int) -> int | Outcome | Fault:
    """The frame of a guest page; alignment is not checked before place, and then ignored (guess)."""
    absolute = uv.sie.absolute(secure, address & ~OFFSET)
    if absolute >> PAGE_SHIFT >= secure.config.pages:
        return NOT_GUEST_MEMORY
    return uv.sie.frame(secure.config, absolute, write=False)
