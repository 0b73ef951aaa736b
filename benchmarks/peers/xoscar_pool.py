"""xoscar: actors in pools, each a process, on asyncio."""

from __future__ import annotations

import asyncio

import xoscar

from benchmarks.peers.measures import (
    ACTORS,
    CALLERS_64,
    FIRST_REMOTE,
    LOCAL,
    LOCAL_64,
    MEMORY,
    MESSAGE,
    REMOTE,
    REMOTE_64,
    START,
    Stretch,
    arate,
    resident,
    since_start,
    tell,
)


class Echo(xoscar.Actor):  # type: ignore[misc]
    def echo(self, message: object) -> object:
        return message


async def rates(ref: object) -> tuple[float, float, float]:
    async def one(n: int) -> None:
        for _ in range(n):
            await ref.echo(MESSAGE)  # type: ignore[attr-defined]

    async def many(n: int) -> None:
        for _ in range(-(-n // 64)):
            await asyncio.gather(*(ref.echo(MESSAGE) for _ in range(64)))  # type: ignore[attr-defined]

    async def tasks(n: int) -> None:
        await asyncio.gather(*(one(-(-n // 64)) for _ in range(64)))

    return await arate(one), await arate(many), await arate(tasks, 1024)


async def main() -> None:
    pool = await xoscar.create_actor_pool("127.0.0.1:0", n_process=1)
    try:
        config = await xoscar.get_pool_config(pool.external_address)
        here, there = (config.get_external_address(index) for index in config.get_process_indexes()[:2])
        near = await xoscar.create_actor(Echo, address=here, uid="near")
        far = await xoscar.create_actor(Echo, address=there, uid="far")
        await far.echo(MESSAGE)
        first = since_start()
        local, remote = await rates(near), await rates(far)
        before, stretch = resident(), Stretch()
        actors = [await xoscar.create_actor(Echo, address=here, uid=f"a{n}") for n in range(ACTORS // 5)]
        spent = stretch.spent
        tell(
            {
                FIRST_REMOTE: first,
                LOCAL: local[0],
                LOCAL_64: local[1],
                REMOTE: remote[0],
                REMOTE_64: remote[1],
                CALLERS_64: remote[2],
                START: len(actors) / spent,
                MEMORY: (resident() - before) / len(actors),
            }
        )
    finally:
        await pool.stop()


if __name__ == "__main__":
    asyncio.run(main())
