"""What a comparison puts together on s390: compositions whose levels live apart, host software, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import msgpack

from protocol.arch.s390.compose import Rig, compose, lower, upper
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.host import Host
from protocol.arch.s390.host.load import scenario_image
from protocol.arch.s390.image import Image, ImagePage
from protocol.arch.s390.image.file import looks_like_one, unpack_file
from protocol.arch.s390.linked import WIRE, LinkedUltravisor
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.prices import PRICES
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.recorded import RecordedUltravisor
from protocol.effects import Step
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.memory.pool import Pool
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

STRATEGY = ("handles", "donation", "teardown", "pages")


class S390Comparison:
    """See `protocol.arch.contract.Comparison`."""

    wire = WIRE
    prices = PRICES
    reboot = "load-normal"

    def compose(
        self,
        profile: str,
        depth: int,
        hosts: int,
        memory_bytes: int,
        cpus: int,
        seed: int,
        strategy: Mapping[str, str],
        ledger: Ledger,
        spare: int = 0,
    ) -> Rig:
        words = _strategy(strategy)
        sizes = PROFILES[profile]
        if depth == 0:
            sizes = sizes.below(hosts, memory_bytes)
            hosts = 1
        return compose(sizes, depth, hosts, memory_bytes, cpus, seed, words, ledger, apart=True, spare=spare)

    def software(
        self,
        rig: Rig,
        seat: int | None,
        random: Random,
        *,
        pages: str,
        bulk: bool,
        image: Image | None = None,
        pool: Pool | None = None,
        cpus: Sequence[int] | None = None,
        book: Book | None = None,
        record: Say | None = None,
    ) -> Host:
        level = rig.seats[seat].level if seat is not None else rig.levels[0]
        below = rig.below(seat) if seat is not None else rig.below_l0()
        depth = rig.depth if seat is not None else 0
        chosen = level.cpus if cpus is None else [level.cpus[number] for number in cpus]
        seen = rig.seen(level)
        return Host(
            seen if record is None else RecordedUltravisor(seen, record),
            chosen,
            random,
            depth=depth,
            image=image,
            pages=pages,
            bulk=bulk,
            pool=pool,
            book=book,
            below=below,
            machine_seed=rig.seed,
        )

    # -- with L1 in a process of its own

    def lower(
        self,
        profile: str,
        depth: int,
        hosts: int,
        memory_bytes: int,
        cpus: int,
        seed: int,
        strategy: Mapping[str, str],
        ledger: Ledger,
        spare: int = 0,
    ) -> Rig:
        words = _strategy(strategy)
        return lower(PROFILES[profile], depth, hosts, memory_bytes, cpus, seed, words, ledger, spare)

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedUltravisor:
        return LinkedUltravisor(memory, [Cpu(number, running=number == 0) for number in range(cpus)])

    def upper(
        self,
        level: LinkedUltravisor,
        profile: str,
        depth: int,
        hosts: int,
        memory_bytes: int,
        cpus: int,
        seed: int,
        strategy: Mapping[str, str],
        ledger: Ledger,
    ) -> Step[Rig]:
        words = _strategy(strategy)
        return upper(level, PROFILES[profile], depth, hosts, memory_bytes, cpus, seed, words, ledger)

    def image(self, seed: int, pages: int, data: bytes | None) -> Image:
        if data is not None and looks_like_one(data):
            return unpack_file(data)
        return scenario_image(seed, seed, pages, data)

    def pack_image(self, image: Image) -> bytes:
        """The header, then each page with its address and tweak. What the owner keeps does not travel."""
        pages = [(page.gaddr, *page.tweak, page.data) for page in image.pages]
        packed: bytes = msgpack.packb((image.header, pages))
        return packed

    def unpack_image(self, data: bytes) -> Image:
        try:
            header, pages = msgpack.unpackb(data)
            made = tuple(ImagePage(gaddr, (prefix, offset), page) for gaddr, prefix, offset, page in pages)
        except (ValueError, TypeError) as error:
            raise ValueError(f"no image: {error}") from None
        return Image(header, made, b"")


def _strategy(words: Mapping[str, str]) -> Strategy:
    return Strategy(**{name: words[name] for name in STRATEGY if name in words})


COMPARISON = S390Comparison()
