"""The table of section 5.5, row by row: who meets what at a page in each of its states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from s390_blocks import MIB, NON_SECURE, PAGE, SECURE, VIOLATION, WAIT
from s390_field import Host
from s390_guest import FREE, SecureGuest, boot_guest

WORDS = b"seen by whom?"
OK = 0


@dataclass(frozen=True, slots=True)
class Row:
    """Exceptions by who accesses:

    the host, the owning guest, another guest, the owner elsewhere, a normal guest.
    """

    make: Callable[[SecureGuest], int]
    host: int
    owner: int
    other: tuple[int, ...]
    elsewhere: int
    normal: int


def plain(guest: SecureGuest) -> int:
    return guest.back(FREE, WORDS)


def secure(guest: SecureGuest) -> int:
    return guest.secure_page(FREE, WORDS)


def shared(guest: SecureGuest) -> int:
    page = secure(guest)
    guest.share(FREE).done()
    return page


def pinned(guest: SecureGuest) -> int:
    page = shared(guest)
    guest.host.call("pin", paddr=page).done()
    return page


def exported(guest: SecureGuest) -> int:
    page = secure(guest)
    guest.host.call("convert_from", paddr=page).done()
    return page


def destroyed(guest: SecureGuest) -> int:
    page = secure(guest)
    guest.host.call("destroy_storage", paddr=page).done()
    return page


def donated(guest: SecureGuest) -> int:
    guest.space.map(FREE, guest.plan["base"])
    return guest.plan["base"]


# "Not mapped" of the sheet for a donated page: whoever maps it all the same gets the host's exception.
# A shared page used by another guest: with the feature MISC an import moves it, so it is asked for.
ROWS = {
    "normal": Row(plain, OK, NON_SECURE, (NON_SECURE,), NON_SECURE, OK),
    "secure": Row(secure, SECURE, OK, (VIOLATION,), VIOLATION, SECURE),
    "shared": Row(shared, OK, OK, (NON_SECURE,), VIOLATION, OK),
    "pinned": Row(pinned, OK, OK, (NON_SECURE,), VIOLATION, OK),
    "exported": Row(exported, OK, NON_SECURE, (NON_SECURE, VIOLATION), NON_SECURE, OK),
    "destroyed": Row(destroyed, OK, NON_SECURE, (NON_SECURE,), NON_SECURE, OK),
    "donated": Row(donated, SECURE, SECURE, (SECURE,), SECURE, SECURE),
}

every_state = pytest.mark.parametrize("state", ROWS)
every_access = pytest.mark.parametrize("write", [False, True], ids=["load", "store"])


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest."""
    return boot_guest(host)


def of_the_guest(guest: SecureGuest, gaddr: int, write: bool) -> int:
    """The exception of the host that an access of the guest ends in, 0 if it is done."""
    guest.host.control(cr1=guest.space.asce)
    step = {"touch": hex(gaddr), "write": write}
    answer = guest.host.ask("guest", vcpu=hex(guest.sie), do=[step], replace=True)
    assert "ok" in answer
    answer = guest.host.ask("enter", vcpu=hex(guest.sie))
    if "ok" in answer:
        assert int(answer["ok"]["icptcode"], 16) == WAIT
        assert answer["ok"]["steps"] == [{}]
        return OK
    fault = answer["fault"]
    assert (int(fault["address"], 16), fault["write"], fault["steps"]) == (gaddr, write, [])
    return int(fault["code"], 16)


@every_state
def test_the_host(host: Host, guest: SecureGuest, state: str) -> None:
    page = ROWS[state].make(guest)
    assert host.is_secure(page) == (ROWS[state].host == SECURE)


@every_state
@every_access
def test_the_owning_guest(guest: SecureGuest, state: str, write: bool) -> None:
    ROWS[state].make(guest)
    assert of_the_guest(guest, FREE, write) == ROWS[state].owner


@every_state
@every_access
def test_another_guest(host: Host, guest: SecureGuest, state: str, write: bool) -> None:
    page = ROWS[state].make(guest)
    other = boot_guest(host)
    other.space.map(FREE, page)
    assert of_the_guest(other, FREE, write) in ROWS[state].other


@every_state
@every_access
def test_the_owner_at_another_address(guest: SecureGuest, state: str, write: bool) -> None:
    page = ROWS[state].make(guest)
    guest.space.map(FREE + PAGE, page)
    assert of_the_guest(guest, FREE + PAGE, write) == ROWS[state].elsewhere


@every_state
@every_access
def test_a_normal_guest_on_top(host: Host, guest: SecureGuest, state: str, write: bool) -> None:
    ROWS[state].make(guest)
    sie = host.alloc()
    host.put(sie + 0x88, 2 * MIB - 1)
    host.control(cr1=guest.space.asce)
    host.ok("guest", vcpu=hex(sie), do=[{"touch": hex(FREE), "write": write}])
    answer = host.ask("enter", vcpu=hex(sie))
    got = int(answer["fault"]["code"], 16) if "fault" in answer else OK
    assert got == ROWS[state].normal


# -- what an import makes of each state ----------------------------------------

IMPORTED = {
    "normal": bytes(len(WORDS)),
    "exported": WORDS,
    "destroyed": bytes(len(WORDS)),
    "secure": WORDS,
    "shared": WORDS,
}


@pytest.mark.parametrize("state", IMPORTED)
def test_what_the_guest_finds_after_an_import(guest: SecureGuest, state: str) -> None:
    ROWS[state].make(guest)
    guest.convert_to(FREE)
    assert guest.fetch(FREE, len(WORDS)) == IMPORTED[state]


def test_a_shared_page_changes_hands_by_an_import(host: Host, guest: SecureGuest) -> None:
    """Section 4, feature MISC: importing a page that another guest shared transfers its ownership."""
    page = shared(guest)
    other = boot_guest(host)
    other.space.map(FREE, page)
    other.convert_to(FREE).done()
    assert host.is_secure(page)
    assert other.fetch(FREE, len(WORDS)) == bytes(len(WORDS))
    assert of_the_guest(guest, FREE, False) == VIOLATION
    assert host.books()["te"]["shared_pages"] == 0
    guest.space.map(FREE, host.alloc())
    guest.convert_to(FREE).done()
    assert guest.fetch(FREE, len(WORDS)) == bytes(len(WORDS))


def test_a_pinned_page_does_not_change_hands(host: Host, guest: SecureGuest) -> None:
    page = pinned(guest)
    other = boot_guest(host)
    other.space.map(FREE, page)
    other.convert_to(FREE).refused()
    assert host.read(page, len(WORDS)) == WORDS
    assert host.books()["te"]["pins"] == 1


def test_pins_end_with_their_guest(host: Host, guest: SecureGuest) -> None:
    """Nobody could take them away afterwards (guess)."""
    page = pinned(guest)
    guest.destroy()
    assert host.books()["te"]["pins"] == 0
    assert host.read(page, len(WORDS)) == WORDS, "what was shared stays so"
    host.call("pin", paddr=page).refused()
    host.call("destroy_storage", paddr=page).done()
    assert host.read(page) == bytes(PAGE)
    assert host.books()["te"]["shared_pages"] == 0


def test_an_image_page_takes_the_place_of_what_was_exported_before(host: Host) -> None:
    """A page that was imported and exported before the image came; the image's page is the guest's now."""
    from s390_guest import IMAGE_AT, Image, text_of

    guest = SecureGuest.create(host)
    image = Image.build(host)
    guest.set_params(image.header).done()
    page = guest.secure_page(IMAGE_AT)
    host.call("convert_from", paddr=page).done()
    guest.unpack_all(image)
    guest.verify().done()
    host.call("destroy_storage", paddr=page).done()
    guest.convert_to(IMAGE_AT).done()
    guest.start()
    assert guest.fetch(IMAGE_AT) == bytes(PAGE), "a first import, as after any destruction"
    assert guest.fetch(IMAGE_AT + PAGE) == text_of(1)
