"""A thousand guest hosts that end in the middle of something: killed, rebooted, crashed, at any message.

Two hosts live side by side on levels that live apart; every message between levels is held and released in
seeded order. At a random message one of them ends in a random way. Its sibling must notice nothing, the one
that comes back must live a whole life again, and at the end the books of every level and the machine's table
agree and are empty. A failure names its seed.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from random import Random

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "protocol" / "arch" / "s390"))

from levels_apart import Apart

pytestmark = pytest.mark.slow

RUNS, GROUPS = 1000, 20
ENDS = ("kill", "load-normal", "load-clear", "modified-clear")


@pytest.mark.parametrize("group", range(GROUPS))
def test_whoever_ends_at_any_moment_leaves_nothing(group: int) -> None:
    for seed in range(group, RUNS, GROUPS):
        one_run(seed)
        gc.collect()  # one machine at a time


def one_run(seed: int) -> None:
    random = Random(seed)
    depth = 2 if seed % 4 == 0 else 1
    strategy = {
        "teardown": random.choice(("sync", "async")),
        "handles": random.choice(("passed", "mapped")),
        "donation": random.choice(("full", "full", "bounded", "off")),
    }
    profile = "partial" if seed % 3 == 0 else "small"
    apart = Apart(depth, 2, random, strategy=strategy, profile=profile)
    for _ in range(random.randrange(1, 1200)):
        if not apart.crossing.threads:
            break
        if random.random() < 0.01:
            apart.swap(random.randrange(2), seed)
        apart.crossing.hop()
    for _ in range(random.randrange(1, 3)):
        end(apart, random)
    apart.crossing.run()
    assert apart.threads[0].value in ("lived", None), f"seed {seed}"
    assert apart.threads[1].value == "lived", f"seed {seed}: the sibling noticed"
    assert apart.leaks() == [], f"seed {seed}"
    finish_leftovers(apart)
    assert not any(apart.rig.remains().values()), f"seed {seed}: {apart.rig.remains()}"
    assert apart.leaks() == [], f"seed {seed}"


def end(apart: Apart, random: Random) -> None:
    """Host 0 ends; after a reboot it lives once more."""
    if apart.threads[0].done and apart.rig.seats[0].level.dead:
        return
    how = random.choice(ENDS)
    if how == "kill":
        apart.kill(0)
        return
    apart.reset(0, how)


def finish_leftovers(apart: Apart) -> None:
    """What an asynchronous teardown left over goes when there is time."""
    for seat in range(2):
        if not apart.rig.seats[seat].level.dead:
            apart.crossing.finish(
                [apart.crossing.start("sweep", apart.rig.sweep(seat, 1 << 20), apart.rig.below(seat)[1:])]
            )
