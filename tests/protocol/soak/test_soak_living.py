"""What a host's software does in a soak, and what its guests must find: over a level that is played here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from protocol.effects import Step, run
from protocol.errors import OperationFailed
from protocol.plan import operations as op
from protocol.soak.living import GUESTS, IN_VAIN, KEPT, TAG, Life, Model
from protocol.soak.options import Tally, Violation

Wrong = Callable[[op.Operation], Any]


@dataclass
class Around:
    """The island on which a host lives."""

    starved: bool = False
    lacks: frozenset[str] = frozenset()
    tally: Tally = field(default_factory=Tally)


class Played:
    """Software whose guests remember what they store. What `wrong` returns comes in place of an answer."""

    def __init__(self, wrong: Wrong = lambda _: None, most: int = 0) -> None:
        self.wrong, self.most = wrong, most
        self.acts: list[op.Operation] = []
        self.pages: dict[tuple[int, int], bytes] = {}
        self.life: Any = None

    def perform(self, operation: op.Operation) -> Step[Any]:
        yield from ()
        self.acts.append(operation)
        self.life.stopping = 0 < self.most <= len(self.acts)
        wrong = self.wrong(operation)
        if isinstance(wrong, Exception):
            raise wrong
        match operation:
            case op.Write():
                self.pages[operation.guest, operation.page] = operation.data
            case op.Read():
                return wrong or self.pages[operation.guest, operation.page]
            case op.Reset():
                self.pages = {at: data for at, data in self.pages.items() if at[0] != operation.guest}
        return None

    def kinds(self) -> set[type]:
        return {type(act) for act in self.acts}


def life(played: Played, around: Around | None = None, hostile: bool = False) -> Life:
    island: Any = around or Around()
    played.life = Life("h", played, Random(7), island, hostile)
    return played.life


def refuse(*kinds: type) -> Wrong:
    """A level that refuses these operations."""
    return lambda act: OperationFailed("no", 1) if isinstance(act, kinds) else None


def knowing(one: Life, played: Played) -> None:
    """It has a guest, 0, that stored into every page that the model looks at."""
    data = TAG + bytes(16)
    one.guests[0] = Model(0, {KEPT + page: data for page in range(0, 128, 16)})
    played.pages = {(0, page): data for page in one.guests[0].holds}


def test_every_load_finds_the_last_store_in_a_life_that_does_everything() -> None:
    played = Played(most=3_000)
    one = life(played)
    assert run(one.live()) == "lived"
    assert one.island.tally.checks["history"] > 100
    assert played.kinds() >= {
        op.BootHost, op.Create, op.Load, op.Start, op.Touch, op.Share, op.Change, op.Exits, op.Swap,
        op.Attest, op.Dump, op.Reset, op.Read, op.Write, op.Kill, op.Destroy, op.Shutdown,
    }  # fmt: skip
    assert not one.guests, "all of them end before it does"


def test_what_an_architecture_lacks_is_not_done() -> None:
    played = Played(most=3_000)
    run(life(played, Around(lacks=frozenset({"swap", "attest", "dump", "reset"}))).live())
    assert not played.kinds() & {op.Swap, op.Attest, op.Dump, op.Reset}
    assert op.Touch in played.kinds()


def test_there_are_never_more_guests_than_a_host_may_have() -> None:
    there: set[int] = set()
    most = 0
    played = Played(most=2_000)
    run(life(played).live())
    for act in played.acts:
        match act:
            case op.Start():
                there.add(act.guest)
            case op.Kill() | op.Destroy():
                there.discard(act.guest)
        most = max(most, len(there))
    assert most == GUESTS


def test_a_host_that_is_refused_its_boot_does_nothing() -> None:
    played = Played(refuse(op.BootHost))
    assert run(life(played, Around(starved=True)).live()) == "refused"
    assert played.kinds() == {op.BootHost}


def test_a_guest_that_cannot_be_loaded_is_killed() -> None:
    played = Played(refuse(op.Load), most=100)
    one = life(played, Around(starved=True))
    assert run(one.live()) == "lived"
    made = [act.guest for act in played.acts if isinstance(act, op.Create)]
    assert [act.guest for act in played.acts if isinstance(act, op.Kill)] == made
    assert one.island.tally.done["load_refused"] == len(made) > 10
    assert not one.guests


def test_a_host_that_gets_nowhere_is_worn_out() -> None:
    def wrong(act: op.Operation) -> Exception | None:
        return None if isinstance(act, op.BootHost) else OperationFailed("no", 1)

    played = Played(wrong)
    one = life(played, Around(starved=True))
    assert run(one.live()) == "worn out"
    assert IN_VAIN < one.in_vain <= IN_VAIN + 2


def test_a_host_that_did_nothing_wrong_may_not_be_refused() -> None:
    with pytest.raises(Violation, match="service: h was refused Create"):
        run(life(Played(refuse(op.Create))).live())


def test_what_a_failed_guest_is_refused_is_no_violation() -> None:
    """Only the kill of a guest that could not be made is refused here, and the host goes on."""
    around = Around()

    def wrong(act: op.Operation) -> Exception | None:
        around.starved = isinstance(act, op.Load)  # nobody else may be refused
        return OperationFailed("no", 1) if isinstance(act, op.Load | op.Kill) else None

    assert run(life(Played(wrong, most=100), around).live()) == "lived"
    assert around.tally.done["kill_refused"] == around.tally.done["load_refused"] > 10


@pytest.mark.parametrize("kind", [op.Read, op.Write])
def test_of_a_guest_that_could_not_store_or_load_nothing_is_known_and_it_is_killed(kind: type) -> None:
    played = Played(refuse(kind), most=200)
    one = life(played, Around(starved=True))
    knowing(one, played)
    run(one.live())
    place = next(place for place, act in enumerate(played.acts) if isinstance(act, kind))
    assert played.acts[place + 1] == op.Kill(0)
    assert 0 not in one.guests


def test_a_load_that_finds_something_else_is_a_violation() -> None:
    played = Played(lambda act: b"else" if isinstance(act, op.Read) else None, most=200)
    one = life(played)
    knowing(one, played)
    with pytest.raises(Violation, match=f"history: .* holds {b'else'.hex()}, stored was {TAG.hex()}"):
        run(one.live())


def test_what_guests_of_a_hostile_host_find_is_nobodys_promise() -> None:
    played = Played(lambda act: b"else" if isinstance(act, op.Read) else None, most=200)
    one = life(played, hostile=True)
    knowing(one, played)
    assert run(one.live()) == "lived"
    assert one.island.tally.checks["history"]


def test_software_that_is_asked_what_makes_no_sense_is_a_mistake_of_the_soak() -> None:
    def wrong(act: op.Operation) -> Exception | None:
        return ValueError("there is no such page") if isinstance(act, op.Touch) else None

    with pytest.raises(ValueError, match="no such page"):
        run(life(Played(wrong, most=500)).live())
    hostile = life(Played(wrong, most=500), hostile=True)
    assert run(hostile.live()) == "lived"
    assert not hostile.island.tally.done["touch_done"]
