"""Links to the parts of a deployment, with what is said over them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from actors.deployment import words
from actors.runtime.link import Link
from actors.runtime.transport.unix import connect


@asynccontextmanager
async def linked(path: Path) -> AsyncIterator[Link]:
    """A link to a part of this machine. Raises OSError."""
    async with linked_over(await connect(path)) as link:
        yield link


@asynccontextmanager
async def linked_over(stream: trio.abc.Stream) -> AsyncIterator[Link]:
    """A link to a part over a stream that is open already."""
    codec = words.codec()
    async with trio.open_nursery() as nursery:
        link = Link(stream, encode=codec.encode, decode=codec.decode)
        nursery.start_soon(link.run)
        yield link
        nursery.cancel_scope.cancel()
