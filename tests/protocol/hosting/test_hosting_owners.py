"""Whose a child is, and what becomes of it when the owner reboots, dies, hangs or comes back."""

from __future__ import annotations

import pytest

from protocol.errors import OwnerGone
from protocol.hosting import record_sizes
from protocol.hosting.machine import CreateGuest, DestroyGuest, LoadGuest, StopGuest
from protocol.tracking import SIZES

ON_A_CHILD = [
    ("describe", {}),
    ("wait", {"until": "READY", "timeout_ms": 0}),
    ("stop", {}),
    ("reset", {}),
    ("destroy", {}),
    ("ack_exit", {}),
]


@pytest.mark.parametrize(("kind", "body"), ON_A_CHILD)
def test_a_foreign_child_is_answered_exactly_as_one_that_never_was(world, alice, bob, kind, body):
    child = alice.start()["child"]
    asked = len(world.machine.asked)
    frame = bob.frame(kind, child=child, **body)
    foreign = bob.send(frame)
    unknown = bob.send(frame | {"b": {"child": bytes(16), **body}})
    assert foreign == unknown
    assert len(world.machine.asked) == asked
    assert alice.ask("describe", child=child)["state"] == "READY"


@pytest.mark.parametrize(("kind", "body"), ON_A_CHILD)
def test_so_is_a_foreign_exit_record(alice, bob, kind, body):
    child = alice.start()["child"]
    alice.ask("destroy", child=child)
    frame = bob.frame(kind, child=child, **body)
    assert bob.send(frame) == bob.send(frame | {"b": {"child": bytes(16), **body}})
    assert alice.ask("describe", child=child)["state"] == "RELEASED"


def test_lists_and_events_show_the_own_children_only(alice, bob):
    bob.ask("watch", since=0)
    mine = alice.start()["child"]
    assert bob.ask("list", exited=True)["children"] == []
    assert bob.events() == []
    assert [row["child"] for row in alice.ask("list")["children"]] == [mine]


def test_nobody_can_change_whose_a_child_is(world, alice):
    alice.start()
    (child,) = world.service._registry.children.values()
    with pytest.raises(AttributeError):
        child.origin.owner = None
    assert child.origin.owner == alice.who


def test_ids_of_children_follow_the_seed_and_tell_nothing(world, new_world, join, alice):
    first, second = alice.start()["child"], alice.start()["child"]
    assert join(new_world(), 8).start()["child"] == first
    assert len(first) == len(second) == 16
    assert first[:8] != second[:8]


# Epochs


def test_a_frame_of_another_epoch_is_stale(world, alice):
    error = alice.send(alice.frame("list") | {"epoch": 0})["b"]
    assert (error["name"], error["detail"]) == ("STALE_EPOCH", {"epoch": 1})


def test_a_reboot_ends_the_children_of_the_boot_before(world, alice, join):
    child = alice.start(b"\0\0\0\1" + b"k" * 12)["child"]
    again = join(world, 3, epoch=2)
    assert world.machine.guests == {}
    assert again.refused("describe", child=child)["name"] == "NOT_FOUND"
    assert again.ask("list", exited=True)["children"] == []
    assert alice.refused("list")["name"] == "STALE_EPOCH"
    assert alice.refused("hello", versions=[1])["name"] == "STALE_EPOCH"
    assert again.start(b"\0\0\0\2" + b"k" * 12)["replayed"] is False
    assert world.service.statistics().teardowns == {"reboot": 1}


def test_what_lingers_over_a_reboot_is_out_of_reach_and_ends_after_its_grace(world, alice, join):
    child = alice.start(on_owner_loss="linger", linger_s=60)["child"]
    again = join(world, 3, epoch=2)
    assert world.machine.guests == {child: "running"}
    assert again.refused("describe", child=child)["name"] == "NOT_FOUND"
    assert again.ask("destroy", child=child)["state"] == "RELEASED"
    assert world.machine.guests == {child: "running"}
    assert again.ask("quota.get")["children"]["charged"] == 1
    world.pass_time(20_000)
    again.ask("lease.renew")
    assert world.machine.guests == {child: "running"}
    world.pass_time(20_000)
    again.ask("lease.renew")
    world.pass_time(20_000)
    assert world.machine.guests == {}
    assert again.ask("quota.get")["children"]["charged"] == 0


def test_a_dead_owner_leaves_nothing(world, alice, bob):
    for key in (None, b"\0\0\0\1" + b"k" * 12):
        alice.start(key)
    alice.start(mode="reserve")
    alice.ask("watch", since=0)
    alice.ask("destroy", child=alice.start()["child"])
    bob.start()
    alone = bob.ask("list")
    world.gone(alice.who)
    assert len(world.machine.guests) == 1
    assert world.service.records()["requester"] == 1
    world.gone(bob.who)
    assert {kind for kind, n in world.service.records().items() if n} == set()
    assert world.service._registry.host.idle()
    assert len(alone["children"]) == 1


def test_a_boot_that_is_over_does_not_come_back(world, alice):
    world.gone(alice.who)
    world.gone(alice.who)
    error = alice.refused("hello", versions=[1])
    assert (error["name"], error["detail"]) == ("STALE_EPOCH", {"epoch": 2})


def test_a_late_notice_of_an_old_boots_end_does_not_touch_the_new_one(world, alice, join):
    again = join(world, 3, epoch=2)
    child = again.start()["child"]
    world.gone(alice.who)
    assert again.ask("describe", child=child)["state"] == "READY"


def test_an_owner_that_dies_during_a_start_leaves_nothing(world, alice, spec):
    step = alice.begin("start", spec=spec())
    created = next(step)
    assert isinstance(created, CreateGuest)
    world.gone(alice.who)
    assert world.service.records()["child"] == 1
    world.machine.perform(created)
    assert isinstance(step.send(None), DestroyGuest)
    with pytest.raises(StopIteration) as ended:
        step.send(None)
    assert ended.value.value["b"]["name"] == "BAD_STATE"
    assert not any(world.service.records().values())


def test_an_owner_whose_host_refuses_to_destroy_is_forgotten_later(world, alice, no):
    alice.start()
    world.machine.fail[DestroyGuest] = [no, no]
    world.gone(alice.who)
    assert world.service.records()["requester"] == 1
    for _ in range(3):
        world.pass_time(1_000)
    assert not any(world.service.records().values())


# Leases


def test_a_lease_is_kept_by_renewing(world, alice):
    alice.start()
    for _ in range(10):
        world.pass_time(29_000)
        answer = alice.ask("lease.renew")
    assert answer == {"expires_in_ms": 30_000, "renew_in_ms": 10_000, "back": 0}
    assert len(world.machine.guests) == 1


def test_the_last_millisecond_belongs_to_the_owner(world, alice):
    alice.start()
    world.pass_time(30_000)
    assert len(world.machine.guests) == 1
    world.pass_time(1)
    assert world.machine.guests == {}


def test_without_a_lease_children_are_stopped_and_destroyed(world, alice):
    child = alice.start()["child"]
    world.pass_time(30_001)
    assert world.machine.names()[-2:] == ["StopGuest", "DestroyGuest"]
    (record,) = alice.ask("list", exited=True)["children"]
    assert (record["child"], record["reason"]) == (child, "lease")
    assert world.service.statistics().leases["expired"] == 1


def test_a_freeze_that_is_shorter_than_the_lease_costs_nothing(world, alice):
    alice.start()
    world.pass_time(29_999)
    alice.ask("lease.renew")
    world.pass_time(29_999)
    assert len(world.machine.guests) == 1


def test_without_a_lease_nothing_new_is_made_but_reading_goes_on(world, alice, spec):
    world.pass_time(30_001)
    assert alice.refused("start", spec=spec())["name"] == "LEASE_EXPIRED"
    assert (
        alice.refused("image.put", digest=bytes(32), size=1, offset=0, data=b"a")["name"] == "LEASE_EXPIRED"
    )
    alice.ask("list")
    alice.ask("lease.renew")
    alice.start()


@pytest.mark.parametrize("before", ["READY", "STOPPED", "RESERVED"])
def test_a_lingering_child_is_given_back_within_its_grace(world, alice, before):
    mode = "reserve" if before == "RESERVED" else "run"
    child = alice.start(on_owner_loss="linger", linger_s=60, mode=mode)["child"]
    if before == "STOPPED":
        alice.ask("stop", child=child)
    world.pass_time(30_001)
    assert alice.ask("describe", child=child)["state"] == "ORPHANED"
    world.pass_time(59_999)
    assert alice.ask("lease.renew")["back"] == 1
    assert alice.ask("describe", child=child)["state"] == before
    world.pass_time(30_000)
    assert alice.ask("describe", child=child)["state"] == before


def test_a_lingering_child_goes_when_its_grace_is_over(world, alice):
    child = alice.start(on_owner_loss="linger", linger_s=60)["child"]
    world.pass_time(30_001)
    world.pass_time(60_000)
    assert world.machine.guests == {}
    assert alice.ask("lease.renew")["back"] == 0
    assert alice.ask("describe", child=child)["state"] == "RELEASED"


def test_an_owner_may_stop_or_destroy_what_is_orphaned(world, alice):
    stopped = alice.start(on_owner_loss="linger", linger_s=60)["child"]
    destroyed = alice.start(on_owner_loss="linger", linger_s=60)["child"]
    world.pass_time(30_001)
    alice.ask("stop", child=stopped)
    alice.ask("destroy", child=destroyed)
    assert world.machine.guests == {stopped: "stopped"}


def test_a_guest_that_ends_while_it_is_orphaned_comes_back_as_stopped(world, alice):
    child = alice.start(on_owner_loss="linger", linger_s=60)["child"]
    world.pass_time(30_001)
    world.service.guest_ended(child, 0, world.now_ms)
    alice.ask("lease.renew")
    assert alice.ask("describe", child=child)["state"] == "STOPPED"


def test_a_lease_that_ends_during_a_start_ends_the_start(world, alice, spec):
    step = alice.begin("start", spec=spec())
    created = next(step)
    world.machine.perform(created)
    world.pass_time(30_001)
    assert isinstance(step.send(None), DestroyGuest)
    with pytest.raises(StopIteration) as ended:
        step.send(None)
    assert ended.value.value["b"]["name"] == "LEASE_EXPIRED"


def test_a_lingering_start_goes_on_without_a_lease(world, alice, spec):
    step = alice.begin("start", spec=spec(on_owner_loss="linger", linger_s=60))
    created = next(step)
    world.pass_time(30_001)
    assert isinstance(step.send(None), LoadGuest)
    step.send(None)
    with pytest.raises(StopIteration) as ended:
        step.send(None)
    assert ended.value.value["b"]["state"] == "ORPHANED"
    assert alice.ask("lease.renew")["back"] == 1
    assert alice.ask("describe", child=created.child)["state"] == "READY"


def test_a_start_whose_lease_is_back_before_it_ends_was_never_orphaned(world, alice, spec):
    step = alice.begin("start", spec=spec(on_owner_loss="linger", linger_s=60))
    created = next(step)
    world.pass_time(30_001)
    assert alice.ask("lease.renew")["back"] == 1
    world.machine.perform(created)
    reply = world.drive(resumed(step))
    assert reply["b"]["state"] == "READY"
    for _ in range(4):
        world.pass_time(20_000)
        alice.ask("lease.renew")
    assert world.machine.guests == {created.child: "running"}, "its grace is forgotten"


def resumed(step):
    """The rest of a step whose first effect has succeeded."""
    answer = None
    while True:
        try:
            effect = step.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = yield effect


def test_a_requester_that_stays_silent_is_forgotten(world, alice):
    alice.ask("destroy", child=alice.start(b"\0\0\0\1" + b"k" * 12)["child"])
    for _ in range(31):
        world.pass_time(21_000)
    assert not any(world.service.records().values())
    assert alice.refused("list")["name"] == "STALE_EPOCH"
    alice.ask("hello", versions=[1])


def test_one_requesters_parked_start_holds_up_nobody_else(world, alice, bob, spec):
    step = alice.begin("start", spec=spec())
    next(step)
    assert bob.start()["state"] == "READY"
    assert isinstance(step.send(None), LoadGuest)


# The journal and the books


def test_a_state_is_journalled_before_it_is_acted_on(world, alice, spec):
    step = alice.begin("start", spec=spec())
    seen = []
    effect = next(step)
    try:
        while True:
            seen.append((type(effect), world.journal.intents()[-1].state))
            effect = step.send(None)
    except StopIteration as stop:
        child = stop.value["b"]["child"]
    step = alice.begin("destroy", child=child)
    effect = next(step)
    try:
        while True:
            seen.append((type(effect), world.journal.intents()[-1].state))
            effect = step.send(None)
    except StopIteration:
        pass
    assert [(kind.__name__, state) for kind, state in seen] == [
        ("CreateGuest", "LOADING"),
        ("LoadGuest", "LOADING"),
        ("StartGuest", "STARTING"),
        ("StopGuest", "STOPPING"),
        ("DestroyGuest", "RELEASING"),
    ]
    assert world.journal.intents() == []


def test_intents_name_the_owner(world, alice):
    assert world.service.journal is world.journal
    alice.start()
    assert {(i.owner_cid, i.owner_epoch) for i in world.journal.intents()} == {(3, 1)}


def test_one_life_changes_as_many_records_as_the_documentation_says(world, alice):
    before = dict(world.book.updates)
    alice.ask("destroy", child=alice.start(b"\0\0\0\1" + b"k" * 12)["child"])
    made = {key: n - before.get(key, 0) for key, n in world.book.updates.items() if n - before.get(key, 0)}
    assert made == {
        ("child", "create"): 1,
        ("child", "update"): 7,
        ("child", "delete"): 1,
        ("idempotency", "create"): 1,
        ("idempotency", "update"): 1,
        ("te_object", "create"): 1,
        ("te_object", "delete"): 1,
        ("vmm", "create"): 1,
        ("vmm", "delete"): 1,
        ("event", "create"): 7,
        ("journal", "create"): 8,
        ("journal", "delete"): 8,
        ("tombstone", "create"): 1,
    }


def test_sizes_are_those_that_nesting_is_counted_with():
    assert {kind: size.bytes for kind, size in record_sizes.items()} == {
        kind: SIZES[kind] for kind in record_sizes
    }
    assert set(record_sizes) == {
        *("requester", "child", "te_object", "idempotency", "lease", "event"),
        *("watcher", "tombstone", "journal", "vmm", "console", "channel"),
    }


# Watching


def test_a_watch_begins_with_established_and_brings_each_change_once(alice):
    reply = alice.send(alice.frame("watch", since=0))
    assert (reply["t"], reply["b"]) == ("ev", {"kind": "established", "seq": 0, "last": 0})
    child = alice.start()["child"]
    events = alice.events()
    assert [(e["seq"], e["from"], e["state"]) for e in events] == [
        (1, "RESERVED", "RESERVED"),
        (2, "RESERVED", "LOADING"),
        (3, "LOADING", "STARTING"),
        (4, "STARTING", "READY"),
    ]
    assert {e["child"] for e in events} == {child}
    assert alice.events() == []


def test_a_watch_resumes_by_number(alice):
    alice.start()
    alice.ask("watch", since=2)
    assert [e["seq"] for e in alice.events()] == [3, 4]
    alice.ask("watch")
    alice.start()
    assert [e["seq"] for e in alice.events()] == [5, 6, 7, 8, 5, 6, 7, 8]


def test_events_that_are_gone_are_a_gap(small_world, join):
    client = join(small_world(limits={"events": 4}), 3)
    client.start()
    client.ask("watch", since=4)
    client.start()
    client.start()
    first, *events = client.events()
    assert first == {"kind": "gap", "first": 9, "last": 12}
    assert [e["seq"] for e in events] == [9, 10, 11, 12]
    for since in (3, 13):
        error = client.refused("watch", since=since)
        assert (error["name"], error["detail"]) == ("GAP", {"first": 9, "last": 12})
    assert client.world.service.records()["event"] == 4


def test_watchers_are_bounded_and_end(small_world, join):
    client = join(small_world(watchers=1), 3)
    frame = client.frame("watch", since=0)
    client.send(frame)
    assert client.send(frame)["t"] == "ev"
    assert client.refused("watch", since=0)["name"] == "QUOTA"
    client.ask("unwatch", watch=frame["rid"])
    client.start()
    assert client.events() == []
    second = client.frame("watch", since=0)
    client.send(second)
    client.world.service.unwatch(client.who, second["rid"])
    assert client.world.service.records()["watcher"] == 0
    client.world.service.unwatch(client.who, second["rid"])
    client.ask("unwatch", watch=second["rid"])
    assert client.ask("quota.get")["watchers"]["charged"] == 0, "one that has ended gives nothing back twice"


def test_the_end_of_an_old_boots_connection_does_not_touch_a_watch_of_the_new_one(world, alice, join):
    again = join(world, 3, epoch=2)
    frame = again.frame("watch", since=0)
    again.send(frame)
    world.service.unwatch(alice.who, frame["rid"])
    assert world.service.records()["watcher"] == 1


def test_a_wait_whose_connection_is_gone_ends_and_is_charged_no_more(world, alice):
    child = alice.start()["child"]
    step = alice.begin("wait", child=child, until="STOPPED", timeout_ms=60_000)
    next(step)
    assert alice.ask("quota.get")["watchers"]["charged"] == 1
    with pytest.raises(StopIteration) as stop:
        step.throw(OwnerGone("alice"))
    error = stop.value.value["b"]
    assert (error["name"], error["cause"]) == ("STALE_EPOCH", ["the wait was ended"])
    assert alice.ask("quota.get")["watchers"]["charged"] == 0


def test_what_is_left_of_a_share_is_all_of_it_for_whoever_never_came(world, alice):
    alice.start()
    whole, left = world.service.free(9), world.service.free(alice.who.cid)
    assert whole.keys() == left.keys()
    assert {name: whole[name] - left[name] for name in ("children", "vcpus", "memory_mib")} == {
        "children": 1,
        "vcpus": 2,
        "memory_mib": 64,
    }


def test_the_boot_of_a_requester_is_the_one_it_is_in_or_the_next(world, join):
    alice = join(world, 3, epoch=5)
    assert (world.service.epoch_of(3), world.service.epoch_of(4)) == (5, 1)
    world.gone(alice.who)
    assert world.service.epoch_of(3) == 6


def test_boots_that_are_over_are_remembered_of_those_who_went_last(small_world, join):
    world = small_world(limits={"requesters": 1})
    for cid in range(3, 3 + 16):
        world.gone(join(world, cid, image=False).who)
    world.gone(join(world, 3, epoch=2, image=False).who)
    assert world.service.epoch_of(3) == 3
    world.gone(join(world, 40, image=False).who)
    assert (world.service.epoch_of(3), world.service.epoch_of(40)) == (3, 2)
    assert world.service.epoch_of(4) == 1, "the one that went first is a stranger now"


def test_a_stop_that_is_under_way_may_be_asked_for_again(alice):
    child = alice.start()["child"]
    step = alice.begin("stop", child=child)
    assert isinstance(next(step), StopGuest)
    assert alice.ask("stop", child=child) == {"state": "STOPPING"}
    assert alice.refused("reset", child=child)["name"] == "BAD_STATE"
    with pytest.raises(StopIteration):
        step.send(None)
