"""A level that lives elsewhere in the same machine: SEAMCALLs go by message, its memory by a port.

`LinkedTdx` is what a host holds of the level below it, `Server` the other end. LPs are named by their
numbers; both ends see the same interrupts that wait for one, as they do on hardware.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from protocol.arch.tdx.cpu import Lp, Registers
from protocol.arch.tdx.guest import Program
from protocol.effects import Fault, Issue, Step, issue
from protocol.errors import RemoteProtocolError
from protocol.nesting.linked import LinkedLevel

SEAMCALL, ENTER = "seamcall", "vp_enter"


class Who(NamedTuple):
    """The LP that issues, and the level that caused it."""

    lp: int
    origin: int


WIRE: tuple[type, ...] = (Issue, Who)


class LinkedTdx(LinkedLevel):
    """The TDX module of a level that is asked by message."""

    def __init__(self, level: Any) -> None:
        super().__init__(level)
        self.lps: list[Lp] = level.lps
        self.profile = level.profile
        self.calls = level.calls
        self.direct_store = level.direct_store
        self.plain = level.plain
        self.stage = level.stage

    def call(self, lp: Lp, r: Registers, park: bool = False) -> Step[Registers | Fault]:
        return issue(SEAMCALL, Who(lp.number, lp.origin), r, park)

    def enter(
        self, lp: Lp, r: Registers, program: Program, stay: bool = False, park: bool = False
    ) -> Step[Registers | Fault]:
        return issue(ENTER, Who(lp.number, lp.origin), r, program, stay, park)


class Server:
    """The other end: does what one host asks. Who asks is known by the link, so no request says it."""

    def __init__(self, level: Any) -> None:
        self._level = level

    def __call__(self, effect: Issue) -> Step[Any]:
        """Serve one request. Raises RemoteProtocolError for what is none."""
        operation, arguments = effect
        served = {SEAMCALL: self._level.call, ENTER: self._level.enter}.get(operation)
        if served is None or not arguments or not isinstance(arguments[0], Who):
            raise RemoteProtocolError("kind", f"no operation of this level: {operation[:40]!r}")
        step: Step[Any] = served(self._lp(arguments[0]), *arguments[1:])
        return step

    def _lp(self, who: Who) -> Lp:
        lps: list[Lp] = self._level.lps
        if not 0 <= who.lp < len(lps):
            raise RemoteProtocolError("shape", f"the host has {len(lps)} LPs, no number {who.lp}")
        lp = lps[who.lp]
        lp.origin = who.origin
        return lp
