"""How many Ultravisor calls a second, on real control blocks in a machine's memory: s390.

The baseline of the cheap call is the least that any emulation has to do: read a block's header, find the call
by its code, write the answer. That of a guest's life is what its pages cost in cryptography alone: every page
decrypted and hashed. That of a nested call is the same call on the machine itself, so the ratio is what the
levels between cost this program; that of a call through actors is the same call without them.

Seconds are of the CPU's time: nothing here waits, so where there is nothing else to do they are the wall's,
and on a busy machine they are what they would be there.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from hashlib import sha512

import trio

from actors.host import SecureHost
from actors.kvm import Kvm
from actors.runtime.actor import open_runtime
from actors.te import TrustedEntity
from benchmarks.rate import SECONDS, TIMES, rate
from benchmarks.run import Case
from benchmarks.s390_host import Host, at_depth
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.image import decrypt_page
from protocol.arch.s390.linked import LinkedUltravisor
from protocol.arch.s390.structs import ANSWER, ANSWER_AT, EXECUTED, HEADER, PADDR, block
from protocol.effects import Fault, Step, run

IMAGE_PAGES = 64


# -- one cheap call ------------------------------------------------------------------------


def cheap_calls(host: Host, n: int = 1000) -> int:
    """Destroy Secure Storage of a page that is none: all checks, no change. The block is there already."""
    level, cpu, at = host.level, host.issuer.cpu, host.issuer.scratch
    for _ in range(n):
        run(level.call(cpu, at))
    return n


def prepared(depth: int, apart: bool = False) -> Host:
    """A host with the block of such a call in its memory."""
    host = at_depth(depth, apart=apart)
    host.level.write(host.issuer.scratch, bytes(block(0x20, 0x0202, PADDR, host.frames(4096))))
    return host


def succeeded(host: Host) -> bool:
    answer: bytes = host.level.read(host.issuer.scratch + ANSWER_AT, 4)
    return answer == ANSWER.pack(EXECUTED, 0)


def cheap(depth: int) -> float:
    host = prepared(depth)
    value = rate(partial(cheap_calls, host))
    assert succeeded(host)
    return value


async def through_actors() -> float:
    """The same call of L1: its actor asks that of L0's KVM, whose emulation asks the Trusted Entity's."""
    host = prepared(1, apart=True)
    nested, machine = host.rig.below(0)
    async with open_runtime() as runtime:
        te = TrustedEntity(machine, runtime)
        port = Kvm("kvm", te.actor, runtime).add("l1", nested, no_end)
        level = LinkedUltravisor(host.level, host.level.cpus)
        at = host.issuer.scratch

        def perform(cpu: Cpu) -> Step[int | Fault]:
            return level.call(cpu, at)

        l1 = SecureHost("l1", perform, port, runtime)
        cpu = host.issuer.cpu
        done, begin = 0, time.process_time()
        while (took := time.process_time() - begin) < SECONDS * TIMES:
            for _ in range(100):
                await l1.perform(cpu)
            done += 100
        assert succeeded(host)
        return done / took


def no_end(_cause: str) -> Step[None]:
    return
    yield


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
    for depth in (1, 2, 3):
        yield Case(f"UV call, nested at depth {depth}", "call/s", partial(cheap, depth), partial(cheap, 0))
    yield Case(
        "UV call, nested at depth 1, through actors",
        "call/s",
        partial(trio.run, through_actors),
        partial(cheap, 1),
    )
    for depth, path in enumerate(("direct", "nested")):
        name = f"UV calls of a guest's life, {path}, {IMAGE_PAGES} pages"
        yield Case(name, "call/s", partial(life, depth), cryptography)
