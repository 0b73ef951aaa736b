"""Touching, validating and giving back in runs: the same counts and the same state, in one step.

One page of each kind goes the long way, and its cost is that of each that follows (`protocol.fold`). What
the way of a page depends on, at any depth: whether the host's table for it is there, and whether the page
before lies in the same 2 MiB of the host, because RMPUPDATE drops the shadows around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.sev import runs
from protocol.arch.sev.cpu import GHCB_MSR
from protocol.arch.sev.guest import GuestStep, Program, Pvalidate, Touch, Wrmsr
from protocol.arch.sev.host.vm import Vm, run, turn
from protocol.arch.sev.nesting import Nested
from protocol.arch.sev.nesting.shadow import Space
from protocol.arch.sev.rmp import SUBPAGES
from protocol.arch.sev.structs import C_MASK, ES_ON, PAGE, SEV_ON, SHARED
from protocol.effects import Step
from protocol.fold import Fold

if TYPE_CHECKING:
    from protocol.arch.sev.host.system import Host

FEWEST = 8  # pages; for fewer the long way is as short
ONE, EMPTY = "one", "empty"

Effect = Callable[["Host", Vm, np.ndarray], None]
"""What a step did to the pages in these frames of the host."""


@dataclass(frozen=True, slots=True)
class Way:
    """A step that the guest does with each page, and what it leaves.

    `private` says among which pages of the guest's its host keeps them.
    """

    step: Callable[[int], GuestStep]
    effect: Effect
    private: bool = True

    def places(self, vm: Vm) -> dict[int, int]:
        return vm.private if self.private else vm.shared


def _validated(host: Host, _: Vm, frames: np.ndarray) -> None:
    assert host.level_here is not None
    runs.validate(host.level_here, frames)


def _invalidated(host: Host, _: Vm, frames: np.ndarray) -> None:
    assert host.level_here is not None
    runs.validate(host.level_here, frames, valid=False)


def _touched(host: Host, vm: Vm, frames: np.ndarray) -> None:
    assert host.level_here is not None
    runs.touch(host.level_here, frames, vm.asid)


def _zeroed(*_: object) -> None:
    """A zero byte, stored to a page of zeroes that nobody encrypts."""


ACCEPT = Way(lambda page: Pvalidate(page * PAGE, 0, 1), _validated)
REJECT = Way(lambda page: Pvalidate(page * PAGE, 0, 0), _invalidated)
USE = Way(lambda page: Touch(page * PAGE | C_MASK, write=True), _touched)
USE_SHARED = Way(lambda page: Touch(page * PAGE, write=True), _zeroed, private=False)
USE_OPEN = Way(lambda page: Touch(page * PAGE, write=True), _zeroed)  # where nobody has to be told


def step_with(host: Host, vm: Vm, vcpu: int, way: Way, pages: Sequence[int]) -> Step[None]:
    """The guest does its step with each of `pages`, in this order, in runs where that can be."""
    places = way.places(vm)
    distinct = set(pages) if host.level_here is not None and len(pages) >= FEWEST else set()
    if distinct and len(distinct) == len(pages):
        if places.keys().isdisjoint(distinct):
            yield from _BringIn(host, vm, vcpu, way, np.array(pages, np.int64)).all()
            return
        if way.private and places.keys() >= distinct:
            yield from _on_mapped(host, vm, vcpu, way, pages)
            return
    yield from run(host, vm, vcpu, map(way.step, pages))


# -- pages that are not there yet --------------------------------------------------------------------------


class _BringIn:
    """First uses. The entry that meets a page completes the step of the one before."""

    def __init__(self, host: Host, vm: Vm, vcpu: int, way: Way, pages: np.ndarray) -> None:
        level = host.level_here
        assert level is not None
        self._level = level
        self._host, self._vm, self._vcpu, self._way, self._pages = host, vm, vcpu, way, pages
        self._fold = Fold(level.ledger)
        self._program = Program()
        self._before = -1  # the frame under the page whose step is not completed

    def all(self) -> Step[None]:
        """Pages that need a new table go the long way, and the last one, which leaves all as it should be."""
        _, firsts = np.unique(self._pages >> 9, return_index=True)
        holds = self._vm.tables.holds
        slow = [at for at in np.sort(firsts).tolist() if not holds(int(self._pages[at]) * PAGE)]
        slow += [self._pages.size - 1] if self._pages.size - 1 not in slow else []
        at = 0
        for stop in slow:
            while at < stop:
                done = self._in_one_step(at, stop) if self._before >= 0 else 0
                at += done
                if at < stop:
                    yield from self._long_way(at, alike=True)
                    at += 1
            yield from self._long_way(at, alike=False)
            at += 1
        yield from run(self._host, self._vm, self._vcpu, (), program=self._program)

    def _long_way(self, at: int, alike: bool) -> Step[None]:
        """Enter until the guest has met the page and its host has brought it in."""
        host, vm, page = self._host, self._vm, int(self._pages[at])
        listed = _next_frame(host)
        self._program.steps.append(self._way.step(page))
        if not alike or self._before < 0 or not listed.size or runs.near(self._level, listed).any():
            yield from self._until_there(page)
        else:
            with self._fold.measured(int(self._kinds(listed)[0])):
                yield from self._until_there(page)
        self._before = self._way.places(vm)[page] // PAGE

    def _until_there(self, page: int) -> Step[None]:
        places = self._way.places(self._vm)
        while page not in places:
            yield from turn(self._host, self._vm, self._vcpu, self._program)

    def _kinds(self, frames: np.ndarray) -> np.ndarray:
        """Of each page: does it lie in the same block as the one before, level by level?"""
        chain = np.concatenate(([self._before], frames))
        kinds = np.zeros(frames.size, np.int64)
        for blocks in runs.blocks(self._level, chain):
            kinds = 2 * kinds + (np.diff(blocks) == 0)
        return kinds

    def _in_one_step(self, start: int, stop: int) -> int:
        """Bring pages in as far as their kinds are known; how many. Each has the frame that it would have."""
        host = self._host
        if host.pool.free < stop - start:
            return 0
        frames = host.pool.take_each(stop - start)
        count = self._alike(frames)
        host.pool.give(frames[count:][::-1])
        if count:
            self._do(self._pages[start : start + count], frames[:count])
        return count

    def _alike(self, frames: np.ndarray) -> int:
        """How many of these, from the first on, are brought in in a known way."""
        near = np.flatnonzero(runs.near(self._level, frames))
        count = int(near[0]) if near.size else frames.size
        kinds = self._kinds(frames[:count])
        strange = [kind for kind in np.unique(kinds).tolist() if not self._fold.knows(kind)]
        if strange:
            count = int(np.flatnonzero(np.isin(kinds, strange))[0])
        usable = count and _usable(self._host, self._level, frames[:count], self._way.private)
        return count if usable else 0

    def _do(self, pages: np.ndarray, frames: np.ndarray) -> None:
        """All but the last have their step done; that of the last is pending."""
        host, vm, way = self._host, self._vm, self._way
        kinds, counts = np.unique(self._kinds(frames), return_counts=True)
        with self._fold.instead(*zip(kinds.tolist(), counts.tolist(), strict=True)):
            _back(host, vm, self._level, way.places(vm), pages, frames)
            way.effect(host, vm, np.concatenate(([self._before], frames[:-1])))
        self._program.steps.clear()
        self._program.steps.append(way.step(int(pages[-1])))
        self._before = int(frames[-1])


# -- pages that are there ----------------------------------------------------------------------------------


def _on_mapped(host: Host, vm: Vm, vcpu: int, way: Way, pages: Sequence[int]) -> Step[None]:
    """Pages that its host has brought in: they miss in a shadow at most."""
    level = host.level_here
    assert level is not None
    listed = np.array(pages, np.int64)
    frames = np.fromiter(map(vm.private.__getitem__, pages), np.int64, len(pages)) // PAGE
    fast = _unmapped(host, vm, level, listed)
    fast[-1] = False
    if np.count_nonzero(fast) < FEWEST or (way is USE and not runs.untouched(level, frames[fast])):
        yield from run(host, vm, vcpu, map(way.step, pages))
        return
    yield from _in_parts(host, vm, vcpu, way, listed, frames, fast)


def _space(host: Host, vm: Vm, level: Nested) -> Space | None:
    return level.shadows.known(vm.tables.root, vm.asid, host.kind.mode & (SEV_ON | ES_ON))


def _unmapped(host: Host, vm: Vm, level: runs.Level, pages: np.ndarray) -> np.ndarray:
    """Which pages miss in the shadow of the guest's tables, and nothing else: where there is none, all."""
    if not isinstance(level, Nested):
        return np.ones(pages.size, bool)
    space = _space(host, vm, level)
    if space is None:
        return np.zeros(pages.size, bool)
    fast = np.array([page not in space.pages for page in pages.tolist()])
    _, firsts = np.unique(pages >> 9, return_index=True)
    for at in firsts.tolist():
        if (21, int(pages[at]) >> 9) not in space.tables:
            fast[at] = False
    return fast


def _in_parts(
    host: Host, vm: Vm, vcpu: int, way: Way, pages: np.ndarray, frames: np.ndarray, fast: np.ndarray
) -> Step[None]:
    """The guest is entered several times where once would do: an entry that does nothing is taken off for
    each.
    """
    level = host.level_here
    assert level is not None
    fold = Fold(level.ledger)
    model = int(np.flatnonzero(fast)[0])
    fast[model] = False
    slow = np.flatnonzero(~fast)
    entries = 0
    for part in (slow[slow < model], slow[slow == model], slow[(slow > model) & (slow < pages.size - 1)]):
        steps = [way.step(page) for page in pages[part].tolist()]
        if part.size == 1 and part[0] == model:
            with fold.measured(ONE):
                yield from run(host, vm, vcpu, steps)
        else:
            yield from run(host, vm, vcpu, steps)
        entries += bool(steps)
    with fold.instead():
        if isinstance(level, Nested) and (space := _space(host, vm, level)) is not None:
            level.shadows.map_each(space, pages[fast], frames[fast])
        way.effect(host, vm, frames[fast])
    yield from run(host, vm, vcpu, [way.step(int(pages[-1]))])
    with fold.measured(EMPTY):
        nothing = Wrmsr(GHCB_MSR, vm.ghcb(vcpu)) if vm.ghcbs else Touch(int(pages[-1]) * PAGE | C_MASK)
        yield from run(host, vm, vcpu, [nothing])
    count = int(np.count_nonzero(fast))
    fold.add(ONE, count)
    fold.add(EMPTY, -count - entries - 1)


# -- before the guest runs ---------------------------------------------------------------------------------


def bring_ahead(host: Host, vm: Vm, pages: Sequence[int]) -> Step[None]:
    """Put memory under ascending pages that no guest has asked for: a run for each table, but for its first
    page.
    """
    level, listed = host.level_here, np.array(pages, np.int64)
    if level is None or listed.size < FEWEST:
        for page in pages:
            yield from host.kind.bring_in(host, vm, page)
        return
    fold = Fold(level.ledger)
    for part in np.split(listed, np.flatnonzero(np.diff(listed >> 9)) + 1):
        yield from host.kind.bring_in(host, vm, int(part[0]))
        rest = part[1:]
        if rest.size and not fold.knows(ONE) and not runs.near(level, _next_frame(host)).any():
            with fold.measured(ONE):
                yield from host.kind.bring_in(host, vm, int(rest[0]))
            rest = rest[1:]
        yield from _ahead(host, vm, level, fold, rest)


def _ahead(host: Host, vm: Vm, level: runs.Level, fold: Fold, pages: np.ndarray) -> Step[None]:
    if fold.knows(ONE) and pages.size and host.pool.free >= pages.size:
        frames = host.pool.take_each(pages.size)
        if _usable(host, level, frames, True) and not runs.near(level, frames).any():
            with fold.instead((ONE, pages.size)):
                _back(host, vm, level, vm.private, pages, frames)
            return
        host.pool.give(frames[::-1])
    for page in pages.tolist():
        yield from host.kind.bring_in(host, vm, page)


def _next_frame(host: Host) -> np.ndarray:
    """The frame that will be taken next, if there is one."""
    if not host.pool.free:
        return np.empty(0, np.int64)
    frame = host.pool.take()
    host.pool.give([frame])
    return np.array([frame])


def _usable(host: Host, level: runs.Level, frames: np.ndarray, private: bool) -> bool:
    """Can memory of a guest's come to lie in these?"""
    test = runs.free if private and host.kind.snp else runs.plain
    return test(level, frames)


def _back(
    host: Host, vm: Vm, level: runs.Level, places: dict[int, int], pages: np.ndarray, frames: np.ndarray
) -> None:
    """The host has put these frames under pages of its guest's."""
    host.level.clear(frames)
    if places is vm.private and host.kind.snp:
        runs.assign(level, frames, vm.asid, pages)
    vm.tables.map_each(pages, frames)
    places.update(zip(pages.tolist(), (frames * PAGE).tolist(), strict=True))
    host.keep("native_page", pages.size)


# -- the list of a page state change -----------------------------------------------------------------------


def ask(
    host: Host,
    lists: Sequence[Sequence[int]],
    one: Callable[[Sequence[int]], Step[None]],
    nothing_to_do: bool,
) -> Step[None]:
    """Ask with each of `lists`. Where that makes the host do nothing, those behind the second cost what it
    does; the last one is asked with, too, as its list stays in memory.
    """
    level = host.level_here
    if level is None or not nothing_to_do or len(lists) < 4:
        for each in lists:
            yield from one(each)
        return
    fold = Fold(level.ledger)
    yield from one(lists[0])
    with fold.measured(ONE):
        yield from one(lists[1])
    fold.add(ONE, len(lists) - 3)
    yield from one(lists[-1])


# -- the end -----------------------------------------------------------------------------------------------


def take_back(host: Host, vm: Vm, pages: Sequence[int]) -> Step[None]:
    """RMPUPDATE of a guest's private pages, in their order.

    One with mappings around it drops them all, so those that follow in its block find none.
    """
    level, frames = host.level_here, np.array(pages, np.int64) // PAGE
    if level is None or frames.size < FEWEST:
        yield from _one_by_one(host, frames)
        return
    fold, at = Fold(level.ledger), 0
    near = np.flatnonzero(runs.near(level, frames))
    firsts = near[np.unique(frames[near] // SUBPAGES, return_index=True)[1]]
    for stop in [*np.sort(firsts).tolist(), frames.size]:
        yield from _released(host, vm, level, fold, frames[at:stop])
        yield from _one_by_one(host, frames[stop : stop + 1])
        at = stop + 1


def _released(host: Host, vm: Vm, level: runs.Level, fold: Fold, frames: np.ndarray) -> Step[None]:
    """Pages with nothing mapped around them."""
    if frames.size and not fold.knows(ONE) and not runs.near(level, frames[:1]).any():
        with fold.measured(ONE):
            yield from _one_by_one(host, frames[:1])
        frames = frames[1:]
    if not frames.size or not runs.owned(level, frames, vm.asid):
        yield from _one_by_one(host, frames)
        return
    with fold.instead((ONE, frames.size)):
        runs.release(level, frames, vm.asid)


def _one_by_one(host: Host, frames: np.ndarray) -> Step[None]:
    for frame in frames.tolist():
        yield from host.driver.rmpupdate(frame * PAGE, SHARED)
