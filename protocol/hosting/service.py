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
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from protocol.effects import Step
from protocol.hosting import messages as m
from protocol.hosting import signature
from protocol.hosting.at_once import AtOnce
from protocol.hosting.channels import Channel
from protocol.hosting.errors import ERRORS, Code, Refusal, explain
from protocol.hosting.evidence import Trust
from protocol.hosting.in_steps import InSteps
from protocol.hosting.journal import Journal, MemoryJournal, Row
from protocol.hosting.lifecycle import Lifecycle, doom
from protocol.hosting.limits import CHUNK_BYTES, FRAME_BYTES, Limits, Offer
from protocol.hosting.policy import EVERYTHING, Policy
from protocol.hosting.ports import Book, CountingBook
from protocol.hosting.records import Child, Identity, Requester
from protocol.hosting.recovery import Recovery, audit, end_strays, look, reconcile, restore
from protocol.hosting.registry import Registry
from protocol.hosting.states import State
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
        self._registry = Registry(self.limits, journal or MemoryJournal(), book or CountingBook(), seed)
        if trust is not None:
            self._registry.secret = trust.secret
        self._life = Lifecycle(self._registry)
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("messages", "refusals", "leases", "channel_bytes")
        }
        self._channel_wait_s = {"sent": 0.0, "received": 0.0}
        offer, signer = offer or Offer(), trust.signer if trust else None
        self._at_once = AtOnce(self._registry, self._life, offer)
        self._in_steps = InSteps(self._registry, self._life, offer, signer, self.policy.digest)

    # What comes from outside

    def at(self, now_ms: int) -> None:
        """Say what time it is; never goes back. A driver may say so before it answers an effect."""
        self._registry.at(now_ms)

    def handle(self, who: Identity, frame: object, now_ms: int, via: str = "") -> Step[Reply]:
        """Serve one frame of `who` and return the one reply. Never raises for what is in the frame.

        `via`: where channels open for whoever came this way, where that is not what the offer says.
        """
        self.at(now_ms)
        try:
            request = m.open_frame(frame, via)
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

    def channel_carried(self, channel: Channel, direction: str, count: int, wait_s: float) -> None:
        """Note bytes of a channel, `sent` to the child or `received`, and how long they waited for room."""
        channel.moved(self._registry.now_ms)
        self._counts["channel_bytes"][direction] += count
        self._channel_wait_s[direction] += wait_s

    def channel_shut(self, channel: Channel) -> None:
        """Note that one side of a channel sends nothing more: silent from now on, it has a limit."""
        channel.shut(self._registry.now_ms)

    def channel_over(self, who: Identity, name: bytes) -> None:
        """Note that the stream of a channel has ended."""
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

    def free(self, cid: int) -> dict[str, int]:
        """Return what is left of a requester's share, by dimension; all of it for an unknown one."""
        requester = self._registry.requesters.get(cid)
        return self.limits.each.named() if requester is None else requester.quota.free()

    def epoch_of(self, cid: int) -> int:
        """Return the boot that a requester is in, or would be in with its next word; 1 for an unknown one."""
        requester = self._registry.requesters.get(cid)
        if requester is not None and requester.alive:
            return requester.epoch
        return self._registry.gone.get(cid, 0) + 1

    @property
    def version(self) -> int:
        """A number that grows with every change of a child's state, and when nobody works on it any more."""
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
            replays=dict(self._in_steps.replays),
            leases=dict(counts["leases"]) | self._at_once.renewals(),
            teardowns=dict(registry.teardowns),
            image_bytes=self._at_once.image_bytes,
            channel_bytes=dict(counts["channel_bytes"]),
            channel_wait_s=dict(self._channel_wait_s),
            channel_resets=dict(registry.resets),
            channels=registry.channels(),
            channel_limits={"requester": self.limits.each.channels, "host": self.limits.host.channels},
            channels_refused=registry.channels_refused,
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
            at_once = self._at_once.find(body)
            if at_once is not None:
                return at_once(requester, request, body)
            return (yield from self._in_steps.find(body)(requester, request, body))
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
        self._at_once.renew(requester)
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
            "limits": requester.quota.limits()
            | {"exit_records": limits.tombstones, "events": limits.events}
            | {"frame_bytes": FRAME_BYTES, "chunk_bytes": CHUNK_BYTES, "half_open_ms": limits.half_open},
            "cids": [limits.cid_first, limits.cid_first + limits.cid_count - 1],
        }

    def _lose(self, requester: Requester, cause: str) -> Step[None]:
        """End the requester's present boot. What its children's machine refuses now, `tick` tries again."""
        children = list(requester.children.values())
        self._registry.abandon(requester)
        for child in self._life.owner_lost(children, cause):
            yield from self._life.settle(child)
        self._registry.forget_idle(requester)


def _reply(kind: str, rid: bytes, body: Body) -> Reply:
    return {"v": m.VERSION, "t": kind, "rid": rid, "b": body}


def _explain(body: m.Explain) -> Body:
    if body.error not in {int(code) for code in ERRORS}:
        raise Refusal(Code.NOT_FOUND, "no such error")
    return explain(Code(body.error))
