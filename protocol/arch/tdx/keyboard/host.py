"""One TDX secure host at the keyboard: its LPs, the instruction SEAMCALL, its guests' programs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from protocol.arch.tdx import cpu as x86
from protocol.arch.tdx.compose import RESETS
from protocol.arch.tdx.cpu import Lp, Registers
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.keyboard import steps
from protocol.arch.tdx.keyboard.port import Level
from protocol.arch.tdx.keyboard.space import Physical
from protocol.arch.tdx.machine.steps import shown
from protocol.arch.tdx.status import CODE_MASK, RAX, RCX, name_of
from protocol.arch.tdx.tables import OpState
from protocol.effects import Fault, Step
from protocol.keyboard import AllocationBook, Answer, Begun, Complaint, Fields, Raised, SecureHost, Space
from protocol.memory.store import PAGE, PAGE_SHIFT

HANDLE = 0x000F_FFFF_FFFF_F000
VP_ENTER, VP_CREATE = 0, 10
LOADER = 1 << 63  # of RAX: the SEAM loader's own calls
KEYID_PARTITIONING = 0x87
LINE = 64
PROGRAMS = 65536
INSTRUCTIONS = ("rdmsr", "wrmsr", "wbinvd", "clflush", "movdir64b")
CPL = 3


class Seat(Protocol):
    """Where a host sits: the level that it meets changes when the host is killed and a fresh one comes."""

    @property
    def level(self) -> Level: ...
    @property
    def cpus(self) -> list[Lp]: ...
    @property
    def memory_bytes(self) -> int: ...


class TdxHost(SecureHost):
    def __init__(
        self, seat: Seat, reset: Callable[[str], Step[None]], kill: Callable[[], Step[None]]
    ) -> None:
        areas = [(cmr.base, cmr.end) for cmr in seat.level.platform.cmrs]
        super().__init__(AllocationBook(areas, PAGE))
        self.memory = seat.memory_bytes
        self.cpus = len(seat.cpus)
        self._seat = seat
        self._do_reset = reset
        self._do_kill = kill
        self._programs: dict[int, Program] = {}
        self._counted: dict[str, defaultdict[str, int]] = {
            name: defaultdict(int) for name in ("seamcall", "status", "exits", "insn", "faults")
        }

    @property
    def level(self) -> Level:
        return self._seat.level

    # -- memory ------------------------------------------------------------------------------------

    @property
    def spaces(self) -> str:
        return "phys"

    def space(self, name: str, cpu: int) -> Space | None:
        return Physical(self.level) if name == "phys" else None

    def in_use(self, address: int, length: int) -> int | None:
        return self.level.platform.in_use(address, length)

    def zero(self, address: int, length: int) -> None:
        self.level.clear(np.arange(address >> PAGE_SHIFT, (address + length) >> PAGE_SHIFT))

    # -- SEAMCALL ----------------------------------------------------------------------------------

    def may_issue(self, cpu: int) -> None:
        """Every LP runs."""

    def call(self, fields: Fields, cpu: int, park: bool) -> Begun:
        r = list(steps.registers(fields))
        fields.number("rax")
        if r[RAX] & LOADER:
            raise fields.wrong("rax", "bit 63 clear: calls of the SEAM loader are not modelled")
        if r[RAX] & 0xFFFF == VP_ENTER:
            return self._begin_enter(r, cpu, fields.flag("stay"), park)
        return Begun(self._seamcall(self._seat.cpus[cpu], r, park))

    def enter(self, fields: Fields, cpu: int, stay: bool, park: bool) -> Begun:
        r = list(steps.registers(fields))
        r[RAX], r[RCX] = VP_ENTER, fields.number("vcpu")
        return self._begin_enter(r, cpu, stay, park)

    def _begin_enter(self, r: Registers, cpu: int, stay: bool, park: bool) -> Begun:
        vcpu = r[RCX] & HANDLE
        return Begun(self._vp_enter(self._seat.cpus[cpu], r, vcpu, stay, park), vcpu)

    def _seamcall(self, lp: Lp, r: Registers, park: bool) -> Step[Answer]:
        self._counted["seamcall"][self._called(r)] += 1
        out = yield from self.level.call(lp, r, park)
        if isinstance(out, Fault):
            return self.fault(out)
        if r[RAX] & 0xFFFF == VP_CREATE and not out[RAX]:
            self._programs.pop(r[RCX], None)  # a new VCPU has nothing to do yet
        return self._result(out)

    def _vp_enter(self, lp: Lp, r: Registers, vcpu: int, stay: bool, park: bool) -> Step[Answer]:
        self._counted["seamcall"][self._called(r)] += 1
        program = self._programs.get(vcpu)
        if program is None:
            program = Program()
            if self.level.platform.is_vcpu(vcpu):
                self._programs[vcpu] = program
        out = yield from self.level.enter(lp, r, program, stay, park)
        if isinstance(out, Fault):
            return self.fault(out, steps=program.collect())
        self._counted["exits"][f"{name_of(out[RAX]).lower()}_{out[RAX] & 0xFFFF}"] += 1
        return self._result(out) | {"steps": program.collect()}

    def _called(self, r: Registers) -> str:
        """The name of the leaf; its number if this host is offered no such leaf."""
        spec = self.level.calls.get(r[RAX] & 0xFFFF)
        return spec.name if spec is not None else f"0x{r[RAX] & 0xFFFF:x}"

    def _result(self, out: Registers) -> dict[str, Any]:
        self._counted["status"][name_of(out[RAX] & CODE_MASK).lower()] += 1
        return {"cf": 0, **shown(out)}

    # -- guests ------------------------------------------------------------------------------------

    def queue(self, fields: Fields, replace: bool) -> tuple[int, int]:
        fields.number("vm")
        vcpu = fields.number("vcpu")
        more = steps.KINDS.parse(fields)
        program = self._programs.get(vcpu)
        if program is None:
            if len(self._programs) >= PROGRAMS:
                raise Complaint("limit", f"vcpu: at most {PROGRAMS} VCPUs have a program", "vcpu")
            program = self._programs[vcpu] = Program()
        steps.KINDS.queue(program, more, replace)
        return vcpu, len(program.steps)

    def collect(self, vcpu: object) -> list[dict[str, Any]]:
        assert isinstance(vcpu, int)
        return self._programs[vcpu].collect()

    def staying(self, vcpu: object) -> dict[str, Any]:
        return {"steps": self.collect(vcpu)}

    # -- other instructions ------------------------------------------------------------------------

    def insn(self, fields: Fields, cpu: int) -> Answer:
        name = fields.choice("name", INSTRUCTIONS)
        lp = self._seat.cpus[cpu]
        answer: Answer
        if name == "clflush":
            fields.number("address")
            answer = {}
        elif name == "movdir64b":
            answer = self._movdir64b(fields)
        else:
            answer = self._privileged(name, fields, lp)
        self._counted["insn"][name] += 1
        return answer

    def _movdir64b(self, fields: Fields) -> Answer:
        address, data = fields.number("address"), fields.data("hex")
        if len(data) != LINE:
            raise fields.wrong("hex", f"{LINE} bytes")
        if address % LINE:
            return self.fault(x86.exception(x86.GP, address, write=True))
        fault = Physical(self.level).line(address, data)
        return {} if fault is None else self.fault(fault)

    def _privileged(self, name: str, fields: Fields, lp: Lp) -> Answer:
        ecx = fields.number("ecx", high=0xFFFF_FFFF) if name != "wbinvd" else 0
        if name == "wrmsr":
            fields.number("eax", 0, high=0xFFFF_FFFF)
            fields.number("edx", 0, high=0xFFFF_FFFF)
        known = name == "wbinvd" or (name == "rdmsr" and ecx == KEYID_PARTITIONING)
        if lp.cpl or not known:  # there is no other MSR, and none that can be written
            return self.fault(x86.exception(x86.GP))
        if name == "wbinvd":
            return {}
        profile = self.level.profile
        return {"eax": hex(profile.mktme_keyids), "edx": hex(profile.tdx_keyids)}

    def settings(self, fields: Fields, cpu: int) -> dict[str, Any]:
        """Everything is looked at before anything is set."""
        lp = self._seat.cpus[cpu]
        flags = {name: fields.flag(name) for name in ("vmx", "interrupt") if name in fields}
        cpl = fields.number("cpl", lp.cpl, high=CPL)
        if "package" in fields:
            raise fields.wrong("package", "only to be read")
        for name, flag in flags.items():
            setattr(lp, name, flag)
        lp.cpl = cpl
        return {"vmx": lp.vmx, "cpl": lp.cpl, "interrupt": lp.interrupt, "package": lp.package}

    def fault(self, fault: Fault, **more: object) -> Raised:
        self._counted["faults"][fault.name] += 1
        body = {
            "code": hex(fault.code),
            "name": fault.name,
            "address": hex(fault.address),
            "write": fault.write,
        }
        return Raised(body | more)

    # -- the end -----------------------------------------------------------------------------------

    def stage(self, fields: Fields) -> Answer:
        """Put a TD into an op state that only a migration leads to."""
        state = OpState[fields.choice("op_state", [state.name for state in OpState])]
        tdr = fields.number("vm")
        wrong = self.level.stage(tdr, state)
        if wrong:
            raise fields.wrong("vm", wrong)
        return {}

    @property
    def reset_kinds(self) -> tuple[str, ...]:
        return RESETS

    def reset(self, kind: str) -> Step[None]:
        """No guest survives a restart of its host, hence no program."""
        self._programs.clear()
        return self._do_reset(kind)

    def kill(self) -> Step[None]:
        self._programs.clear()
        return self._do_kill()

    def issued(self) -> dict[str, Any]:
        return {name: dict(counts) for name, counts in self._counted.items()}
