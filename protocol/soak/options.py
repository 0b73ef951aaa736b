"""What a soak is asked for, what it counts, and how it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

SAFETY, LIVENESS = "safety", "liveness"
MODES = (SAFETY, LIVENESS)

KINDS: Mapping[str, str] = {
    "hold": "the messages of one host to its level, or of a level to the one below, are held, then released",
    "swap": "the level below puts other frames under secure pages of a host",
    "reset": "a host reboots in the middle of whatever it does; a process of a fleet gives its machine back",
    "kill": "a host dies in the middle of whatever it does, and a fresh one takes its place",
    "starve": "the hypervisor below a host has hardly a frame left",
    "partial": "a Trusted Entity does long calls in pieces, and says so after each",
    "interrupt": "an interrupt comes while the Trusted Entity works: what can stop half way does",
    "hostile": "a host changes what its software issues, issues what others issued, stores where it likes",
    "loss": "a message of the network is lost",
    "delay": "it comes late",
    "reorder": "it overtakes one that was sent the same way before",
    "duplicate": "it comes twice",
    "partition": "one way between two hosts is closed for a while",
    "stall": "one way between two hosts holds everything for a while, then lets it go",
    "refuse": "an L0 with a hosting service refuses a step of a guest's life, though nothing is wrong",
    "restart": "a hosting service, or a fleet's directory, dies: its disk has what was committed",
    "power": "an L0 with a hosting service loses power: secure state is gone",
    "stop": "a process of a fleet stands still for a while, and goes on as if nothing had been",
    "skew": "the clocks of hosts run at different speeds",
}

EPISODE = 10_000  # steps of one episode


@dataclass(frozen=True, slots=True)
class Options:
    """`steps` in all; `without` names kinds of faults that are left out."""

    seed: int = 0
    steps: int = 20_000
    arch: str | None = None
    mode: str = SAFETY
    without: frozenset[str] = frozenset()
    episode: int | None = None  # this one alone


class Violation(Exception):
    """Something that must hold does not. `check` is the checker's name."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check, self.detail = check, detail


@dataclass(slots=True)
class Tally:
    """What happened, and the trace of it: equal for two runs of one seed."""

    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)  # operations of hosts, requests, by outcome
    _trace: blake2b = field(default_factory=lambda: blake2b(digest_size=16))

    def note(self, *what: object) -> None:
        """Write something into the trace; it may hold nothing that differs between two runs."""
        self._trace.update(repr(what).encode())

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()
