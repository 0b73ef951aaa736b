"""What a requester may say: the frame and, message by message, its body.

A message is a frozen dataclass; each field carries its type on the wire. Reading is strict: a field that
is missing, unknown, of a wrong type or out of range is refused before anything has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.hosting.errors import Code, Refusal
from protocol.hosting.evidence import NONCE_BYTES, USER_BYTES
from protocol.hosting.kinds import (
    array,
    binary,
    mapping,
    maybe,
    one_of,
    read,
    record,
    text,
    truth,
    uint,
    wire,
)
from protocol.hosting.limits import (
    CHUNK_BYTES,
    LABEL_NAME,
    LABEL_VALUE,
    LABELS,
    LAUNCH_BYTES,
    LINGER_S,
    PAGE_OF_LIST,
    WINDOW,
)
from protocol.hosting.machine import Spec
from protocol.hosting.states import State

VERSION = 1
FEATURES = ("image.put", "reset", "linger", "watch", "adopt", "console", "policy")
U32 = (1 << 32) - 1
U63 = (1 << 63) - 1
U64 = (1 << 64) - 1  # TDX has an attribute in its top bit

CHILD = binary(16)
DIGEST = binary(32)


@dataclass(frozen=True, slots=True)
class Message:
    """The body of one message type."""


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """Begin: agree on a version, learn epoch and limits, take the lease."""

    versions: tuple[int, ...] = wire(array(uint(0, U32), 8))
    features: tuple[str, ...] = wire(array(text(32), 32), ())


@dataclass(frozen=True, slots=True)
class QuotaGet(Message):
    """Ask what is charged and what is free, in every dimension."""


@dataclass(frozen=True, slots=True)
class ImagePut(Message):
    """Send a piece of an image, in order; an empty piece only asks how much is there."""

    digest: bytes = wire(DIGEST)
    size: int = wire(uint(1, U63))
    offset: int = wire(uint(0, U63))
    data: bytes = wire(binary(0, CHUNK_BYTES))


@dataclass(frozen=True, slots=True)
class SpecOnWire:
    """The guest that is wanted."""

    image: bytes = wire(DIGEST)
    vcpus: int = wire(uint(1, U32))
    memory_mib: int = wire(uint(1, U32))
    policy: int = wire(uint(0, U64), 0)
    launch: bytes = wire(binary(0, LAUNCH_BYTES), b"")
    labels: Mapping[str, str] | None = wire(maybe(mapping(text(LABEL_NAME), text(LABEL_VALUE), LABELS)), None)
    ready: str = wire(one_of("entered", "notified"), "entered")
    on_owner_loss: str = wire(one_of("stop", "linger"), "stop")
    linger_s: int = wire(uint(0, LINGER_S), 0)
    vmm: str = wire(one_of("emulated", "qemu"), "emulated")
    debug: bool = wire(truth(), False)
    signature: bytes = wire(binary(0, 256), b"")
    signer: bytes = wire(binary(0, 256), b"")
    not_after: int = wire(uint(0, U63), 0)

    def spec(self) -> Spec:
        """Return the spec; raises Refusal where it contradicts itself."""
        if (self.on_owner_loss == "linger") != (self.linger_s > 0):
            raise Refusal(
                Code.BAD_ARGUMENT, "b.spec.linger_s is above 0 exactly when on_owner_loss is linger"
            )
        return Spec(
            self.image,
            self.vcpus,
            self.memory_mib,
            self.policy,
            self.launch,
            self.labels or {},
            self.ready,
            self.on_owner_loss,
            self.linger_s,
            self.vmm,
            self.debug,
            self.signature,
            self.signer,
            self.not_after,
        )


SPEC = record(SpecOnWire, "map, see below")


@dataclass(frozen=True, slots=True)
class Start(Message):
    """Make a child, or only reserve it; again with the same key to get the same child."""

    spec: SpecOnWire = wire(SPEC)  # noqa: RUF009 - a field declaration, as all the others
    mode: str = wire(one_of("run", "reserve"), "run")


@dataclass(frozen=True, slots=True)
class Wait(Message):
    """Wait until a child has reached a state."""

    child: bytes = wire(CHILD)
    until: str = wire(one_of("READY", "STOPPED", "RELEASED"))
    timeout_ms: int = wire(uint(0, 600_000), 30_000)


@dataclass(frozen=True, slots=True)
class Describe(Message):
    """Ask for one child, or its exit record."""

    child: bytes = wire(CHILD)


@dataclass(frozen=True, slots=True)
class List(Message):
    """Ask for the requester's own children, page by page."""

    state: str | None = wire(maybe(one_of(*State)), None)
    label: str | None = wire(maybe(text(LABEL_NAME)), None)
    exited: bool = wire(truth(), False)
    after: bytes | None = wire(maybe(CHILD), None)
    count: int = wire(uint(1, PAGE_OF_LIST), PAGE_OF_LIST)


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """End a child's run. It keeps what it holds until `destroy`."""

    child: bytes = wire(CHILD)
    how: str = wire(one_of("graceful", "kill"), "graceful")
    grace_ms: int = wire(uint(1, 600_000), 10_000)


@dataclass(frozen=True, slots=True)
class Reset(Message):
    """Boot a ready child again from its image."""

    child: bytes = wire(CHILD)


@dataclass(frozen=True, slots=True)
class Destroy(Message):
    """End a child whatever its state; to be repeated until it succeeds."""

    child: bytes = wire(CHILD)


@dataclass(frozen=True, slots=True)
class AckExit(Message):
    """Drop the exit record of a child."""

    child: bytes = wire(CHILD)


@dataclass(frozen=True, slots=True)
class LeaseRenew(Message):
    """Keep all children, and get the ones back whose grace is not over."""


@dataclass(frozen=True, slots=True)
class Watch(Message):
    """Get every event after number `since`, from now on."""

    since: int | None = wire(maybe(uint(0, U63)), None)


@dataclass(frozen=True, slots=True)
class Unwatch(Message):
    """End a watch, named by the rid of its request."""

    watch: bytes = wire(binary(16))


@dataclass(frozen=True, slots=True)
class ConsoleRead(Message):
    """Read what a debug child wrote on its console, from a cursor on."""

    child: bytes = wire(CHILD)
    cursor: int = wire(uint(0, U63), 0)
    max: int = wire(uint(1, CHUNK_BYTES), CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class ChannelOpen(Message):
    """Offer a channel to a port of a child; the answer says where it is opened, with which token."""

    child: bytes = wire(CHILD)
    port: int = wire(uint(1, U32 - 1))
    type: str = wire(one_of("stream"), "stream")
    window: int = wire(uint(1, WINDOW), 65_536)


@dataclass(frozen=True, slots=True)
class ChannelClose(Message):
    """End a channel, or take back its offer."""

    channel: bytes = wire(binary(16))


@dataclass(frozen=True, slots=True)
class Adopt(Message):
    """Take over children that linger from a former boot, with that boot's credential."""

    credential: bytes = wire(binary(32))
    epoch: int = wire(uint(1, U32))
    children: tuple[bytes, ...] | None = wire(maybe(array(CHILD, 64)), None)


@dataclass(frozen=True, slots=True)
class Attest(Message):
    """Get evidence of what a child is and whose."""

    child: bytes = wire(CHILD)
    nonce: bytes = wire(binary(0, NONCE_BYTES))
    user_data: bytes = wire(binary(0, USER_BYTES), b"")


@dataclass(frozen=True, slots=True)
class Dump(Message):
    """Get a part of a dump: of a debug child, or of any where only the owner of its image can open it."""

    child: bytes = wire(CHILD)
    offset: int = wire(uint(0, U63), 0)
    count: int = wire(uint(1, CHUNK_BYTES), CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Deposit(Message):
    """Deposit pages for the host's records of children (profile l1vh), or take back free ones."""

    pages: int = wire(uint(0, U32))
    withdraw: bool = wire(truth(), False)


@dataclass(frozen=True, slots=True)
class Explain(Message):
    """Ask what an error code means."""

    error: int = wire(uint(0, U32))


@dataclass(frozen=True, slots=True)
class Migrate(Message):
    """Ask whether the requester may move to another host, or a child of it: that one never does."""

    child: bytes | None = wire(maybe(CHILD), None)


MESSAGES: Mapping[str, type[Message]] = {
    "hello": Hello,
    "quota.get": QuotaGet,
    "image.put": ImagePut,
    "start": Start,
    "wait": Wait,
    "describe": Describe,
    "list": List,
    "stop": Stop,
    "reset": Reset,
    "destroy": Destroy,
    "ack_exit": AckExit,
    "lease.renew": LeaseRenew,
    "console.read": ConsoleRead,
    "channel.open": ChannelOpen,
    "channel.close": ChannelClose,
    "adopt": Adopt,
    "attest": Attest,
    "dump": Dump,
    "memory.deposit": Deposit,
    "watch": Watch,
    "unwatch": Unwatch,
    "explain": Explain,
    "migrate": Migrate,
}

FRAME_FIELDS = frozenset({"v", "t", "rid", "epoch", "dl", "key", "b"})
NO_RID = bytes(16)


@dataclass(frozen=True, slots=True)
class Request:
    """One frame that is a request of this protocol."""

    type: str
    rid: bytes
    epoch: int
    budget_ms: int | None
    key: bytes | None
    message: Message
    via: str = ""  # where channels open for whoever came this way; empty: as the service offers


def rid_of(frame: object) -> bytes:
    """Return the request id of whatever came in, zeros where there is none: a refusal needs one, too."""
    rid = frame.get("rid") if isinstance(frame, dict) else None
    return rid if isinstance(rid, bytes) and len(rid) == 16 else NO_RID


def open_frame(frame: object, via: str = "") -> Request:
    """Return the request that `frame` is. Raises Refusal: the frame first, then version, type, body.

    `via` is what the transport says of the way on which it came.
    """
    if type(frame) is not dict:
        raise Refusal(Code.BAD_FRAME, "a frame is a map")
    for name in frame:
        if name not in FRAME_FIELDS:
            raise Refusal(Code.BAD_FRAME, f"{str(name)[:40]} is not a field of a frame")
    if type(frame.get("v")) is not int or rid_of(frame) == NO_RID:
        raise Refusal(Code.BAD_FRAME, "v is a uint, rid is 16 bytes that are not all zero")
    if frame["v"] != VERSION:
        raise Refusal(Code.UNSUPPORTED, f"version {frame['v']}", detail={"versions": [VERSION]})
    kind, epoch, budget, key = frame.get("t"), frame.get("epoch"), frame.get("dl"), frame.get("key")
    if type(epoch) is not int or not 0 <= epoch <= U32:
        raise Refusal(Code.BAD_FRAME, "epoch is a uint of 32 bits")
    if budget is not None and (type(budget) is not int or not 0 <= budget <= U32):
        raise Refusal(Code.BAD_FRAME, "dl is a uint of 32 bits, or nil")
    if key is not None and (type(key) is not bytes or len(key) != 16):
        raise Refusal(Code.BAD_FRAME, "key is 16 bytes, or nil")
    if type(kind) is not str or kind not in MESSAGES:
        raise Refusal(Code.BAD_FRAME, "t is no message type")
    return Request(kind, frame["rid"], epoch, budget, key, read(MESSAGES[kind], frame.get("b")), via)
