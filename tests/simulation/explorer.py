"""Every order of messages after a host is cut: an explorer over the code itself. A plain module.

Nothing is modelled. A case is two hosts on a level that live apart; at one message of the victim's it is cut,
and then what serves it, its teardown and its sibling's operation go on one message at a time. Wherever both
can go on, both are gone into: the process forks, so a state is never made anew. A state that was seen before
(`states.digest`) is not gone into again. So every order is looked at, and what comes of it is checked, though
there are far more orders than states.
"""

from __future__ import annotations

import gc
import itertools
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
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
    orders: int = 0  # ways from a cut to its ends
    follows: dict[bytes, set[bytes]] = field(default_factory=dict)
    ends: set[bytes] = field(default_factory=set)
    failed: str = ""  # what did not hold, and after which order

    def add(self, other: Explored) -> None:
        for state, after in other.follows.items():
            self.follows.setdefault(state, set()).update(after)
        self.cuts += other.cuts
        self.orders += other.orders
        self.ends |= other.ends
        self.failed = self.failed or other.failed

    def since(self, known: int, *states: bytes) -> Explored:
        """What is new in this since so many states were known, and what follows `states`."""
        new = dict(itertools.islice(self.follows.items(), known, None))
        old = {state: self.follows[state] for state in states}
        return Explored(follows=old | new, ends=self.ends, failed=self.failed)

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

    def ways(self, begin: bytes) -> int:
        """Orders from a state to an end. To wait, and be where one was, is no other order."""
        onward = {state: after - {state} for state, after in self.follows.items()}
        found = dict.fromkeys(self.ends, 1)
        for state in TopologicalSorter(onward).static_order():
            if state not in found:
                found[state] = sum(found[after] for after in onward[state])
        return found[begin]


class Copy:
    """A copy of this process that looks at something and says what it found."""

    def __init__(self, look: Callable[[], Explored]) -> None:
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other threads of a test run stand still, and the copy ends here
            self._child = os.fork()
        if not self._child:
            os.close(reader)
            try:
                found = look()
            except BaseException as error:
                found = Explored(failed=f"not known: {error!r}")
            with os.fdopen(writer, "wb") as pipe:
                pickle.dump(found, pipe)
            os._exit(0)
        os.close(writer)
        self._reader = os.fdopen(reader, "rb")

    def found(self) -> Explored:
        """Waits until it has ended."""
        with self._reader:
            said = self._reader.read()
        os.waitpid(self._child, 0)
        return pickle.loads(said) if said else Explored(failed="not known: its process is gone")


def messages(case: Case) -> int:
    """How many messages the victim's operation has, undisturbed: it can be cut at so many."""
    for sent in itertools.count(1):  # pragma: no branch
        case.threads[VICTIM].hop()
        if case.threads[VICTIM].done:
            return sent
    raise AssertionError


def explore(
    make: Callable[[], Case],
    how: str,
    first: int = 0,
    stride: int = 1,
    end: int = sys.maxsize,
) -> Explored:
    """Cut the victim at every `stride`-th of its messages from `first` on, and go on in every order.

    It ends before message `end`. What was seen after one cut is not gone into again after another.
    Raises AssertionError where something does not hold, with the order in which it does not.
    """
    gc.collect()
    gc.freeze()  # what a copy of the process does not look at it need not copy
    gc.disable()
    try:
        return _every_cut(make(), how, range(first, end, stride))
    finally:
        gc.enable()
        gc.unfreeze()


def _every_cut(case: Case, how: str, cuts: range) -> Explored:
    every = Explored()
    for sent in itertools.count():  # pragma: no branch
        if sent in cuts:
            every.add(Copy(lambda: _one_cut(case, how, every)).found())
            assert not every.failed, f"{case.arch.name}, cut at {sent}, {how}, order {every.failed}"
        case.threads[VICTIM].hop()
        if case.threads[VICTIM].done or sent >= cuts[-1]:
            break
    return every


def _one_cut(case: Case, how: str, every: Explored) -> Explored:
    """What follows when the victim is cut here, in a copy of this process: what is new."""
    known = len(every.follows)
    case.cut(how)
    now = digest(case.rig, case.threads)
    if now not in every.follows:
        every.follows[now] = set()
        go_on(case, every, now, "")
    found = every.since(known)
    if not found.failed and every.endless():
        found.failed = f"any: {every.endless()} states go round"
    if not found.failed:
        found.cuts, found.orders = 1, every.ways(now)
    return found


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
                found.add(Copy(lambda: _elsewhere(case, found, now, order)).found())  # noqa: B023
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


def _elsewhere(case: Case, found: Explored, now: bytes, order: str) -> Explored:
    """The other branch, in a copy of this process: what is new of what was found."""
    known = len(found.follows)
    try:
        then, new = _step(case, SIBLING, found, now)
        if new:
            go_on(case, found, then, order + "s")
    except Exception as error:
        found.failed = f"{order}s: {error!r}\n{traceback.format_exc(limit=-3)}"
    return found.since(known, now)
