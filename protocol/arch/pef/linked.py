"""The ultravisor and the processor of a level that lives elsewhere, and the other end that serves them.

Every operation is one message and its answer. Both carry the context of the host's CPU: the level below sees
it on hardware, and an exit changes it. A guest's program travels with the entry and comes back with the exit:
over a wire as a copy, whose state the host's own one takes over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, NamedTuple

from protocol.arch.pef import guest
from protocol.arch.pef.cpu import GPRS, TM_STATES, Cpu, Entry, Exit, Stopped
from protocol.arch.pef.guest import Program
from protocol.arch.pef.level import Level
from protocol.arch.pef.profiles import Profile
from protocol.effects import Fault, Issue, Step
from protocol.errors import RemoteProtocolError
from protocol.nesting.guest_host import OwnMemory
from protocol.nesting.linked import LinkedLevel

CALL, ENTER, TLBIE, OWN_ENTRY = "call", "enter", "tlbie", "own_entry"
NEW_LPID, GIVE_LPID = "new_lpid", "give_lpid"
TPM_EXECUTE, TPM_CLOSE = "tpm_execute", "tpm_close"

# Each operation, and what it takes beside the CPU.
OPERATIONS: Mapping[str, tuple[type | UnionType, ...]] = {
    CALL: (list | tuple, int, bool, Program | None),
    ENTER: (Entry,),
    TLBIE: (int, int),
    OWN_ENTRY: (int, int, int),
    NEW_LPID: (),
    GIVE_LPID: (int,),
    TPM_EXECUTE: (bytes,),
    TPM_CLOSE: (),
}
U64 = 1 << 64
WHOLE = {int, bool}


class CpuState(NamedTuple):
    """What the level below sees of a CPU."""

    number: int
    hv: bool
    pr: bool
    tm: str
    lpidr: int
    pidr: int
    origin: int

    @classmethod
    def of(cls, cpu: Cpu) -> CpuState:
        return cls(cpu.number, cpu.hv, cpu.pr, cpu.tm, cpu.lpidr, cpu.pidr, cpu.origin)

    def put(self, cpu: Cpu) -> None:
        cpu.hv, cpu.pr, cpu.tm = self.hv, self.pr, self.tm
        cpu.lpidr, cpu.pidr, cpu.origin = self.lpidr, self.pidr, self.origin


class Request(NamedTuple):
    """One operation on a CPU of the host's."""

    cpu: CpuState
    arguments: tuple[Any, ...]


class Answered(NamedTuple):
    """How it ended, and what the CPU's context is now."""

    cpu: CpuState
    result: Any


WIRE = (
    Issue,
    Fault,
    CpuState,
    Request,
    Answered,
    Entry,
    Exit,
    Stopped,
    Program,
    guest.Ultracall,
    guest.Hypercall,
    guest.Touch,
    guest.Read,
    guest.Fetch,
    guest.Interrupt,
)


class LinkedPef(LinkedLevel):
    """What a host holds of the level below it. `cpus` are the host's own.

    A host in another process is told of `profile` and of the TPM's public key (`tpm`) when it comes up.
    """

    profile: Profile

    def __init__(
        self, memory: OwnMemory, cpus: Sequence[Cpu], profile: Profile | None = None, tpm: bytes = b""
    ) -> None:
        super().__init__(memory)
        self.cpus = list(cpus)
        if profile is not None:
            self.profile = profile
        self.tpm = tpm

    def call(
        self,
        cpu: Cpu,
        gpr: Sequence[int],
        hsrr0: int = 0,
        stay: bool = False,
        program: Program | None = None,
    ) -> Step[list[int] | Exit | Stopped]:
        answer = yield from self._ask(cpu, CALL, list(gpr), hsrr0, stay, program)
        return list(answer) if isinstance(answer, list | tuple) else _taken(program, answer)

    def enter(self, cpu: Cpu, it: Entry) -> Step[Exit | Stopped]:
        return _taken(it.program, (yield from self._ask(cpu, ENTER, it)))

    def tlbie(self, cpu: Cpu, lpid: int, gpa: int) -> Step[None]:
        yield from self._ask(cpu, TLBIE, lpid, gpa)

    def own_entry(self, cpu: Cpu, lpid: int, dw0: int, dw1: int) -> Step[None]:
        yield from self._ask(cpu, OWN_ENTRY, lpid, dw0, dw1)

    def new_lpid(self, cpu: Cpu) -> Step[int | None]:
        lpid: int | None = yield from self._ask(cpu, NEW_LPID)
        return lpid

    def give_lpid(self, cpu: Cpu, lpid: int) -> Step[None]:
        yield from self._ask(cpu, GIVE_LPID, lpid)

    def tpm_public(self) -> bytes:
        return self.tpm

    def tpm_execute(self, cpu: Cpu, command: bytes) -> Step[bytes]:
        answer: bytes = yield from self._ask(cpu, TPM_EXECUTE, command)
        return answer

    def tpm_close(self, cpu: Cpu) -> Step[None]:
        yield from self._ask(cpu, TPM_CLOSE)

    def _ask(self, cpu: Cpu, operation: str, *arguments: Any) -> Step[Any]:
        answered: Answered = yield Issue(operation, (Request(CpuState.of(cpu), arguments),))
        answered.cpu.put(cpu)
        return answered.result


def _taken(program: Program | None, left: Exit | Stopped) -> Exit | Stopped:
    """An exit of what runs `program`, which stands where the copy stands that came back."""
    if isinstance(left, Exit) and program is not None and left.program is not None:
        if left.program is not program:
            program.become(left.program)
        left.program = program
    return left


class Server:
    """The other end: does what a host asks of its level."""

    def __init__(self, level: Level) -> None:
        self.level = level

    def __call__(self, message: Issue) -> Step[Answered]:
        """The step that a message begins. Raises RemoteProtocolError for one that is none of ours."""
        if message.operation not in OPERATIONS or len(message.arguments) != 1:
            raise RemoteProtocolError("operation", f"a level has no {message.operation!r:.60}")
        request = message.arguments[0]
        if not isinstance(request, Request) or not 0 <= request.cpu.number < len(self.level.cpus):
            raise RemoteProtocolError("request", f"{message.operation}: of no CPU of this host")
        if not _fits(request.arguments, OPERATIONS[message.operation]) or request.cpu.tm not in TM_STATES:
            raise RemoteProtocolError("request", f"{message.operation}: {str(request.arguments)[:60]}")
        return self._serve(message.operation, request)

    def _serve(self, operation: str, request: Request) -> Step[Answered]:
        cpu = self.level.cpus[request.cpu.number]
        request.cpu.put(cpu)
        result = yield from getattr(self.level, operation)(cpu, *request.arguments)
        return Answered(CpuState.of(cpu), result)


def _fits(arguments: tuple[Any, ...], wanted: tuple[type | UnionType, ...]) -> bool:
    """Are these the arguments of an operation? Numbers have 64 bits, and there are 32 registers."""
    if len(arguments) != len(wanted) or not all(map(isinstance, arguments, wanted)):
        return False
    numbers: list[Any] = [each for each in arguments if isinstance(each, int)]
    for each in arguments:
        registers = each.gpr if isinstance(each, Entry) else each if isinstance(each, list | tuple) else None
        if registers is not None and len(registers) != GPRS:
            return False
        numbers += registers or ()
        if isinstance(each, Entry):
            numbers += each.lpid, each.vcpu, each.nip, each.msr, each.pidr
    # Every message comes by here, with 32 registers: the loops are those of the interpreter itself.
    return set(map(type, numbers)) <= WHOLE and (not numbers or (min(numbers) >= 0 and max(numbers) < U64))
