"""The hosting service: one request in, effects on L0's machine on the way, one reply out.

The service knows no clock, no transport and no task. A request is a step, to be driven to its end
whatever happens to who asked: `handle` yields `MachineEffect` (answer it with what the machine said) or
`Await` (answer it with the time, once a child has changed or the time has come). Steps of different
requests may be interleaved at their yields. After each step `events` has what watchers are to be sent.

Rules held here: who asks is what the transport says, never what the frame says; the frame's epoch must
agree with it; a foreign child is answered exactly as one that never was; what only reads starts and stops
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from protocol.effects import Step
from protocol.errors import OperationalError
from protocol.hosting import messages as m
from protocol.hosting import signature
from protocol.hosting.at_once import AtOnce, need_lease
from protocol.hosting.channels import Channel
from protocol.hosting.errors import ERRORS, Code, Refusal, explain
from protocol.hosting.evidence import Measured, Trust, evidence
from protocol.hosting.idempotency import Entry, spec_digest
from protocol.hosting.journal import Journal, MemoryJournal, Row
from protocol.hosting.lifecycle import Lifecycle, ask, doom, refusal_of
from protocol.hosting.limits import CHUNK_BYTES, FRAME_BYTES, Limits, Offer
from protocol.hosting.machine import AttestGuest, Await, DumpGuest, Failure
from protocol.hosting.policy import EVERYTHING, Policy
from protocol.hosting.ports import Book, CountingBook
from protocol.hosting.records import Child, Identity, Requester, Tombstone
from protocol.hosting.recovery import Recovery, audit, end_strays, look, reconcile, restore
from protocol.hosting.registry import WATCHER, Registry, answer
from protocol.hosting.states import PAST_READY, REACHED, State
from protocol.hosting.statistics import Statistics

Body = dict[str, object]
Reply = dict[str, Any]


class Service:
    """Hosts secure guests for guest hosts, within `limits`."""

    def __init__(
        self,
        limits: Limits | None = None,
        journal: Journal | None = None,
        seed: int = 0,
        book: Book | None = None,
        offer: Offer | None = None,
        policy: Policy | None = None,
        trust: Trust | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.policy = policy or EVERYTHING
        self._offer = offer or Offer()
        self._signer = trust.signer if trust else None
        self._registry = Registry(self.limits, journal or MemoryJournal(), book or CountingBook(), seed)
        if trust is not None:
            self._registry.secret = trust.secret
        self._life = Lifecycle(self._registry)
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("messages", "refusals", "replays", "leases", "channel_bytes")
        }
        self._requests = AtOnce(self._registry, self._life, self._offer)
        self._steps: dict[type[m.Message], Callable[[Requester, m.Request, Any], Step[Body]]] = {
            m.Start: self._start,
            m.Wait: self._wait,
            m.Stop: self._stop,
            m.Reset: self._reset,
            m.Destroy: self._destroy,
            m.Attest: self._attest,
            m.Dump: self._dump,
        }

    # What comes from outside

    def at(self, now_ms: int) -> None:
        """Say what time it is; never goes back. A driver may say so before it answers an effect."""
        self._registry.now_ms = max(self._registry.now_ms, now_ms)

    def handle(self, who: Identity, frame: object, now_ms: int) -> Step[Reply]:
        """Serve one frame of `who` and return the one reply. Never raises for what is in the frame."""
        self.at(now_ms)
        try:
            request = m.open_frame(frame)
            self._counts["messages"][request.type] += 1
            body = yield from self._serve(who, request)
        except Refusal as refusal:
            self._counts["refusals"][refusal.code.name] += 1
            return _reply("err", m.rid_of(frame), refusal.body())
        return _reply("ev" if request.type == "watch" else "ok", request.rid, body)

    def tick(self, now_ms: int) -> Iterator[Step[None]]:
        """Let time pass: yield a step for each child that has to go now. They may be driven side by side."""
        self.at(now_ms)
        registry = self._registry
        for requester in list(registry.requesters.values()):
            lease = requester.lease
            if requester.alive and not lease.expired and lease.out(registry.now_ms):
                lease.expired = True
                self._counts["leases"]["expired"] += 1
                self._life.owner_lost(requester.children.values(), "lease")
            for child in list(requester.children.values()):
                if child.grace_until_ms is not None and child.grace_until_ms <= registry.now_ms:
                    doom(child, "lease")
                if child.doom and not child.busy and child.retry_at_ms <= registry.now_ms:
                    yield self._life.settle(child)
            registry.expire(requester)
        booting, registry.booting = registry.booting, []
        for child in booting:
            if not child.busy and child.state is State.STARTING:
                yield self._resume(child)
        if registry.strays:
            yield end_strays(registry)

    def _resume(self, child: Child) -> Step[None]:
        """See a child to READY that a former life began to boot; its failure is told to whoever asks."""
        with suppress(Refusal):
            yield from self._life.finish_start(child)

    def recover(self, rows: Iterable[Row], now_ms: int) -> Step[Recovery]:
        """Begin a later life with what the journal kept: to be driven before anything is handled."""
        self.at(now_ms)
        restore(self._registry, rows)
        return (yield from reconcile(self._registry, self._life))

    def look(self, now_ms: int) -> Step[int]:
        """Ask the machine what there is, in case a notice was lost; return how many children changed."""
        self.at(now_ms)
        return (yield from look(self._registry, self._life))

    def audit(self) -> Step[list[dict[str, object]]]:
        """Hold the records against what the machine has; return what only one of the two knows."""
        return (yield from audit(self._registry))

    def requester_gone(self, cid: int, epoch: int, now_ms: int) -> Step[None]:
        """Reclaim what boot `epoch` of a requester leaves behind: it died, or was seen to have rebooted."""
        self.at(now_ms)
        requester = self._registry.requesters.get(cid)
        if requester is not None and requester.is_now(Identity(cid, epoch)):
            yield from self._lose(requester, "gone")

    def guest_ended(self, child: bytes, status: int, now_ms: int) -> None:
        """Note that the guest of `child` ended by itself, with `status`."""
        self.at(now_ms)
        if child in self._registry.children:
            self._life.ended(self._registry.children[child], status)

    def guest_lost(self, child: bytes, now_ms: int) -> None:
        """Note that L0's machine no longer has the guest of `child`."""
        self.at(now_ms)
        if child in self._registry.children:
            self._life.vanished(self._registry.children[child])

    def console_wrote(self, child: bytes, data: bytes) -> None:
        """Note what the guest of `child` wrote on its console; only a debug child's is kept."""
        found = self._registry.children.get(child)
        if found is not None and found.console is not None:
            found.console.write(data)

    def redeem(self, who: Identity, token: bytes) -> Channel | None:
        """Return the channel that `token` opens, once; None for any other."""
        requester = self._registry.requesters.get(who.cid)
        found = requester.channels.redeem(token) if requester and requester.is_now(who) else None
        if found is None:
            self._registry.lookups["denied"] += 1  # somebody guesses
        return found

    def channel_over(self, who: Identity, name: bytes, sent: int, received: int) -> None:
        """Note that the stream of a channel has ended, and how many bytes it carried."""
        self._counts["channel_bytes"]["sent"] += sent
        self._counts["channel_bytes"]["received"] += received
        requester = self._registry.requesters.get(who.cid)
        if requester is not None and requester.is_now(who):
            self._registry.drop_channel(requester, name)

    def cuts(self) -> list[bytes]:
        """Channels that are over, whose streams are to be ended; each is told once."""
        cut, self._registry.cuts = self._registry.cuts, []
        return cut

    def unwatch(self, who: Identity, rid: bytes) -> None:
        """End a watch whose connection is gone."""
        requester = self._registry.requesters.get(who.cid)
        if requester is not None and requester.is_now(who):
            self._registry.unwatch(requester, rid)

    # What can be seen from outside

    @property
    def journal(self) -> Journal:
        """What has to be durable before anything of a decision may leave."""
        return self._registry.journal

    def events(self) -> list[tuple[Identity, Reply]]:
        """Return the frames that watchers have not been given yet, and count them as given."""
        frames = []
        for cid in self._registry.rung:
            requester = self._registry.requesters[cid]
            who = Identity(cid, requester.epoch)
            for rid in requester.log.watchers:
                frames += [(who, _reply("ev", rid, body)) for body in requester.log.due(rid)]
        self._registry.rung.clear()
        return frames

    def epoch_of(self, cid: int) -> int:
        """Return the boot that a requester is in, or would be in with its next word; 1 for an unknown one."""
        requester = self._registry.requesters.get(cid)
        if requester is not None and requester.alive:
            return requester.epoch
        return self._registry.gone.get(cid, 0) + 1

    @property
    def version(self) -> int:
        """A number that grows with every change of a child's state."""
        return self._registry.version

    def records(self) -> dict[str, int]:
        """Return how many records of each kind there are."""
        return self._registry.records()

    def statistics(self) -> Statistics:
        counts, registry = self._counts, self._registry
        return Statistics(
            messages=dict(counts["messages"]),
            refusals=dict(counts["refusals"]),
            lookups=dict(registry.lookups),
            replays=dict(counts["replays"]),
            leases=dict(counts["leases"]) | self._requests.renewals(),
            teardowns=dict(registry.teardowns),
            image_bytes=self._requests.image_bytes,
            channel_bytes=dict(counts["channel_bytes"]),
            channel_resets=dict(registry.resets),
            strays=len(registry.strays),
            children=Counter(str(child.state) for child in registry.children.values()),
        )

    # One request

    def _serve(self, who: Identity, request: m.Request) -> Step[Body]:
        body = request.message
        if request.budget_ms == 0:
            raise Refusal(Code.TIMEOUT, "dl is 0: nothing was done")
        if isinstance(body, m.Explain):
            return _explain(body)
        if isinstance(body, m.Hello):
            return (yield from self._hello(who, body))
        requester = self._registry.admit(who)
        if request.epoch != who.epoch:
            raise Refusal(Code.STALE_EPOCH, "the frame's epoch is not yours", detail={"epoch": who.epoch})
        if requester.in_flight >= self.limits.in_flight:
            raise Refusal(Code.RATE_LIMITED, f"{requester.in_flight} requests are under way")
        self._permit(requester, request)
        requester.in_flight += 1
        try:
            at_once = self._requests.find(body)
            if at_once is not None:
                return at_once(requester, request, body)
            return (yield from self._steps[type(body)](requester, request, body))
        finally:
            requester.in_flight -= 1
            self._registry.forget_idle(requester)

    def _permit(self, requester: Requester, request: m.Request) -> None:
        """Raise Refusal (NOT_PERMITTED) unless the policy allows it. Tags are the child's, had or wanted."""
        body, spec, labels = request.message, None, {}
        if isinstance(body, m.Start):
            spec = body.spec.spec()
            labels = dict(spec.labels)
        child = requester.children.get(getattr(body, "child", None) or b"")
        if child is not None and requester.is_now(child.origin.owner):
            labels = dict(child.origin.spec.labels)
        signers = self.policy.check(request.type, requester.cid, labels, spec)
        if spec is not None and signers is not None:
            signature.check(spec, signers, self._registry.now_ms)

    def _hello(self, who: Identity, body: m.Hello) -> Step[Body]:
        if m.VERSION not in body.versions:
            raise Refusal(Code.UNSUPPORTED, "no common version", detail={"versions": [m.VERSION]})
        self.policy.check("hello", who.cid)
        known = self._registry.requesters.get(who.cid)
        if known is not None and known.alive and known.epoch < who.epoch:
            yield from self._lose(known, "reboot")
        requester = self._registry.open(who)
        self._requests.renew(requester)
        limits = self.limits
        return {
            "version": m.VERSION,
            "features": list(m.FEATURES),
            "id": who.cid,
            "epoch": who.epoch,
            "credential": self._registry.credential(who.cid, who.epoch),
            "policy": self.policy.digest,
            "profile": limits.profile,
            "lease": {"length_ms": limits.lease, "renew_ms": limits.renew},
            "limits": limits.each.named() | {"frame_bytes": FRAME_BYTES, "chunk_bytes": CHUNK_BYTES},
            "cids": [limits.cid_first, limits.cid_first + limits.cid_count - 1],
        }

    def _lose(self, requester: Requester, cause: str) -> Step[None]:
        """End the requester's present boot. What its children's machine refuses now, `tick` tries again."""
        children = list(requester.children.values())
        self._registry.abandon(requester)
        for child in self._life.owner_lost(children, cause):
            yield from self._life.settle(child)
        self._registry.forget_idle(requester)

    # Requests that may park

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
            return (yield from self._again(requester, entry, body.mode))
        wait = requester.bucket.take(self._registry.now_ms)
        if wait:
            raise Refusal(Code.RATE_LIMITED, "starts", retry_after_ms=wait)
        child = self._registry.reserve(requester, spec, request.key, digest)
        if body.mode == "run":
            yield from self._run(child)
        return answer(child) | {"state": str(child.state), "replayed": False}

    def _replayed(self, requester: Requester, key: bytes | None, digest: bytes) -> Entry | None:
        if key is None:
            return None
        try:
            entry = requester.keys.find(key, digest, requester.epoch)
        except Refusal:
            self._counts["replays"]["conflict"] += 1
            raise
        if entry is not None:
            self._counts["replays"]["same"] += 1
        return entry

    def _again(self, requester: Requester, entry: Entry, mode: str) -> Step[Body]:
        """Answer a start that was asked before; run what so far was only reserved."""
        if entry.refusal is not None:
            raise entry.refusal
        child = requester.children.get(entry.child)
        if child is not None and child.state is State.RESERVED and mode == "run" and not child.busy:
            yield from self._run(child)
        state = child.state if child is not None else State.RELEASED
        return dict(entry.answer) | {"state": str(state), "replayed": True}

    def _run(self, child: Child) -> Step[None]:
        requester, key = child.account, child.origin.key
        try:
            yield from self._life.build(child)
        except Refusal as refusal:
            # A key that outlives the failure answers the same again.
            entry = requester.keys.entry(key) if key and requester.is_now(child.origin.owner) else None
            if entry is not None and entry.child == child.origin.id:
                entry.refusal = refusal
            raise

    def _wait(self, requester: Requester, request: m.Request, body: m.Wait) -> Step[Body]:
        registry, until = self._registry, State(body.until)
        budget = body.timeout_ms if request.budget_ms is None else min(body.timeout_ms, request.budget_ms)
        deadline_ms = registry.now_ms + budget
        who = Identity(requester.cid, requester.epoch)
        requester.quota.charge(WATCHER)
        try:
            while True:
                found = registry.find(requester, body.child)
                state = found.state if isinstance(found, Child) else State.RELEASED
                if state in REACHED[until]:
                    return {"child": body.child, "state": str(state), "timings": dict(found.timings)}
                _still_possible(found, state, until)
                if registry.now_ms >= deadline_ms:
                    raise Refusal(Code.TIMEOUT, f"still {state}")
                try:
                    self.at((yield Await(deadline_ms)))
                except OperationalError as error:
                    raise Refusal(
                        Code.STALE_EPOCH, "the wait was ended", detail={"epoch": who.epoch}
                    ) from error
                registry.admit(who)
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
            "policy": self.policy.digest,
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


def _reply(kind: str, rid: bytes, body: Body) -> Reply:
    return {"v": m.VERSION, "t": kind, "rid": rid, "b": body}


def _explain(body: m.Explain) -> Body:
    if body.error not in {int(code) for code in ERRORS}:
        raise Refusal(Code.NOT_FOUND, "no such error")
    return explain(Code(body.error))


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
