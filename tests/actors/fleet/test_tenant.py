"""What a tenant does until a machine listens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from actors.fleet.bus import NobodyListens
from actors.fleet.serve import MACHINES
from actors.fleet.tenant import LISTEN_S, Tenant
from protocol.errors import NotDelivered, OutcomeUnknown
from protocol.fleet.subjects import ANY, Cell


class Bus:
    """A connection on which questions fail as `fails` says, and then are given up."""

    def __init__(self, *fails: Exception) -> None:
        self.door, self.cell = SimpleNamespace(who="blue"), Cell("lab")
        self.asked = list[float]()
        self._fails = fails

    async def request(self, subject: str, data: bytes, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        raise self._fails[min(len(self.asked), len(self._fails)) - 1]


def tenant(bus: Any) -> Tenant:
    return Tenant(bus)


NOBODY, LOST = NobodyListens("nobody is there"), OutcomeUnknown("no answer")
REFUSED = NotDelivered("the server does not let us")


async def test_any_machine_may_still_be_coming_up(autojump_clock: MockClock) -> None:
    bus = Bus(NOBODY, NOBODY, LOST)
    with pytest.raises(OutcomeUnknown):
        await tenant(bus)._asked(ANY, MACHINES, {})
    assert len(bus.asked) == 3


async def test_but_not_for_ever(autojump_clock: MockClock) -> None:
    bus = Bus(NOBODY)
    with pytest.raises(NobodyListens):
        await tenant(bus)._asked(ANY, MACHINES, {})
    assert LISTEN_S <= bus.asked[-1] - bus.asked[0] < 2 * LISTEN_S


@pytest.mark.parametrize(("machine", "error"), [("l0-0", NOBODY), (ANY, REFUSED), (ANY, LOST)])
async def test_whatever_else_fails_is_told_at_once(
    machine: str, error: Exception, autojump_clock: MockClock
) -> None:
    bus = Bus(error)
    with pytest.raises(type(error)):
        await tenant(bus)._asked(machine, MACHINES, {})
    assert len(bus.asked) == 1
