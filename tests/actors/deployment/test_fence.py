"""Leases as their holders keep them: past the end nothing is served, whatever comes later."""

from __future__ import annotations

import pytest

from actors.deployment.fence import Fence
from actors.runtime.port import Deliver
from protocol.errors import NotDelivered


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def asked(fence: Fence) -> object:
    """What a message gets that is served behind `fence`."""
    got: list[object] = []

    def serve(_target: str, message: object, deliver: Deliver) -> None:
        deliver(message, None)

    fence.before(serve)("te", "call", lambda value, error: got.append(error or value))
    return got[0]


def test_while_it_holds_messages_are_served(clock: Clock) -> None:
    fence = Fence(lambda: None, clock)
    assert fence.renew(105.0)
    clock.now = 104.9
    assert asked(fence) == "call"


def test_past_its_end_the_first_message_already_finds_it_closed(clock: Clock) -> None:
    ends: list[str] = []
    fence = Fence(lambda: ends.append("fenced"), clock)
    fence.renew(105.0)
    clock.now = 105.1
    assert isinstance(asked(fence), NotDelivered)
    assert isinstance(asked(fence), NotDelivered)
    assert (ends, fence.refused) == (["fenced"], 2)


def test_a_renewal_that_comes_too_late_does_not_open_it_again(clock: Clock) -> None:
    fence = Fence(lambda: None, clock)
    fence.renew(105.0)
    clock.now = 106.0
    assert not fence.renew(200.0)
    assert isinstance(asked(fence), NotDelivered)


def test_a_renewal_that_waited_in_a_socket_brings_the_end_that_it_was_sent_with(clock: Clock) -> None:
    """SIGSTOP: the last renewal is read on waking, and its end is a time that is over."""
    fence = Fence(lambda: None, clock)
    fence.renew(105.0)
    fence.renew(107.0)
    clock.now = 120.0
    assert not fence.holds()
