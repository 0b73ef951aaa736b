"""Where a return code came from: which level of a composition gave it, by which check.

Nothing here is in the way of a console that nobody asked to explain itself: the levels of one that is asked
get their two deciding methods wrapped, one by one, as instances. A code that a call of the level below
answered and this level hands on is that level's, down to where it was decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.structs import (
    ERROR,
    EXECUTED,
    INV_CHANDLE,
    INV_CMD,
    INV_GHANDLE,
    INV_LEN,
    INV_STATE,
    Outcome,
)
from protocol.calls import CallSpec

KEPT = 4096  # of the latest answers of all levels: a call below has to be found again from the one above
FRONT = {
    INV_CMD: "call not installed",
    INV_STATE: "Ultravisor not initialised",
    INV_LEN: "length of the block",
    INV_GHANDLE: "configuration handle",
    INV_CHANDLE: "CPU handle",
}


@dataclass(frozen=True, slots=True)
class Decided:
    """One answer of one level; `serial` orders those of all. `check` is the place in the row, -1: none."""

    serial: int
    on: int  # identity of the level
    cpu: int  # identity of the CPU that issued it
    rc: int
    rrc: int
    level: str
    call: str
    check: int
    text: str
    basis: str

    def body(self) -> dict[str, Any]:
        """What an answer says of it."""
        return {
            "level": self.level,
            "check": self.text,
            "call": self.call,
            "rc": f"0x{self.rc:04x}",
            "rrc": f"0x{self.rrc:04x}",
            "basis": self.basis,
        }


class Console(Protocol):
    """The keyboard that is watched."""

    @property
    def seats(self) -> list[Any]: ...
    @property
    def levels(self) -> list[Any]: ...
    def answer(self, request: dict[str, Any]) -> dict[str, Any]: ...


class Watch:
    """All answers of the levels that it is attached to."""

    def __init__(self) -> None:
        self.decided: deque[Decided] = deque(maxlen=KEPT)
        self.serial = 0
        self._attached: list[Any] = []

    def attach(self, level: Any) -> None:
        """Wrap a level; once is enough."""
        if any(level is each for each in self._attached):
            return
        self._attached.append(level)
        front, perform = level._refusal, level.perform

        def refusal(length: int, code: int, block: bytes) -> int:
            rc: int = front(length, code, block)
            if rc:
                spec = level.calls.get(code)
                call = f"0x{code:04x}" if spec is None else spec.name
                self._note(level, 0, Outcome(rc), call, -1, FRONT[rc], "source")
            return rc

        def performed(spec: CallSpec, cpu: Cpu, block: bytes) -> Generator[Any, Any, Outcome]:
            began = self.serial
            result = perform(spec, cpu, block)
            outcome: Outcome = result if isinstance(result, Outcome) else (yield from result)
            self._judge(level, spec, cpu, outcome, began)
            return outcome

        level._refusal, level.perform = refusal, performed

    def last(self, level: Any) -> Decided | None:
        """What this level answered last."""
        return next((one for one in reversed(self.decided) if one.on == id(level)), None)

    def _judge(self, level: Any, spec: CallSpec, cpu: Cpu, outcome: Outcome, began: int) -> None:
        if outcome.rc == EXECUTED:
            return
        if not outcome.rc:
            self._note(
                level, id(cpu), outcome, spec.name, -1, "another call holds what this one needs", "inferred"
            )
            return
        below = self._from_below(level, cpu, outcome, began)
        if below is not None:
            where = (outcome.rc, outcome.rrc, below.level, spec.name, below.check, below.text, below.basis)
            self.keep(id(level), id(cpu), *where)
            return
        for at, check in enumerate(spec.checks):
            if (check.code, check.reason) == (outcome.rc, outcome.rrc):
                self._note(level, id(cpu), outcome, spec.name, at, check.text, check.basis.value)
                return
        self._note(level, id(cpu), outcome, spec.name, -1, "no check of the call table", "inferred")

    def _from_below(self, level: Any, cpu: Cpu, outcome: Outcome, began: int) -> Decided | None:
        """The last answer to a call that this level issued below for this one, if it is handed on."""
        issuers = getattr(level, "issuers", None)
        if issuers is None:
            return None  # the machine
        below, own = level.below.memory, id(issuers[cpu.number].cpu)
        for one in reversed(self.decided):
            if one.serial <= began:
                return None
            if one.on == id(below) and one.cpu in (own, 0):
                return one if (one.rc, one.rrc) == (outcome.rc, outcome.rrc) else None
        return None

    def _note(
        self, level: Any, cpu: int, outcome: Outcome, call: str, check: int, text: str, basis: str
    ) -> None:
        self.keep(id(level), cpu, outcome.rc, outcome.rrc, level_name(level), call, check, text, basis)

    def keep(
        self, on: int, cpu: int, rc: int, rrc: int, level: str, call: str, check: int, text: str, basis: str
    ) -> None:
        """Remember one answer, behind all others."""
        self.serial += 1
        self.decided.append(Decided(self.serial, on, cpu, rc, rrc, level, call, check, text, basis))


def level_name(level: Any) -> str:
    """The machine is L0's; an emulation is named by the host that meets it."""
    number = getattr(level, "level", 0)
    return f"emulation at L{number}" if number else "L0 machine"


class WatchedKeyboard:
    """A keyboard whose answers to `call` and `resume` that ended with an error carry an `explain`."""

    def __init__(self, keyboard: Console) -> None:
        self._keyboard = keyboard
        self.watch = Watch()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do one request. A fresh host may have taken a seat since the last one."""
        if request.get("op") not in ("call", "resume"):
            return self._keyboard.answer(request)
        for level in (*self._keyboard.levels, *(seat.level for seat in self._keyboard.seats)):
            self.watch.attach(level)
        before = self.watch.serial
        answer = self._keyboard.answer(request)
        cc = answer.get("ok", {}).get("cc", 0)
        if cc < ERROR:
            return answer
        host = request.get("host", 0)
        seat = self._keyboard.seats[int(host, 16) if isinstance(host, str) else host]
        found = self.watch.last(seat.level)
        if found is None or found.serial <= before:
            body = {"level": level_name(seat.level), "check": "another call holds the lock of the entity"}
            return answer | {"explain": body}
        return answer | {"explain": found.body()}
