"""The accounts of requesters, and what hangs on one: keys, exit records, watches, channels.

Every change of a record is counted in the book; each table is bounded and charged to the requester that it
serves. What has to survive the service is written to the journal.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from protocol.hosting.channels import CHANNEL, HALF_OPEN, Channel
from protocol.hosting.errors import Code, Refusal
from protocol.hosting.idempotency import Entry
from protocol.hosting.journal import CHILD, Fact, Journal
from protocol.hosting.leases import Bucket, Lease
from protocol.hosting.limits import Limits
from protocol.hosting.ports import Book
from protocol.hosting.profiles import pool
from protocol.hosting.quota import Quota
from protocol.hosting.records import Child, Identity, Requester, Tombstone
from protocol.hosting.rows import (
    KEY_ROW,
    REQUESTER,
    key_body,
    key_name,
    requester_body,
    requester_name,
)
from protocol.hosting.watch import EventLog

KEY = {"idempotency_keys": 1}
WATCHER = {"watchers": 1}


class Accounts:
    """Requesters, as their transports name them. Their children are the registry's."""

    def __init__(self, limits: Limits, journal: Journal, book: Book, seed: int) -> None:
        self.limits = limits
        self.requesters: dict[int, Requester] = {}
        self.gone: dict[int, int] = {}  # CID -> latest epoch that is known to be over
        self.host = Quota(limits.host)
        self.now_ms = 0
        self.secret = hashlib.sha256(f"secret {seed}".encode()).digest()
        self.cuts: list[bytes] = []  # channels that are over, and whose bytes somebody may still carry
        self.resets: Counter[str] = Counter()  # of channels, by cause
        self.channels_refused = 0  # because there was no room for one more
        self.rung: dict[int, None] = {}  # CIDs of requesters with events that nobody fetched, in order
        self.journal = journal
        self._book = book
        self._tokens = 0

    def at(self, now_ms: int) -> None:
        """Say what time it is; never goes back."""
        self.now_ms = max(self.now_ms, now_ms)

    def admit(self, who: Identity) -> Requester:
        """Return the requester; raises Refusal (STALE_EPOCH) unless this boot of it said hello."""
        requester = self.requesters.get(who.cid)
        if requester is None or not requester.is_now(who):
            raise Refusal(Code.STALE_EPOCH, "say hello first", detail={"epoch": who.epoch})
        return requester

    def open(self, who: Identity) -> Requester:
        """Return the requester of a hello, made or moved to its epoch. Raises Refusal: old epoch, table full.

        Moving is for an account whose former epoch was already given up, see `abandon`.
        """
        requester = self.requesters.get(who.cid)
        over = max(self.gone.get(who.cid, 0), requester.epoch - 1 if requester else 0)
        if who.epoch <= over:
            raise Refusal(Code.STALE_EPOCH, "that boot is over", detail={"epoch": over + 1})
        if requester is None:
            if len(self.requesters) >= self.limits.requesters:
                raise Refusal(Code.NO_RESOURCE, "requesters", detail={"dimension": "requesters"})
            requester = self.enter(who)
            self.keep_requester(requester)
        elif requester.epoch != who.epoch:
            requester.epoch, requester.alive = who.epoch, True
            self._book.update("requester", "update", who.cid)
            self.keep_requester(requester)
        return requester

    def enter(self, who: Identity) -> Requester:
        """Make the account of `who`."""
        limits = self.limits
        own = pool(limits.profile, limits.memory_unit_mib, limits.topology)
        requester = self.requesters[who.cid] = Requester(
            who.cid,
            who.epoch,
            Lease(limits.lease),
            Quota(limits.each.at_most(own.most()), self.host),
            EventLog(limits.events),
            Bucket(limits.starts_per_s, at_ms=self.now_ms),
            own,
        )
        self._book.update("requester", "create", who.cid)
        self._book.update("lease", "create", who.cid)
        return requester

    def keep_requester(self, requester: Requester) -> None:
        """Write down which boot it is in, and what of its numbers must not come twice."""
        self.journal.append(Fact(REQUESTER, requester_name(requester.cid), requester_body(requester)))

    def abandon(self, requester: Requester) -> None:
        """End the requester's present epoch: what only that could use is dropped, children excepted."""
        self.gone.pop(requester.cid, None)
        self.gone[requester.cid] = requester.epoch
        self._forget_long_gone()
        requester.alive = False
        self._empty(requester)
        self.keep_requester(requester)

    def _forget_long_gone(self) -> None:
        """Forget which boots are over of the requesters that went first, and of whom nothing is left."""
        over = max(0, len(self.gone) - 16 * self.limits.requesters)
        for cid in list(islice((cid for cid in self.gone if cid not in self.requesters), over)):
            del self.gone[cid]
            self.journal.append(Fact(REQUESTER, requester_name(cid)))

    def forget_idle(self, requester: Requester) -> None:
        """Drop the account of a requester that is gone, once nothing is left of it."""
        if requester.alive or requester.children or requester.in_flight:
            return
        if self.requesters.get(requester.cid) is not requester:
            return
        assert requester.quota.idle(), f"charged without a reason: {requester.quota.charged}"
        del self.requesters[requester.cid]
        self._book.update("requester", "delete", requester.cid)
        self._book.update("lease", "delete", requester.cid)

    def expire(self, requester: Requester) -> None:
        """Drop keys and exit records whose time is over, and a silent requester that has nothing."""
        for key in requester.keys.expired(self.now_ms):
            self.forget_key(requester, key)
        for stone in [s for s in requester.tombstones.values() if s.expires_ms <= self.now_ms]:
            self.drop_tombstone(requester, stone.child)
        self.reset_channels(requester, requester.channels.stale(self.now_ms), "offer")
        silent = requester.channels.silent(self.now_ms, self.limits.half_open)
        self.reset_channels(requester, silent, HALF_OPEN)
        quiet = self.now_ms > requester.lease.deadline_ms + self.limits.tombstone_life
        if requester.alive and quiet and not requester.children and not requester.in_flight:
            requester.alive = False
            self._empty(requester)
            self.journal.append(Fact(REQUESTER, requester_name(requester.cid)))
        self.forget_idle(requester)

    def renewed(self, requester: Requester) -> None:
        requester.lease.renew(self.now_ms)
        self._book.update("lease", "update", requester.cid)

    def _empty(self, requester: Requester) -> None:
        for key in requester.keys.all():
            self.drop_key(requester, key)
        for child in list(requester.tombstones):
            self.drop_tombstone(requester, child)
        for rid in list(requester.log.watchers):
            self.unwatch(requester, rid)
        self.reset_channels(requester, requester.channels.all(), "requester")
        for _ in range(len(requester.log)):
            self._book.update("event", "delete", requester.cid)
        requester.log = EventLog(self.limits.events)
        self.rung.pop(requester.cid, None)
        requester.images.forget()

    # Keys

    def room_for_key(self, requester: Requester) -> None:
        """A full table of keys lets go of the one whose child ended first: the watermark remembers it."""
        try:
            requester.quota.check(KEY)
        except Refusal:
            oldest = requester.keys.oldest_ended()
            if oldest is not None:
                self.forget_key(requester, oldest)

    def admit_key(self, requester: Requester, key: bytes, entry: Entry) -> None:
        """Put back a key of a former life."""
        requester.quota.owe(KEY)
        requester.keys.restore(key, entry)
        self._book.update("idempotency", "create", requester.cid)

    def keep_key(self, requester: Requester, key: bytes) -> None:
        entry = requester.keys.entry(key)
        assert entry is not None
        self.journal.append(Fact(KEY_ROW, key_name(requester.cid, key), key_body(requester, entry)))

    def drop_key(self, requester: Requester, key: bytes) -> None:
        """Free `key`: what it was used for was not done."""
        requester.keys.drop(key)
        self._key_gone(requester, key)

    def forget_key(self, requester: Requester, key: bytes) -> None:
        """Let go of `key`; what it was used for may have been done, so it is never done again."""
        requester.keys.forget(key)
        self._key_gone(requester, key)
        self.keep_requester(requester)

    def _key_gone(self, requester: Requester, key: bytes) -> None:
        requester.quota.refund(KEY)
        self._book.update("idempotency", "delete", requester.cid)
        self.journal.append(Fact(KEY_ROW, key_name(requester.cid, key)))

    def credential(self, cid: int, epoch: int) -> bytes:
        """What only that boot of that requester was told: with it a later one may adopt."""
        message = b"credential" + cid.to_bytes(4, "big") + epoch.to_bytes(4, "big")
        return hmac.new(self.secret, message, hashlib.sha256).digest()

    # Exit records

    def admit_tombstone(self, requester: Requester, stone: Tombstone, events: int) -> None:
        """Put back an exit record of a former life."""
        requester.tombstones[stone.child] = stone
        requester.log.last = max(requester.log.last, events)
        self._book.update("tombstone", "create", requester.cid)

    def drop_tombstone(self, requester: Requester, child: bytes) -> None:
        if requester.tombstones.pop(child, None) is not None:
            self._book.update("tombstone", "delete", requester.cid)
            self.journal.append(Fact(CHILD, child))
            self.keep_requester(requester)  # the numbers of the events that the row knew

    # Channels

    def offer_channel(
        self, requester: Requester, child: Child, port: int, window: int, key: bytes | None
    ) -> Channel:
        """Return a channel to a port of `child`, the one of that key if there is one. Raises Refusal."""
        known = requester.channels.by_key(key, child.origin.id, port)
        if known is not None:
            return known
        requester.channels.tell_reset(key)
        try:
            requester.quota.charge(CHANNEL)
        except Refusal:
            self.channels_refused += 1
            raise
        self._tokens += 1
        fresh = f"channel {self.now_ms} {self._tokens}".encode()
        made = hmac.new(self.secret, fresh, hashlib.sha512).digest()
        channel = Channel(made[:16], child.origin.id, port, window, made[16:32], key, self.now_ms)
        requester.channels.add(channel)
        self._book.update("channel", "create", requester.cid)
        return channel

    def channels(self) -> dict[str, int]:
        """How many channels there are: offered and not taken up yet, and open."""
        there = [channel.open for each in self.requesters.values() for channel in each.channels.all()]
        return {"offered": there.count(False), "open": there.count(True)}

    def drop_channel(self, requester: Requester, name: bytes) -> Channel | None:
        """Forget a channel; whoever carries its bytes is told by `cuts`."""
        channel = requester.channels.drop(name)
        if channel is not None:
            requester.quota.refund(CHANNEL)
            self._book.update("channel", "delete", requester.cid)
            self.cuts.append(name)
        return channel

    def reset_channels(self, requester: Requester, channels: Iterable[Channel], cause: str) -> None:
        for channel in channels:
            self.drop_channel(requester, channel.id)
            requester.channels.note_reset(channel, cause)
            self.resets[cause] += 1

    # Watches

    def watch(self, requester: Requester, rid: bytes, since: int | None) -> dict[str, object]:
        """Begin or move a watch. Raises Refusal: QUOTA, GAP."""
        new = rid not in requester.log.watchers
        if new:
            requester.quota.check(WATCHER)
        body = requester.log.watch(rid, since)
        if new:
            requester.quota.charge(WATCHER)
        self._book.update("watcher", "create" if new else "update", requester.cid)
        self.rung[requester.cid] = None
        return body

    def unwatch(self, requester: Requester, rid: bytes) -> None:
        if requester.log.watchers.pop(rid, None) is not None:
            requester.quota.refund(WATCHER)
            self._book.update("watcher", "delete", requester.cid)
