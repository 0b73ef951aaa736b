"""The order of checks of every command: where two things are wrong, the status is that of the earlier one.

A case prepares a host on which the command would succeed, and lists what can be wrong with it in the
documented order. Each is tried alone, and each pair together.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import pytest
from sev_field import MIB, PAGE, POLICY, SLOW_AT_DEPTH_2, Sev, Sevs

LARGE = 2 * MIB
NOWHERE = 0xA0000


@dataclass
class Try:
    """One attempt: the host, the fields of the buffer, what else the preparation made."""

    host: Sev
    fields: dict[str, Any]
    made: dict[str, int] = field(default_factory=dict)

    def set(self, **fields: Any) -> None:
        self.fields.update(fields)


Wrong = tuple[int, Callable[[Try], object]]


def ALWAYS(t: Try) -> None:  # noqa: N802 - reads as what it is in the lists below
    """What the preparation left wrong from the start."""


@dataclass
class Case:
    """`prepare` makes an attempt that succeeds; `wrongs` are (status, what makes it so), in order."""

    name: str
    prepare: Callable[[Sev], Try]
    wrongs: list[Wrong]
    label: str = ""
    clash: tuple[tuple[int, int], ...] = ()  # pairs that cannot both be made wrong


# -- preparations --------------------------------------------------------------------------------------


def snp(host: Sev) -> None:
    host.snp_up()


def context(start: bool = True, asid: int = 1) -> Callable[[Sev], Try]:
    def prepare(host: Sev) -> Try:
        snp(host)
        return Try(host, {"gctx": host.snp_guest(asid, start=start)})

    return prepare


def finished(t: Try) -> None:
    t.host.did("SNP_LAUNCH_FINISH", gctx=t.fields["gctx"] & ~0xFFF)


def down(t: Try) -> None:
    """SNP is not initialised any more; nothing is left that would be in the way of that."""
    for gctx in {t.fields.get("gctx"), t.made.get("gctx")} - {None}:
        t.host.cmd("SNP_DECOMMISSION", gctx=gctx & ~0xFFF)
    t.host.flush("SNP_DF_FLUSH")
    t.host.did("SNP_SHUTDOWN")


def field_is(**fields: Any) -> Callable[[Try], None]:
    return lambda t: t.set(**fields)


def stray(name: str = "gctx") -> Callable[[Try], None]:
    """A reserved bit: the low 12 of a page's address. Others are set besides."""
    return lambda t: t.set(**{name: t.fields[name] | 0x10})


def no_context(t: Try) -> None:
    """The address of a page that is none, whatever bits it carries."""
    page = t.host.alloc()
    t.set(gctx=page | t.fields["gctx"] & 0xFFF)


def deactivated(t: Try) -> None:
    """The guest has no ASID: it is another one, of the same state, that never got one."""
    t.made["gctx"] = t.fields["gctx"]
    other = t.host.snp_guest(asid=0)
    t.set(gctx=other | t.fields["gctx"] & 0xFFF)


SNP_START: list[Wrong] = [(0x16, stray()), (0x01, down), (0x10, no_context)]
CTX_CLASH = ((1, 2),)  # after a shutdown nobody is looked up


def update(host: Sev) -> Try:
    t = context()(host)
    page = host.alloc()
    host.give(page, 0, 1, immutable=1)
    t.set(pa=page, flags=1 << 1)
    return t


def swap(host: Sev) -> Try:
    t = context()(host)
    src, dst, mdata = host.pages(3)
    host.give(src, 0, 1, immutable=1)
    host.firmware(dst, mdata)
    host.did("SNP_PAGE_MD_INIT", gctx=t.fields["gctx"], pa=mdata)
    t.set(src=src, dst=dst, mdata=mdata)
    t.made["mdata"] = mdata
    return t


def debug(host: Sev) -> Try:
    snp(host)
    gctx = host.snp_guest(policy=POLICY | 1 << 19)
    page, dst = host.pages(2)
    host.measure(gctx, page, 0)
    host.firmware(dst)
    return Try(host, {"gctx": gctx, "src": page, "dst": dst})


def request(host: Sev) -> Try:
    t = context()(host)
    finished(t)
    req, resp = host.pages(2)
    host.firmware(resp)
    t.set(req=req, resp=resp)
    return t


def metadata_page(host: Sev) -> Try:
    t = context()(host)
    t.set(pa=host.alloc())
    host.firmware(t.fields["pa"])
    return t


def move(host: Sev) -> Try:
    t = context()(host)
    src, dst = host.pages(2)
    host.give(src, 0, 1, immutable=1)
    host.give(dst, PAGE, 1, immutable=1)
    t.set(src=src, dst=dst)
    return t


def foreign(name: str, **more: int) -> Callable[[Try], None]:
    """A page of an ASID that is somebody else's."""

    def wrong(t: Try) -> None:
        page = t.host.alloc()
        t.host.give(page, PAGE, 7, **({"immutable": 1} | more))
        t.set(**{name: page})

    return wrong


def plain(name: str) -> Callable[[Try], None]:
    return lambda t: t.set(**{name: t.host.alloc() | t.fields.get(name, 0) & 0xFFF})


def wrong_block(t: Try) -> None:
    block = t.host.alloc()
    t.host.write(block, b"no digest")
    t.set(flags=1, id_block=block, id_auth=t.host.alloc())


def large(name: str, asid: int = 1, immutable: int = 1) -> Callable[[Try], None]:
    def wrong(t: Try) -> None:
        block = t.host.alloc(LARGE, LARGE)
        t.host.give(block, 4 * LARGE, asid, size=1, immutable=immutable)
        t.set(**{name: block})

    return wrong


def large_firmware(t: Try, name: str) -> None:
    block = t.host.alloc(LARGE, LARGE)
    assert t.host.rmpupdate(block, size=1, immutable=1) == 0
    t.set(**{name: block | t.fields[name] & 0xFFF})


def create(host: Sev) -> Try:
    snp(host)
    page = host.alloc()
    host.firmware(page)
    return Try(host, {"gctx": page})


def launch(host: Sev) -> Try:
    t = context(start=False)(host)
    t.set(policy=POLICY)
    return t


def activate(host: Sev) -> Try:
    t = context(asid=0)(host)
    t.set(asid=1)
    return t


def asid_has_pages(t: Try) -> None:
    page = t.host.alloc()
    t.host.give(page, 0, t.fields["asid"])


SNP_CASES = [
    Case(
        "SNP_GCTX_CREATE",
        create,
        [
            (0x16, stray()),
            (0x01, down),
            (0x1A, plain("gctx")),
        ],
        clash=((1, 2),),
    ),
    Case("SNP_GCTX_CREATE", create, [(0x19, lambda t: large_firmware(t, "gctx"))], "size"),
    Case(
        "SNP_LAUNCH_START",
        launch,
        [
            *SNP_START,
            (0x02, lambda t: t.host.did("SNP_LAUNCH_START", gctx=t.fields["gctx"] & ~0xFFF, policy=POLICY)),
            (0x10, field_is(flags=1, ma=0x100000)),
            (0x07, field_is(policy=0)),
        ],
        clash=(*CTX_CLASH, (1, 3), (2, 3)),
    ),
    Case(
        "SNP_ACTIVATE",
        activate,
        [
            *SNP_START,
            (0x0D, field_is(asid=2048)),
            (0x0D, field_is(asid=0)),
            (0x0D, field_is(asid=16)),
        ],
        clash=(*CTX_CLASH, (3, 4), (3, 5), (4, 5)),
    ),
    Case(
        "SNP_ACTIVATE",
        activate,
        [
            (0x03, asid_has_pages),
            (0x12, lambda t: t.host.did("SNP_ACTIVATE", gctx=t.fields["gctx"], asid=2)),
        ],
        "bound",
    ),
    Case(
        "SNP_ACTIVATE",
        activate,
        [
            (0x0C, lambda t: t.host.snp_guest(asid=1)),
            (0x12, lambda t: t.host.did("SNP_ACTIVATE", gctx=t.fields["gctx"], asid=2)),
        ],
        "owned",
    ),
    Case("SNP_ACTIVATE", activate, [(0x0D, field_is(asid=8))], "range"),
    Case(
        "SNP_LAUNCH_UPDATE",
        update,
        [
            *SNP_START,
            (0x1A, plain("pa")),
        ],
        clash=CTX_CLASH,
    ),
    Case(
        "SNP_LAUNCH_UPDATE",
        update,
        [
            (0x19, field_is(flags=3)),
            (0x02, finished),
        ],
        "size",
    ),
    Case(
        "SNP_LAUNCH_UPDATE",
        update,
        [
            (0x16, field_is(flags=0)),
            (0x02, finished),
            (0x1C, foreign("pa")),
            (0x16, lambda t: t.set(flags=t.fields["flags"] | 0x10)),
        ],
        "type and owner",
    ),
    Case(
        "SNP_LAUNCH_UPDATE",
        update,
        [
            (0x08, deactivated),
            (0x1C, foreign("pa")),
        ],
        "asid",
    ),
    Case(
        "SNP_LAUNCH_FINISH",
        context(),
        [
            *SNP_START,
            (0x02, finished),
            (0x0B, wrong_block),
        ],
        clash=(*CTX_CLASH, (1, 3), (2, 3)),
    ),
    Case(
        "SNP_LAUNCH_FINISH",
        context(),
        [
            (0x08, deactivated),
            (0x0B, wrong_block),
        ],
        "asid",
    ),
    Case(
        "SNP_GUEST_STATUS",
        context(),
        [*SNP_START, (0x1A, plain("status"))],
        clash=CTX_CLASH,
    ),
    Case(
        "SNP_GUEST_REQUEST",
        request,
        [
            *SNP_START,
            (0x1A, plain("resp")),
            (0x19, large("req", asid=5, immutable=0)),
            (0x02, deactivated),
            (0x16, ALWAYS),
        ],
        clash=(*CTX_CLASH, (1, 5), (2, 5)),
    ),
    Case("SNP_DECOMMISSION", context(), SNP_START, clash=CTX_CLASH),
    Case(
        "SNP_DBG_DECRYPT",
        debug,
        [*SNP_START, (0x1A, plain("dst")), (0x1C, foreign("src"))],
        clash=CTX_CLASH,
    ),
    Case(
        "SNP_DBG_ENCRYPT",
        debug,
        [(0x01, down), (0x16, stray()), (0x10, no_context), (0x1A, plain("dst"))],
        clash=((0, 2),),
    ),
    Case(
        "SNP_PAGE_RECLAIM",
        lambda host: (snp(host), Try(host, {"pa": host.alloc()}))[1],
        [
            (0x16, lambda t: t.set(pa=t.fields["pa"] | 2)),
            (0x01, down),
            (0x09, lambda t: t.set(pa=0xA0000 | t.fields["pa"] & 0xFFF)),
            (0x19, lambda t: t.set(pa=t.fields["pa"] | 1)),
        ],
    ),
    Case(
        "SNP_PAGE_MD_INIT",
        metadata_page,
        [*SNP_START, (0x1A, plain("pa"))],
        clash=CTX_CLASH,
    ),
    Case(
        "SNP_PAGE_MOVE",
        move,
        [
            *SNP_START,
            (0x19, field_is(size=1)),
            (0x08, deactivated),
            (0x1C, foreign("src")),
        ],
        clash=(*CTX_CLASH, (1, 4), (2, 4)),
    ),
    Case("SNP_PAGE_MOVE", move, [(0x19, field_is(size=1)), (0x1A, plain("dst"))], "states"),
    Case(
        "SNP_PAGE_SWAP_OUT",
        swap,
        [
            *SNP_START,
            (0x16, lambda t: t.set(mdata=t.fields["mdata"] + 8)),
            (0x1A, lambda t: t.set(mdata=t.host.alloc() + t.fields["mdata"] % PAGE)),
            (0x19, field_is(flags=1)),
            (0x1A, plain("src")),
        ],
        clash=CTX_CLASH,
    ),
    Case("SNP_PAGE_SWAP_OUT", swap, [(0x19, field_is(flags=1)), (0x1C, foreign("src"))], "owner"),
    Case(
        "SNP_PAGE_UNSMASH",
        lambda host: (snp(host), Try(host, {"pa": host.alloc(LARGE, LARGE)}))[1],
        [
            (0x16, lambda t: t.set(pa=t.fields["pa"] + PAGE)),
            (0x01, down),
            (0x09, lambda t: t.set(pa=0x400000 | t.fields["pa"] & PAGE)),
            (0x1A, ALWAYS),
        ],
    ),
]


# -- legacy --------------------------------------------------------------------------------------------


def lupdate(policy: int = 0, asid: int = 8) -> Callable[[Sev], Try]:
    def prepare(host: Sev) -> Try:
        host.sev_up()
        handle = host.legacy_guest(policy, asid)
        return Try(host, {"handle": handle, "pa": host.alloc(), "len": PAGE})

    return prepare


def running(host: Sev) -> Try:
    host.sev_up()
    return Try(host, {"handle": host.launched(asid=8)})


def with_fields(
    prepare: Callable[[Sev], Try], drop: tuple[str, ...] = (), **more: Any
) -> Callable[[Sev], Try]:
    def prepared(host: Sev) -> Try:
        t = prepare(host)
        for name in drop:
            del t.fields[name]
        t.set(**{name: value(host) if callable(value) else value for name, value in more.items()})
        return t

    return prepared


def not_working(t: Try) -> None:
    t.host.did("SHUTDOWN")


def no_handle(t: Try) -> None:
    t.set(handle=77)


def measured(t: Try) -> None:
    t.host.did("LAUNCH_MEASURE", handle=t.fields["handle"], pa=t.host.alloc(), len=48)


def unbound(t: Try) -> None:
    t.host.did("DEACTIVATE", handle=t.fields["handle"])


NAMED: list[Wrong] = [(0x01, not_working), (0x10, no_handle)]
NAMED_CLASH = ((0, 1),)  # without a platform there is no handle to be wrong
GONE = ((0, 2), (1, 2), (0, 3), (1, 3))  # the guest's own state cannot be changed once it is not there
HANDLE = ("pa", "len")


def page(host: Sev) -> int:
    return host.alloc()


def transport(**more: Any) -> Callable[[Sev], Try]:
    def prepare(host: Sev) -> Try:
        t = lupdate()(host)
        measured(t)
        del t.fields["pa"], t.fields["len"]
        hdr, guest, trans = host.pages(3)
        t.set(hdr=hdr, hdr_len=52, guest=guest, guest_len=64, trans=trans, trans_len=64, **more)
        return t

    return prepare


LEGACY_CASES = [
    Case(
        "LAUNCH_UPDATE_DATA",
        lupdate(),
        [
            *NAMED,
            (0x02, measured),
            (0x08, unbound),
            (0x09, lambda t: t.set(pa=t.fields["pa"] + 8)),
            (0x04, lambda t: t.set(len=24)),
        ],
        clash=(*NAMED_CLASH, *GONE),
    ),
    Case(
        "LAUNCH_UPDATE_VMSA",
        lupdate(policy=4, asid=2),
        [
            (0x04, field_is(len=16)),
            *NAMED,
            (0x02, measured),
            (0x08, unbound),
            (0x09, lambda t: t.set(pa=t.fields["pa"] + 8)),
        ],
        clash=((1, 2), (1, 3), (2, 3), (1, 4), (2, 4)),
    ),
    Case("LAUNCH_UPDATE_VMSA", lupdate(), [(0x15, ALWAYS), (0x08, unbound)], "kind"),
    Case(
        "LAUNCH_MEASURE",
        lupdate(),
        [*NAMED, (0x02, measured), (0x04, field_is(len=47))],
        clash=(*NAMED_CLASH, (0, 2), (1, 2)),
    ),
    Case(
        "LAUNCH_SECRET",
        transport(),
        [
            *NAMED,
            (0x09, lambda t: t.set(guest=t.fields["guest"] + 8)),
            (0x04, field_is(hdr_len=51)),
            (0x02, lambda t: t.host.did("LAUNCH_FINISH", handle=t.fields["handle"])),
            (0x08, unbound),
            (0x0B, ALWAYS),
        ],
        clash=(*NAMED_CLASH, (0, 4), (1, 4), (0, 5), (1, 5)),
    ),
    Case("LAUNCH_FINISH", with_fields(lupdate(), HANDLE), [*NAMED, (0x02, ALWAYS)]),
    Case(
        "ACTIVATE",
        with_fields(lupdate(asid=0), HANDLE, asid=9),
        [
            *NAMED,
            (0x0D, field_is(asid=16)),
            (0x12, lambda t: t.host.did("ACTIVATE", handle=t.fields["handle"], asid=10)),
        ],
        clash=(*NAMED_CLASH, (0, 3), (1, 3)),
    ),
    Case(
        "ACTIVATE",
        with_fields(lupdate(asid=0), HANDLE, asid=9),
        [
            (0x0C, lambda t: t.host.legacy_guest(asid=9)),
            (0x12, lambda t: t.host.did("ACTIVATE", handle=t.fields["handle"], asid=10)),
            (0x0D, field_is(asid=3)),
        ],
        "owned",
        clash=((0, 2),),
    ),
    Case(
        "DEACTIVATE",
        with_fields(lupdate(), HANDLE),
        [*NAMED, (0x08, unbound)],
        clash=(*NAMED_CLASH, (0, 2), (1, 2)),
    ),
    Case("DECOMMISSION", with_fields(lupdate(), HANDLE), [*NAMED, (0x12, ALWAYS)]),
    Case(
        "ATTESTATION",
        with_fields(running, pa=page, len=208),
        [*NAMED, (0x04, field_is(len=207))],
        clash=NAMED_CLASH,
    ),
    Case("ATTESTATION", lupdate(), [(0x02, ALWAYS), (0x04, field_is(len=207))], "state"),
    Case(
        "DBG_DECRYPT",
        with_fields(running, src=page, dst=page, len=64),
        [
            (0x01, not_working),
            (0x09, lambda t: t.set(src=t.fields["src"] + 8)),
            (0x04, field_is(len=24)),
            (0x10, no_handle),
            (0x08, unbound),
        ],
        clash=((0, 3), (0, 4), (3, 4)),
    ),
    Case(
        "DBG_ENCRYPT",
        with_fields(lupdate(policy=1), HANDLE, src=page, dst=page, len=64),
        [(0x07, ALWAYS), (0x08, unbound)],
        "policy",
    ),
    Case(
        "COPY",
        with_fields(running, src=page, dst=page, len=PAGE),
        [
            *NAMED,
            (0x08, unbound),
            (0x04, field_is(len=64)),
            (0x09, lambda t: t.set(dst=t.fields["dst"] + 16)),
        ],
        clash=(*NAMED_CLASH, (0, 2), (1, 2)),
    ),
    Case("SEND_FINISH", running, [*NAMED, (0x02, ALWAYS)]),
    Case("SEND_CANCEL", running, [*NAMED, (0x02, ALWAYS)]),
    Case("RECEIVE_FINISH", running, [*NAMED, (0x02, ALWAYS)]),
    Case(
        "SEND_UPDATE_DATA",
        transport(),
        [(0x01, not_working), (0x04, field_is(hdr_len=51)), (0x10, no_handle), (0x02, ALWAYS)],
        clash=((0, 2),),
    ),
    Case("RECEIVE_UPDATE_DATA", transport(), [*NAMED, (0x02, ALWAYS), (0x04, field_is(hdr_len=51))]),
    Case(
        "SEND_START",
        with_fields(running, session=page, session_len=128, pdh=page, pdh_len=2084),
        [*NAMED, (0x04, field_is(session_len=127)), (0x06, ALWAYS)],
        clash=NAMED_CLASH,
    ),
    Case(
        "SEND_START",
        with_fields(lupdate(policy=8), HANDLE, session=page, session_len=128),
        [(0x04, field_is(session_len=127)), (0x02, ALWAYS)],
        "state",
    ),
    Case(
        "LAUNCH_START",
        lambda host: (host.sev_up(), Try(host, {"policy": 0}))[1],
        [
            (0x01, not_working),
            (0x10, field_is(handle=9)),
            (0x15, lambda t: (t.host.did("SHUTDOWN"), t.host.did("INIT"), t.set(policy=4))),
        ],
        clash=((0, 2),),
    ),
    Case(
        "LAUNCH_START",
        lambda host: (host.sev_up(), Try(host, {"dh": host.alloc(), "dh_len": 2084, "session_len": 128}))[1],
        [
            (0x04, field_is(session_len=1)),
            (0x04, field_is(dh_len=1)),
            (0x09, field_is(session=NOWHERE)),
            (0x06, lambda t: t.set(session=t.fields.get("session") or t.host.alloc())),
        ],
        "session",
    ),
]


def attempt(host: Sev, case: Case, wrongs: list[Wrong]) -> int:
    """Later violations are made first: what takes the platform away comes at the end."""
    host.ok("reset", kind="power")
    t = case.prepare(host)
    for _, make in sorted(wrongs, key=lambda wrong: wrong[0] == 0x01):
        make(t)
    return host.cmd(case.name, **t.fields)


def named(case: Case) -> str:
    return f"{case.name} {case.label}".strip()


@SLOW_AT_DEPTH_2
@pytest.mark.parametrize("case", [*SNP_CASES, *LEGACY_CASES], ids=named)
def test_the_first_check_that_fails_decides(sev: Sevs, case: Case) -> None:
    host = sev()
    always = {number for number, (_, make) in enumerate(case.wrongs) if make is ALWAYS}
    singles = [(number,) for number in range(len(case.wrongs))]
    pairs = [pair for pair in combinations(range(len(case.wrongs)), 2) if pair not in case.clash]
    for chosen in (*singles, *pairs):
        wanted = case.wrongs[min(always | set(chosen))][0]
        status = attempt(host, case, [case.wrongs[number] for number in chosen])
        assert status == wanted, f"violations {chosen}: {status:#x}, wanted {wanted:#x}"


def test_every_row_of_init_is_looked_at_in_order(sev: Sevs) -> None:
    """Each line is wrong in what it names and in all that follows."""
    host = sev()
    tmr, nv = host.alloc(2 * MIB, 2 * MIB), host.alloc(0x8000)

    def init(**fields: int) -> int:
        return host.cmd(
            "INIT_EX",
            **{"length": 0x24, "tmr": tmr, "tmr_len": MIB, "nv": nv, "nv_len": 0x8000, "flags": 1} | fields,
        )

    assert init(flags=2, length=1, nv=nv + 8, nv_len=1, tmr=tmr + 8) == 0x03
    assert init(length=1, nv=nv + 8, nv_len=1, tmr=tmr + 8) == 0x04
    assert init(nv=nv + 8, nv_len=1, tmr=tmr + 8) == 0x09
    assert init(nv_len=1, tmr=tmr + 8) == 0x04
    assert init(nv=tmr, tmr_len=1) == 0x09
    assert init(tmr=tmr + 8, tmr_len=PAGE) == 0x09
    assert init(tmr_len=PAGE) == 0x04
    assert init() == 0
    assert init(flags=2, length=1) == 0x01
    host.did("SHUTDOWN")
    host.wrmsr(0xC0010010, 0, cpu=1)
    assert init(flags=2, length=1) == 0x13
    assert struct.calcsize("<IH2xQI4xQI") == 0x24
