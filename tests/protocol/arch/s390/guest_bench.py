"""A machine and its host's hands: blocks by their offsets, tables entry by entry, a guest step by step.

Nothing between a test and the Ultravisor but `call` and `enter`, be it the machine's or an emulation of it;
what stands in a block is written here from the fact sheet, apart from `structs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program, Read, Touch, Uvc
from protocol.arch.s390.image import PCF_ALLOW_DUMP, Component, Image, build, host_key
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import SieExit
from protocol.effects import Fault, run
from protocol.ledger import Ledger

PAGE = 0x1000
MIB = 0x100000
SEED = 11
WORK = 0x8000  # the guest's page for its control blocks
FREE = 0x20000  # pages of the guest from here on are the test's
LOAD, STOPPED, OPERATING = 5, 2, 1


@dataclass
class Reply:
    """A condition code and the block as it is afterwards."""

    cc: int
    block: bytes

    def u(self, at: int, width: int = 8) -> int:
        return int.from_bytes(self.block[at : at + width], "big")

    @property
    def rc(self) -> int:
        return self.u(4, 2)

    def done(self) -> Reply:
        assert (self.cc, self.rc) == (0, 1), f"cc {self.cc} rc {self.rc:#06x}"
        return self


def block(length: int, code: int, **fields: int) -> bytes:
    """A block with fields by place: `q18=5` puts a doubleword at 0x18, `h2e=1` a halfword at 0x2E."""
    made = bytearray(length)
    made[:4] = length.to_bytes(2, "big") + code.to_bytes(2, "big")
    for name, value in fields.items():
        at, width = int(name[1:], 16), {"q": 8, "w": 4, "h": 2, "b": 1}[name[0]]
        made[at : at + width] = value.to_bytes(width, "big")
    return bytes(made)


class Bench:
    """A host at any depth, DAT off, its Ultravisor initialised. By default L0 of a machine of its own."""

    def __init__(self, level: Any = None, seed: int = SEED, drive: Callable[[Any], Any] = run) -> None:
        if level is None:
            cpus = [Cpu(0), Cpu(1, running=False)]
            level = Machine(PROFILES["small"], 2200 * MIB, cpus, CALLS, Ledger(), seed)
        self.uv = level
        self.profile = level.profile
        self.cpu = level.cpus[0]
        self.seed = seed
        self.drive = drive
        self._next = MIB
        origin = 0x8000_0000
        self.call(0x48, 0x000F, q18=origin, q20=self.profile.base_len).done()

    def alloc(self, pages: int = 1) -> int:
        at = self._next
        self._next += pages * PAGE
        return at

    def call(self, length: int, code: int, **fields: int) -> Reply:
        at = 0x3000
        raw = block(length, code, **fields)
        assert self.uv.write(at, raw) is None
        cc = self.drive(self.uv.call(self.cpu, at))
        assert isinstance(cc, int), cc
        return Reply(cc, self.read(at, length))

    def read(self, at: int, length: int = PAGE) -> bytes:
        data = self.uv.read(at, length)
        assert isinstance(data, bytes), data
        return data

    def put(self, at: int, value: int) -> None:
        assert self.uv.write(at, value.to_bytes(8, "big")) is None

    def image(self, components: Iterable[Component] | None = None, **options: Any) -> Image:
        """An image for this machine that may be dumped."""
        options = {"pcf": PCF_ALLOW_DUMP} | options
        parts = list(components or [Component(0x10000, b"a kernel " * 600, 0x7)])
        return build(parts, seed=self.seed, digest=b"test", slots=[host_key(self.seed, "host")], **options)

    def boot(self, image: Image | None = None, mib: int = 2, cpus: int = 1) -> Guest:
        """A started guest with its prefix pages and its work page secure."""
        guest = Guest.create(self, mib, cpus)
        guest.load(image or self.image())
        for gaddr in (0, PAGE, WORK):
            guest.secure(gaddr)
        for number, handle in enumerate(guest.cpus):
            self.call(0x50, 0x0330, q18=handle, b27=OPERATING if number else LOAD).done()
        return guest


@dataclass
class Guest:
    """A secure guest and what its host keeps of it."""

    bench: Bench
    handle: int
    length: int
    asce: int
    tables: dict[int, int]
    pages: dict[int, int] = field(default_factory=dict)  # guest page -> the host's address
    cpus: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    programs: list[Program] = field(default_factory=list)
    image: Image | None = None

    @classmethod
    def create(cls, bench: Bench, mib: int, cpus: int) -> Guest:
        profile = bench.profile
        top = bench.alloc(4)
        assert bench.uv.write(top, (0x20).to_bytes(8, "big") * 2048) is None
        asce = top | 0x100 | 3
        base, variable = bench.alloc(profile.conf_base_len // PAGE), bench.alloc(8 + mib)
        reply = bench.call(
            0x80, 0x0100, q20=base, q28=variable, q40=mib * MIB, q48=bench.alloc(4), q50=asce
        ).done()
        guest = cls(bench, reply.u(0x18), mib * MIB, asce, {})
        for number in range(cpus):
            storage, sie, sida = bench.alloc(), bench.alloc(), bench.alloc()
            made = bench.call(0x60, 0x0120, q20=guest.handle, q28=storage, h36=number, q38=sie).done()
            for at, value in ((0x10, made.u(0x18)), (0x18, guest.handle), (0x68, 2 << 56), (0x180, sida)):
                bench.put(sie + at, value)
            guest.cpus.append(made.u(0x18))
            guest.blocks.append(sie)
            guest.programs.append(Program())
        return guest

    def load(self, image: Image) -> None:
        bench, self.image = self.bench, image
        at = bench.alloc(2)
        assert bench.uv.write(at, image.header) is None
        bench.call(0x50, 0x0300, q18=self.handle, q20=at, w28=len(image.header)).done()
        for page in image.pages:
            where = self.back(page.gaddr)
            assert bench.uv.write(where, page.data) is None
            tweak, offset = page.tweak
            bench.call(0x50, 0x0301, q18=self.handle, q20=page.gaddr, q28=tweak, q30=offset).done()
        bench.call(0x40, 0x0302, q18=self.handle).done()

    def back(self, gaddr: int) -> int:
        """Map a page of the host's for the guest."""
        page = gaddr // PAGE
        if page not in self.pages:
            segment = gaddr // MIB
            if segment not in self.tables:
                table = self.tables[segment] = self.bench.alloc()
                assert self.bench.uv.write(table, (0x400).to_bytes(8, "big") * 256) is None
                self.bench.put((self.asce & ~0xFFF) + 8 * segment, table)
            self.pages[page] = self.bench.alloc()
            self.bench.put(self.tables[segment] + 8 * (page % 256), self.pages[page])
        return self.pages[page]

    def secure(self, gaddr: int) -> int:
        where = self.back(gaddr)
        self.bench.call(0x28, 0x0200, q18=self.handle, q20=gaddr).done()
        return where

    def export(self, gaddr: int) -> bytes:
        """Take a page out and return what the host finds in it."""
        where = self.pages[gaddr // PAGE]
        self.bench.call(0x20, 0x0201, q18=where).done()
        return self.bench.read(where)

    def enter(self, *steps: Any, cpu: int = 0) -> SieExit | Fault:
        program = self.programs[cpu]
        program.steps.extend(steps)
        self.bench.cpu.cr[1] = self.asce
        level = getattr(self.bench.uv, "level", 0) + 1  # the guest's own
        bench = self.bench
        left: SieExit | Fault = bench.drive(
            bench.uv.enter(bench.cpu, self.blocks[cpu], program, False, level)
        )
        return left

    def run(self, *steps: Any, cpu: int = 0) -> list[dict[str, Any]]:
        """Let the guest do steps that need nobody; return their results."""
        left = self.enter(*steps, cpu=cpu)
        assert isinstance(left, SieExit), left
        assert left.code == 0x1C, left
        return self.programs[cpu].collect()

    def write(self, gaddr: int, data: bytes) -> None:
        assert self.run(Touch(gaddr, True, data)) == [{}]

    def read(self, gaddr: int, length: int) -> bytes:
        return bytes.fromhex(self.run(Read(gaddr, length))[0]["hex"])

    def call(self, length: int, code: int, **fields: int) -> Reply:
        """Let the guest issue UVC from its work page."""
        return self.uvc(block(length, code, **fields))

    def uvc(self, raw: bytes) -> Reply:
        done = self.run(Touch(WORK, True, raw), Uvc(WORK), Read(WORK, len(raw)))
        assert set(done[1]) == {"cc"}, done
        return Reply(done[1]["cc"], bytes.fromhex(done[2]["hex"]))

    def stop(self) -> None:
        for handle in self.cpus:
            self.bench.call(0x50, 0x0330, q18=handle, b27=STOPPED).done()

    def destroy_cpus(self) -> None:
        for handle in self.cpus:
            self.bench.call(0x40, 0x0121, q18=handle).done()
