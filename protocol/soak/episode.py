"""One deployment from its beginning to its end: what goes on next is drawn, again and again."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from inspect import GEN_CLOSED, getgeneratorstate
from random import Random
from typing import Any

from protocol.crossing import Thread
from protocol.errors import OperationFailed, OwnerGone, RemoteProtocolError
from protocol.soak import checks
from protocol.soak.fleet import Fleet
from protocol.soak.hosted import Hosted
from protocol.soak.island import PIECES, PROFILE, Host, Island
from protocol.soak.options import KINDS, LIVENESS, Options, Tally, Violation
from protocol.soak.ports import Architecture

FAULT = 0.012  # of all steps
WEIGHTS = {"hold": 6, "swap": 5, "interrupt": 5, "starve": 2, "reset": 1, "kill": 1}
OF_BESIDE = 0.3  # of all faults meet what stands beside the islands
HELD = 400  # steps that messages are held at most
IN_PIECES = 0.5  # of the islands of an architecture that can
RESTLESS = 200_000  # steps to come to rest: more, and something goes round in circles
ISLANDS = (1, 3)
HOSTS = (2, 3)


class Episode:
    """Episode `number` of a soak."""

    def __init__(
        self, options: Options, number: int, tally: Tally, arches: Mapping[str, Architecture]
    ) -> None:
        self.options, self.number, self.tally = options, number, tally
        self._arches = arches
        self.seed = f"{options.seed}:{number}"
        self.random = Random(self.seed)
        self.step = 0
        self.allowed = frozenset(KINDS) - options.without
        self.islands = [self._island(place) for place in range(self.random.randint(*ISLANDS))]
        self.beside = self._beside()
        self._kinds: dict[str, Callable[[Island, Host], bool]] = {
            "hold": self._hold,
            "swap": self._swap,
            "reset": self._reset,
            "kill": self._kill,
            "starve": self._starve,
            "interrupt": self._interrupt,
        }

    def _island(self, place: int) -> Island:
        random = self.random
        arch = self._arch(place)
        depth, hosts = random.choice((1, 1, 2)), random.randint(*HOSTS)
        hostile = random.choice((0, 1, 1)) if "hostile" in self.allowed else 0
        self.tally.faults.update(["hostile"] * hostile)
        name = f"l0-{place}"
        pieces = "partial" in self.allowed and PIECES in arch.profiles and random.random() < IN_PIECES
        self.tally.faults.update(["partial"] * pieces)
        profile = PIECES if pieces else PROFILE
        island = Island(name, arch, depth, hosts, self.seed, hostile, self.tally, profile=profile)
        island.known = checks.frames_known([island.level(host) for host in island.hosts])
        return island

    def _beside(self) -> Hosted | Fleet:
        """Every other episode has an L0 with a hosting service as well; the others have a fleet."""
        if self.number % 2:
            return Fleet(self.seed, self.allowed, self.tally)
        return Hosted("l0-h", self._arch(self.number // 2), self.seed, self.allowed, self.tally)

    def _arch(self, place: int) -> Architecture:
        every = sorted(self._arches)
        return self._arches[every[(self.number + place) % len(every)]]

    # -- the run ---------------------------------------------------------------------------------------------

    def run(self, steps: int, looked: Callable[[], None] = lambda: None) -> None:
        """So many steps, then the end of everybody; `looked` is told after each look. Raises Violation."""
        faults_until = steps // 2 if self.options.mode == LIVENESS else steps
        next_look = checks.FULL
        while self.step < steps:
            if self.step >= next_look:
                next_look = self.step + checks.FULL
                self.look()
                looked()
            self.one(faults=self.step < faults_until)
        self.look()
        self.finish()

    def one(self, faults: bool) -> None:
        """One step."""
        if faults and self.random.random() < FAULT:
            self._fault()
        acts = self.beside.ready()
        ready = [
            (island, host, thread)
            for island in self.islands
            for host in island.hosts
            if host.held_until < self.step
            for thread in host.threads()
        ]
        if not ready and not acts:
            self._tick()
            return
        if ready and (not acts or self.random.random() < 0.5):
            self.hop(*self.random.choice(ready))
            return
        name, act = self.random.choice(acts)
        self.tally.note("beside", name)
        try:
            act()
        except Violation:
            raise
        except Exception as error:
            raise Violation(self.beside.check, f"{type(error).__name__}: {error}") from error
        self._tick()

    def _tick(self) -> None:
        self.step += 1
        self.tally.steps += 1
        self.beside.pass_time(self.random.randrange(self.beside.pace_ms))
        for island in self.islands:
            island.feed(self.step)
            for host in island.hosts:
                island.go_on(host)

    def hop(self, island: Island, host: Host, thread: Thread) -> None:
        """Let one message of a thread go, and look at it."""
        place = len(thread.stack) - 1
        try:
            thread.hop()
        except Violation:
            raise
        except RemoteProtocolError as broken:
            self._closed(island, host, thread, broken)
        except Exception as error:
            self._raised(island, host, thread, place, error)
        else:
            if thread.error is not None and not host.ending:
                raise Violation("level", f"{thread.name}, whose host lives, ended with {thread.error!r}")
        self._see(island, host, thread, place)
        island.go_on(host)
        self._tick()

    def _see(self, island: Island, host: Host, thread: Thread, place: int) -> None:
        answer = thread._answer
        crossed = answer.result if hasattr(answer, "result") else answer
        self.tally.note(thread.name, place, len(thread.stack), crossed if is_plain(crossed) else None)
        checks.crossed(f"an answer to {thread.name}", crossed, self.tally)

    # -- what goes wrong on purpose --------------------------------------------------------------------------

    def _closed(self, island: Island, host: Host, thread: Thread, broken: RemoteProtocolError) -> None:
        """A peer broke the protocol: its link is closed, which is its death."""
        self.tally.done[f"link_closed_{broken.reason}"] += 1
        if not host.hostile:
            raise Violation("protocol", f"{thread.name}, which is no hostile host: {broken}") from broken
        drop(thread)
        island.end(host, "kill")

    def _raised(self, island: Island, host: Host, thread: Thread, place: int, error: Exception) -> None:
        """Software of a hostile host may fail in any way; a level, and any other host, in none."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        own = thread is host.thread and place == 0 and failed_itself(thread)
        level = any(part in where.filename for part in ("/machine/", "/nesting/"))
        if own and host.hostile and not (level and not isinstance(error, OperationFailed)):
            self.tally.done["hostile_software_failed"] += 1
            drop(thread)
            island.end(host, self.random.choice(("reset", "kill")))
            return
        said = (
            f"{type(error).__name__}: {error} in {where.name}, line {where.lineno} of {short(where.filename)}"
        )
        raise Violation(
            "level", f"{thread.name}, {island.arch.name} at depth {island.depth}: {said}"
        ) from error

    def _fault(self) -> None:
        if self.random.random() < OF_BESIDE:
            self.beside.fault(self.random)
            return
        island = self.random.choice(self.islands)
        host = self.random.choice(island.hosts)
        (kind,) = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if (
            kind in self.allowed
            and not host.ending
            and host.teardown is None
            and self._kinds[kind](island, host)
        ):
            self.tally.faults[kind] += 1
            self.tally.note("fault", kind, host.name)

    def _hold(self, island: Island, host: Host) -> bool:
        host.held_until = self.step + self.random.randrange(1, HELD)
        return True

    def _swap(self, island: Island, host: Host) -> bool:
        return island.swap(host, self.random.randrange(1, 6))

    def _reset(self, island: Island, host: Host) -> bool:
        island.end(host, "reset")
        return True

    def _kill(self, island: Island, host: Host) -> bool:
        island.end(host, "kill")
        return True

    def _starve(self, island: Island, host: Host) -> bool:
        island.starve(host, self.step + self.random.randrange(1, HELD))
        return True

    def _interrupt(self, island: Island, host: Host) -> bool:
        cpus = island.rig.seats[host.seat].cpus
        if not hasattr(cpus[0], "interrupt"):
            return False
        self.random.choice(cpus).interrupt = True
        return True

    # -- rest ------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Bring every island to rest, and hold everything against everything."""
        self.beside.look()
        for island in self.islands:
            self._rest(island)
            for host in island.hosts:
                if not host.swept and host.teardown is None and not host.over:
                    island.sweep(host, self.random.choice((1, 64, 1 << 20)))
            self._rest(island)
            checks.island(island)
            self.tally.note("look", sorted(island.rig.ledger.flat().items()))

    def _rest(self, island: Island) -> None:
        began = self.step
        while stirring := island.stirring():
            for host, _ in stirring:
                host.held_until = -1
            host, thread = stirring[self.random.randrange(len(stirring))]
            self.hop(island, host, thread)
            if self.step - began > RESTLESS:
                raise Violation("liveness", f"{thread.name} has not ended in {RESTLESS} steps")

    def finish(self) -> None:
        """Well-behaved hosts end their lives in order, all others without a word; then nothing is left."""
        for island in self.islands:
            for host in island.hosts:
                if self.options.mode == LIVENESS and not host.hostile:
                    self._live_out(island, host)
                island.end(host, "end")
            self._ended(island)
            checks.nothing_left(island)
            self.tally.done.update(island.rig.ledger.contention)
        if self.options.mode == LIVENESS:
            self.beside.live_out()
        self.beside.end()

    def _live_out(self, island: Island, host: Host) -> None:
        """Nothing goes wrong any more: whatever was begun comes to an end."""
        self._rest(island)
        life, thread, began = host.life, host.thread, self.step
        assert life is not None, "at rest a host lives"
        assert thread is not None, "at rest a host lives"
        life.stopping = True
        while not thread.done:
            self.hop(island, host, thread)
            if self.step - began > RESTLESS:
                raise Violation("liveness", f"{host.name} has not ended in {RESTLESS} steps")
        self.tally.checks["liveness"] += 1
        if thread.value not in ("lived", "refused"):
            raise Violation("liveness", f"{host.name} has not lived to its end")

    def _ended(self, island: Island) -> None:
        """Let the teardown of all its hosts, which were told to end, come to its end."""
        for host in island.hosts:
            island.go_on(host)
        self._rest(island)
        if not all(host.over for host in island.hosts):
            raise Violation("liveness", f"{island.name}: its hosts do not end")
        island.feed(1 << 62)


def failed_itself(thread: Thread) -> bool:
    """Whether the lowest step raised: it has ended then. Where what it asked was the trouble, it has not."""
    return getgeneratorstate(thread.stack[0]) == GEN_CLOSED


def drop(thread: Thread) -> None:
    """A thread of which nothing goes on."""
    thread.stack, thread.done, thread.error = [], True, OwnerGone(thread.name)


def is_plain(value: Any) -> bool:
    return value is None or isinstance(value, int | bytes | str | tuple | list)


def short(filename: str) -> str:
    return "protocol/" + filename.rpartition("/protocol/")[2]
