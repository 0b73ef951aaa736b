"""What an architecture provides. The core and the actors know architectures by this alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from protocol.calls import CallSpec
from protocol.cost.price import Prices
from protocol.effects import Issue, Step
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.nesting.guest_host import OwnMemory
from protocol.nesting.sizes import Sizes
from protocol.plan.fit import Profile
from protocol.plan.operations import LevelSwap, Operation
from protocol.tracking import Book


class Keyboard(Protocol):
    """A secure host at a keyboard: one request in, one answer out (the console's contract)."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]: ...


class Software(Protocol):
    """A secure host's kernel and VMM, over some level. `image` is what its guests are loaded from."""

    image: Any

    def perform(self, operation: Operation) -> Step[Any]:
        """Do one operation of a plan. Raises OperationFailed; ValueError for one that makes no sense."""
        ...


class Rig(Protocol):
    """A machine, the hypervisors on it, and `seats` for hosts at the top. `chain` has L0 first."""

    ledger: Ledger

    @property
    def seats(self) -> Sequence[Any]: ...
    @property
    def chain(self) -> Sequence[Any]: ...
    @property
    def own_cpus(self) -> Sequence[int]:
        """CPUs of L0 for software of its own beside its guest hosts, where it has memory to spare."""
        ...

    def end(self, seat: int, cause: str) -> Step[None]:
        """The host on `seat` ends without a word; nobody takes its place."""
        ...

    def below(self, seat: int) -> Sequence[Callable[[Issue], Step[Any]]]:
        """Who serves what the host on `seat` asks, then what that asks, down to the machine."""
        ...

    def seen(self, level: Any) -> Any:
        """A level as its host meets it."""
        ...

    def reset(self, seat: int, kind: str) -> Step[None]:
        """The host on `seat` reboots without a word."""
        ...

    def kill(self, seat: int) -> Step[None]:
        """The host on `seat` ends without a word, and a fresh one takes its place."""
        ...

    def swap(self, seat: int, event: LevelSwap) -> Step[int]:
        """The level below puts other frames under secure pages of the host; how many it did."""
        ...

    def books(self) -> Iterable[Book]:
        """What every level keeps about its guest hosts."""
        ...

    def locks(self) -> Iterable[tuple[str, str]]:
        """Who holds what just now, in words: a guest host, a hypervisor or L0, and what others wait for."""
        ...

    def sweep(self, seat: int, pages: int) -> Step[int]:
        """Release at most `pages` that a reboot of the host left over; returns how many are still there."""
        ...

    def leaks(self) -> Sequence[Any]:
        """The books of every level held against the one below: what only one of the two has."""
        ...

    def exposed(self, needle: bytes) -> Sequence[int]:
        """Frames of the machine in whose bytes, as a host could reach them, `needle` lies."""
        ...

    def remains(self) -> Mapping[str, int]:
        """What secure guests and their hosts hold in the machine, by kind."""
        ...


class Owner(Protocol):
    """What the owner of a secure guest does elsewhere, before any host: optional, as `owner` of a slice."""

    @property
    def flags(self) -> Sequence[str]:
        """Names of the control flags that an image can be built with."""
        ...

    def build(
        self,
        parts: Mapping[str, bytes],  # kernel, initrd, cmdline
        *,
        seed: int,  # of the owner's own keys
        machines: Sequence[int] = (),  # seeds of emulated machines that may open it
        host_keys: Sequence[bytes] = (),  # of other machines, in PEM
        psw: bytes | None = None,
        flags: Mapping[str, int] | None = None,
    ) -> tuple[bytes, bytes]:
        """The bytes of an image file, and the key that the owner keeps. Raises ValueError."""
        ...

    def is_image(self, head: bytes) -> bool:
        """Whether a file with these first bytes means to be an image."""
        ...

    def pages(self, head: bytes, size: int, seed: int) -> int:
        """How many pages an image of `size` bytes holds. Raises ValueError if the machine cannot open it."""
        ...

    def no_dumps(self, head: bytes) -> str:
        """Why guests of an image cannot be dumped, and what to do about it; nothing if they can."""
        ...

    def describe(self, data: bytes, machines: Sequence[int]) -> Sequence[tuple[str, str]]:
        """What an image file says, in words. Raises ValueError for one that is none."""
        ...

    def measure(self, data: bytes) -> tuple[Sequence[tuple[str, str]], str]:
        """Named digests of an image in hex, and what is wrong with it, if anything. Raises ValueError."""
        ...


class Architecture(Protocol):
    """One slice. `realism` is how real its nested path is: built, prototype, software, ....

    A slice may have four members more, and commands that need one say so where it is missing: `owner`
    (`Owner`), `explain` (`protocol.explain.Explainer`), `feasibility` (`protocol.feasibility.Feasibility`),
    and `explaining(keyboard)`: the same keyboard, whose answers to calls that ended with an error say which
    level refused them, by which check (`nestbed console --explain`).
    `refused_profiles`: what somebody may ask for as a profile and cannot have, each with its reason.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def realism(self) -> str: ...
    @property
    def profiles(self) -> Mapping[str, Profile]: ...
    @property
    def calls(self) -> Mapping[int, CallSpec]: ...
    @property
    def comparison(self) -> Comparison | None:
        """What a comparison needs; None: the architecture has a console, and no host software yet."""
        ...

    def keyboard(
        self,
        depth: int = 0,
        hosts: int = 1,
        memory_mib: int | None = None,
        cpus: int | None = None,
        profile: str = "small",
        seed: int = 0,
        shares: int = 1,
        strategy: Mapping[str, str] | None = None,
    ) -> Keyboard:
        """A fresh machine with `hosts` secure hosts at `depth`. Raises ValueError saying what is allowed.

        `shares`: each of them has what so many hosts of the profile have together. `strategy` has words of a
        scenario, for the levels below the hosts.
        """
        ...


class Comparison(Protocol):
    """The parts of an architecture that a comparison puts together.

    It may have members more. `moves`: how a guest goes to another machine (`protocol.fleet.moving`), and why
    so. `no_locks`: why no call ever meets the lock of another one. Where it is not whole, `lacks`: phases of
    a plan that it has not, each with its reason, which stands in the results. Where a launch is measured
    below, `firmware(data, vcpu_type, kernel, initrd, command_line)` makes an image of a guest's firmware,
    `vcpu_type` is what it takes where none is named, and its rigs have `measurements()`: the digests of all
    guests.
    """

    @property
    def wire(self) -> Iterable[type]:
        """The records that cross links between its levels."""
        ...

    @property
    def prices(self) -> Prices:
        """What its calls cost, in entries of the cost table."""
        ...

    @property
    def reboot(self) -> str:
        """The kind of reset, in the words of its console, that a host's reboot without a word is."""
        ...

    def compose(self, sizes: Sizes, ledger: Ledger, spare: int = 0) -> Rig:
        """A rig whose levels live apart: what is asked of the one below goes by message.

        At depth 0 there is one host, large enough for what `hosts` of them may have; elsewhere L0 has `spare`
        bytes more than its guest hosts take.
        """
        ...

    def software(
        self,
        rig: Any,  # one of its own
        seat: int | None,
        random: Random,
        *,
        pages: str,
        bulk: bool,
        image: Any = None,
        pool: Pool | None = None,
        cpus: Sequence[int] | None = None,
        book: Book | None = None,
        record: Callable[[dict[str, Any], dict[str, Any]], None] | None = None,
    ) -> Software:
        """The software of the host on `seat`; None: L0's own, beside the hypervisor.

        With `pool` it shares the kernel that is up there and has these frames; `cpus` are those that it uses.
        `record` is told what it asks of its level and is answered, in the words of the console.
        """
        ...

    # -- with L1 in a process of its own

    def lower(self, sizes: Sizes, ledger: Ledger, spare: int = 0) -> Rig:
        """L0's half of a composition: its seats are L1's, whatever stands on them; `spare` as there."""
        ...

    def linked(self, memory: OwnMemory, cpus: int) -> Any:
        """What L1 holds of the level below it: messages, and `memory`."""
        ...

    def upper(self, level: Any, sizes: Sizes, ledger: Ledger) -> Step[Rig]:
        """The other half, standing on a linked level."""
        ...

    def image(self, seed: int, pages: int, data: bytes | None) -> Any:
        """An image that the machine of `seed` can open: of `data`, or of `pages` pages made from the seed."""
        ...

    def proving(self, image: Any) -> Any:
        """The image of a guest that will prove what it is, where that has to be part of its launch."""
        ...

    def pack_image(self, image: Any) -> bytes:
        """The bytes of an image as they travel."""
        ...

    def unpack_image(self, data: bytes) -> Any:
        """The image that `pack_image` packed. Raises ValueError for bytes that are none."""
        ...
