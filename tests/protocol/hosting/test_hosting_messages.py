"""Each message of the hosting interface, as a requester meets it."""

from __future__ import annotations

import hashlib

import pytest

from protocol.hosting.errors import ERRORS
from protocol.hosting.machine import CreateGuest, DestroyGuest, ResetGuest, StopGuest
from protocol.hosting.messages import MESSAGES


def test_hello_grants_a_lease_and_names_the_limits(world, stranger):
    answer = stranger.ask("hello", versions=[1, 2])
    assert answer["version"] == 1
    assert (answer["id"], answer["epoch"]) == (9, 1)
    assert answer["lease"] == {"length_ms": 30_000, "renew_ms": 10_000}
    assert answer["limits"]["children"] == world.service.limits.each.children
    first, last = answer["cids"]
    assert last - first == world.service.limits.cid_count - 1
    assert world.service.records()["requester"] == world.service.records()["lease"] == 1


def test_hello_may_be_repeated(world, alice):
    before = world.service.records()
    alice.ask("hello", versions=[1])
    assert world.service.records() == before


def test_hello_without_a_common_version_is_told_which_there_are(world, stranger):
    error = stranger.refused("hello", versions=[2, 3])
    assert (error["name"], error["detail"]) == ("UNSUPPORTED", {"versions": [1]})
    assert world.service.records()["requester"] == 0


def test_nothing_is_answered_before_hello(stranger):
    for kind, body in (
        ("quota.get", {}),
        ("list", {}),
        ("lease.renew", {}),
        ("destroy", {"child": bytes(16)}),
    ):
        assert stranger.refused(kind, **body)["name"] == "STALE_EPOCH"


def test_quota_shows_every_dimension_with_its_unit(alice):
    child = alice.start(vcpus=2, memory_mib=64, key=b"\0\0\0\1" + b"k" * 12)["child"]
    quota = alice.ask("quota.get")
    assert {name: row["charged"] for name, row in quota.items()} == {
        "children": 1,
        "vcpus": 2,
        "memory_mib": 64,
        "image_bytes": 126,
        "images": 1,
        "idempotency_keys": 1,
        "watchers": 0,
        "console_bytes": 0,
        "channels": 0,
        "exit_records": 0,
        "events": 4,
    }
    assert all(row["free"] == row["limit"] - row["charged"] for row in quota.values())
    assert quota["memory_mib"]["unit"] == "MiB"
    limits = alice.ask("hello", versions=[1])["limits"]
    assert {name: row["limit"] for name, row in quota.items()}.items() <= limits.items(), "told by hello, too"
    alice.ask("destroy", child=child)
    assert alice.ask("quota.get")["exit_records"]["charged"] == 1


def test_memory_is_charged_in_whole_units(small_world, join):
    client = join(small_world(limits={"memory_unit_mib": 1024}), 3)
    assert client.start(memory_mib=1025)["charged"] == {"vcpus": 2, "memory_mib": 2048}


def test_start_creates_loads_and_starts_one_guest(world, alice, image):
    answer = alice.start()
    assert world.machine.names() == ["CreateGuest", "LoadGuest", "StartGuest"]
    created = world.machine.asked[0]
    assert isinstance(created, CreateGuest)
    assert (created.image, created.spec.vcpus, created.cid) == (image, 2, answer["cid"])
    assert (answer["state"], answer["replayed"]) == ("READY", False)
    assert answer["charged"] == {"vcpus": 2, "memory_mib": 64}
    assert world.machine.guests == {answer["child"]: "running"}


def test_start_gives_more_time_to_a_bigger_guest(world, alice):
    alice.start(memory_mib=1024)
    alice.start(memory_mib=4096)
    small, big = (e.timeout_ms for e in world.machine.asked if type(e).__name__ == "StartGuest")
    assert (small, big) == (50_000, 110_000)


def test_a_reserved_child_touches_no_machine_until_it_is_run(world, alice):
    first = alice.start(b"\0\0\0\1" + b"k" * 12, mode="reserve")
    assert (first["state"], world.machine.asked) == ("RESERVED", [])
    assert alice.ask("quota.get")["memory_mib"]["charged"] == 64
    second = alice.start(b"\0\0\0\1" + b"k" * 12, mode="run")
    assert (second["child"], second["cid"]) == (first["child"], first["cid"])
    assert (second["state"], second["replayed"]) == ("READY", True)


def test_wait_answers_at_once_what_is_so_already(alice):
    child = alice.start()["child"]
    answer = alice.ask("wait", child=child, until="READY")
    assert answer["state"] == "READY"
    assert list(answer["timings"]) == ["RESERVED", "LOADING", "STARTING", "READY"]


def test_wait_ends_with_its_time(world, alice):
    child = alice.start()["child"]
    began = world.now_ms
    assert alice.refused("wait", child=child, until="STOPPED", timeout_ms=700)["name"] == "TIMEOUT"
    assert world.now_ms == began + 700
    frame = alice.frame("wait", child=child, until="STOPPED", timeout_ms=700) | {"dl": 50}
    assert alice.send(frame)["b"]["name"] == "TIMEOUT"
    assert world.now_ms == began + 750


def test_wait_for_ready_is_refused_when_that_will_never_come(alice):
    child = alice.start()["child"]
    alice.ask("stop", child=child)
    error = alice.refused("wait", child=child, until="READY")
    assert (error["name"], error["detail"]) == ("BAD_STATE", {"have": "STOPPED", "need": ["READY"]})
    assert alice.ask("wait", child=child, until="STOPPED")["state"] == "STOPPED"
    alice.ask("destroy", child=child)
    assert alice.ask("wait", child=child, until="STOPPED")["state"] == "RELEASED"


def test_a_wait_is_charged_as_a_watcher_while_it_lasts(small_world, join):
    client = join(small_world(watchers=1), 3)
    child = client.start()["child"]
    step = client.begin("wait", child=child, until="STOPPED")
    next(step)
    assert client.refused("wait", child=child, until="STOPPED")["name"] == "QUOTA"
    with pytest.raises(StopIteration) as ended:
        step.send(client.world.now_ms + 600_000)
    assert ended.value.value["b"]["name"] == "TIMEOUT"
    assert client.ask("quota.get")["watchers"]["charged"] == 0


def test_a_wait_sees_what_another_request_does(world, alice):
    child = alice.start()["child"]
    step = alice.begin("wait", child=child, until="STOPPED")
    next(step)
    alice.ask("stop", child=child)
    with pytest.raises(StopIteration) as ended:
        step.send(world.now_ms)
    assert ended.value.value["b"]["state"] == "STOPPED"


def test_describe_tells_all_of_an_own_child(alice):
    child = alice.start(labels={"app": "db"}, on_owner_loss="linger", linger_s=5)["child"]
    told = alice.ask("describe", child=child)
    assert (told["state"], told["reason"], told["labels"]) == ("READY", "start", {"app": "db"})
    assert (told["on_owner_loss"], told["linger_s"]) == ("linger", 5)
    assert (told["failure"], told["exit"], told["held"]) == (None, None, [])


def test_list_goes_page_by_page_and_filters(alice):
    made = sorted(alice.start(labels={"n": str(n)} if n % 2 else {})["child"] for n in range(5))
    seen, after = [], None
    while True:
        page = alice.ask("list", after=after, count=2)
        seen += [row["child"] for row in page["children"]]
        after = page["after"]
        if after is None:
            break
    assert seen == made
    assert len(alice.ask("list", label="n")["children"]) == 2
    assert alice.ask("list", state="STOPPED")["children"] == []


def test_list_shows_exits_only_when_asked(alice):
    child = alice.start()["child"]
    alice.ask("destroy", child=child)
    assert alice.ask("list")["children"] == []
    (row,) = alice.ask("list", exited=True)["children"]
    assert (row["child"], row["state"], row["reason"]) == (child, "RELEASED", "request")


def test_the_largest_page_of_a_list_fits_a_frame(alice):
    labels = {f"{n:032}": "v" * 64 for n in range(8)}
    for _ in range(40):
        alice.start(labels=labels)
    assert len(alice.ask("list")["children"]) == 32  # the client holds the size of every answer


def test_stop_is_kind_unless_told_otherwise_and_may_be_repeated(world, alice):
    kind, killed = alice.start()["child"], alice.start()["child"]
    assert alice.ask("stop", child=kind, grace_ms=7)["state"] == "STOPPED"
    assert alice.ask("stop", child=killed, how="kill")["state"] == "STOPPED"
    assert alice.ask("stop", child=killed)["state"] == "STOPPED"
    assert [e.grace_ms for e in world.machine.asked if isinstance(e, StopGuest)] == [7, 0]


def test_stop_needs_a_guest_that_runs(alice):
    child = alice.start(b"\0\0\0\1" + b"k" * 12, mode="reserve")["child"]
    assert alice.refused("stop", child=child)["detail"] == {"have": "RESERVED", "need": ["READY"]}
    alice.ask("destroy", child=child)
    assert alice.refused("stop", child=child)["detail"]["have"] == "RELEASED"


def test_reset_boots_the_same_guest_again(world, alice):
    child = alice.start()["child"]
    assert alice.ask("reset", child=child)["state"] == "READY"
    assert isinstance(world.machine.asked[-1], ResetGuest)
    alice.ask("stop", child=child)
    assert alice.refused("reset", child=child)["name"] == "BAD_STATE"


def test_destroy_ends_a_child_in_any_state_and_may_be_repeated(world, alice):
    ready, stopped = alice.start()["child"], alice.start()["child"]
    reserved = alice.start(mode="reserve")["child"]
    alice.ask("stop", child=stopped)
    for child in (ready, stopped, reserved, ready, bytes(16)):
        assert alice.ask("destroy", child=child) == {"state": "RELEASED"}
    assert world.machine.guests == {}
    assert world.service.records()["child"] == 0
    assert alice.ask("quota.get")["memory_mib"]["charged"] == 0


def test_the_exit_record_stays_until_it_is_acknowledged(world, alice):
    child = alice.start()["child"]
    assert alice.refused("ack_exit", child=child)["name"] == "BAD_STATE"
    world.service.guest_ended(child, 3, world.now_ms)
    assert alice.ask("describe", child=child)["state"] == "STOPPED"
    alice.ask("destroy", child=child)
    assert (alice.ask("describe", child=child)["exit"], world.service.records()["tombstone"]) == (3, 1)
    alice.ask("ack_exit", child=child)
    alice.ask("ack_exit", child=child)
    assert alice.refused("describe", child=child)["name"] == "NOT_FOUND"
    assert world.service.records()["tombstone"] == 0


def test_an_exit_record_expires(world, alice):
    alice.ask("destroy", child=alice.start()["child"])
    for _ in range(31):
        world.pass_time(20_000)
        alice.ask("lease.renew")
    assert world.service.records()["tombstone"] == 0


def test_exit_records_are_bounded_and_the_oldest_goes(small_world, join):
    client = join(small_world(limits={"tombstones": 2}), 3)
    children = [client.start()["child"] for _ in range(3)]
    for child in children:
        client.ask("destroy", child=child)
    kept = {row["child"] for row in client.ask("list", exited=True)["children"]}
    assert kept == set(children[1:])


def test_explain_knows_every_code_and_needs_no_hello(stranger):
    for code, row in ERRORS.items():
        told = stranger.ask("explain", error=int(code))
        assert (told["name"], told["retryable"], told["who"]) == (code.name, row.retryable, row.who)
    assert stranger.refused("explain", error=999)["name"] == "NOT_FOUND"


def test_a_requester_with_children_is_not_moved_and_told_why(world, alice, bob):
    child = alice.start()["child"]
    for body in ({}, {"child": child}):
        error = alice.refused("migrate", **body)
        assert (error["name"], error["retryable"], error["detail"]) == ("POLICY", False, {"children": 1})
        assert "Trusted Entity" in error["cause"][0]
    assert alice.ask("describe", child=child)["state"] == "READY", "it was only asked"
    assert bob.refused("migrate", child=child)["name"] == "NOT_FOUND", "to a stranger it is not there"
    assert bob.ask("migrate") == {}, "the children of others keep nobody here"
    alice.ask("destroy", child=child)
    assert alice.ask("migrate") == {}, "nothing keeps it here any more"


def test_a_child_that_is_not_gone_yet_keeps_its_requester_here(world, alice, no):
    child = alice.start()["child"]
    world.machine.fail[DestroyGuest] = [no]
    assert alice.refused("destroy", child=child)["name"] == "BUSY_RELEASING"
    assert alice.refused("migrate")["detail"] == {"children": 1}


def test_a_child_that_lingers_from_an_earlier_boot_keeps_its_requester_here(world, join):
    join(world, 3).start(on_owner_loss="linger", linger_s=60)
    again = join(world, 3, epoch=2)
    assert again.ask("list")["children"] == [], "it is not the present boot's"
    assert again.refused("migrate")["detail"] == {"children": 1}
    world.pass_time(60_001)
    again.ask("lease.renew")
    assert again.ask("migrate") == {}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("channel.open", {"port": 7}),
        ("attest", {"nonce": b""}),
        ("dump", {}),
    ],
)
def test_what_this_host_does_not_offer_says_so(alice, kind, body):
    assert alice.refused(kind, child=bytes(16), **body)["name"] == "UNSUPPORTED"
    assert alice.refused("memory.deposit", pages=1)["name"] == "UNSUPPORTED"


def test_a_request_whose_time_is_over_does_nothing(world, alice, spec):
    frame = alice.frame("start", spec=spec()) | {"dl": 0}
    assert alice.send(frame)["b"]["name"] == "TIMEOUT"
    assert world.service.records()["child"] == 0


def test_every_message_that_is_offered_has_its_say_in_the_statistics(world, alice):
    alice.ask("list")
    alice.refused("describe", child=bytes(16))
    seen = world.service.statistics()
    assert seen.messages == {"hello": 1, "image.put": 1, "list": 1, "describe": 1}
    assert seen.refusals == {"NOT_FOUND": 1}
    assert set(seen.messages) <= set(MESSAGES)


# Errors of the frame's meaning that need no machine


def test_too_many_requests_at_once_are_told_so(small_world, join):
    client = join(small_world(limits={"in_flight": 2}), 3)
    child = client.start()["child"]
    steps = [client.begin("wait", child=child, until="STOPPED") for _ in range(2)]
    for step in steps:
        next(step)
    error = client.refused("list")
    assert (error["name"], error["retryable"], error["retry_after_ms"] > 0) == ("RATE_LIMITED", True, True)
    for step in steps:
        with pytest.raises(StopIteration):
            step.send(client.world.now_ms + 600_000)
    client.ask("list")


def test_starts_may_be_limited_by_rate(small_world, join):
    world = small_world(limits={"starts_per_s": 2})
    client = join(world, 3)
    client.start()
    client.start()
    error = client.refused("start", spec={"image": hashlib.sha256(b"").digest(), "vcpus": 1, "memory_mib": 1})
    assert (error["name"], error["retry_after_ms"]) == ("RATE_LIMITED", 500)
    world.pass_time(500)
    client.start()
