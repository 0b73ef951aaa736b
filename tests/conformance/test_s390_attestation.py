"""Attestation at every depth: section 8.5 of the fact sheet. No hypervisor is on the way, so none shows.

The owner here has the documented keys and layouts and nothing else: what it verifies was not made by itself.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from s390_blocks import (
    ERROR,
    INV_CMD,
    INV_LEN,
    MIB,
    NON_SECURE,
    PAGE,
    PRIVILEGED,
    SPECIFICATION,
    WAIT,
    Reply,
    uvcb,
)
from s390_field import Host
from s390_guest import WORK, Image, SecureGuest, boot_guest, call_steps, plain_image
from s390_owner import IMAGE_KEY, Asked, attestation, key_hash

REQUEST, MEASUREMENT, ADDITIONAL = 0x20000, 0x21000, 0x22000
END = 2 * MIB


@dataclass(slots=True)
class Ready:
    """A guest that can be asked, and its image."""

    guest: SecureGuest
    image: Image

    @classmethod
    def boot(cls, host: Host, image: Image | None = None) -> Ready:
        image = image or Image.build(host)
        guest = SecureGuest.create(host).load(image).start()
        for gaddr in (REQUEST, MEASUREMENT, ADDITIONAL):
            guest.secure_page(gaddr)
        return cls(guest, image)

    def ask(self, asked: Asked | bytes, user: bytes = b"", **fields: int) -> Reply:
        """Put a request into the guest and let it ask."""
        raw = asked.raw if isinstance(asked, Asked) else asked
        self.guest.store(REQUEST, raw)
        return self.guest.uvc(block(user, **fields))

    def evidence(self, asked: Asked, user: bytes = b"", **fields: int) -> tuple[bytes, bytes, bytes]:
        """Identifier, additional data, measurement."""
        reply = self.ask(asked, user, **fields).done()
        return reply.block[0x148:0x158], self.guest.fetch(ADDITIONAL, 32), self.guest.fetch(MEASUREMENT, 64)

    def proves(self, asked: Asked, user: bytes = b"", image: Image | None = None) -> bool:
        uid, additional, measurement = self.evidence(asked, user)
        header = (image or self.image).header
        return asked.is_answered_by(header, uid, user, additional, measurement)


def block(user: bytes = b"", **fields: int) -> bytes:
    wanted = {
        "request": REQUEST,
        "user_len": len(user),
        "meas_len": 64,
        "meas": MEASUREMENT,
        "add_len": 32,
        "add": ADDITIONAL,
    }
    made = bytearray(uvcb("attest", **wanted | fields))
    made[0x30 : 0x30 + len(user)] = user
    return bytes(made)


@pytest.fixture
def ready(host: Host) -> Ready:
    return Ready.boot(host)


# -- what is proved ----------------------------------------


def test_the_guest_asks_without_its_host(ready: Ready) -> None:
    """Section 2 row 29: direct. The guest does not leave SIE for it."""
    ready.guest.store(REQUEST, attestation().raw)
    left = ready.guest.run(*call_steps(block()))
    assert left.code == WAIT
    assert left.steps[1] == {"cc": 0}


@pytest.mark.parametrize("user", [b"", b"a public key", bytes(range(256))], ids=["none", "some", "most"])
def test_the_owner_verifies_the_measurement(ready: Ready, user: bytes) -> None:
    assert ready.proves(attestation(), user)
    assert ready.proves(attestation(nonce=b"\x99" * 16), user)


def test_the_key_that_opened_the_image_is_named(ready: Ready) -> None:
    _, additional, _ = ready.evidence(attestation())
    assert additional == key_hash()


def test_without_flags_nothing_is_added(ready: Ready) -> None:
    asked = attestation(flags=0)
    reply = ready.ask(asked, add_len=0, add=0).done()
    assert asked.is_answered_by(
        ready.image.header, reply.block[0x148:0x158], b"", b"", ready.guest.fetch(MEASUREMENT, 64)
    )
    assert ready.guest.fetch(ADDITIONAL, 32) == bytes(32)


def test_another_image_is_found_out(host: Host, ready: Ready) -> None:
    assert not ready.proves(attestation(), image=Image.build(host, plain_image(3)))


def test_a_measurement_answers_one_request(ready: Ready) -> None:
    uid, additional, measurement = ready.evidence(attestation(nonce=b"\1" * 16))
    again = attestation(nonce=b"\2" * 16)
    assert not again.is_answered_by(ready.image.header, uid, b"", additional, measurement)


def test_an_identifier_belongs_to_one_configuration(host: Host, ready: Ready) -> None:
    other = Ready.boot(host, ready.image)
    theirs = other.evidence(attestation())[0]
    host.control(cr1=ready.guest.space.asce)
    mine = ready.evidence(attestation())[0]
    assert mine != theirs
    assert ready.evidence(attestation())[0] == mine
    assert any(mine)


def test_the_seed_makes_the_machines_key(s390: Callable[..., Host]) -> None:
    host = s390(seed=5)
    host.init()
    ready = Ready.boot(host)
    assert ready.proves(attestation(seed=5))
    ready.ask(attestation(seed=0)).refused(0x010C)


# -- what is refused ----------------------------------------


Spoiled = tuple[bytearray, dict[str, int]]


def put(at: int, width: int, value: int) -> Callable[[Spoiled], None]:
    def spoil(what: Spoiled) -> None:
        what[0][at : at + width] = value.to_bytes(width, "big")

    return spoil


def give(**fields: int) -> Callable[[Spoiled], None]:
    return lambda what: what[1].update(fields)


MISTAKES = {
    "token": (give(token=0xFF), 0x0101),
    "user_data": (give(user_len=257), 0x0102),
    "request": (give(request=END + PAGE), 0x0103),
    "version": (put(0x08, 4, 0), 0x0106),
    "slots": (put(0x27, 1, 0), 0x0108),
    "length": (put(0x0C, 4, 0x181), 0x0107),
    "encrypted": (put(0x2C, 4, 80), 0x0109),
    "flags": (put(0x30, 8, 1 << 60), 0x010A),
    "algorithm": (put(0x38, 4, 0), 0x010B),
    "measurement_length": (give(meas_len=63), 0x010D),
    "additional_length": (give(add_len=31), 0x010E),
    "seal": (put(0x170, 16, 0), 0x010C),
    "measurement": (give(meas=END), 0x0104),
    "additional": (give(add=END - 8), 0x0105),
}
"""In the order of the checks."""


def spoiled(ready: Ready, *names: str) -> Reply:
    what: Spoiled = (bytearray(attestation().raw), {})
    for name in names:
        MISTAKES[name][0](what)
    return ready.ask(bytes(what[0]), **what[1])


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_has_its_code(ready: Ready, name: str) -> None:
    reply = spoiled(ready, name).refused(MISTAKES[name][1])
    assert reply.block[0x148:0x158] == bytes(16)
    assert ready.guest.fetch(MEASUREMENT, 64) == bytes(64)
    assert ready.guest.fetch(ADDITIONAL, 32) == bytes(32)


@pytest.mark.slow
def test_of_two_mistakes_the_earlier_is_named(ready: Ready) -> None:
    for first, second in itertools.combinations(MISTAKES, 2):
        reply = spoiled(ready, second, first)
        assert (reply.cc, reply.rc) == (ERROR, MISTAKES[first][1]), f"{first} and {second}: {reply}"


@pytest.mark.parametrize("length", [0x187, 0x189])
def test_a_block_that_is_off_by_one_is_too_short_or_too_long(ready: Ready, length: int) -> None:
    made = bytearray(block(token=1).ljust(0x190, b"\0"))
    made[:2] = length.to_bytes(2, "big")
    ready.guest.uvc(bytes(made)).refused(INV_LEN)


@pytest.mark.parametrize(
    ("edits", "rc"),
    [
        ([(0x0C, 4, 0x17F)], 0x0107),
        ([(0x0C, 4, 0)], 0x0107),
        ([(0x0C, 4, 0xFFFF_FFFF)], 0x0107),
        ([(0x27, 1, 2)], 0x0107),
        ([(0x2C, 4, 17)], 0x0109),
        ([(0x0C, 4, 0x190)], 0x0109),
        ([(0x0C, 4, 0x190), (0x2C, 4, 80)], 0x010C),
        ([(0x30, 8, IMAGE_KEY ^ ((1 << 64) - 1))], 0x010A),
    ],
    ids=["short", "no_length", "endless", "two_slots", "size_17", "room", "no_nonce", "all_other_flags"],
)
def test_requests_of_the_wrong_shape(ready: Ready, edits: list[tuple[int, int, int]], rc: int) -> None:
    raw = bytearray(attestation().raw.ljust(0x200, b"\0"))
    for at, width, value in edits:
        raw[at : at + width] = value.to_bytes(width, "big")
    ready.ask(bytes(raw)).refused(rc)


def test_what_the_unit_tests_do_without_cryptography(ready: Ready) -> None:
    """pv-attest.c: a request that nobody sealed is judged up to its seal, buffers before it."""
    raw = bytearray(0x180)
    struct.pack_into(">II", raw, 0x08, 0x100, 0x180)
    raw[0x27] = 1
    struct.pack_into(">IQI", raw, 0x2C, 64, IMAGE_KEY, 1)
    ready.ask(bytes(raw)).refused(0x010C)
    ready.ask(bytes(raw), meas_len=0).refused(0x010D)
    ready.ask(bytes(raw), add_len=0).refused(0x010E)


def test_a_request_for_another_machine_does_not_open(ready: Ready) -> None:
    ready.ask(attestation(which="other")).refused(0x010C)


@pytest.mark.slow
def test_no_byte_of_a_request_can_be_changed(ready: Ready) -> None:
    raw = attestation().raw
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 0x5A
        ready.ask(bytes(changed)).refused()


# -- the guest's pages ----------------------------------------


@pytest.mark.parametrize(
    "page", [REQUEST, MEASUREMENT, ADDITIONAL], ids=["request", "measurement", "additional"]
)
def test_a_page_that_the_host_took_is_asked_for(host: Host, ready: Ready, page: int) -> None:
    guest, asked = ready.guest, attestation()
    guest.store(REQUEST, asked.raw)
    guest.store(WORK, block())
    host.call("convert_from", paddr=guest.space.target(page)).done()
    fault = guest.run_fault({"call": {"r2": hex(WORK)}})
    assert (fault.code, fault.page) == (NON_SECURE, page)
    guest.convert_to(page).done()
    assert guest.enter().steps == [{"cc": 0}]
    uid = guest.fetch(WORK + 0x148, 16)
    additional, measurement = guest.fetch(ADDITIONAL, 32), guest.fetch(MEASUREMENT, 64)
    assert asked.is_answered_by(ready.image.header, uid, b"", additional, measurement)


def test_evidence_is_the_guests_until_it_shares_it(host: Host, ready: Ready) -> None:
    ready.evidence(attestation())
    assert host.is_secure(ready.guest.space.target(MEASUREMENT))
    ready.guest.share(MEASUREMENT).done()
    assert host.read(ready.guest.space.target(MEASUREMENT), 64) == ready.guest.fetch(MEASUREMENT, 64)


# -- who may ask ----------------------------------------


def test_it_is_privileged_in_the_guest(ready: Ready) -> None:
    ready.guest.store(WORK, block())
    left = ready.guest.run({"cpu": {"problem_state": True}}, {"call": {"r2": hex(WORK)}})
    assert left.steps[1] == {"pgm": f"0x{PRIVILEGED:02x}"}
    left = ready.guest.run({"call": {"r2": hex(WORK), "m3": 1}})
    assert left.steps[0] == {"pgm": f"0x{SPECIFICATION:02x}"}


def test_a_host_cannot_ask(host: Host) -> None:
    host.uvc(uvcb("attest")).refused(INV_CMD)


def test_the_guests_query_offers_it(ready: Ready) -> None:
    reply = ready.guest.uvc(uvcb("query")).done()
    assert reply.field(0xE0) == 1 << 63
    assert reply.field(0xE8) == IMAGE_KEY
    assert ready.guest.host.query().field(0xE0, 16) == 0, "a host has none of it"


def test_the_guest_of_the_talks_firmware_has_it_too(s390: Callable[..., Host]) -> None:
    host = s390(profile="talk2022")
    host.init()
    assert Ready.boot(host).proves(attestation())


def test_a_guest_that_was_reset_proves_the_same(host: Host, ready: Ready) -> None:
    """The configuration is the same one: sheet 5.2, rows 8 and 9 of section 6."""
    before = ready.evidence(attestation())
    guest = ready.guest
    guest.set_state(2).done()
    host.call("unshare_all", handle=guest.handle).done()
    host.call("prepare_reset", handle=guest.handle).done()
    host.call("cpu_reset_clear", handle=guest.cpus[0].handle).done()
    guest.set_state(5).done()
    assert ready.evidence(attestation()) == before


def test_booting_twice_is_two_guests(host: Host) -> None:
    first = boot_guest(host)
    first.destroy()
    one = Ready.boot(host)
    uid = one.evidence(attestation())[0]
    one.guest.destroy()
    assert Ready.boot(host).evidence(attestation())[0] != uid
