"""A machine of a fleet that is new: who says that nobody holds it hears whether the directory took that."""

from __future__ import annotations

from typing import Any

import pytest
from trio.testing import MockClock

from actors.deployment.leases import Leases
from actors.fleet.bus import ELECTION_S
from protocol.errors import NotDelivered
from protocol.fleet.directory import Value
from protocol.fleet.entry import Entry, open_entry, pack_entry
from protocol.fleet.lease import SILENT


class Bucket:
    """A directory that says nothing so many times, and takes nothing meanwhile."""

    def __init__(self, silent: float, value: bytes = b"") -> None:
        self.silent, self.value = silent, value

    async def put(self, _key: str, data: bytes, over: int) -> int:
        if self.silent > 0 or self.value:
            self.silent -= 1
            return 0
        assert over == 0
        self.value = data
        return 1

    async def get(self, _key: str) -> Value:
        if self.silent > 0:
            self.silent -= 1
            return Value(SILENT)
        return Value(1, self.value) if self.value else Value(0)


def leases(bucket: Any) -> Leases:
    no_bus: Any = None
    return Leases(no_bus, bucket, "init", 1.0)


async def test_a_directory_that_elects_a_leader_is_waited_for(autojump_clock: MockClock) -> None:
    bucket = Bucket(silent=3)
    assert await leases(bucket).give_back("l0-0")
    assert open_entry(bucket.value).holder == ""


async def test_what_stands_there_already_stays_as_it_is(autojump_clock: MockClock) -> None:
    held = pack_entry(Entry("somebody", 7))
    bucket = Bucket(silent=1, value=held)
    assert not await leases(bucket).give_back("l0-0")
    assert bucket.value == held


async def test_a_directory_that_says_nothing_is_no_directory_that_has_it(autojump_clock: MockClock) -> None:
    began = autojump_clock.current_time()
    with pytest.raises(NotDelivered, match="does not say what stands under l0-0"):
        await leases(Bucket(silent=float("inf"))).give_back("l0-0")
    assert autojump_clock.current_time() - began >= ELECTION_S
