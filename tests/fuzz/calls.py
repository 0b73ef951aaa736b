"""Every call of an architecture, with any block, in any state: an answer of the architecture, or a bug.

A composition is made, at depth 0, 1 or 2. Its host 0 lives again and again: real software brings it to some
state and is stopped in the middle of anything. Then calls come. Most are calls of that software with a field
or two changed, or of another moment; some have anything in every field; guests call, too, and the host stores
into its own tables. Only what an architecture can answer may come back. In the end all books have to agree,
the hosts are killed, and nothing of them may be left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from random import Random
from typing import Any, ClassVar

from dealers import DEALERS, Dealer
from draw import PAGE, number
from guests import ENTRIES, GUESTS, program_in
from seen import GivenUp, Numbers, Sample, Seen, watched

from protocol.arch import load
from protocol.calls import CallSpec
from protocol.crossing import inline
from protocol.effects import Issue, Step
from protocol.errors import OperationFailed
from protocol.fleet.moving import SEND, way_of
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.plan.operations import Pages
from protocol.soak.hostile import Corrupted, Loot

MIB = 1 << 20
ALL = 1 << 30  # messages
LIVES = 3  # of one composition
STAGES = 6  # of one life: at each, software goes on with a guest
CALLS = 250  # at one stage
SEEDS = 8  # of machines: what is sealed for one is sealed once
DUE = 8  # calls like the one that was due
ARRIVES = ("policy", "certificate", "session", "pages", "vcpus")  # what `Arrive` wants of `Leave`
VISIT = 24  # messages of software that has a guest do something
VISITS, VISITED = 2, 0.003  # at the beginning of a stage; of what is fuzzed then
PROFILES = {"s390": ("small", "small", "talk2022"), "sev": ("small", "small", "scattered", "owned", "azure"),
            "tdx": ("small", "small-2p", "migration"),
            "pef": ("small", "small", "frames", "documentation", "firmware", "all-pages", "guest-ids"),
}  # fmt: skip
STRATEGIES = {"teardown": ("sync", "async"), "handles": ("passed", "mapped"), "donation": ("full", "bounded")}
ENDS = ("destroy", "deinit", "shutdown", "platform_reset", "decommission", "terminate", "reclaim", "clear",
        "deactivate", "remove", "phymem_page", "unregister", "snp_init", "key_freeid", "lp_init")  # fmt: skip


def ends(spec: CallSpec) -> bool:
    """Does it end much at once? Such a call comes seldom, else nothing is left for the others."""
    return any(word in spec.name.lower() for word in ENDS)


def acts(random: Random, guest: int) -> list[op.Operation]:
    """What a host does for one guest, up to anywhere."""
    on = random.randrange(2)
    then = (
        op.Share(guest, on, Pages(2048, 1, 1)), op.Touch(guest, 0, Pages(1100, 32, 4, 1)),
        op.Attest(guest, on, 0), op.AddSecret(guest, 0, 0), op.Swap(guest, on, Pages(1600, 1, 1)),
        op.Exits(guest, on, "wait", "kernel", 1),
    )  # fmt: skip
    last = (
        op.Reset(guest, clear=True), op.Reset(guest, clear=False), op.Dump(guest), op.Destroy(guest),
        op.Kill(guest),
    )  # fmt: skip
    begin = [
        op.Create(guest, 16, 2),
        op.Load(guest),
        op.Start(guest),
        op.Write(guest, 0, 1600, b"what it has"),
    ]
    if random.random() < 0.5:
        return begin[: random.randrange(1, 4)]
    whole = [*begin, *random.sample(then, random.randrange(5)), *random.sample(last, 1)]
    return whole[: random.randrange(4, len(whole) + 1)]


@lru_cache(maxsize=64)
def image_of(kind: str, seed: int) -> Any:
    """What a host loads: sealing it takes as long as a hundred calls."""
    comparison: Any = load(kind).comparison
    return comparison.image(seed, 3, None)


def visits(random: Random, guest: int) -> list[op.Operation]:
    """What a host has one guest do."""
    on, number = random.randrange(2), random.randrange(1 << 20)
    return [
        op.Write(guest, 0, 1600, b"what it has"), op.Touch(guest, 0, Pages(1100, 32, 2, number)),
        op.Attest(guest, 0, number), op.AddSecret(guest, 0, number), op.Share(guest, on, Pages(2050, 1, 1)),
        op.Exits(guest, on, random.choice(("wait", "sclp", "diag_500")), "kernel", 1),
    ]  # fmt: skip


class Other(Corrupted):
    """Messages that are no calls, with other numbers in them; a guest that they enter does anything."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(iter(()), rig.random, Loot(rig.random), rig.level)  # type: ignore[arg-type]
        self._rig = rig

    def like(self, issue: Issue) -> Issue:
        self._loot.numbers = self._rig.seen.numbers
        return self._changed(issue, self._random.choice((0.0, 0.1, 0.5)))

    def _other(self, value: Any, much: float) -> Any:
        if type(value).__name__ == "Program":
            rig = self._rig
            return rig.guest_acts.program(rig.seen)
        if isinstance(value, bool) and self._random.random() < much / 3:
            return not value
        return super()._other(value, much)


class Rig:
    """A composition whose host 0 is fuzzed; host 1, where there is one, lives beside it."""

    watch: ClassVar[Callable[[list[Any]], None] | None] = None  # who wants to see the levels

    def __init__(self, name: str, random: Random) -> None:
        self.dealer: Dealer = DEALERS[name]([*load(name).calls.values()])
        self.arch = load(random.choice(self.dealer.kinds))
        self.random, self.seen = random, Seen(random)
        self.courses: dict[str, list[str]] = {}  # of acts that were done whole: calls, "" for what is none
        self.stopped: Counter[str] = Counter()  # calls that were due when software stopped
        self.due: tuple[CallSpec, Numbers, Any] | None = None  # the one that is, its numbers, its CPU
        self.pages: list[tuple[int, bytes]] = []  # that it points at
        self.result: Any = None  # of what software did last
        self.comparison: Any = self.arch.comparison
        depth = random.choice((0, 1, 1, 1, 2))
        profile = random.choice(PROFILES[name])
        memory = max(128, self.arch.profiles[profile].host_least_mib()[0] + 8) * MIB
        words = {key: random.choice(ways) for key, ways in STRATEGIES.items()}
        seed = random.randrange(SEEDS)
        sizes = Sizes(profile, depth, 2, memory, 2, seed, words)
        self.rig = self.comparison.compose(sizes, Ledger())
        self.dealer.machines = self.rig.machines
        self.image = image_of(self.arch.name, seed)
        rows = list(self.arch.calls.values())
        self.guests = [spec for spec in rows if spec.for_guest()]
        self.guest_acts = GUESTS[name](random, self.dealer, self.guests, self.rig, self.image)
        self.misled = 0.0  # how likely a guest that is entered does something else
        if len(self.rig.seats) > 1:
            beside = self._software(1)
            for act in (op.BootHost(), op.Create(0, 16, 2), op.Load(0), op.Start(0)):
                self._does(1, beside, act)
        own = [spec for spec in rows if spec.for_host() or random.random() < 0.1]
        self.by_name = {spec.name: spec for spec in rows}
        self.calls = [spec for spec in own for _ in range(1 if ends(spec) else 12)]
        self.level: Any = None

    def live(self) -> None:
        """A new life of host 0: it boots, or begins to."""
        if self.level is not None:
            inline(self._ended(), self.rig.below(0)[1:])
        self.level, self.guest = self.rig.seats[0].level, 0
        self.met = self.rig.seen(self.level)
        if Rig.watch is not None:
            Rig.watch([*self.rig.levels, *(seat.level for seat in self.rig.seats)])
        self.others = Other(self)
        self.seen.begin(self.dealer.handles)
        self.software = self._software(0)
        self._does(
            0, self.software, op.BootHost(), self._cut("boothost") if self.random.random() < 0.2 else ALL
        )

    def go_on(self) -> bool:
        """Software ends a guest, or makes one and does something with it, and stops in the middle.

        False: it is refused, because of what was fuzzed before.
        """
        random, done = self.random, True
        if self.guest and random.random() < 0.5:
            done = self._does(0, self.software, op.Kill(self.guest - 1))
        todo = acts(random, self.guest)
        self.guest += 1
        for act in todo[:-1]:
            done = done and self._does(0, self.software, act)
        if done and way_of(self.comparison)[0] == SEND and random.random() < 0.3:
            return self._moved(self.guest - 1)
        cut = self._cut(todo[-1].name) if random.random() < 0.8 else ALL
        return done and self._does(0, self.software, todo[-1], cut)

    def _moved(self, guest: int) -> bool:
        """The guest is packed for this very platform and unpacked again, up to anywhere."""
        cut = self.random.choice((0, 1, 1, 2, 4, 4, 4))
        acts: list[Callable[[Any], op.Operation]] = [
            lambda _: op.Certify(),
            lambda peer: op.Leave(guest, peer),
            lambda head: self._kept(head) or op.Unload(guest, 0, 128),
            lambda packets: op.Carry(guest + 1, packets),
            lambda _: op.Arrive(guest + 1, **{name: self.head[name] for name in ARRIVES}),
        ]
        self.guest += 1
        for step, act in enumerate(acts[: cut + 1]):
            made = act(self.result)
            if not self._does(0, self.software, made, self._cut(made.name) if step == cut else ALL):
                return False
        return True

    def _kept(self, head: Any) -> None:
        self.head = head

    def _cut(self, act: str) -> int:
        """After how many messages software stops: before a call at which it seldom did."""
        course = self.courses.get(act)
        if not course:
            return ALL
        some = self.random.sample(range(len(course)), min(len(course), 12))
        return min(some, key=lambda at: self.stopped[course[at]] if course[at] else ALL)

    def _ended(self) -> Step[None]:
        """It dies, or reboots without a word."""
        if self.random.random() < 0.5:
            yield from self.rig.kill(0)
            return
        yield from self.rig.reset(0, self.comparison.reboot)
        while self.rig.depth and (yield from self.rig.sweep(0, 64)):
            pass

    def _software(self, seat: int) -> Any:
        return self.comparison.software(
            self.rig, seat, Random(seat), pages="two_fault", bulk=False, image=self.image
        )

    def _does(self, seat: int, software: Any, act: op.Operation, messages: int = ALL) -> bool:
        """One act, cut after so many messages. False: it was refused, or its guest is not there."""
        lacks = self.comparison.lacks
        if act.name in lacks or (act.name == "addsecret" and "secret" in lacks):
            return True
        level, course = self.rig.seats[seat].level, list[str]()

        def on_its_way(issue: Issue) -> None:
            call = self.dealer.taken(issue, level)
            course.append("" if call is None else call[0])
            self._mislead(issue)

        self.due = None
        step = software.perform(act)
        step = watched(step, self.seen, level, self.dealer, messages, on_its_way, self._is_due)
        try:
            self.result = inline(step, self.rig.below(seat))
        except GivenUp:
            return False
        if messages == ALL:
            self.courses[act.name] = course
        return True

    # -- what software was about to issue --------------------------------------------------------------------

    def _is_due(self, issue: Issue) -> None:
        """Software stopped before this: the state is the one that it needs."""
        call = self.dealer.taken(issue, self.level)
        if call is None:
            return
        name, numbers = call
        self.stopped[name] += 1
        self.due = self.by_name[name], numbers, self.dealer.cpu_of(issue, self.rig.seats[0].cpus)
        places = {value & -PAGE for value in numbers.values() if PAGE <= value < self.level.size - PAGE}
        read = [(at, self.level.peek(at, PAGE)) for at in sorted(places)]
        self.pages = [(at, page) for at, page in read if isinstance(page, bytes)]

    def at_once(self) -> Iterator[str]:
        """The call that is due, again and again, each time with one thing in it that is another.

        It comes as far as the field that is wrong.
        """
        for _ in range(DUE if self.due else 0):
            if self.due is None:
                return
            spec, numbers, cpu = self.due
            memory = dict(self.pages)
            if memory and self.random.random() < 0.4:
                at = self.random.choice([*memory])
                memory[at] = self.guest_acts.patched(memory[at])
            else:
                field = self.random.choice(self.dealer.fields(spec))
                numbers = numbers | {field: self.seen.value(field)}
            for at, page in memory.items():
                self.level.write(at, page)
            inline(
                self.dealer.issued(spec, Sample(numbers, {}), self.met, cpu, self.random), self.rig.below(0)
            )
            yield spec.name

    # -- guests that turn on their own hosts -----------------------------------------------------------------

    def _mislead(self, issue: Issue) -> None:
        """A guest that is being entered does something else now and then; its host goes on as ever."""
        if self.misled and self.random.random() < self.misled and issue.operation in ENTRIES:
            self.guest_acts.mislead(program_in(issue.arguments), self.seen)
            self.misled /= 8  # it shall come to an end with that

    def visit(self) -> str:
        """Software has its latest guest do something, and that does what it likes instead."""
        random = self.random
        act = random.choice(visits(random, self.guest - 1))
        self.misled = 0.8
        try:
            self._does(0, self.software, act, VISIT)
        finally:
            self.misled = 0.0
        return f"visit_{act.name}"

    # -- what is fuzzed --------------------------------------------------------------------------------------

    def one(self) -> str:
        """One call, or another message, or a store: its name."""
        random = self.random
        way = random.random()
        if way < VISITED:
            return self.visit()
        if way < 0.02:
            self._store()
        if way < 0.12 and self.seen.others:
            issue = self.others.like(random.choice(self.seen.others))
            inline(_asked(issue), self.rig.below(0))
            return issue.operation
        spec = random.choice(self.calls)
        sample = self.seen.made(spec, self.dealer.fields(spec), self.dealer.named(spec), self.dealer)
        if sample.memory and random.random() < 0.5:
            self._restore(sample.memory)
        cpu = random.choice(self.rig.seats[0].cpus)
        before = self._put(cpu, sample.state) if random.random() < 0.9 else []
        if way > 0.97:
            other = random.choice((cpu, random.choice(self.rig.seats[0].cpus)))
            name, values = random.choice(self.dealer.states)
            before += self._put(other, ((name, random.choice(values)),))
        try:
            inline(self.dealer.issued(spec, sample, self.met, cpu, random), self.rig.below(0))
        except OperationFailed as error:
            raise AssertionError(f"{spec.name}: {error!r} is no answer of an architecture") from error
        finally:
            for known in reversed(before):
                setattr(*known)
        return spec.name

    def _put(self, cpu: Any, state: tuple[tuple[str, Any], ...]) -> list[tuple[Any, str, Any]]:
        """A CPU is in another state for one call; returns what it was in before."""
        before = [(cpu, name, getattr(cpu, name)) for name, _ in state]
        for name, value in state:
            setattr(cpu, name, value)
        return before

    def _restore(self, memory: Any) -> None:
        """Blocks that a call points at are again what they were, or nearly."""
        for address, block in memory.items():
            data = block
            if self.random.random() < 0.3:
                at = 8 * self.random.randrange(len(block) // 8)
                word = number(self.random, self.seen.numbers).to_bytes(8, self.dealer.order)
                data = block[:at] + word + block[at + 8 :]
            if address + len(data) <= self.level.size:
                self.level.write(address, data)

    def _store(self) -> None:
        """The host stores into a table or a block of its own."""
        address = number(self.random, self.seen.numbers) & ~7
        if address + 0x100 < self.level.size:
            word = number(self.random, self.seen.numbers).to_bytes(8, self.dealer.order)
            self.level.write(address + 8 * self.random.randrange(32), word)

    def check(self) -> None:
        """The books agree; then the hosts die, and in the end nothing is left."""
        assert not list(self.rig.leaks()), list(self.rig.leaks())[:4]
        for seat in range(len(self.rig.seats)):
            inline(self.rig.end(seat, "l1_crash"), self.rig.below(seat)[1:])
        left = {kind: count for kind, count in self.rig.remains().items() if count}
        assert not left, left


def _asked(issue: Issue) -> Step[Any]:
    return (yield issue)


def calls(arch: str, random: Random) -> Iterator[str]:
    """Deal one composition's calls; yields the name of each that was answered."""
    rig = Rig(arch, random)
    for _ in range(LIVES):
        rig.live()
        yield from rig.at_once()
        for _ in range(STAGES):
            on = rig.go_on()
            yield from rig.at_once()
            for _ in range(VISITS):
                yield rig.visit()
            for _ in range(CALLS):
                yield rig.one()
            if not on:
                break
    rig.check()
