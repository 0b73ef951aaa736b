"""A level that lives elsewhere in the same machine: its operations go by message, its memory by a port.

`LinkedSev` is what a host holds of the level below it, `Server` the other end. CPUs are named by their
numbers. In one process both ends have the same MSRs, as on hardware; else each keeps what was stored to them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from protocol.arch.sev import guest
from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.cpu import Cpu, X86Fault
from protocol.arch.sev.guest import Program
from protocol.arch.sev.profiles import MSR, Profile
from protocol.arch.sev.structs import Exit, NewState
from protocol.effects import Fault, Issue, Step, issue
from protocol.errors import RemoteProtocolError
from protocol.nesting.linked import LinkedLevel

PSP, RMPUPDATE, PSMASH, WBINVD, RDMSR, WRMSR, VMRUN, POLL = (
    "psp",
    "rmpupdate",
    "psmash",
    "wbinvd",
    "rdmsr",
    "wrmsr",
    "vmrun",
    "poll",
)


class Who(NamedTuple):
    """The CPU that issues, and the level that caused it."""

    cpu: int
    origin: int


class Vmrun(NamedTuple):
    """VMRUN; `level` is that of the guest."""

    vmcb: int
    program: Program
    stay: bool
    level: int


class VmrunAnswer(NamedTuple):
    """How it ended, and where the guest's program stands."""

    result: Exit | X86Fault
    program: Program


WIRE = (
    Issue,
    X86Fault,
    Who,
    Vmrun,
    VmrunAnswer,
    Exit,
    NewState,
    Program,
    guest.Touch,
    guest.Read,
    guest.Pvalidate,
    guest.Rmpadjust,
    guest.Wrmsr,
    guest.Rdmsr,
    guest.Leave,
)


class LinkedSev(LinkedLevel):
    """Secure processor, RMP and VMRUN of a level that is asked by message."""

    def __init__(self, memory: Any, cpus: list[Cpu]) -> None:
        """`memory` is the level itself, if it is in this process, or the port to the memory of a guest host.

        `profile` is set where nothing else says what this host was promised: in a process of its own.
        """
        super().__init__(memory)
        self.cpus = cpus
        self.calls = {code: spec for code, spec in CALLS.items() if spec.for_host()}
        self._shared = getattr(memory, "cpus", None) is cpus  # the level below has the very same
        if self._shared:
            self.profile: Profile = memory.profile

    @property
    def nested_msr(self) -> bool:
        """What the level says, if it is here; else it is one of a guest host."""
        return bool(getattr(self._memory, "nested_msr", self.profile.trap == MSR))

    def call(self, cpu: Cpu, cmdresp: int, address: int, park: bool = False, lose: bool = False) -> Step[int]:
        return issue(PSP, _who(cpu), cmdresp, address, park, lose)

    def rmpupdate(self, cpu: Cpu, address: int, new: NewState) -> Step[int]:
        return issue(RMPUPDATE, _who(cpu), address, new)

    def psmash(self, cpu: Cpu, address: int) -> Step[int]:
        return issue(PSMASH, _who(cpu), address)

    def wbinvd(self, cpu: Cpu) -> Step[None]:
        return issue(WBINVD, _who(cpu))

    def rdmsr(self, cpu: Cpu, number: int) -> Step[int | Fault]:
        return issue(RDMSR, _who(cpu), number)

    def wrmsr(self, cpu: Cpu, number: int, value: int) -> Step[Fault | None]:
        """This end knows what the other one stored: whether SNP is on is looked at before an instruction."""
        fault: Fault | None = yield from issue(WRMSR, _who(cpu), number, value)
        if fault is None and not self._shared:
            cpu.write_msr(number, value)
        return fault

    def poll(self) -> Step[None]:
        return issue(POLL)

    def enter(self, cpu: Cpu, vmcb: int, program: Program, stay: bool, level: int) -> Step[Exit | Fault]:
        answer: VmrunAnswer = yield from issue(VMRUN, _who(cpu), Vmrun(vmcb, program, stay, level))
        if answer.program is not program:
            program.become(answer.program)
        return answer.result


def _who(cpu: Cpu) -> Who:
    return Who(cpu.number, cpu.origin)


class Server:
    """The other end: does what one host asks. Who asks is known by the link, so no request says it."""

    def __init__(self, level: Any) -> None:
        self._level = level

    def __call__(self, effect: Issue) -> Step[Any]:
        """Serve one request. Raises RemoteProtocolError for what is none."""
        operation, arguments = effect
        level = self._level
        if operation == POLL:
            return level.poll()  # type: ignore[no-any-return]
        if not arguments or not isinstance(arguments[0], Who):
            raise RemoteProtocolError("kind", f"no operation of this level: {operation[:40]!r}")
        cpu, rest = self._cpu(arguments[0]), arguments[1:]
        if operation == VMRUN:
            return self._enter(cpu, *rest)
        served = {
            PSP: level.call,
            RMPUPDATE: level.rmpupdate,
            PSMASH: level.psmash,
            WBINVD: level.wbinvd,
            RDMSR: level.rdmsr,
            WRMSR: level.wrmsr,
        }.get(operation)
        if served is None:
            raise RemoteProtocolError("kind", f"no operation of this level: {operation[:40]!r}")
        step: Step[Any] = served(cpu, *rest)
        return step

    def _enter(self, cpu: Cpu, request: Vmrun) -> Step[VmrunAnswer]:
        result = yield from self._level.enter(cpu, *request)
        return VmrunAnswer(result, request.program)

    def _cpu(self, who: Who) -> Cpu:
        cpus: list[Cpu] = self._level.cpus
        if not 0 <= who.cpu < len(cpus):
            raise RemoteProtocolError("shape", f"the host has {len(cpus)} CPUs, no number {who.cpu}")
        cpu = cpus[who.cpu]
        cpu.origin = who.origin
        return cpu
