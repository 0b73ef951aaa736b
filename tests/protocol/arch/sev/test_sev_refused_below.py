"""What a guest host may do, and the level below refuses: it is told so, and no book says that it was done.

The level below has ended its platform, or a guest on it, behind the guest host's back: no fault of the guest
host's can do that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from sev_nested_host import Host, rig_of

from protocol.arch.sev.crypto import session as sessions
from protocol.arch.sev.host.driver import Failed
from protocol.arch.sev.instructions import Registers
from protocol.arch.sev.nesting import shadow
from protocol.arch.sev.profiles import MIB
from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE, VMSA
from protocol.arch.sev.status import SnpState, Status
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


PACKET = {"hdr_len": HEADER_LEN, "guest_len": 64, "trans_len": 64}


def test_a_secret_for_a_guest_that_is_gone_reaches_nobody(below: Below) -> None:
    """The owner's packet is good, so it is the level below that refuses."""
    handle, (page, blob, packet, data) = started(below), below.pages
    below.did("LAUNCH_MEASURE", blob, handle=handle, pa=blob, len=48)
    keys, secret = sessions.Keys(bytes(16), bytes(16)), b"a secret".ljust(64, b".")
    sealed = sessions.ctr(keys.tek, bytes(16), secret)
    measured = below.host.driver.read(blob, 32)
    mac = sessions.packet_mac(keys, sessions.SECRET, 0, bytes(16), sealed, measured)
    below.host.driver.write(packet, bytes(20) + mac)
    below.host.driver.write(data, sealed)
    fields = PACKET | {"handle": handle, "hdr": packet, "guest": page, "trans": data}
    below.did("LAUNCH_SECRET", page, **fields)
    books = below.books()
    below.at_the_machine("SHUTDOWN")
    assert below.command("LAUNCH_SECRET", page, **fields) == Status.INVALID_PLATFORM_STATE
    assert below.books() == books


def test_a_guest_that_arrives_on_a_platform_that_is_gone_goes_no_further(below: Below) -> None:
    handle = leaving(below)
    hdr, guest, trans = (below.host.allocate(PAGE, PAGE) for _ in range(3))
    packet = PACKET | {"hdr": hdr, "trans": trans}
    below.did("SEND_UPDATE_DATA", hdr, trans, handle=handle, guest=below.pages[0], **packet)
    below.did("SEND_FINISH", handle=handle)
    certificate = {"pdh": below.pages[2], "pdh_len": CERT_LEN}
    session = {"session": below.pages[3], "session_len": SESSION_LEN}
    below.did("RECEIVE_START", policy=0, **certificate, **session)
    there = below.host.driver.field("RECEIVE_START", "handle")
    below.did("ACTIVATE", handle=there, asid=9)
    below.did("RECEIVE_UPDATE_DATA", guest, handle=there, guest=guest, **packet)
    books = below.books()
    below.at_the_machine("SHUTDOWN")
    status = below.command("RECEIVE_UPDATE_DATA", guest, handle=there, guest=guest, **packet)
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


def test_no_context_is_made_where_the_platform_below_has_ended(below: Below) -> None:
    page = below.pages[0]
    run(below.host.driver.rmpupdate(page, FIRMWARE))
    level: Any = below.host.seat.level
    platform = below.host.rig.machines[0].platform
    platform.snp = SnpState.UNINIT
    assert below.command("SNP_GCTX_CREATE", gctx=page) == Status.INVALID_PLATFORM_STATE
    assert (level.platform.contexts, level.book.records().get("vm_map", 0)) == ({}, 0)
    assert not level.rmp.flags_of(page // PAGE) & VMSA


def test_pages_that_are_joined_nowhere_below_stay_small(below: Below) -> None:
    """One of the 512 is at another place of the guest's there."""
    host = below.host
    gctx, block = context(below), host.allocate(2 * MIB, 2 * MIB)
    run(host.driver.rmpupdate(block, NewState(0, True, True, True, 1)))
    assert run(host.hands.instruction(0, "psmash", Registers(rax=block))) == {"rax": 0}
    books = below.books()
    level: Any = host.seat.level
    machine, frame = host.rig.machines[0], level.frame_below(block // PAGE + 7)
    asid = machine.rmp.asid_of(frame)
    machine.rmp.put(frame, ASSIGNED | IMMUTABLE, asid, 9)
    assert below.command("SNP_PAGE_UNSMASH", pa=block) == Status.INVALID_PAGE_STATE
    assert below.books() == books
    machine.rmp.put(frame, ASSIGNED | IMMUTABLE, asid, 7)
    below.did("SNP_PAGE_UNSMASH", pa=block)
    assert level.rmp.large(block // PAGE)
    below.did("SNP_DECOMMISSION", gctx=gctx)


def test_a_large_page_goes_to_a_place_that_is_one_below(below: Below) -> None:
    """Two of its pages lie in each other's place, as in a host of which some memory is scattered."""
    host, level = below.host, below.host.seat.level
    fields = {"gctx": context(below), "mdata": below.pages[3], "flags": 1}
    run(host.driver.rmpupdate(below.pages[3], FIRMWARE))
    below.did("SNP_PAGE_MD_INIT", gctx=fields["gctx"], pa=below.pages[3])
    block, place = (host.allocate(2 * MIB, 2 * MIB) for _ in range(2))
    pair = [place // PAGE + 3, place // PAGE + 4]
    level.slots[pair] = level.slots[pair[::-1]]
    run(host.driver.rmpupdate(block, NewState(0, True, True, True, 1)))
    run(host.driver.rmpupdate(place, FIRMWARE._replace(large=True)))
    books = below.books()
    assert below.command("SNP_PAGE_SWAP_OUT", src=block, dst=place, **fields) == Status.UNSUPPORTED
    assert below.books() == books
    level.slots[pair] = level.slots[pair[::-1]]
    below.did("SNP_PAGE_SWAP_OUT", src=block, dst=place, **fields)


def swapping(below: Below) -> dict[str, int]:
    """A guest's page 0 may go out to page 2, its metadata to page 3; the level below has no such guest."""
    gctx = context(below)
    run(below.host.driver.rmpupdate(below.pages[3], FIRMWARE))
    below.did("SNP_PAGE_MD_INIT", gctx=gctx, pa=below.pages[3])
    level: Any = below.host.seat.level
    del below.host.rig.machines[0].platform.contexts[level.frame_below(gctx // PAGE)]
    return {"gctx": gctx, "mdata": below.pages[3]}


@pytest.mark.parametrize(("name", "src", "dst"), [("SNP_PAGE_SWAP_OUT", 0, 2), ("SNP_PAGE_SWAP_IN", 2, 0)])
def test_no_page_of_a_guest_that_is_gone_goes_or_comes(below: Below, name: str, src: int, dst: int) -> None:
    """What was lent for it goes back, and the guest's page is what it was."""
    fields = swapping(below)
    level: Any = below.host.seat.level
    before = level.rmp.flags.tolist()
    status = below.command(name, src=below.pages[src], dst=below.pages[dst], **fields)
    assert status == Status.INVALID_GUEST
    assert level.rmp.flags.tolist() == before
    run(below.host.driver.take_back(below.pages[2]))
    below.host.driver.write(below.pages[2], b"mine again")


# -- the end of a guest host -------------------------------------------------------------------------------


def test_a_page_that_the_machine_does_not_give_back_is_kept_out_of_use(below: Below) -> None:
    """Page 0 is a context there that nobody knows, page 1 is nobody's: there is nothing to take back."""
    context(below)
    level: Any = below.host.seat.level
    kept, free = (level.frame_below(below.pages[n] // PAGE) for n in (0, 1))
    machine = below.host.rig.machines[0]
    machine.rmp.put(kept, ASSIGNED | IMMUTABLE | VMSA)
    machine.rmp.put(free, 0)
    run(below.host.rig.end(0, "l1_crash"))
    assert [(lost.first, lost.count) for lost in level.quarantine] == [(kept, 1)]
    assert not np.count_nonzero(level.real)


def test_the_oldest_shadow_makes_room_and_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "SPACES", 2)
    host = Host(rig_of(1))
    level: Any = host.seat.level
    free = level.below.pool.free
    guests = [host.launch() for _ in range(3)]

    def opened() -> int:
        counted: int = level.ledger.counts()["table_ops", "shadow_open"]
        return counted

    reports = [run(host.guests.attest(vm)) for vm in guests]
    assert (len(set(reports)), opened()) == (3, 3)
    run(host.guests.attest(guests[2]))
    assert opened() == 3
    run(host.guests.attest(guests[0]))
    assert opened() == 4
    for vm in guests:
        run(host.guests.destroy(vm))
    run(host.rig.end(0, "l1_crash"))
    assert level.below.pool.free == free
