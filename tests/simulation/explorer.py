"""Every order of messages, up to a number of preemptions: an explorer over the code itself. A plain module.

A case is made anew for each order; nothing is copied or modelled. Threads go on until they end, unless the
order says to switch: an order is a list of (message, thread). All orders with at most so many switches are
tried, which finds what needs few of them, and says how many there were (context-bounded search).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from protocol.arch.contract import Architecture
from protocol.crossing import Thread, inline
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.soak.island import MEMORY_MIB, MIB, PROFILE

Order = tuple[tuple[int, int], ...]  # at which message to go on with which of the threads that are there


@dataclass
class Case:
    """Two hosts on one level; `victim` is in the middle of an operation, `sibling` begins one."""

    arch: Architecture
    strategy: dict[str, str]
    doing: op.Operation
    beside: op.Operation
    rig: Any = field(init=False)
    threads: list[Thread] = field(init=False)

    def __post_init__(self) -> None:
        comparison: Any = self.arch.comparison
        memory = max(MEMORY_MIB, self.arch.profiles[PROFILE].host_least_mib()[0] + 8) * MIB
        self.rig = comparison.compose(Sizes(PROFILE, 1, 2, memory, 2, 7, self.strategy), Ledger())
        image = comparison.image(7, 2, None)
        self.threads = []
        for seat, last in ((0, self.doing), (1, self.beside)):
            host = comparison.software(
                self.rig, seat, Random(seat), pages="two_fault", bulk=False, image=image
            )
            for act in before(last):
                inline(host.perform(act), self.rig.below(seat))
            self.threads.append(Thread(f"host {seat}", host.perform(last), self.rig.below(seat)))

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
        inline(self.rig.end(1, "l1_crash"), self.rig.below(1)[1:])
        inline(self.rig.end(0, "l1_crash"), self.rig.below(0)[1:])
        assert not any(self.rig.remains().values()), self.rig.remains()


def _pause() -> Step[None]:
    return
    yield


def before(last: op.Operation) -> list[op.Operation]:
    """What a host has done when it comes to an operation."""
    life = [op.BootHost(), op.Create(0, 16, 1), op.Load(0), op.Start(0)]
    names = [act.name for act in life]
    return life[: names.index(last.name)] if last.name in names else life


def run(case: Case, cut_at: int, how: str, order: Order) -> int:
    """Do one order; how many messages it had, None of them left."""
    for _ in range(cut_at):
        if case.threads[0].done:
            break
        case.threads[0].hop()
    if not case.threads[0].done:
        case.cut(how)
    switches = dict(order)
    at, messages = 0, 0
    while True:
        live = [thread for thread in case.threads if not thread.done]
        if not live:
            return messages
        if messages in switches:
            at = switches[messages]
        thread = case.threads[at]
        if thread.done:
            thread = live[0]
        thread.hop()
        messages += 1
        assert messages < 100_000, "no end"


def orders(messages: int, threads: int, preemptions: int, stride: int = 1) -> Iterator[Order]:
    """All orders with at most so many preemptions, of one as long as `messages`."""
    for first in range(threads):
        yield ((0, first),)
        if preemptions:
            for at in range(1, messages, stride):
                yield (0, first), (at, (first + 1) % threads)


def explore(
    make: Callable[[], Case], how: str, preemptions: int = 1, stride: int = 1, cut_stride: int = 1
) -> int:
    """Cut the victim at every message, and go on in every order. How many orders there were."""
    tried, cut_at = 0, 0
    while True:
        case = make()
        length = run(case, cut_at, how, ())
        whole = case.threads[0].name == "host 0"  # it ended before it was cut
        case.check()
        for order in orders(length, 2, preemptions, stride):
            case = make()
            try:
                run(case, cut_at, how, order)
                case.check()
            except Exception as error:
                raise AssertionError(f"cut at {cut_at}, {how}, order {order}") from error
            tried += 1
        if whole:
            return tried
        cut_at += cut_stride
