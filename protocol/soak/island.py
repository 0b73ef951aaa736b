"""One L0 with its guest hosts, each of which lives, is held, dies and comes again.

A host is a row of *lives*. Each life has threads: its own software, and what the level below does to it or
for it meanwhile (a swap, the teardown of the life before). A death is what it is on hardware: the host's own
steps end at once, what serves it gets its answer first, and only then does the level below reclaim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from protocol.crossing import Serve, Thread
from protocol.effects import Step
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.soak.hostile import Corrupted, Loot, looked_at
from protocol.soak.living import Life
from protocol.soak.options import Tally
from protocol.soak.ports import Architecture, Comparison, Rig

MIB = 1 << 20
PROFILE = "small"
PIECES = "partial"  # the profile of a Trusted Entity that does long calls in pieces, where there is one
MEMORY_MIB = 128  # of a host, if that is enough for it to come up
CPUS = 2
IMAGE_PAGES = 3
STRATEGIES = {
    "teardown": ("sync", "async"),
    "handles": ("passed", "mapped"),
    "donation": ("full", "full", "bounded", "off"),
}
PATIENCE = (0, 200, 1000, 3000)  # messages before a hostile host begins
SPARED = 24  # frames that a starved hypervisor has beyond what it owes


@dataclass(slots=True)
class Host:
    """A seat of an island, and who sits there. `thread` is its software's; `below` what is done to it."""

    name: str
    seat: int
    hostile: bool = False
    lives: int = 0
    life: Life | None = None
    thread: Thread | None = None
    others: list[Thread] = field(default_factory=list)  # of the level below: swaps
    ending: str = ""  # how this life ends, once all that is under way has ended
    teardown: Thread | None = None
    swept: bool = True  # nothing of the life before is left over
    held_until: int = -1  # the step
    over: bool = False  # nobody comes again

    def threads(self) -> list[Thread]:
        every = [self.thread, *self.others, self.teardown]
        return [thread for thread in every if thread is not None and not thread.done]


class Island:
    """A machine of one architecture, and `hosts` guest hosts side by side at `depth`."""

    def __init__(
        self,
        name: str,
        arch: Architecture,
        depth: int,
        hosts: int,
        seed: str,
        hostile: int,
        tally: Tally,
        strategy: Mapping[str, str] | None = None,
        profile: str = PROFILE,
    ) -> None:
        comparison = arch.comparison
        assert comparison is not None, f"{arch.name} has no host software"
        self.name, self.arch, self.depth, self.seed, self.tally = name, arch, depth, seed, tally
        self.random = Random(f"{seed}:{name}")
        self.comparison: Comparison = comparison
        self.lacks = frozenset(getattr(comparison, "lacks", {}))
        drawn_words = {key: self.random.choice(words) for key, words in STRATEGIES.items()}
        words = drawn_words | dict(strategy or {})
        memory = max(MEMORY_MIB, arch.profiles[profile].host_least_mib()[0] + 8) * MIB
        drawn = self.random.getrandbits(30)
        sizes = Sizes(profile, depth, hosts, memory, CPUS, drawn, words)
        self.rig: Rig = comparison.compose(sizes, Ledger())
        self.image = comparison.proving(comparison.image(drawn, IMAGE_PAGES, None))
        self.known = 0  # frames of the hypervisors below, as far as hosts have to do with them
        self.loot = Loot(self.random)
        self.starving: list[tuple[Any, Any, int]] = []  # pool, frames, the step at which they come back
        self.starved = False  # ever: then a host may be refused
        self.hosts = [Host(f"{name}.{seat}", seat, seat >= hosts - hostile) for seat in range(hosts)]
        for host in self.hosts:
            self.begin(host)

    # -- lives -----------------------------------------------------------------------------------------------

    def begin(self, host: Host) -> None:
        """Its software boots."""
        host.lives += 1
        stream = f"{self.seed}:{host.name}:{host.lives}"
        software = self.comparison.software(
            self.rig, host.seat, Random(stream), pages="two_fault", bulk=False, image=self.image
        )
        host.life = Life(host.name, software, Random(f"{stream}:life"), self, hostile=host.hostile)
        step: Step[Any] = host.life.live()
        if host.hostile:
            chance = Random(f"{stream}:hostile")
            step = Corrupted(step, chance, self.loot, self.level(host), chance.choice(PATIENCE)).steps()
        step = looked_at(step, self.loot, self.level(host))
        host.thread = Thread(host.name, step, self.rig.below(host.seat))

    def level(self, host: Host) -> Any:
        return self.rig.seats[host.seat].level

    def end(self, host: Host, how: str) -> None:
        """Its own steps end now; `go_on` does the rest when what serves them has ended."""
        if host.ending or host.over or host.teardown is not None:
            return
        host.ending, host.held_until = how, -1
        for thread, place in ((host.thread, 1), *((other, 0) for other in host.others)):
            if thread is not None and not thread.done:
                thread.abandon(place)

    def go_on(self, host: Host) -> None:
        """What follows once all that was under way has ended: the teardown, then the next life."""
        host.others = [thread for thread in host.others if not thread.done]
        if host.ending and not host.others and (host.thread is None or host.thread.done):
            how, host.ending, host.thread, host.life = host.ending, "", None, None
            host.teardown = Thread(f"{host.name}:{how}", self._ends(host, how), self._beneath(host))
            host.swept = how in ("end", "kill")
        elif host.life is not None and host.thread is not None and host.thread.done:
            if not host.life.stopping:  # it was refused its boot, or is worn out
                self.end(host, "reset" if self.random.random() < 0.5 else "kill")
        elif host.teardown is not None and host.teardown.done:
            gone = host.teardown
            host.teardown = None
            if gone.name.endswith(":end"):
                host.over = True
            else:
                self.begin(host)

    def _ends(self, host: Host, how: str) -> Step[Any]:
        if how == "end":
            return self.rig.end(host.seat, "l1_crash")
        if how == "kill":
            return self.rig.kill(host.seat)
        return self.rig.reset(host.seat, self.comparison.reboot)

    def _beneath(self, host: Host) -> tuple[Serve, ...]:
        return tuple(self.rig.below(host.seat)[1:])

    # -- what happens to a host ------------------------------------------------------------------------------

    def swap(self, host: Host, count: int) -> bool:
        """False: no level of this architecture does that."""
        event = op.LevelSwap(count, self.random.getrandbits(32))
        try:
            step = self.rig.swap(host.seat, event)
        except ValueError:
            return False
        host.others.append(Thread(f"{host.name}:swap", step, self._beneath(host)))
        return True

    def sweep(self, host: Host, pages: int) -> None:
        """Go on with what an asynchronous teardown left over."""
        step = self._swept(host, pages)
        host.others.append(Thread(f"{host.name}:sweep", step, self._beneath(host)))

    def _swept(self, host: Host, pages: int) -> Step[None]:
        left = yield from self.rig.sweep(host.seat, pages)
        host.swept = not left

    def starve(self, host: Host, until: int) -> None:
        """The hypervisor below has hardly a frame left that it does not owe."""
        below = self.level(host).below
        pool = below.pool
        spare = pool.free - getattr(below, "promised", 0) - SPARED
        if spare > 0 and not self.starving:
            self.starving.append((pool, pool.take_many(spare), until))
            self.starved = True

    def feed(self, step: int) -> None:
        for pool, frames, until in self.starving:
            if step >= until:
                pool.give(frames)
        self.starving = [each for each in self.starving if step < each[2]]

    # -- looking ---------------------------------------------------------------------------------------------

    def quiet(self) -> bool:
        """Nothing is under way between a host and a level: only then must the books agree."""
        return not self.stirring()

    def stirring(self) -> list[tuple[Host, Thread]]:
        """Threads that have to go on before the books can be compared."""
        found = []
        for host in self.hosts:
            for thread in host.threads():
                own = thread is host.thread and not host.ending
                if len(thread.stack) > 1 or not own:
                    found.append((host, thread))
        return found
