"""One s390 secure host at the keyboard: its CPUs, the instructions UVC and SIE, its guests' programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program
from protocol.arch.s390.keyboard import steps
from protocol.arch.s390.keyboard.port import Level
from protocol.arch.s390.keyboard.spaces import Absolute, home, real
from protocol.arch.s390.structs import HEADER, SieExit
from protocol.effects import Fault, Step
from protocol.keyboard import AllocationBook, Answer, Begun, Complaint, Fields, Raised, SecureHost, Space
from protocol.memory.store import PAGE, PAGE_SHIFT

FIRST_FREE = 1 << 20  # the first MiB is never given out
FACILITIES = (1, 2, 7, 158)  # z/Architecture installed and active, STFLE itself, Ultravisor calls
FACILITY_BYTES = 24
RESETS = ("modified-clear", "load-normal", "load-clear")
CONTROL = ("1", "7", "13")  # control registers that the Ultravisor or SIE looks at
PROGRAMS = 65536


class Seat(Protocol):
    """Where a host sits: the level that it meets changes when the host is killed and a fresh one comes."""

    @property
    def level(self) -> Level: ...
    @property
    def cpus(self) -> list[Cpu]: ...
    @property
    def memory_bytes(self) -> int: ...


class S390Host(SecureHost):
    """`guest_level` is the level at which its guests run; `clock` is the machine's virtual TOD clock."""

    def __init__(
        self,
        seat: Seat,
        guest_level: int,
        clock: Callable[[], int],
        reset: Callable[[str], Step[None]],
        kill: Callable[[], Step[None]],
    ) -> None:
        super().__init__(AllocationBook([(FIRST_FREE, seat.memory_bytes)], PAGE))
        self.memory = seat.memory_bytes
        self.cpus = len(seat.cpus)
        self._seat = seat
        self._guest_level = guest_level
        self._clock = clock
        self._do_reset = reset
        self._do_kill = kill
        self._programs: dict[int, Program] = {}
        self._counted: dict[str, defaultdict[str, int]] = {
            name: defaultdict(int) for name in ("uvc", "sie", "insn", "exits", "pgm")
        }

    # -- memory ----------------------------------------------------------------------------------------------

    @property
    def spaces(self) -> str:
        return "phys, real, home"

    def space(self, name: str, cpu: int) -> Space | None:
        level = self._seat.level
        if name == "phys":
            return Absolute(level)
        if name == "real":
            return real(level, self._seat.cpus[cpu])
        return home(level, self._seat.cpus[cpu]) if name == "home" else None

    def in_use(self, address: int, length: int) -> int | None:
        refusal = self._seat.level.refusal(address, length)
        return None if refusal is None else refusal.address

    def zero(self, address: int, length: int) -> None:
        self._seat.level.clear(np.arange(address >> PAGE_SHIFT, (address + length) >> PAGE_SHIFT))

    # -- instructions ----------------------------------------------------------------------------------------

    def may_issue(self, cpu: int) -> None:
        if not self._seat.cpus[cpu].running:
            raise Complaint("bad_value", f"CPU {cpu} is stopped and issues nothing", "cpu")

    def call(self, fields: Fields, cpu: int, park: bool) -> Begun:
        """UVC. R1 has no meaning that is known, so its contents are taken and not looked at."""
        r2 = fields.number("r2")
        fields.number("r1", 0)
        m3, m4 = fields.number("m3", 0, high=15), fields.number("m4", 0, high=15)
        return Begun(self._uvc(self._seat.cpus[cpu], r2, m3, m4, park))

    def _uvc(self, cpu: Cpu, r2: int, m3: int, m4: int, park: bool) -> Step[Answer]:
        level = self._seat.level
        self._counted["uvc"][self._called(level, cpu, r2)] += 1
        cc = yield from level.call(cpu, r2, m3, m4, park)
        return self.fault(cc) if isinstance(cc, Fault) else {"cc": cc}

    @staticmethod
    def _called(level: Level, cpu: Cpu, r2: int) -> str:
        """The name of the call that a block asks for; its code if there is no such call."""
        header = level.home_read(cpu, r2, HEADER.size)
        if isinstance(header, Fault):
            return "inaccessible"
        code = HEADER.unpack(header)[1]
        spec = level.calls.get(code)
        return spec.name if spec is not None else f"0x{code:04x}"

    def insn(self, fields: Fields, cpu: int) -> Answer:
        name = fields.choice("name", ("stfle", "stck"))
        self._counted["insn"][name] += 1
        if name == "stck":
            return {"tod": hex(self._clock()), "cc": 0}
        return {"facilities": facility_list().hex(), "cc": 0}

    def enter(self, fields: Fields, cpu: int, stay: bool, park: bool) -> Begun:
        block = fields.number("vcpu")
        if park:
            raise Complaint("bad_value", "SIE cannot be parked; stay and kick hold a CPU in a guest", "park")
        return Begun(self._sie(self._seat.cpus[cpu], block, self._program(block), stay), block)

    def _program(self, block: int) -> Program:
        """The program of the guest CPU with this block; raises Complaint where too many have one."""
        program = self._programs.get(block)
        if program is None:
            if len(self._programs) >= PROGRAMS:
                raise Complaint("limit", f"vcpu: at most {PROGRAMS} guest CPUs have a program", "vcpu")
            program = self._programs[block] = Program()
        return program

    def _sie(self, cpu: Cpu, block: int, program: Program, stay: bool) -> Step[Answer]:
        self._counted["sie"]["enter"] += 1
        left = yield from self._seat.level.enter(cpu, block, program, stay, self._guest_level)
        if isinstance(left, Fault):
            return self.fault(left, steps=program.collect())
        return self._exit(left, program)

    def _exit(self, left: SieExit, program: Program) -> Answer:
        code = f"0x{left.code:02x}"
        self._counted["exits"][code] += 1
        return {
            "icptcode": code,
            "ipa": hex(left.ipa),
            "ipb": hex(left.ipb),
            "gprs": [hex(value) for value in left.gprs],
            "steps": program.collect(),
        }

    def queue(self, fields: Fields, replace: bool) -> tuple[int, int]:
        """Append steps; a step at the head that the next entry finishes stays there but for `replace`."""
        block = fields.number("vcpu")
        more = steps.KINDS.parse(fields)
        program = self._program(block)
        steps.KINDS.queue(program, more, replace)
        return block, len(program.steps)

    def collect(self, vcpu: object) -> list[dict[str, Any]]:
        assert isinstance(vcpu, int)
        return self._programs[vcpu].collect()

    def settings(self, fields: Fields, cpu: int) -> dict[str, Any]:
        """Everything is looked at before anything is set."""
        it = self._seat.cpus[cpu]
        flags = {name: fields.flag(name) for name in ("running", "problem_state", "dat") if name in fields}
        prefix = fields.number("prefix", it.prefix)
        if prefix & ~z.PREFIX_MASK or prefix + z.LOWCORE > self.memory:
            raise fields.wrong(
                "prefix", "a multiple of 0x2000 below 2 GiB, with two pages of memory behind it"
            )
        cr = fields.inner("cr", {})
        cr.only(*CONTROL)
        registers = {int(name): cr.number(name) for name in cr}
        for name, flag in flags.items():
            setattr(it, name, flag)
        it.prefix = prefix
        for register, value in registers.items():
            it.cr[register] = value
        return {
            "running": it.running,
            "problem_state": it.problem_state,
            "dat": it.dat,
            "prefix": hex(it.prefix),
            "cr": {name: hex(it.cr[int(name)]) for name in CONTROL},
        }

    def fault(self, fault: Fault, **more: object) -> Raised:
        self._counted["pgm"][fault.name] += 1
        body = {
            "code": f"0x{fault.code:02x}",
            "name": fault.name,
            "address": hex(fault.address),
            "write": fault.write,
        }
        return Raised(body | more)

    # -- the end ---------------------------------------------------------------------------------------------

    @property
    def reset_kinds(self) -> tuple[str, ...]:
        return RESETS

    def reset(self, kind: str) -> Step[None]:
        """No guest survives a reset of its host, hence no program."""
        self._programs.clear()
        return self._do_reset(kind)

    def kill(self) -> Step[None]:
        self._programs.clear()
        return self._do_kill()

    def issued(self) -> dict[str, Any]:
        return {name: dict(counts) for name, counts in self._counted.items()}


def facility_list() -> bytes:
    """What STFLE stores: one bit for each facility, the first is the leftmost."""
    bits = sum(1 << (8 * FACILITY_BYTES - 1 - facility) for facility in FACILITIES)
    return bits.to_bytes(FACILITY_BYTES, "big")
