"""The network between hosts of a soak, and the directory of a fleet: each bad habit by itself."""

from __future__ import annotations

from random import Random

import pytest

from protocol.fleet.directory import MACHINES, PLACEMENTS, Get, Put, Value
from protocol.soak import KINDS
from protocol.soak.keyvalue import KEPT_MS, KeyValue
from protocol.soak.network import LATE_MS, Network, Way
from protocol.soak.options import Tally


def network(*allowed: str) -> Network:
    return Network(Random(1), Tally(), frozenset(allowed))


def arrived(net: Network, now_ms: int) -> list[object]:
    """All that may arrive by then, taken in its order."""
    bodies = []
    while due := net.due(now_ms):
        bodies.append(net.take(due[0]).body)
    return bodies


@pytest.mark.parametrize("kind", ["loss", "delay", "duplicate"])
def test_a_way_has_a_bad_habit_only_where_that_is_allowed(kind: str) -> None:
    good, bad = network().way("a", "b"), network(kind).way("a", "b")
    assert (good.loss, good.delay, good.duplicate) == (0, 0, 0)
    assert {name for name in ("loss", "delay", "duplicate") if getattr(bad, name)} == {kind}


def test_each_ordered_pair_of_hosts_is_a_way_of_its_own() -> None:
    net = network(*KINDS)
    assert net.way("a", "b") is net.way("a", "b") is not net.way("b", "a")


@pytest.mark.parametrize(
    ("way", "bodies", "kind"),
    [
        (Way(1, 0, 0), [], "loss"),
        (Way(0, 0, 1), ["hello", "hello"], "duplicate"),
        (Way(0, 0, 0), ["hello"], ""),
    ],
    ids=["loss", "duplicate", "none"],
)
def test_a_message_is_lost_or_comes_twice(way: Way, bodies: list[str], kind: str) -> None:
    net = network()
    net.ways["a", "b"] = way
    net.send("a", "b", "hello", 5)
    assert arrived(net, 5) == bodies
    assert dict(+net.tally.faults) == ({kind: 1} if kind else {})


def test_a_message_that_is_delayed_comes_late_and_not_too_late() -> None:
    net = network()
    net.ways["a", "b"] = Way(0, 1, 0)
    net.send("a", "b", "hello", 5)
    assert not net.due(5)
    assert arrived(net, 5 + LATE_MS) == ["hello"]
    assert net.tally.faults["delay"] == 1


def test_a_way_that_is_closed_loses_and_one_that_stalls_keeps() -> None:
    net = network()
    net.ways["a", "b"] = Way(0, 0, 0, closed_until=100)
    net.ways["b", "a"] = Way(0, 0, 0, stalled_until=100)
    for now in (99, 100):
        net.send("a", "b", f"there at {now}", now)
        net.send("b", "a", f"back at {now}", now)
    assert net.tally.done["lost_in_a_partition"] == 1
    assert not net.due(99)
    assert arrived(net, 100) == ["back at 99", "there at 100", "back at 100"]


def test_where_nothing_overtakes_the_first_of_each_way_is_due() -> None:
    for allowed, places in (((), [0, 2]), (("reorder",), [0, 1, 2])):
        net = network(*allowed)
        for source, body in (("a", 1), ("a", 2), ("c", 3)):
            net.send(source, "b", body, 0)
        assert net.due(0) == places


def test_a_message_that_overtakes_is_counted() -> None:
    net = network("reorder")
    for body in (1, 2):
        net.send("a", "b", body, 0)
    assert net.take(1).body == 2
    assert net.tally.faults["reorder"] == 1
    assert net.take(0).body == 1
    assert net.tally.faults["reorder"] == 1, "nothing is before it any more"


def test_a_network_that_is_healed_keeps_all_its_promises_at_once() -> None:
    net = network(*KINDS)
    net.ways["a", "b"] = Way(1, 1, 1, closed_until=100, stalled_until=1_000)
    net.ways["b", "a"] = Way(0, 0, 0, stalled_until=1_000)
    net.send("b", "a", "held", 0)
    net.heal()
    net.send("a", "b", "new", 0)
    assert arrived(net, 0) == ["held", "new"]


# -- the directory -------------------------------------------


def test_what_is_written_is_seen_once_it_is_on_the_disk() -> None:
    body = KeyValue()
    assert body.put(Put(MACHINES, "m", b"one", 0), 0) == 1
    assert body.get(Get(MACHINES, "m"), 0) == Value(0)
    body.commit()
    assert body.get(Get(MACHINES, "m"), 0) == Value(1, b"one")
    assert body.keys(MACHINES, 0) == ["m"]
    assert body.keys(PLACEMENTS, 0) == []


def test_a_write_over_what_its_writer_has_not_seen_is_refused() -> None:
    body = KeyValue()
    assert body.put(Put(MACHINES, "m", b"one", 3), 0) == 0
    assert body.put(Put(MACHINES, "m", b"one", 0), 0) == 1
    assert body.put(Put(MACHINES, "m", b"two", 0), 0) == 0
    assert body.put(Put(MACHINES, "m", b"two", 1), 0) == 2


def test_a_restart_loses_what_was_not_on_the_disk_with_its_revisions() -> None:
    body = KeyValue()
    body.put(Put(MACHINES, "m", b"one", 0), 0)
    body.commit()
    body.put(Put(MACHINES, "m", b"two", 1), 0)
    body.restart()
    assert body.get(Get(MACHINES, "m"), 0) == Value(1, b"one")
    assert body.put(Put(MACHINES, "m", b"other", 1), 0) == 2


def test_a_number_is_forgotten_in_time_and_a_machine_never() -> None:
    body, kept = KeyValue(), int(KEPT_MS[PLACEMENTS])
    body.put(Put(PLACEMENTS, "n", b"there", 0), 0)
    body.put(Put(MACHINES, "m", b"there", 0), 0)
    body.commit()
    assert body.keys(PLACEMENTS, kept - 1) == ["n"]
    assert body.keys(PLACEMENTS, kept) == []
    assert body.get(Get(MACHINES, "m"), 1_000 * kept).revision == 1
    assert body.put(Put(PLACEMENTS, "n", b"again", 0), kept) == 2, "as if it had never been there"
