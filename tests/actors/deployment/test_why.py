"""What a live process says of itself: parked handlers, who waits for whom, held locks, calls on links."""

from __future__ import annotations

from typing import Any

import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from actors.deployment.waits import Picture, tree
from actors.deployment.why import as_text, pictures
from actors.deployment.words import codec
from actors.runtime.actor import Actor, Perform, Runtime, open_runtime
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
        (parked,) = picture["parked"]
        assert (parked["for"], parked["waits_for"], parked["serves"]) == ("l1.0", "call below", None)
        text = as_text({"l0-0": [picture], "load": []})
        assert text.splitlines() == [
            "l0-0:",
            "  l0.kvm (kvm): 0 queued",
            "    for l1.0: waits for call below",
            "load: at rest",
            "who waits for whom:",
            "  l0-0: l0.kvm for l1.0 waits for call below",
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
    assert as_text({"l0-0": [picture]}) == "l0-0:\n  lock config 0x7 held by l1.0\n"


def test_an_architecture_whose_calls_lock_nothing_says_so_with_its_reason() -> None:
    (picture,) = pictures([], [], {}, {"pef": "nobody is refused"})
    assert as_text({"l0-0": [picture]}) == "l0-0: at rest\n  no locks on pef: nobody is refused\n"


def parks(runtime: Runtime, name: str, perform: Perform) -> Actor:
    return Actor(name, handler, runtime, perform=perform)


def around(deliver: Deliver) -> Deliver:
    """As whatever lies between an effect and a link may do it."""

    def answered(value: object, error: BaseException | None) -> None:
        deliver(value, error)

    return answered


async def test_three_processes_make_one_tree() -> None:
    """The load asks a host, the host L0, and L0 the Trusted Entity, which does not answer."""
    load_end, host_end = memory_stream_pair()
    l1_end, l0_end = memory_stream_pair()
    held: list[Deliver] = []
    async with trio.open_nursery() as nursery, open_runtime() as runtime:
        te = parks(runtime, "te", lambda _effect, deliver: held.append(deliver))
        kvm = parks(runtime, "l0.kvm", lambda _effect, deliver: te.submit("uvc", deliver, "kvm"))
        up = Link(l1_end)
        host = parks(runtime, "host.0", lambda _effect, deliver: up.submit("kvm", 1, around(deliver)))
        down = Link(l0_end, lambda _target, message, deliver: kvm.submit(message, deliver, "l1.0"))
        control = Link(host_end, lambda _target, message, deliver: host.submit(message, deliver))
        asks = Link(load_end)
        for link in (up, down, control, asks):
            nursery.start_soon(link.run)
        nursery.start_soon(asks.ask, "host.0", "create")
        await wait_all_tasks_blocked()
        told: Any = {
            "l0-0": pictures([("kvm", kvm), ("te", te)], [], {"l1-0": down}),
            "l0-0.l1-0": pictures([("host", host)], [], {"l0-0": up, "control 1": control}),
            "load": pictures([], [], {"l0-0.l1-0 by l0-0.l1-0": asks}),
        }
        told = codec().decode(codec().encode(told))  # as it comes from the parts
        assert tree(told) == [
            "load: call 1 to host.0 of l0-0.l1-0",
            "  l0-0.l1-0: host.0 waits for call below",
            "    l0-0.l1-0: call 1 to kvm of l0-0",
            "      l0-0: l0.kvm for l1.0 waits for call below",
            "        l0-0: te for kvm waits for call below",
        ]
        # One process by itself says as much as it knows.
        assert tree({"l0-0.l1-0": told["l0-0.l1-0"]}) == [
            "l0-0.l1-0: host.0 waits for call below",
            "  l0-0.l1-0: call 1 to kvm of l0-0",
        ]
        held[0](None, None)
        await wait_all_tasks_blocked()
        assert tree({"l0-0": pictures([("kvm", kvm), ("te", te)], [], {"l1-0": down})}) == []
        nursery.cancel_scope.cancel()


def test_equal_numbers_of_two_hosts_are_told_apart_by_their_links() -> None:
    def asks(number: int) -> list[Picture]:
        calls = [{"call": number, "target": "kvm", "step": None, "trace": ""}]
        return [{"link": "l0-0", "calls": calls, "serves": []}]

    def serves(link: str) -> Picture:
        return {"link": link, "calls": [], "serves": [{"call": 7, "target": "kvm"}]}

    def parked(step: int, link: str) -> Picture:
        return {"step": step, "for": link, "waits_for": "call below", "serves": [link, 7]}

    kvm = {"actor": "l0.kvm", "parked": [parked(1, "l1-0"), parked(2, "l1-1")]}
    told = {"l0-0": [kvm, serves("l1-0"), serves("l1-1")], "l0-0.l1-0": asks(7), "l0-0.l1-1": asks(7)}
    assert tree(told) == [
        "l0-0.l1-0: call 7 to kvm of l0-0",
        "  l0-0: l0.kvm for l1-0 waits for call below",
        "l0-0.l1-1: call 7 to kvm of l0-0",
        "  l0-0: l0.kvm for l1-1 waits for call below",
    ]
