"""The same nested life whether every message is answered at once or held: equal counts, nothing left.

A simulated link holds each message and lets them go in seeded order, so that every `yield` of every
emulation really parks while others go on.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from levels_apart import Apart

from protocol.crossing import inline

SEEDS = 200


class InTurn(Random):
    """Always the first thread: each host's life to its end, one after the other."""

    def randrange(self, *_: object) -> int:  # type: ignore[override]
        return 0


def alone(depth: int, hosts: int = 2) -> Apart:
    made = Apart(depth, hosts, InTurn())
    made.crossing.run()
    return made


@pytest.mark.parametrize("depth", [1, 2])
def test_counts_are_those_of_an_inline_run(depth: int) -> None:
    """Nobody beside it, no link: what a step costs does not depend on how it is driven."""
    apart = alone(depth, hosts=1)
    assert apart.threads[0].value == "lived"
    again = Apart(depth, 1, Random(0))
    thread = again.threads[0]
    again.crossing.threads.clear()
    assert inline(thread.stack[0], thread.below) == "lived"
    assert again.ledger.flat() == apart.ledger.flat()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_200_orders_of_messages_give_the_same_counts(depth: int) -> None:
    expected = alone(depth).ledger.flat()
    for seed in range(SEEDS):
        apart = Apart(depth, 2, Random(seed))
        apart.crossing.run()
        assert [thread.value for thread in apart.threads] == ["lived", "lived"], f"seed {seed}"
        assert apart.ledger.flat() == expected, f"seed {seed}"
        assert apart.leaks() == [], f"seed {seed}"


def now_and_then(random: Random) -> bool:
    return random.random() < 0.005


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_frames_may_be_swapped_below_at_any_time(depth: int) -> None:
    """Invisible: the hosts' lives end as if nothing had happened."""
    for seed in range(SEEDS):
        random = Random(seed)
        apart = Apart(depth, 2, random)
        while not all(thread.done for thread in apart.threads):
            apart.crossing.run(partial(now_and_then, random))
            apart.swap(random.randrange(2), seed)
        apart.crossing.run()
        assert [thread.error for thread in apart.threads] == [None, None], f"seed {seed}"
        assert apart.leaks() == [], f"seed {seed}"


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_a_host_may_die_in_the_middle_of_any_call(depth: int) -> None:
    """Its sibling lives on; of the dead one nothing is left."""
    expected = alone(depth).threads[1].value
    for seed in range(SEEDS):
        random = Random(seed)
        apart = Apart(depth, 2, random)
        for _ in range(random.randrange(1, 1500)):
            if apart.crossing.threads:
                apart.crossing.hop()
        apart.kill(0)
        apart.crossing.run()
        assert apart.threads[1].value == expected, f"seed {seed}"
        assert apart.leaks() == [], f"seed {seed}"
        machine = apart.rig.machines[0]
        assert machine.configs == {}, f"seed {seed}"
        assert machine.secure_cpus == {}, f"seed {seed}"
