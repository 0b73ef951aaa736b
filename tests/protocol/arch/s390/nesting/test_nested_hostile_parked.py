"""Between any two messages of one call the host's other CPU rewrites what the call was given.

Levels live apart and every message is held, so there is a moment between copying in and issuing, between
issuing and tracking, and so on at each level. Whatever is rewritten then (the control block, the SE header,
the guest's table, the page itself) the call does what it was first asked, or is refused; nothing of it is
lost, and the books of all levels agree. The moments are tried one by one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from guest_bench import FREE, MIB, PAGE, SEED, Bench, Guest, Reply, block

from protocol.arch.s390.audit import leaks
from protocol.arch.s390.compose import Rig, compose
from protocol.arch.s390.profiles import PROFILES
from protocol.crossing import Crossing

AT = 0x3000  # where the bench has its control blocks
GARBAGE = b"\xa5"
MOMENTS = 40  # more than any call here has


class Met:
    """A level as its host meets it: calls go by message, memory does not."""

    def __init__(self, level: Any, seen: Any) -> None:
        self._level, self._seen = level, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._seen if name in ("call", "enter") else self._level, name)


class Interrupted(Bench):
    """A host that does `harm` after so many messages of its next call; `late`: the call was over by then."""

    def __init__(self, depth: int) -> None:
        self.rig: Rig = compose(PROFILES["small"], depth, 1, 2200 * MIB, 2, SEED, apart=True)
        self.moment = -1
        self.harm: Callable[[], object] = lambda: None
        self.late = False
        level = self.rig.seats[0].level
        super().__init__(Met(level, self.rig.seen(level)), drive=self._drive)

    def _drive(self, step: Any) -> Any:
        crossing = Crossing(Random(0))
        thread = crossing.start("host", step, self.rig.below(0))
        hops = 0
        while not thread.done:
            if hops == self.moment:
                self.harm()
            crossing.hop()
            hops += 1
        if self.moment >= 0:
            self.late, self.moment = hops <= self.moment, -1
        if thread.error is not None:
            raise thread.error
        return thread.value

    def call_while(
        self, moment: int, harm: Callable[[], object], length: int, code: int, **fields: int
    ) -> Reply:
        """One call, and harm done after `moment` messages of it."""
        self.moment, self.harm = moment, harm
        return self.call(length, code, **fields)

    def agree(self) -> None:
        assert leaks(self.rig) == []


@pytest.fixture(params=[1, 2], ids=["depth1", "depth2"])
def bench(request: pytest.FixtureRequest) -> Interrupted:
    return Interrupted(request.param)


COPIED_IN = 2  # the first moment after the level below has read the block; before, it is another request


def moments(bench: Interrupted, first: int = 1) -> Iterator[int]:
    """One after the other, until a call was over before its moment came."""
    for moment in range(first, MOMENTS):
        yield moment
        bench.agree()
        if bench.late:
            return
    raise AssertionError("a call has more messages than there are moments")


def overwrite(bench: Bench, at: int, length: int) -> Callable[[], object]:
    def harm() -> None:
        assert bench.uv.write(at, GARBAGE * length) is None

    return harm


def test_a_control_block_is_read_once_at_every_level(bench: Interrupted) -> None:
    guest = bench.boot()
    for number, moment in enumerate(moments(bench, COPIED_IN)):
        gaddr = FREE + number * PAGE
        where = guest.back(gaddr)
        rest = overwrite(bench, AT + 8, 0x28 - 8)
        bench.call_while(moment, rest, 0x28, 0x0200, q18=guest.handle, q20=gaddr).done()
        assert bench.uv.refusal(where, PAGE) is not None, "the page that was asked for first is secure"
        assert bench.uv.read(AT + 8, 0x20) in (
            GARBAGE * 0x20,
            block(0x28, 0, q18=guest.handle, q20=gaddr)[8:],
        )


def test_what_a_creation_gives_is_known_whatever_its_block_is_by_then(bench: Interrupted) -> None:
    for moment in moments(bench, COPIED_IN):
        base, variable, sca = bench.alloc(16), bench.alloc(8), bench.alloc(4)
        top = bench.alloc(4)
        assert bench.uv.write(top, (0x20).to_bytes(8, "big") * 2048) is None
        fields = {"q20": base, "q28": variable, "q40": MIB, "q48": sca, "q50": top | 0x103}
        made = bench.call_while(moment, overwrite(bench, AT + 0x20, 0x60), 0x80, 0x0100, **fields).done()
        assert bench.uv.refusal(base, PAGE) is not None
        bench.call(0x40, 0x0101, q18=made.u(0x18)).done()
        assert bench.uv.refusal(base, 16 * PAGE) is None


def test_a_header_that_changes_is_taken_whole_or_refused(bench: Interrupted) -> None:
    image = bench.image()
    for moment in moments(bench):
        guest = Guest.create(bench, 1, 0)
        at = bench.alloc()
        assert bench.uv.write(at, image.header) is None
        spoil = overwrite(bench, at, len(image.header))
        asked = bench.call_while(moment, spoil, 0x50, 0x0300, q18=guest.handle, q20=at, w28=len(image.header))
        assert asked.rc in (0x0001, 0x0104), hex(asked.rc)
        assert bench.call(0x40, 0x0302, q18=guest.handle).rc == (0x0102 if asked.rc == 1 else 0x0003)
        bench.call(0x40, 0x0101, q18=guest.handle).done()


@pytest.mark.parametrize("to", ["nothing", "another page", "donated"])
def test_a_table_that_changes_under_an_import_shows_nothing(bench: Interrupted, to: str) -> None:
    """The page is secure where it was or where it is by now, or not at all; never half."""
    guest = bench.boot()
    for number, moment in enumerate(moments(bench)):
        gaddr = FREE + number * PAGE
        where, other = guest.back(gaddr), bench.alloc()
        entry = guest.tables[0] + 8 * (gaddr // PAGE % 256)
        target = {"nothing": 0x400, "another page": other, "donated": 0x8000_0000}[to]
        asked = bench.call_while(
            moment, lambda e=entry, t=target: bench.put(e, t), 0x28, 0x0200, q18=guest.handle, q20=gaddr
        )
        secure = [page for page in (where, other) if bench.uv.refusal(page, PAGE) is not None]
        assert len(secure) == (asked.rc == 1), (hex(asked.rc), secure)
        bench.put(entry, secure[0] if secure else where)
        if not secure:
            bench.call(0x28, 0x0200, q18=guest.handle, q20=gaddr).done()
        guest.pages[gaddr // PAGE] = secure[0] if secure else where
        guest.write(gaddr, b"mine")
        assert guest.read(gaddr, 4) == b"mine"


def test_a_page_that_changes_under_its_import_is_what_it_was_or_refused(bench: Interrupted) -> None:
    """An exported page is authentic or is not taken, whenever somebody writes into it."""
    guest = bench.boot()
    guest.secure(FREE)
    guest.write(FREE, b"the guest's own")
    for moment in moments(bench):
        cipher = guest.export(FREE)
        where = guest.pages[FREE // PAGE]

        def spoil(at: int = where) -> None:
            bench.uv.write(at, GARBAGE)  # refused once the page is secure

        asked = bench.call_while(moment, spoil, 0x28, 0x0200, q18=guest.handle, q20=FREE)
        assert asked.rc in (0x0001, 0x0106), hex(asked.rc)
        if asked.rc == 0x0106:
            assert bench.uv.write(where, cipher) is None
            bench.call(0x28, 0x0200, q18=guest.handle, q20=FREE).done()
        assert guest.read(FREE, 15) == b"the guest's own"
