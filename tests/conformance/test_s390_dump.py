"""Dumps at every depth: who may have one, what is refused meanwhile, and that the owner alone reads it.

Sections 2.1 L and M, 2.3, 5.2 and 8.2 of the fact sheet. Return codes are the sheet's proposals.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from s390_blocks import ERROR, GIB, INV_GHANDLE, INV_STATE, MIB, PAGE, VALIDITY, WAIT, Reply
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, WORK, Image, SecureGuest, boot_guest, plain_image, text_of
from s390_owner import MAPPED, SHARED, ZERO, Dump, InvalidTag

ALLOW_DUMP = 1 << (63 - 34)
SECRET = b"the guest's own words, " * 100
NOWHERE = 1 << 44

WRONG_STATE, NO_AREA, NOT_ALLOWED, NOT_NOW = 0x0101, 0x0102, 0x0103, 0x0104


def boot(host: Host, pcf: int = ALLOW_DUMP, cpus: int = 1, mib: int = 2) -> tuple[SecureGuest, Image]:
    """A started guest whose owner allows dumps, or does not."""
    image = Image.build(host, plain_image(), pcf=hex(pcf))
    return SecureGuest.create(host, mib, cpus).load(image).start(), image


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    return boot(host)[0]


def begin(guest: SecureGuest) -> Reply:
    return guest.host.call("dump_init", handle=guest.handle)


def area_of(host: Host, field: int) -> tuple[int, int]:
    """A fresh area as long as the query says, and how long that is."""
    length = host.query().field(field)
    return host.alloc(length), length


@dataclass
class Gathered:
    """A dump as a host gathers it: section 6 row 11."""

    guest: SecureGuest
    cpus: list[bytes] = field(default_factory=list)
    memory: dict[int, bytes] = field(default_factory=dict)  # guest page -> what the host read
    state: bytes = b""
    completion: bytes = b""

    @classmethod
    def of(cls, guest: SecureGuest) -> Gathered:
        dump = cls(guest)
        begin(guest).done()
        for number in range(len(guest.cpus)):
            dump.cpus.append(dump.take_cpu(number))
        dump.take_memory()
        for gaddr in range(0, guest.plan["len"], MIB):
            dump.state += dump.take_state(gaddr)
        dump.completion = dump.complete()
        return dump

    def take_cpu(self, number: int) -> bytes:
        host = self.guest.host
        area, length = area_of(host, 0x68)
        host.call("dump_cpu", handle=self.guest.cpus[number].handle, area=area).done()
        return host.read(area, length)

    def take_memory(self) -> None:
        host, space = self.guest.host, self.guest.space
        for virtual in range(0, self.guest.plan["len"], PAGE):
            if not space.maps(virtual):
                continue
            page = space.target(virtual)
            if host.is_secure(page):
                host.call("convert_from", paddr=page).done()
            self.memory[virtual // PAGE] = host.read(page)

    def take_state(self, gaddr: int) -> bytes:
        host = self.guest.host
        area, length = area_of(host, 0xC8)
        assert length == 0x1000
        host.call("dump_storage_state", handle=self.guest.handle, area=area, gaddr=gaddr).done()
        return host.read(area, length)

    def complete(self) -> bytes:
        host = self.guest.host
        area, length = area_of(host, 0xD0)
        host.call("dump_complete", handle=self.guest.handle, area=area).done()
        return host.read(area, length)

    def component(self, gaddr: int) -> bytes:
        at = gaddr // PAGE * 16
        return self.state[at : at + 16]


def special(flags: int) -> bytes:
    return b"\xff" * 4 + bytes(11) + bytes((flags,))


def state_of(guest: SecureGuest, gaddr: int) -> bytes:
    """The component of one page."""
    raw = Gathered(guest).take_state(gaddr & ~(MIB - 1))
    at = gaddr % MIB // PAGE * 16
    return raw[at : at + 16]


# -- who may dump ----------------------------------------


def test_the_owner_has_to_allow_it(host: Host) -> None:
    begin(boot(host, pcf=0)[0]).refused(NOT_ALLOWED)
    begin(boot(host)[0]).done()


def test_no_other_flag_allows_it(host: Host) -> None:
    others = host.query().field(0xB8) & ~ALLOW_DUMP & ~(1 << (63 - 35))
    begin(boot(host, pcf=others)[0]).refused(NOT_ALLOWED)


def test_a_configuration_without_an_image_cannot_be_dumped(host: Host) -> None:
    begin(SecureGuest.create(host)).refused()


def test_there_is_one_dump_at_a_time(host: Host, guest: SecureGuest) -> None:
    begin(guest).done()
    begin(guest).refused(NOT_NOW)
    Gathered(guest).complete()
    begin(guest).done()


def test_a_stopped_guest_can_be_dumped(host: Host, guest: SecureGuest) -> None:
    guest.stop_all()
    begin(guest).done()


@pytest.mark.parametrize("name", ["dump_storage_state", "dump_complete"])
def test_nothing_is_given_before_a_dump_begins(host: Host, guest: SecureGuest, name: str) -> None:
    host.call(name, handle=guest.handle, area=host.alloc()).refused(NOT_NOW)
    begin(guest).done()
    host.call(name, handle=guest.handle, area=host.alloc()).done()


def test_no_cpu_is_given_before_a_dump_begins_or_after_its_end(host: Host, guest: SecureGuest) -> None:
    handle = guest.cpus[0].handle
    host.call("dump_cpu", handle=handle, area=host.alloc()).refused(NOT_NOW)
    begin(guest).done()
    host.call("dump_cpu", handle=handle, area=host.alloc()).done()
    Gathered(guest).complete()
    host.call("dump_cpu", handle=handle, area=host.alloc()).refused(NOT_NOW)


# -- areas ----------------------------------------


def bad_areas(guest: SecureGuest) -> list[int]:
    return [NOWHERE, guest.plan["base"], guest.space.target(0), 2200 * MIB - 0x800]


def test_an_area_that_the_host_cannot_store_to_is_refused(host: Host, guest: SecureGuest) -> None:
    begin(guest).done()
    for area in bad_areas(guest):
        host.call("dump_storage_state", handle=guest.handle, area=area).refused(NO_AREA)
        host.call("dump_cpu", handle=guest.cpus[0].handle, area=area).refused(NO_AREA)
        host.call("dump_complete", handle=guest.handle, area=area).refused(NO_AREA)
    Gathered(guest).complete()


def test_areas_are_in_the_home_space(host: Host) -> None:
    guest, image = boot(host)
    first, hole, second = host.alloc(), host.alloc(), host.alloc()
    space = host.use_home()
    area = host.to_home(first, 2 * PAGE)
    space.map(area, second)
    space.map(area + PAGE, first)
    begin(guest).done()
    host.call("dump_storage_state", handle=guest.handle, area=area + 0x800).done()
    got = host.read(second, PAGE)[0x800:] + host.read(first, PAGE)[:0x800]
    assert got[:16] == special(MAPPED), "page 0, secure"
    assert host.read(hole) == bytes(PAGE)
    host.call("dump_complete", handle=guest.handle, area=area + 2 * PAGE).refused(NO_AREA)
    host.call("dump_complete", handle=guest.handle, area=area).done()
    Dump(image.cck, host.read(second))


def test_the_address_has_to_be_that_of_a_megabyte_of_the_guest(host: Host, guest: SecureGuest) -> None:
    begin(guest).done()
    area = host.alloc()
    for gaddr in (2 * MIB, 4 * GIB, 1 << 45, MIB + PAGE, MIB - 1):
        host.call("dump_storage_state", handle=guest.handle, area=area, gaddr=gaddr).refused()
    assert host.read(area) == bytes(PAGE), "nothing is stored"
    host.call("dump_storage_state", handle=guest.handle, area=area, gaddr=MIB).done()


# -- meanwhile ----------------------------------------


def test_sie_is_refused_while_the_guest_is_dumped(host: Host, guest: SecureGuest) -> None:
    guest.program({"read": hex(IMAGE_AT), "len": 7})
    begin(guest).done()
    for _ in range(2):
        left = guest.enter()
        assert (left.code, left.reason & 0xFF00, left.steps) == (VALIDITY, 0x2000, [])
    Gathered(guest).complete()
    left = guest.enter()
    assert (left.code, left.steps) == (WAIT, [{"hex": b"this is".hex()}])


def test_other_guests_run_on(host: Host, guest: SecureGuest) -> None:
    other = boot_guest(host)
    begin(guest).done()
    assert other.fetch(IMAGE_AT, 7) == b"this is"


def test_a_cpu_in_the_guest_goes_on_and_is_dumped_when_it_has_left(host: Host, guest: SecureGuest) -> None:
    assert host.ok("enter", vcpu=hex(guest.sie), stay=True) == {"running": True}
    handle = guest.cpus[0].handle
    host.cpu(1, running=True)
    host.uvc(
        bytes.fromhex("00400400").ljust(0x18, b"\0") + guest.handle.to_bytes(8, "big") + bytes(32), 1
    ).done()
    host.call("dump_cpu", 1, handle=handle, area=host.alloc()).refused(WRONG_STATE)
    host.ok("kick", cpu=0)
    host.call("dump_cpu", 1, handle=handle, area=host.alloc()).done()
    assert guest.enter().code == VALIDITY


def test_destroying_ends_a_dump(host: Host, guest: SecureGuest) -> None:
    begin(guest).done()
    guest.destroy()
    host.call("dump_complete", handle=guest.handle, area=host.alloc()).refused(INV_GHANDLE)


@pytest.mark.parametrize("kind", ["modified-clear", "load-normal"])
def test_a_reset_of_the_host_ends_a_dump(host: Host, guest: SecureGuest, kind: str) -> None:
    begin(guest).done()
    host.reset(kind)
    host.call("dump_complete", handle=guest.handle, area=host.alloc()).refused(INV_STATE)
    host.init()
    begin(boot(host)[0]).done()


def test_another_hosts_guest_is_unknown(s390: object) -> None:
    host: Host = s390(hosts=2)  # type: ignore[operator]
    host.init()
    sibling = host.sibling(1)
    sibling.init()
    guest, _ = boot(host)
    sibling.call("dump_init", handle=guest.handle).refused(INV_GHANDLE)
    begin(guest).done()
    area = sibling.alloc()
    sibling.call("dump_complete", handle=guest.handle, area=area).refused(INV_GHANDLE)
    sibling.call("dump_cpu", handle=guest.cpus[0].handle, area=area).refused(0x0021)
    assert sibling.read(area) == bytes(PAGE)
    Gathered(guest).complete()


# -- what stands in it ----------------------------------------


def test_storage_state_tells_pages_apart(host: Host, guest: SecureGuest) -> None:
    guest.secure_page(FREE)
    guest.secure_page(FREE + PAGE)
    guest.share(FREE + PAGE).done()
    exported = guest.secure_page(FREE + 2 * PAGE)
    destroyed = guest.secure_page(FREE + 3 * PAGE)
    guest.back(FREE + 4 * PAGE)
    host.call("convert_from", paddr=exported).done()
    host.call("destroy_storage", paddr=destroyed).done()
    begin(guest).done()
    got = [state_of(guest, FREE + number * PAGE) for number in range(6)]
    assert got[0] == special(MAPPED)
    assert got[1] == special(SHARED | MAPPED)
    assert got[2][:4] != b"\xff" * 4
    assert got[3:] == [special(ZERO)] * 3


def test_an_exported_page_has_another_component_each_time(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE)
    seen = []
    for _ in range(3):
        host.call("convert_from", paddr=page).done()
        begin(guest).done()
        seen.append(state_of(guest, FREE))
        Gathered(guest).complete()
        guest.convert_to(FREE).done()
    assert len(set(seen)) == 3


def test_the_owner_reads_memory_and_registers(host: Host) -> None:
    guest, image = boot(host, cpus=2)
    guest.secure_page(FREE, SECRET)
    guest.secure_page(MIB + FREE, SECRET[::-1])
    guest.secure_page(FREE + PAGE, b"shared")
    guest.share(FREE + PAGE).done()
    swapped = guest.secure_page(FREE + 2 * PAGE, b"swapped out before")
    host.call("convert_from", paddr=swapped).done()
    guest.run({"cpu": {"gprs": {"3": "0x1234", "15": hex((1 << 64) - 1)}}})
    dump = Gathered.of(guest)
    owner = Dump(image.cck, dump.completion)

    def page(gaddr: int) -> bytes:
        return owner.page(dump.component(gaddr), dump.memory[gaddr // PAGE])

    assert page(FREE)[: len(SECRET)] == SECRET
    assert page(MIB + FREE)[: len(SECRET)] == SECRET[::-1]
    assert page(FREE + PAGE)[:6] == b"shared"
    assert page(FREE + 2 * PAGE)[:18] == b"swapped out before"
    image_text = text_of(0) + text_of(1)
    assert page(IMAGE_AT) == image_text[:PAGE]
    gprs = owner.registers(dump.cpus[0])
    assert (gprs[3], gprs[15]) == (0x1234, (1 << 64) - 1)
    assert owner.registers(dump.cpus[1])[3] == 0


def test_nobody_else_reads_it(host: Host) -> None:
    guest, _ = boot(host)
    guest.secure_page(FREE, SECRET)
    dump = Gathered.of(guest)
    seen = b"".join(dump.memory.values()) + dump.state + dump.completion + b"".join(dump.cpus)
    assert SECRET[:16] not in seen
    assert b"secret kernel" not in seen
    with pytest.raises(InvalidTag):
        Dump(bytes(32), dump.completion)


def test_two_dumps_have_nothing_in_common(host: Host) -> None:
    guest, image = boot(host)
    one, two = Gathered.of(guest), Gathered.of(guest)
    assert one.completion[16:80] != two.completion[16:80]
    with pytest.raises(InvalidTag):
        Dump(image.cck, one.completion).registers(two.cpus[0])
    Dump(image.cck, two.completion).registers(two.cpus[0])


def test_the_guest_goes_on_after_a_dump_as_if_nothing_was(host: Host) -> None:
    guest, _ = boot(host)
    guest.secure_page(FREE, SECRET)
    Gathered.of(guest)
    for gaddr in (0, PAGE, WORK, FREE, IMAGE_AT, IMAGE_AT + PAGE):
        guest.convert_to(gaddr).done()
    assert guest.fetch(FREE, len(SECRET)) == SECRET
    assert guest.fetch(IMAGE_AT, 7) == b"this is"


def test_a_changed_dump_does_not_open(host: Host) -> None:
    guest, image = boot(host)
    dump = Gathered.of(guest)
    for at in (16, 90, 100, 287):
        changed = bytearray(dump.completion)
        changed[at] ^= 1
        with pytest.raises(InvalidTag):
            Dump(image.cck, bytes(changed))


def test_a_refused_call_is_an_error_and_no_progress(host: Host, guest: SecureGuest) -> None:
    """No dump call is ever partial: each answers cc 0 or cc 1."""
    reply = host.call("dump_complete", handle=guest.handle, area=host.alloc())
    assert reply.cc == ERROR
