"""What a guest host may do, and the level below refuses: it is told so, and no book says that it was done.

The level below has ended its platform, or a guest on it, behind the guest host's back: no fault of the guest
host's can do that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from sev_nested_host import Host, rig_of

from protocol.arch.sev.host.driver import Failed
from protocol.arch.sev.rmp import IMMUTABLE
from protocol.arch.sev.status import Status
from protocol.arch.sev.structs import CERT_LEN, FIRMWARE, HEADER_LEN, PAGE, SESSION_LEN, NewState
from protocol.effects import run

ANY = range(1 << 16)
SNP_POLICY = 0x30000
PLACES = ("pa", "src", "dst", "hdr", "guest", "trans", "status")


class Below(NamedTuple):
    """A guest host, and what it has to work with."""

    host: Host
    pages: list[int]  # four pages of its own

    def command(self, name: str, *lent: int, **fields: int) -> int:
        return run(self.host.driver.lent(lent, name, ANY, **fields))

    def did(self, name: str, *lent: int, **fields: int) -> None:
        status = self.command(name, *lent, **fields)
        assert status == Status.SUCCESS, f"{name}: {status:#x}"

    def placed(self, fields: dict[str, int]) -> dict[str, int]:
        """Fields that name a place have the number of a page instead."""
        return {field: self.pages[n] if field in PLACES else n for field, n in fields.items()}

    def at_the_machine(self, name: str, address: int = 0) -> None:
        """A command without a buffer of more than one address, at the machine itself."""
        machine = self.host.rig.machines[0]
        code = next(code for code, spec in machine.calls.items() if spec.name == name)
        assert run(machine.call(machine.cpus[0], code << 16, address)) & 0xFFFF == Status.SUCCESS

    def books(self) -> Any:
        level: Any = self.host.seat.level
        guests = {handle: (guest.state, guest.asid) for handle, guest in level.platform.guests.items()}
        contexts = {frame: (one.state, one.asid) for frame, one in level.platform.contexts.items()}
        owned = [one.tolist() for one in (level.rmp.flags, level.rmp.asid)]
        return guests, contexts, owned, level.book.records(), int(np.count_nonzero(level.real))


@pytest.fixture
def below() -> Below:
    host = Host(rig_of(1))
    first = host.allocate(4 * PAGE, PAGE)
    return Below(host, [first + n * PAGE for n in range(4)])


# -- legacy guests -----------------------------------------------------------------------------------------


def started(below: Below, asid: int = 8) -> int:
    below.did("LAUNCH_START", policy=0)
    handle = below.host.driver.field("LAUNCH_START", "handle")
    if asid:
        below.did("ACTIVATE", handle=handle, asid=asid)
    return handle


def running(below: Below) -> int:
    handle = started(below)
    blob = below.pages[3]
    below.did("LAUNCH_MEASURE", blob, handle=handle, pa=blob, len=48)
    below.did("LAUNCH_FINISH", handle=handle)
    return handle


def sending(below: Below) -> dict[str, int]:
    """SEND_START to this very platform: its fields. The session is to lie in page 3."""
    pdh, chain = below.pages[2], below.host.allocate(2 * PAGE, PAGE)
    where = {"pdh": pdh, "len": CERT_LEN, "chain": chain, "chain_len": 3 * CERT_LEN}
    below.did("PDH_CERT_EXPORT", pdh, chain, chain + PAGE, **where)
    return {"pdh": pdh, "pdh_len": CERT_LEN, "session": below.pages[3], "session_len": SESSION_LEN}


def leaving(below: Below) -> int:
    handle = running(below)
    below.did("SEND_START", below.pages[3], handle=handle, **sending(below))
    return handle


LEGACY = [
    (lambda below: started(below, 0), "ACTIVATE", {"asid": 9}, ()),
    (started, "LAUNCH_UPDATE_DATA", {"pa": 0, "len": PAGE}, (0,)),
    (started, "LAUNCH_MEASURE", {"pa": 0, "len": 48}, (0,)),
    (running, "DEACTIVATE", {}, ()),
    (running, "GUEST_STATUS", {}, ()),
    (running, "ATTESTATION", {"pa": 0, "len": 208}, (0,)),
    (running, "DBG_DECRYPT", {"src": 1, "dst": 0, "len": 16}, (0,)),
    (running, "COPY", {"src": 1, "dst": 0, "len": PAGE}, (0,)),
    (leaving, "SEND_FINISH", {}, ()),
    (leaving, "SEND_CANCEL", {}, ()),
    (
        leaving,
        "SEND_UPDATE_DATA",
        {"hdr": 0, "hdr_len": HEADER_LEN, "guest": 1, "guest_len": 64, "trans": 2, "trans_len": 64},
        (0, 2),
    ),
]


@pytest.mark.parametrize(("before", "name", "fields", "lent"), LEGACY, ids=[case[1] for case in LEGACY])
def test_a_platform_that_is_gone_is_gone_for_the_guest_host_too(
    below: Below, before: Any, name: str, fields: dict[str, int], lent: tuple[int, ...]
) -> None:
    handle = before(below)
    placed = below.placed(fields)
    books = below.books()
    below.at_the_machine("SHUTDOWN")
    status = below.command(name, *(below.pages[n] for n in lent), handle=handle, **placed)
    assert status == Status.INVALID_PLATFORM_STATE
    assert below.books() == books


def test_no_guest_begins_on_a_platform_that_is_gone(below: Below) -> None:
    below.at_the_machine("SHUTDOWN")
    books = below.books()
    assert below.command("LAUNCH_START", policy=0) == Status.INVALID_PLATFORM_STATE
    assert below.books() == books


def test_a_guest_that_is_gone_is_not_sent(below: Below) -> None:
    handle, fields = running(below), sending(below)
    books = below.books()
    below.at_the_machine("SHUTDOWN")
    status = below.command("SEND_START", below.pages[3], handle=handle, **fields)
    assert status == Status.INVALID_PLATFORM_STATE
    assert below.books() == books


# -- SNP guests --------------------------------------------------------------------------------------------


def context(below: Below, started: bool = True, asid: int = 1) -> int:
    """A guest in LAUNCH; page 0 is its own, in the firmware's hands."""
    gctx = below.host.allocate(PAGE, PAGE)
    run(below.host.driver.rmpupdate(gctx, FIRMWARE))
    below.did("SNP_GCTX_CREATE", gctx=gctx)
    if started:
        below.did("SNP_LAUNCH_START", gctx=gctx, policy=SNP_POLICY)
        if asid:
            below.did("SNP_ACTIVATE", gctx=gctx, asid=asid)
            for n in (0, 1):
                run(below.host.driver.rmpupdate(below.pages[n], NewState(n * PAGE, True, False, True, asid)))
            run(below.host.driver.rmpupdate(below.pages[2], FIRMWARE))
    return gctx


SNP = [
    (lambda below: context(below, started=False), "SNP_LAUNCH_START", {"policy": SNP_POLICY}),
    (lambda below: context(below, asid=0), "SNP_ACTIVATE", {"asid": 1}),
    (context, "SNP_LAUNCH_UPDATE", {"pa": 0, "flags": 1 << 1}),
    (context, "SNP_LAUNCH_FINISH", {}),
    (context, "SNP_GUEST_STATUS", {"status": 2}),
    (context, "SNP_DECOMMISSION", {}),
    (context, "SNP_PAGE_MOVE", {"src": 0, "dst": 1}),
]


@pytest.mark.parametrize(("before", "name", "fields"), SNP, ids=[case[1] for case in SNP])
def test_a_guest_that_is_gone_is_gone_for_the_guest_host_too(
    below: Below, before: Any, name: str, fields: dict[str, int]
) -> None:
    gctx = before(below)
    placed = {
        field: below.pages[n] if field in ("pa", "src", "dst", "status") else n for field, n in fields.items()
    }
    books = below.books()
    level: Any = below.host.seat.level
    del below.host.rig.machines[0].platform.contexts[level.frame_below(gctx // PAGE)]
    assert below.command(name, gctx=gctx, **placed) == Status.INVALID_GUEST
    assert below.books() == books


def test_metadata_for_a_guest_that_is_gone_is_a_page_of_the_firmwares(below: Below) -> None:
    gctx = context(below)
    level: Any = below.host.seat.level
    del below.host.rig.machines[0].platform.contexts[level.frame_below(gctx // PAGE)]
    status = below.command("SNP_PAGE_MD_INIT", gctx=gctx, pa=below.pages[2])
    assert status == Status.INVALID_GUEST
    run(below.host.driver.take_back(below.pages[2]))
    below.host.driver.write(below.pages[2], b"mine again")


def test_a_page_that_is_something_else_below_is_not_reclaimed(below: Below) -> None:
    context(below)
    level: Any = below.host.seat.level
    books = below.books()
    frame = level.frame_below(below.pages[0] // PAGE)
    machine = below.host.rig.machines[0]
    machine.rmp.put(frame, IMMUTABLE)  # fixed for good
    assert below.command("SNP_PAGE_RECLAIM", pa=below.pages[0]) == Status.INVALID_PAGE_STATE
    assert below.books() == books


def test_a_page_that_is_fixed_below_becomes_no_guests(below: Below) -> None:
    level: Any = below.host.seat.level
    books = below.books()
    below.host.rig.machines[0].rmp.put(level.frame_below(below.pages[3] // PAGE), IMMUTABLE)
    with pytest.raises(Failed, match="0x2"):
        run(below.host.driver.rmpupdate(below.pages[3], NewState(0, True, False, False, 1)))
    assert below.books() == books
