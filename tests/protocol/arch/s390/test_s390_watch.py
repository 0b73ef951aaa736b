"""Who refused, where a level hands on what the level below it said."""

from __future__ import annotations

import sys
from pathlib import Path

# The bench is a plain module beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from guest_bench import SEED, Bench, Guest

from protocol.arch.s390.compose import compose
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.watch import S390Watch


def test_a_handle_that_the_machine_alone_does_not_know_is_refused_by_the_machine() -> None:
    """The front of its calls said so, before any call was performed there."""
    rig = compose(PROFILES["small"], 1, seed=SEED)
    level, (machine,) = rig.seats[0].level, rig.machines
    watch = S390Watch()
    for each in (level, machine):
        watch.attach(each)
    guest = Guest.create(Bench(level, SEED), 1, 0)
    assert watch.last(level) is None
    machine.configs.clear()
    assert guest.bench.call(0x40, 0x0302, q18=guest.handle).rc == 0x0020
    found = watch.last(level)
    assert found is not None
    assert (found.level, found.call, found.code, found.text) == (
        "L0 machine",
        "verify",
        0x20,
        "configuration handle",
    )
