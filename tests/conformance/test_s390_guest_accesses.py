"""What a guest meets when it touches its memory: section 5.5 of the fact sheet, seen from the guest."""

from __future__ import annotations

import pytest
from driver import Json
from s390_blocks import (
    GIB,
    MIB,
    NON_SECURE,
    PAGE,
    PAGE_TRANSLATION,
    REGION_THIRD,
    SECURE,
    SEGMENT,
    VIOLATION,
    WAIT,
)
from s390_field import Host
from s390_guest import FREE, IMAGE_AT, SecureGuest, boot_guest

SECRET = b"the guest's own words, " * 100


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest."""
    return boot_guest(host)


def touch(gaddr: int, write: bool = False) -> Json:
    return {"touch": hex(gaddr), "write": write}


@pytest.mark.parametrize("write", [False, True], ids=["load", "store"])
def test_a_first_touch_is_two_faults_and_then_goes_on(host: Host, guest: SecureGuest, write: bool) -> None:
    """Section 6 row 5: not mapped, then not secure; the step is done again and the program goes on."""
    steps = [{"cpu": {"gprs": {"3": 5}}}, touch(FREE + 0x123, write), {"read": hex(IMAGE_AT), "len": 7}]
    fault = guest.run_fault(*steps)
    assert (fault.code, fault.address, fault.write) == (PAGE_TRANSLATION, FREE + 0x123, write)
    assert fault.steps == [{}]
    guest.back(FREE)
    fault = guest.host.enter_fault(guest.sie)
    assert (fault.code, fault.address, fault.write) == (NON_SECURE, FREE + 0x123, write)
    assert fault.steps == []
    guest.convert_to(FREE).done()
    left = guest.enter()
    assert (left.code, left.steps) == (WAIT, [{}, {"hex": b"this is".hex()}])


def test_a_fault_is_repeated_as_long_as_nobody_acts(host: Host, guest: SecureGuest) -> None:
    guest.program(touch(FREE, True))
    for _ in range(3):
        fault = host.enter_fault(guest.sie)
        assert (fault.code, fault.page, fault.write, fault.steps) == (PAGE_TRANSLATION, FREE, True, [])


def test_an_unmapped_segment_of_the_guest_is_named_so(host: Host, guest: SecureGuest) -> None:
    fault = guest.run_fault(touch(MIB + FREE))
    assert (fault.code, fault.page) == (SEGMENT, MIB + FREE)


def test_a_guest_with_a_region_table_is_translated_by_it(host: Host) -> None:
    guest = boot_guest(host, mib=2100, kind="region")
    assert guest.fetch(IMAGE_AT, 7) == b"this is"
    far = 2 * GIB + FREE
    fault = guest.run_fault(touch(far))
    assert (fault.code, fault.page) == (REGION_THIRD, far)
    guest.space.segment_entry(far)
    fault = host.enter_fault(guest.sie)
    assert (fault.code, fault.page) == (SEGMENT, far)
    guest.secure_page(far)
    assert guest.enter().steps == [{}]
    guest.store(far, b"far away")
    assert guest.fetch(far, 8) == b"far away"


def test_a_page_that_the_host_unmaps_is_not_mapped_for_the_guest(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    guest.space.unmap(FREE)
    assert guest.run_fault(touch(FREE)).code == PAGE_TRANSLATION
    guest.space.map(FREE, page)
    assert guest.enter().steps == [{}]
    assert guest.fetch(FREE, len(SECRET)) == SECRET


@pytest.mark.parametrize("write", [False, True], ids=["load", "store"])
def test_an_exported_page_is_not_secure_for_its_guest(host: Host, guest: SecureGuest, write: bool) -> None:
    page = guest.secure_page(FREE, SECRET)
    host.call("convert_from", paddr=page).done()
    fault = guest.run_fault(touch(FREE, write), {"read": hex(FREE), "len": 8})
    assert (fault.code, fault.page, fault.write) == (NON_SECURE, FREE, write)
    guest.convert_to(FREE).done()
    assert guest.enter().steps[1] == {"hex": SECRET[:8].hex()} or write


@pytest.mark.parametrize("write", [False, True], ids=["load", "store"])
def test_another_guests_page_is_a_violation(host: Host, guest: SecureGuest, write: bool) -> None:
    """5.5: the page is secure and another's."""
    page = guest.secure_page(FREE, SECRET)
    other = boot_guest(host)
    other.space.map(FREE, page)
    fault = other.run_fault(touch(FREE, write))
    assert (fault.code, fault.page, fault.write) == (VIOLATION, FREE, write)
    host.control(cr1=guest.space.asce)
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_a_guests_own_page_at_the_wrong_address_is_a_violation(host: Host, guest: SecureGuest) -> None:
    """5.5: "or wrong gaddr"."""
    page = guest.secure_page(FREE, SECRET)
    guest.space.map(FREE + PAGE, page)
    assert guest.run_fault(touch(FREE + PAGE)).code == VIOLATION


def test_a_normal_page_cannot_be_slipped_under_a_guest(host: Host, guest: SecureGuest) -> None:
    """A frame with the host's own content in place of a secure one is not secure."""
    guest.secure_page(FREE, SECRET)
    guest.space.map(FREE, host.page_of(0xBA))
    assert guest.run_fault(touch(FREE)).code == NON_SECURE


def test_a_normal_guest_on_top_gets_no_secure_page(host: Host, guest: SecureGuest) -> None:
    """5.5, last column: 0x3D for its host."""
    guest.secure_page(FREE, SECRET)
    sie = host.alloc()
    host.put(sie + 0x88, 2 * MIB - 1)
    guest.space.map(FREE + PAGE, host.page_of(0x44))
    host.ok("guest", vcpu=hex(sie), do=[{"read": hex(FREE + PAGE), "len": 2}, touch(FREE, True)])
    fault = host.enter_fault(sie)
    assert (fault.code, fault.page, fault.write) == (SECURE, FREE, True)
    assert fault.steps == [{"hex": "4444"}]
