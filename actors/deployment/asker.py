"""Who asks a hosting broker over its socket: docs/wire.md from the client's side, for the load."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from actors.runtime.mailbox import Reply
from actors.runtime.transport.unix import connect
from protocol.errors import OperationFailed, OutcomeUnknown, RemoteProtocolError
from protocol.hosting.limits import CHUNK_BYTES, FRAME_BYTES
from protocol.wire import FrameDecoder, pack_frame

RECEIVE_BYTES = 1 << 16
ANSWER_S = 60.0

Body = dict[str, Any]


class Refused(OperationFailed):
    """The broker answered an error; nothing was done, or it was undone. `name` is the error's."""

    def __init__(self, kind: str, body: Body) -> None:
        super().__init__(f"{kind}: {body.get('name', '')} {body.get('message', '')}".strip())
        self.name = str(body.get("name", ""))


class Asker:
    """One connection of one requester."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._asked: dict[bytes, Reply] = {}
        self._sent = 0
        self._over = False
        self.epoch = 0

    async def ask(self, kind: str, key: bytes | None = None, **body: Any) -> Body:
        """Send one request and return the body of its answer.

        Raises Refused, and OutcomeUnknown if the connection ends first.
        """
        self._sent += 1
        rid = self._sent.to_bytes(16, "big")
        frame = {"v": 1, "t": kind, "rid": rid, "epoch": self.epoch, "dl": None, "key": key, "b": body}
        reply = self._asked[rid] = Reply()
        try:
            if self._over:
                raise OutcomeUnknown("the connection ended")
            await self._stream.send_all(pack_frame(frame, FRAME_BYTES))
            with trio.fail_after(ANSWER_S):
                answer: Body = await reply.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise OutcomeUnknown(f"{kind}: {type(error).__name__}") from error
        finally:
            self._asked.pop(rid, None)
        if answer["t"] == "err":
            raise Refused(kind, answer["b"])
        given: Body = answer["b"]
        return given

    async def hello(self) -> None:
        self.epoch = (await self.ask("hello", versions=[1]))["epoch"]

    async def bring(self, image: bytes) -> bytes:
        """Bring an image, and return its digest."""
        digest = hashlib.sha256(image).digest()
        for offset in range(0, len(image), CHUNK_BYTES):
            piece = image[offset : offset + CHUNK_BYTES]
            await self.ask("image.put", digest=digest, size=len(image), offset=offset, data=piece)
        return digest

    async def read(self) -> None:
        """Take answers until the connection ends; whoever still waits is told."""
        decoder = FrameDecoder(FRAME_BYTES)
        try:
            while data := await self._stream.receive_some(RECEIVE_BYTES):
                for frame in decoder.feed(data):
                    reply = self._asked.get(frame["rid"]) if isinstance(frame, dict) else None
                    if reply is not None and not reply.done:
                        reply.deliver(frame, None)
        except (RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._over = True
            for reply in list(self._asked.values()):
                if not reply.done:
                    reply.deliver(None, OutcomeUnknown("the connection ended"))


@asynccontextmanager
async def asking(path: Path) -> AsyncIterator[Asker]:
    """A connection to the broker that listens on `path`, with this boot introduced. Raises OSError."""
    async with asking_over(await connect(path)) as asker:
        yield asker


@asynccontextmanager
async def asking_over(stream: trio.abc.Stream) -> AsyncIterator[Asker]:
    """The same over a stream that is open already; it is closed behind it."""
    async with stream, trio.open_nursery() as nursery:
        asker = Asker(stream)
        nursery.start_soon(asker.read)
        await asker.hello()
        yield asker
        nursery.cancel_scope.cancel()
