"""What the rows of the journal hold: children, requesters, keys, and the host's own numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from protocol.hosting.errors import refusal_from
from protocol.hosting.idempotency import Entry
from protocol.hosting.machine import Spec
from protocol.hosting.profiles import Deposited
from protocol.hosting.records import Child, Requester, Tombstone
from protocol.hosting.states import State

REQUESTER, KEY_ROW, HOST = "requester", "key", "host"

Body = dict[str, Any]


def requester_name(cid: int) -> bytes:
    return cid.to_bytes(4, "big")


def key_name(cid: int, key: bytes) -> bytes:
    return requester_name(cid) + key


def requester_body(requester: Requester) -> Body:
    watermark = requester.keys.watermark
    return {
        "epoch": requester.epoch,
        "alive": requester.alive,
        "watermark": watermark.packed(),
        "events": requester.log.last,
        "deposited": requester.pool.deposited if isinstance(requester.pool, Deposited) else 0,
    }


def key_body(requester: Requester, entry: Entry) -> Body:
    return {
        "epoch": requester.epoch,
        "digest": entry.digest,
        "child": entry.child,
        "answer": dict(entry.answer),
        "promised": entry.promised,
        "refusal": entry.refusal.body() if entry.refusal else None,
        "expires_ms": entry.expires_ms,
    }


def entry_from(body: Mapping[str, Any]) -> Entry:
    """Return the entry that `key_body` described."""
    refusal = body["refusal"]
    return Entry(
        body["digest"],
        body["child"],
        body["answer"],
        body["promised"],
        refusal_from(refusal) if refusal else None,
        body["expires_ms"],
    )


def child_body(child: Child, state: str, now_ms: int) -> Body:
    """What a later life needs of `child`, which is about to enter `state`."""
    origin = child.origin
    timings = child.timings if state == "RELEASING" else child.timings | {state: now_ms}
    before = child.state if state == State.ORPHANED else child.before
    return {
        "cid": origin.cid,
        "spec": spec_body(origin.spec),
        "key": origin.key,
        "memory_mib": origin.memory_mib,
        "allotment": dict(origin.allotment),
        "before": str(before),
        "now": str(child.state),  # what RELEASING is on top of
        "doom": child.doom,
        "grace_until_ms": child.grace_until_ms,
        "failure": child.failure.body() if child.failure else None,
        "exit": child.exit,
        "adopted_from": child.adopted_from,
        "timings": dict(timings),
        "events": child.account.log.last + 1,
    }


def spec_body(spec: Spec) -> Body:
    return {name: getattr(spec, name) for name in Spec.__slots__} | {"labels": dict(spec.labels)}


def spec_from(body: Mapping[str, Any]) -> Spec:
    """Return the spec that `spec_body` described."""
    return Spec(**body)


def tombstone_from(name: bytes, body: Mapping[str, Any], life_ms: int) -> Tombstone:
    """Return the exit record of a released child."""
    failure = body["failure"]
    return Tombstone(
        name,
        body["cid"],
        body["cause"],
        refusal_from(failure) if failure else None,
        body["exit"],
        body["spec"]["labels"],
        dict(body["timings"]),
        body["at_ms"] + life_ms,
    )
