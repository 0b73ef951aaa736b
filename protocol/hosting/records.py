"""The state that hosting costs: who asks, what runs for them, what is left of what ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.calls import Basis
from protocol.hosting.channels import Channels
from protocol.hosting.console import CONSOLE_BYTES, Console
from protocol.hosting.errors import Refusal
from protocol.hosting.idempotency import Keys
from protocol.hosting.images import Image, Images
from protocol.hosting.leases import Bucket, Lease
from protocol.hosting.machine import Spec
from protocol.hosting.profiles import Pool
from protocol.hosting.quota import Quota
from protocol.hosting.states import State
from protocol.hosting.watch import EventLog
from protocol.tracking import SIZES


class ModelSize(NamedTuple):
    """Bytes of one record on a 64-bit machine, and on what the number stands."""

    bytes: int
    basis: Basis


# A child was measured as a slotted record in a table (490 bytes) and rounded; the others are estimates.
record_sizes: Mapping[str, ModelSize] = {
    kind: ModelSize(SIZES[kind], Basis.INFERRED if kind == "child" else Basis.GUESS)
    for kind in (
        "requester",
        "child",
        "te_object",
        "idempotency",
        "lease",
        "event",
        "watcher",
        "tombstone",
        "journal",
        "vmm",
        "console",
        "channel",
    )
}


@dataclass(frozen=True, slots=True)
class Identity:
    """Who asks, as the transport says: its CID, and which of its boots this is (1 and up)."""

    cid: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The exit record of a child: kept until its owner acknowledges it, or for ten minutes."""

    child: bytes
    cid: int
    reason: str
    failure: Refusal | None
    exit: int | None
    labels: Mapping[str, str]
    timings: Mapping[str, int]
    expires_ms: int

    def body(self) -> dict[str, object]:
        return {
            "child": self.child,
            "cid": self.cid,
            "state": str(State.RELEASED),
            "reason": self.reason,
            "failure": self.failure.body() if self.failure else None,
            "exit": self.exit,
            "labels": dict(self.labels),
            "timings": dict(self.timings),
        }


@dataclass(slots=True, eq=False)
class Requester:
    """One guest host that asked. Its account outlives its boots while children of an earlier one remain."""

    cid: int
    epoch: int
    lease: Lease
    quota: Quota
    log: EventLog
    bucket: Bucket
    pool: Pool
    images: Images = field(init=False)
    keys: Keys = field(default_factory=Keys)
    tombstones: dict[bytes, Tombstone] = field(default_factory=dict)
    children: dict[bytes, Child] = field(default_factory=dict)
    channels: Channels = field(default_factory=Channels)
    in_flight: int = 0
    alive: bool = True

    def __post_init__(self) -> None:
        self.images = Images(self.quota)

    def is_now(self, who: Identity) -> bool:
        return self.alive and self.cid == who.cid and self.epoch == who.epoch


@dataclass(frozen=True, slots=True)
class Origin:
    """What a child is from its first to its last moment: nobody can change whose it is."""

    id: bytes
    owner: Identity
    cid: int
    spec: Spec
    image: Image
    key: bytes | None
    memory_mib: int  # charged, in whole units
    allotment: Mapping[str, object] = field(default_factory=dict)  # what the profile gave it

    def charges(self) -> dict[str, int]:
        charges = {"children": 1, "vcpus": self.spec.vcpus, "memory_mib": self.memory_mib}
        return charges | ({"console_bytes": CONSOLE_BYTES} if self.spec.debug else {})


@dataclass(slots=True, eq=False)
class Child:
    """One guest of L0 that belongs to a requester."""

    origin: Origin
    account: Requester
    state: State = State.RESERVED
    reason: str = "start"
    busy: bool = False  # a step works on it; nobody else may, they leave a wish in `doom`
    doom: str = ""  # why it has to go; set once, never taken back
    present: bool = False  # L0's machine has something of it
    grace_until_ms: int | None = None  # without a lease, but not to go before that
    before: State = State.RESERVED  # the state that ORPHANED interrupted
    failure: Refusal | None = None
    exit: int | None = None
    timings: dict[str, int] = field(default_factory=dict)
    tries: int = 0  # destructions that failed in a row
    retry_at_ms: int = 0
    intents: int = 0  # of its, in the journal
    console: Console | None = None  # of a debug child
    adopted_from: int = 0  # the epoch of its former owner, where it was adopted

    def running(self) -> bool:
        state = self.before if self.state is State.ORPHANED else self.state
        return self.present and state in {State.READY, State.STOPPING}

    def came_up(self) -> bool:
        """Whether it has ever been READY."""
        return State.READY in self.timings

    def under_way(self) -> bool:
        """Whether its start goes on, or its rollback, and nobody can tell yet how it ends."""
        return not self.came_up() and (self.busy or self.state in {State.LOADING, State.STARTING})

    def body(self) -> dict[str, object]:
        origin, spec = self.origin, self.origin.spec
        return {
            "child": origin.id,
            "cid": origin.cid,
            "state": str(self.state),
            "reason": self.reason,
            "failure": self.failure.body() if self.failure else None,
            "exit": self.exit,
            "labels": dict(spec.labels),
            "timings": dict(self.timings),
            "image": spec.image,
            "charged": {"vcpus": spec.vcpus, "memory_mib": origin.memory_mib},
            "on_owner_loss": spec.on_owner_loss,
            "linger_s": spec.linger_s,
            "held": ["guest"] if self.present and (self.tries or self.state is State.FAILED) else [],
        }
