"""Configurations and CPUs of secure guests, made and destroyed: section 3.5 of the fact sheet."""

from __future__ import annotations

from typing import Any

import pytest
from s390_blocks import EXECUTED, HANDLE, MIB, NEED_DESTROY, PAGE, Reply, uvcb
from s390_field import AddressSpace, Host
from s390_guest import boot_guest

OUTSIDE = (2200 * MIB, 1 << 44, (1 << 64) - 0x100000)

outside = pytest.mark.parametrize("place", OUTSIDE, ids=hex)


def create(host: Host, **plan: int) -> Reply:
    """Issue Create Configuration and hold it to the rule of the handle."""
    pattern = 0x5EED_0000_0000_5EED
    reply = host.call("create_config", handle=pattern, **plan)
    given = reply.rc == EXECUTED or bool(reply.rc & NEED_DESTROY)
    assert given or reply.handle == pattern, f"{reply}: a handle was written"
    if reply.rc & NEED_DESTROY:
        host.call("destroy_config", handle=reply.handle).done()
    return reply


def refused(host: Host, plan: dict[str, int], rc: int | None = None, **wrong: int) -> Reply:
    """Create Configuration with one thing wrong: refused, nothing donated, and right once it is put right."""
    reply = create(host, **plan | wrong)
    assert reply.cc == 1, str(reply)
    assert reply.rc & ~NEED_DESTROY > EXECUTED
    if rc is not None:
        assert reply.rc & ~NEED_DESTROY == rc, str(reply)
    assert not any(host.is_secure(page) for page in host.donated_by(plan)), "a refused call kept storage"
    return reply


# -- create configuration ----------------------------------------


@pytest.mark.parametrize("mib", [1, 2, 3, 64])
def test_a_new_configuration_takes_every_page_that_is_donated(host: Host, mib: int) -> None:
    """2.2: sizes as the query reports them; reads and writes of every page end in 0x3D."""
    plan = host.plan_config(mib)
    pages = host.donated_by(plan)
    assert len(pages) == 16 + 2 + mib
    assert not any(map(host.is_secure, pages))
    before = host.books()["donated_pages"]
    create(host, **plan).done()
    assert all(map(host.is_secure, pages))
    around = {page + offset for page in pages for offset in (-PAGE, PAGE)} - set(pages)
    assert not any(map(host.is_secure, around | {plan["sca"]}))
    assert host.books()["donated_pages"] == before + len(pages)


def test_the_table_behind_the_asce_may_be_empty_and_the_sca_zero(host: Host) -> None:
    """7.2, the two traps: neither is looked into when the configuration is created."""
    plan = host.plan_config()
    host.fill(plan["sca"], 4 * PAGE, 0)
    create(host, **plan).done()


def test_the_type_of_the_guests_table_is_the_hosts_choice(host: Host) -> None:
    for kind in ("segment", "region"):
        create(host, **host.plan_config(asce=AddressSpace(host, kind).asce)).done()


def test_handles_tell_configurations_apart(host: Host) -> None:
    handles = {create(host, **host.plan_config()).done().handle for _ in range(4)}
    assert len(handles) == 4
    assert 0 not in handles


def test_variable_storage_is_virtual_in_the_home_space(host: Host) -> None:
    """2.1 D: scattered pages that are one piece in the home space, in reverse order in memory."""
    space = host.use_home()
    plan = host.plan_config()
    frames = [host.alloc() for _ in range(4)]
    at = 0x7000_0000_0
    for number, frame in enumerate(reversed(frames)):
        space.map(at + number * PAGE, frame)
    create(host, **plan | {"variable": at}).done()
    assert all(map(host.is_secure, frames))


def test_an_origin_above_the_largest_guest_address_is_refused(host: Host) -> None:
    limit = host.query().field(0x80)
    refused(host, host.plan_config(), 0x0101, mso=limit + MIB)


def test_an_end_above_the_largest_guest_address_is_refused(host: Host) -> None:
    limit = host.query().field(0x80)
    refused(host, host.plan_config(), 0x0102, mso=limit - MIB, len=2 * MIB)
    refused(host, host.plan_config(), 0x0102, len=limit + MIB)


@pytest.mark.parametrize("flip", [0x100, 0x20], ids=["not_private", "real_space"])
def test_an_asce_that_is_not_private_or_real_is_invalid(host: Host, flip: int) -> None:
    plan = host.plan_config()
    refused(host, plan, 0x0105, asce=plan["asce"] ^ flip)
    create(host, **plan).done()


@outside
def test_base_storage_outside_memory_is_refused(host: Host, place: int) -> None:
    refused(host, host.plan_config(), 0x0108, base=place)


def test_base_storage_that_ends_outside_memory_is_refused(host: Host) -> None:
    refused(host, host.plan_config(), 0x0108, base=2200 * MIB - 0x4000)


def test_base_storage_with_the_lowcore_of_a_cpu_is_refused(host: Host) -> None:
    refused(host, host.plan_config(), 0x0109, base=0x1000)


@pytest.mark.parametrize("cpu", [0, 1])
def test_a_lowcore_is_where_the_prefix_of_a_cpu_is(host: Host, cpu: int) -> None:
    plan = host.plan_config()
    host.cpu(cpu, prefix=hex(plan["base"] + 0x4000))
    refused(host, plan, 0x0109)
    host.cpu(cpu, prefix="0x0")
    create(host, **plan).done()


def test_an_sca_at_zero_is_refused(host: Host) -> None:
    refused(host, host.plan_config(), 0x010C, sca=0)


@outside
def test_an_sca_outside_memory_is_refused(host: Host, place: int) -> None:
    refused(host, host.plan_config(), 0x010D, sca=place)


@outside
def test_variable_storage_outside_memory_is_refused(host: Host, place: int) -> None:
    """The code is not known: [?]."""
    refused(host, host.plan_config(), variable=place)


def test_variable_storage_that_is_not_mapped_is_refused(host: Host) -> None:
    """The code is not known: [?]. No page of the mapped part is kept."""
    host.use_home()
    plan = host.plan_config()
    page = host.alloc()
    create(host, **plan | {"variable": host.to_home(page)}).refused()
    assert not host.is_secure(page)
    create(host, **plan).done()


def test_the_same_block_twice_is_refused_the_second_time(host: Host) -> None:
    """3.5: the storage is donated already; the code is not known, but is not of the generic ones."""
    plan = host.plan_config()
    handle = create(host, **plan).done().handle
    again = create(host, **plan)
    assert again.cc == 1
    assert again.rc & ~NEED_DESTROY >= 0x0100
    assert all(map(host.is_secure, host.donated_by(plan)))
    host.call("destroy_config", handle=handle).done()


def test_an_asce_serves_one_configuration(host: Host) -> None:
    """3.5: at least 0x0104, and no handle."""
    first = host.plan_config()
    create(host, **first).done()
    second = host.plan_config()
    assert refused(host, second, asce=first["asce"]).rc >= 0x0104
    create(host, **second).done()


def test_an_asce_may_be_used_again_when_its_configuration_is_gone(host: Host) -> None:
    first = host.plan_config()
    host.call("destroy_config", handle=create(host, **first).done().handle).done()
    create(host, **host.plan_config() | {"asce": first["asce"]}).done()


@pytest.mark.parametrize("field", ["base", "variable"])
@pytest.mark.parametrize("victim", ["uv_base", "base", "variable", "cpu", "secure"])
def test_storage_that_is_not_the_hosts_any_more_cannot_be_donated(raw: Host, field: str, victim: str) -> None:
    """7.4: a donated area overlaps no donated area and no secure page; the code is not known."""
    uv_base = raw.init()
    guest = boot_guest(raw)
    taken = {
        "uv_base": uv_base,
        "base": guest.plan["base"],
        "variable": guest.plan["variable"],
        "cpu": guest.cpus[0].storage,
        "secure": guest.space.target(0x10000),
    }[victim]
    plan = raw.plan_config()
    before = raw.books()["donated_pages"]
    reply = create(raw, **plan | {field: taken})
    assert reply.cc == 1 and reply.rc & ~NEED_DESTROY > EXECUTED
    assert raw.books()["donated_pages"] == before
    assert guest.fetch(0x10000, 7) == b"this is"


def test_base_and_variable_storage_are_two_areas(host: Host) -> None:
    plan = host.plan_config()
    reply = create(host, **plan | {"variable": plan["base"]})
    assert reply.cc == 1 and reply.rc & ~NEED_DESTROY > EXECUTED
    create(host, **plan).done()


def test_there_are_as_many_configurations_as_the_query_says(host: Host) -> None:
    """The code beyond is not known: [?]."""
    handles = [create(host, **host.plan_config(1)).done().handle for _ in range(8)]
    plan = host.plan_config(1)
    refused(host, plan)
    host.call("destroy_config", handle=handles[3]).done()
    create(host, **plan).done()


def test_the_first_wrong_thing_in_ascending_order_is_reported(host: Host) -> None:
    """3.4 rule 8: the working rule of the sheet, over the codes that are known."""
    plan = host.plan_config()
    limit = host.query().field(0x80)
    wrong = [
        (0x0101, {"mso": limit + MIB}),
        (0x0105, {"asce": plan["asce"] & ~0x100}),
        (0x0108, {"base": 1 << 44}),
        (0x010C, {"sca": 0}),
    ]
    for place, (rc, _) in enumerate(wrong):
        all_from_here = {name: value for _, fields in wrong[place:] for name, value in fields.items()}
        refused(host, plan, rc, **all_from_here)


def test_a_home_space_that_is_a_real_space_is_an_rc(host: Host) -> None:
    """3.3: 0x0030, for a call with a parameter that is virtual in the home space."""
    plan = host.plan_config()
    host.control(cr13=0x120)
    host.cpu(0, dat=True)
    refused(host, plan, 0x0030)
    host.cpu(0, dat=False)
    create(host, **plan).done()


# -- create CPU ----------------------------------------


def make_cpu(host: Host, **plan: int) -> Reply:
    """Issue Create CPU; on an error no handle is written."""
    pattern = 0x5EED_0000_0000_5EED
    reply = host.call("create_cpu", handle=pattern, **plan)
    assert (reply.handle != pattern) == (reply.rc == EXECUTED), str(reply)
    return reply


@pytest.fixture
def config(host: Host) -> int:
    """The handle of a configuration without CPUs."""
    return create(host, **host.plan_config()).done().handle


def test_a_new_cpu_takes_the_page_that_is_donated(host: Host, config: int) -> None:
    plan = host.plan_cpu(config)
    make_cpu(host, **plan).done()
    assert host.is_secure(plan["storage"])
    assert not host.is_secure(plan["state"])


def test_numbers_up_to_the_maximum_are_cpus(host: Host, config: int) -> None:
    handles = {make_cpu(host, **host.plan_cpu(config, num)).done().handle for num in (7, 0, 3)}
    assert len(handles) == 3 and config not in handles


@pytest.mark.parametrize("num", [8, 0xFFFF])
def test_a_number_above_the_maximum_is_refused(host: Host, config: int, num: int) -> None:
    plan = host.plan_cpu(config, num)
    make_cpu(host, **plan).refused(0x0103)
    assert not host.is_secure(plan["storage"])


def test_a_number_is_defined_once_in_a_configuration(host: Host, config: int) -> None:
    make_cpu(host, **host.plan_cpu(config, 1)).done()
    make_cpu(host, **host.plan_cpu(config, 1)).refused(0x0104)
    other = create(host, **host.plan_config()).done().handle
    make_cpu(host, **host.plan_cpu(other, 1)).done()


def test_a_number_is_free_again_when_its_cpu_is_destroyed(host: Host, config: int) -> None:
    first = make_cpu(host, **host.plan_cpu(config, 1)).done().handle
    host.call("destroy_cpu", handle=first).done()
    assert make_cpu(host, **host.plan_cpu(config, 1)).done().handle not in (0, config)


@outside
def test_cpu_storage_outside_memory_is_refused(host: Host, config: int, place: int) -> None:
    make_cpu(host, **host.plan_cpu(config, storage=place)).refused(0x0105)


def test_cpu_storage_in_a_lowcore_is_refused(host: Host, config: int) -> None:
    make_cpu(host, **host.plan_cpu(config, storage=0)).refused(0x0106)
    plan = host.plan_cpu(config)
    lowcore = host.alloc(2 * PAGE, align=2 * PAGE)
    host.cpu(1, prefix=hex(lowcore))
    make_cpu(host, **plan | {"storage": lowcore + PAGE}).refused(0x0106)
    make_cpu(host, **plan).done()


@outside
def test_an_sie_block_outside_memory_is_refused(host: Host, config: int, place: int) -> None:
    plan = host.plan_cpu(config, state=place)
    make_cpu(host, **plan).refused(0x0107)
    assert not host.is_secure(plan["storage"])


def test_cpu_storage_that_is_not_the_hosts_any_more_is_refused(host: Host, config: int) -> None:
    """7.4; the code is not known."""
    first = host.plan_cpu(config, 0)
    make_cpu(host, **first).done()
    make_cpu(host, **host.plan_cpu(config, 1, storage=first["storage"])).refused()
    guest = boot_guest(host)
    make_cpu(host, **host.plan_cpu(config, 2, storage=guest.space.target(0))).refused()
    assert guest.fetch(0x10000, 7) == b"this is"


def test_cpu_codes_are_reported_in_ascending_order(host: Host, config: int) -> None:
    """3.4 rule 8, the working rule of the sheet."""
    nowhere = 1 << 44
    make_cpu(host, config=config, num=8, storage=nowhere, state=nowhere).refused(0x0103)
    make_cpu(host, **host.plan_cpu(config, 0)).done()
    make_cpu(host, config=config, num=0, storage=nowhere, state=nowhere).refused(0x0104)
    make_cpu(host, config=config, num=1, storage=nowhere, state=nowhere).refused(0x0105)
    make_cpu(host, config=config, num=1, storage=0, state=nowhere).refused(0x0106)


# -- destroy ----------------------------------------


def test_a_destroyed_cpu_gives_its_page_back_as_zeroes(host: Host, config: int) -> None:
    plan = host.plan_cpu(config)
    handle = make_cpu(host, **plan).done().handle
    host.call("destroy_cpu", handle=handle).done()
    assert host.read(plan["storage"]) == bytes(PAGE)
    host.fill(plan["storage"], PAGE, 1)
    host.call("destroy_cpu", handle=handle).refused(0x0021)


def test_a_destroyed_configuration_gives_its_pages_back_as_zeroes(host: Host) -> None:
    plan = host.plan_config()
    pages = host.donated_by(plan)
    for page in pages:
        host.fill(page, PAGE, 0x66)
    handle = create(host, **plan).done().handle
    host.call("destroy_config", handle=handle).done()
    for page in pages:
        assert host.read(page) == bytes(PAGE)
        host.fill(page, 8, 1)
    host.call("destroy_config", handle=handle).refused(0x0020)
    assert host.books()["donated_pages"] == 0x200


def test_a_configuration_with_cpus_is_not_destroyed(host: Host) -> None:
    """2.3: a CPU must be destroyed before its configuration; the code is not known."""
    guest = boot_guest(host, cpus=2)
    host.call("destroy_config", handle=guest.handle).refused()
    host.call("destroy_cpu", handle=guest.cpus[1].handle).done()
    host.call("destroy_config", handle=guest.handle).refused()
    assert guest.fetch(0x10000, 7) == b"this is"
    host.call("destroy_cpu", handle=guest.cpus[0].handle).done()
    host.call("destroy_config", handle=guest.handle).done()


def test_the_donated_storage_of_a_guest_can_be_donated_again(host: Host) -> None:
    guest = boot_guest(host)
    guest.destroy()
    plan = guest.plan | {"asce": AddressSpace(host).asce}
    handle = create(host, **plan).done().handle
    make_cpu(host, config=handle, num=0, storage=guest.cpus[0].storage, state=guest.sie).done()


def test_pages_of_a_destroyed_guest_do_not_show_what_it_kept(host: Host) -> None:
    """Section 6 row 12: destroyed one by one afterwards, they are zero."""
    guest = boot_guest(host)
    pages = [guest.space.target(gaddr) for gaddr in (0, PAGE, 0x8000, 0x10000, 0x11000)]
    guest.destroy()
    for page in pages:
        host.call("destroy_storage", paddr=page).done()
        assert host.read(page) == bytes(PAGE)
    books = host.books()
    assert (books["te"]["configs"], books["te"]["cpus"], books["secure_pages"]) == (0, 0, 0)


def test_a_page_left_by_a_destroyed_guest_stays_secure_until_it_is_destroyed_or_exported(host: Host) -> None:
    """7.8a invariant 2: no plaintext for the host in between."""
    guest = boot_guest(host)
    page = guest.space.target(0x10000)
    guest.destroy()
    if not host.is_secure(page):
        assert b"secret kernel" not in host.read(page)
    host.call("convert_from", paddr=page)
    host.call("destroy_storage", paddr=page)
    assert b"secret kernel" not in host.read(page)


@pytest.mark.parametrize("rounds", [3])
def test_guests_may_come_and_go(s390: Any, rounds: int) -> None:
    host: Host = s390()
    host.init()
    for _ in range(rounds):
        guests = [boot_guest(host, cpus=1 + number % 2) for number in range(3)]
        for number in (1, 0, 2):
            guest = guests[number]
            resident = [guest.space.target(gaddr) for gaddr in (0, PAGE, 0x8000, 0x10000, 0x11000)]
            guest.destroy()
            for page in resident:
                host.call("destroy_storage", paddr=page).done()
    assert host.books()["donated_pages"] == 0x200
    assert host.books()["secure_pages"] == 0


def test_a_handle_field_that_is_full_on_entry_does_not_matter(host: Host) -> None:
    """The handle is an output of the create calls."""
    block = bytearray(uvcb("create_config", **host.plan_config()))
    block[HANDLE : HANDLE + 8] = b"\xff" * 8
    host.uvc(bytes(block)).done()
