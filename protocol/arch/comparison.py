"""What all comparisons have in common: compositions, host software on a seat, plain images."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, Generic, TypeVar

from protocol.cost.price import Prices
from protocol.crossing import Serve
from protocol.effects import Step
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.memory.store import PAGE
from protocol.nesting.composition import Rig, Wanted
from protocol.nesting.guest_host import OwnMemory
from protocol.nesting.sizes import Sizes
from protocol.tracking import Book

R = TypeVar("R", bound=Rig[Any])


@dataclass(frozen=True, slots=True)
class Place:
    """Where host software stands: the level as it meets it, its CPUs, who serves its messages.

    With `pool` it is L0's own, beside guest hosts: the kernel is up already, and it has these frames.
    """

    level: Any
    cpus: Sequence[Any]
    depth: int
    below: Sequence[Serve]
    pool: Pool | None = None


class BaseComparison(Generic[R]):
    """See `protocol.arch.contract.Comparison`. An architecture says how its rig and its hosts are made."""

    wire: ClassVar[Iterable[type]]
    prices: ClassVar[Prices]
    reboot: ClassVar[str]
    profiles: Mapping[str, Any]
    lacks: Mapping[str, str] = {}

    # -- what an architecture says

    @abstractmethod
    def rig(self, profile: Any, depth: int, seed: int, strategy: Mapping[str, str], ledger: Ledger) -> R:
        """A composition with nothing in it yet, whose levels live apart."""

    @abstractmethod
    def for_all(self, profile: Any, hosts: int, memory: int, cpus: int) -> Any:
        """The profile of one machine that has `memory` bytes for the guests of `hosts` hosts."""

    @abstractmethod
    def host(
        self,
        rig: R,
        place: Place,
        random: Random,
        *,
        pages: str,
        bulk: bool,
        image: Any,
        book: Book | None,
        record: Say | None,
    ) -> Any:
        """The software of a host. Raises ValueError for what it cannot."""

    @abstractmethod
    def linked(self, memory: OwnMemory, cpus: int) -> Any:
        """What L1 holds of the level below it: messages, and `memory`."""

    # -- compositions

    def compose(self, sizes: Sizes, ledger: Ledger, spare: int = 0) -> R:
        profile, hosts = self.profiles[sizes.profile], sizes.hosts
        if sizes.depth == 0 and hosts > 1:
            profile, hosts = self.for_all(profile, hosts, sizes.memory_bytes, sizes.cpus), 1
        rig = self.rig(profile, sizes.depth, sizes.seed, sizes.strategy, ledger)
        rig.build(Wanted(hosts, sizes.memory_bytes, sizes.cpus, spare))
        return rig

    def lower(self, sizes: Sizes, ledger: Ledger, spare: int = 0) -> R:
        rig = self._empty(sizes, ledger)
        rig.build_lower(Wanted(sizes.hosts, sizes.memory_bytes, sizes.cpus, spare))
        return rig

    def upper(self, level: Any, sizes: Sizes, ledger: Ledger) -> Step[R]:
        rig = self._empty(sizes, ledger)
        yield from rig.build_upper(level, Wanted(sizes.hosts, sizes.memory_bytes, sizes.cpus))
        return rig

    def _empty(self, sizes: Sizes, ledger: Ledger) -> R:
        return self.rig(self.profiles[sizes.profile], sizes.depth, sizes.seed, sizes.strategy, ledger)

    def proving(self, image: Any) -> Any:
        """The image of a guest that will prove what it is, where that has to be part of its launch."""
        return image

    # -- host software

    def software(
        self,
        rig: R,
        seat: int | None,
        random: Random,
        *,
        pages: str,
        bulk: bool,
        image: Any = None,
        pool: Pool | None = None,
        cpus: Sequence[int] | None = None,
        book: Book | None = None,
        record: Say | None = None,
    ) -> Any:
        level = rig.levels[0] if seat is None else rig.seats[seat].level
        own = level.cpus if seat is None else rig.seats[seat].cpus
        place = Place(
            rig.seen(level),
            own if cpus is None else [own[number] for number in cpus],
            0 if seat is None else rig.depth,
            rig.below(seat),
            pool,
        )
        return self.host(rig, place, random, pages=pages, bulk=bulk, image=image, book=book, record=record)


class PlainImages:
    """Images that are bytes alone, loaded page by page: those of a file, or some drawn from the seed."""

    @abstractmethod
    def drawn(self, seed: int, length: int) -> bytes:
        """`length` bytes that depend on the seed alone."""

    def image(self, seed: int, pages: int, data: bytes | None) -> bytes:
        """Whole pages, whatever the length of a file."""
        return self.drawn(seed, pages * PAGE) if data is None else data + bytes(-len(data) % PAGE)

    def pack_image(self, image: bytes) -> bytes:
        return image

    def unpack_image(self, data: bytes) -> bytes:
        if not data or len(data) % PAGE:
            raise ValueError(f"no image: {len(data)} bytes are no whole pages")
        return data
