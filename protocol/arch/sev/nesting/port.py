"""How a level issues below on behalf of one guest host: commands, RMPUPDATE, PSMASH, on memory of its own.

It is the host's own driver (`host.driver`), with SNP up; what it gets from the pool it keeps for the life
of the guest host. The mailbox below takes one command at a time; in one process that is so by itself.
"""

from __future__ import annotations

from typing import Any

from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.asids import FlushLock
from protocol.arch.sev.host.driver import Driver
from protocol.arch.sev.instructions import Registers
from protocol.arch.sev.structs import FIRMWARE, PAGE, SHARED, NewState
from protocol.effects import Fault, Step
from protocol.memory.pool import Pool
from protocol.nesting.composition import Seat

ANY = range(1 << 16)
_LEAVE = ("DEACTIVATE", "SNP_DECOMMISSION")


class Port:
    """`bounce` is a run of pages for what cannot be passed where it lies."""

    BOUNCE_PAGES = 8

    def __init__(self, level: Any, cpus: list[Cpu], pool: Pool, lock: FlushLock) -> None:
        self._pool = pool
        self._level = level
        self._lock = lock
        self.parks = ""  # the command that is to stop inside the level below
        self.hands = Hands(Seat(0, level, cpus, level.size), 0)
        self.driver = Driver(self.hands, self._allocate)
        self.driver.snp = True
        self.driver.turns = lock.mailbox
        self.dirty: set[int] = set()  # real ASIDs that were used and not flushed for
        self.bounce = self._allocate(self.BOUNCE_PAGES * PAGE, PAGE)

    def _allocate(self, length: int, align: int) -> int:
        return self._pool.take_run(-(-length // PAGE)) * PAGE

    def works_for(self, origin: int) -> None:
        """Whatever is issued from now on was caused by L(origin)."""
        for cpu in self.hands.seat.cpus:
            cpu.origin = origin

    # -- commands ---------------------------------------------------------------------------------------

    def command(self, name: str, **fields: int) -> Step[int]:
        park, self.parks = name == self.parks, ("" if name == self.parks else self.parks)
        step = self.driver.command(name, ANY, park, **fields)
        return self._lock.leave(self._level, step) if name in _LEAVE else step

    def field(self, name: str, field: str) -> int:
        return self.driver.field(name, field)

    def activate(self, name: str, **fields: int) -> Step[int]:
        """ACTIVATE:

        the ASID is clean by the guest host's books; that the real one is not is this level's affair.

        It flushes once for each ASID that is lent again, although one flush cleans all: what is issued for
        one guest host must not depend on what the others do.
        """
        if fields["asid"] in self.dirty:
            yield from self._lock.flush(self._level, self.driver)
            self.dirty.discard(fields["asid"])
        return (yield from self.command(name, **fields))

    # -- pages ------------------------------------------------------------------------------------------

    def rmpupdate(self, address: int, new: NewState) -> Step[int]:
        self.driver.write(self.driver.operand, new.pack())
        r = Registers(rax=address, rcx=self.driver.operand)
        result = yield from self.hands.instruction(0, "rmpupdate", r)
        assert not isinstance(result, Fault), f"this level may change its RMP: {result}"
        return result["rax"]

    def psmash(self, address: int) -> Step[int]:
        result = yield from self.hands.instruction(0, "psmash", Registers(rax=address))
        assert not isinstance(result, Fault), f"this level may change its RMP: {result}"
        return result["rax"]

    def lend(self, address: int, large: bool = False) -> Step[None]:
        code = yield from self.rmpupdate(address, FIRMWARE._replace(large=large))
        assert not code, f"a page that is nobody's cannot be lent: {code}"

    def take_back(self, address: int, large: bool = False) -> Step[int]:
        """RECLAIM and RMPUPDATE; the code of what refused it, else 0."""
        status = yield from self.command("SNP_PAGE_RECLAIM", pa=address | large)
        if status:
            return status
        return (yield from self.rmpupdate(address, SHARED._replace(large=large)))
