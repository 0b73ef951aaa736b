"""Levels that live apart, with every message held until its turn comes."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from protocol.crossing import Crossing, inline
from protocol.effects import Idle, Issue, Park, Step, issue
from protocol.errors import LocalProtocolError, OwnerGone


class Adder:
    """The lowest level: adds."""

    def __init__(self) -> None:
        self.log: list[object] = []

    def serve(self, effect: Issue) -> Step[int]:
        self.log.append(effect.arguments)
        return sum(effect.arguments)
        yield


class Doubler:
    """A level between: asks twice, and undoes the first if its owner is gone before the second."""

    def __init__(self) -> None:
        self.open: set[object] = set()

    def serve(self, effect: Issue) -> Step[int]:
        who = effect.arguments[0]
        self.open.add(who)
        one = yield from issue("add", *effect.arguments)
        try:
            two = yield from issue("add", *effect.arguments)
        except OwnerGone:
            yield from issue("add", -one)
            raise
        finally:
            self.open.discard(who)
        total: int = one + two
        return total


def host(*numbers: int) -> Step[list[int]]:
    found = []
    for number in numbers:
        found.append((yield from issue("double", number, 1)))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_every_thread_gets_its_own_answers_whatever_the_order(seed: int) -> None:
    adder, doubler = Adder(), Doubler()
    crossing = Crossing(Random(seed))
    threads = [crossing.start(str(n), host(n, 10 * n), (doubler.serve, adder.serve)) for n in range(1, 6)]
    crossing.run()
    assert [thread.value for thread in threads] == [[2 * n + 2, 20 * n + 2] for n in range(1, 6)]
    assert len(adder.log) == 20
    assert not doubler.open


def test_the_order_depends_on_the_seed_and_on_nothing_else() -> None:
    def order(seed: int) -> list[object]:
        adder, doubler = Adder(), Doubler()
        crossing = Crossing(Random(seed))
        for n in range(1, 6):
            crossing.start(str(n), host(n), (doubler.serve, adder.serve))
        crossing.run()
        return adder.log

    assert order(3) == order(3)
    assert len({str(order(seed)) for seed in range(10)}) > 5


def test_a_dead_hosts_request_gets_its_answer_and_then_the_news() -> None:
    adder, doubler = Adder(), Doubler()
    crossing = Crossing(Random(0))
    thread = crossing.start("dead", host(7), (doubler.serve, adder.serve))
    crossing.hop()  # the host asks
    crossing.hop()  # the level between asks
    crossing.kill([thread], 1)
    assert not thread.done
    crossing.finish([thread])
    assert adder.log == [(7, 1), (-8,)]
    assert isinstance(thread.error, OwnerGone)
    assert not doubler.open


def test_a_host_that_dies_with_nothing_under_way_is_gone_at_once() -> None:
    crossing = Crossing(Random(0))
    thread = crossing.start("dead", host(7), (Doubler().serve, Adder().serve))
    crossing.kill([thread], 1)
    assert thread.done
    assert crossing.threads == []


def test_a_request_that_ends_with_its_outstanding_answer_hears_nothing() -> None:
    adder = Adder()
    crossing = Crossing(Random(0))

    def one(effect: Issue) -> Step[Any]:
        return (yield from issue("add", *effect.arguments))

    thread = crossing.start("dead", host(7), (one, adder.serve))
    crossing.hop()
    crossing.hop()
    crossing.kill([thread], 1)
    crossing.finish([thread])
    assert adder.log == [(7, 1)]


def test_inline_is_the_same_without_company() -> None:
    assert inline(host(1, 2), (Doubler().serve, Adder().serve)) == [4, 6]


def test_an_effect_that_nobody_serves_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        inline(host(1), ())


def test_who_stands_still_lets_the_others_go_and_goes_on_by_itself() -> None:
    order: list[str] = []

    def waits() -> Step[str]:
        order.append("stands")
        assert (yield Park()) is False
        assert (yield Idle()) is False
        order.append("goes on")
        return "done"

    assert inline(waits(), ()) == "done"
    assert order == ["stands", "goes on"]


def test_one_step_alone_ends_with_what_it_raises() -> None:
    def refused() -> Step[None]:
        raise OwnerGone("nobody is there")
        yield

    with pytest.raises(OwnerGone, match="nobody is there"):
        inline(refused(), ())


def test_messages_without_an_end_are_a_mistake_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def turns() -> Step[None]:
        while True:
            yield from issue("add", 1)

    monkeypatch.setattr("protocol.crossing.HOPS", 50)
    crossing = Crossing(Random(0))
    crossing.start("round", turns(), (Adder().serve,))
    with pytest.raises(LocalProtocolError, match="50 messages and no end"):
        crossing.run()


def test_the_death_of_a_host_whose_work_is_done_changes_nothing_of_it() -> None:
    adder, doubler = Adder(), Doubler()
    crossing = Crossing(Random(0))
    done = crossing.start("done", host(1), (doubler.serve, adder.serve))
    crossing.run()
    other = crossing.start("other", host(2), (doubler.serve, adder.serve))
    crossing.kill([done], 1)
    assert (done.value, done.error) == ([4], None)
    crossing.run()
    assert other.value == [6]
