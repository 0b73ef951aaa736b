"""Clean up behind a guest host that gives no help: section 7.8 of the fact sheet.

A sudden reboot, a crash and an orderly shutdown look the same from here, since no call de-initialises an
Ultravisor. CPUs, then configurations, then pages are destroyed through the level below; what it will not give
back is leaked, as Linux does, and the quarantine counts it.

With `sync` the guest host comes back when all is done. With `async` its pages are left over: it finds them
plain and zero, a page that it touches is replaced at once, and `some_leftovers` destroys the old ones while
the guest host is up again. As many are left over as the pool could replace; the rest is destroyed before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.s390.nesting import bulk
from protocol.arch.s390.nesting.entities import TrackedConfig, TrackedCpu
from protocol.arch.s390.nesting.memory import CFS, DSS
from protocol.arch.s390.nesting.vcpu import forget_cpu, untrack_cpu
from protocol.arch.s390.nesting.vm import forget_config, give_up, untrack_config
from protocol.arch.s390.structs import EXECUTED, NODATA, PADDR, block
from protocol.effects import Step
from protocol.errors import OwnerGone
from protocol.memory.store import PAGE_SHIFT
from protocol.nesting.guest_host import ABSENT, DONATED, LEFTOVER

if TYPE_CHECKING:
    from protocol.arch.s390.nesting import Nested

DESTROY_CPU, DESTROY_CONFIG, DESTROY_FAST = 0x0121, 0x0101, 0x0102


def everything(nested: Nested, cause: str, late: bool) -> Step[None]:
    """End all that the guest host has; with `late` its pages may be destroyed later.

    Its own calls and entries have ended before, with OwnerGone.
    """
    assert not any(secure.inside for secure in nested.secure_cpus.values()), "a CPU is still in SIE"
    assert not nested.keeping, "the level still works on this guest host"
    nested.keeping = True
    nested.locks.clear()
    nested.keeper.cpu.origin = nested.level
    while nested.unfinished:
        give_up(nested, nested.unfinished.popitem()[1])
    try:
        for secure in list(nested.secure_cpus.values()):
            yield from _cpu(nested, secure, cause)
        for config in list(nested.configs.values()):
            yield from _config(nested, config, cause, late)
        pages = _pages_that_are_away(nested, cause)
        left = _leave_over(nested, pages, cause) if late else 0
        yield from _pages(nested, pages[left:], cause)
    finally:
        nested.keeping = False
        nested.keeper.cpu.origin = 0
    nested.normal.clear()
    if nested.ready:
        nested.returns(nested.base)
        nested.book.drop("te_context")
        nested.ledger.count(("teardown", "donated_page", cause), len(nested.base))
    nested.base = range(0)
    nested.ready = False


def _cpu(nested: Nested, secure: TrackedCpu, cause: str) -> Step[None]:
    outcome = yield from nested.keeper.uvc(block(0x40, DESTROY_CPU, NODATA, secure.real))
    nested.ledger.count(("teardown", "cpu", cause))
    nested.ledger.count(("teardown", "donated_page", cause), len(secure.storage))
    if outcome.rc == EXECUTED:
        forget_cpu(nested, secure)
        return
    nested.lose(secure.donated, f"destroy CPU {secure.real:#x}: rc {outcome.rc:#x}")
    nested.returns(secure.storage)
    untrack_cpu(nested, secure)


def _config(nested: Nested, config: TrackedConfig, cause: str, late: bool) -> Step[None]:
    fast = late and DESTROY_FAST in nested.calls
    code, length = (DESTROY_FAST, 0x48) if fast else (DESTROY_CONFIG, 0x40)
    outcome = yield from nested.keeper.uvc(block(length, code, NODATA, config.real))
    nested.ledger.count(("teardown", "config", cause))
    nested.ledger.count(("teardown", "donated_page", cause), len(config.base) + len(config.variable))
    if outcome.rc == EXECUTED:
        forget_config(nested, config)
        return
    reason = f"destroy configuration {config.real:#x}: rc {outcome.rc:#x}"
    for run in (*config.donated, config.sca):
        nested.lose(run, reason)
    nested.returns(config.base)
    nested.returns(config.variable)
    untrack_config(nested, config)


def _pages_that_are_away(nested: Nested, cause: str) -> np.ndarray:
    """Wipe what this level swapped out; returns the frames of all other pages of guests."""
    away = list(nested.away)
    if away:
        nested.below.memory.clear(nested.slots[np.array(away)])
        nested.ledger.count(("teardown", "away_page", cause), len(away))
    for frame in away:
        nested.untrack_page(frame)
    return np.flatnonzero(nested.page_owner != 0)


def _pages(nested: Nested, frames: np.ndarray, cause: str) -> Step[None]:
    if nested.folds:
        frames = bulk.tear_down(nested, frames, lambda frame: _page(nested, frame, cause))
    for frame in frames.tolist():
        yield from _page(nested, frame, cause)


def _page(nested: Nested, frame: int, cause: str) -> Step[None]:
    done = yield from _destroy(nested, nested.frame_below(frame))
    nested.ledger.count(("teardown", "page", cause))
    if not done:
        _lose_page(nested, frame)
    nested.untrack_page(frame)


def _destroy(nested: Nested, below: int) -> Step[bool]:
    """Destroy one page; exporting it is the next best thing, and then it is wiped."""
    outcome = yield from nested.keeper.uvc(block(0x20, DSS, PADDR, below << PAGE_SHIFT))
    if outcome.rc == EXECUTED:
        return True
    outcome = yield from nested.keeper.uvc(block(0x20, CFS, PADDR, below << PAGE_SHIFT))
    if outcome.rc == EXECUTED:  # pragma: no cover - the machine here refuses both alike
        nested.below.memory.clear([below])
    return bool(outcome.rc == EXECUTED)


def _lose_page(nested: Nested, frame: int) -> None:
    """The frame below stays secure for ever: the guest host gets another one, if there is one."""
    below = nested.frame_below(frame)
    nested.quarantine.add(below, 1, "destroy page")
    if nested.below.pool.free > nested.below.promised:
        new = nested.below.pool.take()
        nested.below.memory.clear([new])
        nested.put_under(frame, new)
    else:
        nested.slots[frame] = ABSENT
        nested.mark(frame, DONATED)


# -- pages that are destroyed later ------------------------------------------------------------------


def _leave_over(nested: Nested, pages: np.ndarray, cause: str) -> int:
    """Leave as many of `pages` over as could be replaced; returns how many."""
    count = max(0, min(len(pages), nested.below.pool.free - nested.below.promised))
    late = pages[:count]
    nested.below.promised += count
    nested.leftovers.update(dict.fromkeys(late.tolist()))
    for frame in late.tolist():
        nested.untrack_page(frame)
    nested.attention[late] |= LEFTOVER
    nested.book.add("pending_teardown", count)
    nested.note_peaks()
    nested.ledger.count(("teardown", "left_over", cause), count)
    return count


def some_leftovers(nested: Nested, count: int, cause: str = "l1_reboot") -> Step[int]:
    """Destroy at most `count` pages that were left over; returns how many are still there."""
    if nested.keeping:
        return len(nested.detached) + len(nested.leftovers)
    nested.keeping = True
    nested.keeper.cpu.origin = nested.level
    try:
        if nested.folds:
            count -= bulk.end_leftovers(nested, count, lambda: _one_leftover(nested, cause))
        for _ in range(count):
            if not nested.detached and not nested.leftovers:
                break
            yield from _one_leftover(nested, cause)
    finally:
        nested.keeping = False
        nested.keeper.cpu.origin = 0
    return len(nested.detached) + len(nested.leftovers)


def _one_leftover(nested: Nested, cause: str) -> Step[None]:
    """Those that were replaced come first: their frames are wanted."""
    frame = None if nested.detached else next(iter(nested.leftovers))
    below = nested.detached.pop() if frame is None else nested.frame_below(frame)
    try:
        done = yield from _destroy(nested, below)
    except OwnerGone:
        if frame is None:
            nested.detached.append(below)
        raise
    nested.ledger.count(("teardown", "page", cause))
    nested.book.drop("pending_teardown")
    if frame in nested.leftovers:
        if done:
            nested.below.promised -= 1
            del nested.leftovers[frame]
            nested.unmark(frame, LEFTOVER)
            return
        nested.replace_leftover(frame)
    if frame is not None:  # it was replaced, now or while the call was under way
        nested.detached.remove(below)
    if done:
        nested.below.pool.give((below,))
    else:
        nested.quarantine.add(below, 1, "destroy page")


def all_leftovers(nested: Nested, cause: str) -> Step[None]:
    """Destroy everything that was left over, now."""
    yield from some_leftovers(nested, len(nested.detached) + len(nested.leftovers), cause)


def clear_memory(nested: Nested) -> None:
    """Zero all memory of the guest host; what was left over is zero to it already, and secure below."""
    nested.clear(np.flatnonzero((nested.slots != ABSENT) & ((nested.attention & LEFTOVER) == 0)))
