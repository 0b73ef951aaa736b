"""What lies between a call and a comparison: how pages come in, and runs of pages in one step.

Ways to bring pages in: pages that a guest of L1 touches for the first time, with each of the strategies of a
scenario's `strategy.pages`; beside that of two faults. Runs: a guest of L1 is loaded with and without folding
the calls of its pages; beside the same call by call. Counts are equal, as tests say; here is what it takes
this program, in seconds of the CPU's time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from random import Random
from statistics import median
from typing import Any

from benchmarks.run import Case
from protocol.arch import load
from protocol.crossing import inline
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

MIB = 1 << 20
TIMES = 3
TOUCHED = 1024
IMAGE_PAGES = 1024
FIRST = 1024  # page of the guest; what is below is the image's
GUEST_MIB = 16


def host(arch: str, pages: str, bulk: bool, image_pages: int) -> tuple[Any, Any]:
    """A guest host on L0 that is up: its software, and who is below."""
    slice_ = load(arch)
    comparison = slice_.comparison
    assert comparison is not None
    memory = slice_.profiles["small"].host_least_mib()[0] + 256
    rig = comparison.compose(Sizes("small", 1, 1, memory * MIB, 2, 1, {"pages": pages}), Ledger())
    image = comparison.image(1, image_pages, None)
    software = comparison.software(rig, 0, Random(1), pages=pages, bulk=bulk, image=image)
    below = rig.below(0)
    inline(software.perform(op.BootHost()), below)
    return software, below


def touched(pages: str) -> float:
    """Pages a second that a guest of L1 touches for the first time."""
    rates = []
    for _ in range(TIMES):
        software, below = host("s390", pages, bulk=False, image_pages=2)
        for act in (op.Create(0, GUEST_MIB, 1), op.Load(0), op.Start(0)):
            inline(software.perform(act), below)
        begin = time.process_time()
        inline(software.perform(op.Touch(0, 0, op.Pages(FIRST, TOUCHED, TOUCHED))), below)
        rates.append(TOUCHED / (time.process_time() - begin))
    return median(rates)


def loaded(arch: str, bulk: bool) -> float:
    """Pages a second of a guest that is loaded and destroyed again."""
    rates = []
    software, below = host(arch, "two_fault", bulk, IMAGE_PAGES)
    for number in range(TIMES):
        begin = time.process_time()
        for act in (op.Create(number, GUEST_MIB, 1), op.Load(number), op.Start(number), op.Destroy(number)):
            inline(software.perform(act), below)
        rates.append(IMAGE_PAGES / (time.process_time() - begin))
    return median(rates)


def cases() -> Iterable[Case]:
    for pages in ("merged_l1", "merged_l0", "prefault"):
        beside = partial(touched, "two_fault")
        yield Case(f"first touches of L1's guest, pages {pages}", "page/s", partial(touched, pages), beside)
    beside = partial(loaded, "s390", False)
    yield Case("s390: a guest of L1, its pages in runs", "page/s", partial(loaded, "s390", True), beside)
