"""What a live process says of itself: parked handlers, who waits for whom, held locks, calls on links."""

from __future__ import annotations

import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from actors.deployment.why import as_text, pictures
from actors.runtime.actor import Actor, open_runtime
from actors.runtime.link import Link
from actors.runtime.port import Deliver
from protocol.effects import Effect, Step, issue
from protocol.nesting.locks import Locks


def handler(message: object) -> Step[object]:
    return (yield from issue("call", message))


async def test_a_parked_handler_names_whom_it_waits_for_and_on_whose_behalf() -> None:
    held: list[Deliver] = []

    def below(_effect: Effect, deliver: Deliver) -> None:
        held.append(deliver)

    async with trio.open_nursery() as nursery, open_runtime() as runtime:
        kvm = Actor("l0.kvm", handler, runtime, perform=below)
        idle = Actor("te", lambda message: message, runtime)
        nursery.start_soon(kvm.ask, "uvc", "l1.0")
        await wait_all_tasks_blocked()
        (picture,) = pictures([("kvm", kvm), ("te", idle)], [], {})
        assert picture["parked"] == [{"for": "l1.0", "waits_for": "call below"}]
        text = as_text({"l0-0": [picture], "load": []})
        assert text.splitlines() == [
            "l0-0:",
            "  l0.kvm (kvm): 0 queued",
            "    for l1.0: waits for call below",
            "load: at rest",
        ]
        held[0](None, None)
        await wait_all_tasks_blocked()
        assert pictures([("kvm", kvm)], [], {}) == []


async def test_calls_that_nobody_answers_are_seen_on_both_ends_of_a_link() -> None:
    one, other = memory_stream_pair()
    asks, serves = Link(one), Link(other, lambda _target, _message, _deliver: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asks.run)
        nursery.start_soon(serves.run)
        nursery.start_soon(asks.ask, "kvm", 1)
        await wait_all_tasks_blocked()
        found = pictures([], [], {"l0-0": asks, "l1-0": serves})
        assert [(each["link"], each["outstanding"], each["serving"]) for each in found] == [
            ("l0-0", 1, 0),
            ("l1-0", 0, 1),
        ]
        nursery.cancel_scope.cancel()


def test_a_lock_is_named_with_its_holder() -> None:
    locks = Locks()
    locks.take(("config", 7))
    (picture,) = pictures([], [("l1.0", entity) for entity in locks.held()], {})
    assert as_text({"l0-0": [picture]}) == "l0-0:\n  lock ('config', 7) held by l1.0\n"
