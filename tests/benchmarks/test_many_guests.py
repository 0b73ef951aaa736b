"""Guests at rest in many processes: `./x endurance` has 10,000 in twelve within 2 GiB, a test a handful."""

from __future__ import annotations

import os

import pytest
import trio

from benchmarks.many_guests import ROOM, held

HOSTS, GUESTS = (int(number) for number in os.environ.get("NESTBED_GUESTS", "2x6").split("x"))


@pytest.mark.slow
def test_guests_at_rest_fit_and_all_of_them_go() -> None:
    found = trio.run(held, HOSTS, GUESTS)
    assert (found.processes, found.guests) == (HOSTS + 1, GUESTS)
    assert found.memory < ROOM
    assert not any(found.left.values())
