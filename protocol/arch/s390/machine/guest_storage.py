"""A secure guest's storage as the Ultravisor reaches it for the guest: real addresses, prefix applied.

What lies beyond the guest is the guest's own mistake (an addressing exception, or a return code of a call
that was given the address). What the host has not provided is a host exception: the guest leaves SIE and does
its instruction again, so callers look at all areas before they change anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.machine.entities import PageState, SecureCpu
from protocol.effects import Fault
from protocol.memory.physical import chunks
from protocol.memory.store import OFFSET, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.machine.sie import Sie


class ProgramInterruption(Exception):
    """The guest's own CPU takes an exception; the host does not see it."""

    def __init__(self, code: int) -> None:
        self.code = code


def inside(secure: SecureCpu, address: int, length: int) -> bool:
    """Whether a range is wholly the guest's memory, whatever its host provides."""
    return address + length <= secure.config.pages << PAGE_SHIFT


def frames(sie: Sie, secure: SecureCpu, address: int, length: int, write: bool) -> list[int] | Fault:
    """The frames behind a range. Raises ProgramInterruption beyond the guest's memory."""
    found = []
    for at, _ in chunks(address, length):
        absolute = sie.absolute(secure, at)
        if absolute >> PAGE_SHIFT >= secure.config.pages:
            raise ProgramInterruption(z.ADDRESSING)
        frame = sie.frame(secure.config, absolute, write)
        if isinstance(frame, Fault):
            return frame
        found.append(frame)
    return found


def refusal(sie: Sie, secure: SecureCpu, address: int, length: int) -> Fault | None:
    """What a store to this range would answer. Raises ProgramInterruption as the store would."""
    found = frames(sie, secure, address, length, write=True)
    return found if isinstance(found, Fault) else None


def load(sie: Sie, secure: SecureCpu, address: int, length: int) -> bytes | Fault:
    found = frames(sie, secure, address, length, write=False)
    if isinstance(found, Fault):
        return found
    storage, states = sie.uv.storage, sie.uv.states
    parts = []
    for frame, (at, n) in zip(found, chunks(address, length), strict=True):
        if states[frame] == PageState.SECURE:
            parts.append(storage.vault_read(frame, at & OFFSET, n))
        else:
            parts.append(storage.read(frame << PAGE_SHIFT | at & OFFSET, n))
    return b"".join(parts)


def store(sie: Sie, secure: SecureCpu, address: int, data: bytes) -> Fault | None:
    found = frames(sie, secure, address, len(data), write=True)
    if isinstance(found, Fault):
        return found
    storage, states = sie.uv.storage, sie.uv.states
    done = 0
    for frame, (at, n) in zip(found, chunks(address, len(data)), strict=True):
        if states[frame] == PageState.SECURE:
            storage.vault_write(frame, at & OFFSET, data[done : done + n])
        else:
            storage.write(frame << PAGE_SHIFT | at & OFFSET, data[done : done + n])
        done += n
    return None
