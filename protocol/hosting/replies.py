"""What a host may answer: message by message the body of the answer, the events of a watch, the error.

Declared as the requests are, and read by the client before anything of it is used. Reading is less strict
than a host's: fields that are not declared are passed over, so a later host may say more. Everything that
is declared has to be there, of its type and within its range; else the host breaks the protocol.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protocol.errors import RemoteProtocolError
from protocol.hosting.errors import CAUSE_CHARACTERS, CAUSES
from protocol.hosting.evidence import EVIDENCE_BYTES
from protocol.hosting.kinds import (
    Kind,
    Misfit,
    array,
    binary,
    integer,
    mapping,
    maybe,
    one_of,
    read,
    record,
    text,
    truth,
    uint,
    whatever,
    wire,
)
from protocol.hosting.limits import CHUNK_BYTES, LABEL_NAME, LABEL_VALUE, LABELS, PAGE_OF_LIST, WINDOW
from protocol.hosting.messages import CHILD, U32, U63, VERSION
from protocol.hosting.states import State

DIMENSIONS = 64  # rows of a quota
WORD = text(64)
STATE = Kind("a state", one_of(*State).read)
LEASE = "map of `length_ms` and `renew_ms`, uint 1..4294967295 each"
CHARGED = mapping(WORD, uint(0, U63), DIMENSIONS)
TIMINGS = mapping(WORD, uint(0, U63), 32)
ERROR_DETAILS = 16


class HostingProtocolError(RemoteProtocolError):
    """The host answered what docs/wire.md does not allow; the connection is closed.

    What was asked may have been done all the same.
    `message`: type of what was asked. `field`: what is wrong, like `b.epoch`. `allowed`: what belongs there.
    """

    def __init__(self, message: str, field: str, allowed: str) -> None:
        super().__init__("shape", f"the answer to {message}: {field} {allowed}")
        self.message, self.field, self.allowed = message, field, allowed

    def __str__(self) -> str:
        return f"the host breaks the protocol: {self.detail}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The body of what one message is answered."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long the lease is, and when to renew it."""

    length_ms: int = wire(uint(1, U32))
    renew_ms: int = wire(uint(1, U32))


@dataclass(frozen=True, slots=True)
class HelloAnswer(Answer):
    """Version, epoch, limits; the lease is taken."""

    version: int = wire(uint(VERSION, VERSION))
    features: tuple[str, ...] = wire(array(WORD, 64))
    id: int = wire(uint(0, U32))
    epoch: int = wire(uint(1, U32))
    credential: bytes = wire(binary(32))
    policy: bytes = wire(binary(32))
    profile: str = wire(WORD)
    lease: Lease = wire(record(Lease, LEASE, more=True))  # noqa: RUF009 - a field declaration, as all
    limits: Mapping[str, int] = wire(mapping(WORD, uint(0, U63), DIMENSIONS))
    cids: tuple[int, ...] = wire(array(uint(0, U32), 2))


@dataclass(frozen=True, slots=True)
class QuotaRow(Answer):
    """One dimension of a quota."""

    limit: int = wire(uint(0, U63))
    charged: int = wire(uint(0, U63))
    free: int = wire(integer(-U63, U63))
    unit: str = wire(WORD)
    requested: int | None = wire(uint(0, U63), None)


@dataclass(frozen=True, slots=True)
class ImagePutAnswer(Answer):
    """How much of the image is there."""

    have: int = wire(uint(0, U63))
    complete: bool = wire(truth())


@dataclass(frozen=True, slots=True)
class StartAnswer(Answer):
    """The child that a start made."""

    child: bytes = wire(CHILD)
    cid: int = wire(uint(0, U32))
    charged: Mapping[str, int] = wire(CHARGED)
    state: str = wire(STATE)
    replayed: bool = wire(truth())


@dataclass(frozen=True, slots=True)
class WaitAnswer(Answer):
    """The state that was waited for."""

    child: bytes = wire(CHILD)
    state: str = wire(STATE)
    timings: Mapping[str, int] = wire(TIMINGS)


@dataclass(frozen=True, slots=True)
class Failure(Answer):
    """An error: what was refused and why."""

    code: int = wire(uint(0, U32))
    name: str = wire(WORD)
    retryable: bool = wire(truth())
    retry_after_ms: int = wire(uint(0, U32))
    stage: str = wire(text(32, 0))
    cause: tuple[str, ...] = wire(array(text(CAUSE_CHARACTERS, 0), CAUSES))
    who: str = wire(WORD)
    detail: Mapping[str, object] = wire(mapping(WORD, whatever(), ERROR_DETAILS))


@dataclass(frozen=True, slots=True)
class DescribeAnswer(Answer):
    """A child, or its exit record, which has none of the last five fields."""

    child: bytes = wire(CHILD)
    cid: int = wire(uint(0, U32))
    state: str = wire(STATE)
    reason: str = wire(WORD)
    failure: Failure | None = wire(maybe(record(Failure, "an error", more=True)))  # noqa: RUF009 - likewise
    exit: int | None = wire(maybe(uint(0, U32)))
    labels: Mapping[str, str] = wire(mapping(text(LABEL_NAME), text(LABEL_VALUE), LABELS))
    timings: Mapping[str, int] = wire(TIMINGS)
    image: bytes | None = wire(binary(32), None)
    charged: Mapping[str, int] | None = wire(CHARGED, None)
    on_owner_loss: str | None = wire(WORD, None)
    linger_s: int | None = wire(uint(0, U32), None)
    held: tuple[str, ...] | None = wire(array(WORD, 16), None)


@dataclass(frozen=True, slots=True)
class ListAnswer(Answer):
    """A page of children."""

    children: tuple[DescribeAnswer, ...] = wire(
        array(record(DescribeAnswer, "what `describe` answers", more=True), PAGE_OF_LIST)
    )
    after: bytes | None = wire(maybe(CHILD))


@dataclass(frozen=True, slots=True)
class StateAnswer(Answer):
    """The state that the child is in now."""

    state: str = wire(STATE)


@dataclass(frozen=True, slots=True)
class NothingAnswer(Answer):
    """It is done; there is nothing to say."""


@dataclass(frozen=True, slots=True)
class LeaseRenewAnswer(Answer):
    """The lease runs anew."""

    expires_in_ms: int = wire(uint(1, U32))
    renew_in_ms: int = wire(uint(1, U32))
    back: int = wire(uint(0, U32))


@dataclass(frozen=True, slots=True)
class ConsoleReadAnswer(Answer):
    """A piece of a console."""

    data: bytes = wire(binary(0, CHUNK_BYTES))
    cursor: int = wire(uint(0, U63))
    lost: int = wire(uint(0, U63))


@dataclass(frozen=True, slots=True)
class ChannelOpenAnswer(Answer):
    """Where a channel is opened, and with which token."""

    channel: bytes = wire(binary(16))
    address: str = wire(text(256))
    port: int = wire(uint(1, U32 - 1))
    token: bytes | None = wire(maybe(binary(16)))
    window: int = wire(uint(1, WINDOW))


@dataclass(frozen=True, slots=True)
class AdoptAnswer(Answer):
    """What was taken over, and what is not there any more."""

    adopted: tuple[bytes, ...] = wire(array(CHILD, 4096))
    lost: tuple[bytes, ...] = wire(array(CHILD, 64))


@dataclass(frozen=True, slots=True)
class AttestAnswer(Answer):
    """Evidence."""

    evidence: bytes = wire(binary(1, EVIDENCE_BYTES))


@dataclass(frozen=True, slots=True)
class DumpAnswer(Answer):
    """A piece of a dump, and the size of all of it."""

    size: int = wire(uint(0, U63))
    data: bytes = wire(binary(0, CHUNK_BYTES))


@dataclass(frozen=True, slots=True)
class ExplainAnswer(Answer):
    """A row of the table of errors."""

    code: int = wire(uint(0, U32))
    name: str = wire(WORD)
    text: str = wire(text(256))
    retryable: bool = wire(truth())
    who: str = wire(WORD)
    detail: tuple[str, ...] = wire(array(WORD, ERROR_DETAILS))


@dataclass(frozen=True, slots=True)
class Established(Answer):
    """First event of a watch: events after `seq` follow, `last` exists already."""

    kind: str = wire(one_of("established"))
    seq: int = wire(uint(0, U63))
    last: int = wire(uint(0, U63))


@dataclass(frozen=True, slots=True)
class Changed(Answer):
    """A child changed its state."""

    kind: str = wire(one_of("state"))
    seq: int = wire(uint(1, U63))
    child: bytes = wire(CHILD)
    before: str = wire(STATE, name="from")
    state: str = wire(STATE)
    cause: str = wire(text(CAUSE_CHARACTERS, 0))
    at_ms: int = wire(uint(0, U63))


@dataclass(frozen=True, slots=True)
class Missed(Answer):
    """The watcher fell behind: events before `first` are gone, it goes on with `first`."""

    kind: str = wire(one_of("gap"))
    first: int = wire(uint(0, U63))
    last: int = wire(uint(0, U63))


ANSWERS: Mapping[str, type[Answer]] = {  # that of quota.get is a map from dimensions to rows
    "hello": HelloAnswer,
    "image.put": ImagePutAnswer,
    "start": StartAnswer,
    "wait": WaitAnswer,
    "describe": DescribeAnswer,
    "list": ListAnswer,
    "stop": StateAnswer,
    "reset": StateAnswer,
    "destroy": StateAnswer,
    "ack_exit": NothingAnswer,
    "lease.renew": LeaseRenewAnswer,
    "console.read": ConsoleReadAnswer,
    "channel.open": ChannelOpenAnswer,
    "channel.close": NothingAnswer,
    "adopt": AdoptAnswer,
    "attest": AttestAnswer,
    "dump": DumpAnswer,
    "memory.deposit": QuotaRow,
    "watch": Established,
    "unwatch": NothingAnswer,
    "explain": ExplainAnswer,
    "migrate": NothingAnswer,
}
EVENTS: Mapping[str, type[Answer]] = {"established": Established, "state": Changed, "gap": Missed}


def check_reply(message: str, rid: bytes, frame: object) -> tuple[str, dict[str, Any]]:
    """Return kind (`ok`, `err`, `ev`) and body of the reply to `message`; raises HostingProtocolError."""
    match frame:
        case {"v": int(version), "t": str(kind), "rid": bytes(answered), "b": dict(body)}:
            pass
        case _:
            raise HostingProtocolError(message, "the frame", "is a map of v, t, rid and b")
    if version != VERSION or type(version) is not int:
        raise HostingProtocolError(message, "v", f"is {VERSION}")
    if answered != rid:
        raise HostingProtocolError(message, "rid", "is that of the request")
    good = "ev" if message == "watch" else "ok"
    if kind not in (good, "err"):
        raise HostingProtocolError(message, "t", f'is "{good}" or "err"')
    try:
        check_body(message, kind, body)
    except Misfit as wrong:
        raise HostingProtocolError(message, wrong.where, wrong.what) from None
    return kind, body


def check_body(message: str, kind: str, body: dict[str, Any], more: bool = True) -> None:
    """Raise Misfit at the first field that is wrong; without `more` at any that is not declared, too."""
    if message == "quota.get" and kind == "ok":
        for dimension, row in body.items():
            WORD.read("b", dimension)
            read(QuotaRow, row, f"b.{dimension}", more)
        return
    of = Failure if kind == "err" else ANSWERS[message]
    if kind == "ev":
        name = body.get("kind")
        if not isinstance(name, str) or name not in EVENTS:
            raise Misfit("b.kind", "is " + " or ".join(f'"{name}"' for name in EVENTS))
        of = EVENTS[name]
    read(of, body, more=more)
