"""Which level of a composition refused a command, by which check: `nestbed console --explain`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from protocol.arch.sev.cpu import Cpu
from protocol.arch.sev.explain import EXPLAINER
from protocol.arch.sev.reply import Reply
from protocol.arch.sev.status import Status
from protocol.calls import CallSpec
from protocol.effects import Step
from protocol.watch import Asked, Console, Decided, Watch, WatchedKeyboard, by_dispatcher, by_row

STATUS = 0xFFFF  # of CmdResp


class SevWatch(Watch):
    """Decided by the mailbox, or by the command's own code."""

    def hook(self, level: Any) -> None:
        mailbox, perform = level.mailbox, level.perform

        def asked(cpu: Cpu, cmdresp: int, address: int, park: bool = False) -> Step[int]:
            code = cmdresp >> 16 & 0x7FF
            step = mailbox(cpu, cmdresp, address, park)
            return self.around(level, step, lambda asked, answer: self._ended(asked, code, answer & STATUS))

        def performed(spec: CallSpec, cpu: Cpu, buffer: Any) -> Reply | Step[Reply]:
            asked = self.current
            assert asked is not None, "a command that did not come by the mailbox"
            asked.begun = True
            result: Reply | Step[Reply] = perform(spec, cpu, buffer)
            if isinstance(result, Reply):
                self._said(asked, result)
                return result
            return self._followed(asked, result)

        level.mailbox, level.perform = asked, performed

    def _followed(self, asked: Asked, step: Step[Reply]) -> Step[Reply]:
        reply = yield from step
        self._said(asked, reply)
        return reply

    def _said(self, asked: Asked, reply: Reply) -> None:
        """Where several checks answer one status, a level's own check says which it was."""
        if isinstance(reply.status, Status):
            asked.why = reply.status.why

    def _ended(self, asked: Asked, code: int, status: int) -> None:
        if not status:
            return
        level, spec = asked.level, asked.level.calls.get(code)
        if spec is not None and asked.begun:
            said = [
                at for at, each in enumerate(spec.checks) if (each.code, each.text) == (status, asked.why)
            ]
            found = by_row(level, spec, status, places=said or None)
            beyond = next(
                (one for one in EXPLAINER.elsewhere(spec) if one.given and one.code == status), None
            )
            if not found.places and beyond is not None:
                found = replace(found, text=beyond.text, basis=beyond.basis)
            self.refused(asked, found, own=bool(said))
            return
        first = next(iter(EXPLAINER.general(status, None)))
        call = f"command {code:#x}" if spec is None else spec.name
        self.refused(asked, by_dispatcher(level, call, status, first.text))


class ExplainingKeyboard(WatchedKeyboard):
    """Statuses other than SUCCESS are explained."""

    def __init__(self, keyboard: Console) -> None:
        super().__init__(keyboard, SevWatch())

    def body(self, found: Decided) -> dict[str, Any]:
        return super().body(found) | {"code": hex(found.code), "name": EXPLAINER.name(found.code, None)}
