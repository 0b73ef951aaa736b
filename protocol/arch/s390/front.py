"""The front of every Ultravisor call: the checks that come before the call's own.

Follows section 3.4 of the fact sheet, in its order: problem state, immediate operands, access to the block,
installed, Ultravisor state, length, handles. The machine and every emulation of it go through this one file,
so a guest host meets the same order at any depth. Whatever fails before the block was accessed leaves it
untouched.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Mapping
from typing import Any

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import dat
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.structs import (
    ANSWER,
    ANSWER_AT,
    BUSY,
    ERROR,
    EXECUTED,
    HEADER,
    INV_CHANDLE,
    INV_CMD,
    INV_GHANDLE,
    INV_LEN,
    INV_STATE,
    OK,
    PARTIAL,
    U64,
    Outcome,
)
from protocol.calls import CallSpec
from protocol.effects import Fault, Step, parked
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT
from protocol.nesting.locks import Locks

QUERY = 0x0001  # checks its length itself: blocks of several ages are accepted
UV_LOCK = ("uv", 0)


class Front:
    """What the machine and its emulations share. `calls` are the rows installed for a host."""

    calls: Mapping[int, CallSpec]
    locks: Locks
    ready: bool
    size: int
    asking: tuple[int, ...] = ()  # frames of the block of the call that donates something just now

    # -- what differs ----------------------------------------------------------------------------------------

    @abstractmethod
    def peek(self, address: int, length: int) -> bytes | Fault: ...

    @abstractmethod
    def poke(self, address: int, data: bytes) -> Fault | None: ...

    @abstractmethod
    def refusal(self, address: int, length: int) -> Fault | None:
        """What a store to this range would answer."""

    @abstractmethod
    def known(self, kind: str, handle: int) -> bool:
        """Is `handle` one of this host's entities of that kind (config or cpu)?"""

    @abstractmethod
    def perform(self, spec: CallSpec, cpu: Cpu, block: bytes) -> Outcome | Generator[Any, Any, Outcome]:
        """Do what the call is about. A generator where something below has to be asked."""

    def account(self, spec: CallSpec, block: bytes, answered: bool) -> None:
        """The call came to an end with a return code, or made progress and was not `answered`."""

    # -- the instruction -------------------------------------------------------------------------------------

    def uvc(self, cpu: Cpu, r2: int, m3: int, m4: int, park: bool) -> Step[int | Fault]:
        """One UVC: the condition code, or the program interruption instead of it."""
        if cpu.problem_state:
            return z.program(z.PRIVILEGED, r2)
        if m3 or m4:
            return z.program(z.SPECIFICATION, r2)
        block = self._fetch(cpu, r2)
        if isinstance(block, Fault):
            return block
        length, code, _, _ = HEADER.unpack_from(block)
        refusal = self._refusal(length, code, block)
        if refusal:
            return self._answer(cpu, r2, Outcome(refusal))
        spec = self.calls[code]
        entity = (spec.handle, U64.unpack_from(block, spec.handle_at)[0]) if spec.handle else UV_LOCK
        if not self.locks.take(entity):
            return BUSY
        try:
            if park:
                yield from parked(park)
            if spec.donated:
                self.asking = self._frames_of(cpu, r2, len(block))
            performed = self.perform(spec, cpu, block)
            outcome = performed if isinstance(performed, Outcome) else (yield from performed)
            if not outcome.rc:
                if outcome.rrc == PARTIAL:
                    self.account(spec, block, answered=False)
                return outcome.rrc
            self.account(spec, block, answered=True)
        finally:
            self.locks.give(entity)
        return self._answer(cpu, r2, outcome)

    def _refusal(self, length: int, code: int, block: bytes) -> int:
        """The generic return code of the first check that fails, else 0."""
        spec = self.calls.get(code)
        if spec is None:
            return INV_CMD
        if not self.ready and spec.states == "ready":
            return INV_STATE
        if length != spec.length and code != QUERY:
            return INV_LEN
        if spec.handle and not self.known(spec.handle, U64.unpack_from(block, spec.handle_at)[0]):
            return INV_GHANDLE if spec.handle == "config" else INV_CHANDLE
        return 0

    def _fetch(self, cpu: Cpu, r2: int) -> bytes | Fault:
        """The whole block, read once: another CPU may change it meanwhile. All of it is touched."""
        if not cpu.dat and not cpu.prefix and (r2 & OFFSET) + 0x200 <= PAGE:
            raw = self.peek(r2, 0x200)  # one page, so one access for the header and whatever it says
            if isinstance(raw, Fault):
                return z.program(raw.code, raw.address, write=True)
            length = int.from_bytes(raw[:2], "big")
            if length <= 0x200:
                return raw[: max(length, 8)]
        raw = self.home_read(cpu, r2, 8, write=True)
        if isinstance(raw, Fault):
            return raw
        length = HEADER.unpack_from(raw)[0]
        if length <= 8:
            return raw
        rest = self.home_read(cpu, r2 + 8, length - 8, write=True)
        return rest if isinstance(rest, Fault) else raw + rest

    def _frames_of(self, cpu: Cpu, r2: int, length: int) -> tuple[int, ...]:
        """Where the block lies; it was read just before, or before its call was parked."""
        places = (self.home(cpu, at, True) for at in (r2, r2 + length - 1))
        return tuple({place >> PAGE_SHIFT for place in places if not isinstance(place, Fault)})

    def _answer(self, cpu: Cpu, r2: int, outcome: Outcome) -> int | Fault:
        """Store the output fields, then the codes; the header's length and command are never written."""
        for offset, data in outcome.out:
            fault = self.home_write(cpu, r2 + offset, data)
            if fault is not None:
                return fault
        fault = self.home_write(cpu, r2 + ANSWER_AT, ANSWER.pack(outcome.rc, outcome.rrc))
        if fault is not None:
            return fault
        return OK if outcome.rc == EXECUTED else ERROR

    # -- the issuing CPU's view of storage -------------------------------------------------------------------

    def home(self, cpu: Cpu, address: int, write: bool) -> int | Fault:
        """Absolute address of a home-space virtual one (with DAT off: of a real one)."""
        if not cpu.dat:
            return cpu.real(address)
        return self.home_space(cpu, address, write)

    def home_space(self, cpu: Cpu, address: int, write: bool) -> int | Fault:
        """The same through CR13, whether DAT is on or not."""
        absolute = dat.walk(self.peek, cpu.cr[13], address & 0xFFFF_FFFF_FFFF_FFFF, write)
        return absolute if isinstance(absolute, Fault) else cpu.real(absolute)

    def home_read(self, cpu: Cpu, address: int, length: int, write: bool = False) -> bytes | Fault:
        parts = []
        while length > 0:
            n = min(length, PAGE - (address & OFFSET))
            absolute = self.home(cpu, address, write)
            data = absolute if isinstance(absolute, Fault) else self.peek(absolute, n)
            if isinstance(data, Fault):
                return z.program(data.code, address, write)
            parts.append(data)
            address, length = address + n, length - n
        return b"".join(parts)

    def home_refusal(self, cpu: Cpu, address: int, length: int) -> Fault | None:
        """What `home_write` of so many bytes would answer; nothing is stored."""
        while length > 0:
            n = min(length, PAGE - (address & OFFSET))
            absolute = self.home(cpu, address, True)
            fault = absolute if isinstance(absolute, Fault) else self.refusal(absolute, n)
            if fault is not None:
                return z.program(fault.code, address, True)
            address, length = address + n, length - n
        return None

    def home_write(self, cpu: Cpu, address: int, data: bytes) -> Fault | None:
        if not cpu.dat and not cpu.prefix:
            return self.poke(address, data)
        done = 0
        while done < len(data):
            n = min(len(data) - done, PAGE - (address + done & OFFSET))
            absolute = self.home(cpu, address + done, True)
            fault = absolute if isinstance(absolute, Fault) else self.poke(absolute, data[done : done + n])
            if fault is not None:
                return z.program(fault.code, address + done, True)
            done += n
        return None
