"""A pytest plugin that writes down which test provokes which check of the TDX module: `-p tdx_recorder`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recorder import provoked, pytest_runtest_protocol, pytest_sessionfinish, watch_consoles  # noqa: F401

from protocol.arch.tdx.machine import guest
from protocol.arch.tdx.slice import Tdx
from protocol.arch.tdx.watch import TdxWatch, places_of


def of_a_guest(call: Callable[..., Any]) -> Callable[..., Any]:
    """A TDCALL whose status is written down."""

    def recorded(m: Any, vcpu: Any, r: list[int]) -> None:
        given = list(r)
        call(m, vcpu, r)
        row = m.guest_calls.get(given[0] & 0xFFFF)
        places = [] if row is None else places_of(row, given, r[0], {})
        if len(places) == 1:
            provoked(row.name, places[0], r[0])

    return recorded


def pytest_configure() -> None:
    watch_consoles(Tdx, TdxWatch)
    guest.call = of_a_guest(guest.call)
