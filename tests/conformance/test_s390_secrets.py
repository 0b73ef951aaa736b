"""Secrets of a guest at every depth: calls 0x1031, 0x1033, 0x1034 and 0x1035.

What a request has to be is read out of s390-tools; where a code or an order is a guess, the tests hold to
"refused".
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from s390_blocks import INV_CMD, INV_LEN, MIB, MORE_DATA, NON_SECURE, PAGE, PRIVILEGED, Reply, uvcb
from s390_field import Host
from s390_guest import WORK, Image, SecureGuest, call_steps, plain_image
from s390_owner import DISABLE_DUMP, add_secret, attestation, plaintext

REQUEST, LIST, BUFFER = 0x20000, 0x24000, 0x26000
NULL, ASSOCIATION, PLAIN, UPDATE_CCK = 1, 2, 3, 0x16
END = 2 * MIB
WORDS = b"the password of the database"
ALLOW_DUMP = 1 << (63 - 34)


@dataclass(slots=True)
class Keeper:
    """A guest with pages for requests, lists and buffers, and its image."""

    guest: SecureGuest
    image: Image

    @classmethod
    def boot(cls, host: Host, image: Image | None = None, **options: object) -> Keeper:
        image = image or Image.build(host, plain_image(), **options)
        guest = SecureGuest.create(host).load(image).start()
        for gaddr in (
            *range(REQUEST, REQUEST + 4 * PAGE, PAGE),
            LIST,
            *range(BUFFER, BUFFER + 3 * PAGE, PAGE),
        ):
            guest.secure_page(gaddr)
        return cls(guest, image)

    def add_raw(self, raw: bytes) -> Reply:
        self.guest.store(REQUEST, raw)
        return self.guest.uvc(uvcb("add_secret", request=REQUEST))

    def add(self, value: bytes = WORDS, kind: int = PLAIN, name: str = "db", **options: object) -> Reply:
        stored = plaintext(value) if kind == PLAIN else value
        return self.add_raw(add_secret(self.image.header, kind, stored, name, **options))  # type: ignore[arg-type]

    def listed(self, first: int = 0) -> tuple[Reply, list[tuple[int, int, int, bytes]]]:
        """The answer, and (index, kind, length, id) of each secret on the page."""
        reply = self.guest.uvc(uvcb("list_secrets", first=first, list=LIST))
        page = self.guest.fetch(LIST)
        count = int.from_bytes(page[:2], "big")
        entries = [struct.unpack_from(">HHI8x32s", page, 16 + 48 * number) for number in range(count)]
        return reply, entries

    def total(self) -> int:
        self.listed()[0].done()
        return int.from_bytes(self.guest.fetch(LIST, 4)[2:], "big")

    def retrieve(self, index: int = 0, length: int = 2 * PAGE, at: int = BUFFER) -> Reply:
        return self.guest.uvc(uvcb("retrieve_secret", index=index, len=length, buffer=at))

    def lock(self) -> Reply:
        return self.guest.uvc(uvcb("lock_secrets"))


@pytest.fixture
def keeper(host: Host) -> Keeper:
    return Keeper.boot(host)


# -- what a guest gets ----------------------------------------


@pytest.mark.parametrize("words", [b"", b"x", WORDS, bytes(range(256)) * 31 + b"end"], ids=len)
def test_a_guest_retrieves_what_its_owner_sealed(keeper: Keeper, words: bytes) -> None:
    keeper.add(words).done()
    keeper.retrieve().done()
    assert keeper.guest.fetch(BUFFER, len(words) + 2) == len(words).to_bytes(2, "big") + words


def test_the_list_shows_index_kind_length_and_name(keeper: Keeper) -> None:
    keeper.add(b"\x11" * 32, ASSOCIATION, "card").done()
    keeper.add().done()
    keeper.add(b"", NULL).done()
    reply, entries = keeper.listed()
    reply.done()
    assert entries == [
        (0, ASSOCIATION, 32, hashlib.sha256(b"card").digest()),
        (1, PLAIN, 32, hashlib.sha256(b"db").digest()),
    ]
    assert keeper.total() == 2, "one without a secret is not listed"


def test_nobody_but_the_guest_sees_a_secret(host: Host, keeper: Keeper) -> None:
    assert WORDS[:8] not in add_secret(keeper.image.header, PLAIN, plaintext(WORDS), "db")
    keeper.add().done()
    keeper.retrieve().done()
    page = keeper.guest.space.target(BUFFER)
    assert host.is_secure(page)
    host.call("convert_from", paddr=page).done()
    assert WORDS[:8] not in host.read(page)


def test_each_guest_has_its_own(host: Host, keeper: Keeper) -> None:
    keeper.add().done()
    other = Keeper.boot(host, keeper.image)
    assert other.total() == 0
    other.retrieve().refused(0x010F)
    other.guest.destroy()
    host.control(cr1=keeper.guest.space.asce)
    assert keeper.total() == 1


def test_a_new_guest_starts_without_any(host: Host, keeper: Keeper) -> None:
    keeper.add().done()
    keeper.lock().done()
    keeper.guest.destroy()
    fresh = Keeper.boot(host, keeper.image)
    assert fresh.total() == 0
    fresh.add().done()


# -- where a request belongs ----------------------------------------


def test_a_request_is_bound_to_an_image(host: Host, keeper: Keeper) -> None:
    other = Image.build(host, plain_image(3))
    keeper.add_raw(add_secret(other.header, PLAIN, plaintext(WORDS), "db")).refused()
    assert keeper.total() == 0


def test_a_request_can_be_bound_to_a_configuration(host: Host, keeper: Keeper) -> None:
    guest = keeper.guest
    guest.store(REQUEST, attestation(flags=0).raw)
    asked = guest.uvc(uvcb("attest", request=REQUEST, meas_len=64, meas=BUFFER)).done()
    uid = asked.block[0x148:0x158]
    keeper.add(uid=bytes((uid[0] ^ 1,)) + uid[1:]).refused()
    keeper.add(uid=uid).done()
    other = Keeper.boot(host, keeper.image)
    other.add(uid=uid).refused()


def test_a_request_for_another_machine_does_not_open(keeper: Keeper) -> None:
    keeper.add(which="other").refused(0x0108)
    keeper.add(seed=1).refused(0x0108)


def test_all_requests_share_one_extension_secret(keeper: Keeper) -> None:
    keeper.add(extension=b"\1" * 32).done()
    keeper.add(extension=b"\2" * 32).refused()
    keeper.add().refused()
    keeper.add(extension=b"\1" * 32).done()
    assert keeper.total() == 2


def test_an_image_can_demand_the_one_that_follows_from_its_key(host: Host) -> None:
    from cryptography.hazmat.primitives.hashes import SHA512
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    keeper = Keeper.boot(host, scf=hex(1 << 62))
    tag = keeper.image.header[-16:]
    right = HKDF(SHA512(), 32, salt=tag, info=b"IBM Z Ultravisor Add-Secret").derive(keeper.image.cck)
    keeper.add().refused()
    keeper.add(extension=right).done()


def test_a_request_can_take_the_permission_to_dump(host: Host) -> None:
    keeper = Keeper.boot(host, pcf=hex(ALLOW_DUMP))
    other = Keeper.boot(host, keeper.image)
    host.control(cr1=keeper.guest.space.asce)
    keeper.add(b"", NULL, flags=DISABLE_DUMP).done()
    host.call("dump_init", handle=keeper.guest.handle).refused(0x0103)
    host.call("dump_init", handle=other.guest.handle).done()


def test_the_owners_key_can_be_changed_where_the_image_allows_it(host: Host, keeper: Keeper) -> None:
    from s390_owner import Dump, InvalidTag

    keeper.add(b"\5" * 32, UPDATE_CCK).refused()
    keeper = Keeper.boot(host, pcf=hex(ALLOW_DUMP), scf=hex(1 << 61))
    keeper.add(b"\5" * 32, UPDATE_CCK).done()
    assert keeper.total() == 0
    host.call("dump_init", handle=keeper.guest.handle).done()
    area = host.alloc()
    host.call("dump_complete", handle=keeper.guest.handle, area=area).done()
    Dump(b"\5" * 32, host.read(area))
    with pytest.raises(InvalidTag):
        Dump(keeper.image.cck, host.read(area))


# -- locking ----------------------------------------


def test_a_locked_store_is_read_and_never_changed(keeper: Keeper) -> None:
    keeper.add().done()
    keeper.lock().done()
    keeper.add().refused(0x0102)
    keeper.lock().refused(0x0102)
    assert keeper.total() == 1
    keeper.retrieve().done()


# -- what is refused ----------------------------------------


@pytest.mark.parametrize(
    ("at", "width", "value", "rc"),
    [
        (0x08, 4, 0, 0x0104),
        (0x27, 1, 0, 0x0106),
        (0x0C, 4, 0, 0x0105),
        (0x0C, 4, 0x589, 0x0105),
        (0x2C, 4, 0x20, 0x0105),
        (0x30, 8, 1 << 62, 0x0107),
        (0x3A, 1, 0x5A, 0x0108),
        (0x578, 16, 0, 0x0108),
    ],
    ids=["version", "slots", "no_length", "length", "size", "flags", "changed", "tag"],
)
def test_each_mistake_has_its_code(keeper: Keeper, at: int, width: int, value: int, rc: int) -> None:
    raw = bytearray(add_secret(keeper.image.header, PLAIN, plaintext(WORDS), "db"))
    raw[at : at + width] = value.to_bytes(width, "big")
    keeper.add_raw(bytes(raw)).refused(rc)
    assert keeper.total() == 0


def test_a_request_outside_the_guest_is_not_accessible(keeper: Keeper) -> None:
    for at in (END, END - 0x20, (1 << 64) - PAGE):
        keeper.guest.uvc(uvcb("add_secret", request=at)).refused(0x0103)


@pytest.mark.parametrize("kind", [0, 4, 0x11, 0x17, 0xFFFF])
def test_other_kinds_are_not_supported(keeper: Keeper, kind: int) -> None:
    keeper.add(bytes(32), kind).refused(0x0109)


@pytest.mark.parametrize(
    ("kind", "length"), [(ASSOCIATION, 31), (ASSOCIATION, 48), (UPDATE_CCK, 16), (NULL, 16)]
)
def test_a_kind_has_its_length(keeper: Keeper, kind: int, length: int) -> None:
    keeper.add(bytes(length), kind).refused(0x010A)


@pytest.mark.slow
def test_no_byte_of_a_request_can_be_changed(keeper: Keeper) -> None:
    raw = add_secret(keeper.image.header, PLAIN, plaintext(WORDS), "db")
    for at in range(0, len(raw), 7):
        changed = bytearray(raw)
        changed[at] ^= 0x5A
        keeper.add_raw(bytes(changed)).refused()
    assert keeper.total() == 0


def test_what_cannot_be_retrieved(keeper: Keeper) -> None:
    keeper.retrieve().refused(0x010F)
    keeper.add(bytes(32), ASSOCIATION, "card").done()
    keeper.add().done()
    keeper.retrieve(0).refused(0x0111)
    keeper.retrieve(2).refused(0x0110)
    keeper.retrieve(1, length=31).refused(0x0109)
    keeper.retrieve(1, at=END).refused(0x0102)
    keeper.retrieve(1, length=32).done()


@pytest.mark.slow
def test_a_store_fills_up_and_its_list_has_pages(keeper: Keeper) -> None:
    reply = keeper.guest.uvc(uvcb("query")).done()
    associations, retrievable = reply.field(0x110, 2), reply.field(0x112, 2)
    for number in range(associations):
        keeper.add(bytes(32), ASSOCIATION, f"card {number}").done()
    keeper.add(bytes(32), ASSOCIATION, "one more").refused(0x010B)
    for number in range(retrievable):
        keeper.add(b"word", PLAIN, f"word {number}").done()
    keeper.add().refused(0x010B)
    seen: list[int] = []
    first = 0
    while True:
        reply, entries = keeper.listed(first)
        seen += [entry[0] for entry in entries]
        following = int.from_bytes(keeper.guest.fetch(LIST, 6)[4:], "big")
        if reply.rc != MORE_DATA:
            break
        reply.refused(MORE_DATA)
        assert len(entries) == 85 and following > first
        first = following
    reply.done()
    assert following == 0
    assert seen == list(range(associations + retrievable))


# -- the guest's pages, and who may call ----------------------------------------


@pytest.mark.parametrize("page", [REQUEST, WORK], ids=["request", "block"])
def test_a_page_that_the_host_took_is_asked_for_and_nothing_is_added_twice(
    host: Host, keeper: Keeper, page: int
) -> None:
    guest = keeper.guest
    guest.store(REQUEST, add_secret(keeper.image.header, PLAIN, plaintext(WORDS), "db"))
    guest.store(WORK, uvcb("add_secret", request=REQUEST))
    host.call("convert_from", paddr=guest.space.target(page)).done()
    fault = guest.run_fault({"call": {"r2": hex(WORK)}})
    assert (fault.code, fault.page) == (NON_SECURE, page)
    guest.convert_to(page).done()
    assert guest.enter().steps == [{"cc": 0}]
    assert keeper.total() == 1


def test_the_calls_are_privileged_in_the_guest(keeper: Keeper) -> None:
    for name in ("add_secret", "list_secrets", "lock_secrets", "retrieve_secret"):
        keeper.guest.store(WORK, uvcb(name))
        left = keeper.guest.run({"cpu": {"problem_state": True}}, {"call": {"r2": hex(WORK)}})
        assert left.steps[1] == {"pgm": f"0x{PRIVILEGED:02x}"}, name


def test_each_call_has_one_length(keeper: Keeper) -> None:
    for name in ("add_secret", "list_secrets", "lock_secrets", "retrieve_secret"):
        for length in (0x38, 0x50):
            keeper.guest.uvc(uvcb(name, length).ljust(0x50, b"\0")).refused(INV_LEN)


def test_a_host_has_no_such_calls(host: Host) -> None:
    for name in ("add_secret", "list_secrets", "lock_secrets", "retrieve_secret"):
        host.uvc(uvcb(name)).refused(INV_CMD)
    assert host.query().field(0xF8, 0x1C) == 0


def test_the_guests_query_offers_them(keeper: Keeper) -> None:
    reply = keeper.guest.uvc(uvcb("query")).done()
    bits = {bit for bit in range(64) if reply.field(0x10) >> (63 - bit) & 1}
    assert {29, 30, 31, 33} <= bits
    assert reply.field(0xF8) == 1 << 63, "version 1"
    assert reply.field(0x100) == 1 << 63, "dumps can be disabled"
    kinds = {bit for bit in range(64) if reply.field(0x108) >> (63 - bit) & 1}
    assert kinds == {NULL, ASSOCIATION, PLAIN, UPDATE_CCK}


def test_the_guest_of_the_talks_firmware_has_none(s390: Callable[..., Host]) -> None:
    host = s390(profile="talk2022")
    host.init()
    keeper = Keeper.boot(host)
    for name in ("add_secret", "list_secrets", "lock_secrets", "retrieve_secret"):
        keeper.guest.uvc(uvcb(name)).refused(INV_CMD)
    assert keeper.guest.uvc(uvcb("query", 0x100)).done().field(0x10) & 1 << (63 - 29) == 0
    assert 34 not in host.installed()
    host.uvc(uvcb("query_keys")).refused(INV_CMD)


def test_a_secret_survives_a_reset_of_its_guest(host: Host, keeper: Keeper) -> None:
    """A guess: the store belongs to the configuration, and that lives on."""
    keeper.add().done()
    guest = keeper.guest
    guest.set_state(2).done()
    host.call("unshare_all", handle=guest.handle).done()
    host.call("prepare_reset", handle=guest.handle).done()
    host.call("cpu_reset_clear", handle=guest.cpus[0].handle).done()
    guest.set_state(5).done()
    assert keeper.total() == 1


# -- what is refused for what happens meanwhile ----------------------------------------


def test_no_secret_is_taken_while_a_dump_is_active(host: Host) -> None:
    """The CPU was inside when the dump began, and goes on until it leaves."""
    host.cpu(1, running=True)
    keeper = Keeper.boot(host, pcf=hex(ALLOW_DUMP))
    guest = keeper.guest
    guest.store(REQUEST, add_secret(keeper.image.header, PLAIN, plaintext(WORDS), "db"))
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    host.call("dump_init", 1, handle=guest.handle).done()
    block = uvcb("add_secret", request=REQUEST)
    done = host.ok("guest", vcpu=hex(guest.sie), do=call_steps(block))["steps"]
    assert done[:2] == [{}, {"cc": 1}]
    assert Reply(1, bytes.fromhex(done[2]["hex"])).rc == 0x010D
    host.ok("kick", cpu=0)
    host.call("dump_complete", 1, handle=guest.handle, area=host.alloc()).done()
    keeper.add().done()


@pytest.mark.parametrize("where", [END, END - PAGE + 1, 1 << 44, (1 << 64) - PAGE], ids=hex)
def test_a_list_outside_the_guest_is_not_accessible(keeper: Keeper, where: int) -> None:
    keeper.add().done()
    keeper.guest.uvc(uvcb("list_secrets", first=0, list=where)).refused(0x0102)
    keeper.listed()[0].done()
