"""Every bound of the hosting service, in one place. Nothing grows beyond what is written here.

The lease (30 s, renewed every 10 s), the frame size and the life of a key after its child's end are the
interface's; the other defaults are choices of this emulator, to be set by a scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from protocol.hosting.profiles import Topology

FRAME_BYTES = 64 * 1024  # of one message's body, either direction
CHUNK_BYTES = 32 * 1024  # of an image in one message: leaves room for the rest of the frame
CONTROL_PORT = 5200  # VSOCK port of the service, on CID 2
CHANNEL_PORT = 5202  # where channels are opened with their tokens
WINDOW = 256 * 1024  # most bytes of a channel that wait in one direction
LABELS = 8  # of a child
LABEL_NAME = 32  # characters
LABEL_VALUE = 64  # characters
LAUNCH_BYTES = 4096  # of launch data
PAGE_OF_LIST = 32  # children in one answer: at most 1,200 bytes each
LINGER_S = 3600  # longest time that a child may outlive its owner's lease


@dataclass(frozen=True, slots=True)
class Share:
    """How much of each dimension may be charged. Used for one requester and for the whole host."""

    children: int = 64
    vcpus: int = 256
    memory_mib: int = 262_144
    image_bytes: int = 1 << 30
    images: int = 16
    idempotency_keys: int = 128
    watchers: int = 8
    console_bytes: int = 1 << 20
    channels: int = 32

    def named(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in UNITS}

    def at_most(self, bounds: Mapping[str, int]) -> Share:
        """Return the same, lowered to `bounds` where those are lower."""
        return replace(self, **{name: min(getattr(self, name), bound) for name, bound in bounds.items()})


UNITS = {
    "children": "guest",
    "vcpus": "vcpu",
    "memory_mib": "MiB",
    "image_bytes": "byte",
    "images": "image",
    "idempotency_keys": "key",
    "watchers": "watcher",
    "console_bytes": "byte",
    "channels": "channel",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """What the machine behind the service can do, beyond what every one can."""

    vmms: tuple[str, ...] = ("emulated",)
    ready: tuple[str, ...] = ("entered",)  # notified: guests can dial their host
    channels: str = ""  # where a requester opens channels; empty: there are none
    dump: bool = False
    sealed: bool = False  # only the owner of the image can open a dump: any child may be dumped


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one service. Times in milliseconds unless the name says otherwise."""

    requesters: int = 64
    each: Share = field(default_factory=Share)
    host: Share = field(
        default_factory=lambda: Share(
            children=4096,
            vcpus=16_384,
            memory_mib=16_777_216,
            image_bytes=1 << 36,
            images=1024,
            idempotency_keys=8192,
            watchers=512,
            console_bytes=1 << 28,
            channels=8192,
        )
    )
    in_flight: int = 64  # unfinished requests of one requester; more are told RATE_LIMITED
    starts_per_s: int = 0  # of one requester, 0 = not limited
    events: int = 256  # kept for one requester
    tombstones: int = 64  # exit records kept for one requester
    memory_unit_mib: int = 1  # memory is charged in whole units
    profile: str = "peer"  # where CPUs and memory come from, see `profiles`
    topology: Topology = field(default_factory=Topology)  # of a guest host, for the profile nitro
    cid_first: int = 0x4000_0000  # hosted children; a guest host must not give these to its own guests
    cid_count: int = 65_536
    cid_quarantine: int = 60_000  # a CID is not given again sooner
    lease: int = 30_000
    renew: int = 10_000
    key_life: int = 600_000  # of an idempotency key, past the end of its child
    tombstone_life: int = 600_000
    retry_first: int = 250  # first wait before a destruction that failed is tried again
    retry_last: int = 30_000  # longest such wait
    half_open: int = 600_000  # a channel of which one side has ended and nothing moves; 0: no limit
    boot_base: int = 30_000  # a secure boot is slow: time for it, and
    boot_per_gib: int = 20_000  # this for each GiB on top
