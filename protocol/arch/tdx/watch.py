"""Which level of a composition refused a SEAMCALL, by which check: `nestbed console --explain`."""

from __future__ import annotations

from typing import Any

from protocol.arch.tdx.explain import EXPLAINER
from protocol.arch.tdx.front import LEAF_MASK, Call, Raised
from protocol.arch.tdx.status import CODE_MASK, R8, RCX, RDX, Refused
from protocol.calls import CallSpec
from protocol.effects import Step
from protocol.watch import Asked, Console, Decided, Watch, WatchedKeyboard, by_dispatcher, by_row

TDCS_PAGES = 6
FLAGS = 3 << 52  # of RCX in VP.ENTER
MAXPA = 46  # of an address with no KeyID in it


def places_of(row: CallSpec, r: list[int], status: int, tds: Any) -> list[int]:
    """The checks that may have given this status; where several can, the registers mostly say which."""
    places = [at for at, check in enumerate(row.checks) if check.code == status]
    if not places:  # the low half says more: a level, which TDMR
        return [at for at, check in enumerate(row.checks) if check.code == status & CODE_MASK]
    if len(places) < 2:
        return places
    match row.name:
        case "vp_enter":
            reserved = r[RCX] >> 54 or r[RCX] & 0xFFF
            return [places[0 if reserved else 2 if r[RCX] & FLAGS else 1]]
        case "mem_sept_add":
            return [places[0 if r[RDX] & 0xFFE or r[RDX] >> 52 else 1]]
        case "mem_page_relocate":
            return [places[1 if r[R8] & 0xFFF or r[R8] >> MAXPA else 0]]
        case "mng_init":
            td = tds.get(r[RCX] >> 12)
            return places if td is None else [places[0 if pages_of(td) < TDCS_PAGES else 1]]
        case "phymem_page_reclaim":
            return [places[0 if r[RCX] & 0xFFF or r[RCX] >> MAXPA else 1]]
    return places  # pragma: no cover - all rows with two checks of one status stand above


def pages_of(td: Any) -> int:
    """TDCS pages of a TD, as the module knows them; an emulation leaves that to the module below."""
    return len(getattr(td, "tdcs", ())) or TDCS_PAGES


class TdxWatch(Watch):
    """Decided by the dispatcher, or by the leaf's own code."""

    def hook(self, level: Any) -> None:
        unavailable, perform = level.unavailable, level.perform

        def dispatched(rax: int) -> int:
            status: int = unavailable(rax)
            if status:
                row = level.calls.get(rax & LEAF_MASK)
                said = [one.text for one in EXPLAINER.general(status, None)]
                call = f"leaf {rax & LEAF_MASK}" if row is None else row.name
                found = by_dispatcher(level, call, status, said[0])
                self.keep(level, found)
                if self.current is not None:
                    self.current.below.append(found)
            return status

        def performed(spec: CallSpec, call: Call) -> Step[int]:
            return self._performed(level, spec, call, perform(spec, call))

        level.unavailable, level.perform = dispatched, performed

    def _performed(self, level: Any, spec: CallSpec, call: Call, step: Step[int]) -> Step[int]:
        """A refusal is raised by most leaves, and returned by some."""
        given = list(call.r)
        ended = yield from self.around(
            level, _caught(step), lambda asked, end: self._ended(asked, spec, call, given, end)
        )
        if isinstance(ended, int):
            return ended
        raise ended

    def _ended(
        self, asked: Asked, spec: CallSpec, call: Call, given: list[int], ended: int | Refused | Raised
    ) -> None:
        if isinstance(ended, Raised):
            return
        status = ended.status if isinstance(ended, Refused) else ended
        if not status & CODE_MASK:
            return  # done, or a VCPU that left
        found = by_row(asked.level, spec, status, places=places_of(spec, given, status, asked.level.tds))
        if not found.places:
            said = [one.text for one in EXPLAINER.general(status, spec)]
            found = by_dispatcher(asked.level, spec.name, status, said[0]) if said else found
        self.refused(asked, found, call.own)


def _caught(step: Step[int]) -> Step[int | Refused | Raised]:
    try:
        return (yield from step)
    except (Refused, Raised) as refused:
        return refused


class ExplainingKeyboard(WatchedKeyboard):
    """Statuses that say something are explained, of entries as well."""

    ops = ("call", "enter", "resume")

    def __init__(self, keyboard: Console) -> None:
        super().__init__(keyboard, TdxWatch())

    def body(self, found: Decided) -> dict[str, Any]:
        name = EXPLAINER.name(found.code, None)
        return super().body(found) | {"code": hex(found.code), "name": name}
