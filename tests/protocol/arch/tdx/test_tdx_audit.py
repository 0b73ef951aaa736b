"""Two books of one thing: whatever only one of them has is named, by the name that its host knows it by."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.arch.tdx.audit import audit, in_machine, statistics
from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.profiles import MIB, PROFILES
from protocol.arch.tdx.tables import KeyState, Lifecycle, PageType
from protocol.effects import run
from protocol.plan import operations as op


class Alive:
    """A host at some depth with one TD."""

    def __init__(self, depth: int) -> None:
        self.rig = compose(PROFILES["small"], depth, memory_bytes=192 * MIB)
        seat = self.rig.seats[0]
        self.level: Any = seat.level
        self.host = Host(self.level, seat.cpus, depth=depth, image=bytes(4096))
        for operation in (op.BootHost(), op.Create(0, 2, 1), op.Load(0), op.Start(0)):
            run(self.host.perform(operation))
        self.tdr = self.host.guests[0].tdr
        assert self.leaks() == []

    def leaks(self) -> list[tuple[str, str]]:
        return [(leak["kind"], leak["id"]) for leak in audit(self.rig)["leaks"]]


@pytest.fixture
def machine() -> Any:
    return Alive(0)


def test_a_td_that_counts_other_pages_than_it_has_is_named(machine: Alive) -> None:
    machine.level.tds[machine.tdr >> 12].children += 1
    assert machine.leaks() == [("td", hex(machine.tdr))]


def test_pages_of_a_td_that_is_not_there_are_named_and_so_is_its_key(machine: Alive) -> None:
    del machine.level.tds[machine.tdr >> 12]
    hkids = [hkid for hkid, key in machine.level.platform.kot.items() if key.state is KeyState.ASSIGNED]
    assert machine.leaks() == [("pages", hex(machine.tdr)), *(("hkid", hex(hkid)) for hkid in hkids)]


def test_a_key_that_is_free_while_a_td_has_it_is_named(machine: Alive) -> None:
    hkid = machine.level.tds[machine.tdr >> 12].hkid
    machine.level.platform.kot[hkid].state = KeyState.FREE
    assert machine.leaks() == [("hkid", hex(hkid))]


def test_a_tdr_that_the_book_of_pages_has_as_something_else_is_named() -> None:
    level = Alive(0).level
    (frame,) = level.tds
    level.platform.kind[frame] = PageType.NDA
    assert [(leak.kind, leak.host) for leak in in_machine(level, 7)] == [("td", 7), ("pages", 7)]


@pytest.mark.parametrize("depth", [1, 2])
def test_what_an_emulation_has_otherwise_than_the_machine_is_named_in_its_hosts_words(depth: int) -> None:
    alive = Alive(depth)
    platform, td = alive.level.platform, alive.level.tds[alive.tdr >> 12]
    td.lifecycle = Lifecycle.BLOCKED
    assert alive.leaks() == [("td", hex(alive.tdr))]
    td.lifecycle = Lifecycle.KEYS_CONFIGURED
    page = int((platform.kind == PageType.REG).nonzero()[0][0])
    platform.owner[page] += 1
    assert alive.leaks() == [("owner", hex(page << 12))]
    platform.kind[page] = PageType.NDA
    assert alive.leaks() == [("page", hex(page << 12))]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_hosts_pages_and_keys_are_counted_from_both_books(depth: int) -> None:
    alive = Alive(depth)
    (host,) = audit(alive.rig)["hosts"]
    assert host["te"]["tdr"] == host["te"]["hkid_assigned"] == 1
    assert host["tracked"] == (statistics(alive.level) if depth else {})
    if depth:
        assert host["tracked"] == host["te"]
    assert host["secure_pages"] == host["te"]["reg"]
