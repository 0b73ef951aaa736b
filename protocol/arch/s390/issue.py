"""Issue Ultravisor calls as a host does: build the block, UVC, loop while busy or partial, read the answer.

The one way in which host code here, Linux-like hosts and hypervisors alike, reaches the Ultravisor below it.
"""

from __future__ import annotations

from typing import Protocol

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.structs import ANSWER, ANSWER_AT, BUSY, ERROR, NOT_NOW, PARTIAL, PARTLY, Outcome
from protocol.effects import Fault, Step, record

BUSY_LIMIT = 1000
PIECES_LIMIT = 1 << 20


class Uvc(Protocol):
    """What issuing needs of a level."""

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]: ...

    def read(self, address: int, length: int) -> bytes | Fault: ...

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None: ...


class Broken(Exception):
    """The level below refused its own host's storage: the host is not set up as it has to be."""


class Issuer:
    """One CPU of a host, with a page of its own memory for control blocks; DAT is off, addresses are real.

    One that `hands_on` works for a guest host, which goes on itself with a call that is done in part: the
    outcome says PARTIAL then (section 7.7 of the fact sheet). Any other repeats it until it is done.
    """

    __slots__ = ("cpu", "hands_on", "level", "scratch")

    def __init__(self, level: Uvc, cpu: Cpu, scratch: int, hands_on: bool = False) -> None:
        self.level = level
        self.cpu = cpu
        self.scratch = scratch
        self.hands_on = hands_on

    def uvc(self, block: bytes | bytearray, out: int = ANSWER_AT + 4) -> Step[Outcome]:
        """Issue `block`; the outcome carries bytes from 8 to `out` of the block as its one output field."""
        level, scratch = self.level, self.scratch
        store = level.write(scratch, bytes(block))
        if store is not None:
            raise Broken(store)
        cc, refused, pieces = BUSY, 0, 0
        while refused < BUSY_LIMIT and pieces < PIECES_LIMIT:
            result = yield from level.call(self.cpu, scratch)
            if isinstance(result, Fault):
                raise Broken(result)
            cc = result
            if cc <= ERROR:
                break
            if cc == PARTIAL and self.hands_on:
                return PARTLY
            refused += cc == BUSY
            pieces += cc == PARTIAL
        if cc > ERROR:
            return NOT_NOW
        answer = level.read(scratch + ANSWER_AT, max(4, out - ANSWER_AT))
        if isinstance(answer, Fault):
            raise Broken(answer)
        rc, rrc = ANSWER.unpack_from(answer)
        fields = ((8, answer[4:]),) if out > ANSWER_AT + 4 else ()
        return record(Outcome, (rc, rrc, fields))
