"""After the service died: the tables are read back, then held against the machine, child by child.

What lives is taken on again, what was half done is finished or rolled back, what vanished is LOST, and a
guest that no record knows is ended. A power failure of the machine is the same with an empty inventory.

Images are a cache and do not survive: a child that was only reserved is rolled back, and its owner starts
again. Leases begin anew, because the time that the service was away is nobody's fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.effects import Step
from protocol.errors import OperationalError
from protocol.hosting.errors import Code, Refusal, refusal_from
from protocol.hosting.idempotency import open_key
from protocol.hosting.journal import CHILD, DamagedJournal, Row, open_row
from protocol.hosting.lifecycle import Lifecycle, doom
from protocol.hosting.machine import DestroyGuest, Failure, Found, Inventory, Vanished
from protocol.hosting.profiles import Deposited
from protocol.hosting.records import Child, Identity, Origin
from protocol.hosting.registry import Registry
from protocol.hosting.rows import HOST, KEY_ROW, REQUESTER, entry_from, spec_from, tombstone_from
from protocol.hosting.states import State

RELEASING = "RELEASING"


# What reading a row ends in that has other fields, or other things in them.
NOT_WRITTEN_HERE = (LookupError, TypeError, ValueError, AttributeError, OverflowError, AssertionError)


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of what a former life left: numbers of children, and of guests nobody knew."""

    adopted: int = 0  # they live, and are watched again
    finished: int = 0  # half done, now done
    resumed: int = 0  # half booted: they go on booting, and nobody waits for them
    rolled_back: int = 0
    lost: int = 0
    strays: int = 0  # guests of the machine without a record


# The tables, from the rows


def restore(registry: Registry, rows: Iterable[Row]) -> None:
    """Fill the tables of a fresh `registry`. Raises DamagedJournal: this program did not write those rows."""
    try:
        _restore(registry, rows)
    except NOT_WRITTEN_HERE as error:
        raise DamagedJournal(f"the journal is damaged: {type(error).__name__}: {error}") from error


def _restore(registry: Registry, rows: Iterable[Row]) -> None:
    by_kind: dict[str, list[tuple[bytes, dict[str, Any]]]] = {CHILD: [], REQUESTER: [], KEY_ROW: [], HOST: []}
    for row in rows:
        if row.kind not in by_kind or row.data is None:
            raise DamagedJournal(f"the journal has a row of kind {row.kind!r}, which is not known here")
        by_kind[row.kind].append((row.id, open_row(row.data)))
    for name, body in by_kind[REQUESTER]:
        _restore_requester(registry, int.from_bytes(name, "big"), body)
    for name, body in by_kind[CHILD]:
        _restore_child(registry, name, body)
    for name, body in by_kind[KEY_ROW]:
        requester = registry.requesters.get(int.from_bytes(name[:4], "big"))
        if requester is not None and requester.alive:
            registry.admit_key(requester, name[4:], entry_from(body))
    for _, body in by_kind[HOST]:
        registry.made = body["made"]
        in_use = {child.origin.cid for child in registry.children.values()}
        registry.cids.restore(body["cids"], in_use, registry.now_ms)


def _restore_requester(registry: Registry, cid: int, body: Mapping[str, Any]) -> None:
    if not body["alive"]:
        registry.gone[cid] = body["epoch"]
        return
    requester = registry.enter(Identity(cid, body["epoch"]))
    requester.lease.renew(registry.now_ms)
    requester.log.last = body["events"]
    requester.keys.watermark = open_key(body["watermark"])
    if isinstance(requester.pool, Deposited):
        requester.pool.deposited = body["deposited"]


def _restore_child(registry: Registry, name: bytes, body: Mapping[str, Any]) -> None:
    owner = Identity(body["owner_cid"], body["owner_epoch"])
    requester = registry.requesters.get(owner.cid)
    if body["state"] == State.RELEASED:
        if requester is not None and requester.is_now(owner):
            stone = tombstone_from(name, body, registry.limits.tombstone_life)
            registry.admit_tombstone(requester, stone, body["events"])
        return
    if requester is None:  # its boot is over, and the child outlives it or was on its way out
        requester = registry.enter(Identity(owner.cid, registry.gone.get(owner.cid, owner.epoch)))
        requester.alive = False
    spec = spec_from(body["spec"])
    image = requester.images.restored(spec.image)
    origin = Origin(name, owner, body["cid"], spec, image, body["key"], body["memory_mib"], body["allotment"])
    failure = body["failure"]
    child = Child(
        origin,
        requester,
        State(body["now"] if body["state"] == RELEASING else body["state"]),
        body["cause"],
        doom=body["doom"],
        grace_until_ms=body["grace_until_ms"],
        before=State(body["before"]),
        failure=refusal_from(failure) if failure else None,
        exit=body["exit"],
        timings=dict(body["timings"]),
        adopted_from=body["adopted_from"],
    )
    registry.admit_child(child, body["events"])


# The tables, held against the machine


def reconcile(registry: Registry, life: Lifecycle) -> Step[Recovery]:
    """Bring every child of a former life to where it can stay, and end what nobody knows."""
    guests: Mapping[bytes, Found] = yield Inventory()
    registry.strays = set(guests) - set(registry.children)
    tally = dict.fromkeys(Recovery.__slots__, 0) | {"strays": len(registry.strays)}
    for child in list(registry.children.values()):
        found = guests.get(child.origin.id)
        registry.set_present(child, found is not None)
        word = yield from _bring_back(child, found, life, registry)
        if word:
            tally[word] += 1
    yield from end_strays(registry)
    return Recovery(**tally)


def _bring_back(child: Child, found: Found | None, life: Lifecycle, registry: Registry) -> Step[str]:
    state = child.before if child.state is State.ORPHANED else child.state
    owner = child.origin.owner
    if not child.account.is_now(owner) and child.grace_until_ms is None:
        doom(child, "gone")
    half_built = state in {State.LOADING, State.STARTING}
    if child.doom and not half_built:
        if found is None and state is State.READY:
            life.lose(child)  # with its machine, before anybody came to end it
        yield from life.settle(child)
        return "finished" if child.state is State.RELEASED else ""
    if state in {State.RESERVED, State.LOADING, State.FAILED} or (
        state is State.STARTING and (child.doom or not (found and found.running))
    ):
        yield from _roll_back(child, life, registry)
        return "rolled_back"
    if state is State.STARTING:
        registry.booting.append(child)
        return "resumed"
    if state is State.STOPPING:
        try:
            yield from life.stop(child, 0)
        except Refusal:
            return ""
        return "finished"
    if found is None and state is not State.LOST:
        life.lose(child)
        return "lost"
    if found is not None and not found.running and state is State.READY:
        life.ended(child, found.exit or 0)
    return "adopted" if found is not None else ""


def _roll_back(child: Child, life: Lifecycle, registry: Registry) -> Step[None]:
    if child.failure is None:
        stage = str(child.state).lower()
        child.failure = Refusal(Code.HOST_RESTARTED, "the host restarted meanwhile", stage=stage)
    if child.state in {State.LOADING, State.STARTING}:
        registry.move(child, State.FAILED, "restart")
    doom(child, "rollback")
    yield from life.settle(child)


def look(registry: Registry, life: Lifecycle) -> Step[int]:
    """Find children whose guests ended or vanished without a word; return how many."""
    before = [child for child in registry.children.values() if child.present and not child.busy]
    guests: Mapping[bytes, Found] = yield Inventory()
    found = 0
    for child in before:
        name = child.origin.id
        if child.busy or registry.children.get(name) is not child:
            continue
        seen, state = guests.get(name), child.state
        if seen is None:
            life.vanished(child)
        elif not seen.running and child.running():
            life.ended(child, seen.exit or 0)
        found += child.state is not state
    return found


def end_strays(registry: Registry) -> Step[None]:
    """End the guests that no record knows; those that the machine keeps are tried again later."""
    for name in sorted(registry.strays):
        try:
            answer = yield DestroyGuest(name)
        except OperationalError:
            continue
        if not isinstance(answer, Failure) or isinstance(answer, Vanished):
            registry.strays.discard(name)
            registry.teardowns["stray"] += 1


def audit(registry: Registry) -> Step[list[dict[str, object]]]:
    """Return guests without a record, and records of guests that are not there."""
    guests: Mapping[bytes, Found] = yield Inventory()
    leaks: list[dict[str, object]] = []
    for name in sorted(set(guests) - set(registry.children)):
        leaks.append({"kind": "no_owner", "child": name})
    for name, child in sorted(registry.children.items()):
        if child.present and not child.busy and name not in guests:
            leaks.append({"kind": "no_vm", "child": name})
    return leaks
