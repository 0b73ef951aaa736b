"""Every call of an architecture, with any block, in any state: an answer of the architecture, or a bug.

A rig is brought to some state by real software, which is stopped anywhere. Then calls come: a row of the call
table with anything in its registers and its block, among it the numbers that the software used. Only what an
architecture can answer may come back. After some hundred calls all books have to agree, the host is killed,
and nothing of it may be left.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from draw import number

from protocol.arch import load
from protocol.calls import CallSpec
from protocol.crossing import inline
from protocol.effects import Step
from protocol.errors import OperationFailed
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op
from protocol.plan.operations import Pages
from protocol.soak.hostile import Loot, looked_at
from protocol.soak.island import PROFILE

MIB = 1 << 20
CALLS = 1000  # of one rig
BLOCKS_AT = 0x20_0000  # where blocks are built, in a host's own memory
HOSTS = 2


class Rig:
    """A composition whose host 0 is fuzzed; host 1 lives beside it."""

    def __init__(self, arch: str, random: Random) -> None:
        self.arch = load(arch)
        self.random = random
        self.comparison = self.arch.comparison
        depth = random.choice((1, 1, 2))
        least = self.arch.profiles[PROFILE].host_least_mib()[0]
        memory = max(128, least + 8) * MIB
        seed = random.getrandbits(20)
        self.rig = self.comparison.compose(Sizes(PROFILE, depth, HOSTS, memory, 2, seed), Ledger())
        self.image = self.comparison.image(seed, 3, None)
        self.loot = Loot(Random(seed))
        for seat in reversed(range(HOSTS)):
            self._live(seat, random.randrange(9) if seat == 0 else 4)
        seat = self.rig.seats[0]
        self.level, self.seen = seat.level, self.rig.seen(seat.level)

    def _live(self, seat: int, acts: int) -> None:
        """So many acts of a life."""
        software = self.comparison.software(
            self.rig, seat, Random(seat), pages="two_fault", bulk=False, image=self.image
        )
        life = [
            op.BootHost(), op.Create(0, 16, 2), op.Load(0), op.Start(0),
            op.Write(0, 0, 1600, b"what a guest has"), op.Share(0, 1, Pages(2048, 1, 1)),
            op.Touch(0, 0, Pages(1100, 32, 4, 1)), op.Create(1, 16, 1),
        ]  # fmt: skip
        for act in life[:acts]:
            step = looked_at(software.perform(act), self.loot, self.rig.seats[seat].level)
            inline(step, self.rig.below(seat))

    def known(self) -> list[int]:
        return [BLOCKS_AT, BLOCKS_AT + 0x1000, *self.loot.numbers]

    def check(self) -> None:
        """The books agree; then host 0 dies, and at the end of both nothing is left."""
        assert not list(self.rig.leaks()), list(self.rig.leaks())[:4]
        for seat in range(HOSTS):
            inline(self.rig.end(seat, "l1_crash"), self.rig.below(seat)[1:])
        left = {kind: count for kind, count in self.rig.remains().items() if count}
        assert not left, left


def s390(rig: Rig, spec: CallSpec, random: Random) -> Step[Any]:
    block = bytearray(max(spec.length, 8))
    for at in range(0, len(block) - 7, 8):
        block[at : at + 8] = number(random, rig.known()).to_bytes(8, "big")
    length = spec.length if random.random() < 0.9 else number(random, bits=16)
    block[:8] = length.to_bytes(2, "big") + spec.code.to_bytes(2, "big") + bytes(4)
    at = BLOCKS_AT if random.random() < 0.9 else number(random, rig.known())
    rig.level.write(BLOCKS_AT, bytes(block))
    cpu = random.choice(rig.rig.seats[0].cpus)
    return rig.seen.call(cpu, at)


def sev(rig: Rig, spec: CallSpec, random: Random) -> Step[Any]:
    block = b"".join(number(random, rig.known()).to_bytes(8, "little") for _ in range(spec.length // 8 + 1))
    if random.random() < 0.7:  # many buffers begin with their own length
        block = spec.length.to_bytes(4, "little") + block[4:]
    rig.level.write(BLOCKS_AT, block)
    at = BLOCKS_AT if random.random() < 0.9 else number(random, rig.known())
    return rig.seen.call(random.choice(rig.rig.seats[0].cpus), spec.code << 16 | 1, at)


def tdx(rig: Rig, spec: CallSpec, random: Random) -> Step[Any]:
    registers = [number(random, rig.known()) if random.random() < 0.8 else 0 for _ in range(16)]
    registers[0] = spec.code | (random.randrange(3) << 16 if random.random() < 0.2 else 0)
    if random.random() < 0.3:
        for address in (BLOCKS_AT, BLOCKS_AT + 0x1000):
            rig.level.write(
                address, b"".join(number(random, rig.known()).to_bytes(8, "little") for _ in range(64))
            )
    return rig.seen.call(random.choice(rig.rig.seats[0].cpus), registers)


def pef(rig: Rig, spec: CallSpec, random: Random) -> Step[Any]:
    registers = [number(random, rig.known()) if random.random() < 0.5 else 0 for _ in range(32)]
    registers[3] = spec.code
    return rig.seen.call(random.choice(rig.rig.seats[0].cpus), registers)


DEALERS = {"s390": s390, "sev": sev, "tdx": tdx, "pef": pef}


def calls(arch: str, random: Random) -> Iterator[str]:
    """Deal one rig's calls; yields the name of each call that was answered."""
    rig = Rig(arch, random)
    rows = [spec for spec in rig.arch.calls.values() if spec.for_host() or random.random() < 0.2]
    for _ in range(CALLS):
        spec = random.choice(rows)
        try:
            inline(DEALERS[arch](rig, spec, random), rig.rig.below(0))
        except OperationFailed as error:
            raise AssertionError(f"{spec.name}: {error!r} is no answer of an architecture") from error
        yield spec.name
    rig.check()
