"""A tenant of a fleet: starts guests on any machine with room, and asks the one that has them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from actors.fleet.bus import Bus, Door, NobodyListens, open_bus
from actors.fleet.serve import HOSTING, MACHINES
from protocol.errors import NotDelivered, OperationFailed, OutcomeUnknown
from protocol.fleet.placing import KEY_BYTES, Answer, Ask, Bring, List, open_answer, placed
from protocol.fleet.subjects import ANY
from protocol.hosting.limits import CHUNK_BYTES
from protocol.wire import pack_body

ANSWER_S = 20.0  # of a machine; a start may take as long
LISTEN_S = 3.0  # until any machine listens: servers tell one another of a new one
AGAIN_S = 0.1
Body = dict[str, Any]


class Refused(OperationFailed):
    """A machine's broker answered an error; `name` is the error's, as in docs/wire.md."""

    def __init__(self, answer: Answer) -> None:
        assert answer.reply is not None
        body = answer.reply["b"]
        self.name, self.code = answer.error, int(body.get("code", 0))
        cause = "; ".join(str(each) for each in body.get("cause", ()))
        super().__init__(f"{answer.machine}: {self.name} {cause}".rstrip())


class Tenant:
    """One tenant's way in. Made by `open_tenant`."""

    def __init__(self, bus: Bus) -> None:
        self._bus, self.name = bus, bus.door.who
        self._sent = 0
        self._epochs: dict[str, int] = {}  # the latest life of each machine that has answered

    async def start(self, number: int, image: bytes, **spec: Any) -> tuple[str, Body]:
        """Start a guest from an image, once for each number. Returns its machine and what that answered.

        Raises Refused, NoRoom, NotDelivered, OutcomeUnknown: then the same number may be asked for again.
        """
        digest = hashlib.sha256(image).digest()
        key = bytes(4) + number.to_bytes(KEY_BYTES, "big")
        body = {"spec": {"image": digest, **spec}}
        steps, found = placed(), None
        try:
            while True:
                match steps.send(found):
                    case Ask(machine):
                        found = await self._tried(machine, "start", key, body)
                    case Bring(machine):
                        await self._bring(machine, image, digest)
                        found = None
                    case List():
                        found = await self._asked(ANY, MACHINES, {})
        except StopIteration as end:
            return self._body(end.value)

    async def machines(self) -> dict[str, int]:
        """The machines of the fleet, and guests that each has room for."""
        return dict((await self._asked(ANY, MACHINES, {})).machines)

    async def ask(self, machine: str, kind: str, **body: Any) -> Body:
        """Put a request of docs/wire.md to one machine. Raises Refused, NotDelivered, OutcomeUnknown."""
        return self._body(await self._asked(machine, HOSTING, self._frame(kind, None, body)))[1]

    def _body(self, answer: Answer) -> tuple[str, Body]:
        if answer.error:
            raise Refused(answer)
        if answer.reply is None:
            raise OutcomeUnknown(f"{answer.machine} answered nothing")
        return answer.machine, dict(answer.reply["b"])

    async def _tried(self, machine: str, kind: str, key: bytes, body: Body) -> Answer | Exception:
        try:
            return await self._asked(machine, HOSTING, self._frame(kind, key, body))
        except (NotDelivered, OutcomeUnknown) as error:
            return error

    async def _bring(self, machine: str, image: bytes, digest: bytes) -> None:
        await self.ask(machine, "hello", versions=[1])
        have: int = 0
        while have < len(image):
            piece = image[have : have + CHUNK_BYTES]
            answer = await self.ask(
                machine, "image.put", digest=digest, size=len(image), offset=have, data=piece
            )
            have = answer["have"]

    def _frame(self, kind: str, key: bytes | None, body: Mapping[str, Any]) -> Body:
        self._sent += 1
        rid = self._sent.to_bytes(16, "big")
        return {"v": 1, "t": kind, "rid": rid, "epoch": 0, "dl": None, "key": key, "b": dict(body)}

    async def _asked(self, machine: str, verb: str, frame: Body) -> Answer:
        answer = open_answer(await self._heard(machine, verb, pack_body(frame)))
        known = self._epochs.setdefault(answer.machine, answer.epoch)
        if answer.epoch < known:
            raise OutcomeUnknown(f"{answer.machine} answered in a life that is over: {answer.epoch}")
        self._epochs[answer.machine] = answer.epoch
        return answer

    async def _heard(self, machine: str, verb: str, question: bytes) -> bytes:
        """What a machine answers. One of several may still be coming up, or on its way into the directory."""
        subject = self._bus.cell.ask(self.name, machine, verb)
        until = trio.current_time() + (LISTEN_S if machine == ANY else 0)
        while True:
            try:
                return await self._bus.request(subject, question, ANSWER_S)
            except NobodyListens:
                if trio.current_time() >= until:
                    raise
            await trio.sleep(AGAIN_S)


@asynccontextmanager
async def open_tenant(door: Door) -> AsyncIterator[Tenant]:
    """A connection as the tenant that `door` names. Raises NoDirectory."""
    async with open_bus(door) as bus:
        yield Tenant(bus)
