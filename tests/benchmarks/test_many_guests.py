"""Guests at rest in many processes: `./x endurance` has 10,000 in twelve within 2 GiB, a test a handful."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.many_guests import ROOM

HOSTS, GUESTS = (int(number) for number in os.environ.get("NESTBED_GUESTS", "2x6").split("x"))


PROGRAM = f"""
import dataclasses, json, trio
from benchmarks.many_guests import held
print(json.dumps(dataclasses.asdict(trio.run(held, {HOSTS}, {GUESTS}))))
"""


@pytest.mark.slow
def test_guests_at_rest_fit_and_all_of_them_go(alone: Callable[[str], Any]) -> None:
    """Their supervisor counts, too: it is a process of its own, and not the one that ran all tests before."""
    found = json.loads(alone(PROGRAM).text)
    assert (found["processes"], found["guests"]) == (HOSTS + 1, GUESTS)
    assert found["memory"] < ROOM
    assert not any(found["left"].values())
