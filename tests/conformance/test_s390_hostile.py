"""A host that means harm, at every depth: it gets an answer, nothing that is not its own, and no other host.

Seven kinds of harm: handles of others, control blocks changed under a call, tables edited between a fault and
its retry, donations that overlap or lie crooked, pages replayed, blocks across the end of what there is, and
every extreme of 64 bits in every field that holds an address. After each test the books have to agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from driver import Json
from s390_blocks import (
    ADDRESSING,
    GIB,
    LAYOUT,
    MIB,
    NON_SECURE,
    NOT_MAPPED,
    PAGE,
    PAGE_TRANSLATION,
    SECURE,
    SPECIFICATION,
    STOPPED,
    VALIDITY,
    VIOLATION,
    Call,
    uvcb,
)
from s390_field import AddressSpace, Host
from s390_guest import FREE, IMAGE_AT, WORK, Image, SecureGuest, boot_guest, call_steps
from s390_table import ALL_CALLS
from s390_violations import SCENES, Scene
from test_s390_same_at_every_depth import same_at_every_depth

SECRET = b"known to the guest alone"
RAM_END = 2200 * MIB
MAX_STORAGE = 16 * GIB  # of the profile; a guest host has no more than its memory
with_handle = pytest.mark.parametrize("call", [call for call in ALL_CALLS if call.handle], ids=str)


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    host.cpu(1, running=True)
    return boot_guest(host)


def books(host: Host) -> Json:
    return {key: value for key, value in host.books().items() if key != "tracked"}


@contextmanager
def unchanged(host: Host) -> Iterator[None]:
    """Whatever is tried, the Ultravisor knows afterwards what it knew before."""
    before = books(host)
    yield
    assert books(host) == before


# -- handles of others ----------------------------------------


@with_handle
def test_a_siblings_handle_does_nothing_to_the_sibling(s390: Callable[..., Host], call: Call) -> None:
    """All calls with a handle: the code of an unknown one, whatever else is right or wrong in the block."""
    mine = s390(hosts=2)
    theirs = mine.sibling(1)
    mine.init()
    theirs.init()
    guest = boot_guest(theirs)
    foreign = guest.handle if call.handle == "config" else guest.cpus[0].handle
    answers = set()
    with unchanged(theirs), unchanged(mine):
        for handle in (foreign, foreign ^ 1, 0, (1 << 64) - 1, guest.sie):
            block = bytearray(uvcb(call.name if call.name in LAYOUT else "verify").ljust(call.length, b"\0"))
            block[:4] = call.length.to_bytes(2, "big") + call.code.to_bytes(2, "big")
            block[call.handle_at : call.handle_at + 8] = handle.to_bytes(8, "big")
            reply = mine.uvc(bytes(block[: call.length]))
            answers.add((reply.cc, reply.rc, reply.rrc))
    assert answers == {(1, call.unknown, 0)}
    guest.store(FREE - PAGE + 8, b"") if guest.space.maps(FREE - PAGE) else None
    assert guest.fetch(WORK, 8) is not None, "the sibling's guest runs on"


def test_a_handle_of_the_wrong_kind_is_unknown(host: Host, guest: SecureGuest) -> None:
    with unchanged(host):
        host.call("destroy_cpu", handle=guest.handle).refused(0x0021)
        host.call("destroy_config", handle=guest.cpus[0].handle).refused(0x0020)
        host.call("set_params", handle=guest.cpus[0].handle).refused(0x0020)
        host.call("set_state", handle=guest.handle, state=STOPPED).refused(0x0021)


def test_a_handle_is_not_known_any_more_after_its_end(host: Host, guest: SecureGuest) -> None:
    config, cpu = guest.handle, guest.cpus[0].handle
    guest.destroy()
    other = SecureGuest.create(host)
    assert config not in (other.handle, other.cpus[0].handle), "handles are not used again"
    with unchanged(host):
        for call in ALL_CALLS:
            if call.handle:
                handle = config if call.handle == "config" else cpu
                block = bytearray(call.length)
                block[:4] = call.length.to_bytes(2, "big") + call.code.to_bytes(2, "big")
                block[call.handle_at : call.handle_at + 8] = handle.to_bytes(8, "big")
                host.uvc(bytes(block)).refused(call.unknown)


@pytest.mark.parametrize("which", ["config", "cpu"])
def test_a_siblings_handles_in_a_sie_block_are_refused(s390: Callable[..., Host], which: str) -> None:
    mine = s390(hosts=2)
    theirs = mine.sibling(1)
    mine.init()
    theirs.init()
    own, foreign = boot_guest(mine), boot_guest(theirs)
    at, value = (0x18, foreign.handle) if which == "config" else (0x10, foreign.cpus[0].handle)
    kept = mine.get(own.sie + at)
    mine.put(own.sie + at, value)
    left = own.enter()
    assert left.code == VALIDITY and left.reason >> 8 == 0x20
    mine.put(own.sie + at, kept)
    assert own.enter().code == 0x1C


# -- control blocks changed under a call ----------------------------------------


@pytest.mark.parametrize("what", ["handle", "gaddr", "code", "length", "everything"])
def test_a_block_is_read_once(host: Host, guest: SecureGuest, what: str) -> None:
    """Another CPU rewrites the block while the call is under way: what was asked first is done."""
    other = SecureGuest.create(host)
    wanted, decoy = FREE, FREE + PAGE
    guest.back(wanted)
    guest.back(decoy)
    at = host.alloc()
    block = uvcb("convert_to", handle=guest.handle, gaddr=wanted)
    changed = {
        "handle": uvcb("convert_to", handle=other.handle, gaddr=wanted),
        "gaddr": uvcb("convert_to", handle=guest.handle, gaddr=decoy),
        "code": uvcb("destroy_config", handle=guest.handle)[: len(block)],
        "length": (0xFFFF).to_bytes(2, "big") + block[2:],
        "everything": b"\xff" * len(block),
    }[what]
    parked = host.park(block, 1, at)
    host.write(at, changed)
    host.resume(parked, at, len(block)).done()
    assert host.is_secure(guest.space.target(wanted))
    assert not host.is_secure(guest.space.target(decoy))
    after = host.read(at, len(block))
    assert after[:4] + after[8:] == changed[:4] + changed[8:], "nothing but the answer was stored"


def test_what_a_call_hands_out_goes_where_the_block_was(host: Host) -> None:
    """A handle is stored into the block that the call was issued with, whatever is there by now."""
    host.cpu(1, running=True)
    at = host.alloc()
    plan = host.plan_config()
    parked = host.park(uvcb("create_config", **plan), 1, at)
    host.fill(at, 0x80, 0xEE)
    reply = host.resume(parked, at, 0x80).done()
    assert reply.block[8:0x18] == b"\xee" * 16 and reply.block[0x20:] == b"\xee" * 0x60
    host.call("destroy_config", handle=reply.handle).done()


def test_a_block_that_is_donated_meanwhile_stops_its_call_with_an_exception(
    host: Host, guest: SecureGuest
) -> None:
    """The answer cannot be stored; nothing of the host's is shown, and nothing is lost."""
    storage = host.alloc()
    parked = host.park(uvcb("convert_to", handle=guest.handle, gaddr=FREE), 1, storage)
    other = SecureGuest.create(host, cpus=0)
    plan = host.plan_cpu(other.handle, 0, storage=storage)
    host.call("create_cpu", **plan).done()
    fault = host.fault("resume", call=parked)
    assert (fault.code, fault.page) == (SECURE, storage)
    assert host.is_secure(storage)


def test_a_header_is_judged_as_it_was_read(host: Host) -> None:
    """Set Parameters is parked; what it refuses or takes later is the header in memory then, whole."""
    host.cpu(1, running=True)
    guest = SecureGuest.create(host)
    image = Image.build(host)
    where, at = host.alloc(), host.alloc()
    host.write(where, image.header)
    block = uvcb("set_params", handle=guest.handle, header=where, header_len=len(image.header))
    parked = host.park(block, 1, at)
    host.write(where, b"\0" * len(image.header))
    host.resume(parked, at, len(block)).refused(0x0104)
    guest.set_params(image.header).done()


# -- tables edited between a fault and its retry ----------------------------------------


def test_another_frame_is_mapped_between_the_fault_and_the_import(host: Host, guest: SecureGuest) -> None:
    first = guest.back(FREE, SECRET)
    assert guest.run_fault({"touch": hex(FREE), "write": True, "value": SECRET.hex()}).code == NON_SECURE
    second = host.page_of(0x55)
    guest.space.map(FREE, second)
    guest.convert_to(FREE).done()
    assert guest.enter().steps == [{}]
    assert host.is_secure(second) and not host.is_secure(first)
    assert host.read(first, len(SECRET)) == SECRET, "the frame that is not mapped any more is the host's"
    assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_the_page_is_taken_away_between_the_import_and_the_retry(host: Host, guest: SecureGuest) -> None:
    guest.secure_page(FREE, SECRET)
    page = guest.space.target(FREE)
    guest.space.unmap(FREE)
    fault = guest.run_fault({"read": hex(FREE), "len": len(SECRET)})
    assert (fault.code, fault.page) == (PAGE_TRANSLATION, FREE)
    assert host.is_secure(page), "it is the guest's although nobody maps it"
    guest.convert_to(FREE).refused(NOT_MAPPED)
    guest.space.map(FREE, page)
    assert bytes.fromhex(guest.enter().steps[0]["hex"]) == SECRET


@pytest.mark.parametrize("frame", ["plain", "own page", "another guest's", "donated", "table", "nowhere"])
def test_an_entry_that_leads_elsewhere_shows_nothing(host: Host, guest: SecureGuest, frame: str) -> None:
    """The host maps something else where the guest has a page: an exception, and never its contents."""
    guest.secure_page(FREE, SECRET)
    guest.secure_page(FREE + PAGE, b"another page")
    other = boot_guest(host)
    host.control(cr1=guest.plan["asce"])
    page = guest.space.target(FREE)
    there, wanted = {
        "plain": (host.page_of(0x66), NON_SECURE),
        "own page": (guest.space.target(FREE + PAGE), VIOLATION),
        "another guest's": (other.space.target(IMAGE_AT), VIOLATION),
        "donated": (guest.plan["base"], SECURE),
        "table": (guest.space.page_entry(FREE) & ~(PAGE - 1), NON_SECURE),
        "nowhere": (RAM_END, ADDRESSING),
    }[frame]
    guest.space.map(FREE, there)
    assert guest.run_fault({"read": hex(FREE), "len": 16}).code == wanted
    assert guest.run_fault({"touch": hex(FREE), "write": True, "value": "ff"}).code == wanted
    with unchanged(host):
        guest.convert_to(FREE).refused()
    guest.space.map(FREE, page)
    left = guest.enter()
    assert bytes.fromhex(left.steps[0]["hex"]) == SECRET[:16]
    assert host.is_secure(page)


def test_two_addresses_of_a_guest_cannot_share_a_frame(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    guest.space.map(FREE + PAGE, page)
    guest.convert_to(FREE + PAGE).refused(0x0103)
    assert guest.run_fault({"read": hex(FREE + PAGE), "len": 8}).code == VIOLATION
    guest.space.unmap(FREE + PAGE)
    guest.program({"read": hex(FREE), "len": 8})
    host.ok("guest", vcpu=hex(guest.sie), do=[{"read": hex(FREE), "len": 8}], replace=True)
    assert bytes.fromhex(guest.enter().steps[-1]["hex"]) == SECRET[:8]


def test_a_table_that_points_at_itself_ends() -> None:
    """Page tables that are their own tables, or outside of memory: an answer each, no loop, the same one."""

    def script(host: Host) -> None:
        host.init()
        guest = boot_guest(host)
        entry = guest.space.segment_entry(FREE)
        kept = host.get(entry)
        for table in (guest.space.top, entry & ~0x7FF, RAM_END, (1 << 64) - PAGE):
            host.put(entry, table)
            guest.convert_to(FREE)
            guest.convert_to(MIB)
            guest.unpin(FREE)
            host.ok("guest", vcpu=hex(guest.sie), do=[{"touch": hex(FREE), "write": True}], replace=True)
            host.ask("enter", vcpu=hex(guest.sie))
        host.put(entry, kept)
        host.ok("guest", vcpu=hex(guest.sie), do=[{"read": hex(WORK), "len": 8}], replace=True)
        assert guest.enter().steps == [{"hex": "00" * 8}]
        host.audit()

    same_at_every_depth(script)


# -- donations that overlap or lie crooked ----------------------------------------


def test_a_donation_never_overlaps_another(host: Host, guest: SecureGuest) -> None:
    """Each area against what is donated already: by its first page, its last one, across its begin."""
    donated = guest.donated()
    plan, cpu = host.plan_config(), host.plan_cpu(guest.handle, 1)
    with unchanged(host):
        for page in {min(donated), max(donated), guest.plan["base"], guest.cpus[0].storage}:
            host.call("create_config", **plan | {"base": page}).refused(0x0108)
            host.call("create_config", **plan | {"base": page - PAGE}).refused()
            host.call("create_config", **plan | {"variable": page}).refused(0x010A)
            host.call("create_cpu", **cpu | {"storage": page}).refused(0x0105)
            host.call("create_config", **plan | {"sca": page}).refused(0x010D)
            host.call("create_cpu", **cpu | {"state": page}).refused(0x0107)
    host.call("create_cpu", **cpu).done()


def test_the_areas_of_one_call_do_not_overlap_each_other(host: Host) -> None:
    plan = host.plan_config()
    with unchanged(host):
        for offset in (0, PAGE, 15 * PAGE):
            host.call("create_config", **plan | {"variable": plan["base"] + offset}).refused(0x010A)
        host.call("create_config", **plan | {"base": plan["variable"] - 15 * PAGE}).refused()
    config = host.call("create_config", **plan).done().handle
    host.call("destroy_config", handle=config).done()


def test_what_a_guest_owns_is_not_donated(host: Host, guest: SecureGuest) -> None:
    page = guest.secure_page(FREE, SECRET)
    plan = host.plan_config()
    with unchanged(host):
        host.call("create_config", **plan | {"base": page}).refused(0x0108)
        host.call("create_config", **plan | {"base": page - 15 * PAGE}).refused()
        host.call("create_config", **plan | {"variable": page}).refused(0x010A)
        host.call("create_cpu", **host.plan_cpu(guest.handle, 1, storage=page)).refused(0x0105)
    assert guest.fetch(FREE, len(SECRET)) == SECRET


@pytest.mark.parametrize("odd", [1, 7, 0x800, PAGE - 1], ids=hex)
def test_crooked_origins_donate_whole_pages_and_give_them_back(host: Host, odd: int) -> None:
    """3.4: alignment is not checked, if at all. Whatever is taken is whole pages, counted, and comes back."""
    plan = host.plan_config()
    before = books(host)
    reply = host.call(
        "create_config", **plan | {"base": plan["base"] + odd, "variable": plan["variable"] + odd}
    ).done()
    taken = books(host)["donated_pages"] - before["donated_pages"]
    assert taken == len(host.donated_by(plan))
    assert all(host.is_secure(page) for page in host.donated_by(plan))
    host.call("destroy_config", handle=reply.handle).done()
    assert books(host) == before
    assert all(host.read(page) == bytes(PAGE) for page in host.donated_by(plan))


def test_a_lowcore_is_never_donated(host: Host, guest: SecureGuest) -> None:
    """Of any CPU of the host, stopped ones too, by any page of an area."""
    lowcore = host.alloc(32 * PAGE, align=32 * PAGE) + 16 * PAGE
    host.cpu(2, prefix=hex(lowcore))
    plan = host.plan_config()
    with unchanged(host):
        for base in (lowcore, lowcore + PAGE, lowcore - 15 * PAGE):
            host.call("create_config", **plan | {"base": base}).refused(0x0109)
        for storage in (lowcore, lowcore + PAGE):
            host.call("create_cpu", **host.plan_cpu(guest.handle, 1, storage=storage)).refused(0x0106)
    host.cpu(2, prefix="0x0")
    host.call("create_config", **plan | {"base": lowcore - 15 * PAGE}).done()


def test_the_table_of_a_guest_may_be_donated_and_then_maps_nothing(host: Host) -> None:
    """The host pulls the table from under its guest: exceptions for the guest, no access for the host."""
    guest = boot_guest(host)
    guest.secure_page(FREE, SECRET)
    table = guest.space.page_entry(FREE) & ~(PAGE - 1)
    other = SecureGuest.create(host, cpus=0)
    host.call("create_cpu", **host.plan_cpu(other.handle, 0, storage=table)).done()
    assert host.is_secure(table)
    guest.convert_to(FREE).refused()
    guest.program({"read": hex(FREE), "len": 8})
    assert "ok" not in host.ask("enter", vcpu=hex(guest.sie)) or guest.enter().code in (VALIDITY, 0x70)


@pytest.mark.parametrize("at_home", [False, True], ids=["real", "home"])
def test_a_block_is_not_donated_by_its_own_call(host: Host, guest: SecureGuest, at_home: bool) -> None:
    """The answer could not be stored, and a handle would be lost: refused, nothing is done (a guess)."""
    plan, cpu = host.plan_config(), host.plan_cpu(guest.handle, 1)
    if at_home:
        host.use_home()
        plan["variable"] = host.to_home(plan["variable"], 4 * PAGE)
    mine = host.block_page()[0]
    with unchanged(host):
        host.call("create_config", **plan | {"base": mine}).refused(0x0108)
        host.call("create_config", **plan | {"base": mine - 15 * PAGE}).refused()
        host.call("create_cpu", **cpu | {"storage": mine}).refused(0x0105)
        variable = host.to_home(mine, 4 * PAGE) if at_home else mine - PAGE
        host.call("create_config", **plan | {"variable": variable}).refused(0x010A)
    host.call("create_cpu", **cpu).done()


# -- pages replayed ----------------------------------------


def exported(host: Host, guest: SecureGuest, gaddr: int, content: bytes) -> bytes:
    """The ciphertext of a page with `content`; the page is outside now."""
    page = guest.secure_page(gaddr)
    guest.store(gaddr, content)
    host.call("convert_from", paddr=page).done()
    return host.read(page)


def test_an_older_copy_of_a_page_is_not_imported(host: Host, guest: SecureGuest) -> None:
    """Each export is of a generation of its own; the newest alone comes back."""
    copies = []
    for round_ in range(4):
        content = b"balance: %d" % round_
        copies.append(exported(host, guest, FREE, content))
        if round_ < 3:
            guest.convert_to(FREE).done()
            host.call("destroy_storage", paddr=guest.space.target(FREE)).done()
    assert len(set(copies)) == len(copies)
    page = guest.space.target(FREE)
    for old in copies[:-1]:
        host.write(page, old)
        guest.convert_to(FREE).refused(0x0106)
        assert host.read(page) == old
    host.write(page, copies[-1])
    guest.convert_to(FREE).done()
    assert guest.fetch(FREE, 10) == b"balance: 3"


def test_the_same_content_never_has_the_same_ciphertext(host: Host, guest: SecureGuest) -> None:
    seen = {exported(host, guest, FREE + n * PAGE, SECRET) for n in range(3)}
    for _ in range(3):
        guest.convert_to(FREE).done()
        host.call("convert_from", paddr=guest.space.target(FREE)).done()
        seen.add(host.read(guest.space.target(FREE)))
    assert len(seen) == 6


@pytest.mark.parametrize("where", ["another address", "another guest", "a page of the image"])
def test_a_page_is_not_imported_elsewhere(host: Host, guest: SecureGuest, where: str) -> None:
    """What was exported for one address of one guest is nothing anywhere else: never the plaintext."""
    cipher = exported(host, guest, FREE, SECRET)
    target, gaddr = guest, FREE + PAGE
    if where == "another guest":
        target, gaddr = boot_guest(host), FREE
        host.control(cr1=target.plan["asce"])
    elif where == "a page of the image":
        gaddr = IMAGE_AT
        host.call("convert_from", paddr=guest.space.target(IMAGE_AT)).done()
    target.back(gaddr, cipher)
    reply = target.convert_to(gaddr)
    if where == "a page of the image":
        reply.refused(0x0106)
        return
    reply.done()
    assert target.fetch(gaddr) == bytes(PAGE), "a page that was never outside comes in empty"
    if target is guest:
        guest.convert_to(FREE).done()
        assert guest.fetch(FREE, len(SECRET)) == SECRET


def test_a_page_of_a_guest_that_ended_is_nothing_to_its_successor(host: Host, guest: SecureGuest) -> None:
    """The same image, the same address, the same host: another configuration, other keys."""
    cipher = exported(host, guest, FREE, SECRET)
    guest.destroy()
    successor = boot_guest(host)
    successor.back(FREE, cipher)
    successor.convert_to(FREE).done()
    assert successor.fetch(FREE) == bytes(PAGE)


def test_an_image_page_is_unpacked_once(host: Host) -> None:
    guest = SecureGuest.create(host)
    image = Image.build(host)
    guest.set_params(image.header).done()
    guest.unpack_all(image)
    gaddr, tweak, content = image.pages[0]
    guest.unpack(gaddr, tweak).refused(0x0104)
    host.call("destroy_storage", paddr=guest.space.target(gaddr)).done()
    guest.back(gaddr, content)
    guest.unpack(gaddr, tweak).done()
    guest.verify().refused(0x0102, 0x001D)


# -- blocks across the end of what there is ----------------------------------------


@pytest.mark.parametrize("call", ALL_CALLS, ids=str)
def test_a_block_ends_where_memory_ends_or_is_refused_whole(host: Host, call: Call) -> None:
    """Exactly at the end it is done; one byte further it is an exception and stored nothing."""
    block = bytearray(call.length)
    block[:4] = call.length.to_bytes(2, "big") + call.code.to_bytes(2, "big")
    at = RAM_END - call.length
    host.write(at, bytes(block))
    answer = host.ok("call", r2=hex(at))
    assert answer["cc"] in (0, 1)
    host.write(at, bytes(call.length))
    for beyond in (1, 2, 4, 8):
        host.write(at + beyond, bytes(block[: call.length - beyond]))
        fault = host.fault("call", r2=hex(at + beyond))
        assert (fault.code, fault.page) == (ADDRESSING, RAM_END)
        assert host.read(at + beyond, call.length - beyond) == bytes(block[: call.length - beyond])


@pytest.mark.parametrize("inside", [4, 8, 0x20])
def test_a_block_across_into_what_is_secure_is_an_exception(
    host: Host, guest: SecureGuest, inside: int
) -> None:
    """Its head is the host's, its rest a page of a guest or a donation: not one byte is stored."""
    block = uvcb("query")
    for wall in (guest.plan["base"], guest.space.target(IMAGE_AT)):
        at = wall - inside
        if host.ask("read", addr=hex(at), len=8).get("fault"):
            continue
        host.write(at, block[:inside])
        fault = host.fault("call", r2=hex(at))
        assert (fault.code, fault.page, fault.write) == (SECURE, wall, True)
        assert host.read(at, inside) == block[:inside]


@pytest.mark.parametrize(
    "r2", [(1 << 64) - 1, (1 << 64) - 4, (1 << 64) - PAGE, 1 << 63, RAM_END, 1 << 31], ids=hex
)
def test_a_block_anywhere_in_64_bits_gets_an_answer(raw: Host, r2: int) -> None:
    answer = raw.ask("call", r2=hex(r2))
    if r2 < RAM_END:
        assert answer["ok"] == {"cc": 1}, "zeroes ask for a call that there is not"
    else:
        assert answer["fault"]["code"] == "0x05"
    raw.cpu(0, dat=True)
    assert raw.ask("call", r2=hex(r2)).keys() in ({"id", "fault"}, {"id", "ok"})


def test_a_block_around_the_end_of_the_home_space(host: Host) -> None:
    """The last bytes of the space are followed by nothing, or by its begin: an exception either way."""
    host.use_home()
    for r2 in ((1 << 64) - 8, (1 << 64) - 16, (1 << 53) - 8, (1 << 42) - 8):
        assert host.fault("call", r2=hex(r2)).code not in (0, SPECIFICATION)


# -- every extreme in every field that holds an address ----------------------------------------

ADDRESSES = {"origin", "base", "variable", "mso", "len", "sca", "asce", "storage", "state", "gaddr", "paddr"}
ADDRESSES |= {"header", "area", "prefix", "offset", "handle", "config"}
EXTREMES = (
    0,
    1,
    8,
    PAGE - 1,
    PAGE,
    2 * PAGE,
    MIB - 1,
    MIB,
    (1 << 31) - PAGE,
    1 << 31,
    RAM_END - PAGE,
    RAM_END - 1,
    RAM_END,
    (1 << 32) - 1,
    1 << 32,
    1 << 44,
    (1 << 52) - PAGE,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - MIB,
    (1 << 64) - PAGE,
    (1 << 64) - 1,
)
CALLS_WITH_ADDRESSES = ("create_config", "create_cpu", "convert_to", "convert_from", "destroy_storage", "pin")
CALLS_WITH_ADDRESSES += ("unpin", "set_params", "unpack", "dump_storage_state_active", "dump_cpu_active")
CALLS_WITH_ADDRESSES += ("dump_complete_active", "init", "create_config_in_home_space")


def extremes(scene: Scene) -> Iterator[tuple[str, int]]:
    layout = LAYOUT[scene.call]
    for name in scene.fields:
        if name in ADDRESSES and layout[name][1] == 8:
            yield from ((name, value) for value in EXTREMES if not decided_by_a_limit(name, value))


def decided_by_a_limit(name: str, value: int) -> bool:
    """Sizes between a guest host's memory and the real limit: `differences.py` says why they differ."""
    return name in ("len", "mso") and RAM_END <= value <= MAX_STORAGE


def every_extreme(scene_name: str) -> Callable[[Host], None]:
    """A script: the call of a scene with one field at each extreme, then once as it should be."""

    def script(host: Host) -> None:
        scene = SCENES[scene_name](host)
        for name, value in extremes(scene):
            reply = host.uvc(uvcb(scene.call, **scene.fields | {name: value}), scene.cpu)
            assert reply.cc in (0, 1) and reply.rc not in (0x0000,), (name, hex(value), str(reply))
            assert (reply.cc == 0) == (reply.rc == 1), (name, hex(value), str(reply))
            if reply.cc == 0 and scene.call == "create_config":
                host.call("destroy_config", handle=reply.handle).done()
            elif reply.cc == 0 and scene.call == "create_cpu":
                host.call("destroy_cpu", handle=reply.handle).done()
        host.audit()
        host.ok("counts")

    return script


@pytest.mark.slow
@pytest.mark.parametrize("scene", CALLS_WITH_ADDRESSES)
def test_every_extreme_of_every_address_is_answered_the_same_at_every_depth(scene: str) -> None:
    same_at_every_depth(every_extreme(scene))


@pytest.mark.slow
def test_every_extreme_is_answered_to_a_guest_the_same_at_every_depth() -> None:
    """The guest's own calls: an rc, an exception of its own, or one of its host, and then it goes on."""

    def script(host: Host) -> None:
        host.init()
        guest = boot_guest(host)
        for call in ("share", "unshare", "add_secret", "list_secrets", "retrieve_secret", "attest"):
            for name, (_, width) in LAYOUT[call].items():
                if width != 8:
                    continue
                for value in EXTREMES:
                    host.ok(
                        "guest",
                        vcpu=hex(guest.sie),
                        do=call_steps(uvcb(call, **{name: value})),
                        replace=True,
                    )
                    host.ask("enter", vcpu=hex(guest.sie))
        host.ok("guest", vcpu=hex(guest.sie), do=[{"read": hex(WORK), "len": 8}], replace=True)
        assert guest.enter().code == 0x1C
        host.audit()

    same_at_every_depth(script)


@pytest.mark.slow
def test_every_extreme_in_a_sie_block_is_answered_the_same_at_every_depth() -> None:
    """Handles, timer, SIDA, MSO and MSL, and the address of the block itself."""

    def script(host: Host) -> None:
        host.init()
        guest = boot_guest(host)
        for at in (0x10, 0x18, 0x28, 0x80, 0x88, 0x180):
            kept = host.get(guest.sie + at)
            for value in EXTREMES:
                host.put(guest.sie + at, value)
                host.ask("enter", vcpu=hex(guest.sie))
            host.put(guest.sie + at, kept)
        for value in EXTREMES:
            host.ask("enter", vcpu=hex(value))
        for value in EXTREMES:
            host.control(cr1=value)
            host.ask("enter", vcpu=hex(guest.sie))
        host.control(cr1=guest.plan["asce"])
        host.put(guest.sie + 0x28, 0)
        host.ask("enter", vcpu=hex(guest.sie))
        host.audit()

    same_at_every_depth(script)


def test_an_asce_of_any_form_is_answered(host: Host) -> None:
    """P without a table, any type and length: the table is not looked into before it is used."""
    plan = host.plan_config()
    space = AddressSpace(host)
    for bits in (0x100, 0x104, 0x108, 0x10C, 0x101, 0x10F, 0x1DF):
        reply = host.call("create_config", **plan | {"asce": space.top | bits})
        if bits & 0x20:
            reply.refused(0x0105)
            continue
        if reply.cc == 0:
            host.call("convert_to", handle=reply.handle, gaddr=0).refused()
            host.call("destroy_config", handle=reply.handle).done()
    assert books(host)["te"]["configs"] == 0


def test_a_guest_as_large_as_can_be_said_is_refused(host: Host) -> None:
    plan = host.plan_config()
    with unchanged(host):
        for length in (1 << 63, (1 << 64) - 1, (1 << 64) - PAGE, 4 * GIB << 8):
            for mso in (0, MIB, (1 << 64) - PAGE):
                host.call("create_config", **plan | {"len": length, "mso": mso}).refused()
