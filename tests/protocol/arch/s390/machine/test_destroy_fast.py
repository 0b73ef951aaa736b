"""Destroy Secure Configuration Fast: as Destroy, with a block of its own length."""

from __future__ import annotations

from typing import Any

FREE = 0x20000
PAGE = 0x1000


def fast(guest: Any, length: int = 0x48) -> Any:
    return guest.bench.call(length, 0x0102, q18=guest.handle)


def test_it_ends_a_configuration(guest: Any) -> None:
    guest.destroy_cpus()
    fast(guest).done()
    assert guest.bench.uv.configs == {}
    assert fast(guest).rc == 0x0020


def test_cpus_have_to_be_destroyed_before(guest: Any) -> None:
    assert fast(guest).rc == 0x0003
    guest.destroy_cpus()
    fast(guest).done()


def test_its_block_is_one_doubleword_longer(guest: Any) -> None:
    """2.1 E'."""
    guest.destroy_cpus()
    assert fast(guest, 0x40).rc == 0x0005
    assert fast(guest, 0x50).rc == 0x0005
    fast(guest).done()


def test_donated_memory_returns_and_pages_stay_secure_until_each_is_destroyed(guest: Any) -> None:
    """2.0 row 6."""
    uv = guest.bench.uv
    page = guest.secure(FREE)
    guest.write(FREE, b"secret")
    config = uv.configs[guest.handle]
    donated = [int(frame) << 12 for frame in (*config.base, *config.variable)]
    assert all(not isinstance(uv.read(at, 8), bytes) for at in donated)
    guest.destroy_cpus()
    fast(guest).done()
    assert all(uv.read(at, PAGE) == bytes(PAGE) for at in donated)
    assert not isinstance(uv.read(page, 8), bytes)
    guest.bench.call(0x20, 0x0202, q18=page).done()
    assert uv.read(page, PAGE) == bytes(PAGE)


def test_an_export_of_a_left_over_page_shows_nothing_of_it(guest: Any) -> None:
    page = guest.secure(FREE)
    guest.write(FREE, b"secret")
    guest.destroy_cpus()
    fast(guest).done()
    guest.bench.call(0x20, 0x0201, q18=page).done()
    assert b"secret" not in guest.bench.read(page)
