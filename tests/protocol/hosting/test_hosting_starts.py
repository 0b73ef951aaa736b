"""Starts: twice the same, too much, and what is left when one fails."""

from __future__ import annotations

import hashlib

import pytest

from protocol.errors import LevelGone, OutcomeUnknown, OwnerGone
from protocol.hosting.limits import CHUNK_BYTES
from protocol.hosting.machine import (
    Await,
    CreateGuest,
    DestroyGuest,
    Died,
    LoadGuest,
    NeedMemory,
    ResetGuest,
    StartGuest,
    StopGuest,
    TeError,
    TimedOut,
    Vanished,
)

KEY = b"\0\0\0\1" + b"k" * 12


def ended(step, answer):
    """Give `step` its last answer; return its reply."""
    with pytest.raises(StopIteration) as stop:
        step.send(answer)
    return stop.value.value["b"]


def parked(step, answers):
    """Drive `step` through `answers` and return the effect at which it then stands."""
    effect = next(step)
    for answer in answers:
        effect = step.send(answer)
    return effect


# Keys


def test_the_same_key_and_spec_make_one_child(world, alice):
    first = alice.start(KEY)
    second = alice.start(KEY)
    assert (second["child"], second["cid"], second["charged"]) == (
        first["child"],
        first["cid"],
        first["charged"],
    )
    assert (first["replayed"], second["replayed"]) == (False, True)
    assert world.machine.names().count("CreateGuest") == 1


def test_the_same_key_for_another_spec_is_a_conflict(world, alice, spec):
    alice.start(KEY, vcpus=1)
    for change in ({"vcpus": 2}, {"labels": {"a": "b"}}, {"on_owner_loss": "linger", "linger_s": 1}):
        assert alice.refused("start", KEY, spec=spec(**{"vcpus": 1} | change))["name"] == "KEY_CONFLICT"
    assert world.service.records()["child"] == 1
    assert world.service.statistics().replays == {"conflict": 3}


def test_labels_in_another_order_are_the_same_spec(alice):
    first = alice.start(KEY, labels={"a": "1", "b": "2"})
    assert alice.start(KEY, labels={"b": "2", "a": "1"})["child"] == first["child"]


def test_without_a_key_every_start_makes_a_child(alice):
    assert alice.start()["child"] != alice.start()["child"]


def test_the_same_key_of_two_requesters_makes_two_children(alice, bob):
    assert alice.start(KEY)["child"] != bob.start(KEY)["child"]


def test_a_start_asked_again_while_it_is_under_way_makes_no_second_child(world, alice, spec):
    step = alice.begin("start", KEY, spec=spec())
    parked(step, [None])
    again = alice.begin("start", KEY, spec=spec())
    assert isinstance(again.send(None), Await), "it waits for the outcome, as the first one does"
    step.send(None)
    assert isinstance(again.send(world.now_ms), Await)
    first, answer = ended(step, None), ended(again, world.now_ms)
    assert answer == first | {"replayed": True}
    assert (answer["state"], first["replayed"]) == ("READY", False)
    assert world.service.records()["child"] == 1


def test_a_start_asked_again_while_it_is_under_way_fails_as_the_first_one(world, alice, spec):
    step = alice.begin("start", KEY, spec=spec())
    parked(step, [None])
    again = alice.begin("start", KEY, spec=spec())
    assert isinstance(again.send(None), Await)
    assert isinstance(step.send(Died(9)), DestroyGuest)
    assert isinstance(again.send(world.now_ms), Await), "until it is rolled back, too"
    first, answer = ended(step, None), ended(again, world.now_ms)
    assert answer == first
    assert first["name"] == "BOOT_DIED"
    assert alice.start(KEY)["replayed"] is False, "the key is free: nobody was told of a child"


def test_who_asks_again_may_say_how_long_to_wait(world, alice, spec):
    parked(alice.begin("start", KEY, spec=spec()), [None])
    error = alice.send(alice.frame("start", KEY, spec=spec()) | {"dl": 500})["b"]
    assert error["name"] == "TIMEOUT"


def test_a_key_that_told_a_child_is_not_free_when_its_start_fails(world, alice, spec):
    alice.start(KEY, mode="reserve")
    world.machine.fail[StartGuest] = [Died(9)]
    assert alice.refused("start", KEY, spec=spec())["name"] == "BOOT_DIED"
    assert alice.refused("start", KEY, spec=spec())["name"] == "BOOT_DIED", "and no second child"
    other = KEY[:-1] + bytes([KEY[-1] + 1])
    alice.start(other, mode="reserve")
    world.machine.fail[CreateGuest] = [NeedMemory(7)]
    assert alice.refused("start", other, spec=spec())["name"] == "NEED_MEMORY"
    error = alice.refused("start", other, spec=spec())
    assert (error["name"], error["retryable"]) == ("BAD_STATE", False), "to try again would be of no use"
    assert world.machine.guests == {}


def test_a_key_outlives_its_child_by_ten_minutes(world, alice, spec):
    first = alice.start(KEY)
    alice.ask("destroy", child=first["child"])
    again = alice.start(KEY)
    assert (again["child"], again["state"]) == (first["child"], "RELEASED")
    for _ in range(30):
        world.pass_time(20_000)
        alice.ask("lease.renew")
    assert world.service.records()["idempotency"] == 0
    assert alice.refused("start", KEY, spec=spec())["name"] == "KEY_EXPIRED"
    assert world.machine.names().count("CreateGuest") == 1


def test_a_key_that_comes_late_is_executed_unless_a_higher_one_was_forgotten(small_world, join, spec):
    def key(n):
        return (1 << 96 | n).to_bytes(16, "big")

    client = join(small_world(idempotency_keys=2), 3)
    second, first = client.start(key(2)), client.start(key(1))
    assert first["child"] != second["child"]
    client.ask("destroy", child=second["child"])
    client.start(key(5))  # the table is full: key 2, whose child has ended, makes room
    error = client.refused("start", key(2), spec=spec())
    assert (error["name"], error["detail"]) == ("KEY_EXPIRED", {"watermark": key(2)})
    assert client.start(key(1))["replayed"]
    client.ask("destroy", child=first["child"])
    assert client.start(key(3))["replayed"] is False, "a key above the watermark may come late"


@pytest.mark.parametrize(
    ("epoch", "sequence", "name"), [(0, 7, "KEY_EXPIRED"), (2, 7, "BAD_ARGUMENT"), (1, 0, "BAD_ARGUMENT")]
)
def test_a_key_is_of_the_present_epoch_and_counts_from_one(alice, spec, epoch, sequence, name):
    assert alice.refused("start", (epoch << 96 | sequence).to_bytes(16, "big"), spec=spec())["name"] == name


# Failures


@pytest.mark.parametrize(
    ("effect", "failure", "name", "stage", "detail"),
    [
        (
            CreateGuest,
            TeError("create_config", 10, 2),
            "TE_ERROR",
            "create",
            {"call": "create_config", "rc": 10, "rrc": 2},
        ),
        (CreateGuest, NeedMemory(1284), "NEED_MEMORY", "create", {"pages": 1284}),
        (LoadGuest, TeError("unpack", 0x108), "TE_ERROR", "load", {"call": "unpack", "rc": 0x108, "rrc": 0}),
        (LoadGuest, Vanished(), "INTERNAL", "load", {"ref": ""}),
        (StartGuest, Died(139), "BOOT_DIED", "start", {"exit": 139}),
        (StartGuest, TimedOut(5), "BOOT_TIMEOUT", "start", {"timeout_ms": 5}),
        (StartGuest, Vanished(), "INTERNAL", "start", {"ref": ""}),
    ],
)
def test_a_failed_start_is_rolled_back_whole(world, alice, spec, effect, failure, name, stage, detail):
    def charges():
        kept = ("exit_records", "events")  # which are to say what happened
        return {name: row for name, row in alice.ask("quota.get").items() if name not in kept}

    charged = charges()
    world.machine.fail[effect] = [failure]
    error = alice.refused("start", KEY, spec=spec())
    assert (error["name"], error["stage"], error["detail"]) == (name, stage, detail)
    if not isinstance(failure, Vanished):
        assert world.machine.guests == {}
    assert charges() == charged
    assert world.service.records()["child"] == 0
    assert ("DestroyGuest" in world.machine.names()) == (
        effect is not CreateGuest and not isinstance(failure, Vanished)
    )


def test_a_failed_start_leaves_an_exit_record_and_frees_its_key(world, alice, spec):
    world.machine.fail[StartGuest] = [Died(1)]
    alice.refused("start", KEY, spec=spec())
    (record,) = alice.ask("list", exited=True)["children"]
    assert (record["reason"], record["failure"]["name"]) == ("rollback", "BOOT_DIED")
    assert alice.refused("wait", child=record["child"], until="READY")["name"] == "BOOT_DIED"
    assert alice.start(KEY)["replayed"] is False


def test_a_start_that_cannot_be_rolled_back_stays_failed_and_charged(world, alice, spec, no):
    world.machine.fail = {LoadGuest: [no], DestroyGuest: [no, no, no]}
    assert alice.refused("start", KEY, spec=spec())["stage"] == "load"
    (left,) = alice.ask("list")["children"]
    assert (left["state"], left["held"], left["failure"]["name"]) == ("FAILED", ["guest"], "TE_ERROR")
    assert alice.ask("quota.get")["children"]["charged"] == 1
    assert alice.refused("start", KEY, spec=spec())["stage"] == "load"  # the same answer, no second try
    error = alice.refused("destroy", child=left["child"])
    assert (error["name"], error["retryable"], error["detail"]) == (
        "BUSY_RELEASING",
        True,
        {"held": ["guest"]},
    )
    assert error["retry_after_ms"] == 500
    world.pass_time(499)
    assert world.machine.names().count("DestroyGuest") == 2
    world.pass_time(1)
    world.pass_time(1000)
    assert world.machine.guests == {}
    assert alice.ask("quota.get")["children"]["charged"] == 0


def test_destroy_is_repeated_until_it_succeeds(world, alice, no):
    child = alice.start()["child"]
    world.machine.fail[DestroyGuest] = [no, no]
    assert alice.refused("destroy", child=child)["name"] == "BUSY_RELEASING"
    assert alice.ask("describe", child=child)["state"] == "STOPPED"
    assert alice.refused("destroy", child=child)["name"] == "BUSY_RELEASING"
    assert alice.ask("destroy", child=child)["state"] == "RELEASED"
    assert world.machine.names().count("StopGuest") == 1


def test_a_destroy_that_never_succeeds_is_tried_ever_more_rarely(world, alice, no):
    child = alice.start()["child"]
    world.machine.fail[DestroyGuest] = [no] * 1000
    alice.refused("destroy", child=child)
    for _ in range(100):
        world.pass_time(10_000)
        alice.ask("lease.renew")
    assert 30 < world.machine.names().count("DestroyGuest") < 50
    assert world.service.records()["journal"] <= 8


def test_a_guest_that_cannot_be_stopped_is_destroyed_all_the_same(world, alice, no):
    child = alice.start()["child"]
    world.machine.fail[StopGuest] = [no, no]
    assert alice.refused("stop", child=child)["name"] == "TE_ERROR"
    assert alice.ask("describe", child=child)["state"] == "STOPPING"
    assert alice.ask("destroy", child=child)["state"] == "RELEASED"
    assert world.machine.guests == {}


def test_a_failed_reset_keeps_the_child_for_its_owner_to_end(world, alice, no):
    child = alice.start()["child"]
    world.machine.fail[ResetGuest] = [no]
    assert alice.refused("reset", child=child)["stage"] == "reset"
    assert alice.ask("describe", child=child)["state"] == "FAILED"
    alice.ask("destroy", child=child)


def test_a_guest_that_vanished_is_lost_and_asks_nothing_more_of_the_machine(world, alice):
    child = alice.start()["child"]
    world.service.guest_lost(child, world.now_ms)
    assert alice.ask("describe", child=child)["state"] == "LOST"
    assert alice.refused("wait", child=child, until="STOPPED")["name"] == "BAD_STATE"
    asked = len(world.machine.asked)
    alice.ask("destroy", child=child)
    assert len(world.machine.asked) == asked


def test_a_guest_that_vanished_without_a_word_is_found_out_by_the_next_request(world, alice):
    reset, stopped = alice.start()["child"], alice.start()["child"]
    world.machine.guests.clear()
    world.machine.cids.clear()
    error = alice.refused("reset", child=reset)
    assert (error["name"], error["cause"], error["stage"]) == ("INTERNAL", ["the guest vanished"], "reset")
    assert alice.ask("describe", child=reset)["state"] == "LOST"
    before = len(world.machine.asked)
    assert alice.ask("destroy", child=stopped)["state"] == "RELEASED"
    assert world.machine.names()[before:] == ["StopGuest"], "there is nothing to destroy"
    assert alice.ask("describe", child=stopped)["timings"].keys() >= {"LOST", "RELEASED"}


def test_a_guest_that_could_not_be_stopped_and_ends_by_itself_is_stopped(world, alice, no):
    """It stayed STOPPING for whoever waited for its end."""
    child = alice.start()["child"]
    world.machine.fail[StopGuest] = [no]
    alice.refused("stop", child=child)
    world.service.guest_ended(child, 3, world.now_ms)
    told = alice.ask("describe", child=child)
    assert (told["state"], told["reason"], told["exit"]) == ("STOPPED", "exit", 3)


def test_a_notice_during_a_request_waits_for_what_the_machine_answers(world, alice):
    child = alice.start()["child"]
    step = alice.begin("stop", child=child)
    assert isinstance(next(step), StopGuest)
    world.service.guest_lost(child, world.now_ms)
    assert alice.ask("describe", child=child)["state"] == "STOPPING"
    assert ended(step, Vanished())["name"] == "INTERNAL"
    assert alice.ask("describe", child=child)["state"] == "LOST"


def test_a_notice_about_a_guest_that_nobody_knows_changes_nothing(world, alice):
    child = alice.start()["child"]
    alice.ask("destroy", child=child)
    before = alice.ask("describe", child=child)
    world.service.guest_ended(child, 1, world.now_ms)
    world.service.guest_lost(child, world.now_ms)
    assert alice.ask("describe", child=child) == before


def test_a_machine_that_loses_its_power_during_a_start_has_no_guest_to_destroy(world, alice, spec):
    step = alice.begin("start", spec=spec())
    assert isinstance(parked(step, [None]), LoadGuest)
    world.machine.guests.clear()
    with pytest.raises(StopIteration) as stop:
        step.throw(LevelGone("the machine"))
    assert stop.value.value["b"]["cause"] == ["the guest vanished"]
    assert world.service.records()["child"] == 0


def test_a_destroy_during_the_start_ends_the_start(world, alice, spec):
    step = alice.begin("start", KEY, spec=spec())
    effect = parked(step, [None])
    assert isinstance(effect, LoadGuest)
    assert alice.refused("destroy", child=effect.child)["name"] == "BUSY_RELEASING"
    world.machine.guests[effect.child] = "created"
    assert isinstance(step.send(None), DestroyGuest)
    with pytest.raises(StopIteration) as ended:
        step.send(None)
    error = ended.value.value["b"]
    assert (error["name"], error["stage"]) == ("BAD_STATE", "load")
    assert alice.ask("destroy", child=effect.child)["state"] == "RELEASED"
    assert world.service.records()["child"] == 0


# Limits


def test_each_dimension_of_a_requester_has_its_limit(small_world, join, spec):
    world = small_world(children=2, vcpus=5, memory_mib=300)
    client = join(world, 3)
    assert client.refused("start", spec=spec(vcpus=6))["detail"]["dimension"] == "vcpus"
    assert client.refused("start", spec=spec(memory_mib=301))["detail"] == {
        "dimension": "memory_mib",
        "limit": 300,
        "charged": 0,
        "asked": 301,
    }
    client.start()
    client.start()
    error = client.refused("start", spec=spec(vcpus=1, memory_mib=1))
    assert (error["name"], error["retryable"], error["detail"]["dimension"]) == ("QUOTA", False, "children")


def test_keys_have_their_limit_too(small_world, join, spec):
    client = join(small_world(idempotency_keys=1), 3)
    client.start(KEY)
    assert (
        client.refused("start", b"\0\0\0\1" + b"l" * 12, spec=spec())["detail"]["dimension"]
        == "idempotency_keys"
    )
    client.start()


def test_the_host_runs_out_for_everybody_but_says_so_differently(small_world, join, spec):
    world = small_world(host={"memory_mib": 100})
    alice, bob = join(world, 3), join(world, 4)
    alice.start()
    error = bob.refused("start", spec=spec())
    assert (error["name"], error["retryable"], error["who"]) == ("NO_RESOURCE", True, "host")
    assert bob.ask("quota.get")["memory_mib"]["charged"] == 0


def test_a_quota_that_is_still_being_released_is_busy_not_full(small_world, join, no, spec):
    world = small_world(children=1)
    client = join(world, 3)
    child = client.start()["child"]
    world.machine.fail[DestroyGuest] = [no]
    client.refused("destroy", child=child)
    error = client.refused("start", spec=spec())
    assert (error["name"], error["retryable"]) == ("BUSY_RELEASING", True)


def test_cids_run_out_and_rest_before_they_come_back(small_world, join, spec):
    world = small_world(limits={"cid_count": 1, "cid_quarantine": 5_000})
    client = join(world, 3)
    first = client.start()
    assert client.refused("start", spec=spec())["name"] == "CID_EXHAUSTED"
    client.ask("destroy", child=first["child"])
    assert client.refused("start", spec=spec())["retry_after_ms"] == 5_000
    assert client.ask("quota.get")["children"]["charged"] == 0
    world.pass_time(5_000)
    assert client.start()["cid"] == first["cid"]


def test_requesters_are_bounded(small_world, join):
    world = small_world(limits={"requesters": 1})
    alice = join(world, 3)
    client = type(alice)(world, 4)
    error = client.refused("hello", versions=[1])
    assert (error["name"], error["detail"]) == ("NO_RESOURCE", {"dimension": "requesters"})
    world.gone(alice.who)
    client.ask("hello", versions=[1])


# Images


def test_an_image_needs_to_be_here_before_a_start(world, join, spec):
    client = join(world, 3, image=False)
    error = client.refused("start", spec=spec())
    assert (error["name"], error["stage"]) == ("NOT_FOUND", "image")


def test_an_image_comes_in_pieces_and_tells_how_much_is_there(world, join):
    client = join(world, 3, image=False)
    image = bytes(range(256)) * 300
    digest = hashlib.sha256(image).digest()

    def put(offset, data):
        return client.ask("image.put", digest=digest, size=len(image), offset=offset, data=data)

    assert put(0, b"") == {"have": 0, "complete": False}
    assert put(0, image[:CHUNK_BYTES]) == {"have": CHUNK_BYTES, "complete": False}
    assert put(0, image[:CHUNK_BYTES]) == {"have": CHUNK_BYTES, "complete": False}
    error = client.refused("image.put", digest=digest, size=len(image), offset=CHUNK_BYTES + 1, data=b"x")
    assert error["cause"] == [f"b.offset is at most {CHUNK_BYTES}"]
    assert put(100, image[100 : 100 + CHUNK_BYTES])["have"] == 100 + CHUNK_BYTES
    put(100 + CHUNK_BYTES, image[100 + CHUNK_BYTES : 100 + 2 * CHUNK_BYTES])
    done = put(100 + 2 * CHUNK_BYTES, image[100 + 2 * CHUNK_BYTES :])
    assert done == {"have": len(image), "complete": True}
    assert put(0, b"") == done
    # What travels counts, whether it was new or not, and what was refused, too.
    assert world.service.statistics().image_bytes == len(image) + CHUNK_BYTES + (CHUNK_BYTES - 100) + 1


def test_bytes_of_another_digest_are_thrown_away(join, world):
    client = join(world, 3, image=False)
    error = client.refused("image.put", digest=bytes(32), size=3, offset=0, data=b"abc")
    assert error["name"] == "IMAGE_INVALID"
    assert client.ask("quota.get")["image_bytes"]["charged"] == 0


def test_a_piece_stays_within_its_image_and_an_image_keeps_its_size(alice):
    assert (
        alice.refused("image.put", digest=bytes(32), size=3, offset=1, data=b"abc")["name"] == "BAD_ARGUMENT"
    )
    alice.ask("image.put", digest=bytes(32), size=3, offset=0, data=b"a")
    assert alice.refused("image.put", digest=bytes(32), size=4, offset=1, data=b"b")["name"] == "BAD_ARGUMENT"


def test_the_least_recently_used_image_makes_room(small_world, join):
    client = join(small_world(images=2, image_bytes=1000), 3, image=False)
    old, used = client.put(b"o" * 400), client.put(b"u" * 400)
    client.ask("image.put", digest=old, size=400, offset=0, data=b"")
    client.put(b"n" * 500)
    assert client.ask("image.put", digest=old, size=400, offset=0, data=b"")["complete"]
    assert not client.ask("image.put", digest=used, size=400, offset=0, data=b"")["complete"]


def test_an_image_in_use_stays_and_what_cannot_fit_evicts_nothing(small_world, join, image):
    client = join(small_world(images=2, image_bytes=1000), 3)
    client.start()
    kept = client.put(b"k" * 200)
    error = client.refused("image.put", digest=bytes(32), size=900, offset=0, data=b"x")
    assert (error["name"], error["detail"]["dimension"]) == ("QUOTA", "image_bytes")
    assert client.ask("image.put", digest=kept, size=200, offset=0, data=b"")["complete"]
    client.put(b"m" * 800)
    assert client.start()["state"] == "READY"


def test_nobody_learns_or_uses_what_image_another_has(world, alice, join, spec, image):
    bob = join(world, 4, image=False)
    digest = hashlib.sha256(image).digest()
    told = bob.ask("image.put", digest=digest, size=len(image), offset=0, data=b"")
    assert told == {"have": 0, "complete": False}
    assert bob.refused("start", spec=spec())["name"] == "NOT_FOUND"


# A machine that does not answer


def test_a_guest_that_may_have_been_made_is_destroyed(world, alice, spec):
    step = alice.begin("start", spec=spec())
    next(step)
    effect = step.throw(OutcomeUnknown("the link to the machine"))
    assert isinstance(effect, DestroyGuest)
    with pytest.raises(StopIteration) as ended:
        step.send(Vanished())
    error = ended.value.value["b"]
    assert (error["name"], error["detail"]) == ("INTERNAL", {"ref": "OutcomeUnknown"})
    assert world.service.records()["child"] == 0


@pytest.mark.parametrize("answered", [0, 1, 2])
def test_a_start_whose_owner_is_gone_undoes_itself(world, alice, spec, answered):
    step = alice.begin("start", spec=spec())
    effect = parked(step, [None] * answered)
    try:
        effect = step.throw(OwnerGone("alice"))
        assert isinstance(effect, DestroyGuest)
        with pytest.raises(StopIteration) as ended:
            step.send(None)
    except StopIteration as stop:
        assert answered == 0
        reply = stop.value
    else:
        reply = ended.value.value
    assert reply["b"]["name"] == "BAD_STATE"
    assert world.service.records()["child"] == 0


def test_an_owner_that_goes_during_a_destroy_does_not_stop_it(world, alice):
    child = alice.start()["child"]
    step = alice.begin("destroy", child=child)
    assert isinstance(next(step), StopGuest)
    assert isinstance(step.throw(OwnerGone("alice")), StopGuest)
    assert isinstance(step.send(None), DestroyGuest)
    assert isinstance(step.throw(OwnerGone("alice")), DestroyGuest)
    with pytest.raises(StopIteration):
        step.send(None)
    assert world.service.records()["child"] == 0
