"""A pytest plugin that writes down which test provokes which check of the TDX module: `-p tdx_recorder`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder import only_place, provoked, pytest_runtest_protocol, pytest_sessionfinish  # noqa: F401

from protocol.arch.tdx.calls import CALLS
from protocol.arch.tdx.front import Front
from protocol.arch.tdx.machine import guest
from protocol.calls import CallSpec
from protocol.effects import Fault

RCX, RDX = 1, 2
TDCS_PAGES = 6
FLAGS = 3 << 52  # of RCX in VP.ENTER
BY_NUMBER = {row.code: row for row in CALLS.values()}


def place_of(row: CallSpec, r: list[int], status: int, tds: Any) -> int | None:
    """The check that gave this status; where several do, the registers say which."""
    places = [at for at, check in enumerate(row.checks) if check.code == status]
    if len(places) < 2:
        return only_place(row, status)
    match row.name:
        case "vp_enter":
            reserved = r[RCX] >> 54 or r[RCX] & 0xFFF
            return places[0 if reserved else 2 if r[RCX] & FLAGS else 1]
        case "mem_sept_add":
            return places[0 if r[RDX] & 0xFFE or r[RDX] >> 52 else 1]
        case "mem_page_relocate":
            return places[1 if r[8] & 0xFFF or r[8] >> 46 else 0]
        case "mng_init":
            return places[0 if len(tds[r[RCX] >> 12].tdcs) < TDCS_PAGES else 1]
        case "phymem_page_reclaim":
            return places[0 if r[RCX] & 0xFFF or r[RCX] >> 46 else 1]
    return None


def told(row: CallSpec | None, r: list[int], status: int, tds: Any = None) -> None:
    place = place_of(row, r, status, tds) if row is not None else None
    if row is not None and place is None:  # the low half says more: a level, which TDMR
        level = [at for at, check in enumerate(row.checks) if check.code == status & ~0xFFFF_FFFF]
        place = level[0] if len(level) == 1 else None
    if row is not None and place is not None:
        provoked(row.name, place, status)


def of_a_host(seamcall: Callable[..., Any]) -> Callable[..., Any]:
    """SEAMCALL as the host at the keyboard makes it: what the dispatcher says, or a check of the leaf."""

    def recorded(self: Front, lp: Any, r: list[int], *rest: Any) -> Any:
        given = list(r)
        refused = self.illegal(lp) is not None
        general = 0 if refused else self.unavailable(given[0])
        out = yield from seamcall(self, lp, r, *rest)
        if general:
            provoked("", -1, general)
        elif not isinstance(out, Fault) and not refused:
            told(BY_NUMBER.get(given[0] & 0xFFFF), given, out[0], getattr(self, "tds", None))
        return out

    return recorded


def of_a_guest(call: Callable[..., Any]) -> Callable[..., Any]:
    def recorded(m: Any, vcpu: Any, r: list[int]) -> None:
        given = list(r)
        call(m, vcpu, r)
        told(m.guest_calls.get(given[0] & 0xFFFF), given, r[0])

    return recorded


def pytest_configure() -> None:
    Front.seamcall = of_a_host(Front.seamcall)  # type: ignore[method-assign]
    guest.call = of_a_guest(guest.call)
