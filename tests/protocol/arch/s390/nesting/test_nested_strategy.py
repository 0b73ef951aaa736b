"""The choices of a scenario: what each changes, and what none of them may change."""

from __future__ import annotations

import pytest
from nested_host import IMAGE_AT, Guest, NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import compose
from protocol.arch.s390.guest import Read, Touch
from protocol.arch.s390.nesting import Nested, Strategy
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import EXECUTED, SieExit
from protocol.effects import Fault, run
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import ABSENT, DONATED

PAGE = 0x20


def booted(depth: int = 1, **words: str) -> tuple[NestedHost, Guest, Nested]:
    host = NestedHost(compose(PROFILES["small"], depth, strategy=Strategy(**words)))
    run(host.init())
    guest = run(host.boot())
    level = host.seat.level
    assert isinstance(level, Nested)
    return host, guest, level


@pytest.mark.parametrize("name", ["handles", "donation", "teardown", "pages"])
def test_a_word_that_is_none_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} = 'never': allowed are .*"):
        Strategy(**{name: "never"})


def test_passed_handles_are_the_real_ones() -> None:
    host, guest, level = booted()
    assert guest.handle in host.rig.machines[0].configs
    assert [config.real for config in level.configs.values()] == [guest.handle]


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_mapped_handles_say_nothing_about_the_real_ones(depth: int) -> None:
    host, guest, level = booted(depth, handles="mapped")
    assert guest.handle not in host.rig.machines[0].configs
    assert guest.vcpus[0].handle not in host.rig.machines[0].secure_cpus
    assert isinstance(run(host.enter(guest, Read(IMAGE_AT, 4))), SieExit)
    assert level.ledger.flat()["translations.handle"] > 0
    real = next(iter(host.rig.machines[0].configs))
    assert run(host.handle_call(0x0302, real)).rc == 0x0020, "a real handle is an unknown one here"
    run(host.destroy(guest))
    assert not host.rig.machines[0].configs
    check(host.rig)


def test_full_donation_takes_the_frames_away_and_lends_as_many() -> None:
    host, guest, level = booted()
    base = guest.base >> PAGE_SHIFT
    assert level.slots[base] == ABSENT
    assert host.is_secure(guest.base)
    assert host.rig.chain[0].promised == len(level.base), "what was lent comes back by itself"


def test_bounded_donation_leaves_the_frames_where_they_are() -> None:
    host, guest, level = booted(donation="bounded")
    base = guest.base >> PAGE_SHIFT
    assert level.slots[base] != ABSENT and level.attention[base] & DONATED
    assert host.is_secure(guest.base)
    assert host.rig.chain[0].promised == 0
    run(host.destroy(guest))
    assert host.read(guest.base, 8) == bytes(8)
    check(host.rig)


def test_without_donation_the_host_keeps_everything_and_the_limit_is_lost() -> None:
    host, guest, level = booted(donation="off")
    host.write(guest.base, b"still mine")
    assert host.read(guest.base, 10) == b"still mine"
    assert not (level.attention & DONATED).any()
    run(host.destroy(guest))
    assert host.read(guest.base, 10) == b"still mine"
    check(host.rig)


def test_merged_faults_make_a_page_secure_without_a_call() -> None:
    host, guest, level = booted(pages="merged_l0")
    host.map(guest, PAGE)
    host.rig.ledger.reset()
    left = run(host.enter(guest, Touch(PAGE << 12, True, b"x"), Read(PAGE << 12, 2)))
    assert isinstance(left, SieExit)
    assert host.results(guest) == [{}, {"hex": "7800"}]
    flat = host.rig.ledger.flat()
    assert "exits.1.uvc.kernel" not in flat
    assert flat["exits.1.sie.kernel"] == 1, "one entry, and its guest host never heard of the page"
    assert flat["pages.merged"] == 1
    assert level.strategy.enlightenments == ("merged_l0",)
    assert host.is_secure(guest.pages[PAGE] << PAGE_SHIFT)
    check(host.rig)


def test_merged_faults_do_not_import_what_is_not_authentic() -> None:
    host, guest, _ = booted(pages="merged_l0")
    address = guest.pages[IMAGE_AT >> PAGE_SHIFT] << PAGE_SHIFT
    assert run(host.page_call(0x0201, address)).rc == EXECUTED
    host.write(address + 100, b"tampered")
    left = run(host.enter(guest, Read(IMAGE_AT, 4)))
    assert isinstance(left, Fault) and left.code == 0x3E
    assert run(host.convert(guest, IMAGE_AT >> PAGE_SHIFT)).rc == 0x0106


def test_prefault_secures_everything_that_is_mapped_before_the_guest_starts() -> None:
    host = NestedHost(compose(PROFILES["small"], 1, strategy=Strategy(pages="prefault")))
    run(host.init())
    guest = run(host.create())
    for page in range(PAGE, PAGE + 8):
        host.map(guest, page)
    run(host.load(guest))
    assert all(host.is_secure(guest.pages[page] << PAGE_SHIFT) for page in range(PAGE, PAGE + 8))
    host.rig.ledger.reset()
    steps = [Touch(page << 12, True) for page in range(PAGE, PAGE + 8)]
    assert isinstance(run(host.enter(guest, *steps)), SieExit)
    assert host.rig.ledger.flat()["exits"] == 2, "an entry and a wait"
    check(host.rig)


@pytest.mark.slow
def test_a_hypervisor_in_the_middle_is_told_of_no_enlightenment() -> None:
    """Its books would miss the pages."""
    host, _, level = booted(2, pages="merged_l0")
    middle = host.rig.levels[1]
    assert isinstance(middle, Nested)
    assert (middle.strategy.enlightenments, level.strategy.enlightenments) == ((), ("merged_l0",))
