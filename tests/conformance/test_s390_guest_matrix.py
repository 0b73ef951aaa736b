"""What every call of a guest has in common: section 3.4, inside SIE, over every row of the call table.

The exceptions are the guest's own; what the host has to provide shows as an exception of the host.
"""

from __future__ import annotations

import pytest
from driver import number
from s390_blocks import (
    ADDRESSING,
    GUEST_CALLS,
    INV_CMD,
    INV_LEN,
    NON_SECURE,
    PAGE,
    PAGE_TRANSLATION,
    PRIVILEGED,
    PROTECTION,
    SPECIFICATION,
    WAIT,
    header,
)
from s390_field import Host
from s390_guest import FREE, SecureGuest, boot_guest, call_steps

from protocol.arch.s390.calls import CALLS as TABLE

ROWS = {row.name: row for row in TABLE.values() if row.for_guest()}
HOSTS_ALONE = [row for row in TABLE.values() if not row.for_guest()]

every_call = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(params=[0, 1, pytest.param(2, marks=pytest.mark.slow)], ids=lambda depth: f"depth{depth}")
def depth(request: pytest.FixtureRequest) -> int:
    """One question for every row of a table: the deepest host is asked with the slow half."""
    chosen: int = request.param
    return chosen


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest."""
    return boot_guest(host)


def block_of(name: str, length: int | None = None) -> bytes:
    row = ROWS[name]
    return header(row.code, row.length if length is None else length, row.length)


def interrupted(guest: SecureGuest, block: bytes, *before: dict[str, object], **call: object) -> int:
    """The program interruption that ends UVC on `block`, which must stay as it is."""
    store, issue, look = call_steps(block, **call)  # type: ignore[arg-type]
    left = guest.run(store, *before, issue, look, {"read": "0x8e", "len": 2})
    assert left.code == WAIT
    assert left.steps[-2] == {"hex": block.hex()}
    code = number(left.steps[-3]["pgm"])
    assert left.steps[-1] == {"hex": f"{code:04x}"}
    return code


@every_call
def test_a_guest_call_in_problem_state_is_a_privileged_operation(guest: SecureGuest, name: str) -> None:
    """3.4 rule 1, and before rule 2."""
    problem = {"cpu": {"problem_state": True}}
    assert interrupted(guest, block_of(name), problem) == PRIVILEGED
    assert interrupted(guest, block_of(name), problem, m3=1) == PRIVILEGED


@every_call
@pytest.mark.parametrize("operand", ["m3", "m4"])
def test_a_guest_call_with_an_immediate_operand_is_a_specification_exception(
    guest: SecureGuest, name: str, operand: str
) -> None:
    """3.4 rule 2."""
    assert interrupted(guest, block_of(name), **{operand: 4}) == SPECIFICATION


@every_call
def test_what_a_guest_call_leaves_in_register_1_means_nothing(guest: SecureGuest, name: str) -> None:
    block = block_of(name, 8)
    assert guest.uvc(block, r1=0xFFFF).rc == guest.uvc(block).rc == INV_LEN


@every_call
def test_a_block_behind_the_guests_storage_is_its_addressing_exception(guest: SecureGuest, name: str) -> None:
    """3.4 rule 3: also if only the rest of the block is behind it."""
    end = guest.plan["len"]
    guest.secure_page(end - PAGE)
    guest.store(end - 8, block_of(name)[:8])
    for at in (end, end - 8):
        left = guest.run({"call": {"r2": hex(at)}})
        assert left.steps == [{"pgm": f"0x{ADDRESSING:02x}"}]


@every_call
@pytest.mark.parametrize("state", ["unmapped", "exported", "protected"])
def test_a_block_that_the_host_does_not_provide_is_asked_for_and_the_call_done_then(
    host: Host, guest: SecureGuest, name: str, state: str
) -> None:
    """3.4 rule 3: the exception is the host's; the whole block is touched before anything is done."""
    page, second = guest.secure_page(FREE), guest.secure_page(FREE + PAGE)
    at = FREE + PAGE - 8
    guest.store(at, block_of(name, 8))
    guest.store(at, block_of(name)[:8])
    if state == "exported":
        host.call("convert_from", paddr=second).done()
    elif state == "unmapped":
        guest.space.unmap(FREE + PAGE)
    else:
        guest.space.map(FREE + PAGE, second, protect=True)
    fault = guest.run_fault({"call": {"r2": hex(at)}})
    want = {"exported": NON_SECURE, "unmapped": PAGE_TRANSLATION, "protected": PROTECTION}[state]
    assert (fault.code, fault.page, fault.steps) == (want, FREE + PAGE, [])
    assert host.enter_fault(guest.sie).code == want, "as long as nobody acts"
    guest.space.map(FREE + PAGE, second)
    if state == "exported":
        guest.convert_to(FREE + PAGE).done()
    left = guest.enter()
    assert left.code == WAIT
    assert set(left.steps[0]) == {"cc"}
    assert host.is_secure(page)


@every_call
def test_a_guest_call_of_the_wrong_length_is_refused(guest: SecureGuest, name: str) -> None:
    """3.4 rule 6."""
    row = ROWS[name]
    lengths = [8, 0xA0] if name == "query" else [0, 8, row.length - 8, row.length - 1, row.length + 8]
    for length in lengths:
        reply = guest.uvc(header(row.code, length, max(row.length, length)))
        reply.refused(INV_LEN)


@pytest.mark.parametrize("row", HOSTS_ALONE, ids=lambda row: row.name)
def test_a_call_of_hosts_is_not_installed_for_a_guest(guest: SecureGuest, row: object) -> None:
    """2.0, before the length."""
    for length in (row.length, 8, row.length + 8):  # type: ignore[attr-defined]
        guest.uvc(header(row.code, length, max(length, row.length))).refused(INV_CMD)  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", [0x0000, 0x0003, 0x1002, 0x1032, 0xFFFF], ids=hex)
def test_a_code_that_stands_for_no_call_is_not_installed_for_a_guest(guest: SecureGuest, code: int) -> None:
    guest.uvc(header(code, 0x40)).refused(INV_CMD)


def test_a_guest_sees_exactly_the_calls_that_are_its_own(guest: SecureGuest) -> None:
    """console/s390.md: guest bits 0, 8, 9, 28-31, 33, 34; section 4, the guest's view."""
    reply = guest.uvc(block_of("query")).done()
    words = reply.field(0x10, 32)
    assert {bit for bit in range(256) if words >> (255 - bit) & 1} == {0, 8, 9, 28, 29, 30, 31, 33, 34}
    assert {row.bit for row in ROWS.values()} == {0, 8, 9, 28, 29, 30, 31, 33, 34}
    assert reply.field(0xE0) == 1 << 63, "attestation request version 1"
    assert reply.field(0xE8) == 0x2000_0000_0000_0000


def test_the_sheets_guest_calls_are_the_tables() -> None:
    assert {(row.code, row.length) for row in ROWS.values() if not row.for_host()} == set(
        GUEST_CALLS.values()
    )


def test_a_guest_query_that_knows_less_gets_what_it_has_room_for(guest: SecureGuest) -> None:
    whole = guest.uvc(block_of("query")).done()
    for length in (0xA8, 0xC8, 0x100):
        part = guest.uvc(header(0x0001, length)).refused(0x0100)
        assert part.block[8:length] == whole.block[8:length]


def test_a_block_may_lie_across_pages_of_the_guest(host: Host, guest: SecureGuest) -> None:
    for gaddr in (FREE, FREE + PAGE):
        guest.secure_page(gaddr)
    at = FREE + PAGE - 0x20
    block = block_of("query")
    left = guest.run(
        {"touch": hex(at), "write": True, "value": block.hex()},
        {"call": {"r2": hex(at)}},
        {"read": hex(at), "len": len(block)},
    )
    assert left.steps[1] == {"cc": 0}
    assert left.steps[2] == {"hex": guest.uvc(block).block.hex()}


def test_no_guest_call_leaves_the_guest(host: Host, guest: SecureGuest) -> None:
    """2.0: guest-side calls reach the Ultravisor without an exit to anybody."""
    for name in ROWS:
        left = guest.run(*call_steps(block_of(name)))
        assert (left.code, len(left.steps)) == (WAIT, 3), name
