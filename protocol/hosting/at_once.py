"""Requests that are answered at once: they read the tables, or change them and ask nothing of the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol.hosting import messages as m
from protocol.hosting.errors import Code, Refusal
from protocol.hosting.lifecycle import Lifecycle
from protocol.hosting.limits import CHANNEL_PORT, Offer
from protocol.hosting.profiles import Deposited
from protocol.hosting.records import Child, Requester, Tombstone
from protocol.hosting.registry import Registry
from protocol.hosting.states import State

Body = dict[str, object]
Answer = Callable[[Requester, m.Request, Any], Body]

NO_MIGRATION = (
    "a secure guest is bound to the Trusted Entity of its host",
    "nobody else can take it over: who asks is what this host's transport says",
    "destroy the children and start them anew elsewhere",
)


class AtOnce:
    """What is answered at once over `registry`."""

    def __init__(self, registry: Registry, life: Lifecycle, offer: Offer) -> None:
        self.image_bytes = 0  # that came
        self._renewed = 0
        self._registry = registry
        self._life = life
        self._offer = offer
        self._answers: dict[type[m.Message], Answer] = {
            m.QuotaGet: self._quota,
            m.ImagePut: self._image_put,
            m.Describe: lambda requester, _, body: registry.find(requester, body.child).body(),
            m.List: self._list,
            m.AckExit: self._ack_exit,
            m.LeaseRenew: self._lease_renew,
            m.ConsoleRead: self._console_read,
            m.ChannelOpen: self._channel_open,
            m.ChannelClose: self._channel_close,
            m.Adopt: self._adopt,
            m.Deposit: self._deposit,
            m.Watch: lambda requester, request, body: registry.watch(requester, request.rid, body.since),
            m.Unwatch: self._unwatch,
            m.Migrate: self._migrate,
        }

    def find(self, message: m.Message) -> Answer | None:
        """Return what answers `message`, None for one that may have to wait."""
        return self._answers.get(type(message))

    def _quota(self, requester: Requester, _: m.Request, __: m.QuotaGet) -> Body:
        """What is charged, and what was asked for where the charge is more than that."""
        body = requester.quota.body()
        for dimension in ("vcpus", "memory_mib"):
            asked = sum(getattr(child.origin.spec, dimension) for child in requester.children.values())
            body[dimension] = {**body[dimension], "requested": asked}  # type: ignore[dict-item]
        limits = self._registry.limits
        body["exit_records"] = _kept(limits.tombstones, len(requester.tombstones), "record")
        body["events"] = _kept(limits.events, len(requester.log), "event")
        return body | dict(requester.pool.body())

    def _image_put(self, requester: Requester, _: m.Request, body: m.ImagePut) -> Body:
        need_lease(requester)
        self.image_bytes += len(body.data)
        return requester.images.put(body.digest, body.size, body.offset, body.data)

    def _list(self, requester: Requester, _: m.Request, body: m.List) -> Body:
        mine: list[Child | Tombstone] = [
            child for child in requester.children.values() if requester.is_now(child.origin.owner)
        ]
        if body.exited:
            mine += requester.tombstones.values()
        bodies = {bytes(b["child"]): b for b in (one.body() for one in mine) if _wanted(b, body)}  # type: ignore[call-overload]
        left = sorted(child for child in bodies if body.after is None or child > body.after)
        page = left[: body.count]
        return {
            "children": [bodies[child] for child in page],
            "after": page[-1] if len(left) > len(page) else None,
        }

    def _ack_exit(self, requester: Requester, _: m.Request, body: m.AckExit) -> Body:
        child = requester.children.get(body.child)
        if child is not None and requester.is_now(child.origin.owner):
            detail = {"have": str(child.state), "need": [str(State.RELEASED)]}
            raise Refusal(Code.BAD_STATE, "the child is not released", detail=detail)
        self._registry.drop_tombstone(requester, body.child)
        return {}

    def _lease_renew(self, requester: Requester, _: m.Request, __: m.LeaseRenew) -> Body:
        limits, back = self._registry.limits, self.renew(requester)
        return {"expires_in_ms": limits.lease, "renew_in_ms": limits.renew, "back": back}

    def renew(self, requester: Requester) -> int:
        """Renew the lease; return how many children in grace are back."""
        self._renewed += 1
        self._registry.renewed(requester)
        return self._life.owner_back(requester)

    def renewals(self) -> dict[str, int]:
        """How often a lease was renewed, where it ever was."""
        return {"renewed": self._renewed} if self._renewed else {}

    def _console_read(self, requester: Requester, _: m.Request, body: m.ConsoleRead) -> Body:
        child = self._registry.live(requester, body.child)
        if child.console is None:
            raise Refusal(Code.POLICY, "a production child has no console; start it with debug")
        return child.console.read(body.cursor, body.max)

    def _channel_open(self, requester: Requester, request: m.Request, body: m.ChannelOpen) -> Body:
        if not self._offer.channels:
            raise Refusal(Code.UNSUPPORTED, "there are no channels here")
        child = self._registry.live(requester, body.child)
        if child.state is not State.READY:
            detail = {"have": str(child.state), "need": [str(State.READY)]}
            raise Refusal(Code.BAD_STATE, f"the child is {child.state}", detail=detail)
        channel = self._registry.offer_channel(requester, child, body.port, body.window, request.key)
        address = request.via or self._offer.channels.format(cid=requester.cid, port=CHANNEL_PORT)
        return {
            "channel": channel.id,
            "address": address,
            "port": CHANNEL_PORT,
            "token": channel.token,
            "window": channel.window,
        }

    def _channel_close(self, requester: Requester, _: m.Request, body: m.ChannelClose) -> Body:
        self._registry.drop_channel(requester, body.channel)
        return {}

    def _adopt(self, requester: Requester, _: m.Request, body: m.Adopt) -> Body:
        """Children that linger from boot `epoch` go on under the present one."""
        need_lease(requester)
        if body.credential != self._registry.credential(requester.cid, body.epoch):
            raise Refusal(Code.NOT_FOUND, "no such boot of this requester, or not its credential")
        wanted = None if body.children is None else set(body.children)
        adopted, held = self._registry.adopt(requester, body.epoch, wanted)
        self._life.owner_back(requester)
        lost = [] if wanted is None else sorted(wanted - set(adopted) - set(held))
        return {"adopted": sorted([*adopted, *held]), "lost": lost}

    def _deposit(self, requester: Requester, _: m.Request, body: m.Deposit) -> Body:
        pool = requester.pool
        if not isinstance(pool, Deposited):
            raise Refusal(Code.UNSUPPORTED, f"profile {self._registry.limits.profile}: nothing to deposit")
        pool.deposit(-body.pages if body.withdraw else body.pages)
        self._registry.keep_requester(requester)
        return dict(pool.body()["donated_pages"])

    def _unwatch(self, requester: Requester, _: m.Request, body: m.Unwatch) -> Body:
        self._registry.unwatch(requester, body.watch)
        return {}

    def _migrate(self, requester: Requester, _: m.Request, body: m.Migrate) -> Body:
        """A requester may leave while it has no children; a child never moves.

        Handing them over would need a requester whom this host knows by what another host says of it. Those
        of an earlier boot that linger count, too: they are charged here and may still be adopted.
        """
        if body.child is not None:
            self._registry.live(requester, body.child)
        if body.child is not None or requester.children:
            detail = {"children": len(requester.children)}
            raise Refusal(Code.POLICY, *NO_MIGRATION, stage="migrate", detail=detail)
        return {}


def need_lease(requester: Requester) -> None:
    """Raise Refusal (LEASE_EXPIRED) unless the requester has its lease."""
    if requester.lease.expired:
        raise Refusal(Code.LEASE_EXPIRED, "lease.renew first")


def _kept(limit: int, kept: int, unit: str) -> Body:
    """A table that lets go of its oldest row instead of refusing a new one."""
    return {"limit": limit, "charged": kept, "free": limit - kept, "unit": unit}


def _wanted(body: Body, asked: m.List) -> bool:
    labels = body["labels"]
    return (asked.state is None or body["state"] == asked.state) and (
        asked.label is None or (isinstance(labels, dict) and asked.label in labels)
    )
