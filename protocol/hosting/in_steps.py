"""Requests that are answered in steps: they ask L0's machine, or wait, and others go on meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from protocol.effects import Step
from protocol.errors import OperationalError
from protocol.hosting import messages as m
from protocol.hosting.accounts import WATCHER
from protocol.hosting.at_once import Body, need_lease
from protocol.hosting.errors import ERRORS, Code, Refusal
from protocol.hosting.evidence import Measured, Signer, evidence
from protocol.hosting.idempotency import Entry, spec_digest
from protocol.hosting.lifecycle import Lifecycle, ask, doom, refusal_of
from protocol.hosting.limits import Offer
from protocol.hosting.machine import AttestGuest, Await, DumpGuest, Failure
from protocol.hosting.records import Child, Identity, Requester, Tombstone
from protocol.hosting.registry import Registry, answer
from protocol.hosting.states import PAST_READY, REACHED, State

Answer = Callable[[Requester, m.Request, Any], Step[Body]]
LOOK_AGAIN_MS = 60_000  # a wait without an end looks at least so often


class InSteps:
    """What is answered in steps over `registry`. `policy` is the version of what requesters may ask."""

    def __init__(
        self, registry: Registry, life: Lifecycle, offer: Offer, signer: Signer | None, policy: bytes
    ) -> None:
        self.replays: Counter[str] = Counter()  # of keys: same, or conflict
        self._registry = registry
        self._life = life
        self._offer = offer
        self._signer = signer
        self._policy = policy
        self._answers: dict[type[m.Message], Answer] = {
            m.Start: self._start,
            m.Wait: self._wait,
            m.Stop: self._stop,
            m.Reset: self._reset,
            m.Destroy: self._destroy,
            m.Attest: self._attest,
            m.Dump: self._dump,
        }

    def find(self, message: m.Message) -> Answer:
        """Return what answers `message`."""
        return self._answers[type(message)]

    def _start(self, requester: Requester, request: m.Request, body: m.Start) -> Step[Body]:
        need_lease(requester)
        spec = body.spec.spec()
        for name, asked, offered in (
            ("vmm", spec.vmm, self._offer.vmms),
            ("ready", spec.ready, self._offer.ready),
        ):
            if asked not in offered:
                raise Refusal(Code.UNSUPPORTED, f"{name} {asked}: offered here: {', '.join(offered)}")
        digest = spec_digest(spec)
        entry = self._replayed(requester, request.key, digest)
        if entry is not None:
            return (yield from self._again(requester, request, entry, body.mode))
        wait = requester.bucket.take(self._registry.now_ms)
        if wait:
            raise Refusal(Code.RATE_LIMITED, "starts", retry_after_ms=wait)
        child = self._registry.reserve(requester, spec, request.key, digest, promised=body.mode == "reserve")
        if body.mode == "run":
            yield from self._life.build(child)
        return answer(child) | {"state": str(child.state), "replayed": False}

    def _replayed(self, requester: Requester, key: bytes | None, digest: bytes) -> Entry | None:
        if key is None:
            return None
        try:
            entry = requester.keys.find(key, digest, requester.epoch)
        except Refusal:
            self.replays["conflict"] += 1
            raise
        if entry is not None:
            self.replays["same"] += 1
        return entry

    def _again(self, requester: Requester, request: m.Request, entry: Entry, mode: str) -> Step[Body]:
        """Answer a start that was asked before, as the first one; run what so far was only reserved.

        An answer before the outcome is known could name a child that is rolled back, whose key is then free
        for another one.
        """
        child = requester.children.get(entry.child)
        if child is None:
            if entry.refusal is not None:
                raise _as_told_again(entry.refusal)
            return dict(entry.answer) | {"state": str(State.RELEASED), "replayed": True}
        if child.state is State.RESERVED and mode == "run" and not child.busy:
            yield from self._life.build(child)
        deadline_ms = None if request.budget_ms is None else self._registry.now_ms + request.budget_ms
        while child.under_way():
            yield from self._pause(requester, deadline_ms, f"still {child.state}")
        if child.failure is not None and not child.came_up():
            raise child.failure
        return dict(entry.answer) | {"state": str(child.state), "replayed": True}

    def _pause(self, requester: Requester, deadline_ms: int | None, why: str) -> Step[None]:
        """Wait until a child has changed. Raises Refusal: TIMEOUT with `why`, STALE_EPOCH."""
        registry, who = self._registry, Identity(requester.cid, requester.epoch)
        if deadline_ms is not None and registry.now_ms >= deadline_ms:
            raise Refusal(Code.TIMEOUT, why)
        until_ms = registry.now_ms + LOOK_AGAIN_MS if deadline_ms is None else deadline_ms
        try:
            registry.at((yield Await(until_ms)))
        except OperationalError as error:
            raise Refusal(Code.STALE_EPOCH, "the wait was ended", detail={"epoch": who.epoch}) from error
        registry.admit(who)

    def _wait(self, requester: Requester, request: m.Request, body: m.Wait) -> Step[Body]:
        registry, until = self._registry, State(body.until)
        budget = body.timeout_ms if request.budget_ms is None else min(body.timeout_ms, request.budget_ms)
        deadline_ms = registry.now_ms + budget
        requester.quota.charge(WATCHER)
        try:
            while True:
                found = registry.find(requester, body.child)
                state = found.state if isinstance(found, Child) else State.RELEASED
                if state in REACHED[until]:
                    return {"child": body.child, "state": str(state), "timings": dict(found.timings)}
                _still_possible(found, state, until)
                yield from self._pause(requester, deadline_ms, f"still {state}")
        finally:
            requester.quota.refund(WATCHER)

    def _stop(self, requester: Requester, _: m.Request, body: m.Stop) -> Step[Body]:
        child = self._registry.live(requester, body.child)
        if child.state in {State.STOPPED, State.LOST} or (child.state is State.STOPPING and child.busy):
            return {"state": str(child.state)}
        if child.busy or not child.running():
            raise _not_in(child, State.READY)
        yield from self._life.stop(child, body.grace_ms if body.how == "graceful" else 0)
        return {"state": str(child.state)}

    def _reset(self, requester: Requester, _: m.Request, body: m.Reset) -> Step[Body]:
        child = self._registry.live(requester, body.child)
        if child.busy or child.state is not State.READY:
            raise _not_in(child, State.READY)
        yield from self._life.reset(child)
        return {"state": str(child.state)}

    def _attest(self, requester: Requester, request: m.Request, body: m.Attest) -> Step[Body]:
        if self._signer is None:
            raise Refusal(Code.UNSUPPORTED, "this host signs no evidence")
        child = self._running(requester, body.child)
        measured = yield from ask(child, AttestGuest(body.child, body.nonce))
        if not isinstance(measured, Measured):
            raise Refusal(Code.ATTEST_FAILED, "the guest could not be measured", stage="attest")
        origin = child.origin
        facts = {
            "child": origin.id,
            "cid": origin.cid,
            "requester": origin.owner.cid,
            "epoch": origin.owner.epoch,
            "debug": origin.spec.debug,
            "nonce": body.nonce,
            "user_data": body.user_data,
            "vmm": origin.spec.vmm,
            "guest_data": measured.guest_data,
            "policy": self._policy,
            "at_ms": self._registry.now_ms,
        }
        try:
            return {"evidence": evidence(self._signer, facts, measured)}
        except ValueError as error:
            raise Refusal(Code.ATTEST_FAILED, str(error), stage="attest") from error

    def _dump(self, requester: Requester, _: m.Request, body: m.Dump) -> Step[Body]:
        if not self._offer.dump:
            raise Refusal(Code.UNSUPPORTED, "there are no dumps here")
        child = self._running(requester, body.child)
        if not (child.origin.spec.debug or self._offer.sealed):
            raise Refusal(Code.POLICY, "a production child is not dumped; start it with debug")
        got = yield from ask(child, DumpGuest(body.child, body.offset, body.count))
        if isinstance(got, Failure):
            raise refusal_of(got, "dump")
        assert isinstance(got, tuple), "the contract of the effect"
        size, data = got
        return {"size": size, "data": data}

    def _running(self, requester: Requester, name: bytes) -> Child:
        child = self._registry.live(requester, name)
        if child.state is not State.READY:
            raise _not_in(child, State.READY)
        return child

    def _destroy(self, requester: Requester, _: m.Request, body: m.Destroy) -> Step[Body]:
        child = requester.children.get(body.child)
        if child is None or not requester.is_now(child.origin.owner):
            return {"state": str(State.RELEASED)}  # gone, or never was, or somebody else's: the same
        doom(child, "request")
        yield from self._life.settle(child)
        if child.state is not State.RELEASED:
            failure = child.failure if child.tries else None
            cause = failure.cause if failure else ("a request on it is under way",)
            wait = max(0, child.retry_at_ms - self._registry.now_ms)
            held = {"held": ["guest"] if child.present else []}
            raise Refusal(Code.BUSY_RELEASING, *cause, stage="destroy", retry_after_ms=wait, detail=held)
        return {"state": str(State.RELEASED)}


def _as_told_again(refusal: Refusal) -> Refusal:
    """What a key answers for good. To try again with it is of no use, so nothing here says that it is."""
    if not ERRORS[refusal.code].retryable:
        return refusal
    detail: dict[str, object] = {"have": str(State.RELEASED), "need": [str(State.RESERVED)]}
    cause = f"this start had failed: {refusal.code.name}"
    return Refusal(Code.BAD_STATE, cause, "use a new key", stage=refusal.stage, detail=detail)


def _not_in(child: Child, need: State) -> Refusal:
    detail = {"have": str(child.state), "need": [str(need)]}
    return Refusal(Code.BAD_STATE, f"the child is {child.state}", detail=detail)


def _still_possible(found: Child | Tombstone, state: State, until: State) -> None:
    """Raise Refusal where waiting any longer is of no use."""
    hopeless = state in PAST_READY if until is State.READY else state is State.LOST and until is State.STOPPED
    if not hopeless:
        return
    if found.failure is not None:
        raise found.failure
    raise Refusal(Code.BAD_STATE, f"the child is {state}", detail={"have": str(state), "need": [str(until)]})
