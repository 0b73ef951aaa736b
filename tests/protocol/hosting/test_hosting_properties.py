"""Two guest hosts that ask anything, die and reboot at any time, over a machine that fails: nothing leaks.

Every request is a step that may stand still at the machine while others go on, in any order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from protocol.hosting import CountingBook, Identity, Limits, MemoryJournal, Service
from protocol.hosting.idempotency import Key
from protocol.hosting.limits import Share
from protocol.hosting.machine import Await, CreateGuest, DestroyGuest, Died, NeedMemory, TeError, TimedOut

IMAGES = [b"one image", b"another image"]
CIDS = st.sampled_from([3, 4])
LIMITS = Limits(
    each=Share(
        children=3,
        vcpus=6,
        memory_mib=64,
        image_bytes=20,
        images=2,
        idempotency_keys=2,
        watchers=2,
    ),
    host=Share(
        children=5,
        vcpus=9,
        memory_mib=100,
        image_bytes=40,
        images=4,
        idempotency_keys=4,
        watchers=4,
    ),
    events=8,
    tombstones=2,
    in_flight=4,
    cid_count=6,
    cid_quarantine=1_000,
)
FAILURES = st.sampled_from([TeError("any", 1), NeedMemory(3), Died(9), TimedOut(1)])


class Hosting(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = CountingBook()
        self.journal = MemoryJournal()
        self.service = Service(LIMITS, self.journal, seed=1, book=self.book)
        self.now_ms = 0
        self.epochs = {3: 1, 4: 1}
        self.guests: set[bytes] = set()
        self.owners: dict[bytes, Identity] = {}
        self.parked: list[tuple[Identity | None, Any, Any]] = []
        self.rids = 0

    # Driving

    def go(self, who: Identity | None, step: Any) -> None:
        self.advance_to(who, step, None)

    def advance_to(self, who: Identity | None, step: Any, answer: Any) -> None:
        try:
            effect = step.send(answer)
        except StopIteration as stop:
            if who is not None:
                self.look_at(who, stop.value)
            return
        if isinstance(effect, CreateGuest):
            assert who is not None
            self.owners[effect.child] = who
        self.parked.append((who, step, effect))

    def perform(self, effect: Any, failure: Any) -> Any:
        """The machine, now: it fails as told, or does what it is asked."""
        if isinstance(effect, Await):
            self.now_ms += 100
            return self.now_ms
        if failure is not None:
            return failure
        if isinstance(effect, CreateGuest):
            self.guests.add(effect.child)
        else:
            assert effect.child in self.guests, "asked of a guest that is not there"
        if isinstance(effect, DestroyGuest):
            self.guests.remove(effect.child)
        return None

    def ask(self, cid: int, kind: str, key: bytes | None = None, **body: Any) -> None:
        who = Identity(cid, self.epochs[cid])
        self.rids += 1
        rid = self.rids.to_bytes(16, "big")
        frame = {"v": 1, "t": kind, "rid": rid, "epoch": who.epoch, "dl": None, "key": key, "b": body}
        self.go(who, self.service.handle(who, frame, self.now_ms))

    def look_at(self, who: Identity, reply: dict[str, Any]) -> None:
        """No answer shows a child of somebody else."""
        rows = reply["b"].get("children", [reply["b"]])
        for row in rows:
            if "child" in row and row["child"] in self.owners:
                assert self.owners[row["child"]] == who

    # What may happen

    @rule(cid=CIDS)
    def hello(self, cid):
        self.ask(cid, "hello", versions=[1])

    @rule(cid=CIDS, image=st.sampled_from(IMAGES))
    def put(self, cid, image):
        digest = hashlib.sha256(image).digest()
        self.ask(cid, "image.put", digest=digest, size=len(image), offset=0, data=image)

    @rule(
        cid=CIDS,
        key=st.sampled_from([None, 1, 2]),
        image=st.sampled_from(IMAGES),
        vcpus=st.integers(1, 2),
        mode=st.sampled_from(["run", "run", "reserve"]),
        linger_s=st.sampled_from([0, 0, 5]),
    )
    def start(self, cid, key, image, vcpus, mode, linger_s):
        spec = {
            "image": hashlib.sha256(image).digest(),
            "vcpus": vcpus,
            "memory_mib": 16,
            "on_owner_loss": "linger" if linger_s else "stop",
            "linger_s": linger_s,
        }
        packed = None if key is None else Key(self.epochs[cid], key).packed()
        self.ask(cid, "start", packed, spec=spec, mode=mode)

    @precondition(lambda self: self.service._registry.children)
    @rule(
        cid=CIDS,
        data=st.data(),
        kind=st.sampled_from(["stop", "reset", "destroy", "describe", "ack_exit", "wait"]),
    )
    def on_any_child(self, cid, data, kind):
        child = data.draw(st.sampled_from(sorted(self.service._registry.children)))
        self.ask(
            cid, kind, child=child, **({"until": "STOPPED", "timeout_ms": 200} if kind == "wait" else {})
        )

    @rule(cid=CIDS, kind=st.sampled_from(["list", "quota.get", "lease.renew", "watch"]))
    def ask_about_oneself(self, cid, kind):
        self.ask(cid, kind)

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), failure=st.none() | st.none() | FAILURES)
    def go_on(self, data, failure):
        who, step, effect = self.parked.pop(data.draw(st.integers(0, len(self.parked) - 1)))
        self.advance_to(who, step, self.perform(effect, failure))

    @rule(ms=st.sampled_from([50, 1_000, 10_000, 31_000, 600_000]))
    def pass_time(self, ms):
        self.now_ms += ms
        for step in self.service.tick(self.now_ms):
            self.go(None, step)

    @rule(cid=CIDS, linger_s=st.sampled_from([0, 5]))
    def all_goes_well_for_once(self, cid, linger_s):
        """Without this, few children would ever come up."""
        self.hello(cid)
        self.put(cid, IMAGES[0])
        waiting, self.parked = self.parked, []
        self.start(cid, None, IMAGES[0], 1, "run", linger_s)
        while self.parked:
            who, step, effect = self.parked.pop()
            self.advance_to(who, step, self.perform(effect, None))
        self.parked = waiting

    @rule(cid=CIDS)
    def die(self, cid):
        self.go(None, self.service.requester_gone(cid, self.epochs[cid], self.now_ms))
        self.epochs[cid] += 1

    @rule(cid=CIDS)
    def reboot_unseen(self, cid):
        self.epochs[cid] += 1

    @precondition(lambda self: self.guests)
    @rule(data=st.data())
    def a_guest_ends(self, data):
        self.service.guest_ended(data.draw(st.sampled_from(sorted(self.guests))), 1, self.now_ms)

    # What always holds

    @invariant()
    def what_was_counted_is_there(self):
        held = {kind: n for kind, n in self.service.records().items() if n}
        assert held == {kind: n for kind, n in self.book.live.items() if n}
        assert held.get("journal", 0) == len(self.journal.intents())

    @invariant()
    def every_guest_has_a_child_and_every_child_an_owner(self):
        registry = self.service._registry
        assert self.guests == {c.origin.id for c in registry.children.values() if c.present}
        for child in registry.children.values():
            assert registry.requesters[child.origin.owner.cid] is child.account
            assert child.account.children[child.origin.id] is child
            assert self.owners.get(child.origin.id, child.origin.owner) == child.origin.owner
        cids = [child.origin.cid for child in registry.children.values()]
        assert len(set(cids)) == len(cids)

    @invariant()
    def charges_are_the_sum_of_what_is_held(self):
        registry = self.service._registry
        total: Counter[str] = Counter()
        for requester in registry.requesters.values():
            charged = requester.quota.charged
            children = list(requester.children.values())
            assert charged["children"] == len(children)
            assert charged["vcpus"] == sum(child.origin.spec.vcpus for child in children)
            assert charged["memory_mib"] == 16 * len(children)
            assert charged["idempotency_keys"] == len(requester.keys.all())
            assert all(charged[name] <= limit for name, limit in LIMITS.each.named().items())
            total.update(charged)
        assert dict(total) == registry.host.charged or not registry.requesters
        assert all(registry.host.charged[name] <= limit for name, limit in LIMITS.host.named().items())

    @invariant()
    def events_tell_of_own_children_only(self):
        for who, frame in self.service.events():
            self.look_at(who, frame)

    @invariant()
    def tables_are_bounded(self):
        for requester in self.service._registry.requesters.values():
            assert len(requester.tombstones) <= LIMITS.tombstones
            assert len(requester.log) <= LIMITS.events
            assert requester.in_flight <= LIMITS.in_flight

    def teardown(self):
        """Everybody dies; the machine works again; nothing is left."""
        for cid in (3, 4):
            for epoch in range(self.epochs[cid] + 1):
                self.go(None, self.service.requester_gone(cid, epoch, self.now_ms))
        for _ in range(100):
            while self.parked:
                who, step, effect = self.parked.pop(0)
                self.advance_to(who, step, self.perform(effect, None))
            if not self.service._registry.requesters:
                break
            self.pass_time(40_000)
        assert not self.guests
        assert not any(self.service.records().values())
        assert self.service._registry.host.idle()
        assert not self.journal.intents()


class TestHosting(Hosting.TestCase):
    settings = settings(max_examples=20, stateful_step_count=40, deadline=None)


@pytest.mark.slow
class TestHostingAtLength(Hosting.TestCase):
    settings = settings(max_examples=1500, stateful_step_count=60, deadline=None)
