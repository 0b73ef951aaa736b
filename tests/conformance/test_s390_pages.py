"""Pages of a secure guest: the states and transitions of section 5.5 of the fact sheet."""

from __future__ import annotations

import pytest
from driver import Json, number
from s390_blocks import (
    MIB,
    NON_SECURE,
    NOT_MAPPED,
    NOTIFY,
    PAGE,
    PRIVILEGED,
    SECURE,
    SPECIFICATION,
    STOPPED,
    WAIT,
    Reply,
    uvcb,
)
from s390_field import Host
from s390_guest import FREE, WORK, SecureGuest, boot_guest, call_steps

SECRET = b"the guest's own words, " * 100


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest."""
    return boot_guest(host)


def export(host: Host, page: int) -> Reply:
    return host.call("convert_from", paddr=page)


def destroy(host: Host, page: int) -> Reply:
    return host.call("destroy_storage", paddr=page)


def pin(host: Host, page: int) -> Reply:
    return host.call("pin", paddr=page)


def touch(gaddr: int, write: bool = False) -> Json:
    return {"touch": hex(gaddr), "write": write}


# -- import ----------------------------------------


def test_an_imported_page_is_the_guests_and_empty(host: Host, guest: SecureGuest) -> None:
    """NORMAL becomes SECURE with its content cleared: the host cannot plant anything."""
    page = guest.back(FREE, b"planted" * 100)
    guest.convert_to(FREE).done()
    assert host.is_secure(page)
    assert guest.fetch(FREE) == bytes(PAGE)


def test_every_byte_of_a_secure_page_is_out_of_reach(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    for at, length in ((page, 1), (page + PAGE - 1, 1), (page + 5, 100), (page, PAGE)):
        load = host.fault("read", addr=hex(at), len=length)
        assert (load.code, load.page, load.write) == (SECURE, page, False)
        for op, fields in (("write", {"hex": "ff" * length}), ("fill", {"len": length, "byte": 255})):
            store = host.fault(op, addr=hex(at), **fields)
            assert (store.code, store.page, store.write) == (SECURE, page, True)
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_a_store_that_ends_in_a_secure_page_stores_nothing(host: Host, guest: SecureGuest) -> None:
    area = host.alloc(2 * PAGE)
    host.fill(area, PAGE, 0x31)
    guest.space.map(FREE, area + PAGE)
    guest.convert_to(FREE).done()
    fault = host.fault("write", addr=hex(area + PAGE - 4), hex="ff" * 8)
    assert (fault.code, fault.page) == (SECURE, area + PAGE)
    assert host.read(area, PAGE) == b"\x31" * PAGE


def test_a_secure_page_is_out_of_reach_by_every_address(host: Host, guest: SecureGuest) -> None:
    """7.6: the exception has the virtual address of the access."""
    page = guest.secure_page(FREE, SECRET)
    host.use_home()
    virtual = host.to_home(page)
    for op, fields in (("read", {"len": 8}), ("write", {"hex": "00" * 8})):
        fault = host.fault(op, addr=hex(virtual + 0x10), space="home", **fields)
        assert (fault.code, fault.page, fault.write) == (SECURE, virtual, op == "write")
        assert host.fault(op, addr=hex(page), space="real", **fields).code == SECURE


def test_import_of_a_page_that_is_not_mapped_can_be_repeated(host: Host, guest: SecureGuest) -> None:
    """3.5: 0x010A, whichever table the walk ends at."""
    guest.convert_to(MIB + FREE).refused(NOT_MAPPED)
    guest.space.page_entry(MIB + FREE)
    guest.convert_to(MIB + FREE).refused(NOT_MAPPED)
    guest.secure_page(MIB + FREE)


def test_import_of_a_page_that_is_not_writable_can_be_repeated(host: Host, guest: SecureGuest) -> None:
    """3.5: mapped *writable*."""
    page = host.page_of(0x13)
    guest.space.map(FREE, page, protect=True)
    guest.convert_to(FREE).refused(NOT_MAPPED)
    assert host.read(page) == b"\x13" * PAGE
    guest.space.map(FREE, page)
    guest.convert_to(FREE).done()


def test_import_of_a_page_that_is_secure_already_leaves_it_as_it_is(host: Host, guest: SecureGuest) -> None:
    """3.5: 0x0104 says that it is in the wanted state; early Linux takes that as success."""
    guest.secure_page(FREE, SECRET)
    assert guest.convert_to(FREE).rc in (0x0001, 0x0104)
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_import_behind_the_guests_storage_is_refused(host: Host, guest: SecureGuest) -> None:
    page = guest.back(guest.plan["len"])
    guest.convert_to(guest.plan["len"]).refused()
    assert not host.is_secure(page)


def test_import_of_donated_storage_is_refused(host: Host, guest: SecureGuest) -> None:
    for page in (guest.plan["base"], guest.plan["variable"], guest.cpus[0].storage):
        guest.space.map(FREE, page)
        guest.convert_to(FREE).refused()
        assert host.is_secure(page)


def test_import_of_another_guests_page_is_refused(host: Host, guest: SecureGuest) -> None:
    """7.8a invariant 6: a page has at most one owner."""
    page = guest.secure_page(FREE, SECRET)
    other = boot_guest(host)
    other.space.map(FREE, page)
    other.convert_to(FREE).refused()
    host.control(cr1=guest.space.asce)
    assert guest.fetch(FREE, len(SECRET)) == SECRET


# -- export ----------------------------------------


def test_an_exported_page_is_ciphertext_and_comes_back_as_it_was(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    export(host, page).done()
    ciphertext = host.read(page)
    assert ciphertext[: len(SECRET)] != SECRET
    assert b"own words" not in ciphertext
    assert len(set(ciphertext)) > 200, "this does not look like ciphertext"
    guest.convert_to(FREE).done()
    assert host.is_secure(page)
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_exported_zeroes_are_not_zero(host: Host, guest: SecureGuest) -> None:
    """7.8a invariant 7."""
    page = guest.secure_page(FREE)
    export(host, page).done()
    assert host.read(page) != bytes(PAGE)


def test_export_twice_does_nothing_the_second_time(host: Host, guest: SecureGuest) -> None:
    """3.5."""
    page = guest.secure_page(FREE, SECRET)
    export(host, page).done()
    ciphertext = host.read(page)
    export(host, page).done()
    assert host.read(page) == ciphertext
    guest.convert_to(FREE).done()
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_an_exported_page_may_move_in_the_hosts_memory(host: Host, guest: SecureGuest) -> None:
    """Swap: written out, read back into another frame."""
    page = guest.secure_page(FREE, SECRET)
    export(host, page).done()
    ciphertext = host.read(page)
    host.fill(page, PAGE, 0)
    frame = host.alloc()
    host.write(frame, ciphertext)
    guest.space.map(FREE, frame)
    guest.convert_to(FREE).done()
    assert guest.fetch(FREE, len(SECRET)) == SECRET
    assert not host.is_secure(page)


@pytest.mark.parametrize("at", [0, 1234, PAGE - 1])
def test_a_modified_ciphertext_is_not_imported(host: Host, guest: SecureGuest, at: int) -> None:
    """7.8a invariant 7: import of a modified ciphertext fails."""
    page = guest.secure_page(FREE, SECRET)
    export(host, page).done()
    ciphertext = host.read(page)
    host.write(page + at, bytes([ciphertext[at] ^ 1]))
    guest.convert_to(FREE).refused()
    assert not host.is_secure(page)
    host.write(page, ciphertext)
    guest.convert_to(FREE).done()
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_a_ciphertext_at_another_address_does_not_show_the_plaintext(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    export(host, page).done()
    ciphertext = host.read(page)
    copy = host.alloc()
    host.write(copy, ciphertext)
    guest.space.map(FREE + PAGE, copy)
    if guest.convert_to(FREE + PAGE).cc == 0:
        assert guest.fetch(FREE + PAGE, len(SECRET)) != SECRET
    guest.convert_to(FREE).done()
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_a_ciphertext_in_another_guest_does_not_show_the_plaintext(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    export(host, page).done()
    other = boot_guest(host)
    copy = host.alloc()
    host.write(copy, host.read(page))
    other.space.map(FREE, copy)
    if other.convert_to(FREE).cc == 0:
        assert other.fetch(FREE, len(SECRET)) != SECRET


@pytest.mark.parametrize("name", ["convert_from", "destroy_storage", "pin"])
def test_pages_that_are_donated_or_outside_memory_stay_what_they_are(
    host: Host, guest: SecureGuest, name: str
) -> None:
    for page in (guest.plan["base"], guest.plan["variable"], guest.cpus[0].storage):
        host.call(name, paddr=page).refused()
        assert host.is_secure(page)
    for page in (2200 * MIB, 1 << 44, (1 << 64) - PAGE):
        host.call(name, paddr=page).refused()


# -- destroy ----------------------------------------


def test_a_destroyed_page_is_the_hosts_and_zero(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    destroy(host, page).done()
    assert host.read(page) == bytes(PAGE)
    host.fill(page, PAGE, 0x99)
    fault = guest.run_fault(touch(FREE))
    assert (fault.code, fault.page) == (NON_SECURE, FREE)
    guest.convert_to(FREE).done()
    assert guest.enter().steps == [{}]
    assert guest.fetch(FREE) == bytes(PAGE)


def test_destroying_what_is_not_secure_does_nothing(host: Host, guest: SecureGuest) -> None:
    """3.5: the machine's firmware is newer than the one that answers 0x0107."""
    page = host.page_of(0x77)
    destroy(host, page).done()
    assert host.read(page) == b"\x77" * PAGE


def test_destroying_a_shared_page_takes_it_from_the_guest(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE)
    guest.share(FREE).done()
    host.write(page, b"seen by both")
    destroy(host, page).done()
    assert host.read(page) == bytes(PAGE)
    assert guest.run_fault(touch(FREE)).code == NON_SECURE


# -- share ----------------------------------------


def test_a_shared_page_is_read_and_written_by_both(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE)
    guest.share(FREE).done()
    guest.store(FREE, b"from the guest")
    assert host.read(page, 14) == b"from the guest"
    host.write(page + 0x100, b"from the host")
    assert guest.fetch(FREE + 0x100, 13) == b"from the host"
    assert host.books()["te"]["shared_pages"] == 1


def test_an_unshared_page_is_the_guests_again(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE)
    guest.share(FREE).done()
    assert not host.is_secure(page)
    guest.unshare(FREE).done()
    assert host.is_secure(page)
    guest.store(FREE, SECRET)
    assert guest.fetch(FREE, len(SECRET)) == SECRET
    assert host.books()["te"]["shared_pages"] == 0


@pytest.mark.parametrize("name", ["share", "unshare"])
def test_a_guest_shares_its_own_memory_only(host: Host, guest: SecureGuest, name: str) -> None:
    """3.5: 0x0101."""
    for gaddr in (guest.plan["len"], 1 << 44, (1 << 64) - PAGE):
        guest.uvc(uvcb(name, paddr=gaddr)).refused(0x0101)


def test_the_guest_calls_check_the_guests_state_and_operands(host: Host, guest: SecureGuest) -> None:
    """3.4 rules 1 and 2, in the guest; the interruption is the guest's own."""
    guest.secure_page(FREE)
    block = uvcb("share", paddr=FREE)
    for before, call, code in (
        ([{"cpu": {"problem_state": True}}], {}, PRIVILEGED),
        ([], {"m3": 1}, SPECIFICATION),
        ([], {"m4": 2}, SPECIFICATION),
        ([{"cpu": {"problem_state": True}}], {"m3": 1}, PRIVILEGED),
    ):
        left = guest.run(
            *call_steps(block)[:1], *before, *call_steps(block, **call)[1:], {"read": "0x8e", "len": 2}
        )
        assert left.code == WAIT
        assert number(left.steps[-3]["pgm"]) == code
        assert left.steps[-2:] == [{"hex": block.hex()}, {"hex": f"{code:04x}"}]
    assert host.is_secure(guest.space.target(FREE))


def test_a_guest_sees_calls_of_hosts_as_not_installed(host: Host, guest: SecureGuest) -> None:
    """2.0: and the reverse."""
    for name in ("init", "create_config", "destroy_config", "convert_from", "verify", "pin", "unpin"):
        guest.uvc(uvcb(name)).refused(0x0002)
        guest.uvc(uvcb(name, 8)).refused(0x0002)


def test_a_guest_sees_its_own_calls_in_the_query(host: Host, guest: SecureGuest) -> None:
    """Section 4: share and unshare tell a guest that it is one."""
    words = guest.uvc(uvcb("query")).done().field(0x10, 32)
    bits = {bit for bit in range(256) if words >> (255 - bit) & 1}
    assert {0, 8, 9} <= bits <= {0, 8, 9, 28, 29, 30, 31, 33, 34}


def test_guest_calls_check_the_length_of_their_block(host: Host, guest: SecureGuest) -> None:
    guest.uvc(uvcb("share", 0x28)).refused(0x0005)
    guest.uvc(uvcb("unshare", 0x38).ljust(0x38, b"\0")).refused(0x0005)


# -- pin ----------------------------------------


def test_a_private_page_cannot_be_pinned(host: Host, guest: SecureGuest) -> None:
    """Section 6 row 6: cc 1 if it is not shared."""
    page = guest.secure_page(FREE, SECRET)
    pin(host, page).refused()
    assert host.is_secure(page)


def test_a_pin_holds_back_an_unshare_until_it_is_taken_away(host: Host, guest: SecureGuest) -> None:
    """Section 6 row 7a: notified with the block in the SIDA; unpin; the unshare is done again."""
    page = guest.secure_page(FREE)
    guest.share(FREE).done()
    pin(host, page).done()
    assert host.books()["te"]["pins"] == 1
    block = uvcb("unshare", paddr=FREE)
    for repeat in range(3):
        left = guest.run(*call_steps(block)) if repeat == 0 else guest.enter()
        assert (left.code, left.ipa) == (NOTIFY, 0xB9A4)
        assert left.steps == ([{}] if repeat == 0 else [])
        assert host.read(guest.sida, len(block)) == block
        assert not host.is_secure(page)
    guest.unpin(FREE).done()
    left = guest.enter()
    assert left.code == WAIT
    assert left.steps[0] == {"cc": 0}
    assert bytes.fromhex(left.steps[1]["hex"])[4:6] == b"\x00\x01"
    assert host.is_secure(page)
    assert host.books()["te"]["pins"] == 0


def test_a_pinned_page_is_shared_as_before(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE)
    guest.share(FREE).done()
    pin(host, page).done()
    host.write(page, b"by the channel")
    assert guest.fetch(FREE, 14) == b"by the channel"
    guest.unpin(FREE).done()
    guest.store(FREE, b"and back again")
    assert host.read(page, 14) == b"and back again"


# -- unshare all ----------------------------------------


def test_unshare_all_takes_every_shared_page_from_the_host(host: Host, guest: SecureGuest) -> None:
    """7.8a invariant 8: afterwards no page of the guest is readable without an export."""
    pages = [guest.secure_page(FREE + place * PAGE) for place in range(3)]
    for place in range(3):
        guest.share(FREE + place * PAGE).done()
    guest.set_state(STOPPED).done()
    host.call("unshare_all", handle=guest.handle).done()
    assert all(map(host.is_secure, pages))
    assert host.books()["te"]["shared_pages"] == 0


def test_unshare_all_wants_every_cpu_stopped(host: Host) -> None:
    """2.3; the code is not known."""
    guest = boot_guest(host, cpus=2)
    page = guest.secure_page(FREE)
    guest.share(FREE).done()
    host.call("unshare_all", handle=guest.handle).refused()
    guest.set_state(STOPPED, 0).done()
    host.call("unshare_all", handle=guest.handle).refused()
    assert not host.is_secure(page)
    guest.set_state(STOPPED, 1).done()
    host.call("unshare_all", handle=guest.handle).done()
    assert host.is_secure(page)


def test_secure_pages_are_counted(host: Host, guest: SecureGuest) -> None:
    before = host.books()["secure_pages"]
    assert before == 5, "two prefix pages, one to work in, two of the image"
    pages = [guest.secure_page(FREE + place * PAGE) for place in range(4)]
    assert host.books()["secure_pages"] == before + 4
    export(host, pages[0]).done()
    destroy(host, pages[1]).done()
    assert host.books()["secure_pages"] == before + 2
    assert guest.fetch(WORK, 8) == bytes(8)
