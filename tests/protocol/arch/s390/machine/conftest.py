"""A machine, and a guest on it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The bench is a plain module one folder up.
sys.path.insert(0, str(Path(__file__).parents[1]))

from guest_bench import Bench, Guest


@pytest.fixture
def bench() -> Bench:
    """The L0 host of one machine."""
    return Bench()


@pytest.fixture
def guest(bench: Bench) -> Guest:
    """A started guest of 2 MiB that its owner allows to be dumped."""
    return bench.boot()
