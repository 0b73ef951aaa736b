"""Which level refused a call of the Ultravisor, by which check: `nestbed console --explain`."""

from __future__ import annotations

from typing import Any

from protocol.arch.s390 import structs
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
from protocol.effects import Step
from protocol.watch import (
    BUSY,
    Asked,
    Console,
    Decided,
    Watch,
    WatchedKeyboard,
    at_once,
    by_dispatcher,
    by_row,
    number_of,
)

UNANSWERED = {
    structs.BUSY: BUSY,
    structs.PARTIAL: "a part is done: issue the same block again",
}
FRONT = {
    INV_CMD: "call not installed",
    INV_STATE: "Ultravisor not initialised",
    INV_LEN: "length of the block",
    INV_GHANDLE: "configuration handle",
    INV_CHANDLE: "CPU handle",
}


class S390Watch(Watch):
    """Decided by the front of every call, or by the call's own code."""

    def hook(self, level: Any) -> None:
        front, perform = level._refusal, level.perform

        def refusal(length: int, code: int, block: bytes) -> int:
            rc: int = front(length, code, block)
            if rc:
                spec = level.calls.get(code)
                call = f"0x{code:04x}" if spec is None else spec.name
                found = by_dispatcher(level, call, rc, FRONT[rc])
                self.keep(level, found)
                if self.current is not None:
                    self.current.below.append(found)
            return rc

        def performed(spec: CallSpec, cpu: Cpu, block: bytes) -> Step[Outcome]:
            result = perform(spec, cpu, block)
            step = at_once(result) if isinstance(result, Outcome) else result
            return self.around(level, step, lambda asked, outcome: self._ended(asked, spec, outcome))

        level._refusal, level.perform = refusal, performed

    def _ended(self, asked: Asked, spec: CallSpec, outcome: Outcome) -> None:
        if not outcome.rc:
            found = Decided(number_of(asked.level), spec.name, 0, 0, (), UNANSWERED[outcome.rrc], "inferred")
            self.refused(asked, found)
        elif outcome.rc != EXECUTED:
            found = by_row(asked.level, spec, outcome.rc, outcome.rrc)
            self.refused(asked, found)


class ExplainingKeyboard(WatchedKeyboard):
    """Condition codes other than 0 are explained."""

    def __init__(self, keyboard: Console) -> None:
        super().__init__(keyboard, S390Watch())

    def body(self, found: Decided) -> dict[str, Any]:
        if not found.code:
            return {"level": found.level, "check": found.text}
        codes = {"rc": f"0x{found.code:04x}", "rrc": f"0x{found.reason:04x}"}
        return {"level": found.level, "check": found.text, "call": found.call, **codes, "basis": found.basis}

    def unsaid(self, level: Any, answer: dict[str, Any]) -> dict[str, Any] | None:
        """A lock is looked at before anybody decides."""
        if answer["ok"].get("cc", 0) < ERROR:
            return None
        where = by_dispatcher(level, "", 0, "").level
        return {"level": where, "check": "another call holds the lock of the entity"}
