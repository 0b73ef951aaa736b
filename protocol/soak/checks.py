"""What must hold in a deployment. Each check says what it found by raising Violation.

Two kinds. The cheap ones look at every step: at each message that crosses. The full ones hold whole books
against each other and read all memory; they come every `FULL` steps, once what is under way on an island has
come to rest, and at the end. In between a book may be ahead of the other by the very call that is under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.soak.island import Island
from protocol.soak.living import TAG
from protocol.soak.options import Tally, Violation

FULL = 250  # steps between two looks at everything
LOOKED = 48  # frames of a host that are read at each full look
DEEP = 6  # of what is in a message
WORDS = {  # half of the tag, as a register has it
    int.from_bytes(half, order) for half in (TAG[:8], TAG[8:]) for order in ("big", "little")
}


def crossed(what: str, value: Any, tally: Tally) -> None:
    """Secrecy, at each message: no byte of a guest's secret in anything that a host is told or says."""
    tally.checks["secrecy_of_messages"] += 1
    if _tagged(value, 0):
        raise Violation("secrecy", f"{what} carries what a guest stored: {value!r:.300}")


def _tagged(value: Any, deep: int) -> bool:
    """Programs are the guest's own code and say what it stores: they are not what a host reads."""
    if isinstance(value, int):
        return value in WORDS
    if isinstance(value, bytes | bytearray | memoryview):
        return TAG in bytes(value)
    if deep == DEEP or type(value).__name__ == "Program":
        return False
    if isinstance(value, tuple | list):
        return any(_tagged(each, deep + 1) for each in value)
    if is_dataclass(value):
        return any(_tagged(getattr(value, field.name), deep + 1) for field in fields(value))
    return False


def island(one: Island) -> None:
    """All that must hold of an island at rest, before its hosts end for good."""
    assert one.quiet(), "books are compared at rest"
    books(one)
    memory(one)
    reach(one)
    frames(one)


def books(one: Island) -> None:
    """Each book against the one below: pages, donations, handles, ASIDs, KeyIDs, CPUs."""
    one.tally.checks["books"] += 1
    found = list(one.rig.leaks())
    if found:
        raise Violation("books", f"{one.name}, {one.arch.name} at depth {one.depth}: {found[:5]}")


def memory(one: Island) -> None:
    """No secret lies where the machine keeps what hosts can reach."""
    one.tally.checks["secrecy_of_memory"] += 1
    found = one.rig.exposed(TAG)
    if found:
        shown = ", ".join(hex(frame << PAGE_SHIFT) for frame in found[:5])
        raise Violation("secrecy", f"{one.name}: a guest's secret lies in {len(found)} open frames: {shown}")


def reach(one: Island) -> None:
    """A host's own loads find no secret: in frames that are marked, and in some that are not."""
    one.tally.checks["secrecy_of_loads"] += 1
    for host in one.hosts:
        level = one.level(host)
        marked = np.flatnonzero(level.attention)
        count = level.size >> PAGE_SHIFT
        some = [one.random.randrange(count) for _ in range(LOOKED // 4)]
        if marked.size:
            some += [int(marked[one.random.randrange(marked.size)]) for _ in range(LOOKED)]
        for frame in some:
            data = level.peek(frame << PAGE_SHIFT, PAGE)
            if isinstance(data, bytes) and TAG in data:
                raise Violation("secrecy", f"{host.name} reads a guest's secret in frame {frame:#x}")


def frames(one: Island) -> None:
    """No frame of a hypervisor is in two places."""
    one.tally.checks["frames"] += 1
    twice = frames_twice([one.level(host) for host in one.hosts])
    if twice:
        raise Violation("frames", f"{one.name}, {one.arch.name} at depth {one.depth}: {twice} frames twice")


def frames_twice(levels: Sequence[Any]) -> int:
    """How many frames are in two guest hosts, in one twice, or free as well."""
    parts = [level.slots[level.slots >= 0] for level in levels]
    parts += [pool.listed() for pool in {id(level.below.pool): level.below.pool for level in levels}.values()]
    seen = np.zeros(1 + max((int(part.max(initial=0)) for part in parts), default=0), bool)
    for part in parts:
        seen[part] = True
    twice: int = sum(part.size for part in parts) - int(np.count_nonzero(seen))
    return twice


def frames_known(levels: Sequence[Any]) -> int:
    """Frames that are free, in a guest host, of a level itself, or out of use for a reason written down."""
    free: int = sum(
        pool.free for pool in {id(level.below.pool): level.below.pool for level in levels}.values()
    )
    lost: int = sum(each.count for level in levels for each in getattr(level, "quarantine", ()))
    own: int = sum(getattr(level, "scratch", 0) for level in levels)
    return free + lost + own + sum(int(np.count_nonzero(level.slots >= 0)) for level in levels)


def nothing_left(one: Island) -> None:
    """All hosts are gone: the Trusted Entity holds nothing for anybody, and every frame is there again."""
    one.tally.checks["nothing_left"] += 1
    left = {kind: count for kind, count in one.rig.remains().items() if count}
    if left:
        raise Violation("nothing_left", f"{one.name}, {one.arch.name} at depth {one.depth}: {left}")
    gone = one.known - frames_known([one.level(host) for host in one.hosts])
    if gone:
        what = f"{gone} frames are lost" if gone > 0 else f"{-gone} frames more than there were"
        raise Violation("frames", f"{one.name}, {one.arch.name} at depth {one.depth}: {what}")
    memory(one)
