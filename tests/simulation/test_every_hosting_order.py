"""Lease, epoch and adoption, with a journal and a service that dies: every order of a short story.

The service itself is explored, not a model of it (`hosting_explorer`). What has to hold in each state: a key
has one child, and a guest is made once; a boot that is over is refused and acts no more. In each end: no
guest without a record, an adopted child has its new owner and nobody else, and when leases and graces are
over nothing is left.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hosting_explorer import ADOPT, HELLO, LEASE_MS, START, Story, World, explore
from stories import AGAIN, HOSTING, SHORT

from protocol.hosting import Gathering, Service
from protocol.hosting.in_steps import InSteps
from protocol.hosting.records import Requester
from protocol.hosting.registry import Registry

Patch = pytest.MonkeyPatch


def test_undisturbed_a_child_is_started_and_adopted() -> None:
    world = World(SHORT)
    for number in range(3):
        world.do(("send", number))
        while str(number) in world.running:
            world.do(("go", str(number)))
    assert [world.replies[number]["t"] for number in range(3)] == ["ok"] * 3
    assert world.replies[2]["b"]["adopted"] == [world.first]
    world.check_end()


@pytest.mark.parametrize(
    "story",
    [replace(SHORT, crashes=0), Story((START, AGAIN, HELLO), ())],
    ids=["adopted", "the same start twice, and a death"],
)
def test_a_short_story_in_every_order(story: Story) -> None:
    states, ends = explore(story)
    assert states > 500
    assert ends > 10


@pytest.mark.slow
@pytest.mark.parametrize("story", HOSTING.values(), ids=HOSTING)
def test_a_longer_story_in_every_order(story: Story) -> None:
    states, _ = explore(story)
    assert states > 1_000


# -- each mistake is found -------------------------------------------------------------------------


def an_old_boot_is_taken_for_the_present_one(patch: Patch) -> None:
    admit = Registry.admit

    def admitted(self: Registry, who: Any) -> Requester:
        known = self.requesters.get(who.cid)
        return known if known is not None and known.alive else admit(self, who)

    patch.setattr(Registry, "admit", admitted)


def a_key_is_forgotten(patch: Patch) -> None:
    patch.setattr(InSteps, "_replayed", lambda *_: None)


def what_is_written_waits_for_nobody(patch: Patch) -> None:
    patch.setattr(Gathering, "take", lambda _self: [])


def a_lease_never_ends(patch: Patch) -> None:
    def nothing(*_: Any) -> Any:
        yield from ()

    patch.setattr(Service, "tick", nothing)


@pytest.mark.parametrize(
    "mutation",
    [
        an_old_boot_is_taken_for_the_present_one,
        a_key_is_forgotten,
        what_is_written_waits_for_nobody,
        a_lease_never_ends,
    ],
    ids=lambda mutation: mutation.__name__,
)
def test_a_mistake_is_found(mutation: Callable[[Patch], None], monkeypatch: Patch) -> None:
    mutation(monkeypatch)
    with pytest.raises(AssertionError, match="after"):
        explore(Story((START, AGAIN, HELLO, ADOPT), (LEASE_MS,)))
