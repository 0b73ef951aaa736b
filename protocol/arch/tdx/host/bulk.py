"""Adding, accepting and reclaiming pages in runs: the same counts and the same state, in one step.

One page goes the long way, call by call, and its cost is that of each that follows (`protocol.fold`). A page
that needs new tables goes the long way, too: there is one in 512.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.tdx import runs
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Program, Tdcall
from protocol.arch.tdx.host.vm import Vm, missing, run, turn
from protocol.effects import Step
from protocol.fold import Fold
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.tdx.host.system import Host

FEWEST = 8  # pages; for fewer the long way is as short
ACCEPT = 6
FIRST, ALIKE = "first", "alike"


def accept_step(page: int) -> Tdcall:
    """TDG.MEM.PAGE.ACCEPT of one page."""
    return Tdcall(tuple(registers(rax=ACCEPT, rcx=page << PAGE_SHIFT)))


def accept(host: Host, vm: Vm, vcpu: int, pages: Sequence[int]) -> Step[bool]:
    """Pages that are not there yet; False, with nothing done, if they have to go the long way.

    The entry that meets a page completes the one before, so the first page of all costs less than the others.
    """
    level = host.level_here
    if (
        level is None
        or len(set(pages)) < max(FEWEST, len(pages))
        or any(page in vm.private for page in pages)
    ):
        return False
    fold, program = Fold(level.ledger), Program()
    left = list(pages)
    while left:
        count = 0
        if fold.knows(ALIKE):
            count = next((at for at, page in enumerate(left) if missing(vm, page)), len(left))
        if count and _in_one_step(host, vm, fold, left[:count]):
            del left[:count]
            continue
        page = left.pop(0)
        kind = ALIKE if fold.knows(FIRST) and not missing(vm, page) else FIRST
        with fold.measured(kind):
            yield from _long_way(host, vm, vcpu, program, page)
    yield from run(host, vm, vcpu, (), program=program)
    return True


def _long_way(host: Host, vm: Vm, vcpu: int, program: Program, page: int) -> Step[None]:
    """Enter until the guest has met the page and its host has added it."""
    program.steps.append(accept_step(page))
    r = registers(rcx=vm.vcpus[vcpu].handle)
    while page not in vm.private:
        r = yield from turn(host, vm, vcpu, program, r)


def _in_one_step(host: Host, vm: Vm, fold: Fold, pages: list[int]) -> bool:
    """Pages whose tables are there, each with the frame that it would have got; False if that cannot be."""
    level, tdr = host.level_here, vm.tdr >> PAGE_SHIFT
    assert level is not None
    frames = [host.pool.take() for _ in pages]
    order = np.argsort(pages)
    listed, below = np.array(pages, np.int64)[order], np.array(frames, np.int64)[order]
    if not runs.addable(level, tdr, listed, below):
        host.pool.give(reversed(frames))
        return False
    with fold.instead((ALIKE, len(pages))):
        runs.bring_in(level, tdr, listed, below)
        vm.private.update((page, frame << PAGE_SHIFT) for page, frame in zip(pages, frames, strict=True))
        host.keep("native_page", len(pages))
    return True


def reclaim(host: Host, vm: Vm, pages: Sequence[int]) -> Step[None]:
    """Take pages of a TD that has lost its key back, in their order."""
    level, tdr = host.level_here, vm.tdr >> PAGE_SHIFT
    rest = np.array(pages[1:], np.int64) >> PAGE_SHIFT
    if level is None or len(pages) < FEWEST or not runs.reclaimable(level, tdr, rest):
        for page in pages:
            yield from host.take_back(page)
        return
    fold = Fold(level.ledger)
    with fold.measured(ALIKE):
        yield from host.take_back(pages[0])
    with fold.instead((ALIKE, rest.size)):
        runs.reclaim(level, tdr, rest)
        host.level.clear(rest)
        host.give([frame << PAGE_SHIFT for frame in rest.tolist()])
