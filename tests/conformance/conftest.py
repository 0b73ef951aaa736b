"""Fixtures of the conformance suite: a host at every depth, and the audit after every test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The helpers of this folder are plain modules beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from driver import Keyboard, in_process
from s390_field import Host

DEPTHS = (0, 1, 2)

Machine = Callable[..., Host]


@pytest.fixture(params=DEPTHS, ids=[f"depth{depth}" for depth in DEPTHS])
def depth(request: pytest.FixtureRequest) -> int:
    """How many hypervisors lie below the host at the keyboard."""
    chosen: int = request.param
    return chosen


@pytest.fixture
def s390(depth: int) -> Iterator[Machine]:
    """Make s390 hosts with options of the console; after the test no console may have leaked anything."""
    made: list[Keyboard] = []

    def make(**options: object) -> Host:
        made.append(Keyboard(in_process("s390", depth, **options), depth))  # type: ignore[arg-type]
        return Host(made[-1])

    yield make
    for keyboard in made:
        assert keyboard.ok("audit")["leaks"] == []


@pytest.fixture
def raw(s390: Machine) -> Host:
    """A host as it comes up: the Ultravisor is not initialised."""
    return s390()


@pytest.fixture
def host(raw: Host) -> Host:
    """A host whose Ultravisor is initialised."""
    raw.init()
    return raw
