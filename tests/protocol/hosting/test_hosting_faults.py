"""The faults that the hosting interface has to bear, each by its name: those that need no process."""

from __future__ import annotations

import hashlib
import tomllib

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.hosting.machine import (
    Await,
    CreateGuest,
    DestroyGuest,
    Emergency,
    ImageChanged,
    LoadGuest,
    NoImage,
    StartGuest,
    TimedOut,
)
from protocol.hosting.messages import MESSAGES
from protocol.hosting.policy import policy_from
from protocol.hosting.signature import said

KEY = b"\0\0\0\1" + b"k" * 12


def answers(steps):
    """Let each step stand at the machine in turn, until all have ended."""
    waiting = {number: (step, None) for number, step in enumerate(steps)}
    replies = {}
    while waiting:
        for number, (step, answer) in list(waiting.items()):
            try:
                effect = step.send(answer)
                waiting[number] = (step, effect.until_ms if isinstance(effect, Await) else None)
            except StopIteration as stop:
                replies[number] = stop.value
                del waiting[number]
    return [replies[number] for number in sorted(replies)]


def test_a_retry_storm_with_a_key_makes_one_child(world, alice, spec):
    replies = answers([alice.begin("start", KEY, spec=spec()) for _ in range(50)])
    assert len({reply["b"]["child"] for reply in replies}) == 1
    assert [reply["b"]["replayed"] for reply in replies] == [False] + [True] * 49
    assert world.service.records()["child"] == 1


def test_a_retry_storm_without_a_key_is_bounded_by_the_quota(small_world, join, spec):
    world = small_world(children=3)
    client = join(world, 3)
    replies = answers([client.begin("start", spec=spec()) for _ in range(50)])
    names = [reply["b"].get("name") for reply in replies]
    assert names.count(None) == 3
    assert names.count("QUOTA") == 47, "which is not to be tried again"
    assert world.service.records()["child"] == 3


def test_a_retry_storm_is_slowed_down_where_the_host_says_so(small_world, join, spec):
    world = small_world(limits={"starts_per_s": 2})
    client = join(world, 3)
    names = [client.send(client.frame("start", spec=spec()))["b"].get("name") for _ in range(4)]
    assert names == [None, None, "RATE_LIMITED", "RATE_LIMITED"]
    assert client.refused("start", spec=spec())["retry_after_ms"] == 500


def test_a_quota_race_lets_in_as_many_as_fit(small_world, join, spec):
    """The share is taken before anything waits, so two starts never get the last place both."""
    world = small_world(vcpus=3)
    client = join(world, 3)
    replies = answers([client.begin("start", spec=spec(vcpus=2)) for _ in range(5)])
    assert [reply["t"] for reply in replies].count("ok") == 1
    assert client.ask("quota.get")["vcpus"]["charged"] == 2


def test_a_guest_that_ends_in_the_moment_it_is_ready_is_not_taken_for_running(world, alice, spec):
    step = alice.begin("start", spec=spec())
    effect = next(step)
    while not isinstance(effect, StartGuest):
        effect = step.send(world.machine.perform(effect))
    world.service.guest_ended(effect.child, 3, world.now_ms)
    with pytest.raises(StopIteration) as over:
        step.send(world.machine.perform(effect))
    assert over.value.value["b"]["state"] == "STOPPED"
    told = alice.ask("describe", child=effect.child)
    assert (told["state"], told["reason"], told["exit"]) == ("STOPPED", "exit", 3)


def test_a_lost_event_is_found_by_looking(world, alice):
    """The machine's notice never comes: the guest ended, or is gone, and nobody said so."""
    ended = alice.start()["child"]
    gone = alice.start()["child"]
    world.machine.guests[ended] = "ended"
    del world.machine.guests[gone], world.machine.cids[gone]
    assert alice.ask("describe", child=ended)["state"] == "READY"
    assert world.drive(world.service.look(world.now_ms)) == 2
    assert alice.ask("describe", child=ended)["state"] == "STOPPED"
    assert alice.ask("describe", child=gone)["state"] == "LOST"
    assert world.drive(world.service.look(world.now_ms)) == 0


def test_looking_does_not_disturb_a_step_under_way(world, alice, spec):
    step = alice.begin("start", spec=spec())
    next(step)
    assert world.drive(world.service.look(world.now_ms)) == 0
    assert answers([_continued(step)])[0]["b"]["state"] == "READY"


def test_looking_leaves_alone_what_somebody_works_on_by_then(world, alice):
    stopped, destroyed = alice.start()["child"], alice.start()["child"]
    look = world.service.look(world.now_ms)
    next(look)  # what there is was asked for, and is not answered yet
    step = alice.begin("stop", child=stopped)
    next(step)
    alice.ask("destroy", child=destroyed)
    with pytest.raises(StopIteration) as found:
        look.send({})
    assert found.value.value == 0
    assert answers([_continued(step)])[0]["b"]["state"] == "STOPPED"


def _continued(step):
    answer = None
    while True:
        try:
            answer = yield step.send(answer)
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize(
    ("effect", "failure", "name"),
    [
        (LoadGuest, ImageChanged(), "IMAGE_INVALID"),
        (CreateGuest, NoImage("no kernel in it"), "IMAGE_INVALID"),
        (StartGuest, TimedOut(5), "BOOT_TIMEOUT"),
        (StartGuest, Emergency(), "BOOT_DIED"),
    ],
    ids=[
        "the image changes between digest and load",
        "no image for a machine",
        "late ready",
        "ready in emergency mode",
    ],
)
def test_each_has_its_own_error_and_leaves_nothing(world, alice, spec, effect, failure, name):
    world.machine.fail[effect] = [failure]
    error = alice.refused("start", spec=spec())
    assert error["name"] == name
    assert world.machine.guests == {}
    assert alice.ask("quota.get")["children"]["charged"] == 0


def test_a_bad_image_that_is_started_again_and_again_leaves_nothing_behind(world, alice, spec, no):
    for n in range(1, 21):
        world.machine.fail[LoadGuest] = [no]
        assert alice.refused("start", KEY[:4] + n.to_bytes(12, "big"), spec=spec())["name"] == "TE_ERROR"
    assert world.machine.guests == {}
    assert world.service.records()["child"] == 0
    assert alice.ask("quota.get")["idempotency_keys"]["charged"] == 0


def test_a_child_that_is_released_is_a_record_and_nothing_else(world, alice):
    child = alice.start()["child"]
    alice.ask("destroy", child=child)
    assert alice.ask("list")["children"] == []
    for kind, more in (("stop", {}), ("reset", {}), ("console.read", {})):
        assert alice.refused(kind, child=child, **more)["name"] == "BAD_STATE"
    assert alice.ask("describe", child=child)["state"] == "RELEASED"


def test_the_time_of_each_stage_is_told(world, alice):
    child = alice.start()["child"]
    timings = alice.ask("wait", child=child, until="READY")["timings"]
    assert list(timings) == ["RESERVED", "LOADING", "STARTING", "READY"]


def test_guesses_at_tokens_are_counted(world, alice):
    before = world.service.statistics().lookups.get("denied", 0)
    for n in range(3):
        assert world.service.redeem(alice.who, bytes([n]) * 16) is None
    assert world.service.statistics().lookups["denied"] == before + 3


def test_a_destroy_that_fails_for_ever_stays_charged_and_audit_says_what_is_there(world, alice, no):
    child = alice.start()["child"]
    world.machine.fail[DestroyGuest] = [no] * 100
    world.gone(alice.who)
    for _ in range(20):
        world.pass_time(30_000)
    assert world.service._registry.host.charged["children"] == 1
    assert world.machine.guests == {child: "stopped"}
    assert world.drive(world.service.audit()) == [], "the guest is there, and so is its record"


# Signed images: the true cause, before anything is reserved


@pytest.fixture
def signing():
    key = ec.derive_private_key(11, ec.SECP384R1())
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, public


@pytest.mark.parametrize(
    ("wrong", "cause"),
    [
        ("", ""),
        ("unsigned", "wants a signed image"),
        ("stranger", "does not name"),
        ("other image", "does not verify"),
        ("not a key", "does not name"),
        ("expired", "expired 1 s ago"),
    ],
)
def test_a_signature_is_looked_at_before_anything_is_reserved(small_world, join, spec, signing, wrong, cause):
    key, public = signing
    digest = hashlib.sha256(public).hexdigest()
    text = f'[[rule]]\nallow = true\ncall = "*"\nsource = [3]\nsigner = ["{digest}"]\n'
    world = small_world(service={"policy": policy_from(tomllib.loads(text), MESSAGES)})
    client = join(world, 3)
    not_after = world.now_ms - 1_000 if wrong == "expired" else world.now_ms + 1
    image = bytes(32) if wrong == "other image" else spec()["image"]
    signer = ec.derive_private_key(12, ec.SECP384R1()) if wrong == "stranger" else key
    if wrong == "stranger":
        public = signer.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    made = spec(
        signature=signer.sign(said(image, not_after), ec.ECDSA(hashes.SHA384())),
        signer=b"no key" if wrong == "not a key" else public,
        not_after=not_after,
    )
    if wrong == "unsigned":
        made = spec()
    if not wrong:
        assert client.ask("start", spec=made)["state"] == "READY"
        return
    error = client.refused("start", spec=made)
    assert (error["name"], error["stage"]) == ("SIGNATURE", "image")
    assert cause in error["cause"][0]
    assert world.machine.asked == []
    assert world.service.records()["child"] == 0


def test_a_start_that_fails_tells_what_a_debug_child_said_last(world, alice, spec):
    """Found by walking: a kernel's panic was told as a time-out, and its console was gone with it."""

    def perform(effect, performed=world.machine.perform):
        if not isinstance(effect, StartGuest):
            return performed(effect)
        world.service.console_wrote(
            effect.child, b"booting\nline 2\n\n\x1b[31mno init\x1b[0m found\r\npanic: \xff\n"
        )
        return TimedOut(5)

    world.machine.perform = perform
    alice.put()
    said = alice.refused("start", spec=spec(debug=True))
    assert said["cause"] == ["console: line 2", "console: [31mno init [0m found", "console: panic: \ufffd"]
    assert alice.refused("start", spec=spec())["cause"] == [], "a production child has no console"
