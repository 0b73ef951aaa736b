"""Every order of a short story of the hosting service: an explorer over the service itself. A plain module.

A world is the service over its disk and its machine, a requester's first boot, its second one, and time. At
each state something can happen: a message arrives (the next one of a boot, or the one behind it first), is
lost, the step of a request goes on to its next effect, what is written becomes durable, time passes, the
service dies. All sequences are tried, each from the beginning; a state that was seen before is not gone into
again, and what makes a state is written down in `World.state`.

What leaves the service waits until the disk has what it rests on, as in a broker. A message that was not
answered before the service died is sent again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from protocol.hosting import Identity, Limits, Service, SimulatedDisk
from protocol.hosting import machine as m
from protocol.hosting.idempotency import Key

IMAGE = b"an image"
DIGEST = hashlib.sha256(IMAGE).digest()
SPEC = {"image": DIGEST, "vcpus": 1, "memory_mib": 64, "on_owner_loss": "linger", "linger_s": 60}
CID, NOW = 3, 1_000
LEASE_MS, GRACE_MS = 31_000, 61_000
Act = tuple[str, Any]


@dataclass(frozen=True)
class Message:
    """What boot `epoch` says. `child`: it names the child that was made first."""

    epoch: int
    kind: str
    body: dict[str, Any] = field(default_factory=dict)
    key: bytes | None = None
    child: bool = False


START = Message(1, "start", {"spec": SPEC}, Key(1, 1).packed())
RENEW, HELLO = Message(1, "lease.renew"), Message(2, "hello", {"versions": [1]})
ADOPT = Message(2, "adopt")


@dataclass(frozen=True)
class Story:
    """`messages` of both boots, each in the order in which it says them; what may go wrong how often."""

    messages: tuple[Message, ...]
    times: tuple[int, ...] = (LEASE_MS, GRACE_MS)
    crashes: int = 1
    losses: int = 0


class Machine:
    """Guests that outlive the service."""

    def __init__(self) -> None:
        self.guests: dict[bytes, str] = {}

    def perform(self, effect: Any) -> Any:
        if isinstance(effect, m.Inventory):
            return {name: m.Found(state == "running") for name, state in self.guests.items()}
        if isinstance(effect, m.CreateGuest):
            assert effect.child not in self.guests, "the same guest twice"
            self.guests[effect.child] = "created"
            assert len(self.guests) == 1, "two children of one key"
            return None
        if effect.child not in self.guests:
            return m.Vanished()
        if isinstance(effect, m.DestroyGuest):
            del self.guests[effect.child]
        elif isinstance(effect, m.StartGuest):
            self.guests[effect.child] = "running"
        elif isinstance(effect, m.StopGuest):
            self.guests[effect.child] = "stopped"
        return None


@dataclass
class Running:
    """A step that is under way: what it waits for. `fenced`: it came when its boot was over."""

    step: Any
    effect: Any = None
    done: bool = False
    value: Any = None
    hops: int = 0
    seen: int = -1  # version of the service when it began to wait
    fenced: bool = False

    def go(self, answer: Any) -> None:
        self.hops += not isinstance(self.effect, m.Await)  # to look again is not to have come further
        try:
            self.effect = self.step.send(answer)
        except StopIteration as stop:
            self.done, self.value = True, stop.value


class World:
    """One state, and what can happen in it."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.machine, self.disk, self.now = Machine(), SimulatedDisk(), NOW
        self.service = Service(Limits(), self.disk.journal, seed=1)
        self.running: dict[str, Running] = {}
        self.left = list(range(len(story.messages)))
        self.replies: dict[int, dict[str, Any]] = {}
        self.times, self.crashes, self.losses, self.lives, self.ticks = 0, story.crashes, story.losses, 1, 0
        self.first = b""  # the child that was made first
        self.expired = False  # the lease of the new boot, ever
        for kind, body in (
            ("hello", {"versions": [1]}),
            ("image.put", {"digest": DIGEST, "size": len(IMAGE), "offset": 0, "data": IMAGE}),
        ):
            self._at_once(Message(1, kind, body))

    def _at_once(self, message: Message) -> None:
        running = Running(self._handled(message, 99))
        running.go(None)
        assert running.done
        self.disk.flush()

    def _handled(self, message: Message, number: int) -> Any:
        body = dict(message.body)
        if message.kind == "adopt":
            body = {"credential": self.service._registry.credential(CID, 1), "epoch": 1}
        if message.child:
            body["child"] = self.first or bytes(16)
        frame = {"v": 1, "t": message.kind, "rid": (number + 1).to_bytes(16, "big"), "epoch": message.epoch,
                 "dl": None, "key": message.key, "b": body}  # fmt: skip
        return self.service.handle(Identity(CID, message.epoch), frame, self.now)

    # -- what can happen -------------------------------------------------------------------------------------

    def acts(self) -> list[Act]:
        """In no particular order. While the service comes back nothing else is handled."""
        found: list[Act] = [("go", name) for name, running in self.running.items() if self._can_go(running)]
        if "recover" not in self.running:
            for epoch in (1, 2):
                mine = [number for number in self.left if self.story.messages[number].epoch == epoch]
                found += [("send", number) for number in mine[:2]]
                if self.losses:
                    found += [("lose", number) for number in mine[:1]]
            if self.times < len(self.story.times):
                found.append(("time", self.times))
        if self.crashes and (self.running or self.left):
            found.append(("crash", False))
            if self.disk.journal.pending:
                found.append(("crash", True))
        return found

    def _can_go(self, running: Running) -> bool:
        if not running.done and isinstance(running.effect, m.Await):
            return self.service.version != running.seen or self.now >= running.effect.until_ms
        return True

    def do(self, act: Act) -> None:
        what, which = act
        getattr(self, f"_{what}")(which)
        children = self.service._registry.children
        self.first = self.first or next(iter(children), b"")
        owner = self.service._registry.requesters.get(CID)
        self.expired = self.expired or (owner is not None and owner.epoch == 2 and owner.lease.expired)

    def _send(self, number: int) -> None:
        self.left.remove(number)
        message = self.story.messages[number]
        running = Running(self._handled(message, number))
        running.fenced = message.epoch < self.service.epoch_of(CID)
        self._begun(f"{number}", running)

    def _lose(self, number: int) -> None:
        self.left.remove(number)
        self.losses -= 1

    def _time(self, number: int) -> None:
        self.now += self.story.times[number]
        self.times += 1
        self._tick()

    def _tick(self) -> None:
        for step in self.service.tick(self.now):
            self.ticks += 1
            self._begun(f"tick {self.ticks}", Running(step))

    def _begun(self, name: str, running: Running) -> None:
        self.running[name] = running
        running.go(None)
        self._looked_at(running)

    def _go(self, name: str) -> None:
        """What it waits for happens; what it rests on is durable before."""
        running = self.running[name]
        self.disk.flush()
        if running.done:
            del self.running[name]
            if name.isdigit():
                self._answered(int(name), running)
            return
        if isinstance(running.effect, m.Await):
            running.go(self.now)
        else:
            running.go(self.machine.perform(running.effect))
        self._looked_at(running)

    def _looked_at(self, running: Running) -> None:
        running.seen = self.service.version
        assert running.done or not running.fenced, f"an old boot acts: {running.effect}"

    def _answered(self, number: int, running: Running) -> None:
        self.replies[number] = running.value
        assert not running.fenced or running.value["t"] == "err", "an old boot is served"

    def _crash(self, kept: bool) -> None:
        """The service dies; what it had appended is durable, or is not."""
        if kept:
            self.disk.flush()
        self.crashes -= 1
        self.lives += 1
        unanswered = [int(name) for name in self.running if name.isdigit()]
        self.left = sorted({*self.left, *unanswered})
        self.disk = self.disk.crash()
        self.service = Service(Limits(), self.disk.journal, seed=1)
        self.running = {}
        self._begun("recover", Running(self.service.recover(self.disk.rows(), self.now)))

    # -- what it is ------------------------------------------------------------------------------------------

    def state(self) -> object:
        """All that decides what can happen from here on, and whether that is right."""
        registry = self.service._registry
        return (
            tuple(self.left), self.times, self.crashes, self.losses, self.now, self.expired,
            tuple(sorted(self.machine.guests.items())),
            tuple(sorted((row.kind, row.id, row.data) for row in self.disk.rows())),
            self.disk.journal.pending,
            tuple(sorted(
                (name, run.hops, str(run.effect), run.done, run.fenced, self._can_go(run), str(run.value))
                for name, run in self.running.items()
            )),
            tuple(sorted((number, reply["t"]) for number, reply in self.replies.items())),
            tuple(
                (who.epoch, who.alive, who.lease.deadline_ms, who.lease.expired, who.in_flight)
                for who in registry.requesters.values()
            ),
            tuple(
                (name, child.state, child.doom, child.grace_until_ms, child.busy, child.present, child.before,
                 child.origin.owner.epoch, child.adopted_from, child.tries, child.retry_at_ms)
                for name, child in registry.children.items()
            ),
        )  # fmt: skip

    def check_end(self) -> None:
        """Nothing is under way. Who has a child keeps it; else it goes when its grace is over, all of it."""
        self._settle()
        self._owners()
        for _ in range(4):
            self.now += GRACE_MS + LEASE_MS
            self._tick()
            self._settle()
        assert self.machine.guests == {}, "an orphan"
        held = self.service.records()
        assert not held.get("child"), held

    def _settle(self) -> None:
        """All that is under way goes on. What a former life began to boot needs a tick."""
        steps = 0
        for _ in range(2):
            while ready := [name for name, running in self.running.items() if self._can_go(running)]:
                self._go(ready[0])
                steps += 1
                assert steps < 1_000, f"no end: {ready}, {self.running[ready[0]].effect}"
            if not self.running:
                return
            self._tick()
        assert not self.running, f"nothing wakes {list(self.running)}"

    def _owners(self) -> None:
        """A guest has one record, whose owner is the present boot if it was adopted; the machine agrees."""
        children = self.service._registry.children
        assert set(self.machine.guests) <= set(children), "a guest without a record"
        for number, message in enumerate(self.story.messages):
            reply = self.replies.get(number)
            if message.kind != "adopt" or reply is None or reply["t"] == "err":
                continue
            for name in reply["b"]["adopted"]:
                child = children.get(name)
                assert child is not None or self._given_up(), "an adopted child is gone"
                assert child is None or child.origin.owner.epoch == 2, "an adopted child has another owner"

    def _given_up(self) -> bool:
        """The new boot ended the child, or let its own lease run out."""
        said = [
            message for message in self.story.messages if message.epoch == 2 and message.kind == "destroy"
        ]
        return bool(said) or self.expired


def explore(story: Story, most: int = 10_000_000) -> tuple[int, int]:
    """Every sequence of a story: how many states there were, and how many ends."""
    seen: set[int] = set()
    ends, waiting = 0, [()]  # type: tuple[int, list[tuple[Act, ...]]]
    while waiting:
        done = list(waiting.pop())
        try:
            world = World(story)
            for act in done:
                world.do(act)
            while True:
                known = hash(world.state())
                if known in seen:
                    break
                seen.add(known)
                assert len(seen) <= most, f"more than {most} states"
                acts = world.acts()
                if not acts:
                    ends += 1
                    world.check_end()
                    break
                waiting += [(*done, act) for act in acts[1:]]
                done.append(acts[0])
                world.do(acts[0])
        except Exception as error:
            raise AssertionError(f"after {done}: {error!r}") from error
    return len(seen), ends
