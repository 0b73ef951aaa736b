"""The children of all requesters, and the only place that changes their records.

A state is written to the journal before anything is done about it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

from protocol.hosting.accounts import KEY, Accounts
from protocol.hosting.cids import Cids
from protocol.hosting.console import Console
from protocol.hosting.errors import Code, Refusal
from protocol.hosting.idempotency import Entry, spec_digest
from protocol.hosting.images import Image
from protocol.hosting.journal import CHILD, Fact, Intent, Journal
from protocol.hosting.limits import Limits
from protocol.hosting.machine import Spec
from protocol.hosting.ports import Book
from protocol.hosting.records import Child, Identity, Origin, Requester, Tombstone, record_sizes
from protocol.hosting.rows import (
    HOST,
    child_body,
)
from protocol.hosting.states import LEGAL, State

CHANNELS_LIVE = frozenset({State.READY, State.ORPHANED})


class Registry(Accounts):
    """Requesters, their children and what hangs on them."""

    def __init__(self, limits: Limits, journal: Journal, book: Book, seed: int) -> None:
        super().__init__(limits, journal, book, seed)
        self.children: dict[bytes, Child] = {}
        self.version = 0  # counts changes of states and ends of steps: a wait looks again when it moved
        self.lookups: Counter[str] = Counter()
        self.teardowns: Counter[str] = Counter()
        self.booting: list[Child] = []  # children of a former life that a step has to see to READY
        self.strays: set[bytes] = set()  # guests of the machine without a record, still to be ended
        self.cids = Cids(limits.cid_first, limits.cid_count, limits.cid_quarantine)
        self.made = 0  # children, ever
        self._seed = seed

    def find(self, requester: Requester, child: bytes) -> Child | Tombstone:
        """Return the requester's child or exit record. Raises Refusal: the same for foreign and unknown."""
        found = self.children.get(child)
        if found is not None and requester.is_now(found.origin.owner):
            self.lookups["hit"] += 1
            return found
        stone = requester.tombstones.get(child)
        if stone is not None:
            self.lookups["hit"] += 1
            return stone
        self.lookups["miss" if found is None else "denied"] += 1
        raise Refusal(Code.NOT_FOUND, "no such child")

    def live(self, requester: Requester, child: bytes) -> Child:
        """As `find`, for what needs a child that is not released. Raises Refusal: NOT_FOUND, BAD_STATE."""
        found = self.find(requester, child)
        if isinstance(found, Tombstone):
            detail = {"have": str(State.RELEASED), "need": []}
            raise Refusal(Code.BAD_STATE, "the child is released", detail=detail)
        return found

    def reserve(
        self, requester: Requester, spec: Spec, key: bytes | None, digest: bytes, promised: bool = False
    ) -> Child:
        """Make a child that holds its share, its CID and image. Raises Refusal, and then holds nothing.

        `promised`: the requester is told of it before it comes up.
        """
        image = requester.images.pin(spec.image)
        if key:
            self.room_for_key(requester)
        try:
            origin = self._take_share(requester, spec, image, key)
        except Refusal as refusal:
            requester.images.unpin(image)
            releasing = any(child.doom for child in requester.children.values())
            if refusal.code is Code.QUOTA and releasing:
                raise Refusal(Code.BUSY_RELEASING, *refusal.cause, detail={"held": ["children"]}) from refusal
            raise
        child = Child(origin, requester)
        self.children[child.origin.id] = requester.children[child.origin.id] = child
        self._book.update("child", "create", requester.cid)
        self.open_console(child)
        self.journal.append(Fact(HOST, b"", {"made": self.made, "cids": self.cids.given}))
        if key:
            entry = requester.keys.bind(key, digest, child.origin.id)
            entry.answer, entry.promised = answer(child), promised
            self._book.update("idempotency", "create", requester.cid)
            self.keep_key(requester, key)
        self.record(child, State.RESERVED, "start")
        return child

    def _take_share(self, requester: Requester, spec: Spec, image: Image, key: bytes | None) -> Origin:
        """Take CPUs and memory, then the quotas, then a CID. Raises Refusal, and then nothing was taken."""
        name, owner = self._new_id(), Identity(requester.cid, requester.epoch)
        share = requester.pool.take(name, spec, image.size)
        origin = Origin(name, owner, 0, spec, image, key, share.memory_mib, share.allotment)
        charges = origin.charges() | (KEY if key else {})
        try:
            requester.quota.charge(charges)
            try:
                return replace(origin, cid=self.cids.take(self.now_ms))
            except Refusal:
                requester.quota.refund(charges)
                raise
        except Refusal:
            requester.pool.give_back(name)
            raise

    def move(self, child: Child, state: State, reason: str) -> None:
        """Give the child another state. Call this before what the state stands for is begun."""
        assert state in LEGAL[child.state], f"{child.state} to {state}"
        if state is State.ORPHANED:
            child.before = child.state
        self.record(child, state, reason)

    def record(self, child: Child, state: State, reason: str) -> None:
        """Journal, then change, then tell."""
        self.intend(child, str(state), reason)
        before, child.state, child.reason = child.state, state, reason
        child.timings[str(state)] = self.now_ms
        self.version += 1
        self._book.update("child", "update", child.account.cid)
        requester = child.account
        if state not in CHANNELS_LIVE:
            self.reset_channels(requester, requester.channels.of(child.origin.id), str(state))
        if requester.is_now(child.origin.owner):
            self._book.update("event", "create", child.account.cid)
            if requester.log.add(child.origin.id, str(before), str(state), reason, self.now_ms):
                self._book.update("event", "delete", child.account.cid)
            if requester.log.watchers:
                self.rung[requester.cid] = None

    def intend(self, child: Child, state: str, reason: str) -> None:
        """Write down what is about to be done."""
        origin = child.origin
        body = child_body(child, state, self.now_ms)
        dropped = self.journal.append(
            Intent(origin.id, origin.owner.cid, origin.owner.epoch, state, reason, self.now_ms, body)
        )
        self._book.update("journal", "create", child.account.cid)
        for _ in range(dropped):
            self._book.update("journal", "delete", child.account.cid)
        child.intents += 1 - dropped

    def set_present(self, child: Child, present: bool) -> None:
        """Note that L0's machine has, or no longer has, something of the child."""
        if child.present is not present:
            child.present = present
            for kind in ("te_object", "vmm"):
                self._book.update(kind, "create" if present else "delete", child.account.cid)

    def release(self, child: Child) -> None:
        """End the child's record: everything that it held goes back, its exit record stays."""
        assert not child.present, "a guest that nobody would know of"
        requester, origin = child.account, child.origin
        cause = child.doom
        self.move(child, State.RELEASED, cause)
        self.teardowns[cause] += 1
        del self.children[origin.id], requester.children[origin.id]
        self._book.update("child", "delete", child.account.cid)
        if child.console is not None:
            self._book.update("console", "delete", child.account.cid)
        requester.quota.refund(origin.charges())
        requester.pool.give_back(origin.id)
        requester.images.unpin(origin.image)
        self.cids.give_back(origin.cid, self.now_ms)
        if requester.is_now(origin.owner):
            self._bury(requester, child)
            self._end_key(requester, child)
        else:
            self.journal.append(Fact(CHILD, origin.id))
        self.forget_idle(requester)

    def _end_key(self, requester: Requester, child: Child) -> None:
        """The key lives on for a while, or is free if nobody was told of the child that it made."""
        key = child.origin.key
        entry = requester.keys.entry(key) if key else None
        if key is None or entry is None:
            return
        if child.doom == "rollback" and not (entry.promised or child.came_up()):
            self.drop_key(requester, key)
            return
        entry.expires_ms = self.now_ms + self.limits.key_life
        entry.refusal = None if child.came_up() else child.failure
        self._book.update("idempotency", "update", requester.cid)
        self.keep_key(requester, key)

    def _bury(self, requester: Requester, child: Child) -> None:
        if len(requester.tombstones) >= self.limits.tombstones:
            self.drop_tombstone(requester, next(iter(requester.tombstones)))
        requester.tombstones[child.origin.id] = Tombstone(
            child.origin.id,
            child.origin.cid,
            child.reason,
            child.failure,
            child.exit,
            child.origin.spec.labels,
            dict(child.timings),
            self.now_ms + self.limits.tombstone_life,
        )
        self._book.update("tombstone", "create", requester.cid)

    def _new_id(self) -> bytes:
        """A child's id tells nothing: not how many there are, nor whose the others are. None comes twice."""
        self.made += 1
        return hashlib.sha256(f"child {self._seed} {self.made}".encode()).digest()[:16]

    def admit_child(self, child: Child, events: int) -> None:
        """Put back a child of a former life, with all that it is charged for."""
        origin, requester = child.origin, child.account
        self.children[origin.id] = requester.children[origin.id] = child
        requester.quota.owe(origin.charges())
        requester.pool.put_back(origin.id, origin.allotment)
        requester.log.last = max(requester.log.last, events)
        self._book.update("child", "create", requester.cid)
        self._book.update("journal", "create", requester.cid)
        child.intents = 1
        self.open_console(child)

    def open_console(self, child: Child) -> None:
        """Make the console of a debug child; a production child has none."""
        if child.origin.spec.debug:
            child.console = Console()
            self._book.update("console", "create", child.account.cid)

    def adopt(
        self, requester: Requester, epoch: int, wanted: set[bytes] | None
    ) -> tuple[list[bytes], list[bytes]]:
        """Give what lingers from boot `epoch` to the present one; return that, and what it has already."""
        adopted, held = [], []
        for name, child in requester.children.items():
            if wanted is not None and name not in wanted:
                continue
            origin = child.origin
            if child.adopted_from == epoch and requester.is_now(origin.owner):
                held.append(name)
            elif origin.owner.epoch == epoch != requester.epoch and not child.doom:
                child.origin = replace(origin, owner=Identity(requester.cid, requester.epoch))
                child.adopted_from = epoch
                self.intend(child, str(child.state), "adopt")
                self._book.update("child", "update", requester.cid)
                if origin.key:
                    entry = Entry(spec_digest(origin.spec), name, answer(child), promised=True)
                    self.admit_key(requester, origin.key, entry)
                    self.keep_key(requester, origin.key)
                adopted.append(name)
        return adopted, held

    def records(self) -> dict[str, int]:
        """Count what the tables really hold, by kind; a test holds this equal to what the book was told."""
        requesters = list(self.requesters.values())
        counts = dict.fromkeys(record_sizes, 0)
        counts["requester"] = counts["lease"] = len(requesters)
        counts["child"] = len(self.children)
        counts["te_object"] = counts["vmm"] = sum(child.present for child in self.children.values())
        counts["console"] = sum(child.console is not None for child in self.children.values())
        counts["channel"] = sum(len(requester.channels) for requester in requesters)
        counts["journal"] = sum(child.intents for child in self.children.values())
        for requester in requesters:
            counts["idempotency"] += len(requester.keys.all())
            counts["tombstone"] += len(requester.tombstones)
            counts["watcher"] += len(requester.log.watchers)
            counts["event"] += len(requester.log)
        return counts


def answer(child: Child) -> dict[str, object]:
    """Return what every answer to the start of `child` has in common."""
    origin = child.origin
    charged = {"vcpus": origin.spec.vcpus, "memory_mib": origin.memory_mib}
    return {"child": origin.id, "cid": origin.cid, "charged": charged}
