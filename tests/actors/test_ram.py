"""A guest host's RAM in a file of its own: what lies in it, and that nothing else ever does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from actors.ram import MachineRam, RamFile
from protocol.arch import load
from protocol.ledger import Ledger
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting.sizes import Sizes

MEMORY = 128 << 20
FRAMES = 16  # of the host, which these tests are about
LOOKED = FRAMES << PAGE_SHIFT


class Apart:
    """L0 with one guest host, whose RAM lies in a file that the host maps."""

    def __init__(self, arch: str) -> None:
        self.rig = load(arch).comparison.compose(Sizes("small", 1, 1, MEMORY, 2, 1), Ledger())
        self.level: Any = self.rig.seats[0].level
        self.storage = self.rig.machines[0].storage
        self.file = RamFile.create(len(self.level.slots))
        self.ram = MachineRam(self.storage, self.file, self.level.slots.copy())
        self.level.live_in(self.ram, self.file.attention)

    @property
    def pool(self) -> Any:
        return self.level.below.pool

    def mapped(self, frame: int, length: int) -> bytes:
        """What the host finds in a frame of its own, through its mapping."""
        return self.file.read(frame << PAGE_SHIFT, length)

    def seen_by_the_host(self, below: np.ndarray) -> list[int]:
        """Those of the frames of L0 whose bytes lie where the host maps them."""
        before = self.file.read(0, LOOKED)
        found = []
        for frame in below.tolist():
            kept = self.storage.read(frame << PAGE_SHIFT, 8)
            self.storage.write(frame << PAGE_SHIFT, b"of L0's!")
            if self.file.read(0, LOOKED) != before:
                found.append(frame)
            self.storage.write(frame << PAGE_SHIFT, kept)
        return found

    def close(self) -> None:
        self.ram.evict()
        self.level.moved_out()
        self.ram.close()


@pytest.fixture(params=["s390", "pef"])
def apart(request: pytest.FixtureRequest) -> Iterator[Apart]:
    made = Apart(request.param)
    yield made
    made.close()


def test_a_store_of_either_side_is_a_load_of_the_other(apart: Apart) -> None:
    assert apart.level.poke(7 << PAGE_SHIFT, b"from below") is None
    assert apart.mapped(7, 10) == b"from below"
    apart.file.write(8 << PAGE_SHIFT, b"from the host")
    assert apart.level.peek(8 << PAGE_SHIFT, 13) == b"from the host"


def test_a_page_that_moves_below_stays_where_the_host_maps_it(apart: Apart) -> None:
    level, new = apart.level, apart.pool.take()
    level.poke(3 << PAGE_SHIFT, b"kept")
    old = level.move_under(3, new)
    assert old != new == level.frame_below(3)
    assert level.peek(3 << PAGE_SHIFT, 4) == b"kept"
    assert apart.mapped(3, 4) == b"kept", "the host has not been told, and finds it as before"
    assert apart.seen_by_the_host(np.array([old, new])) == [new]


def test_another_frame_under_a_page_is_an_empty_one_in_the_same_place_of_the_file(apart: Apart) -> None:
    level, new = apart.level, apart.pool.take()
    level.poke(3 << PAGE_SHIFT, b"gone")
    old = level.put_under(3, new)
    assert apart.mapped(3, PAGE) == bytes(PAGE)
    assert apart.seen_by_the_host(np.array([old, new])) == [new]


def test_no_frame_that_the_host_has_not_lies_in_its_file_whatever_moved_before(apart: Apart) -> None:
    """A frame that had moved left its place in the file to the next one that left: two had one place."""
    level = apart.level
    for frame in range(4):
        new = apart.pool.take()
        apart.pool.give((level.move_under(frame, new),))
    lost = [level.put_under(frame, apart.pool.take()) for frame in range(4, 8)]
    assert apart.seen_by_the_host(np.array(lost)) == []
    assert apart.seen_by_the_host(level.slots[:8]) == level.slots[:8].tolist()


def test_after_its_end_nothing_of_l0_lies_in_its_file(apart: Apart) -> None:
    level = apart.level
    level.poke(9 << PAGE_SHIFT, b"gone with it")
    apart.ram.evict()
    assert apart.seen_by_the_host(level.slots[:FRAMES]) == []
    assert apart.storage.read(level.frame_below(9) << PAGE_SHIFT, 12) == bytes(12), (
        "the next one finds zeroes"
    )


def test_a_file_of_another_size_is_not_taken(apart: Apart) -> None:
    with pytest.raises(ValueError, match="a RAM file of 3 frames has 16384 bytes"):
        RamFile.attach(apart.file.fd, 3)
