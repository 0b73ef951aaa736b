"""The Ultravisor and SIE of a level that lives elsewhere, and the other end that serves them.

A request carries the state of every CPU of the host that has changed since the last one: the level below
looks at it (is only one CPU running, where is a lowcore), and on hardware it simply sees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from protocol.arch.s390 import guest
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program
from protocol.arch.s390.profiles import Profile
from protocol.arch.s390.structs import SieExit
from protocol.effects import Fault, Issue, Step, issue, record
from protocol.errors import RemoteProtocolError
from protocol.nesting.guest_host import OwnMemory
from protocol.nesting.linked import LinkedLevel

U64 = 1 << 64
UVC = "uvc"
SIE = "sie"


class CpuState(NamedTuple):
    """What the level below sees of a CPU."""

    number: int
    running: bool
    problem_state: bool
    dat: bool
    prefix: int
    cr1: int
    cr7: int
    cr13: int
    origin: int

    def put(self, cpu: Cpu) -> None:
        cpu.running, cpu.problem_state, cpu.dat = self.running, self.problem_state, self.dat
        cpu.prefix, cpu.origin = self.prefix, self.origin
        cpu.cr[1], cpu.cr[7], cpu.cr[13] = self.cr1, self.cr7, self.cr13


class UvcRequest(NamedTuple):
    """The instruction UVC on CPU `cpu`."""

    changed: tuple[CpuState, ...]
    cpu: int
    r2: int
    m3: int
    m4: int
    park: bool


class SieRequest(NamedTuple):
    """The instruction SIE on CPU `cpu`; `level` is that of the guest."""

    changed: tuple[CpuState, ...]
    cpu: int
    block: int
    program: Program
    stay: bool
    level: int


class SieAnswer(NamedTuple):
    """How SIE ended, and where the guest's program stands."""

    result: SieExit | Fault
    program: Program


WIRE = (
    Issue,
    Fault,
    CpuState,
    UvcRequest,
    SieRequest,
    SieAnswer,
    SieExit,
    Program,
    guest.Touch,
    guest.Read,
    guest.Load,
    guest.SetCpu,
    guest.Uvc,
    guest.Diag,
    guest.Spx,
    guest.Sigp,
    guest.Sclp,
    guest.Wait,
    guest.Lctl,
    guest.Loop,
)


class LinkedUltravisor(LinkedLevel):
    """What a host holds of the level below it. `cpus` are the host's own.

    `profile` is set where nothing else says what this host was promised: in a process of its own.
    """

    profile: Profile

    def __init__(self, memory: OwnMemory, cpus: Sequence[Cpu]) -> None:
        super().__init__(memory)
        self.cpus = cpus
        self._shared = (
            getattr(memory, "cpus", None) is cpus
        )  # the level below has the very same: in one process
        self._told: dict[int, tuple[int, bool, bool, bool, int, int, int, int, int]] = {}

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]:
        # A generator less than `issue`: this is the path of every call.
        changed = () if self._shared else self._changed(cpu)
        request = record(UvcRequest, (changed, cpu.number, r2, m3, m4, park))
        answer: int | Fault = yield record(Issue, (UVC, (request,)))
        return answer

    def enter(self, cpu: Cpu, block: int, program: Program, stay: bool, level: int) -> Step[SieExit | Fault]:
        request = SieRequest(self._changed(cpu), cpu.number, block, program, stay, level)
        answer: SieAnswer = yield from issue(SIE, request)
        if answer.program is not program:
            program.become(answer.program)
        return answer.result

    def _changed(self, cpu: Cpu) -> tuple[CpuState, ...]:
        if self._shared:
            return ()
        # Every call comes by here, and mostly nothing has changed: a plain tuple is the cheapest to compare.
        told = self._told
        changed: tuple[CpuState, ...] = ()
        for each in self.cpus:
            number, cr = each.number, each.cr
            state = (
                number,
                each.running,
                each.problem_state,
                each.dat,
                each.prefix,
                cr[1],
                cr[7],
                cr[13],
                each.origin,
            )
            if told.get(number) != state:
                told[number] = state
                changed += (CpuState(*state),)
        assert cpu.number in told, f"CPU {cpu.number} is none of this host's"
        return changed


class Level(Protocol):
    """What is served: a machine, or an emulation."""

    @property
    def cpus(self) -> Sequence[Cpu]: ...

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]: ...

    def enter(
        self, cpu: Cpu, block: int, program: Program, stay: bool, level: int
    ) -> Step[SieExit | Fault]: ...


class Server:
    """The other end: does what one host asks. Who asks is known by the link, so no request says it."""

    def __init__(self, level: Level) -> None:
        self._level = level

    def __call__(self, effect: Issue) -> Step[Any]:
        """Serve one request. Raises RemoteProtocolError for what is none."""
        operation, arguments = effect
        request = arguments[0] if len(arguments) == 1 else None
        if operation == UVC and isinstance(request, UvcRequest):
            changed, number, r2, m3, m4, park = request
            cpu = self._cpu(changed, number)
            if not (0 <= r2 < U64 and 0 <= m3 < U64 and 0 <= m4 < U64):
                _in_range(r2, m3, m4)
            return self._level.call(cpu, r2, m3, m4, park)
        if operation == SIE and isinstance(request, SieRequest):
            _in_range(request.block, request.level)
            return self._enter(self._cpu(request.changed, request.cpu), request)
        raise RemoteProtocolError("kind", f"no operation of this level: {operation[:40]!r}")

    def _enter(self, cpu: Cpu, request: SieRequest) -> Step[SieAnswer]:
        result = yield from self._level.enter(
            cpu, request.block, request.program, request.stay, request.level
        )
        return SieAnswer(result, request.program)

    def _cpu(self, changed: tuple[CpuState, ...], number: int) -> Cpu:
        cpus = self._level.cpus
        for state in changed:
            if not 0 <= state.number < len(cpus):
                raise RemoteProtocolError("shape", f"the host has {len(cpus)} CPUs, no number {state.number}")
            _in_range(state.prefix, state.cr1, state.cr7, state.cr13)
            state.put(cpus[state.number])
        if not 0 <= number < len(cpus):
            raise RemoteProtocolError("shape", f"the host has {len(cpus)} CPUs, no number {number}")
        return cpus[number]


def _in_range(*values: int) -> None:
    for value in values:
        if not 0 <= value < U64:
            raise RemoteProtocolError("shape", f"{value} is not a number of 64 bits")
