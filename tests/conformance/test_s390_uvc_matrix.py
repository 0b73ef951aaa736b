"""What every call of a host has in common: the order of checks of section 3.4, over the whole call table.

The order is proved where two things are wrong at once and the answer names the first.
"""

from __future__ import annotations

import pytest
from s390_blocks import (
    ADDRESSING,
    GUEST_CALLS,
    INV_CMD,
    INV_LEN,
    INV_STATE,
    MIB,
    PAGE,
    PAGE_TRANSLATION,
    PRIVILEGED,
    SECURE,
    SPECIFICATION,
    UNASSIGNED,
    Call,
    header,
    uvcb,
)
from s390_field import Host
from s390_guest import boot_guest
from s390_table import ALL_CALLS, GUESTS_ALONE, empty

every_call = pytest.mark.parametrize("call", ALL_CALLS, ids=str)
with_handle = pytest.mark.parametrize("call", [call for call in ALL_CALLS if call.handle], ids=str)
needing_init = pytest.mark.parametrize("call", [call for call in ALL_CALLS if call.needs_init], ids=str)


@pytest.fixture(params=[0, 1, pytest.param(2, marks=pytest.mark.slow)], ids=lambda depth: f"depth{depth}")
def depth(request: pytest.FixtureRequest) -> int:
    """One question for every row of a table: the deepest host is asked with the slow half."""
    chosen: int = request.param
    return chosen


def answer_of(host: Host, call: Call, rc: int) -> int:
    """`rc`, or what a firmware without this call says whatever else is wrong."""
    return rc if call.bit in host.installed() else INV_CMD


def wrong_lengths(call: Call) -> list[int]:
    """Lengths that do not fit the call. The query takes longer blocks than it knows."""
    short = [0, 7, 8, call.length - 8, call.length - 1]
    if call.name == "query":
        return [0, 8, 0x98, 0xA0]
    return [*short, call.length + 1, call.length + 8, 0x1000]


# -- exceptions ----------------------------------------


@every_call
def test_a_call_in_problem_state_is_a_privileged_operation(raw: Host, call: Call) -> None:
    """3.4 rule 1: before the Ultravisor is initialised, too."""
    for initialised in (False, True):
        if initialised:
            raw.init()
        raw.cpu(0, problem_state=True)
        assert raw.uvc_fault(empty(call)).code == PRIVILEGED
        assert raw.cpu(0)["problem_state"] is True
        raw.cpu(0, problem_state=False)


@every_call
def test_a_call_with_an_immediate_operand_is_a_specification_exception(host: Host, call: Call) -> None:
    """3.4 rule 2."""
    for immediates in ({"m3": 1}, {"m4": 1}, {"m3": 15, "m4": 8}):
        assert host.uvc_fault(empty(call), **immediates).code == SPECIFICATION


@every_call
def test_problem_state_comes_before_immediate_operands(raw: Host, call: Call) -> None:
    """3.4 rules 1 and 2; the sheet takes this order [G]."""
    raw.cpu(0, problem_state=True)
    assert raw.uvc_fault(empty(call), m3=1).code == PRIVILEGED


@every_call
def test_a_block_on_an_unmapped_page_is_a_translation_exception(host: Host, call: Call) -> None:
    """3.4 rule 3: a normal exception, and no rc."""
    host.use_home()
    virtual = host.to_home(host.alloc()) + PAGE
    fault = host.fault("call", r2=hex(virtual))
    assert (fault.code, fault.page) == (PAGE_TRANSLATION, virtual)


@every_call
def test_a_block_whose_rest_is_unmapped_is_a_translation_exception(host: Host, call: Call) -> None:
    """3.4 rule 3: the whole length is touched before anything is processed."""
    host.use_home()
    page = host.alloc()
    virtual = host.to_home(page)
    block = empty(call)
    host.write(page + PAGE - 16, block[:16])
    fault = host.fault("call", r2=hex(virtual + PAGE - 16))
    assert (fault.code, fault.page) == (PAGE_TRANSLATION, virtual + PAGE)
    assert host.read(page + PAGE - 16, 16) == block[:16]


@every_call
def test_a_block_behind_the_end_of_memory_is_an_addressing_exception(raw: Host, call: Call) -> None:
    """3.4 rule 2: with DAT off the address is a real one."""
    assert raw.fault("call", r2=hex(2200 * MIB)).code == ADDRESSING
    block = empty(call)
    raw.write(2200 * MIB - 16, block[:16])
    assert raw.fault("call", r2=hex(2200 * MIB - 16)).code == ADDRESSING
    assert raw.read(2200 * MIB - 16, 16) == block[:16]


@every_call
def test_a_block_in_donated_storage_is_a_secure_storage_access(raw: Host, call: Call) -> None:
    """5.5: a donated page answers its host's reads and writes with 0x3D; a block is one."""
    origin = raw.init()
    assert raw.fault("call", r2=hex(origin + PAGE)).code == SECURE


def test_a_block_may_lie_across_pages_that_are_not_neighbours(host: Host) -> None:
    """The block is in the home space: what is one piece there need not be one in memory."""
    space = host.use_home()
    first, hole, second = host.alloc(), host.alloc(), host.alloc()
    virtual = host.to_home(first, 2 * PAGE)
    space.map(virtual, second)
    space.map(virtual + PAGE, first)
    block = uvcb("query")
    host.write(second + PAGE - 0x40, block[:0x40])
    assert host.ok("call", r2=hex(virtual + PAGE - 0x40)) == {"cc": 0}
    assert host.get(second + PAGE - 0x40 + 0x10) != 0
    assert host.get(first) == 0x200000, "field 0x40 of the block stands at the second page's begin"
    assert host.read(hole) == bytes(PAGE)


def test_a_real_address_of_a_block_has_the_prefix_applied(host: Host) -> None:
    lowcore = host.alloc(2 * PAGE, align=2 * PAGE)
    host.cpu(0, prefix=hex(lowcore))
    host.write(lowcore + 0x200, uvcb("query"))
    assert host.ok("call", r2="0x200") == {"cc": 0}
    assert host.get(lowcore + 0x240) == 0x200000


# -- codes ----------------------------------------


@pytest.mark.parametrize("code", UNASSIGNED, ids=hex)
def test_a_code_that_stands_for_no_call_is_not_installed(raw: Host, code: int) -> None:
    """3.4 rule 4: before the state, and whatever the length."""
    for initialised in (False, True):
        if initialised:
            raw.init()
        for length in (8, 0x40, 0x100):
            raw.uvc(header(code, length)).refused(INV_CMD)


@pytest.mark.parametrize("code_and_length", sorted({*GUEST_CALLS.values(), *GUESTS_ALONE.values()}), ids=str)
def test_a_call_of_guests_is_not_installed_for_a_host(raw: Host, code_and_length: tuple[int, int]) -> None:
    """2.0: a host sees guest calls as not installed, before it initialises the Ultravisor and afterwards."""
    for initialised in (False, True):
        if initialised:
            raw.init()
        raw.uvc(header(*code_and_length)).refused(INV_CMD)
        raw.uvc(header(code_and_length[0], 8)).refused(INV_CMD)


@needing_init
def test_a_call_before_init_is_in_the_wrong_state(raw: Host, call: Call) -> None:
    """3.4 rule 5."""
    raw.uvc(empty(call)).refused(answer_of(raw, call, INV_STATE))


@every_call
def test_a_wrong_length_is_refused(host: Host, call: Call) -> None:
    """3.4 rule 6."""
    for length in wrong_lengths(call):
        host.uvc(header(call.code, length, call.length)).refused(answer_of(host, call, INV_LEN))


def test_the_length_of_init_is_checked_before_the_ultravisor_is_initialised(raw: Host) -> None:
    """3.4 rule 6."""
    for length in (0, 8, 0x40, 0x50):
        raw.uvc(header(0x000F, length, 0x48)).refused(INV_LEN)


@with_handle
def test_a_handle_that_nobody_was_given_is_unknown(host: Host, call: Call) -> None:
    """3.4 rule 7."""
    want = answer_of(host, call, call.unknown)
    for handle in (0, 1, 0xFFFF, 0x100000, (1 << 64) - 1):
        host.uvc(with_the_handle(call, handle)).refused(want)


@with_handle
def test_a_handle_is_known_by_every_bit(host: Host, call: Call) -> None:
    """3.4 rule 7, and 7.8a invariant 5: a wrong handle changes nothing."""
    guest = boot_guest(host)
    want = answer_of(host, call, call.unknown)
    right = guest.handle if call.handle == "config" else guest.cpus[0].handle
    for bit in range(64):
        host.uvc(with_the_handle(call, right ^ 1 << bit)).refused(want)
    assert guest.fetch(0x10000, 7) == b"this is"


@with_handle
def test_a_handle_of_the_other_kind_is_unknown(host: Host, call: Call) -> None:
    """3.4 rule 7: configurations and CPUs have handles of their own."""
    guest = boot_guest(host)
    other = guest.cpus[0].handle if call.handle == "config" else guest.handle
    if other in (guest.handle, guest.cpus[0].handle) and guest.handle == guest.cpus[0].handle:
        pytest.fail("a configuration and a CPU share a handle")
    host.uvc(with_the_handle(call, other)).refused(answer_of(host, call, call.unknown))


def with_the_handle(call: Call, handle: int) -> bytes:
    block = bytearray(empty(call))
    block[call.handle_at : call.handle_at + 8] = handle.to_bytes(8, "big")
    return bytes(block)


def test_a_refused_call_writes_its_codes_and_nothing_else(host: Host) -> None:
    """Inputs are inputs: only rc and rrc change in a block that is refused."""
    for call in ALL_CALLS:
        if not call.handle:
            continue
        block = bytearray(empty(call))
        block[8:0x18] = b"\xa5" * 0x10
        reply = host.uvc(bytes(block)).refused()
        assert reply.block[:4] == block[:4]
        assert reply.block[8:] == block[8:], call.name


# -- two things wrong at once ----------------------------------------


def test_immediate_operands_come_before_access(host: Host) -> None:
    host.use_home()
    assert host.fault("call", r2="0x10000", m3=1).code == SPECIFICATION


def test_problem_state_comes_before_access(host: Host) -> None:
    host.use_home()
    host.cpu(0, problem_state=True)
    assert host.fault("call", r2="0x10000").code == PRIVILEGED


@pytest.mark.parametrize("code", UNASSIGNED, ids=hex)
def test_access_comes_before_installed(host: Host, code: int) -> None:
    host.use_home()
    page = host.alloc()
    virtual = host.to_home(page)
    host.write(page + PAGE - 8, header(code, 0x40)[:8])
    assert host.fault("call", r2=hex(virtual + PAGE - 8)).code == PAGE_TRANSLATION


def test_access_comes_before_state(raw: Host) -> None:
    raw.use_home()
    page = raw.alloc()
    virtual = raw.to_home(page)
    raw.write(page + PAGE - 8, uvcb("verify")[:8])
    assert raw.fault("call", r2=hex(virtual + PAGE - 8)).code == PAGE_TRANSLATION


def test_problem_state_comes_before_installed_and_before_state(raw: Host) -> None:
    raw.cpu(0, problem_state=True)
    assert raw.uvc_fault(header(0x7FFF, 0x40)).code == PRIVILEGED
    assert raw.uvc_fault(uvcb("verify")).code == PRIVILEGED


@needing_init
def test_state_comes_before_length(raw: Host, call: Call) -> None:
    """The sheet takes this order [G]."""
    for length in wrong_lengths(call):
        raw.uvc(header(call.code, length, call.length)).refused(answer_of(raw, call, INV_STATE))


@with_handle
def test_length_comes_before_the_handle(host: Host, call: Call) -> None:
    block = header(call.code, call.length + 8, call.length)
    host.uvc(block).refused(answer_of(host, call, INV_LEN))


def test_the_handle_comes_before_what_a_call_checks_itself(host: Host) -> None:
    """3.4 rules 7 and 8: everything else in these blocks is wrong, too."""
    nowhere = (1 << 64) - PAGE
    host.call("create_cpu", config=7, num=0xFFFF, storage=0, state=nowhere).refused(0x0020)
    host.call("set_params", handle=7, header=nowhere, header_len=1).refused(0x0020)
    host.call("convert_to", handle=7, gaddr=nowhere).refused(0x0020)
    host.call("unpack", handle=7, gaddr=nowhere, offset=5).refused(0x0020)
    host.call("unpin", handle=7, gaddr=nowhere).refused(0x0020)
    host.call("set_state", handle=7, state=0xFF).refused(0x0021)
