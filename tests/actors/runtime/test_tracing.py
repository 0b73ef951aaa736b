"""Spans follow messages through queues, parked steps and other operations under way."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from actors.runtime.actor import Actor, Runtime, open_runtime
from actors.runtime.port import Deliver
from actors.runtime.serial import Serial
from actors.runtime.tracing import Tracer, tracing
from protocol.effects import Effect, Issue, Step, issue
from protocol.errors import NotDelivered
from protocol.ledger import Ledger
from protocol.trace.span import Span


class Slow:
    """A level below whose answers come when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Deliver] = []

    def perform(self, _effect: Effect, deliver: Deliver) -> None:
        self.waiting.append(deliver)


def traced(runtime: Runtime) -> tuple[Ledger, Tracer]:
    ledger = Ledger()
    return ledger, Tracer(runtime, ledger.divert, describe=str, clock=lambda: 0)


def shown(span: Span) -> Any:
    counts = {".".join(key): n for key, n in span.counts.items()}
    return (span.who, span.what, counts, [shown(child) for child in span.children])


async def test_each_count_belongs_to_whoever_handled_the_message() -> None:
    async with open_runtime(lambda: 0.0) as runtime:
        ledger, tracer = traced(runtime)
        te = Actor("te", lambda _: ledger.count(("pages", "import")), runtime)

        def host(message: object) -> Step[None]:
            ledger.count(("pages", "before"))
            yield from issue("uvc")
            yield from issue("uvc")
            ledger.count(("pages", "after"))

        l1 = Actor("l1", host, runtime, perform=te.submit)
        with tracer.operation("test", "load"):
            await l1.ask("load")
        uvc = str(Issue("uvc", ()))
        below = ("te", uvc, {"pages.import": 1}, [])
        assert [shown(root) for root in tracer.roots] == [
            ("test", "load", {}, [("l1", "load", {"pages.before": 1, "pages.after": 1}, [below, below])])
        ]
        assert ledger.flat()["pages"] == 4, "and all of it reaches the phase"


async def test_operations_under_way_at_once_do_not_mix() -> None:
    slow = Slow()
    async with open_runtime(lambda: 0.0) as runtime:
        ledger, tracer = traced(runtime)

        def host(message: object) -> Step[None]:
            for _ in range(2):
                yield from issue("uvc")
                ledger.count(("pages", str(message)))

        l1 = Actor("l1", host, runtime, perform=slow.perform)

        async def operation(name: str) -> None:
            with tracer.operation("test", name):
                await l1.ask(name)

        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(operation, name)
            while len(slow.waiting) < 2:
                await trio.lowlevel.checkpoint()
            while slow.waiting:  # the last first
                slow.waiting.pop()(None, None)
        found = {root.what: root.total() for root in tracer.roots}
        assert found == {name: {("pages", name): 2} for name in ("one", "two")}


async def test_what_waits_before_an_actor_keeps_its_operation() -> None:
    slow = Slow()
    async with open_runtime(lambda: 0.0) as runtime:
        ledger, tracer = traced(runtime)

        def host(message: object) -> Step[None]:
            ledger.count(("pages", str(message)))
            yield from issue("uvc")

        l1 = Actor("l1", host, runtime, perform=slow.perform)
        door = Serial(l1, follow=l1.follow)
        for name in ("one", "two"):
            with tracer.operation("test", name):
                door.submit(name, lambda _value, _error: None)
        assert len(slow.waiting) == 1, "the second waits at the door"
        slow.waiting.pop()(None, None)
        slow.waiting.pop()(None, None)
        found = {root.what: root.total() for root in tracer.roots}
        assert found == {name: {("pages", name): 1} for name in ("one", "two")}


async def test_what_waits_untraced_is_no_part_of_whoever_was_before_it() -> None:
    slow = Slow()
    async with open_runtime(lambda: 0.0) as runtime:
        ledger, tracer = traced(runtime)

        def host(message: object) -> Step[None]:
            ledger.count(("pages", str(message)))
            yield from issue("uvc")

        l1 = Actor("l1", host, runtime, perform=slow.perform)
        door = Serial(l1, follow=l1.follow)
        with tracer.operation("test", "one") as root:
            door.submit("one", lambda _value, _error: None)
        door.submit("two", lambda _value, _error: None)
        slow.waiting.pop()(None, None)
        slow.waiting.pop()(None, None)
        assert root.total() == {("pages", "one"): 1}
        assert ledger.flat() == {"pages": 2, "pages.one": 1, "pages.two": 1}


async def test_what_is_not_traced_is_counted_as_ever() -> None:
    async with open_runtime(lambda: 0.0) as runtime:
        ledger, tracer = traced(runtime)
        te = Actor("te", lambda _: ledger.count(("pages", "import")), runtime)
        await te.ask("uvc")
        assert (tracer.roots, runtime.tracer) == ([], None)
        assert ledger.flat()["pages"] == 1


async def test_what_a_task_counts_by_itself_is_its_operations() -> None:
    async with open_runtime(lambda: 0.0) as runtime:
        ledger, tracer = traced(runtime)
        with tracer.operation("host 0", "create") as root, tracing(tracer):
            ledger.count(("hosting", "start"))
        with tracing(tracer):
            ledger.count(("hosting", "stop"))
        assert root.total() == {("hosting", "start"): 1}
        assert ledger.flat()["hosting"] == 2


async def test_an_error_is_kept_with_its_span() -> None:
    async with open_runtime(lambda: 0.0) as runtime:
        _, tracer = traced(runtime)

        def refuse(_message: object) -> None:
            raise NotDelivered("no guest host of that name")

        kvm = Actor("l0.kvm", refuse, runtime)
        with pytest.raises(NotDelivered), tracer.operation("test", "load"):
            await kvm.ask("uvc")
        (root,) = tracer.roots
        assert root.children[0].error == root.error == "NotDelivered: no guest host of that name"


async def test_no_more_spans_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.runtime.tracing.SPANS", 3)
    async with open_runtime(lambda: 0.0) as runtime:
        ledger, tracer = traced(runtime)
        te = Actor("te", lambda _: ledger.count(("pages", "import")), runtime)
        with tracer.operation("test", "load"):
            for _ in range(5):
                await te.ask("uvc")
        (root,) = tracer.roots
        assert (len(root.children), tracer.dropped) == (2, 3)
        assert ledger.flat()["pages"] == 5, "what is not followed is counted all the same"
