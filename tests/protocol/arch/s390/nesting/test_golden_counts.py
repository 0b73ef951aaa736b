"""Exact counts, derived by hand: what each operation of a nested host costs in exits and reflections.

Hardware has one hypervisor, so every exit arrives at L0. One that belongs to L1 is reflected: L0 enters L1,
which is no exit. One that belongs to L2 is handed on by L1, which enters L2 for that, and L1's SIE is an exit
again. `1.sie` is L1's SIE arriving at L0, `3.pgm_11` a page-translation exception of an L3 guest, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nested_host import IMAGE_AT, Guest, NestedHost

from protocol.arch.s390.compose import compose
from protocol.arch.s390.guest import Read, Touch
from protocol.arch.s390.nesting import Nested, memory
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import QUI_LENGTH, SieExit, header
from protocol.effects import Fault, Step, run

PAGE = 0x20
FAR = 0x21


class Bench:
    """A host with a running guest whose tables and page tables exist at every level."""

    def __init__(self, depth: int, seed: int = 0) -> None:
        self.rig = compose(PROFILES["small"], depth, cpus=1, seed=seed)
        self.host = NestedHost(self.rig, seed=seed)
        run(self.host.init())
        self.guest: Guest = run(self.host.boot())
        self.cost(self.host.enter(self.guest, Read(IMAGE_AT, 4)))

    def cost(self, step: Step[object]) -> tuple[dict[str, int], dict[str, int]]:
        """What `step` takes: exits by level and reason, reflections by levels."""
        ledger = self.rig.ledger
        ledger.reset()
        self.answer = run(step)
        exits = {f"{key[1]}.{key[2]}": n for key, n in ledger.counts().items() if key[0] == "exits"}
        handed = {f"{key[1]}>{key[2]}": n for key, n in ledger.counts().items() if key[0] == "reflections"}
        return exits, handed

    def issued(self) -> dict[str, int]:
        """Calls that reached the real Ultravisor in the last step, by call and the level that caused them."""
        counts = self.rig.ledger.counts().items()
        return {f"{key[1]}/{key[2]}": n for key, n in counts if key[0] == "te_issued"}

    def nested(self, level: int) -> Nested:
        """L(level)'s emulation for the host above it."""
        found = (*self.rig.levels[1:], self.host.seat.level)[level]
        assert isinstance(found, Nested)
        return found


@pytest.fixture(scope="module", params=[1, 2, pytest.param(3, marks=pytest.mark.slow)])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)


@pytest.fixture(scope="module")
def one() -> Bench:
    return Bench(1)


@pytest.fixture(scope="module")
def two() -> Bench:
    return Bench(2)


def calls(bench: Bench) -> Iterator[Step[object]]:
    """Calls whose treatment issues exactly one call below."""
    host, guest = bench.host, bench.guest
    cpu = guest.vcpus[0].handle
    for code in (0x0310, 0x0311, 0x0321):
        yield host.handle_call(code, cpu)
    for code in (0x0302, 0x0320, 0x0340, 0x0101):
        yield host.handle_call(code, guest.handle)
    address = guest.pages[0] << 12
    yield host.page_call(0x0341, address)
    yield host.unpin(guest, 0)
    yield host.convert(guest, 0)


def test_one_uvc_costs_1_3_7_exits(bench: Bench) -> None:
    """E(1) = 1; at depth d the guest host's exit, the re-issue and the re-entry: E(d) = 2 E(d-1) + 1."""
    want = {1: 1, 2: 3, 3: 7}[bench.rig.depth]
    for call in calls(bench):
        exits, _ = bench.cost(call)
        assert sum(exits.values()) == want, exits
        assert exits[f"{bench.rig.depth}.uvc"] == 1
        assert bench.issued() and sum(bench.issued().values()) == 1


def test_an_emulated_uvc_costs_1_2_4_exits(bench: Bench) -> None:
    """Nothing is re-issued: the exit goes up to the hypervisor that answers it, and the host is entered."""
    exits, _ = bench.cost(bench.host.uvc(header(QUI_LENGTH, 0x0001)))
    assert sum(exits.values()) == {1: 1, 2: 2, 3: 4}[bench.rig.depth], exits
    assert bench.issued() == {}


def test_an_unknown_handle_costs_what_an_emulated_call_costs(bench: Bench) -> None:
    exits, _ = bench.cost(bench.host.handle_call(0x0302, 0x5A5A))
    assert sum(exits.values()) == {1: 1, 2: 2, 3: 4}[bench.rig.depth], exits
    assert bench.issued() == {}


def test_an_entry_costs_1_2_4_exits_and_an_exit_as_many(bench: Bench) -> None:
    """S(d) = 1 + hand-overs to L(d-1) + its own SIE, all of which are SIEs; the way back is as long."""
    exits, _ = bench.cost(bench.host.enter(bench.guest))
    assert isinstance(bench.answer, SieExit)
    way = {1: 1, 2: 2, 3: 4}[bench.rig.depth]
    assert exits.pop(f"{bench.rig.depth + 1}.wait") == 1
    assert sum(exits.values()) == way + (way - 1), exits
    assert all(name.endswith(".sie") for name in exits)


def test_each_call_is_counted_once_at_each_level_with_its_treatment(two: Bench) -> None:
    two.cost(two.host.handle_call(0x0320, two.guest.handle))
    counts = two.rig.ledger.counts()
    for origin in ("1", "2"):
        assert counts["te_calls", "prepare_reset", "lifecycle", "passed", origin] == 1
    assert two.issued() == {"prepare_reset/2": 1}


# -- traces of depth 1 ---------------------------------------------------------------------------------


def test_first_touch_at_depth_1(one: Bench) -> None:
    """L1 has mapped the page. L0 fills the shadow, 0x3E goes up, L1 imports and enters again."""
    one.host.map(one.guest, PAGE)
    assert one.cost(one.host.enter(one.guest, Touch(PAGE << 12, True))) == (
        {
            "1.sie": 1,  # L1 enters
            "2.pgm_11": 1,  # L0's shadow has no entry; it is filled and L2 entered again
            "2.pgm_3e": 1,  # the page is not secure: L1's business
        },
        {"0>1": 1},
    )
    assert isinstance(one.answer, Fault)
    assert one.cost(one.host.convert(one.guest, PAGE)) == ({"1.uvc": 1}, {})
    assert one.cost(one.host.enter(one.guest)) == ({"1.sie": 1, "2.wait": 1}, {"0>1": 1})


def test_export_and_import_at_depth_1(one: Bench) -> None:
    """The shadow keeps its entry, so the guest meets 0x3E at once."""
    address = one.guest.pages[IMAGE_AT >> 12] << 12
    assert one.cost(one.host.page_call(0x0201, address)) == ({"1.uvc": 1}, {})
    assert one.cost(one.host.enter(one.guest, Read(IMAGE_AT, 4))) == (
        {"1.sie": 1, "2.pgm_3e": 1},
        {"0>1": 1},
    )
    assert one.cost(one.host.convert(one.guest, IMAGE_AT >> 12)) == ({"1.uvc": 1}, {})
    assert one.cost(one.host.enter(one.guest)) == ({"1.sie": 1, "2.wait": 1}, {"0>1": 1})


def test_a_page_that_l0_swaps_at_depth_1(one: Bench) -> None:
    """L0's own calls are no exits. The guest's touch is one, that L1 never hears of."""
    frame = one.guest.pages[IMAGE_AT >> 12]
    assert one.cost(memory.swap(one.nested(0), frame)) == ({}, {})
    assert one.answer is True
    assert one.issued() == {"pin/0": 1, "convert_from_secure/0": 1}  # nobody asked for it
    assert one.cost(one.host.enter(one.guest, Read(IMAGE_AT, 4))) == (
        {"1.sie": 1, "2.pgm_11": 1, "2.wait": 1},
        {"0>1": 1},  # the wait; not the fault
    )
    assert one.issued() == {"convert_to_secure/1": 1}


def test_a_store_to_a_shadowed_table_at_depth_1(one: Bench) -> None:
    ledger = one.rig.ledger
    ledger.reset()
    one.host.map(one.guest, FAR)
    assert ledger.flat()["exits"] == ledger.flat()["exits.1.table_write.kernel"] == 1


# -- traces of depth 2 ---------------------------------------------------------------------------------


def test_first_touch_at_depth_2(two: Bench) -> None:
    two.host.map(two.guest, PAGE)
    assert two.cost(two.host.enter(two.guest, Touch(PAGE << 12, True))) == (
        {
            # L2 enters: up to L1 (0>1), which enters L3's shadow
            "2.sie": 1,
            # L1's SIE: for that; to enter it again when its own shadow is filled; to hand 0x3E to L2
            "1.sie": 3,
            # L0's shadow lacks what L1's shadow lacks (0>1); then it lacks it once more, which L0 mends alone
            "3.pgm_11": 2,
            # L1 fills its shadow, and L0 has read that table
            "1.table_write": 1,
            # the page is not secure: to L1 (0>1), to L2 (1>2)
            "3.pgm_3e": 1,
        },
        {"0>1": 3, "1>2": 1},
    )
    assert two.cost(two.host.convert(two.guest, PAGE)) == (
        {"2.uvc": 1, "1.uvc": 1, "1.sie": 1},
        {"0>1": 1},
    )
    assert two.cost(two.host.enter(two.guest)) == (
        {"2.sie": 1, "1.sie": 2, "3.wait": 1},
        {"0>1": 2, "1>2": 1},
    )


def test_export_and_import_at_depth_2(two: Bench) -> None:
    address = two.guest.pages[IMAGE_AT >> 12] << 12
    call = ({"2.uvc": 1, "1.uvc": 1, "1.sie": 1}, {"0>1": 1})
    assert two.cost(two.host.page_call(0x0201, address)) == call
    assert two.cost(two.host.enter(two.guest, Read(IMAGE_AT, 4))) == (
        {"2.sie": 1, "1.sie": 2, "3.pgm_3e": 1},
        {"0>1": 2, "1>2": 1},
    )
    assert two.cost(two.host.convert(two.guest, IMAGE_AT >> 12)) == call


def test_a_page_that_l0_swaps_at_depth_2(two: Bench) -> None:
    """One exit, whatever lies between L0 and the guest."""
    frame = two.nested(1).frame_below(two.guest.pages[IMAGE_AT >> 12])
    assert two.cost(memory.swap(two.nested(0), frame)) == ({}, {})
    assert two.answer is True
    assert two.cost(two.host.enter(two.guest, Read(IMAGE_AT, 4))) == (
        {"2.sie": 1, "1.sie": 2, "3.pgm_11": 1, "3.wait": 1},
        {"0>1": 2, "1>2": 1},
    )
    assert two.issued() == {"convert_to_secure/2": 1}


def test_a_page_that_l1_swaps_at_depth_2(two: Bench) -> None:
    """L1 is a host of L0 like any other: its calls and its stores to its shadow table are exits."""
    frame = two.guest.pages[IMAGE_AT >> 12]
    assert two.cost(memory.swap(two.nested(1), frame)) == (
        {"1.uvc": 2, "1.table_write": 1},  # pin is refused, export; the shadow entry goes
        {},
    )
    assert two.answer is True
    assert two.cost(two.host.enter(two.guest, Read(IMAGE_AT, 4))) == (
        {
            "2.sie": 1,
            "1.sie": 3,  # the entry, the entry again, the wait handed to L2
            "3.pgm_11": 1,  # L1's shadow has no entry: L1 fills it and imports, which fills L0's, too
            "1.table_write": 1,
            "1.uvc": 1,
            "3.wait": 1,
        },
        {"0>1": 3, "1>2": 1},
    )


def test_counts_do_not_depend_on_where_frames_lie() -> None:
    def costs(seed: int) -> list[object]:
        bench = Bench(2, seed)
        bench.host.map(bench.guest, PAGE)
        return [bench.cost(bench.host.enter(bench.guest, Touch(PAGE << 12))), *map(bench.cost, calls(bench))]

    assert costs(1) == costs(2)
