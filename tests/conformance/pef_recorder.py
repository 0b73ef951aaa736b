"""A pytest plugin that writes down which test provokes which check of the ultravisor and of KVM.

`-p pef_recorder`. What is recorded happens on the machine, and in the KVM on it; which of several checks with
one code it was, `pef_oracle` says.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from pef_oracle import Seen, judged, place_of
from recorder import provoked, pytest_runtest_protocol, pytest_sessionfinish  # noqa: F401 - the hooks

from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.explain import BAD_MODE, FUNCTION
from protocol.arch.pef.front import FOR_HOST
from protocol.arch.pef.guest import Ultracall
from protocol.arch.pef.hcalls import SVM_INIT_ABORT
from protocol.arch.pef.kvm import svm, vmm
from protocol.arch.pef.machine import Machine, guest, normal
from protocol.arch.pef.nesting import Nested
from protocol.arch.pef.status import unsigned

DISPATCHER = (BAD_MODE, FUNCTION)


ROWS = {row.code: row.name for row in CALLS.values()}
refused: list[tuple[int, int]] = []  # what the machine answered, in order: number, R3


class Watched:
    """One call from its beginning to its answer."""

    def __init__(self, seen: Seen) -> None:
        self.number = seen.gpr[3]
        named = ROWS.get(self.number, "")
        of_kvm = named.startswith("H_")
        self.name = named if of_kvm == (seen.vm is not None) else ""
        self.before = judged(self.name, seen)

    def answered(self, register: int, level: int = 0) -> None:
        """Codes of the dispatcher are every call's."""
        code = unsigned(register)
        if code in DISPATCHER and not self.name.startswith("H_"):
            provoked(self.name, -1, code, level)
        elif code and self.name:
            place = place_of(self.name, self.before, code)
            if place is not None:
                provoked(self.name, place, code, level)


def of_a_host(call: Callable[..., Any]) -> Callable[..., Any]:
    """`sc 2` of a host's CPU on the machine itself."""

    def called(self: Machine, cpu: Any, gpr: Any, *rest: Any, **more: Any) -> Generator[Any, Any, Any]:
        watched = Watched(Seen(self, list(gpr), cpu.lpidr, cpu.pidr, cpu.hv, cpu.pr))
        out = yield from call(self, cpu, gpr, *rest, **more)
        if isinstance(out, list):
            if not cpu.origin:  # what a level below issues for a guest host is not the test's own call
                watched.answered(out[3])
            refused.append((gpr[3], out[3]))
        return out

    return called


class AsMachine:
    """An emulation as the oracle looks at a machine: its guest host's LPIDs and memory."""

    def __init__(self, level: Nested) -> None:
        machine = level.below.memory
        self.size, self.profile = level.size, level.profile
        if isinstance(machine, Machine):
            self.secure = machine.secure
            shadows = {lpid: machine.svms.get(record.shadow) for lpid, record in level.records.items()}
            self.svms = {lpid: svm for lpid, svm in shadows.items() if svm is not None}
        else:
            self.secure, self.svms = None, {}


def of_a_guest_host(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same of an emulation: a code that the level below answered is that level's."""

    def called(self: Nested, cpu: Any, gpr: Any, *rest: Any, **more: Any) -> Generator[Any, Any, Any]:
        watched = Watched(Seen(AsMachine(self), list(gpr), cpu.lpidr, cpu.pidr, cpu.hv, cpu.pr))
        began = len(refused)
        out = yield from call(self, cpu, gpr, *rest, **more)
        if isinstance(out, list) and gpr[3] in FOR_HOST:
            watched.answered(out[3], int((gpr[3], out[3]) not in refused[began:]))
        return out

    return called


def of_an_svm(call: Callable[..., Any]) -> Callable[..., Any]:
    """An ultracall of a secure guest."""

    def called(machine: Any, its: Any, vcpu: Any, step: Ultracall) -> Generator[Any, Any, Any]:
        watched = Watched(guest_of(machine, vcpu, step, secure=True))
        result = yield from call(machine, its, vcpu, step)
        watched.answered(int(result["r3"], 16))
        return result

    return called


def of_a_normal_guest(call: Callable[..., Any]) -> Callable[..., Any]:
    """An ultracall of a guest that is not secure. UV_ESM may answer later."""

    def called(machine: Any, vcpu: Any, step: Ultracall) -> Any:
        watched = Watched(guest_of(machine, vcpu, step, secure=False))
        result = call(machine, vcpu, step)
        if isinstance(result, dict):
            watched.answered(int(result["r3"], 16))
        return result

    return called


def guest_of(machine: Any, vcpu: Any, step: Ultracall, secure: bool) -> Seen:
    return Seen(machine, list(step.gpr), vcpu.lpid, vcpu.pidr, pr=step.problem, secure=secure)


def of_kvm(answer: Callable[..., Any]) -> Callable[..., Any]:
    """A hypercall that KVM answers; `rest` is SRR1 where it is looked at."""

    def answered(kvm: Any, cpu: Any, vm: Any, gpr: list[int], *rest: int) -> Generator[Any, Any, Any]:
        srr1 = rest[0] if rest else 0
        watched = Watched(Seen(kvm.level, list(gpr), vm=vm, srr1=srr1))
        status = yield from answer(kvm, cpu, vm, gpr, *rest)
        watched.answered(status)
        if watched.number == SVM_INIT_ABORT:  # and it is what the guest finds in R3 of its UV_ESM
            code = unsigned(status)
            provoked("UV_ESM", place_of("UV_ESM", {}, code) or 0, code)
        return status

    return answered


def pytest_configure() -> None:
    Machine.call = of_a_host(Machine.call)  # type: ignore[method-assign]
    Nested.call = of_a_guest_host(Nested.call)  # type: ignore[method-assign]
    guest._ultracall = of_an_svm(guest._ultracall)
    normal._ultracall = of_a_normal_guest(normal._ultracall)
    svm.answer = of_kvm(svm.answer)
    vmm.tpm_comm = of_kvm(vmm.tpm_comm)
