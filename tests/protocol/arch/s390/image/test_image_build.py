"""The owner's workbench: same request, same image; the machine gets the components back."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.arch.s390.image import (
    PCF_PLAIN_COMPONENTS,
    Component,
    HostKey,
    Image,
    ImageError,
    Refusal,
    Unsealed,
    build,
    decrypt_page,
    host_key,
)
from protocol.arch.s390.image.header import SLOTS_MAX

Opened = Callable[[bytes], Unsealed | Refusal]

ONE = [Component(0x10000, b"program", 0x1)]


def test_pages_come_in_load_order_with_their_tweaks(image: Image) -> None:
    assert [(page.gaddr, page.tweak) for page in image.pages] == [
        (0x10000, (0x11, 0)),
        (0x20000, (0x22, 0)),
        (0x21000, (0x22, 0x1000)),
    ]
    assert all(len(page.data) == 4096 for page in image.pages)


@settings(max_examples=25)
@given(
    parts=st.lists(st.tuples(st.binary(max_size=9000), st.integers(0, 2**64 - 1)), min_size=1, max_size=4),
    seed=st.integers(0, 2**64 - 1),
    psw=st.one_of(st.none(), st.binary(min_size=16, max_size=16)),
)
def test_what_the_owner_put_in_is_what_the_machine_gets_out(
    opened: Opened, host: HostKey, parts: list[tuple[bytes, int]], seed: int, psw: bytes | None
) -> None:
    components = [Component(0x10000 * (at + 1), data, tweak) for at, (data, tweak) in enumerate(parts)]
    image = build(components, seed=seed, digest=b"", slots=[host], psw=psw)
    got = opened(image.header)
    assert isinstance(got, Unsealed)
    assert got.cck == image.cck
    assert got.pages == len(image.pages)
    memory = {page.gaddr: decrypt_page(got.xts_key, page.tweak, page.data) for page in image.pages}
    for component in components:
        run = b"".join(memory.pop(at) for at in range(component.gaddr, component.end, 0x1000))
        assert run == component.data.ljust(component.pages * 0x1000, b"\0")
    assert not memory
    if psw is not None:
        assert got.psw == psw


def test_the_same_request_gives_the_same_image(host: HostKey) -> None:
    first = build(ONE, seed=1, digest=b"request", slots=[host])
    assert build(ONE, seed=1, digest=b"request", slots=[host]) == first


def test_seed_and_request_both_change_every_secret(host: HostKey, opened: Opened) -> None:
    images = [
        build(ONE, seed=seed, digest=digest, slots=[host])
        for seed, digest in ((1, b"request"), (2, b"request"), (1, b"another"))
    ]
    got = [opened(image.header) for image in images]
    assert len({image.cck for image in images}) == 3
    assert len({image.pages[0].data for image in images}) == 3
    assert len({image.header[0x10:0x1C] for image in images}) == 3
    assert len({image.header[0x40:0xE0] for image in images}) == 3
    assert len({one.xts_key for one in got if isinstance(one, Unsealed)}) == 3


def test_the_start_psw_is_64_bit_mode_at_the_component_given_first(host: HostKey, opened: Opened) -> None:
    components = [Component(0x20000, b"entry", 1), Component(0x10000, b"data", 2)]
    got = opened(build(components, seed=1, digest=b"", slots=[host]).header)
    assert isinstance(got, Unsealed)
    assert got.psw.hex() == "00000001800000000000000000020000"


def test_plain_components_stay_plain_and_are_still_in_the_digests(host: HostKey, opened: Opened) -> None:
    image = build(ONE, seed=1, digest=b"", slots=[host], pcf=PCF_PLAIN_COMPONENTS)
    assert image.pages[0].data == b"program".ljust(4096, b"\0")
    got = opened(image.header)
    assert isinstance(got, Unsealed)
    assert got.pcf == PCF_PLAIN_COMPONENTS


def test_an_empty_component_is_one_page(host: HostKey) -> None:
    image = build([Component(0x1000, b"", 0)], seed=1, digest=b"", slots=[host])
    assert [page.gaddr for page in image.pages] == [0x1000]


def test_a_large_image_takes_little_more_memory_than_its_pages(host: HostKey) -> None:
    size = 4 << 20
    tracemalloc.start()
    image = build([Component(0, bytes(size), 1)], seed=1, digest=b"", slots=[host])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(image.pages) == size // 4096
    assert peak < 3 * size


@pytest.mark.parametrize(
    ("field", "components", "options"),
    [
        ("components", [], {}),
        ("gaddr", [Component(0x10, b"", 0)], {}),
        ("gaddr", [Component(-0x1000, b"", 0)], {}),
        ("gaddr", [Component(2**64 - 0x1000, bytes(0x1001), 0)], {}),
        ("gaddr", [Component(0x1000, bytes(0x1001), 0), Component(0x2000, b"", 0)], {}),
        ("tweak", [Component(0, b"", 2**64)], {}),
        ("psw", ONE, {"psw": bytes(15)}),
        ("pcf", ONE, {"pcf": -1}),
        ("scf", ONE, {"scf": 2**64}),
        ("keys", ONE, {"slots": [host_key(1, "host")] * (SLOTS_MAX + 1)}),
    ],
)
def test_what_cannot_be_built_is_refused_by_field(
    field: str, components: list[Component], options: dict[str, object]
) -> None:
    arguments: dict[str, object] = {"seed": 1, "digest": b"", "slots": [], **options}
    with pytest.raises(ImageError) as caught:
        build(components, **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_the_last_page_of_the_address_space_can_be_used(host: HostKey) -> None:
    image = build([Component(2**64 - 0x1000, b"", 0)], seed=1, digest=b"", slots=[host])
    assert image.pages[0].gaddr == 2**64 - 0x1000


def test_a_header_with_all_the_slots_that_fit_opens(host: HostKey, opened: Opened) -> None:
    image = build(ONE, seed=1, digest=b"", slots=[host_key(1, "other")] * (SLOTS_MAX - 1) + [host])
    assert isinstance(opened(image.header), Unsealed)
