"""What the service asks of L0's own machine, and what that may answer.

Each effect names the child; whoever serves the effects knows which guest of L0 that is. The contract:

- an answer that is none of the failures below means success, whatever it is;
- `CreateGuest` that fails has undone its own work: there is nothing to destroy;
- the others, when they fail, leave the guest where `DestroyGuest` can still end it;
- `DestroyGuest` may be asked again after a failure, and of a guest whose `StopGuest` failed;
- `StartGuest` of a guest that runs waits until it is ready, `StopGuest` of one that does not changes nothing:
  a service that was restarted asks again.

Whoever drives the step may throw instead: LevelGone (the machine is gone, its guests with it), another
OperationalError (whether it was done is not known), OwnerGone (what was yielded last was not performed).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from protocol.effects import Effect


@dataclass(frozen=True, slots=True)
class Spec:
    """The guest that is wanted. `policy` and `launch` mean something to the architecture only."""

    image: bytes  # SHA-256 of the image
    vcpus: int
    memory_mib: int
    policy: int = 0
    launch: bytes = b""
    labels: Mapping[str, str] = field(default_factory=dict)
    ready: str = "entered"
    on_owner_loss: str = "stop"
    linger_s: int = 0
    vmm: str = "emulated"
    debug: bool = False  # its owner may read its console, and its evidence says so
    signature: bytes = b""
    signer: bytes = b""
    not_after: int = 0


@dataclass(frozen=True, slots=True)
class MachineEffect(Effect):
    """Something that L0's machine does to the guest of `child`."""

    child: bytes


@dataclass(frozen=True, slots=True)
class CreateGuest(MachineEffect):
    """Make the secure guest: its memory, its entities in the Trusted Entity, its VMM."""

    cid: int
    spec: Spec
    image: bytes
    owner_cid: int  # of the guest host that asked, as its transport says


@dataclass(frozen=True, slots=True)
class LoadGuest(MachineEffect):
    """Put the image into the guest's memory and have it made secure and verified."""


@dataclass(frozen=True, slots=True)
class StartGuest(MachineEffect):
    """Run the guest until it is ready."""

    timeout_ms: int


@dataclass(frozen=True, slots=True)
class StopGuest(MachineEffect):
    """End the guest's run: kindly within `grace_ms`, or at once where that is 0."""

    grace_ms: int


@dataclass(frozen=True, slots=True)
class ResetGuest(MachineEffect):
    """Boot the running guest again from its image."""

    timeout_ms: int


@dataclass(frozen=True, slots=True)
class AttestGuest(MachineEffect):
    """Measure the guest; the answer is an `evidence.Measured`."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class DumpGuest(MachineEffect):
    """Give a part of a dump of the guest; the answer is (size of all of it, bytes from `offset`)."""

    offset: int
    count: int


@dataclass(frozen=True, slots=True)
class DestroyGuest(MachineEffect):
    """Give back everything that the guest holds."""


@dataclass(frozen=True, slots=True)
class Await(Effect):
    """Nothing to do until a child changes its state or `until_ms` has come. The answer is the time in ms."""

    until_ms: int


@dataclass(frozen=True, slots=True)
class Inventory(Effect):
    """Which guests the machine has. The answer is a map from child to `Found`."""


@dataclass(frozen=True, slots=True)
class Found:
    """A guest that the machine has. `exit` is not None where it ended by itself."""

    running: bool
    exit: int | None = None


@dataclass(frozen=True, slots=True)
class TeError:
    """The Trusted Entity refused a call."""

    call: str
    rc: int
    rrc: int = 0


@dataclass(frozen=True, slots=True)
class NeedMemory:
    """L0 lacks memory that the guest's entities need."""

    pages: int


@dataclass(frozen=True, slots=True)
class Died:
    """The guest ended before it was ready."""

    exit: int


@dataclass(frozen=True, slots=True)
class Emergency:
    """The guest says that it is up, but in emergency mode: nothing of what it is for runs."""


@dataclass(frozen=True, slots=True)
class ImageChanged:
    """What was to be loaded is not what was announced."""


@dataclass(frozen=True, slots=True)
class NoImage:
    """What was to be loaded is no image that this machine can load."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoResource:
    """L0 has no more of something."""

    dimension: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The guest did not become ready in its time."""

    timeout_ms: int


@dataclass(frozen=True, slots=True)
class Vanished:
    """The machine has no such guest."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The machine was asked and did not answer: it may have done it. Made of what a driver throws."""

    reason: str


Failure = (
    TeError
    | NeedMemory
    | Died
    | Emergency
    | ImageChanged
    | NoImage
    | NoResource
    | TimedOut
    | Vanished
    | Unanswered
)
