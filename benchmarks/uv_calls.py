"""How many Ultravisor calls a second, on real control blocks in a machine's memory: s390, direct.

The baseline of the cheap call is the least that any emulation has to do: read a block's header, find the call
by its code, write the answer. That of a guest's life is what its pages cost in cryptography alone: every page
decrypted once, hashed twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha512
from statistics import median

from benchmarks.run import Case
from benchmarks.s390_host import Host, at_depth
from protocol.arch.s390.image import decrypt_page
from protocol.arch.s390.structs import ANSWER, ANSWER_AT, EXECUTED, HEADER, PADDR, block
from protocol.effects import run

SECONDS = 0.2
TIMES = 5
IMAGE_PAGES = 64


def rate(work: Callable[[], int]) -> float:
    """Units a second: `work` does some and says how many. The median of several, after one to warm up."""
    work()
    rates = []
    for _ in range(TIMES):
        done, begin = 0, time.perf_counter()
        while (took := time.perf_counter() - begin) < SECONDS:
            done += work()
        rates.append(done / took)
    return median(rates)


# -- one cheap call ------------------------------------------------------------------------


def cheap_calls(host: Host, n: int = 1000) -> int:
    """Destroy Secure Storage of a page that is none: all checks, no change. The block is there already."""
    level, cpu, at = host.level, host.issuer.cpu, host.issuer.scratch
    for _ in range(n):
        run(level.call(cpu, at))
    return n


def cheap(depth: int) -> float:
    host = at_depth(depth)
    level, at = host.level, host.issuer.scratch
    level.write(at, bytes(block(0x20, 0x0202, PADDR, host.frames(4096))))
    value = rate(partial(cheap_calls, host))
    assert level.read(at + ANSWER_AT, 4) == ANSWER.pack(EXECUTED, 0)
    return value


def least() -> float:
    """A block read, its call found, its answer written: no state, no checks."""
    memory = bytearray(block(0x20, 0x0202, PADDR, 0))
    calls = {0x0202: PADDR.unpack_from}

    def work() -> int:
        for _ in range(1000):
            raw = bytes(memory)
            _, code, _, _ = HEADER.unpack_from(raw)
            calls[code](raw)
            memory[ANSWER_AT : ANSWER_AT + 4] = ANSWER.pack(EXECUTED, 0)
        return 1000

    return rate(work)


# -- a guest's life ------------------------------------------------------------------------


def life(depth: int) -> float:
    """Calls a second over whole lives: create, load, verify, destroy a guest with IMAGE_PAGES pages.

    What the host does besides (its tables, putting pages into its memory) is in the time, not in the count.
    """
    host = at_depth(depth)
    image = host.image(IMAGE_PAGES)
    return rate(partial(host.life, image))


def cryptography() -> float:
    """The same number of pages, decrypted and hashed, as calls a second."""
    key, page = bytes(range(64)), bytes(4096)

    def work() -> int:
        for number in range(IMAGE_PAGES):
            decrypt_page(key, (0, number << 12), page)
            sha512(page)
        return Host.calls_of_a_life(IMAGE_PAGES)

    return rate(work)


def cases() -> Iterable[Case]:
    """Yield what this module measures."""
    yield Case("UV call, direct, nothing to do", "call/s", partial(cheap, 0), least)
    yield Case(
        f"UV calls of a guest's life, direct, {IMAGE_PAGES} pages", "call/s", partial(life, 0), cryptography
    )
