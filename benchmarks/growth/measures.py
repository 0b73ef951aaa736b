"""The four dimensions: guests of a host, pages of a guest, guest hosts of a machine, levels.

Each yields its curves for one architecture. What is timed is the same act at every size, so a curve of it has
to be flat (guests, L1s), or is divided by its size first (pages); only with depth an act itself gets more.
Bytes are those of Python's objects and of numpy's arrays, by tracemalloc, in a run in which nothing is timed.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.growth.curve import Curve, Kind, Law
from benchmarks.growth.ground import TIMES, Ground, guests_at_most, image_of, paths

MANY = 1_000  # pages of a guest whose life is timed once
LIFE = "a life of a guest"


@dataclass(frozen=True, slots=True)
class Sizes:
    """The series. `traced` and `traced_pages`: up to which size memory is looked at."""

    guests: tuple[int, ...]
    pages: tuple[int, ...]
    hosts: tuple[int, ...]
    depths: tuple[int, ...]
    traced: int
    traced_pages: int


FULL = Sizes(
    guests=(10, 32, 100, 316, 1_000, 3_162, 10_000),
    pages=(16, 64, 256, 1_024, 4_096, 16_384, 65_536),
    hosts=(1, 2, 4, 8, 16, 32, 64),
    depths=(0, 1, 2, 3, 4),
    traced=3_162,
    traced_pages=4_096,
)
QUICK = Sizes(
    guests=(2, 4, 8),
    pages=(16, 32, 64),
    hosts=(1, 2, 4),
    depths=(0, 1, 2, 3),
    traced=8,
    traced_pages=64,
)


def guests(arch: str, sizes: Sizes) -> Iterator[Curve]:
    """One guest more on a host that has n of them at rest."""
    series = [n for n in sizes.guests if n < guests_at_most(arch)]
    for depth in (0, 1):
        times, counts = [], []
        ground = Ground(arch, depth, guests=series[-1] + 2)
        warm_up(ground)
        have = 0
        for n in series:
            for number in range(have, n):
                ground.make(0, number)
            have = n
            counts.append((n, float(ground.exits_of_life(0, n))))
            times.append((n, ground.time_of_life(0, n)))
        of = ("guests", arch, paths(depth))
        yield Curve(*of, Kind.CPU, f"{LIFE}, n others at rest", Law.SAME, tuple(times))
        yield Curve(*of, Kind.COUNT, f"exits of {LIFE}, n others at rest", Law.SAME, tuple(counts))
        held = _bytes_of_guests(arch, depth, [n for n in series if n <= sizes.traced])
        yield Curve(*of, Kind.MEMORY, "n guests at rest", Law.LINEAR, held)


def _bytes_of_guests(arch: str, depth: int, series: list[int]) -> tuple[tuple[int, float], ...]:
    ground = Ground(arch, depth, guests=series[-1] + 2)
    warm_up(ground)
    held, have = [], 0
    with traced() as now:
        for n in series:
            for number in range(have, n):
                ground.make(0, number)
            have = n
            held.append((n, now()))
    return tuple(held)


def pages(arch: str, sizes: Sizes) -> Iterator[Curve]:
    """A guest with n pages of image: brought up, taken down, each page by a call of its own."""
    images = {n: image_of(arch, n) for n in sizes.pages}
    for depth in (0, 1):
        times, counts, held = [], [], []
        for n, image in images.items():
            ground = Ground(arch, depth, pages=n, image=image)
            counts.append((n, float(ground.exits_of_life(0, 0))))
            times.append((n, ground.time_of_life(0, 0, TIMES if n < MANY else 1) / n))
            if n <= sizes.traced_pages:
                held.append((n, _bytes_of_pages(Ground(arch, depth, pages=n, image=image))))
        of = ("pages", arch, paths(depth))
        yield Curve(*of, Kind.CPU, f"{LIFE} of n pages, for each page", Law.SAME, tuple(times))
        yield Curve(*of, Kind.COUNT, f"exits of {LIFE} of n pages", Law.LINEAR, tuple(counts))
        yield Curve(*of, Kind.MEMORY, "a guest of n pages at rest", Law.LINEAR, tuple(held))


def _bytes_of_pages(ground: Ground) -> float:
    warm_up(ground)
    with traced() as now:
        ground.make(0, 0)
        return now()


def hosts(arch: str, sizes: Sizes) -> Iterator[Curve]:
    """The last of n guest hosts, each of which has a guest at rest."""
    times, counts = [], []
    for n in sizes.hosts:
        ground = Ground(arch, 1, hosts=n)
        for seat in range(n):
            ground.make(seat, 0)
        warm_up(ground, n - 1)
        counts.append((n, float(ground.exits_of_life(n - 1, 1))))
        times.append((n, ground.time_of_life(n - 1, 1)))
    of = ("L1s", arch, "nested")
    yield Curve(*of, Kind.CPU, f"{LIFE} on the last of n hosts", Law.SAME, tuple(times))
    yield Curve(*of, Kind.COUNT, f"exits of {LIFE} on the last of n hosts", Law.SAME, tuple(counts))
    held = _bytes_of_hosts(arch, [n for n in sizes.hosts if n <= sizes.traced])
    yield Curve(*of, Kind.MEMORY, "n hosts that came up, a guest each", Law.LINEAR, held)


def _bytes_of_hosts(arch: str, series: list[int]) -> tuple[tuple[int, float], ...]:
    """What booting takes and one guest of each; the machine that has room for all is there before."""
    ground = Ground(arch, 1, hosts=series[-1] + 1, boot=False)
    warm_up(ground, series[-1], boot=True)
    held, have = [], 0
    with traced() as now:
        for n in series:
            for seat in range(have, n):
                ground.boot(seat)
                ground.make(seat, 0)
            have = n
            held.append((n, now()))
    return tuple(held)


def depth(arch: str, sizes: Sizes) -> Iterator[Curve]:
    """The same life of a guest, d levels up."""
    times, counts = [], []
    for d in sizes.depths:
        ground = Ground(arch, d)
        warm_up(ground)
        counts.append((d, float(ground.exits_of_life(0, 1))))
        times.append((d, ground.time_of_life(0, 1)))
    yield Curve("depth", arch, "nested", Kind.CPU, f"{LIFE} at depth n", Law.LINEAR, tuple(times))
    yield Curve(
        "depth", arch, "nested", Kind.COUNT, f"exits of {LIFE} at depth n", Law.DOUBLING, tuple(counts)
    )


DIMENSIONS: dict[str, Callable[[str, Sizes], Iterator[Curve]]] = {
    "guests": guests,
    "pages": pages,
    "L1s": hosts,
    "depth": depth,
}


def warm_up(ground: Ground, seat: int = 0, boot: bool = False) -> None:
    """Make what is made once for all: nothing of it is part of a curve."""
    if boot:
        ground.boot(seat)
    for _ in range(2):
        ground.live(seat, 1)


@contextmanager
def traced() -> Iterator[Callable[[], float]]:
    """Count bytes; what is given says how many are held that were not before."""
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]

    def now() -> float:
        gc.collect()
        return float(tracemalloc.get_traced_memory()[0] - before)

    try:
        yield now
    finally:
        tracemalloc.stop()
