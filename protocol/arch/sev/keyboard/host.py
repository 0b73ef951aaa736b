"""One AMD secure host at the keyboard: the mailbox, its CPUs' instructions, VMRUN, its guests' programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from protocol.arch.sev.books import HIGH_DRAM
from protocol.arch.sev.cpu import X86Fault
from protocol.arch.sev.guest import Program
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.instructions import FIELD_OF, INSTRUCTIONS, Registers
from protocol.arch.sev.keyboard import steps
from protocol.arch.sev.keyboard.sequence import Software
from protocol.arch.sev.level import Level
from protocol.arch.sev.machine.steps import shown
from protocol.arch.sev.structs import TWO_MIB, Exit
from protocol.effects import Fault, Step, run
from protocol.keyboard import AllocationBook, Answer, Begun, Complaint, Fields, Raised, SecureHost, Space
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting.composition import Seat

RESETS = ("power",)
PROGRAMS = 65536
U32_MAX = 0xFFFF_FFFF


class Phys:
    """The host's memory; its linear map is identity."""

    def __init__(self, seat: Seat) -> None:
        self._level: Level = seat.level

    def read(self, address: int, length: int) -> bytes | Fault:
        return self._level.read(address, length)

    def write(self, address: int, data: bytes) -> Fault | None:
        return self._level.write(address, data)

    def fill(self, address: int, length: int, byte: int) -> Fault | None:
        """All of it is looked at before any of it is written."""
        refused = self._level.refusal(address, length)
        if refused is not None:
            return refused
        if not byte and not address % PAGE and not length % PAGE:
            self._level.clear(np.arange(address >> PAGE_SHIFT, address + length >> PAGE_SHIFT))
            return None
        done = 0
        while done < length:
            n = min(length - done, 1 << 20)
            self._level.write(address + done, bytes((byte,)) * n)
            done += n
        return None


class Book(AllocationBook):
    """Memory from 2 MiB on is given out first; the MiB below it only where nothing else fits."""

    def take(
        self, length: int, align: int, above: int, below: int, in_use: Callable[[int, int], int | None]
    ) -> int | None:
        for lowest in (max(above, TWO_MIB), above):
            found = super().take(length, align, lowest, below, in_use)
            if found is not None:
                return found
        return None


class SevHost(SecureHost):
    """`guest_level` is the level at which its guests run; `parked` says whether the mailbox stands still."""

    def __init__(
        self,
        seat: Seat,
        guest_level: int,
        parked: Callable[[], bool],
        reset: Callable[[str], Step[None]],
        kill: Callable[[], Step[None]],
        key_of: Callable[[int], bytes],
    ) -> None:
        super().__init__(Book([(HIGH_DRAM, seat.memory_bytes)], PAGE))
        self.memory = seat.memory_bytes
        self.cpus = len(seat.cpus)
        self.hands = Hands(seat, guest_level)
        self._seat = seat
        self._parked = parked
        self._do_reset = reset
        self._do_kill = kill
        self._programs: dict[int, Program] = {}
        self.software = Software(self.hands, self._allocate, key_of)

    # -- memory -----------------------------------------------------------------------------------------

    @property
    def spaces(self) -> str:
        return "phys"

    def space(self, name: str, cpu: int) -> Space | None:
        return Phys(self._seat) if name == "phys" else None

    def in_use(self, address: int, length: int) -> int | None:
        refusal = self._seat.level.refusal(address, length)
        return None if refusal is None else refusal.address

    def zero(self, address: int, length: int) -> None:
        self._seat.level.clear(np.arange(address >> PAGE_SHIFT, address + length >> PAGE_SHIFT))

    # -- instructions -----------------------------------------------------------------------------------

    def may_issue(self, cpu: int) -> None:
        """Every CPU always runs."""

    def call(self, fields: Fields, cpu: int, park: bool) -> Begun:
        """The mailbox is one for all CPUs, so a parked command keeps every other out."""
        cmdresp = fields.number("cmdresp", high=U32_MAX)
        address = fields.number("hi", 0, high=U32_MAX) << 32 | fields.number("lo", 0, high=U32_MAX)
        lose = fields.flag("lose")
        if lose and not hasattr(self._seat.level, "below"):
            raise Complaint("bad_request", "nothing is between this host and its processor: lose", "lose")
        if self._parked():
            raise Complaint("bad_request", "a command is parked; resume it first", "op")
        return Begun(self._command(cpu, cmdresp, address, park, lose))

    def _command(self, cpu: int, cmdresp: int, address: int, park: bool, lose: bool) -> Step[Answer]:
        answer = yield from self.hands.mailbox(cpu, cmdresp, address, park, lose)
        return {"cmdresp": f"{answer:#x}", "lo": "0x0", "hi": "0x0"}

    def insn(self, fields: Fields, cpu: int) -> Answer:
        name = fields.choice("name", tuple(INSTRUCTIONS))
        _, operands = INSTRUCTIONS[name]
        registers = {FIELD_OF[operand]: fields.number(operand, 0) for operand in operands}
        results = run(self.hands.instruction(cpu, name, Registers(**registers)))
        if isinstance(results, Fault):
            return self.fault(results)
        return {register: hex(value) for register, value in results.items()}

    def enter(self, fields: Fields, cpu: int, stay: bool, park: bool) -> Begun:
        vmcb = fields.number("vcpu")
        if park:
            raise Complaint(
                "bad_value", "VMRUN cannot be parked; stay and kick hold a CPU in a guest", "park"
            )
        if any(activity.vcpu == vmcb for activity in self.busy.values()):
            raise Complaint("bad_request", f"VCPU {vmcb:#x} runs on another CPU", "vcpu")
        return Begun(self._vmrun(cpu, vmcb, stay), vmcb)

    def _vmrun(self, cpu: int, vmcb: int, stay: bool) -> Step[Answer]:
        program = self.program(vmcb)
        left = yield from self.hands.vmrun(cpu, vmcb, program, stay)
        if isinstance(left, Fault):
            return self.fault(left, steps=program.collect())
        return exit_body(left, program)

    def program(self, vmcb: int) -> Program:
        found = self._programs.get(vmcb)
        if found is None:
            if len(self._programs) >= PROGRAMS:
                raise Complaint("limit", f"vcpu: at most {PROGRAMS} guest CPUs have a program", "vcpu")
            found = self._programs[vmcb] = Program()
        return found

    def queue(self, fields: Fields, replace: bool) -> tuple[int, int]:
        vmcb = fields.number("vcpu")
        more = steps.KINDS.parse(fields)
        program = self.program(vmcb)
        steps.KINDS.queue(program, more, replace)
        return vmcb, len(program.steps)

    def collect(self, vcpu: object) -> list[dict[str, Any]]:
        assert isinstance(vcpu, int)
        return self._programs[vcpu].collect()

    def settings(self, fields: Fields, cpu: int) -> dict[str, Any]:
        it = self._seat.cpus[cpu]
        it.cpl = fields.number("cpl", it.cpl, 0, 3)
        return {"cpl": it.cpl}

    def fault(self, fault: Fault, **more: object) -> Raised:
        assert isinstance(fault, X86Fault)
        return Raised(shown(fault) | more)

    # -- the end ----------------------------------------------------------------------------------------

    @property
    def reset_kinds(self) -> tuple[str, ...]:
        return RESETS

    def reset(self, kind: str) -> Step[None]:
        self._start()
        return self._do_reset(kind)

    def forgets(self, kind: str) -> bool:
        """The state afterwards is that of the start: nothing was given out."""
        return True

    def kill(self) -> Step[None]:
        self._start()
        return self._do_kill()

    def _start(self) -> None:
        self._programs.clear()
        self.software.forget()

    # -- its own software -------------------------------------------------------------------------------

    def sequence(self, fields: Fields) -> dict[str, Any]:
        if self._parked():
            raise Complaint("bad_request", "a command is parked; resume it first", "op")
        if self.busy:
            raise Complaint("bad_request", "a CPU is in a guest; kick it first", "op")
        if any(cpu.cpl for cpu in self._seat.cpus):
            raise Complaint("bad_request", "a CPU is not at CPL 0: the kernel cannot act on it", "op")
        return self.software.act(fields)

    def _allocate(self, length: int, align: int) -> int:
        found = self.book.take(length, align, 0, self.memory, self.in_use)
        if found is None:
            raise Complaint("limit", f"no {length:#x} free bytes, aligned to {align:#x}, for the sequence")
        self.zero(found, -(-length // PAGE) * PAGE)
        return found

    def issued(self) -> dict[str, Any]:
        return self.hands.counted()


def exit_body(left: Exit, program: Program) -> dict[str, Any]:
    return {
        "exitcode": hex(left.code),
        "exitinfo1": hex(left.info1),
        "exitinfo2": hex(left.info2),
        "exitintinfo": hex(left.intinfo),
        "steps": program.collect(),
    }
