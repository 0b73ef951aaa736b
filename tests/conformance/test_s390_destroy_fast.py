"""Destroy Secure Configuration Fast, at every depth: section 2.0 row 6, and 2.1 E'."""

from __future__ import annotations

import pytest
from s390_blocks import INV_GHANDLE, INV_LEN, PAGE, uvcb
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, SecureGuest, boot_guest

SECRET = b"the guest's own words, " * 100


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest of two CPUs."""
    return boot_guest(host, cpus=2)


def without_cpus(guest: SecureGuest) -> SecureGuest:
    for cpu in guest.cpus:
        guest.host.call("destroy_cpu", handle=cpu.handle).done()
    return guest


def test_it_ends_a_configuration_and_gives_everything_back(host: Host, guest: SecureGuest) -> None:
    donated = guest.donated()
    assert all(host.is_secure(page) for page in donated)
    without_cpus(guest)
    host.call("destroy_config_fast", handle=guest.handle).done()
    for page in donated:
        assert host.read(page) == bytes(PAGE)
    books = host.books()
    assert books["te"]["configs"] == 0
    assert books["te"]["cpus"] == 0


def test_the_handle_is_unknown_afterwards(host: Host, guest: SecureGuest) -> None:
    without_cpus(guest)
    host.call("destroy_config_fast", handle=guest.handle).done()
    for name in ("destroy_config_fast", "destroy_config", "verify"):
        host.call(name, handle=guest.handle).refused(INV_GHANDLE)


def test_cpus_have_to_be_destroyed_before(host: Host, guest: SecureGuest) -> None:
    host.call("destroy_config_fast", handle=guest.handle).refused()
    assert guest.fetch(IMAGE_AT, 7) == b"this is"
    without_cpus(guest)
    host.call("destroy_config_fast", handle=guest.handle).done()


def test_its_block_is_one_doubleword_longer(host: Host, guest: SecureGuest) -> None:
    without_cpus(guest)
    for length in (0x40, 0x50):
        block = uvcb("destroy_config_fast", length, handle=guest.handle).ljust(0x50, b"\0")
        host.uvc(block).refused(INV_LEN)
    host.call("destroy_config_fast", handle=guest.handle).done()


@pytest.mark.parametrize("how", ["destroy_storage", "convert_from"])
def test_pages_stay_secure_until_each_is_destroyed_or_exported(
    host: Host, guest: SecureGuest, how: str
) -> None:
    page = guest.secure_page(FREE, SECRET)
    without_cpus(guest)
    host.call("destroy_config_fast", handle=guest.handle).done()
    assert host.is_secure(page)
    host.call(how, paddr=page).done()
    assert SECRET[:16] not in host.read(page)
    if how == "destroy_storage":
        assert host.read(page) == bytes(PAGE)
    assert not host.is_secure(page)


def test_a_new_guest_can_take_its_place(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    without_cpus(guest)
    host.call("destroy_config_fast", handle=guest.handle).done()
    other = boot_guest(host)
    host.call("destroy_storage", paddr=page).done()
    other.space.map(FREE, page)
    other.convert_to(FREE).done()
    assert other.fetch(FREE, 64) == bytes(64), "nothing of the former guest is left"


def test_another_hosts_guest_is_unknown(s390: object) -> None:
    host: Host = s390(hosts=2)  # type: ignore[operator]
    host.init()
    sibling = host.sibling(1)
    sibling.init()
    guest = without_cpus(boot_guest(host))
    sibling.call("destroy_config_fast", handle=guest.handle).refused(INV_GHANDLE)
    host.call("destroy_config_fast", handle=guest.handle).done()


def test_a_dump_does_not_keep_it_from_working(host: Host) -> None:
    from s390_guest import Image, plain_image

    guest = SecureGuest.create(host)
    guest.load(Image.build(host, plain_image(), pcf=hex(1 << 29))).start()
    host.call("dump_init", handle=guest.handle).done()
    without_cpus(guest)
    host.call("destroy_config_fast", handle=guest.handle).done()
