"""Which calls a profile's firmware has, in its table and in what it tells its host and its guests."""

from __future__ import annotations

import pytest

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine.init import guest_view, host_view
from protocol.arch.s390.profiles import PROFILES
from protocol.calls import Treatment, less_emulation_higher_up
from protocol.effects import run
from protocol.ledger import Ledger

HOST_BITS = {*range(8), *range(11, 28), 34}
GUEST_BITS = {0, 8, 9, 28, 29, 30, 31, 33, 34}
THE_TALKS = {
    *(0x0001, 0x000F, 0x0100, 0x0101, 0x0102, 0x0120, 0x0121, 0x0200, 0x0201, 0x0202, 0x0300, 0x0301, 0x0302),
    *(0x0310, 0x0311, 0x0320, 0x0321, 0x0330, 0x0340, 0x0341, 0x0342, 0x0400, 0x0401, 0x0402, 0x0403),
    *(0x1000, 0x1001, 0x1020),
}


def bits(word: int) -> set[int]:
    return {bit for bit in range(64) if word >> (63 - bit) & 1}


def machine(profile: str) -> Machine:
    return Machine(PROFILES[profile], 16 << 20, [Cpu(0)], CALLS, Ledger())


def query(uv: Machine, length: int) -> tuple[int, bytes]:
    assert uv.write(0x2000, length.to_bytes(2, "big") + b"\0\1" + bytes(length - 4)) is None
    cc = run(uv.call(uv.cpus[0], 0x2000))
    data = uv.read(0x2000, length)
    assert isinstance(cc, int) and isinstance(data, bytes)
    return cc, data


def test_the_table_has_33_calls() -> None:
    assert len(CALLS) == 33


@pytest.mark.parametrize("profile", ["small", "full"])
def test_todays_firmware_has_them_all(profile: str) -> None:
    uv = machine(profile)
    assert {**uv.calls, **uv.guest_calls} == dict(CALLS)
    assert bits(host_view(uv.profile, uv.calls).calls) == HOST_BITS
    assert bits(guest_view(uv.profile, uv.guest_calls).calls) == GUEST_BITS


def test_the_firmware_of_the_talk_has_exactly_its_28() -> None:
    uv = machine("talk2022")
    assert len(THE_TALKS) == 28
    assert {*uv.calls, *uv.guest_calls} == THE_TALKS
    assert bits(host_view(uv.profile, uv.calls).calls) == HOST_BITS - {34}
    assert bits(guest_view(uv.profile, uv.guest_calls).calls) == {0, 8, 9, 28}


def test_a_call_that_the_profile_takes_away_is_not_installed() -> None:
    uv = machine("talk2022")
    assert uv.write(0x2000, bytes.fromhex("02000002").ljust(0x200, b"\0")) is None
    assert run(uv.call(uv.cpus[0], 0x2000)) == 1
    assert uv.read(0x2004, 2) == b"\0\2"


@pytest.mark.parametrize(("profile", "known"), [("small", 0x120), ("talk2022", 0x100)])
def test_each_firmware_knows_a_block_of_its_age(profile: str, known: int) -> None:
    """Section 4: what a caller knows more of stays zero, what it knows less of is more data."""
    uv = machine(profile)
    assert query(uv, known)[0] == 0
    assert query(uv, known - 8)[0] == 1
    cc, data = query(uv, 0x130)
    assert cc == 0
    assert data[known:] == bytes(0x130 - known)


def test_a_guest_without_secrets_is_told_nothing_of_them() -> None:
    uv = machine("talk2022")
    view = guest_view(uv.profile, uv.guest_calls)
    assert (view.secret_versions, view.secret_types, view.max_retrievable) == (0, 0, 0)
    uv = machine("small")
    view = guest_view(uv.profile, uv.guest_calls)
    assert (view.secret_versions, view.max_associations, view.max_retrievable) == (1 << 63, 64, 64)


def test_no_call_of_a_guest_has_a_hypervisor_on_the_way() -> None:
    assert {row.treatment for row in CALLS.values() if not row.for_host()} == {Treatment.NATIVE}


def test_the_share_of_emulated_calls_never_rises() -> None:
    """The talk: less emulation the higher we go."""
    shares = [share for _, share in less_emulation_higher_up(CALLS.values())]
    assert shares == sorted(shares, reverse=True)


def test_every_call_has_a_handler_and_says_where_it_stands() -> None:
    for row in CALLS.values():
        assert row.handler is not None, row.name
        assert row.source and row.why, row.name
