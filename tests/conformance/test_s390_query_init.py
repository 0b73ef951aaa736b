"""Query and Init: sections 3.5, 4 and 5.1 of the fact sheet, and the resets that end it all."""

from __future__ import annotations

from typing import Any

import pytest
from s390_blocks import (
    BITS_OF_A_HOST,
    EXECUTED,
    GIB,
    HOST_CALLS,
    INV_CMD,
    INV_LEN,
    INV_STATE,
    LATER_CALLS,
    MIB,
    MORE_DATA,
    PAGE,
    Reply,
    uvcb,
)
from s390_field import Host
from s390_guest import SecureGuest, boot_guest

RESETS = ["modified-clear", "load-normal", "load-clear"]
any_reset = pytest.mark.parametrize("kind", RESETS)

# field: (offset, width, small, full); section 4 and the profiles of the console.
FIELDS: dict[str, tuple[int, int, int, int]] = {
    "uv_base_stor_len": (0x40, 8, 0x200000, 0x6200000),
    "conf_base_phys_stor_len": (0x50, 8, 0x10000, 0x100000),
    "conf_base_virt_stor_len": (0x58, 8, 0x2000, 0x2000),
    "conf_virt_var_stor_len": (0x60, 8, 0x1000, 0x1000),
    "cpu_stor_len": (0x68, 8, 0x1000, 0x1000),
    "max_num_sec_conf": (0x7C, 4, 8, 8388607),
    "max_guest_cpu_id": (0x9E, 2, 7, 256),
    "supp_se_hdr_versions": (0xB0, 8, 1 << 63, 1 << 63),
    "supp_se_hdr_pcf": (0xB8, 8, 0x300050E3, 0x300050E3),
    "conf_dump_storage_state_len": (0xC8, 8, 0x1000, 0x1000),
    "conf_dump_finalize_len": (0xD0, 8, 0x1000, 0x1000),
    "supp_att_req_hdr_ver": (0xE0, 8, 0, 0),
    "supp_att_pflags": (0xE8, 8, 0, 0),
    "supp_add_secret_req_ver": (0xF8, 8, 0, 0),
    "supp_add_secret_pcf": (0x100, 8, 0, 0),
    "supp_secret_types": (0x108, 8, 0, 0),
    "max_assoc_secrets": (0x110, 2, 0, 0),
    "max_retr_secrets": (0x112, 2, 0, 0),
}


# -- query ----------------------------------------


@pytest.mark.parametrize("length", [8, 0x40, 0xA0], ids=hex)
def test_a_query_shorter_than_the_minimum_has_the_wrong_length(raw: Host, length: int) -> None:
    raw.query(length).refused(INV_LEN)


@pytest.mark.parametrize("length", [0xA8, 0xC8, 0x100], ids=hex)
def test_a_query_that_knows_less_gets_what_it_has_room_for(raw: Host, length: int) -> None:
    """3.3: more data exists, and the data up to the length is valid."""
    whole = raw.query().done()
    block = bytearray(uvcb("query", length))
    block[length:] = b"\xee" * (0x120 - length)
    part = raw.uvc(bytes(block)).refused(MORE_DATA)
    assert part.block[8:length] == whole.block[8:length]
    assert part.block[length:] == block[length:], "nothing is stored behind the length"


@pytest.mark.parametrize("length", [0x120, 0x130], ids=hex)
def test_a_query_that_has_room_for_everything_is_executed(raw: Host, length: int) -> None:
    block = uvcb("query", length).ljust(length, b"\0")
    reply = raw.uvc(block).done()
    assert reply.block[8:0x120] == raw.query().block[8:]
    assert reply.block[0x120:] == bytes(length - 0x120)


@pytest.mark.parametrize("profile", ["small", "full"])
def test_a_query_reports_the_profile(s390: Any, profile: str) -> None:
    answer = s390(profile=profile).query()
    reported = {name: answer.field(offset, width) for name, (offset, width, _, _) in FIELDS.items()}
    assert reported == {
        name: small if profile == "small" else full for name, (_, _, small, full) in FIELDS.items()
    }
    told = {byte for offset, width, _, _ in FIELDS.values() for byte in range(offset, offset + width)}
    told |= {*range(0x10, 0x30), *range(0x80, 0x88), *range(0xA0, 0xA8)}
    rest = [byte for byte in range(8, 0x120) if byte not in told]
    assert not any(answer.block[byte] for byte in rest), "what is reserved is zero"


def test_a_query_answers_the_same_before_and_after_init(raw: Host) -> None:
    before = raw.query().done()
    raw.init()
    assert raw.query().done().block == before.block


def test_a_query_reports_the_calls_that_are_installed(raw: Host) -> None:
    """Section 4: a bit for every call that does not answer "not installed", and none of the guest's."""
    bits = raw.installed()
    assert bits <= set(BITS_OF_A_HOST)
    assert bits >= {call.bit for call in HOST_CALLS}
    for call in HOST_CALLS + LATER_CALLS:
        assert (raw.uvc(uvcb(call.name)).rc == INV_CMD) == (call.bit not in bits), call.name


def test_a_query_reports_every_call_of_the_contract(raw: Host) -> None:
    """console/s390.md: host bits 0-7, 11-27 and 34."""
    assert raw.installed() == set(BITS_OF_A_HOST)


def test_features_that_reach_through_to_hardware_are_fenced(raw: Host) -> None:
    """Section 4 and the one list of differences: bits 1, 4 and 5 are zero for a guest host."""
    want = 0xFC00_0000_0000_0000 if raw.depth == 0 else 0xB000_0000_0000_0000
    assert raw.query().field(0xA0) == want


@pytest.mark.parametrize("profile", ["small", "full"])
def test_the_largest_guest_address_fits_the_host(s390: Any, profile: str) -> None:
    """The one list of differences: for a guest host at most its own memory."""
    host = s390(profile=profile)
    full = 0x400000000 if profile == "small" else 0x800000000000
    limit = host.query().field(0x80)
    if host.depth == 0:
        assert limit == full
    else:
        assert 0 < limit <= min(full, int(host.ok("info")["memory"]))


# -- init ----------------------------------------


def init(host: Host, origin: int, length: int = 0x200000) -> Reply:
    return host.call("init", origin=origin, len=length)


def storage(host: Host) -> int:
    """A place that Init accepts."""
    return host.alloc(0x200000, align=MIB, above=2 * GIB)


def test_init_makes_the_ultravisor_ready(raw: Host) -> None:
    init(raw, storage(raw)).done()
    raw.call("verify", handle=0).refused(0x0020)


def test_init_takes_every_page_of_its_storage_and_no_other(raw: Host) -> None:
    """2.2: both a read and a write of every page end in 0x3D."""
    origin = storage(raw)
    assert not raw.is_secure(origin)
    init(raw, origin).done()
    assert all(raw.is_secure(origin + offset) for offset in range(0, 0x200000, PAGE))
    assert not raw.is_secure(origin - PAGE)
    assert not raw.is_secure(origin + 0x200000)
    assert raw.books()["donated_pages"] == 0x200


@pytest.mark.parametrize("length", [0, 8, 0x200000 - 8, 0x200000 - PAGE, 0x200000 + PAGE, 0x400000], ids=hex)
def test_init_wants_exactly_the_length_that_the_query_reports(raw: Host, length: int) -> None:
    origin = raw.alloc(0x400000, align=MIB, above=2 * GIB)
    init(raw, origin, length).refused(0x0103)
    assert not raw.is_secure(origin)
    init(raw, origin).done()


def test_init_masks_its_origin_to_a_mib_and_its_length_to_a_page(raw: Host) -> None:
    """2.2."""
    origin = storage(raw)
    init(raw, origin + 0x1238, 0x200000 + 0x7F8).done()
    assert raw.is_secure(origin)
    assert raw.is_secure(origin + 0x1FF000)
    assert not raw.is_secure(origin + 0x200000)


@pytest.mark.parametrize("origin", [2200 * MIB, 4 * GIB, 1 << 50, (1 << 64) - MIB], ids=hex)
def test_init_refuses_storage_outside_memory(raw: Host, origin: int) -> None:
    """3.5: the tests that this stands on accept either code."""
    assert init(raw, origin).refused().rc in (0x0104, 0x0105)


def test_init_refuses_storage_that_ends_outside_memory(raw: Host) -> None:
    init(raw, 2199 * MIB).refused(0x0105)
    assert not raw.is_secure(2199 * MIB)


@pytest.mark.parametrize("origin", [MIB, GIB, 2 * GIB - 0x200000], ids=hex)
def test_init_refuses_storage_below_2_gib(raw: Host, origin: int) -> None:
    init(raw, origin).refused(0x0108)
    assert not raw.is_secure(origin)


def test_init_refuses_while_another_cpu_runs(raw: Host) -> None:
    origin = storage(raw)
    raw.cpu(2, running=True)
    init(raw, origin).refused(0x0102)
    raw.cpu(2, running=False)
    init(raw, origin).done()


def test_any_cpu_may_initialise_if_it_is_the_only_one(raw: Host) -> None:
    raw.cpu(1, running=True)
    raw.cpu(0, running=False)
    raw.call("init", 1, origin=storage(raw), len=0x200000).done()


def test_init_refuses_a_second_time(host: Host) -> None:
    again = storage(host)
    init(host, again).refused(0x0101)
    assert not host.is_secure(again)


def test_init_says_that_it_was_done_before_anything_else_of_its_own(host: Host) -> None:
    """3.4 rule 8: ascending codes, the working rule of the sheet."""
    host.cpu(1, running=True)
    init(host, 0, 5).refused(0x0101)


def test_init_counts_cpus_before_it_looks_at_the_storage(raw: Host) -> None:
    """3.4 rule 8, the working rule of the sheet."""
    raw.cpu(1, running=True)
    init(raw, 0, 5).refused(0x0102)


def test_init_looks_at_the_length_before_the_place(raw: Host) -> None:
    """3.4 rule 8, the working rule of the sheet."""
    init(raw, 4 * GIB, 8).refused(0x0103)
    init(raw, MIB, 8).refused(0x0103)


def test_a_refused_init_leaves_the_ultravisor_uninitialised(raw: Host) -> None:
    init(raw, MIB).refused(0x0108)
    raw.call("verify").refused(INV_STATE)
    assert raw.books()["donated_pages"] == 0


# -- the way back ----------------------------------------


@any_reset
def test_a_reset_gives_donated_storage_back_as_zeroes(raw: Host, kind: str) -> None:
    """5.1: there is no de-initialise call."""
    origin = raw.init()
    guest = boot_guest(raw)
    pages = [origin + offset for offset in range(0, 0x200000, PAGE)] + guest.donated()
    pages += [guest.space.target(gaddr) for gaddr in (0, PAGE, 0x10000)]
    assert all(raw.is_secure(page) for page in pages)
    raw.reset(kind)
    for page in pages:
        assert raw.read(page) == bytes(PAGE)
        raw.fill(page, PAGE, 0xAB)


@any_reset
def test_after_a_reset_the_ultravisor_is_uninitialised_and_can_be_initialised(raw: Host, kind: str) -> None:
    origin = raw.init()
    before = raw.query().done()
    boot_guest(raw)
    raw.reset(kind)
    for call in HOST_CALLS:
        if call.needs_init:
            raw.uvc(uvcb(call.name)).refused(INV_STATE)
    assert raw.query().done().block == before.block
    init(raw, origin).done()
    assert raw.is_secure(origin)
    boot_guest(raw)


@any_reset
def test_a_reset_ends_every_secure_entity(host: Host, kind: str) -> None:
    guest = boot_guest(host, cpus=2)
    host.reset(kind)
    books = host.books()
    assert (books["te"]["configs"], books["te"]["cpus"], books["te"]["pins"]) == (0, 0, 0)
    assert (books["donated_pages"], books["secure_pages"]) == (0, 0)
    host.init()
    host.call("verify", handle=guest.handle).refused(0x0020)
    host.call("set_state", handle=guest.cpus[1].handle, state=1).refused(0x0021)


@any_reset
def test_after_a_reset_the_cpus_are_as_at_start(host: Host, kind: str) -> None:
    host.use_home()
    host.cpu(1, running=True, problem_state=True, prefix="0x4000", cr={"1": "0x103", "7": "0x7"})
    host.reset(kind)
    for cpu in range(3):
        settings = host.cpu(cpu)
        assert settings.pop("running") is (cpu == 0)
        zero = {"1": "0x0", "7": "0x0", "13": "0x0"}
        assert settings == {"problem_state": False, "dat": False, "prefix": "0x0", "cr": zero}


@pytest.mark.parametrize(("kind", "kept"), list(zip(RESETS, [True, True, False], strict=True)), ids=RESETS)
def test_only_the_clearing_reset_zeroes_what_was_the_hosts_own(host: Host, kind: str, kept: bool) -> None:
    page = host.page_of(0x42)
    host.reset(kind)
    assert host.read(page) == (b"\x42" * PAGE if kept else bytes(PAGE))


def test_a_killed_host_comes_back_empty(host: Host) -> None:
    guest = boot_guest(host)
    page = host.page_of(0x42)
    secret = guest.space.target(0x10000)
    assert host.ok("kill") == {}
    host.forget()
    assert host.read(page) == bytes(PAGE)
    assert host.read(secret) == bytes(PAGE)
    books = host.books()
    assert (books["te"]["configs"], books["te"]["cpus"], books["donated_pages"]) == (0, 0, 0)
    host.call("verify").refused(INV_STATE)
    host.init()
    boot_guest(host)


@pytest.mark.parametrize("end", [*RESETS, "kill"])
def test_a_host_may_end_at_any_point_of_a_guests_life(raw: Host, end: str) -> None:
    """7.8: a sudden end needs no help from the host, whatever it was doing."""
    for stage in range(6):
        raw.init()
        guest = SecureGuest.create(raw, cpus=stage % 3) if stage < 5 else boot_guest(raw)
        if stage == 3:
            raw.call("destroy_cpu", handle=guest.add_cpu(5).handle).done()
        if stage == 4:
            guest.secure_page(0x20000)
            raw.call("convert_from", paddr=guest.space.target(0x20000)).done()
        if end == "kill":
            raw.ok("kill")
            raw.forget()
        else:
            raw.reset(end)
        assert raw.audit()["leaks"] == []
        assert raw.books()["te"]["configs"] == 0


def test_every_call_is_executed_or_says_why(raw: Host) -> None:
    """3.3: rc 0 is never an answer."""
    for call in HOST_CALLS:
        reply = raw.uvc(uvcb(call.name))
        assert (
            (reply.cc, reply.rc) == (0, EXECUTED) if call.name == "query" else reply.rc not in (0, EXECUTED)
        )
