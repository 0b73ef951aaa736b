"""The other process of nestbed's own figures: a link that answers with what it is asked."""

from __future__ import annotations

import socket
from typing import Any

import trio

from actors.runtime.link import Link
from actors.runtime.port import Deliver


def preload(*_: str) -> None:
    """All that it needs is imported above."""


def forked(request: dict[str, Any], files: list[int]) -> int:
    trio.run(_serve, files[0])
    return 0


async def _serve(descriptor: int) -> None:
    def echo(_target: str, message: object, deliver: Deliver) -> None:
        deliver(message, None)

    stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
    await Link(stream, echo).run()
