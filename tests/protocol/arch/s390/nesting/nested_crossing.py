"""Two siblings whose levels all live apart: every CPU at work, each message held and let go by seed."""

from __future__ import annotations

from random import Random

from nested_actions import Careless
from nested_host import NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import compose
from protocol.arch.s390.nesting import Nested, Strategy, memory, teardown
from protocol.arch.s390.profiles import PROFILES
from protocol.crossing import Crossing, Thread, inline
from protocol.effects import Step

CPUS = 3
ACTIONS = 4


class Crowd:
    """All CPUs of both hosts, and the levels below that swap under them."""

    def __init__(self, depth: int, seed: int, strategy: Strategy, profile: str) -> None:
        self.random = Random(seed)
        self.rig = compose(PROFILES[profile], depth, 2, cpus=CPUS, seed=seed, strategy=strategy, apart=True)
        self.hosts = [NestedHost(self.rig, seat, seed) for seat in range(2)]

    def round(self) -> None:
        """Let everybody work, perhaps with a death on the way; at the end nothing is under way."""
        crossing = Crossing(Random(self.random.random()))
        threads: dict[int, list[Thread]] = {}
        for host in self.hosts:
            seat = host.seat.number
            if not self._level(seat).ready:
                inline(host.init(), self.rig.below(seat))
            threads[seat] = [
                crossing.start(
                    f"{seat}.{cpu}", Careless(host, cpu, self.random).act(ACTIONS), self.rig.below(seat)
                )
                for cpu in range(CPUS)
            ]
            if self.random.random() < 0.7:
                threads[seat].append(self._swapping(crossing, self._level(seat), seat))
        if self.rig.depth > 1 and self.random.random() < 0.5:
            level = self.rig.levels[1]
            assert isinstance(level, Nested)
            crossing.start("L0 swaps", self._swaps(level), self.rig.below(0)[-1:])
        if self.random.random() < 0.4:
            self._end_of(self.random.choice(self.hosts), crossing, threads)
        crossing.run()
        check(self.rig)

    def _end_of(self, host: NestedHost, crossing: Crossing, threads: dict[int, list[Thread]]) -> None:
        """A death or a reboot after some messages; those that serve it get their answers first."""
        hops = self.random.randrange(400)
        crossing.run(lambda: crossing.hops >= hops)
        seat = host.seat.number
        mine = [thread for thread in threads[seat] if not thread.done]
        swaps = [thread for thread in mine if thread.name == "swaps"]
        crossing.kill([thread for thread in mine if thread not in swaps], place=1)
        crossing.kill(swaps, place=0)
        crossing.finish(mine)
        level = self._level(seat)
        dies = self.random.random() < 0.5
        step = level.death() if dies else level.reset(clear_memory=self.random.random() < 0.3)
        crossing.finish([crossing.start("teardown", step, self.rig.below(seat)[1:])])
        if dies:
            self.rig.seat_anew(seat)
        elif self.random.random() < 0.5:
            late = teardown.some_leftovers(level, 2)
            crossing.finish([crossing.start("leftovers", late, self.rig.below(seat)[1:])])
        host.restart()

    def _level(self, seat: int) -> Nested:
        level = self.rig.seats[seat].level
        assert isinstance(level, Nested)
        return level

    def _swapping(self, crossing: Crossing, level: Nested, seat: int) -> Thread:
        return crossing.start("swaps", self._swaps(level), self.rig.below(seat)[1:])

    def _swaps(self, level: Nested) -> Step[None]:
        for _ in range(4):
            marked = level.page_owner.nonzero()[0].tolist() or level.attention.nonzero()[0].tolist()
            if marked:
                yield from memory.swap(level, self.random.choice(marked))

    def finish(self) -> None:
        """Both hosts die."""
        for host in self.hosts:
            seat = host.seat.number
            inline(self._level(seat).death(), self.rig.below(seat)[1:])
            self.rig.seat_anew(seat)
            check(self.rig)
