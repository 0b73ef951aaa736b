"""A level that lives elsewhere in the same machine: SEAMCALLs go by message, its memory by a port.

`LinkedTdx` is what a host holds of the level below it, `Server` the other end. A request carries what the
level below sees of the LP on hardware; the answer says whether an interrupt still waits there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from protocol.arch.tdx import guest
from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.cpu import REGISTER_NAMES, Lp, Registers
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.profiles import Profile
from protocol.calls import CallSpec
from protocol.effects import Fault, Issue, Step, issue
from protocol.errors import RemoteProtocolError
from protocol.nesting.linked import LinkedLevel

SEAMCALL, ENTER = "seamcall", "vp_enter"
U64 = 1 << 64


class LpState(NamedTuple):
    """What the level below sees of an LP, and the level that caused the request."""

    number: int
    vmx: bool
    cpl: int
    interrupt: bool
    origin: int


class Seamcall(NamedTuple):
    """SEAMCALL on an LP of the host's."""

    lp: LpState
    r: Registers
    park: bool


class VpEnter(NamedTuple):
    """SEAMCALL with leaf TDH.VP.ENTER. The guest's program travels with it."""

    lp: LpState
    r: Registers
    program: Program
    stay: bool
    park: bool


class Answered(NamedTuple):
    """The registers or an exception, whether an interrupt waits, and where a guest's program stands."""

    result: Registers | Fault
    interrupt: bool
    program: Program | None = None


WIRE = (
    Issue,
    Fault,
    LpState,
    Seamcall,
    VpEnter,
    Answered,
    Program,
    guest.Touch,
    guest.Read,
    guest.Tdcall,
    guest.Leave,
)


class LinkedTdx(LinkedLevel):
    """The TDX module of a level that is asked by message."""

    def __init__(self, memory: Any, lps: list[Lp] | None = None) -> None:
        """`memory` is the level itself, if it is in this process, or the port to the memory of a guest host.

        Then `lps` are the host's own, and `profile` is set where somebody knows what it was promised.
        """
        super().__init__(memory)
        self.lps = memory.lps if lps is None else lps
        if lps is None:
            self.profile: Profile = memory.profile
            self.stage = memory.stage

    @property
    def cpus(self) -> list[Lp]:
        return self.lps

    @property
    def calls(self) -> Mapping[int, CallSpec]:
        """The leaves that this host is offered."""
        return self.profile.offered(CALLS)

    def direct_store(self, address: int, data: bytes) -> Fault | None:
        """MOVDIR64B. A host elsewhere makes whole pages plain with `clear`: this is a store like another."""
        store = getattr(self.memory, "direct_store", self.memory.poke)
        fault: Fault | None = store(address, data)
        return fault

    def plain(self, frames: np.ndarray) -> bool:
        found = getattr(self.memory, "plain", None)
        return found is not None and bool(found(frames))

    def call(self, lp: Lp, r: Registers, park: bool = False) -> Step[Registers | Fault]:
        answered: Answered = yield from issue(SEAMCALL, Seamcall(_seen(lp), r, park))
        return _taken(lp, answered)

    def enter(
        self, lp: Lp, r: Registers, program: Program, stay: bool = False, park: bool = False
    ) -> Step[Registers | Fault]:
        answered: Answered = yield from issue(ENTER, VpEnter(_seen(lp), r, program, stay, park))
        if answered.program is not None and answered.program is not program:
            program.become(answered.program)
        return _taken(lp, answered)


def _seen(lp: Lp) -> LpState:
    return LpState(lp.number, lp.vmx, lp.cpl, lp.interrupt, lp.origin)


def _taken(lp: Lp, answered: Answered) -> Registers | Fault:
    lp.interrupt = answered.interrupt
    result = answered.result
    return result if isinstance(result, Fault) else list(result)


class Server:
    """The other end: does what one host asks. Who asks is known by the link, so no request says it."""

    def __init__(self, level: Any) -> None:
        self._level = level

    def __call__(self, effect: Issue) -> Step[Any]:
        """Serve one request. Raises RemoteProtocolError for what is none."""
        operation, arguments = effect
        request = arguments[0] if len(arguments) == 1 else None
        if operation == SEAMCALL and isinstance(request, Seamcall):
            return self._call(self._lp(request.lp), _registers(request.r), request.park)
        if operation == ENTER and isinstance(request, VpEnter):
            return self._enter(self._lp(request.lp), _registers(request.r), request)
        raise RemoteProtocolError("kind", f"no operation of this level: {operation[:40]!r}")

    def _call(self, lp: Lp, r: Registers, park: bool) -> Step[Answered]:
        result = yield from self._level.call(lp, r, park)
        return Answered(result, lp.interrupt)

    def _enter(self, lp: Lp, r: Registers, request: VpEnter) -> Step[Answered]:
        result = yield from self._level.enter(lp, r, request.program, request.stay, request.park)
        return Answered(result, lp.interrupt, request.program)

    def _lp(self, seen: LpState) -> Lp:
        lps: list[Lp] = self._level.lps
        if not 0 <= seen.number < len(lps):
            raise RemoteProtocolError("shape", f"the host has {len(lps)} LPs, no number {seen.number}")
        lp = lps[seen.number]
        lp.vmx, lp.cpl, lp.interrupt, lp.origin = seen.vmx, seen.cpl, seen.interrupt, seen.origin
        return lp


def _registers(r: Registers) -> Registers:
    """Sixteen numbers of 64 bits, in a list of their own."""
    if len(r) != len(REGISTER_NAMES) or not all(0 <= value < U64 for value in r):
        raise RemoteProtocolError("shape", "not the registers of an LP: " + str(r)[:60])
    return list(r)
