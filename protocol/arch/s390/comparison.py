"""What a comparison puts together on s390: compositions whose levels live apart, host software, images."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import msgpack

from protocol.arch.comparison import BaseComparison, Place
from protocol.arch.s390.compose import Rig
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.host.load import scenario_image
from protocol.arch.s390.host.system import Host
from protocol.arch.s390.image import Image, ImagePage
from protocol.arch.s390.image.file import looks_like_one, unpack_file
from protocol.arch.s390.image.pages import PAGE_BYTES
from protocol.arch.s390.linked import WIRE, LinkedUltravisor
from protocol.arch.s390.nesting.strategy import Strategy
from protocol.arch.s390.prices import PRICES
from protocol.arch.s390.profiles import PROFILES, Profile
from protocol.arch.s390.recorded import RecordedUltravisor
from protocol.keyboard.recorded import Say
from protocol.ledger import Ledger
from protocol.nesting.guest_host import OwnMemory
from protocol.tracking import Book

STRATEGY = ("handles", "donation", "teardown", "pages")


class S390Comparison(BaseComparison[Rig]):
    """See `protocol.arch.contract.Comparison`."""

    moves = ("restart", "no call moves a configuration")
    wire = WIRE
    prices = PRICES
    reboot = "load-normal"
    profiles = PROFILES

    def rig(
        self, profile: Profile, depth: int, seed: int, strategy: Mapping[str, str], ledger: Ledger
    ) -> Rig:
        words = Strategy(**{name: strategy[name] for name in STRATEGY if name in strategy})
        return Rig(profile, depth, seed, ledger, apart=True, strategy=words)

    def for_all(self, profile: Profile, hosts: int, memory: int, cpus: int) -> Profile:
        return profile.below(hosts, memory)

    def host(
        self,
        rig: Rig,
        place: Place,
        random: Random,
        *,
        pages: str,
        bulk: bool,
        image: Image | None,
        book: Book | None,
        record: Say | None,
    ) -> Host:
        return Host(
            place.level if record is None else RecordedUltravisor(place.level, record),
            place.cpus,
            random,
            depth=place.depth,
            image=image,
            pages=pages,
            bulk=bulk,
            pool=place.pool,
            book=book,
            below=place.below,
            machine_seed=rig.seed,
        )

    def linked(self, memory: OwnMemory, cpus: int) -> LinkedUltravisor:
        return LinkedUltravisor(memory, [Cpu(number, running=number == 0) for number in range(cpus)])

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
        except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
            raise ValueError(f"no image: {error!r}") from None
        if type(header) is not bytes or not all(map(_is_page, made)):
            raise ValueError(f"no image: a header, then pages of {PAGE_BYTES} bytes at addresses of 64 bits")
        return Image(header, made, b"")


def _is_page(page: ImagePage) -> bool:
    """Who sends an image may have put anything there."""
    numbers = (page.gaddr, *page.tweak)
    right = all(type(number) is int and 0 <= number < 1 << 64 for number in numbers)
    return right and type(page.data) is bytes and len(page.data) == PAGE_BYTES


COMPARISON = S390Comparison()
