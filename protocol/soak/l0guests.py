"""L0's own machine under a hosting service: real software, on a Trusted Entity, one act after another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from protocol.crossing import Thread
from protocol.errors import OperationFailed
from protocol.hosting import machine as m
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.soak.island import CPUS, IMAGE_PAGES, MIB, PROFILE
from protocol.soak.options import Tally, Violation
from protocol.soak.ports import Architecture, Comparison, Rig

Deliver = Callable[[object], None]
REFUSED = m.TeError("refused on purpose", 1)
SHARE_MIB = 256  # of one requester


class L0Guests:
    """`refusing`: how often a step is refused though nothing is wrong; the guest stays as it was."""

    def __init__(
        self, name: str, arch: Architecture, requesters: int, seed: str, refusing: float, tally: Tally
    ) -> None:
        self.name, self.arch, self.tally, self.refusing = name, arch, tally, refusing
        self.random = Random(f"{seed}:{name}:machine")
        comparison: Comparison = arch.comparison
        least = arch.profiles[PROFILE].host_least_mib()[0]
        memory = (least + requesters * SHARE_MIB) * MIB
        drawn = self.random.getrandbits(30)
        sizes = Sizes(PROFILE, 0, requesters, memory, CPUS, drawn)
        self.rig: Rig = comparison.compose(sizes, Ledger())
        self.image = comparison.proving(comparison.image(drawn, IMAGE_PAGES, None))
        self.software = comparison.software(
            self.rig, 0, Random(drawn), pages="two_fault", bulk=False, image=self.image
        )
        self.guests: dict[bytes, int] = {}  # child -> number
        self.running: set[bytes] = set()
        self._numbers = 0
        self._waiting: deque[tuple[Any, Deliver]] = deque()
        self._deliver: Deliver = _nobody
        self.thread: Thread | None = self._thread(op.BootHost())

    def submit(self, effect: Any, deliver: Deliver) -> None:
        self._waiting.append((effect, deliver))

    def forget(self) -> None:
        """The service died: nobody waits for an answer any more. What is under way goes on to its end."""
        self._waiting.clear()
        self._deliver = _nobody

    # -- one act at a time -----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return self.thread is not None or bool(self._waiting)

    def hop(self) -> None:
        """Let one message go between L0's software and its machine; or begin the next act."""
        if self.thread is None:
            self._begin(*self._waiting.popleft())
            return
        try:
            self.thread.hop()
        except OperationFailed as failed:
            raise Violation(
                "service", f"L0 of {self.name}, {self.arch.name}, was refused: {failed}"
            ) from failed
        if self.thread.done:
            self.thread = None
            deliver, self._deliver = self._deliver, _nobody
            deliver(None)

    def _begin(self, effect: Any, deliver: Deliver) -> None:
        if isinstance(effect, m.Inventory):
            deliver({child: m.Found(child in self.running) for child in self.guests})
            return
        if not isinstance(effect, m.CreateGuest) and effect.child not in self.guests:
            deliver(m.Vanished())
            return
        if self.random.random() < self.refusing and not isinstance(effect, m.StopGuest):
            self.tally.faults["refuse"] += 1
            deliver(REFUSED)
            return
        act = self._act(effect)
        if act is None:
            deliver(None)
        else:
            self._deliver = deliver
            self.thread = self._thread(act)

    def _act(self, effect: Any) -> op.Operation | None:
        child = effect.child
        match effect:
            case m.CreateGuest():
                if child in self.guests:
                    raise Violation("hosting", f"the child {child.hex()} is created twice")
                number = self.guests[child] = self._numbers
                self._numbers += 1
                return op.Create(number, effect.spec.memory_mib, effect.spec.vcpus)
            case m.LoadGuest():
                return op.Load(self.guests[child])
            case m.StartGuest():
                self.running.add(child)
                return op.Start(self.guests[child])
            case m.DestroyGuest():
                self.running.discard(child)
                return op.Destroy(self.guests.pop(child))
            case m.StopGuest():
                self.running.discard(child)
        return None  # a reset asks nothing of the Trusted Entity that this soak looks at

    def _thread(self, act: op.Operation) -> Thread:
        return Thread(f"{self.name}:{act.name}", self.software.perform(act), self.rig.below(0))


def _nobody(_: object) -> None:
    pass
