"""A cluster that loses its leader, or all of itself: leases outlive it, and nobody is fenced wrongly.

JetStream takes 4 to 9 seconds to elect a leader anew, so leases here are as long as they are meant to be.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import trio

from actors.deployment.fence import Fence
from actors.deployment.leases import Claim, Leases, open_leases
from protocol.errors import NotDelivered, RemoteProtocolError
from protocol.fleet.entry import Entry, open_entry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
LEASE_S = 24.0
PATIENCE_S = 120


class Holder:
    """Somebody who holds a machine, as a node does: renewals open its fence for longer, a loss closes it."""

    def __init__(self, leases: Leases, claim: Claim) -> None:
        self.leases, self.claim = leases, claim
        self.renewals = 0
        self.lost: list[str] = []
        self.fence = Fence(lambda: self.lost.append("fenced"))
        self.fence.renew(claim.until)

    async def run(self) -> None:
        await self.leases.keep(self.claim, self._renewed, self.lost.append)

    def _renewed(self, until: float) -> None:
        self.renewals += 1
        assert self.fence.renew(until), "a lease that was renewed was over"

    async def renewed_since(self, renewals: int) -> None:
        """Wait for a renewal after so many."""
        while self.renewals <= renewals:
            assert not self.lost, self.lost
            await trio.sleep(0.05)

    async def hurried_until(self, done: Callable[[], object]) -> None:
        """Have it renew again and again, as it does when there is something to tell, until `done`."""
        while not done():
            self.leases.say_where("")
            await trio.sleep(0.05)


async def told(leases: Leases) -> dict[str, Entry]:
    """The directory, as soon as whoever asks has found a server that has it."""
    while True:
        try:
            return await leases.entries()
        except NotDelivered:
            await trio.sleep(0.05)


async def held(leases: Leases, machine: str) -> Holder:
    await leases.give_back(machine)
    return Holder(leases, await leases.claim(machine))


async def test_a_leader_is_killed_and_every_lease_lives_on(cluster: Any) -> None:
    """kill -9 of the leader of the bucket, while two hold and one waits for what they hold."""
    with trio.fail_after(PATIENCE_S):
        async with (
            open_leases(cluster.door("machine", "one", "a"), "a", LEASE_S) as first,
            open_leases(cluster.door("machine", "two", "b"), "b", LEASE_S) as second,
            open_leases(cluster.door("machine", "three", "c"), "c", LEASE_S) as third,
            trio.open_nursery() as nursery,
        ):
            holders = [await held(first, "kill-0"), await held(second, "kill-1")]
            epochs = [holder.claim.epoch for holder in holders]
            for holder in holders:
                nursery.start_soon(holder.run)
            won: list[Claim] = []

            async def challenge() -> None:
                won.append(await third.claim("kill-0"))

            nursery.start_soon(challenge)
            leader = await cluster.leader(first.bus)
            before = [holder.renewals for holder in holders]
            cluster.kill(leader)
            try:
                for holder, renewals in zip(holders, before, strict=True):
                    await holder.renewed_since(renewals + 1)
                assert await cluster.leader(first.bus) != leader
                assert [holder.claim.epoch for holder in holders] == epochs
                assert all(holder.fence.holds() for holder in holders)
                assert won == [], "whoever waits got nothing by it"
            finally:
                cluster.start(leader)
            await cluster.whole(first.bus)
            nursery.cancel_scope.cancel()


async def test_all_servers_are_killed_and_come_back_and_the_leases_are_as_they_were(cluster: Any) -> None:
    with trio.fail_after(PATIENCE_S):
        async with (
            open_leases(cluster.door("machine", "one", "a"), "a", LEASE_S) as first,
            open_leases(cluster.door("machine", "two", "b"), "b", LEASE_S) as second,
            trio.open_nursery() as nursery,
        ):
            holder = await held(first, "whole-0")
            epoch = holder.claim.epoch
            nursery.start_soon(holder.run)
            names = list(cluster.processes)
            for name in names:
                cluster.kill(name)
            renewals = holder.renewals
            for name in names:
                cluster.start(name)
            await holder.hurried_until(lambda: holder.lost or holder.renewals > renewals + 1)
            assert (holder.lost, holder.claim.epoch) == ([], epoch)
            entries = await told(second)
            assert (entries["whole-0"].holder, entries["whole-0"].epoch) == ("a", epoch)
            await cluster.whole(first.bus)
            nursery.cancel_scope.cancel()


async def test_a_directory_that_is_lost_is_filled_by_whoever_holds(cluster: Any) -> None:
    """Soft state: the value goes, as if the bucket had been lost; the holder writes it again, unfenced."""
    with trio.fail_after(PATIENCE_S):
        async with (
            open_leases(cluster.door("machine", "one", "a"), "a", LEASE_S) as leases,
            trio.open_nursery() as nursery,
        ):
            holder = await held(leases, "lost-0")
            epoch = holder.claim.epoch
            nursery.start_soon(holder.run)
            await leases.bus.ask(leases.bucket._store.purge, "lost-0")
            renewals = holder.renewals
            await holder.hurried_until(lambda: holder.lost or holder.renewals > renewals + 1)
            value = await leases.bucket.get("lost-0")
            assert open_entry(value.data).epoch == holder.claim.epoch == epoch
            assert holder.lost == []
            nursery.cancel_scope.cancel()


async def test_values_that_are_none_are_counted_and_cost_the_holder_its_machine_and_no_more(
    cluster: Any,
) -> None:
    """Whoever has a machine's certificate may write anything: it is ignored, and claimed over in its time."""
    with trio.fail_after(PATIENCE_S):
        async with (
            open_leases(cluster.door("machine", "one", "a"), "a", LEASE_S) as first,
            open_leases(cluster.door("machine", "two", "b"), "b", 2.0) as second,
        ):
            holder = await held(first, "odd-0")
            value = await second.bucket.get("odd-0")
            assert await second.bucket.put("odd-0", b"\xc1 nonsense", value.revision)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(holder.run)
                await holder.hurried_until(lambda: holder.lost)
            assert holder.lost == ["odd-0: another instance has it"]
            began = time.monotonic()
            claim = await second.claim("odd-0")
            assert claim.epoch > holder.claim.epoch, "the revision is higher than every epoch before"
            assert time.monotonic() - began >= 2.0, "not before a lease was over"
            assert second.garbled["malformed"] > 0
            assert "odd-0" in await told(second)
            with pytest.raises(RemoteProtocolError):
                open_entry(b"\xc1 nonsense")
