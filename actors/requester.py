"""A guest host on the hosted path: what it wants of its guests it asks of L0, message by message.

Each message is an exit of the guest host (its VSOCK device rings L0) and its answer an interrupt that L0
injects; both are counted, at every level that the message crosses. Which exits a real VSOCK takes depends
on its implementation: one kick and one interrupt for each direction is the least (inferred).
"""

from __future__ import annotations

import hashlib
from typing import Any

from actors.broker import Broker, Request
from actors.runtime.mailbox import Reply
from actors.runtime.port import Deliver
from actors.runtime.tracing import tracing
from protocol.errors import OperationFailed
from protocol.hosting import Identity
from protocol.hosting.idempotency import Key
from protocol.hosting.limits import CHUNK_BYTES
from protocol.ledger import Ledger

Body = dict[str, Any]


class HostingRefused(OperationFailed):
    """L0 answered an error."""

    def __init__(self, kind: str, body: Body) -> None:
        super().__init__(f"{kind}: {body.get('name', '')} {body.get('message', '')}".strip())
        self.body = body


def opened(kind: str, reply: Body) -> Body:
    """The body of a reply frame. Raises HostingRefused if it is an error."""
    if reply["t"] == "err":
        raise HostingRefused(kind, reply["b"])
    body: Body = reply["b"]
    return body


class Requester:
    """One boot of a guest host as L0's broker knows it. `level` is the guest host's own.

    Its requests are `relayed`, as over VSOCK, which ends at the host one level down: each level answers the
    exit of the one above and asks the one below in turn. Or they are flat: L0 takes them itself, whoever
    lies between, which asks for a device of L0's handed through every level.
    """

    def __init__(
        self, who: Identity, broker: Broker, ledger: Ledger, level: int, relayed: bool = True
    ) -> None:
        self.who = who
        self.children: dict[int, bytes] = {}  # guest -> child
        self._broker = broker
        self._ledger = ledger
        self._level = level
        self._hops = level if relayed else 1
        self._sent = 0
        self._keys = 0

    async def ask(self, kind: str, key: bytes | None = None, **body: Any) -> Body:
        """Send one request and return the body of its answer. Raises HostingRefused."""
        reply = Reply()
        self.send(kind, reply.deliver, key, **body)
        return opened(kind, await reply.wait())

    def send(self, kind: str, deliver: Deliver, key: bytes | None = None, **body: Any) -> None:
        """Send one request; its reply frame is delivered."""
        self._sent += 1
        frame = {
            "v": 1,
            "t": kind,
            "rid": self._sent.to_bytes(16, "big"),
            "epoch": self.who.epoch,
            "dl": None,
            "key": key,
            "b": body,
        }
        with tracing(self._broker.runtime.tracer):
            self._count(kind)
        self._broker.actor.submit(Request(self.who, frame), deliver)

    def _count(self, kind: str) -> None:
        self._ledger.count(("hosting", kind), self._hops)
        self._ledger.count(("injections", "vsock"), self._hops)
        if self._hops == 1:
            self._ledger.exit(self._level, "vsock")
            return
        for level in range(self._level, 0, -1):
            self._ledger.trap(level, "vsock")
            self._ledger.reenter(level - 1)

    # -- the life of guests

    async def begin(self, image: bytes) -> None:
        """Introduce this boot, and bring the image."""
        await self.ask("hello", versions=[1])
        digest = hashlib.sha256(image).digest()
        for offset in range(0, len(image), CHUNK_BYTES):
            piece = image[offset : offset + CHUNK_BYTES]
            with tracing(self._broker.runtime.tracer):
                self._ledger.count(("copied_bytes", "hosting_image"), self._hops * len(piece))
            await self.ask("image.put", digest=digest, size=len(image), offset=offset, data=piece)

    def start(self, guest: int, image: bytes, vcpus: int, memory_mib: int, deliver: Deliver) -> None:
        """Have L0 make and run a secure guest. Answered (None) once it runs."""
        self._keys += 1
        spec = {
            "image": hashlib.sha256(image).digest(),
            "vcpus": vcpus,
            "memory_mib": memory_mib,
            "labels": {"guest": str(guest)},
        }

        def started(value: Any, error: BaseException | None) -> None:
            if error is None:
                try:
                    self.children[guest] = opened("start", value)["child"]
                except HostingRefused as refused:
                    error = refused
            deliver(None, error)

        self.send("start", started, Key(self.who.epoch, self._keys).packed(), spec=spec)

    async def reset(self, guest: int) -> None:
        await self.ask("reset", child=self.children[guest])

    async def dump(self, guest: int) -> bytes:
        """Have L0 dump a guest, and fetch the dump piece by piece: it travels, as the image did."""
        data, size = b"", 1
        while len(data) < size:
            piece = await self.ask("dump", child=self.children[guest], offset=len(data), count=CHUNK_BYTES)
            if not piece["data"]:
                raise HostingRefused("dump", {"message": f"it ends after {len(data)} of {size} bytes"})
            self._ledger.count(("copied_bytes", "hosting_dump"), self._hops * len(piece["data"]))
            data, size = data + piece["data"], piece["size"]
        return data

    async def end(self, guest: int) -> None:
        """Stop a guest and give everything of it back."""
        child = self.children.pop(guest)
        await self.ask("stop", child=child, how="kill")
        await self.ask("destroy", child=child)
        await self.ask("ack_exit", child=child)

    async def renew(self) -> None:
        """Keep the guests: a lease is renewed by saying so only."""
        await self.ask("lease.renew")
