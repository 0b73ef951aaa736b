"""Sequences on one child: build, stop, reset, take down.

Each asks L0's machine and may be parked while it does.

Theory of operation. One step at a time works on a child (`busy`). Whoever wants a child gone while a step
works on it writes the reason into `doom`; the step sees it when its present request to the machine has
been answered, gives up, and takes the child down before it lets go. So nothing is ever done twice, and a
parked step is never closed. A child that the machine will not give back stays on the books, charged, and
`tick` tries it again.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.effects import Step
from protocol.errors import LevelGone, OperationalError, OwnerGone
from protocol.hosting.errors import Code, Refusal
from protocol.hosting.leases import backoff
from protocol.hosting.machine import (
    CreateGuest,
    DestroyGuest,
    Died,
    Emergency,
    Failure,
    ImageChanged,
    LoadGuest,
    MachineEffect,
    NeedMemory,
    NoImage,
    NoResource,
    ResetGuest,
    StartGuest,
    StopGuest,
    TeError,
    TimedOut,
    Unanswered,
    Vanished,
)
from protocol.hosting.records import Child, Requester
from protocol.hosting.registry import Registry
from protocol.hosting.states import LEGAL, State

MIB_PER_GIB = 1024
LAST_LINES = 3  # of a console that are told with a start that failed


class Lifecycle:
    """What can be done to a child of `registry`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    # One step at a time

    def build(self, child: Child) -> Step[None]:
        """From RESERVED to READY. Raises Refusal: by then all is rolled back, or FAILED says what is held."""
        return self._alone(child, self._build(child))

    def finish_start(self, child: Child) -> Step[None]:
        """From STARTING to READY, begun by a former life of the service. Raises as `build` does."""
        return self._alone(child, self._finish_start(child))

    def stop(self, child: Child, grace_ms: int) -> Step[None]:
        """From READY to STOPPED. Raises Refusal: the child stays STOPPING, to be stopped again."""
        return self._alone(child, self._stop(child, grace_ms))

    def reset(self, child: Child) -> Step[None]:
        """From READY to READY. Raises Refusal: the child is FAILED or LOST."""
        return self._alone(child, self._reset(child))

    def settle(self, child: Child) -> Step[None]:
        """Take a doomed child down, if nobody works on it."""
        if not child.busy and child.state is not State.RELEASED:
            yield from self._alone(child, _nothing())

    def _alone(self, child: Child, step: Step[None]) -> Step[None]:
        assert not child.busy, "two steps on one child"
        child.busy = True
        refusal = None
        try:
            yield from step
        except Refusal as raised:
            refusal = raised
        if child.doom:
            yield from self._take_down(child)
        elif child.grace_until_ms is not None:
            self._orphan(child)
        child.busy = False
        if child.exit is not None:  # it ended while the step was at it
            self.ended(child, child.exit)
        self._registry.version += 1  # whoever waits for the outcome looks again, also where the state stayed
        if refusal is not None:
            raise refusal

    # The sequences

    def _build(self, child: Child) -> Step[None]:
        registry, origin = self._registry, child.origin
        try:
            self._go_on(child, "reserve")
            registry.move(child, State.LOADING, "start")
            image = origin.image.data or b""
            create = CreateGuest(origin.id, origin.cid, origin.spec, image, origin.owner.cid)
            made = yield from ask(child, create)
            # A guest that may be there is one that has to be destroyed.
            registry.set_present(child, isinstance(made, Unanswered) or not isinstance(made, Failure))
            self._answered(child, "create", made)
            self._answered(child, "load", (yield from ask(child, LoadGuest(origin.id))))
            registry.move(child, State.STARTING, "start")
            yield from self._boot(child)
        except Refusal as refusal:
            self._failed(child, refusal)
            raise

    def _finish_start(self, child: Child) -> Step[None]:
        try:
            yield from self._boot(child)
        except Refusal as refusal:
            self._failed(child, refusal)
            raise

    def _boot(self, child: Child) -> Step[None]:
        start = StartGuest(child.origin.id, self._boot_ms(child))
        self._answered(child, "start", (yield from ask(child, start)))
        self._registry.move(child, State.READY, "start")

    def _failed(self, child: Child, refusal: Refusal) -> None:
        """What a debug child said last belongs to the cause: its console goes with it."""
        if child.console is not None:
            refusal.explain(*(f"console: {line}" for line in child.console.tail(LAST_LINES)))
        child.failure = refusal
        if child.state in {State.LOADING, State.STARTING}:
            self._registry.move(child, State.FAILED, refusal.stage)
        doom(child, "rollback")

    def _stop(self, child: Child, grace_ms: int) -> Step[None]:
        if child.state is not State.STOPPING:
            self._registry.move(child, State.STOPPING, "request")
        self._answered(child, "stop", (yield from ask(child, StopGuest(child.origin.id, grace_ms))))
        self._registry.move(child, State.STOPPED, "request")

    def _reset(self, child: Child) -> Step[None]:
        registry = self._registry
        registry.move(child, State.STARTING, "reset")
        try:
            reset = ResetGuest(child.origin.id, self._boot_ms(child))
            self._answered(child, "reset", (yield from ask(child, reset)))
        except Refusal as refusal:
            child.failure = refusal
            if child.state is not State.LOST:
                registry.move(child, State.FAILED, "reset")
            raise
        registry.move(child, State.READY, "reset")

    def _take_down(self, child: Child) -> Step[None]:
        """Stop, destroy, release. Where the machine refuses, the child keeps its state and is tried again."""
        registry = self._registry
        if child.state is State.STARTING:  # begun by a former life, and nobody has taken it up yet
            registry.move(child, State.FAILED, child.doom)
        if child.running():
            if child.state is not State.STOPPING:
                registry.move(child, State.STOPPING, child.doom)
            stopped = yield from ask(child, StopGuest(child.origin.id, 0))
            if isinstance(stopped, Vanished):
                self.lose(child)
            elif not isinstance(stopped, Failure):
                registry.move(child, State.STOPPED, child.doom)
        if child.present:
            if not child.tries:
                registry.intend(child, "RELEASING", child.doom)
            answer = yield from ask(child, DestroyGuest(child.origin.id))
            if isinstance(answer, Failure) and not isinstance(answer, Vanished):
                limits = registry.limits
                child.tries += 1
                child.failure = child.failure or refusal_of(answer, "destroy")
                wait_ms = backoff(child.tries, limits.retry_first, limits.retry_last)
                child.retry_at_ms = registry.now_ms + wait_ms
                return
            registry.set_present(child, False)
        if child.state is State.STOPPING:
            registry.move(child, State.STOPPED, child.doom)
        registry.release(child)

    # What happens from outside

    def ended(self, child: Child, status: int) -> None:
        """Note that a guest ended by itself."""
        child.exit = status
        if child.busy or not child.running():
            return
        if child.state is State.ORPHANED:
            child.before = State.STOPPED
        else:
            self._registry.move(child, State.STOPPED, "exit")

    def vanished(self, child: Child) -> None:
        """Note that L0's machine has no such guest any more."""
        if not child.busy and child.present:
            self.lose(child)

    def owner_lost(self, children: Iterable[Child], cause: str) -> list[Child]:
        """Apply each child's policy; return those that have to go now."""
        due = []
        for child in children:
            linger_s = child.origin.spec.linger_s
            if linger_s and not child.doom:
                if child.grace_until_ms is None:
                    child.grace_until_ms = self._registry.now_ms + 1000 * linger_s
                if not child.busy:
                    self._orphan(child)
            elif not linger_s:
                doom(child, cause)
                due.append(child)
        return due

    def owner_back(self, requester: Requester) -> int:
        """Give the children in grace back to an owner whose lease is renewed; return how many."""
        back = 0
        for child in requester.children.values():
            if child.grace_until_ms is None or child.doom or not requester.is_now(child.origin.owner):
                continue
            child.grace_until_ms = None
            back += 1
            if child.state is State.ORPHANED:
                self._registry.move(child, child.before, "lease")
        return back

    def _orphan(self, child: Child) -> None:
        if State.ORPHANED in LEGAL[child.state]:
            self._registry.move(child, State.ORPHANED, "lease")

    def lose(self, child: Child) -> None:
        """There is a record, and no guest any more."""
        self._registry.set_present(child, False)
        if State.LOST in LEGAL[child.state]:
            self._registry.move(child, State.LOST, "vanished")

    # Answers of the machine

    def _answered(self, child: Child, stage: str, answer: object) -> None:
        """Raise Refusal if the machine failed, or if the child has to go by now."""
        if isinstance(answer, Vanished):
            self.lose(child)
        if isinstance(answer, Failure):
            raise refusal_of(answer, stage)
        self._go_on(child, stage)

    def _go_on(self, child: Child, stage: str) -> None:
        if child.doom:
            raise _given_up(child, stage)

    def _boot_ms(self, child: Child) -> int:
        limits = self._registry.limits
        return limits.boot_base + limits.boot_per_gib * child.origin.memory_mib // MIB_PER_GIB


def doom(child: Child, cause: str) -> None:
    """Decide that `child` has to go. The first cause stays."""
    child.doom = child.doom or cause


def ask(child: Child, effect: MachineEffect) -> Step[object]:
    """Yield `effect` and return its answer, also where the driver throws one. Raises Refusal: given up."""
    while True:
        try:
            return (yield effect)
        except OwnerGone:
            # Not performed. What ends the guest is asked for again, anything else is pointless now.
            doom(child, "gone")
            if not isinstance(effect, (StopGuest, DestroyGuest)):
                raise _given_up(child, "owner") from None
        except LevelGone:
            return Vanished()
        except OperationalError as error:
            return Unanswered(type(error).__name__)


def _given_up(child: Child, stage: str) -> Refusal:
    if child.doom == "lease":
        return Refusal(Code.LEASE_EXPIRED, "the lease ran out meanwhile", stage=stage)
    detail = {"have": str(child.state), "need": []}
    return Refusal(Code.BAD_STATE, f"given up meanwhile: {child.doom}", stage=stage, detail=detail)


def refusal_of(failure: Failure, stage: str) -> Refusal:
    """Return how a failure of the machine is told to the requester."""
    match failure:
        case TeError(call, rc, rrc):
            detail: dict[str, object] = {"call": call, "rc": rc, "rrc": rrc}
            return Refusal(Code.TE_ERROR, f"{call}: rc {rc:#x}, rrc {rrc:#x}", stage=stage, detail=detail)
        case NeedMemory(pages):
            return Refusal(Code.NEED_MEMORY, f"{pages} pages", stage=stage, detail={"pages": pages})
        case Died(status):
            return Refusal(Code.BOOT_DIED, f"exit {status}", stage=stage, detail={"exit": status})
        case Emergency():
            return Refusal(Code.BOOT_DIED, "the guest is in emergency mode", stage=stage, detail={"exit": 0})
        case ImageChanged():
            return Refusal(Code.IMAGE_INVALID, "the image changed before it was loaded", stage=stage)
        case NoImage(reason):
            return Refusal(Code.IMAGE_INVALID, reason, stage=stage)
        case NoResource(dimension, reason):
            return Refusal(Code.NO_RESOURCE, reason, stage=stage, detail={"dimension": dimension})
        case TimedOut(timeout_ms):
            return Refusal(Code.BOOT_TIMEOUT, stage=stage, detail={"timeout_ms": timeout_ms})
        case Unanswered(reason):
            return Refusal(Code.INTERNAL, "the machine did not answer", stage=stage, detail={"ref": reason})
        case Vanished():  # pragma: no branch - there are no other failures
            return Refusal(Code.INTERNAL, "the guest vanished", stage=stage, detail={"ref": ""})


def _nothing() -> Step[None]:
    return
    yield
