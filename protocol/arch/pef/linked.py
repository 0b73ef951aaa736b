"""The ultravisor and the processor of a level that lives elsewhere, and the other end that serves them.

Every operation is one message and its answer. Both carry the context of the host's CPU: the level below sees
it on hardware, and an exit changes it. A guest's program travels with the entry and comes back with the exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from protocol.arch.pef.cpu import Cpu, Entry, Exit, Stopped
from protocol.arch.pef.guest import Program
from protocol.arch.pef.level import Level
from protocol.arch.pef.profiles import Profile
from protocol.effects import Issue, Step
from protocol.errors import RemoteProtocolError
from protocol.nesting.guest_host import OwnMemory
from protocol.nesting.linked import LinkedLevel

CALL, ENTER, TLBIE, OWN_ENTRY = "call", "enter", "tlbie", "own_entry"
NEW_LPID, GIVE_LPID = "new_lpid", "give_lpid"
TPM_EXECUTE, TPM_CLOSE = "tpm_execute", "tpm_close"
OPERATIONS = (CALL, ENTER, TLBIE, OWN_ENTRY, NEW_LPID, GIVE_LPID, TPM_EXECUTE, TPM_CLOSE)


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


class LinkedPef(LinkedLevel):
    """What a host holds of the level below it. `cpus` are the host's own."""

    def __init__(self, memory: OwnMemory, cpus: Sequence[Cpu], profile: Profile, tpm: bytes) -> None:
        super().__init__(memory)
        self.cpus = list(cpus)
        self.profile = profile
        self._tpm = tpm

    def call(
        self,
        cpu: Cpu,
        gpr: Sequence[int],
        hsrr0: int = 0,
        stay: bool = False,
        program: Program | None = None,
    ) -> Step[list[int] | Exit | Stopped]:
        answer: list[int] | Exit | Stopped
        answer = yield from self._ask(cpu, CALL, list(gpr), hsrr0, stay, program)
        return answer

    def enter(self, cpu: Cpu, it: Entry) -> Step[Exit | Stopped]:
        left: Exit | Stopped = yield from self._ask(cpu, ENTER, it)
        return left

    def tlbie(self, cpu: Cpu, lpid: int, gpa: int) -> Step[None]:
        yield from self._ask(cpu, TLBIE, lpid, gpa)

    def own_entry(self, cpu: Cpu, lpid: int, dw0: int, dw1: int) -> Step[None]:
        yield from self._ask(cpu, OWN_ENTRY, lpid, dw0, dw1)

    def new_lpid(self, cpu: Cpu) -> Step[int]:
        lpid: int = yield from self._ask(cpu, NEW_LPID)
        return lpid

    def give_lpid(self, cpu: Cpu, lpid: int) -> Step[None]:
        yield from self._ask(cpu, GIVE_LPID, lpid)

    def tpm_public(self) -> bytes:
        return self._tpm

    def tpm_execute(self, cpu: Cpu, command: bytes) -> Step[bytes]:
        answer: bytes = yield from self._ask(cpu, TPM_EXECUTE, command)
        return answer

    def tpm_close(self, cpu: Cpu) -> Step[None]:
        yield from self._ask(cpu, TPM_CLOSE)

    def _ask(self, cpu: Cpu, operation: str, *arguments: Any) -> Step[Any]:
        answered: Answered = yield Issue(operation, (Request(CpuState.of(cpu), arguments),))
        answered.cpu.put(cpu)
        return answered.result


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
        return self._serve(message.operation, request)

    def _serve(self, operation: str, request: Request) -> Step[Answered]:
        cpu = self.level.cpus[request.cpu.number]
        request.cpu.put(cpu)
        result = yield from getattr(self.level, operation)(cpu, *request.arguments)
        return Answered(CpuState.of(cpu), result)
