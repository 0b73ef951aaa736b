"""Asks go down only: guest, host, hypervisor, Trusted Entity. What comes up is an answer or a notice."""

from __future__ import annotations

import re
from typing import Any

import pytest

from actors.compare.progress import Progress
from actors.compare.run import run
from actors.runtime.actor import Actor
from protocol.plan.scenario import ExitKind, Exits, GuestHosts, Guests, Run, Scenario

RANKS = (
    (re.compile(r"te"), lambda _: 0),
    (re.compile(r"l(\d)\.kvm"), lambda level: level + 1),
    (re.compile(r"l0"), lambda _: 1),  # L0's own software
    (re.compile(r"l(\d)\.\d+"), lambda level: level + 1),
    (re.compile(r"l(\d)(?:\.\d+)?\.guest\d+"), lambda level: level + 2),
    (re.compile(r"broker"), lambda _: 9),
)


def rank(name: str) -> int:
    """How high an actor stands; who asks stands higher than who is asked."""
    for pattern, of in RANKS:
        if found := pattern.fullmatch(name):
            return of(int(found[1]) if found.groups() else 0)
    raise AssertionError(f"an actor of an unknown kind: {name}")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """Every (asker, asked) among actors while the test runs."""
    pairs: set[tuple[str, str]] = set()
    at_work: list[str] = []
    made, submit = Actor.__init__, Actor.submit

    def noting_who_asks(self: Actor, name: str, *rest: Any, perform: Any = None, **more: Any) -> None:
        def noted(effect: Any, deliver: Any) -> Any:
            at_work.append(name)
            try:
                return perform(effect, deliver)
            finally:
                at_work.pop()

        made(self, name, *rest, **(more if perform is None else {"perform": noted, **more}))

    def noting_who_is_asked(self: Actor, message: object, deliver: Any, owner: Any = None) -> None:
        if at_work and at_work[-1] != self.name:
            pairs.add((at_work[-1], self.name))
        submit(self, message, deliver, owner)

    monkeypatch.setattr(Actor, "__init__", noting_who_asks)
    monkeypatch.setattr(Actor, "submit", noting_who_is_asked)
    return pairs


@pytest.mark.parametrize("depth", [1, 2])
def test_no_ask_ever_goes_up(asked: set[tuple[str, str]], depth: int) -> None:
    exits = Exits(ExitKind(1, "kernel"), ExitKind(1, "vmm"), ExitKind(1, "vmm"), ExitKind(1, "kernel"))
    scenario = Scenario(
        paths=("direct", "nested", "hosted", "mixed"),
        depth=depth,
        l1=GuestHosts(count=2, memory_mib=2060, cpus=2),
        guest=Guests(per_l1=2, memory_mib=1, vcpus=1, image_pages=2, touch_pages=2, share_pages=1),
        run=Run(exits=exits, swap_pages=1, page_changes=2, resets=1, reboots=1, deaths=1),
    )
    run(scenario, Progress())
    assert {pair for pair in asked if rank(pair[0]) <= rank(pair[1])} == set()
    assert ("l0.kvm", "te") in asked
    assert (f"l{depth}.0", f"l{depth - 1}.kvm") in asked
    assert any(asker.endswith("guest0") for asker, _ in asked)
    assert ("broker", "l0") in asked
