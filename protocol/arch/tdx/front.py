"""The front of every SEAMCALL: what is checked before the leaf's own code, and how a call ends.

Follows sections 2.1 and 3.3 of the fact sheet. The machine's module and every emulation of it go through
this one file, so a guest host meets the same order at any depth. A leaf's code is a generator: it raises
`Refused` where a check fails, stops at its commit point if the caller wants that (`Call.commit`), and only
then changes anything.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from protocol.arch.tdx import cpu as x86
from protocol.arch.tdx.cpu import Lp, Registers
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.locks import Held, TryLocks
from protocol.arch.tdx.platform import Platform
from protocol.arch.tdx.profiles import Profile, Range
from protocol.arch.tdx.status import RAX, Refused, Status
from protocol.arch.tdx.tables import SysState
from protocol.calls import CallSpec
from protocol.effects import Fault, Step, parked
from protocol.ledger import Ledger

LEAF_MASK = 0xFFFF
VERSION_SHIFT = 16
RESERVED = 0xFFFF_FFFF_FF00_0000  # of RAX
VP_ENTER = 0
LP_SHUTDOWN = 44
BEFORE_READY = frozenset({31, 32, 33, 34, 35, 37, 45, 44, 53})
HAS_VERSIONS = frozenset({3, 23, 30, 11, 26})
VP_INIT = 22

Leaf = Callable[[Any, "Call"], Step[int]]


class Raised(Exception):
    """The LP that made the call takes an exception instead of an answer. It never leaves the call."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class Call:
    """One SEAMCALL on its way: who made it, its registers, the locks that it holds."""

    __slots__ = ("held", "lp", "own", "park", "program", "r", "stay", "version")

    def __init__(
        self, lp: Lp, r: Registers, held: Held, park: bool, program: Program | None, stay: bool
    ) -> None:
        self.lp = lp
        self.r = r
        self.held = held
        self.park = park
        self.program = program
        self.stay = stay
        self.own = False  # what it is refused for was found by this level, though the one below says so, too
        self.version = r[RAX] >> VERSION_SHIFT & 0xFF

    def commit(self) -> Step[None]:
        """Every check has passed and nothing was changed: stop here if the caller wanted that."""
        if self.park:
            yield from parked(True)


class Front:
    """What the real module and its emulations share. `calls` are the leaves that this host is offered."""

    profile: Profile
    platform: Platform
    calls: Mapping[int, CallSpec]
    ledger: Ledger
    lps: list[Lp]
    size: int

    @property
    def cpus(self) -> list[Lp]:
        """LPs, as compositions of any architecture call them."""
        return self.lps

    @property
    def locks(self) -> TryLocks:
        """What calls that are under way hold."""
        return self.platform.locks

    # -- what differs
    # ------------------------------------------------------------------------------------------

    @abstractmethod
    def peek(self, address: int, length: int) -> bytes | Fault:
        """What the module loads from the host's memory."""

    @abstractmethod
    def poke(self, address: int, data: bytes) -> Fault | None:
        """What the module stores there. It succeeds always, on what is not the host's any more, too."""

    @abstractmethod
    def perform(self, spec: CallSpec, call: Call) -> Step[int]:
        """The leaf's own code: the status. Raises Refused or Raised."""

    @abstractmethod
    def pamt_written(self, area: Range) -> None:
        """The module wrote a part of a PAMT: it is its own from now on."""

    def cache_written_back(self, call: Call) -> Step[None]:
        """A part of the package's cache is written back. Nothing of it can be seen here."""
        yield from ()

    # -- the instruction
    # ---------------------------------------------------------------------------------------

    def seamcall(
        self, lp: Lp, r: Registers, park: bool, program: Program | None = None, stay: bool = False
    ) -> Step[Registers | Fault]:
        """One SEAMCALL: the registers after it, or the exception instead of it."""
        refused = self.illegal(lp)
        if refused is not None:
            return refused
        out = list(r)
        status = self.unavailable(r[RAX])
        if status:
            out[RAX] = status
            return out
        self.platform.in_seam += 1
        held = Held(self.platform.locks)
        call = Call(lp, out, held, park, program, stay)
        try:
            out[RAX] = yield from self.perform(self.calls[r[RAX] & LEAF_MASK], call)
        except Refused as refusal:
            out[RAX] = refusal.status
        except Raised as raised:
            return raised.fault
        finally:
            held.release_all()
            self.platform.in_seam -= 1
        return out

    @staticmethod
    def illegal(lp: Lp) -> Fault | None:
        """The exception of a SEAMCALL that this LP may not make, before the module sees it."""
        if not lp.vmx:
            return x86.exception(x86.UD)
        return x86.exception(x86.GP) if lp.cpl else None

    def unavailable(self, rax: int) -> int:
        """The dispatcher's own checks: the status of the first that fails, 0 if none does."""
        leaf, version = rax & LEAF_MASK, rax >> VERSION_SHIFT & 0xFF
        if rax & RESERVED or (version and not self._versioned(leaf)):
            return Status.OPERAND_INVALID | RAX
        state = self.platform.state
        if state is SysState.SHUTDOWN and leaf != LP_SHUTDOWN:
            return Status.SYS_SHUTDOWN
        if state is not SysState.READY and leaf not in BEFORE_READY:
            return Status.SYS_NOT_READY
        return 0 if leaf in self.calls else Status.OPERAND_INVALID | RAX

    def _versioned(self, leaf: int) -> bool:
        return leaf in HAS_VERSIONS or (leaf == VP_INIT and self.profile.linux)

    # -- memory operands
    # ---------------------------------------------------------------------------------------

    def load(self, address: int, length: int) -> bytes:
        """Read a buffer of the host's. Raises Raised where that takes a machine check."""
        data = self.peek(address, length)
        if isinstance(data, Fault):
            raise Raised(data)
        return data


def pending_interrupt(lp: Lp) -> bool:
    """Does an interrupt wait for this LP? Whoever returns because of it has taken it."""
    if not lp.interrupt:
        return lp.above is not None and pending_interrupt(lp.above)
    lp.interrupt = False
    return True
