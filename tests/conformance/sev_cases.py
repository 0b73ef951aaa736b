"""Cases for the order of checks: an attempt that passes, and what may be wrong with it, in order.

As in `test_sev_orders`, each violation is tried alone and with each that comes later. The console explains
itself here, so that checks with the same status are told apart.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from driver import number
from sev_field import IDS, PAGE, SNP_CPU, SYSCFG, Sev, Sevs, buffer

NOWHERE = 0xA0000

RAW = {  # commands of which the other tests type the bytes
    "ACTIVATE_EX": ("<IIIIQ", "length handle asid numids ids"),
    "RING_BUFFER": ("<QQQQBBHHH", "lo_cmd lo_sts hi_cmd hi_sts lo_n hi_n lo_thr hi_thr on_empty"),
    "SNP_PAGE_SET_STATE": ("<IIQ", "length r list"),
    "SNP_INIT_EX": ("<I4xQH46x", "flags list max_asid"),
}


@dataclass
class Try:
    """One attempt: what is asked for, and what the preparation made."""

    host: Sev
    fields: dict[str, Any]
    made: dict[str, int] = field(default_factory=dict)

    def set(self, **fields: Any) -> None:
        self.fields.update(fields)


Wrong = tuple[int, str, Callable[[Try], object] | None]
"""Status, the check's name, what makes it so; None: the preparation left it wrong."""


@dataclass
class Case:
    """`prepare` makes an attempt that passes all checks; `wrongs` come in their documented order.

    `first` are violations that have to be made before the others, `last` those that nothing survives.
    """

    name: str
    prepare: Callable[[Sev], Try]
    wrongs: list[Wrong]
    label: str = ""
    clash: tuple[tuple[int, int], ...] = ()
    first: tuple[int, ...] = ()
    last: tuple[int, ...] = ()
    profile: str = "small"


def is_(**fields: Any) -> Callable[[Try], None]:
    return lambda t: t.set(**fields)


def off(name: str, by: int = 8) -> Callable[[Try], None]:
    return lambda t: t.set(**{name: t.fields[name] + by})


def shut(t: Try) -> None:
    t.host.did("SHUTDOWN")


def ready(**fields: Any) -> Callable[[Sev], Try]:
    """The legacy platform is up; areas that are asked for by name are made."""

    def prepare(host: Sev) -> Try:
        host.sev_up()
        made = {name: value(host) if callable(value) else value for name, value in fields.items()}
        return Try(host, made)

    return prepare


def area(host: Sev) -> int:
    return host.alloc(4 * PAGE)


def no_handle(t: Try) -> None:
    t.set(handle=77)


def of_the_guest(name: str) -> Callable[[Try], None]:
    """The command is done for the guest of the preparation, whatever handle is asked for."""

    def make(t: Try) -> None:
        t.host.did(name, handle=t.made.get("handle", t.fields["handle"]))

    return make


def keeps_handle(prepare: Callable[[Sev], Try]) -> Callable[[Sev], Try]:
    def prepared(host: Sev) -> Try:
        t = prepare(host)
        t.made["handle"] = t.fields["handle"]
        return t

    return prepared


def on(t: Try) -> None:
    for cpu in range(t.host.cpus):
        t.host.wrmsr(SYSCFG, SNP_CPU, cpu)


def page(host: Sev) -> int:
    return host.alloc()


def snp_gone(t: Try) -> None:
    for gctx in {t.made.get("gctx"), t.made.get("other")} - {None}:
        t.host.cmd("SNP_DECOMMISSION", gctx=gctx)
    t.host.flush("SNP_DF_FLUSH")
    t.host.did("SNP_SHUTDOWN")


def stray(t: Try) -> None:
    t.set(gctx=t.fields["gctx"] | 0x10)


def no_context(t: Try) -> None:
    t.set(gctx=t.host.alloc() | t.fields["gctx"] & 0xFFF)


def attempt(host: Sev, case: Case, chosen: tuple[int, ...]) -> tuple[int, str]:
    host.ok("reset", kind="power")
    t = case.prepare(host)
    early = [at for at in case.first if at in chosen]
    late = [at for at in case.last if at in chosen]
    for at in (*early, *(at for at in chosen if at not in (*early, *late)), *late):
        make = case.wrongs[at][2]
        if make is not None:
            make(t)
    if case.name in ("SNP_INIT", "SNP_INIT_EX") and host.rdmsr(SYSCFG) != SNP_CPU:
        on(t)
    if case.name in RAW:
        form, names = RAW[case.name]
        raw = struct.pack(form, *(t.fields.get(one, 0) for one in names.split()))
    else:
        raw = buffer(case.name, **t.fields)
    return rung(host, case.name, raw)


def rung(host: Sev, name: str, raw: bytes) -> tuple[int, str]:
    """The status, and the check that the console names. A written buffer is the firmware's under SNP."""
    at = host.buffer
    if raw:
        host.write(at, raw)
    code = IDS[name]
    answer = host.ask("call", cmdresp=code << 16, lo=at & 0xFFFFFFFF, hi=at >> 32)
    return number(answer["ok"]["cmdresp"]) & 0xFFFF, answer.get("explain", {}).get("check", "")


def named(case: Case) -> str:
    return f"{case.name} {case.label}".strip()


DEPTHS = [pytest.param(depth, marks=[pytest.mark.slow] * (depth > 0)) for depth in (0, 1, 2)]


def in_documented_order(sev: Sevs, case: Case) -> None:
    """Of any two violations the earlier one is answered."""
    host = sev(explain=True, profile=case.profile)
    always = {at for at, (_, _, make) in enumerate(case.wrongs) if make is None}
    singles = [(at,) for at in range(len(case.wrongs))]
    pairs = [pair for pair in combinations(range(len(case.wrongs)), 2) if pair not in case.clash]
    for chosen in (*singles, *pairs):
        status, text, _ = case.wrongs[min(always | set(chosen))]
        found = attempt(host, case, chosen)
        assert found[0] == status, f"violations {chosen}: {found[0]:#x} ({found[1]}), wanted {status:#x}"
        assert not text or found[1] == text, f"violations {chosen}: {found[1]!r}, wanted {text!r}"
