"""Which level refused an ultracall of a host, by which check: `nestbed console --explain`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from protocol.arch.pef import front
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.explain import BAD_MODE, EXPLAINER, FUNCTION
from protocol.arch.pef.status import signed
from protocol.effects import Step
from protocol.watch import NO_CHECK, Asked, Console, Decided, Watch, WatchedKeyboard, by_dispatcher, by_row

NUMBER = 3  # register: of the call, and of its result


class PefWatch(Watch):
    """An ultracall ends with its registers; a UV_RETURN that succeeds, with the next exit."""

    def hook(self, level: Any) -> None:
        call = level.call

        def called(cpu: Cpu, gpr: list[int], *rest: Any, **more: Any) -> Step[Any]:
            given = list(gpr)
            step = call(cpu, gpr, *rest, **more)
            return self.around(level, step, lambda asked, out: self._ended(asked, given, out))

        level.call = called

    def _ended(self, asked: Asked, given: list[int], out: Any) -> None:
        number, level = given[NUMBER], asked.level
        if not isinstance(out, list) or not out[NUMBER]:
            return  # done
        code, row = out[NUMBER], level.calls.get(number)
        if number == front.ESMB_GET_FILE and signed(code) > 0:
            return  # done: so many bytes
        if row is None or code in (BAD_MODE, FUNCTION):
            said = [one.text for one in EXPLAINER.general(code, None)]
            call = f"{number:#x}" if row is None else row.name
            self.refused(asked, by_dispatcher(level, call, code, said[0] if said else NO_CHECK))
            return
        found = by_row(level, row, code)
        if not getattr(level, "reflected", True):  # the ultravisor answered, and no hypervisor saw the call
            found = replace(found, number=0)
        self.refused(asked, found)


class ExplainingKeyboard(WatchedKeyboard):
    """Results other than U_SUCCESS are explained."""

    def __init__(self, keyboard: Console) -> None:
        super().__init__(keyboard, PefWatch())

    def body(self, found: Decided) -> dict[str, Any]:
        return super().body(found) | {"code": hex(found.code), "name": EXPLAINER.name(found.code, None)}
