"""Calls that the Ultravisor stops in the middle: condition code 2, console/s390.md `call`."""

from __future__ import annotations

import pytest
from s390_blocks import BUSY, EXECUTED, MIB, PAGE, uvcb
from s390_field import Host
from s390_guest import FREE, SecureGuest, boot_guest


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest on a host with two running CPUs."""
    made = boot_guest(host)
    host.cpu(1, running=True)
    return made


def busy(host: Host, block: bytes, cpu: int = 1) -> None:
    """The call answers cc 2 and leaves its block as it was."""
    reply = host.uvc(block, cpu)
    assert reply.cc == BUSY, str(reply)
    assert reply.block == block


def import_block(guest: SecureGuest, gaddr: int) -> bytes:
    return uvcb("convert_to", handle=guest.handle, gaddr=gaddr)


def test_a_second_call_to_the_same_configuration_is_busy_until_the_first_is_resumed(
    host: Host, guest: SecureGuest
) -> None:
    first, second = guest.back(FREE), guest.back(FREE + PAGE)
    at = host.alloc()
    block = import_block(guest, FREE)
    parked = host.park(block, 0, at)
    for _ in range(2):
        busy(host, import_block(guest, FREE + PAGE))
    busy(host, uvcb("verify", handle=guest.handle))
    assert not host.is_secure(second)
    reply = host.resume(parked, at, len(block))
    assert (reply.cc, reply.rc) == (0, EXECUTED)
    assert host.is_secure(first)
    host.uvc(import_block(guest, FREE + PAGE), 1).done()
    assert host.is_secure(second)


def test_a_parked_call_does_not_hold_up_another_configuration(host: Host, guest: SecureGuest) -> None:
    other = boot_guest(host)
    guest.back(FREE)
    page = other.back(FREE)
    at = host.alloc()
    parked = host.park(import_block(guest, FREE), 0, at)
    other.convert_to(FREE, cpu=1).done()
    assert host.is_secure(page)
    assert host.resume(parked, at, 0x28).cc == 0


def test_calls_without_a_handle_share_the_ultravisor_of_their_host(host: Host, guest: SecureGuest) -> None:
    at = host.alloc()
    block = uvcb("create_config", **host.plan_config())
    other = uvcb("create_config", **host.plan_config())
    parked = host.park(block, 0, at)
    busy(host, other)
    reply = host.resume(parked, at, len(block))
    assert (reply.cc, reply.rc) == (0, EXECUTED)
    assert host.uvc(other, 1).done().handle != reply.handle


def test_a_cpu_in_a_parked_call_does_nothing_else(host: Host, guest: SecureGuest) -> None:
    """console.md: it refuses other work with bad_request."""
    guest.back(FREE)
    at = host.alloc()
    parked = host.park(import_block(guest, FREE), 0, at)
    host.error("call", "bad_request", r2=hex(at))
    host.error("enter", "bad_request", vcpu=hex(guest.sie))
    host.error("insn", "bad_request", name="stck")
    assert host.resume(parked, at, 0x28).cc == 0
    assert "error" in host.ask("resume", call=parked), "a call is resumed once"


@pytest.mark.parametrize(
    ("block", "rc"),
    [
        (uvcb("verify", handle=0xBAD), 0x0020),
        (uvcb("verify", 0x48), 0x0005),
        (uvcb("share"), 0x0002),
    ],
    ids=["handle", "length", "installed"],
)
def test_a_call_that_ends_before_its_park_point_answers_at_once(host: Host, block: bytes, rc: int) -> None:
    """console.md."""
    host.uvc(block, park=True).refused(rc)


def test_a_parked_call_that_is_refused_says_so_when_it_is_resumed(host: Host, guest: SecureGuest) -> None:
    """The page is not mapped: before or after the park point, the answer is the same."""
    absolute, address = host.block_page()
    block = import_block(guest, MIB + FREE)
    host.write(absolute, block)
    body = host.ok("call", r2=hex(address), park=True)
    if "parked" in body:
        body = host.ok("resume", call=host.keyboard.transcript[-1][0]["id"])
    assert body == {"cc": 1}
    assert host.get(absolute + 4, 2) == 0x010A


@pytest.mark.parametrize("end", ["modified-clear", "load-normal", "load-clear", "kill"])
def test_a_host_that_ends_in_the_middle_of_a_call_leaves_nothing(
    host: Host, guest: SecureGuest, end: str
) -> None:
    """7.8: the owner is gone, the call is brought to an end below, and nobody gets an answer."""
    guest.back(FREE)
    at = host.alloc()
    parked = host.park(import_block(guest, FREE), 0, at)
    if end == "kill":
        host.ok("kill")
    else:
        host.reset(end)
    host.forget()
    assert "error" in host.ask("resume", call=parked)
    books = host.books()
    assert (books["te"]["configs"], books["donated_pages"], books["secure_pages"]) == (0, 0, 0)
    assert host.audit()["leaks"] == []
    host.init()
    assert boot_guest(host).fetch(0x10000, 7) == b"this is"


def test_a_sibling_is_not_held_up(depth: int, s390: object) -> None:
    host: Host = s390(hosts=2)  # type: ignore[operator]
    sibling = host.sibling(1)
    host.init()
    sibling.init()
    block = uvcb("create_config", **host.plan_config())
    at = host.alloc()
    parked = host.park(block, 0, at)
    other = boot_guest(sibling)
    assert other.fetch(0x10000, 7) == b"this is"
    assert host.resume(parked, at, len(block)).cc == 0
