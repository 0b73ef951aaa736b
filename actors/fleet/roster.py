"""The directory, for those that hold nothing by it: agents say where they are, drivers look who is there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import trio

from actors.deployment.leases import entries_of, machines_of, open_leases
from actors.fleet.bus import AGAIN_S, ELECTION_S, Door, open_bus
from protocol.errors import NotDelivered
from protocol.fleet.entry import Entry

LENGTH_S = 15.0


async def announce(
    door: Door,
    name: str,
    endpoint: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Have `name` stand in the directory, reached at `endpoint`, until cancelled. Raises NoDirectory."""

    def tell(_name: str, entry: Entry) -> Entry:
        return replace(entry, kind="agent")

    async with open_leases(door, name, LENGTH_S) as leases:
        leases.tell, leases.endpoint = tell, endpoint
        await leases.announce(name, task_status.started)


async def listed(door: Door) -> dict[str, Entry]:
    """Everything that is in the directory, by name. Raises NoDirectory, NotDelivered."""
    async with open_bus(door) as bus:
        bucket = await bus.found(machines_of(door.cell))
        until = trio.current_time() + ELECTION_S
        while True:
            try:
                return await entries_of(bucket, Counter())
            except NotDelivered:
                if trio.current_time() > until:
                    raise
            await trio.sleep(AGAIN_S)
