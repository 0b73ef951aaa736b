"""An image as a file: what is written is read, and what is no image is refused with the reason."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.s390.image import Component, HostKey, Image, build, host_key
from protocol.arch.s390.image.file import RECORD_BYTES, pack_file, pages_in, unpack_file
from protocol.arch.s390.owner import FILES_MAX, KERNEL_AT, OWNER, place

PAGE = 4096


@given(
    parts=st.lists(
        st.tuples(st.integers(1, 2 * PAGE + 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=3
    ),
    slots=st.integers(0, 3),
)
@settings(max_examples=8, deadline=None)
def test_what_is_packed_is_unpacked(parts: list[tuple[int, int]], slots: int, host: HostKey) -> None:
    at, components = 0x10000, []
    for length, tweak in parts:
        components.append(Component(at, bytes(range(256)) * (length // 256 + 1), tweak))
        at = components[-1].end + PAGE
    image = build(components, seed=1, digest=b"", slots=[host] * slots)
    data = pack_file(image)
    assert unpack_file(data) == Image(image.header, image.pages, b"")
    assert pages_in(data[:0x1A0], len(data)) == len(image.pages)
    assert pack_file(unpack_file(data)) == data


def test_the_file_is_laid_out_as_it_is_documented(image: Image) -> None:
    """docs/arch/s390-image.md, read with nothing but the offsets that stand there."""
    data = pack_file(image)
    size = int.from_bytes(data[0x0C:0x10], "big")
    assert data[:size] == image.header
    at = size
    for page in image.pages:
        fields = [int.from_bytes(data[at + 8 * n : at + 8 * n + 8], "big") for n in range(3)]
        assert fields == [page.gaddr, *page.tweak]
        assert data[at + 24 : at + 24 + PAGE] == page.data
        at += 24 + PAGE
    assert at == len(data)


def test_a_header_alone_is_a_file_without_pages(image: Image) -> None:
    assert unpack_file(image.header) == Image(image.header, (), b"")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda data: b"", "does not begin with IBMSecEx"),
        (lambda data: b"\x7fELF" + data, "does not begin with IBMSecEx"),
        (lambda data: data[:0x100], "ends inside its header"),
        (lambda data: data[:-1], "and 3 pages of 4120 each make"),
        (lambda data: data + b"\0", "and 3 pages of 4120 each make"),
        (lambda data: data[:0x0C] + bytes(4) + data[0x10:], "says that it has 0x0 bytes; allowed: 0x230"),
        (lambda data: data[:0x30] + b"\xff" * 8 + data[0x38:], "18446744073709551615 pages"),
    ],
    ids=["empty", "elf", "torn header", "torn page", "more", "size", "count"],
)
def test_what_is_no_image_is_refused_with_the_reason(image: Image, spoil: object, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        unpack_file(spoil(pack_file(image)))  # type: ignore[operator]


@given(at=st.integers(0, 0x3FF), value=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_whatever_a_header_says_it_is_described_or_refused(image: Image, at: int, value: int) -> None:
    data = bytearray(pack_file(image))
    data[at] = value
    try:
        words = OWNER.describe(bytes(data), (0,))
    except ValueError as refusal:
        assert str(refusal)
    else:
        assert all(name and text for name, text in words)


# -- the owner at the command line ----------------------------------------


def test_components_lie_one_behind_the_other() -> None:
    parts = {"cmdline": b"quiet", "kernel": b"k" * (PAGE + 1), "initrd": b"r" * PAGE}
    placed = [(each.gaddr, each.data, each.tweak) for each in place(parts)]
    assert placed == [
        (KERNEL_AT, parts["kernel"], 1),
        (KERNEL_AT + 2 * PAGE, parts["initrd"], 2),
        (KERNEL_AT + 3 * PAGE, parts["cmdline"], 3),
    ]


def test_the_same_files_and_seed_give_the_same_image_and_others_share_no_key() -> None:
    made = {
        OWNER.build({"kernel": kernel}, seed=seed, machines=(0,), flags=flags)
        for kernel in (b"one", b"two")
        for seed in (0, 1)
        for flags in ({}, {"pcf": 0x20000000})
        for _ in range(2)
    }
    assert len(made) == 8
    assert len({cck for _, cck in made}) == 8


def test_the_digests_are_computed_from_the_pages() -> None:
    data, _ = OWNER.build({"kernel": b"k" * (3 * PAGE)}, seed=0, machines=(0,))
    image = unpack_file(data)
    found, complaint = OWNER.measure(data)
    pld, ald, tld = (hashlib.sha512() for _ in range(3))
    for page in image.pages:
        pld.update(page.data)
        ald.update(page.gaddr.to_bytes(8, "big"))
        tld.update(page.tweak[0].to_bytes(8, "big") + page.tweak[1].to_bytes(8, "big"))
    assert found == [("PLD", pld.hexdigest()), ("ALD", ald.hexdigest()), ("TLD", tld.hexdigest())]
    assert complaint == ""
    assert [bytes.fromhex(value) for _, value in found] == [
        image.header[at : at + 64] for at in (0xE0, 0x120, 0x160)
    ]


def test_pages_that_are_not_those_of_the_header_are_complained_about() -> None:
    data, _ = OWNER.build({"kernel": b"k"}, seed=0, machines=(0,))
    assert "0x001b" in OWNER.measure(data[:-1] + bytes((data[-1] ^ 1,)))[1]
    at = len(data) - RECORD_BYTES
    assert "0x001a" in OWNER.measure(data[:at] + bytes(8) + data[at + 8 :])[1]


def test_a_header_alone_is_not_measured() -> None:
    data, _ = OWNER.build({"kernel": b"k"}, seed=0, machines=(0,))
    with pytest.raises(ValueError, match="a header alone"):
        OWNER.measure(data[: int.from_bytes(data[0x0C:0x10], "big")])


def test_a_header_alone_is_described_as_one() -> None:
    data, _ = OWNER.build({"kernel": b"k"}, seed=0, machines=(0,))
    words = dict(OWNER.describe(data[: int.from_bytes(data[0x0C:0x10], "big")], ()))
    assert words["components"] == "none here: the file is a header alone"
    assert not any(name.startswith("component 0x") for name in words)
    assert words["pages"] == "1 of 4096 bytes (4,096 bytes)", "as the header says"


def test_more_bytes_than_an_image_has_room_for_are_refused_before_anything_is_built() -> None:
    parts = {"kernel": bytes(FILES_MAX - 4), "cmdline": b"quiet"}
    with pytest.raises(ValueError, match="536870913 bytes in all; at most 536870912 are allowed"):
        next(place(parts))


def test_pages_are_counted_for_a_machine_that_opens_the_image() -> None:
    data, _ = OWNER.build({"kernel": b"k" * (2 * PAGE)}, seed=0, machines=(3, 4))
    assert OWNER.pages(data[:0x2000], len(data), 4) == 2
    with pytest.raises(ValueError, match="no key slot for the machine of seed 5"):
        OWNER.pages(data[:0x2000], len(data), 5)


def test_a_host_key_in_pem_gets_a_slot_that_its_machine_opens() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = host_key(9, "host")
    private = ec.derive_private_key(key.scalar, ec.SECP521R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    data, _ = OWNER.build({"kernel": b"k"}, seed=0, host_keys=[pem])
    assert OWNER.pages(data[:0x2000], len(data), 9) == 1
    assert ("key slot 0", f"{key.public_hash.hex()}: the emulated machine of seed 9") in OWNER.describe(
        data, (8, 9)
    )


def test_a_key_of_another_curve_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = (
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(ValueError, match="P-521"):
        OWNER.build({"kernel": b"k"}, seed=0, host_keys=[pem])


@pytest.mark.parametrize(
    ("parts", "options", "why"),
    [
        ({}, {"machines": (0,)}, "has a kernel"),
        ({"kernel": b"", "dtb": b""}, {"machines": (0,)}, "has a kernel"),
        ({"kernel": b""}, {}, "opened by nobody"),
        ({"kernel": b""}, {"machines": (0,), "psw": b"short"}, "a PSW has 16 bytes"),
        ({"kernel": b""}, {"machines": (0,), "flags": {"pcf": 1 << 64}}, "8 bytes"),
        ({"kernel": b""}, {"machines": (0,) * 200}, "room for 95 key slots"),
    ],
)
def test_what_cannot_be_built_is_refused(
    parts: dict[str, bytes], options: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        OWNER.build(parts, seed=0, **options)  # type: ignore[arg-type]
