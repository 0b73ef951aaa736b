"""Two hosts side by side: neither sees, harms or can name what is the other's: section 7.8a of the sheet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from s390_blocks import HOST_CALLS, MIB, VALIDITY, Call, uvcb
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, SIE_CONFIG_HANDLE, SIE_CPU_HANDLE, SecureGuest, boot_guest

Pair = tuple[Host, Host]


@pytest.fixture
def pair(s390: Callable[..., Host]) -> Pair:
    """Two hosts whose Ultravisors are initialised."""
    first = s390(hosts=2)
    second = first.sibling(1)
    first.init()
    second.init()
    return first, second


def alive(guest: SecureGuest) -> None:
    assert guest.fetch(IMAGE_AT, 7) == b"this is"


def test_siblings_have_memory_of_their_own(s390: Callable[..., Host]) -> None:
    first = s390(hosts=2)
    second = first.sibling(1)
    assert first.alloc() == second.alloc() == MIB
    first.write(MIB, b"first!")
    second.write(MIB, b"second")
    assert (first.read(MIB, 6), second.read(MIB, 6)) == (b"first!", b"second")
    first.cpu(0, prefix="0x200000")
    assert second.cpu(0)["prefix"] == "0x0"


def test_siblings_have_an_ultravisor_of_their_own(s390: Callable[..., Host]) -> None:
    first = s390(hosts=2)
    second = first.sibling(1)
    origin = first.init()
    second.call("verify").refused(0x0003)
    assert not second.is_secure(origin)
    assert second.init() == origin
    assert second.is_secure(origin)


def test_siblings_do_the_same_and_get_the_same(pair: Pair) -> None:
    """Addresses are each host's own; handles are not compared, they may be real ones."""
    first, second = (boot_guest(host) for host in pair)
    assert (first.plan, first.sie, first.cpus[0].storage) == (second.plan, second.sie, second.cpus[0].storage)
    alive(first)
    alive(second)


@pytest.mark.parametrize("call", [call for call in HOST_CALLS if call.handle], ids=str)
def test_a_siblings_handle_is_answered_as_an_unknown_one(pair: Pair, call: Call) -> None:
    """7.8a invariant 5: same codes, same block, and nothing changes."""
    first, second = pair
    guest = boot_guest(first, cpus=2)
    page = guest.secure_page(FREE, b"untouched")
    second_page = second.alloc()
    fields = {"set_state": {"state": 2}, "convert_to": {"gaddr": FREE}, "unpin": {"gaddr": FREE}}.get(
        call.name, {}
    )
    if call.name == "create_cpu":
        fields = {"num": 5, "storage": second_page, "state": second.alloc()}

    def block(handle: int) -> bytes:
        made = bytearray(uvcb(call.name, **fields))
        made[call.handle_at : call.handle_at + 8] = handle.to_bytes(8, "big")
        return bytes(made)

    foreign = guest.handle if call.handle == "config" else guest.cpus[1].handle
    books = first.books()
    unknown = second.uvc(block(0x5A5A_0001)).refused(call.unknown)
    answer = second.uvc(block(foreign)).refused(call.unknown)
    at = call.handle_at
    assert answer.block[:at] == unknown.block[:at]
    assert answer.block[at + 8 :] == unknown.block[at + 8 :]
    assert first.books() == books
    assert first.is_secure(page) and not second.is_secure(second_page)
    alive(guest)
    assert guest.fetch(FREE, 9) == b"untouched"


def test_a_siblings_cpu_is_not_entered(pair: Pair) -> None:
    """With the other's handles in its own block a host gets what it gets for wrong ones."""
    first, second = pair
    theirs, mine = boot_guest(first), boot_guest(second)
    cpu, config = theirs.cpus[0].handle, theirs.handle
    for values in ((cpu, config), (cpu, mine.handle), (mine.cpus[0].handle, config)):
        if values == (mine.cpus[0].handle, mine.handle):
            pytest.fail("two hosts were given equal handles")
        for field, value in zip((SIE_CPU_HANDLE, SIE_CONFIG_HANDLE), values, strict=True):
            second.put(mine.sie + field, value)
        left = mine.run({"read": hex(IMAGE_AT), "len": 7})
        assert (left.code, left.steps) == (VALIDITY, [])
    second.put(mine.sie + SIE_CPU_HANDLE, mine.cpus[0].handle)
    second.put(mine.sie + SIE_CONFIG_HANDLE, mine.handle)
    assert mine.enter().steps[0] == {"hex": b"this is".hex()}
    alive(theirs)


def test_a_siblings_page_is_not_reached_by_its_address(pair: Pair) -> None:
    """The same absolute address is another page for another host."""
    first, second = pair
    guest = boot_guest(first)
    page = guest.secure_page(FREE, b"untouched")
    second.fill(page, 8, 0x21)
    for name in ("convert_from", "destroy_storage"):
        second.call(name, paddr=page)
    second.call("pin", paddr=page).refused()
    assert second.read(page, 8) == b"\x21" * 8
    assert first.is_secure(page)
    assert guest.fetch(FREE, 9) == b"untouched"


def test_a_ciphertext_of_a_sibling_does_not_show_its_plaintext(pair: Pair) -> None:
    first, second = pair
    guest, other = boot_guest(first), boot_guest(second)
    page = guest.secure_page(FREE, b"secret of the first host")
    first.call("convert_from", paddr=page).done()
    other.back(FREE, first.read(page))
    if other.convert_to(FREE).cc == 0:
        assert other.fetch(FREE, 24) != b"secret of the first host"


@pytest.mark.parametrize("end", ["modified-clear", "load-normal", "load-clear", "kill"])
def test_the_end_of_one_host_is_nothing_to_its_sibling(pair: Pair, end: str) -> None:
    first, second = pair
    dead, living = boot_guest(first, cpus=2), boot_guest(second, cpus=2)
    books = second.books()
    if end == "kill":
        first.ok("kill")
        first.forget()
    else:
        first.reset(end)
    assert second.books() == books
    alive(living)
    mine = first.books()
    assert (mine["te"]["configs"], mine["te"]["cpus"], mine["te"]["pins"]) == (0, 0, 0)
    assert (mine["donated_pages"], mine["secure_pages"]) == (0, 0)
    assert first.audit()["leaks"] == []
    assert second.is_secure(living.plan["base"])
    first.init()
    first.call("verify", handle=dead.handle).refused(0x0020)
    first.call("verify", handle=living.handle).refused(0x0020)
    again = boot_guest(first)
    alive(again)
    alive(living)


def test_every_host_has_all_the_configurations_of_its_profile(pair: Pair) -> None:
    """Capacities belong to the profile: a sibling takes none away."""
    for host in pair:
        for _ in range(8):
            host.call("create_config", **host.plan_config(1)).done()
        host.call("create_config", **host.plan_config(1)).refused()


def test_the_audit_keeps_the_hosts_apart(pair: Pair) -> None:
    first, second = pair
    boot_guest(first, cpus=2)
    boot_guest(second)
    boot_guest(second)
    hosts = first.audit()["hosts"]
    assert [(host["te"]["configs"], host["te"]["cpus"]) for host in hosts] == [(1, 2), (2, 2)]
    per_guest = 16 + 2 + 2
    assert [host["donated_pages"] for host in hosts] == [0x200 + per_guest + 2, 0x200 + 2 * per_guest + 2]
    assert [host["secure_pages"] for host in hosts] == [5, 10]


def test_a_console_may_have_many_hosts(s390: Callable[..., Host]) -> None:
    first = s390(hosts=4, memory_mib=2060)
    hosts = [first, *(first.sibling(which) for which in (1, 2, 3))]
    guests = []
    for host in hosts:
        host.init()
        guests.append(boot_guest(host))
    for guest in guests:
        alive(guest)
    first.error("info", "bad_value", "host", host=4)
