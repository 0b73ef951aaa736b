"""Every order of messages after a host is cut: an explorer over the code itself. A plain module.

Nothing is modelled. A case is two hosts on a level that live apart; at one message of the victim's it is cut,
and then what serves it, its teardown and its sibling's operation go on one message at a time. Wherever both
can go on, both are gone into: the process forks, so a state is never made anew. A state that was seen before
(`states.digest`) is not gone into again. So every order is looked at, and what comes of it is checked, though
there are far more orders than states.
"""

from __future__ import annotations

import gc
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from states import digest

from protocol.arch.contract import Architecture
from protocol.crossing import Thread, inline
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.soak.checks import frames_known, frames_twice
from protocol.soak.island import MEMORY_MIB, MIB, PROFILE

VICTIM, SIBLING = 0, 1  # the threads of a case


@dataclass
class Case:
    """Two hosts on one level; `victim` is in the middle of an operation, `sibling` begins one."""

    arch: Architecture
    strategy: dict[str, str]
    doing: op.Operation
    beside: op.Operation
    rig: Any = field(init=False)
    threads: list[Thread] = field(init=False)
    known: int = field(init=False)  # frames

    def __post_init__(self) -> None:
        comparison: Any = self.arch.comparison
        memory = max(MEMORY_MIB, self.arch.profiles[PROFILE].host_least_mib()[0] + 8) * MIB
        self.rig = comparison.compose(Sizes(PROFILE, 1, 2, memory, 2, 7, self.strategy), Ledger())
        self.known = frames_known(self.levels)
        image = comparison.image(7, 2, None)
        self.threads = []
        for seat, last in ((0, self.doing), (1, self.beside)):
            host = comparison.software(
                self.rig, seat, Random(seat), pages="two_fault", bulk=False, image=image
            )
            for act in before(last):
                inline(host.perform(act), self.rig.below(seat))
            self.threads.append(Thread(f"host {seat}", host.perform(last), self.rig.below(seat)))

    @property
    def levels(self) -> list[Any]:
        return [seat.level for seat in self.rig.seats]

    def cut(self, how: str) -> None:
        """Host 0 ends now; when what serves it has ended, its level reclaims."""
        self.threads[0].abandon(1)
        self.threads[0] = Thread("owner", self._ends(self.threads[0], how), ())
        self.threads[0].below = (*self.rig.below(0)[1:],)

    def _ends(self, served: Thread, how: str) -> Step[None]:
        """What is under way goes first: its messages are this thread's, one by one."""
        while not served.done:
            served.hop()
            yield from _pause()
        if how == "kill":
            yield from self.rig.kill(0)
            return
        yield from self.rig.reset(0, self.arch.comparison.reboot)  # type: ignore[union-attr]
        while (yield from self.rig.sweep(0, 3)):
            pass

    def check(self) -> None:
        """The sibling noticed nothing; nothing of the victim is left; both books agree."""
        assert self.threads[1].error is None, self.threads[1].error
        assert not list(self.rig.leaks()), list(self.rig.leaks())
        assert not frames_twice(self.levels), f"{frames_twice(self.levels)} frames are in two places"
        inline(self.rig.end(1, "l1_crash"), self.rig.below(1)[1:])
        inline(self.rig.end(0, "l1_crash"), self.rig.below(0)[1:])
        assert not any(self.rig.remains().values()), self.rig.remains()
        assert frames_known(self.levels) >= self.known, (
            f"{self.known - frames_known(self.levels)} frames lost"
        )


def _pause() -> Step[None]:
    return
    yield


def before(last: op.Operation) -> list[op.Operation]:
    """What a host has done when it comes to an operation."""
    life = [op.BootHost(), op.Create(0, 16, 1), op.Load(0), op.Start(0)]
    names = [act.name for act in life]
    return life[: names.index(last.name)] if last.name in names else life


def cut_at(case: Case, messages: int, how: str) -> bool:
    """Let so many messages of the victim go, then end it. False: its operation has ended before."""
    for _ in range(messages):
        case.threads[VICTIM].hop()
        if case.threads[VICTIM].done:
            return False
    case.cut(how)
    return True


@dataclass(slots=True)
class Explored:
    """States that were seen, what follows each, and which of them are ends."""

    cuts: int = 0
    follows: dict[bytes, set[bytes]] = field(default_factory=dict)
    ends: set[bytes] = field(default_factory=set)
    failed: str = ""  # what did not hold, and after which order

    def add(self, other: Explored) -> None:
        for state, after in other.follows.items():
            self.follows.setdefault(state, set()).update(after)
        self.ends |= other.ends
        self.failed = self.failed or other.failed

    def endless(self) -> int:
        """States from which nothing leads to an end."""
        before: dict[bytes, list[bytes]] = {}
        for state, after in self.follows.items():
            for each in after:
                before.setdefault(each, []).append(state)
        live, looked = set(self.ends), list(self.ends)
        while looked:
            new = [state for state in before.get(looked.pop(), ()) if state not in live]
            live.update(new)
            looked += new
        return len(self.follows.keys() - live)


def explore(make: Callable[[], Case], how: str, first: int = 0, stride: int = 1) -> Explored:
    """Cut the victim at every `stride`-th of its messages from `first` on, and go on in every order.

    Raises AssertionError where something does not hold, with the order in which it does not.
    """
    gc.collect()
    gc.freeze()  # what a copy of the process does not look at it need not copy
    gc.disable()
    try:
        return _every_cut(make, how, first, stride)
    finally:
        gc.enable()
        gc.unfreeze()


def _every_cut(make: Callable[[], Case], how: str, first: int, stride: int) -> Explored:
    every, messages = Explored(), first
    while True:
        case = make()
        if not cut_at(case, messages, how):
            return every
        now = digest(case.rig, case.threads)
        found = Explored(follows={now: set()})
        go_on(case, found, now, "")
        assert not found.failed, f"{case.arch.name}, cut at {messages}, {how}, order {found.failed}"
        assert not found.endless(), f"{case.arch.name}, cut at {messages}, {how}: {found.endless()} go round"
        every.add(found)
        every.cuts += 1
        messages += stride


def go_on(case: Case, found: Explored, now: bytes, order: str) -> None:
    """Everything that can follow. `order` is what was done so far: a letter for each message."""
    while not found.failed:
        live = [at for at, thread in enumerate(case.threads) if not thread.done]
        try:
            if not live:
                case.check()
                found.ends.add(now)
                return
            if len(live) == len(case.threads):
                _elsewhere(case, found, now, order)
            now, new = _step(case, live[0], found, now)
            if not new:
                return
        except Exception as error:
            found.failed = f"{order or 'none'}: {error!r}\n{traceback.format_exc(limit=-3)}"
        order += "vs"[live[0] if live else 0]


def _step(case: Case, at: int, found: Explored, now: bytes) -> tuple[bytes, bool]:
    """Let one message go: what comes of it, and whether that is new."""
    case.threads[at].hop()
    then = digest(case.rig, case.threads)
    found.follows[now].add(then)
    new = then not in found.follows
    found.follows.setdefault(then, set())
    return then, new


def _elsewhere(case: Case, found: Explored, now: bytes, order: str) -> None:
    """The other branch, in a copy of this process."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other threads of a test run stand still, and the copy ends here
        child = os.fork()
    if not child:
        try:
            os.close(reader)
            then, new = _step(case, SIBLING, found, now)
            if new:
                go_on(case, found, then, order + "s")
        except BaseException as error:
            found.failed = f"{order}s: {error!r}"
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(found, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        found.add(pickle.load(pipe))
    os.waitpid(child, 0)
