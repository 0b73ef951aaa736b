"""The secret store: what an owner's request has to be, what a guest gets, what each mistake is called."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.arch.s390.evidence import attestation, secrets
from protocol.arch.s390.evidence.request import RequestError
from protocol.arch.s390.evidence.secrets import FLAG_DISABLE_DUMP, GuestSecret, SecretList
from protocol.arch.s390.guest import Read, Uvc
from protocol.arch.s390.image import PCF_ALLOW_DUMP, Component, host_key
from protocol.effects import Fault

PAGE = 0x1000
REQUEST = 0x20000
LIST = 0x24000
BUFFER = 0x26000
END = 2 << 20
SEED = 11
HOST, OTHER = host_key(SEED, "host"), host_key(SEED, "other")
SCF_EXTENSION, SCF_CCK = 1 << 62, 1 << 61
WORDS = b"the password of the database"


@pytest.fixture
def keeper(guest: Any) -> Any:
    return with_pages(guest)


def with_pages(guest: Any) -> Any:
    """A guest with pages for requests, lists and buffers."""
    for page in range(REQUEST, BUFFER + 3 * PAGE, PAGE):
        guest.secure(page)
    return guest


def request(guest: Any, secret: GuestSecret | None = None, **options: Any) -> bytes:
    options = {"hosts": [HOST], "seed": 3, "digest": b"r"} | options
    secret = secrets.plaintext("db", WORDS) if secret is None else secret
    header = options.pop("header", guest.image.header)
    return secrets.build(secret, header, options.pop("hosts"), **options)


def add_raw(guest: Any, raw: bytes, at: int = REQUEST) -> Any:
    if at + len(raw) <= BUFFER:
        guest.write(at, raw)
    return guest.call(0x48, 0x1031, q20=at)


def add(guest: Any, secret: GuestSecret | None = None, **options: Any) -> Any:
    return add_raw(guest, request(guest, secret, **options))


def lock(guest: Any) -> Any:
    return guest.call(0x40, 0x1034)


def listed(guest: Any, first: int = 0, rc: int = 0x0001) -> SecretList:
    reply = guest.call(0x48, 0x1033, h1e=first, q20=LIST)
    assert (reply.cc, reply.rc) == (rc != 1, rc)
    return SecretList.unpack(guest.read(LIST, PAGE))


def retrieve(guest: Any, number: int = 0, length: int = 0x2000, at: int = BUFFER) -> Any:
    return guest.call(0x48, 0x1035, h18=number, w1c=length, q20=at)


def uid_of(guest: Any) -> bytes:
    """The configuration's identifier, as the guest gets it: by attestation."""
    asked = attestation.build([HOST], seed=1, digest=b"", flags=0, nonce=False)
    guest.write(REQUEST, asked.raw)
    reply = guest.call(0x188, 0x1020, q18=REQUEST, w13c=64, q140=BUFFER).done()
    uid: bytes = reply.block[0x148:0x158]
    return uid


class TestAddAndRetrieve:
    def test_a_plaintext_secret_reaches_its_guest(self, keeper: Any) -> None:
        add(keeper).done()
        retrieve(keeper).done()
        raw = keeper.read(BUFFER, 48)
        assert raw[:30] == len(WORDS).to_bytes(2, "big") + WORDS
        assert secrets.plaintext_of(raw) == WORDS

    @pytest.mark.parametrize("length", [0, 1, 14, 15, 8190])
    def test_of_any_length(self, keeper: Any, length: int) -> None:
        words = bytes(range(1, 256)) * 33
        add(keeper, secrets.plaintext("x", words[:length])).done()
        entry = listed(keeper).entries[0]
        assert entry.length == -(-(length + 2) // 16) * 16
        retrieve(keeper, length=entry.length).done()
        assert secrets.plaintext_of(keeper.read(BUFFER, entry.length)) == words[:length]

    def test_the_list_shows_names_and_no_values(self, keeper: Any) -> None:
        add(keeper, secrets.association("card", b"\x11" * 32)).done()
        add(keeper).done()
        add(keeper, secrets.meta()).done()
        got = listed(keeper)
        assert (got.total, got.next) == (2, 0)
        assert [tuple(entry) for entry in got.entries] == [
            (0, 2, 32, hashlib.sha256(b"card").digest()),
            (1, 3, 32, hashlib.sha256(b"db").digest()),
        ]
        assert b"\x11" * 8 not in keeper.read(LIST, PAGE)
        assert WORDS not in keeper.read(LIST, PAGE)

    def test_the_list_has_the_layout_that_linux_reads(self, keeper: Any) -> None:
        add(keeper).done()
        listed(keeper)
        page = keeper.read(LIST, PAGE)
        assert struct.unpack_from(">HHHHQ", page) == (1, 1, 0, 0, 0)
        index, kind, length, _ = struct.unpack_from(">HHIQ", page, 16)
        assert (index, kind, length) == (0, 3, 32)
        assert page[32:64] == hashlib.sha256(b"db").digest()
        assert page[64:] == bytes(PAGE - 64)

    def test_another_guest_has_a_store_of_its_own(self, keeper: Any) -> None:
        other = with_pages(keeper.bench.boot(keeper.image))
        add(keeper).done()
        assert listed(other).total == 0
        assert retrieve(other).rc == 0x010F

    def test_the_store_ends_with_its_configuration(self, keeper: Any) -> None:
        add(keeper).done()
        keeper.destroy_cpus()
        keeper.bench.call(0x40, 0x0101, q18=keeper.handle).done()
        assert listed(with_pages(keeper.bench.boot(keeper.image))).total == 0

    def test_the_host_never_sees_the_secret(self, keeper: Any) -> None:
        raw = request(keeper)
        assert WORDS[:8] not in raw
        add_raw(keeper, raw).done()
        retrieve(keeper).done()
        assert WORDS[:8] not in keeper.export(BUFFER)

    def test_a_request_for_several_machines(self, keeper: Any) -> None:
        add(keeper, hosts=[OTHER, HOST, OTHER]).done()
        assert listed(keeper).total == 1

    def test_user_data_are_carried_and_not_looked_into(self, keeper: Any) -> None:
        add(keeper, user_data=b"u" * 512).done()


class TestWhereARequestBelongs:
    """One image, if wanted one configuration, and an extension secret that all requests share."""

    def test_it_is_bound_to_the_image(self, keeper: Any) -> None:
        other = keeper.bench.image([Component(0x10000, b"another kernel", 0x7)])
        assert add(keeper, header=other.header).rc == 0x010C
        assert listed(keeper).total == 0

    @pytest.mark.parametrize("at", [0xE0, 0x120, 0x160, -16])
    def test_every_digest_and_the_tag_count(self, keeper: Any, at: int) -> None:
        header = bytearray(keeper.image.header)
        header[at] ^= 1
        assert add(keeper, header=bytes(header)).rc == 0x010C

    def test_it_can_be_bound_to_one_configuration(self, keeper: Any) -> None:
        other = with_pages(keeper.bench.boot(keeper.image))
        uid = uid_of(keeper)
        assert add(other, uid=uid).rc == 0x010C
        add(keeper, uid=uid).done()

    def test_the_first_extension_secret_holds_for_all(self, keeper: Any) -> None:
        add(keeper, extension=b"\1" * 32).done()
        assert add(keeper, extension=b"\2" * 32).rc == 0x010C
        assert add(keeper).rc == 0x010C
        add(keeper, extension=b"\1" * 32).done()
        assert listed(keeper).total == 2

    def test_no_extension_secret_is_one_of_zeroes(self, keeper: Any) -> None:
        add(keeper).done()
        assert add(keeper, extension=b"\1" * 32).rc == 0x010C

    def test_a_request_that_was_refused_decides_nothing(self, keeper: Any) -> None:
        assert add(keeper, uid=b"\1" * 16, extension=b"\1" * 32).rc == 0x010C
        add(keeper, extension=b"\2" * 32).done()

    def test_an_image_can_demand_one_that_follows_from_the_cck(self, bench: Any) -> None:
        guest = with_pages(bench.boot(bench.image(scf=SCF_EXTENSION)))
        right = secrets.derived_extension(guest.image.cck, guest.image.header[-16:])
        assert add(guest).rc == 0x010C
        assert add(guest, extension=b"\1" * 32).rc == 0x010C
        add(guest, extension=right).done()
        add(guest, extension=right).done()

    def test_the_derivation_is_hkdf_as_documented(self) -> None:
        """RFC 5869 with SHA-512, by hand: extract, then one block of expand."""
        import hmac

        cck, tag = bytes(range(32)), bytes(range(16))
        prk = hmac.new(tag, cck, hashlib.sha512).digest()
        okm = hmac.new(prk, b"IBM Z Ultravisor Add-Secret\x01", hashlib.sha512).digest()
        assert secrets.derived_extension(cck, tag) == okm[:32]


class TestUpdateCck:
    def test_is_refused_where_the_image_does_not_allow_it(self, keeper: Any) -> None:
        assert add(keeper, secrets.update_cck(b"\5" * 32)).rc == 0x010C

    def test_a_dump_opens_with_the_new_key_alone(self, bench: Any) -> None:
        from protocol.arch.s390.evidence.dump import DumpError, open_completion

        guest = with_pages(bench.boot(bench.image(scf=SCF_CCK)))
        add(guest, secrets.update_cck(b"\5" * 32)).done()
        assert listed(guest).total == 0, "it is not listed"
        bench.call(0x40, 0x0400, q18=guest.handle).done()
        area = bench.alloc()
        bench.call(0x50, 0x0403, q18=guest.handle, q20=area).done()
        open_completion(b"\5" * 32, bench.read(area))
        with pytest.raises(DumpError):
            open_completion(guest.image.cck, bench.read(area))


class TestDisableDump:
    def test_takes_the_permission_that_the_image_gave(self, keeper: Any) -> None:
        add(keeper, secrets.meta(), flags=FLAG_DISABLE_DUMP).done()
        assert keeper.bench.call(0x40, 0x0400, q18=keeper.handle).rc == 0x0103

    def test_of_one_configuration_only(self, keeper: Any) -> None:
        other = with_pages(keeper.bench.boot(keeper.image))
        add(keeper, secrets.meta(), flags=FLAG_DISABLE_DUMP).done()
        keeper.bench.call(0x40, 0x0400, q18=other.handle).done()

    def test_a_request_that_is_refused_leaves_it(self, keeper: Any) -> None:
        assert add(keeper, flags=FLAG_DISABLE_DUMP, uid=b"\1" * 16).rc == 0x010C
        keeper.bench.call(0x40, 0x0400, q18=keeper.handle).done()


class TestLock:
    def test_a_locked_store_does_not_change_and_can_be_read(self, keeper: Any) -> None:
        add(keeper).done()
        lock(keeper).done()
        assert add(keeper).rc == 0x0102
        assert lock(keeper).rc == 0x0102
        assert listed(keeper).total == 1
        retrieve(keeper).done()

    def test_the_lock_comes_before_everything_else(self, keeper: Any) -> None:
        lock(keeper).done()
        assert keeper.call(0x48, 0x1031, q20=END).rc == 0x0102


class TestLists:
    def fill(self, guest: Any) -> None:
        """As many as there is room for, written past the requests: 128 of them take a while."""
        from protocol.arch.s390.machine.entities import Secret

        kept = guest.bench.uv.configs[guest.handle].own_store().secrets
        for number in range(64):
            kept.append(Secret(2, number.to_bytes(32, "big"), bytes(32)))
            kept.append(Secret(3, bytes(32), bytes(16)))

    def test_more_than_one_page_is_told_and_goes_on(self, keeper: Any) -> None:
        self.fill(keeper)
        first = listed(keeper, rc=0x0100)
        assert (len(first.entries), first.total, first.next) == (85, 128, 85)
        second = listed(keeper, first.next)
        assert (len(second.entries), second.total, second.next) == (43, 128, 0)
        assert [entry.number for entry in first.entries + second.entries] == list(range(128))

    def test_from_any_index_on(self, keeper: Any) -> None:
        self.fill(keeper)
        assert len(listed(keeper, 43).entries) == 85
        assert len(listed(keeper, 42, rc=0x0100).entries) == 85
        assert listed(keeper, 127).entries[0].number == 127
        assert listed(keeper, 128).entries == ()
        assert listed(keeper, 0xFFFF).entries == ()

    def test_an_empty_store_lists_nothing(self, keeper: Any) -> None:
        assert listed(keeper) == SecretList(0, 0, ())

    def test_each_kind_has_its_limit(self, keeper: Any) -> None:
        self.fill(keeper)
        assert add(keeper).rc == 0x010B
        assert add(keeper, secrets.association("card", bytes(32))).rc == 0x010B
        add(keeper, secrets.meta()).done()
        assert len(keeper.bench.uv.configs[keeper.handle].store.secrets) == 128

    def test_the_limits_are_in_the_guests_query(self, keeper: Any) -> None:
        reply = keeper.call(0x120, 0x0001).done()
        assert (reply.u(0x110, 2), reply.u(0x112, 2)) == (64, 64)
        assert (reply.u(0xF8), reply.u(0x100)) == (1 << 63, 1 << 63)
        assert reply.u(0x108) == sum(1 << (63 - kind) for kind in (1, 2, 3, 22))

    @pytest.mark.parametrize("at", [END, END - PAGE + 1, (1 << 64) - 1])
    def test_a_list_outside_the_guest_is_not_accessible(self, keeper: Any, at: int) -> None:
        assert keeper.call(0x48, 0x1033, q20=at).rc == 0x0102


class TestRetrieveRefused:
    def test_for_each_reason_in_its_order(self, keeper: Any) -> None:
        assert retrieve(keeper, 1, 0, END).rc == 0x010F
        add(keeper, secrets.association("card", bytes(32))).done()
        assert retrieve(keeper, 1, 0, END).rc == 0x0110
        assert retrieve(keeper, 0, 0, END).rc == 0x0111
        add(keeper).done()
        assert retrieve(keeper, 1, 31, END).rc == 0x0109
        assert retrieve(keeper, 1, 32, END).rc == 0x0102
        assert retrieve(keeper, 1, 32, END - 31).rc == 0x0102
        retrieve(keeper, 1, 32).done()

    def test_nothing_is_stored_behind_the_secret(self, keeper: Any) -> None:
        add(keeper).done()
        keeper.write(BUFFER, b"\xee" * 64)
        retrieve(keeper).done()
        assert keeper.read(BUFFER + 32, 32) == b"\xee" * 32


# -- each mistake of a request by itself, in the order of the checks ---------------------------------------


@dataclass
class Asking:
    raw: bytearray
    at: int = REQUEST


def put(at: int, width: int, value: int) -> Callable[[Asking], None]:
    def spoil(asking: Asking) -> None:
        asking.raw[at : at + width] = value.to_bytes(width, "big")

    return spoil


def longer(asking: Asking) -> None:
    """All lengths agree, and it is more than any secret takes."""
    for at in (0x0C, 0x2C):
        length = int.from_bytes(asking.raw[at : at + 4], "big")
        asking.raw[at : at + 4] = (length + 0x1_0000).to_bytes(4, "big")


def outside(asking: Asking) -> None:
    asking.at = END


MISTAKES: list[tuple[str, Callable[[Asking], None], int]] = [
    ("request", outside, 0x0103),
    ("version", put(0x08, 4, 0), 0x0104),
    ("no slots", put(0x27, 1, 0), 0x0106),
    ("size", put(0x0C, 4, 0x5A9), 0x0105),
    ("flags", put(0x30, 8, 1 << 62), 0x0107),
    ("tag", put(0x578, 16, 0), 0x0108),
]
names = [name for name, _, _ in MISTAKES]


def spoiled(guest: Any, *mistakes: tuple[str, Callable[[Asking], None], int]) -> Asking:
    asking = Asking(bytearray(request(guest)))
    for _, spoil, _ in mistakes:
        spoil(asking)
    return asking


def ask(guest: Any, asking: Asking) -> Any:
    return add_raw(guest, bytes(asking.raw), asking.at)


@pytest.mark.parametrize("mistake", MISTAKES, ids=names)
def test_each_mistake_has_its_code(keeper: Any, mistake: Any) -> None:
    assert len(request(keeper)) == 0x588
    assert ask(keeper, spoiled(keeper, mistake)).rc == mistake[2]
    assert listed(keeper).total == 0


@pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.combinations(MISTAKES, 2)),
    ids=[f"{one}, {two}" for one, two in itertools.combinations(names, 2)],
)
def test_of_two_mistakes_the_earlier_is_named(keeper: Any, first: Any, second: Any) -> None:
    assert ask(keeper, spoiled(keeper, second, first)).rc == first[2]


@pytest.mark.parametrize(
    ("edit", "rc"),
    [
        (put(0x00, 8, 0), 0x0104),
        (put(0x06, 2, 4), 0x0108),  # user data of another kind: not looked at, but authenticated
        (put(0x0C, 4, 0), 0x0105),
        (put(0x0C, 4, 0xFFFF_FFFF), 0x0105),
        (put(0x2C, 4, 0x20), 0x0105),
        (put(0x2C, 4, 0x10), 0x0105),  # less than what every secret has
        (longer, 0x0105),
        (put(0x2C, 4, 0xFFFF_FFF0), 0x0105),
        (put(0x27, 1, 2), 0x0105),
        (put(0x27, 1, 255), 0x0105),
        (put(0x50A, 2, 1), 0x0105),  # the kind that has no name would be shorter
        (put(0x50A, 2, 2), 0x0108),
    ],
)
def test_other_spoiled_requests(keeper: Any, edit: Callable[[Asking], None], rc: int) -> None:
    asking = Asking(bytearray(request(keeper)))
    edit(asking)
    assert ask(keeper, asking).rc == rc


@pytest.mark.parametrize("kind", [0x00, 0x04, 0x0A, 0x0B, 0x11, 0x15, 0x17, 0xFFFF])
def test_a_kind_that_is_not_offered(keeper: Any, kind: int) -> None:
    assert add(keeper, GuestSecret(kind, bytes(32), bytes(32))).rc == 0x0109


@pytest.mark.parametrize(
    ("kind", "length"), [(2, 31), (2, 33), (2, 0), (3, 0), (3, 17), (3, 8208), (0x16, 16), (1, 16)]
)
def test_a_length_that_the_kind_cannot_have(keeper: Any, kind: int, length: int) -> None:
    assert add(keeper, GuestSecret(kind, bytes(length), bytes(32))).rc == 0x010A


def test_a_dump_comes_first(keeper: Any) -> None:
    """The guest is in SIE when its host begins to dump it."""
    uv, cpu = keeper.bench.uv, keeper.bench.cpu
    keeper.write(REQUEST, request(keeper))
    block = bytearray(0x48)
    struct.pack_into(">HH", block, 0, 0x48, 0x1031)
    struct.pack_into(">Q", block, 0x20, REQUEST)
    keeper.write(0x8000, bytes(block))
    cpu.cr[1] = keeper.asce
    step = uv.enter(cpu, keeper.blocks[0], keeper.programs[0], True, 1)
    next(step)
    keeper.bench.call(0x40, 0x0400, q18=keeper.handle).done()
    keeper.programs[0].steps.extend([Uvc(0x8000), Read(0x8004, 2)])
    step.send(True)
    assert keeper.programs[0].collect() == [{"cc": 1}, {"hex": "010d"}]
    with pytest.raises(StopIteration):
        step.send(False)
    assert uv.configs[keeper.handle].store.secrets == []


# One guest serves all examples: a call that is refused changes nothing.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bit=st.integers(0, 0x588 * 8 - 1))
def test_no_flipped_bit_of_a_request_goes_unseen(keeper: Any, bit: int) -> None:
    raw = bytearray(request(keeper))
    raw[bit // 8] ^= 0x80 >> bit % 8
    assert 0x0104 <= add_raw(keeper, bytes(raw)).rc <= 0x0108
    assert keeper.bench.uv.configs[keeper.handle].store.secrets == []


@pytest.mark.parametrize(
    ("call", "page"),
    [
        ((0x1031, REQUEST), REQUEST),
        ((0x1033, LIST), LIST),
        ((0x1035, BUFFER), BUFFER),
        ((0x1031, REQUEST), 0x8000),
    ],
    ids=["request", "list", "buffer", "block"],
)
def test_a_page_that_the_host_took_is_asked_for_and_the_call_done_again(
    keeper: Any, call: tuple[int, int], page: int
) -> None:
    """Nothing is done twice: a secret that was added is there once."""
    add(keeper).done()
    code, address = call
    block = bytearray(0x48)
    struct.pack_into(">HH", block, 0, 0x48, code)
    struct.pack_into(">IQ", block, 0x1C, PAGE if code == 0x1035 else 0, address)
    keeper.write(0x8000, bytes(block))
    keeper.write(REQUEST, request(keeper))
    keeper.export(page)
    left = keeper.enter(Uvc(0x8000), Read(0x8004, 2))
    assert isinstance(left, Fault)
    assert (left.code, left.address & ~0xFFF) == (0x3E, page)
    keeper.secure(page)
    assert keeper.run() == [{"cc": 0}, {"hex": "0001"}]
    assert listed(keeper).total == (2 if code == 0x1031 else 1)


def test_the_rest_of_a_request_is_asked_for_as_its_head_is(keeper: Any) -> None:
    keeper.secure(REQUEST - PAGE)
    at = REQUEST - 0x80
    block = bytearray(0x48)
    struct.pack_into(">HH", block, 0, 0x48, 0x1031)
    struct.pack_into(">IQ", block, 0x1C, 0, at)
    keeper.write(0x8000, bytes(block))
    keeper.write(at, request(keeper))
    keeper.export(REQUEST)
    left = keeper.enter(Uvc(0x8000))
    assert isinstance(left, Fault)
    assert (left.code, left.address & ~0xFFF) == (0x3E, REQUEST)
    keeper.secure(REQUEST)
    assert keeper.run() == [{"cc": 0}]
    assert listed(keeper).total == 1


def test_a_block_that_cannot_be_stored_to_is_found_before_anything_is_done(keeper: Any) -> None:
    """The host protects the block's page: it can be read, and the secret is not added again and again."""
    block = bytearray(0x48)
    struct.pack_into(">HH", block, 0, 0x48, 0x1031)
    struct.pack_into(">Q", block, 0x20, REQUEST)
    keeper.write(0x8000, bytes(block))
    keeper.write(REQUEST, request(keeper))
    entry = keeper.tables[0] + 8 * 8
    keeper.bench.put(entry, keeper.pages[8] | 0x200)
    for _ in range(2):
        left = keeper.enter(*([] if keeper.programs[0].steps else [Uvc(0x8000)]))
        assert isinstance(left, Fault)
        assert left.code == 0x04
    keeper.bench.put(entry, keeper.pages[8])
    assert keeper.run() == [{"cc": 0}]
    assert listed(keeper).total == 1


def test_a_host_sees_the_calls_as_not_installed(guest: Any) -> None:
    for code, length in ((0x1031, 0x48), (0x1033, 0x48), (0x1034, 0x40), (0x1035, 0x48)):
        assert guest.bench.call(length, code).rc == 0x0002


@pytest.mark.parametrize("length", [0x40, 0x47, 0x49, 0x50])
def test_blocks_have_one_length(keeper: Any, length: int) -> None:
    for code in (0x1031, 0x1033, 0x1035):
        assert keeper.call(length, code).rc == 0x0005
    assert keeper.call(0x48, 0x1034).rc == 0x0005


class TestTheWorkbench:
    def test_refuses_what_no_request_can_hold(self, guest: Any) -> None:
        with pytest.raises(RequestError, match="8190"):
            secrets.plaintext("x", bytes(8191))
        with pytest.raises(RequestError, match="512"):
            request(guest, user_data=bytes(513))
        with pytest.raises(RequestError, match="1 to 255"):
            request(guest, hosts=[])
        with pytest.raises(RequestError, match="16 bytes"):
            request(guest, uid=bytes(15))

    def test_lists_come_back(self) -> None:
        page = SecretList(7, 3, (secrets.Entry(2, 3, 16, bytes(range(32))),))
        assert SecretList.unpack(page.pack()) == page
        assert len(page.pack()) == PAGE
        assert secrets.ENTRIES == 85

    @pytest.mark.parametrize(
        ("page", "said"),
        [
            (bytes(PAGE - 1), "has 4096 bytes, not 4095"),
            (b"\0\x56".ljust(PAGE, b"\0"), "86 entries on a page"),
        ],
    )
    def test_what_is_no_list_is_refused(self, page: bytes, said: str) -> None:
        with pytest.raises(ValueError, match=said):
            SecretList.unpack(page)

    def test_the_layout_is_the_documented_one(self, guest: Any) -> None:
        header = guest.image.header
        raw = request(guest, flags=FLAG_DISABLE_DUMP, uid=b"\x42" * 16, user_data=b"hello")
        assert raw[:8] == b"asrcbM\0\1"
        assert struct.unpack_from(">II", raw, 8) == (0x100, len(raw))
        assert (raw[0x27], struct.unpack_from(">I", raw, 0x2C)[0]) == (1, 32 + 32)
        assert raw[0x30:0x38] == b"\x80" + bytes(7)
        assert raw[0x38:0x108] == header[0xE0:0x1A0] + header[-16:]
        assert raw[0x108:0x118] == b"\x42" * 16
        assert raw[0x118:0x218] == bytes(256)
        assert raw[0x218:0x21D] == b"hello"
        assert raw[0x4B8:0x4D8] == HOST.public_hash
        assert struct.unpack_from(">HHIQ", raw, 0x508) == (0, 3, 32, 0)
        assert raw[0x518:0x538] == hashlib.sha256(b"db").digest()
        assert len(raw) == 0x538 + 32 + 32 + 16


def test_disabling_dumps_does_not_outlive_the_permission(bench: Any) -> None:
    """An image that does not allow dumps has nothing to lose."""
    guest = with_pages(bench.boot(bench.image(pcf=0)))
    add(guest, secrets.meta(), flags=FLAG_DISABLE_DUMP).done()
    assert not bench.uv.configs[guest.handle].params.pcf & PCF_ALLOW_DUMP
    assert bench.call(0x40, 0x0400, q18=guest.handle).rc == 0x0103
