"""Who has which machine, where several instances might: leases in a key-value bucket of NATS JetStream.

The bucket is soft state. What stands in it can be lost and is claimed anew; no state of a guest or of a
Trusted Entity is kept there. One key for each machine: its holder's name. An **epoch** is the revision under
which the machine was claimed, so a later holder has a higher one.

Nobody's clock is compared with another's. A holder counts its lease from the moment at which it *sent* its
last renewal that was accepted. A challenger takes a machine over only when it has seen the same revision for
a whole lease and a margin: by then the holder's lease is over by the holder's own clock, which looks at it
before every message that it serves (`Fence`). A renewal that finds another revision has lost its machine.

Needs the extra `nats`: nats-py speaks asyncio and runs under trio-asyncio.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from actors.runtime.supervisor import unwrap

BUCKET = "nestbed-machines"
RENEWALS = 4  # of a lease, while it lasts
MARGIN = 1.25  # a challenger waits so many leases
ANSWER_S = 2.0  # of the server; the lease goes on meanwhile
AGAIN_S = 0.2


class NoDirectory(Exception):
    """The extra is not installed, or the server cannot be reached. The message says which."""


@dataclass(slots=True)
class Claim:
    """One machine that is held here. `until`: the end of the lease, on this machine's monotonic clock."""

    machine: str
    epoch: int
    revision: int
    until: float


class Leases:
    """The bucket, as one instance has it. Made by `open_leases`."""

    def __init__(self, bucket: Any, holder: str, length_s: float, ask: Callable[..., Any]) -> None:
        self._bucket = bucket
        self._holder = holder.encode()
        self._length_s = length_s
        self._ask = ask
        self.failures = 0  # renewals that got no answer

    async def claim(self, machine: str) -> Claim:
        """Wait until the machine is ours: free, or silent for a whole lease."""
        seen, since = -1, time.monotonic()
        while True:
            sent = time.monotonic()
            revision = await self._revision(machine)
            if revision != seen:
                seen, since = revision, sent
            if revision == 0 or time.monotonic() - since >= self._length_s * MARGIN:
                sent = time.monotonic()
                won = await self._put(machine, revision)
                if won:
                    return Claim(machine, won, won, sent + self._length_s)
            await trio.sleep(min(AGAIN_S, self._length_s / RENEWALS))

    async def keep(self, claim: Claim, renewed: Callable[[float], None], lost: Callable[[str], None]) -> None:
        """Renew until the machine is lost: another has it, or the lease is over without an answer."""
        while True:
            await trio.sleep(self._length_s / RENEWALS)
            sent = time.monotonic()
            if sent > claim.until:
                lost(f"{claim.machine}: no renewal was accepted for a whole lease")
                return
            won = await self._put(claim.machine, claim.revision)
            if won:
                claim.revision, claim.until = won, sent + self._length_s
                renewed(claim.until)
            elif await self._taken(claim):
                lost(f"{claim.machine}: another instance has it")
                return

    async def release(self, claim: Claim) -> None:
        """Give the machine back at once: nobody has to wait for the lease."""
        with trio.move_on_after(ANSWER_S, shield=True):
            await self._attempt(self._bucket.purge, claim.machine)

    async def _taken(self, claim: Claim) -> bool:
        """Whether a renewal was refused because somebody else wrote, and not because nobody answered."""
        revision = await self._revision(claim.machine)
        if revision > claim.revision:
            holder = await self._attempt(self._bucket.get, claim.machine)
            if holder is not None and holder.value == self._holder:
                claim.revision = revision  # our own, whose answer was lost
                return False
            return True
        return False

    async def _revision(self, machine: str) -> int:
        """The revision under which the machine is held; 0: it is free; -1: nobody answers."""
        try:
            with trio.fail_after(ANSWER_S):
                entry = await self._ask(self._bucket.get, machine)
        except Exception as error:
            return 0 if "NotFound" in type(error).__name__ or "KeyDeleted" in type(error).__name__ else -1
        found: int = entry.revision
        return found

    async def _put(self, machine: str, last: int) -> int:
        """Write our name over revision `last`; the new revision, or 0 if it was not accepted."""
        if last == 0:
            won = await self._attempt(self._bucket.create, machine, self._holder)
        else:
            won = await self._attempt(self._bucket.update, machine, self._holder, last)
        return won or 0

    async def _attempt(self, call: Callable[..., Any], *arguments: object) -> Any:
        """What the server answers; None if it refuses, or does not answer."""
        try:
            with trio.fail_after(ANSWER_S):
                return await self._ask(call, *arguments)
        except Exception:
            self.failures += 1
            return None


@asynccontextmanager
async def open_leases(servers: list[str], holder: str, length_s: float) -> AsyncIterator[Leases]:
    """The bucket on these servers; it is made if it is not there. Raises NoDirectory."""
    try:
        import nats
        import trio_asyncio
        from nats.js.api import KeyValueConfig
    except ImportError:
        raise NoDirectory("nats-py and trio-asyncio are not installed: pip install 'nestbed[nats]'") from None

    async def ask(call: Callable[..., Any], *arguments: object) -> Any:
        return await trio_asyncio.aio_as_trio(call)(*arguments)

    try:
        async with trio_asyncio.open_loop():
            client, bucket = await _connected(nats.connect, KeyValueConfig, servers, ask)
            try:
                yield Leases(bucket, holder, length_s, ask)
            finally:
                with trio.move_on_after(ANSWER_S, shield=True):
                    await ask(client.close)
    except BaseExceptionGroup as group:
        fault = unwrap(group)
        if not isinstance(fault, NoDirectory):
            raise
        raise fault from fault.__cause__


async def _connected(
    connect: Any, config: Any, servers: list[str], ask: Callable[..., Any]
) -> tuple[Any, Any]:
    """The client and the bucket."""
    options = {"max_reconnect_attempts": -1, "reconnect_time_wait": AGAIN_S, "connect_timeout": ANSWER_S}
    try:
        with trio.fail_after(5 * ANSWER_S):
            client = await ask(partial(connect, servers, allow_reconnect=True, error_cb=_silent, **options))
            made = config(bucket=BUCKET, history=1, replicas=min(3, max(1, len(servers))))
            return client, await ask(client.jetstream().create_key_value, made)
    except Exception as error:
        raise NoDirectory(f"{', '.join(servers)}: {type(error).__name__}: {error}") from error


async def _silent(_error: Exception) -> None:
    """The client tries again by itself; what matters is whether a renewal is accepted."""
