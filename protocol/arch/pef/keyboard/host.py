"""One POWER host at the keyboard: `sc 2` by hand, its KVM, its VMM, its guests' programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Protocol

import numpy as np

from protocol.arch.pef.compose import RESETS
from protocol.arch.pef.cpu import HCALL, TM_STATES, Cpu, Exit
from protocol.arch.pef.front import ESM, ESMB_GET_FILE, RESTRICTED_SPR_READ, RETURN
from protocol.arch.pef.guest import Program
from protocol.arch.pef.hcalls import NAMES
from protocol.arch.pef.keyboard import steps
from protocol.arch.pef.keyboard.spaces import Mapped, Real
from protocol.arch.pef.kvm import HostStopped, Kvm
from protocol.arch.pef.kvm import run as running
from protocol.arch.pef.kvm.frames import FIRST, FREE, GIVEN
from protocol.arch.pef.kvm.vm import KvmVcpu, Vm
from protocol.arch.pef.level import Level
from protocol.arch.pef.status import signed
from protocol.arch.pef.tables import LPIDS, PAGE
from protocol.effects import Fault, Step, run
from protocol.keyboard import AllocationBook, Answer, Begun, Complaint, Fields, Raised, SecureHost, Space
from protocol.memory.store import PAGE_SHIFT as SMALL_SHIFT

U32 = (1 << 32) - 1
HOSTS = 64  # whose VMs one level below may have to number
_STOPS = (*NAMES.values(), *(hex(vector) for vector in (HCALL, 0xE00, 0xE20, *steps.VECTORS)))


# Registers beside R3 that an ultracall answers by; UV_RETURN does not return.
OUTPUTS: Mapping[int, tuple[int, ...]] = {RESTRICTED_SPR_READ: (5,), ESMB_GET_FILE: tuple(range(4, 12))}


class Seat(Protocol):
    """Where a host sits: the level that it meets changes when the host is killed and a fresh one comes."""

    number: int

    @property
    def level(self) -> Level: ...
    @property
    def cpus(self) -> list[Cpu]: ...
    @property
    def memory_bytes(self) -> int: ...


class Book(AllocationBook):
    """The console's book of memory; KVM sees what is in it."""

    def __init__(self, kvm: Kvm, size: int) -> None:
        super().__init__([(FIRST, size)], PAGE)
        self._kvm = kvm
        self._lengths: dict[int, int] = {}

    def take(
        self, length: int, align: int, above: int, below: int, in_use: Callable[[int, int], int | None]
    ) -> int | None:
        found = super().take(length, align, above, below, in_use)
        if found is not None:
            self._lengths[found] = length
            self._kvm.frames.mark(found, length, GIVEN)
        return found

    def give(self, address: int) -> bool:
        if not super().give(address):
            return False
        self._kvm.frames.mark(address, self._lengths.pop(address), FREE)
        return True

    def clear(self) -> None:
        super().clear()
        if hasattr(self, "_lengths"):
            for address, length in self._lengths.items():
                self._kvm.frames.mark(address, length, FREE)
            self._lengths.clear()


class PefHost(SecureHost):
    """`depth` 0: the host runs on the machine itself."""

    def __init__(
        self,
        seat: Seat,
        depth: int,
        seed: int,
        reset: Callable[[str], Step[None]],
        kill: Callable[[], Step[None]],
    ) -> None:
        self.kvm = Kvm(seat.level, depth > 0, Random(f"{seed}:kvm:{seat.number}"))
        super().__init__(Book(self.kvm, seat.memory_bytes))
        self.memory = seat.memory_bytes
        self.cpus = len(seat.cpus)
        self.seed = seed
        self._seat = seat
        self._do_reset = reset
        self._do_kill = kill
        self._left: dict[int, Exit] = {}  # CPU -> the last exit on it

    @property
    def level(self) -> Level:
        return self._seat.level

    def cpu_at(self, number: int) -> Cpu:
        return self._seat.cpus[number]

    # -- memory ----------------------------------------------------------------------------------------------

    @property
    def spaces(self) -> str:
        return "phys, vm:LPID"

    def space(self, name: str, cpu: int) -> Space | None:
        if name == "phys":
            return Real(self.level)
        kind, _, number = name.partition(":")
        try:
            vm = self.kvm.vms.get(int(number, 0))
        except ValueError:
            return None
        return None if kind != "vm" or vm is None else Mapped(self.kvm, self._seat.cpus[cpu], vm)

    def in_use(self, address: int, length: int) -> int | None:
        return self.kvm.frames.taken_by_kvm(address, length)

    def zero(self, address: int, length: int) -> None:
        first, end = address >> SMALL_SHIFT, (address + length) >> SMALL_SHIFT
        self.level.clear(np.arange(first, end))

    # -- sc 2 by hand ----------------------------------------------------------------------------------------

    def may_issue(self, cpu: int) -> None:
        """Every CPU runs."""

    def call(self, fields: Fields, cpu: int, park: bool) -> Begun:
        if park:
            raise fields.wrong("park", "false: no call stops midway; an open reflection does")
        fields.number("r3")
        left = self._left.get(cpu)
        returning = fields.number("r3") == RETURN
        gpr = steps.registers(fields, left.gpr if left is not None and returning else None)
        hsrr0 = fields.number("hsrr0", left.hsrr0 if left is not None and returning else 0)
        return Begun(self._by_hand(cpu, gpr, hsrr0))

    def _by_hand(self, cpu: int, gpr: list[int], hsrr0: int) -> Step[Answer]:
        it = self._seat.cpus[cpu]
        try:
            out = yield from self.kvm.issue(it, gpr, hsrr0, program=self._program_behind(gpr, it))
            if isinstance(out, list):
                outputs = OUTPUTS.get(gpr[3], ()) if signed(out[3]) >= 0 else ()
                return {f"r{number}": hex(out[number]) for number in (3, *outputs)}
            return (yield from self._goes_on(cpu, out))
        except HostStopped as stopped:
            raise self.stops(stopped) from stopped

    def _program_behind(self, gpr: list[int], cpu: Cpu) -> Program | None:
        """What the vcpu does to which a UV_RETURN with these registers leads, or a UV_ESM as one."""
        if gpr[3] == ESM:
            own = self.kvm.vms.get(cpu.lpidr)
            first = None if own is None else own.vcpus.get(0)
            return first.program if first is not None and first.program.current is None else None
        for vm in self.kvm.vms.values():
            for vcpu in vm.vcpus.values():
                if vcpu.exit is not None and vcpu.exit.secure and vcpu.exit.gpr[31] == gpr[31]:
                    return vcpu.program
        return None

    def _goes_on(self, cpu: int, left: Exit) -> Step[Answer]:
        """An exit behind a UV_RETURN by hand: KVM answers what it may, as in `enter`."""
        vm = self.kvm.vms.get(left.lpid)
        vcpu = None if vm is None else vm.vcpus.get(left.vcpu)
        if vm is None or vcpu is None:
            self.kvm.arrived(left)
            self._left[cpu] = left
            return steps.shown(left, [])
        it = self._seat.cpus[cpu]
        if (yield from running.came_out(self.kvm, it, vm, vcpu, left)):
            it.lpidr, it.pidr = vm.lpid, 0
            left = yield from running.go(self.kvm, it, vm, vcpu, stay=False)
        self._left[cpu] = left
        return steps.shown(left, vcpu.program.collect())

    def stops(self, stopped: HostStopped) -> Complaint:
        """The host's machine stands still from now on."""
        self.dead = str(stopped)
        return Complaint("dead", f"{stopped}; allowed: reset, kill")

    def insn(self, fields: Fields, cpu: int) -> Answer:
        raise fields.wrong("name", "none: no other instruction is offered here")

    # -- vcpus -----------------------------------------------------------------------------------------------

    def vm(self, fields: Fields) -> Vm:
        found = self.kvm.vms.get(fields.number("vm", None, 0, HOSTS * LPIDS - 1))
        if found is None:
            raise fields.wrong("vm", "the LPID of a VM of this host")
        return found

    def vcpu(self, fields: Fields, vm: Vm) -> KvmVcpu:
        found = vm.vcpus.get(fields.number("vcpu"))
        if found is None:
            raise fields.wrong("vcpu", "the number of a vcpu of this VM")
        return found

    def enter(self, fields: Fields, cpu: int, stay: bool, park: bool) -> Begun:
        if park:
            raise fields.wrong("park", "false: an entry does not stop midway; name exits in stop")
        it = self._seat.cpus[cpu]
        if not it.hv or it.pr:
            raise Complaint("bad_request", f"CPU {cpu} is not in the hypervisor; set hv and pr first", "cpu")
        vm = self.vm(fields)
        vcpu = self.vcpu(fields, vm)
        if vcpu.running:
            raise fields.wrong("vcpu", "one that runs on no other CPU")
        stop = self._stop(fields)
        reply: dict[int, int] = {}
        if "gpr" in fields:
            reply = self._reply(fields, vcpu)
        vcpu.stop = stop
        vcpu.reply = reply
        return Begun(self._enter(cpu, vm, vcpu, stay), (vm.lpid, vcpu.number))

    @staticmethod
    def _stop(fields: Fields) -> frozenset[str]:
        names = fields.raw("stop") if "stop" in fields else []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise fields.wrong("stop", "a list of strings")
        shaped = {name.lower() if name[:2] in ("0x", "0X") else name for name in names}
        if not shaped <= set(_STOPS):
            raise fields.wrong("stop", f"a list of {', '.join(_STOPS)}")
        return frozenset(shaped)

    def _reply(self, fields: Fields, vcpu: KvmVcpu) -> dict[int, int]:
        """The keyboard's answer to an open exit. Behind a storage interrupt it says that this was seen to."""
        given = fields.inner("gpr")
        given.only(*(f"r{number}" for number in range(3, 13)))
        registers = {number: given.number(f"r{number}", 0) for number in range(3, 13)}
        if vcpu.exit is None:
            raise fields.wrong("gpr", "only where an exit of this vcpu is open")
        return registers if vcpu.exit.trap == HCALL else {3: vcpu.exit.gpr[3]}

    def _enter(self, cpu: int, vm: Vm, vcpu: KvmVcpu, stay: bool) -> Step[Answer]:
        try:
            left = yield from running.enter(self.kvm, self._seat.cpus[cpu], vm, vcpu, stay)
        except HostStopped as stopped:
            raise self.stops(stopped) from stopped
        self._left[cpu] = left
        return steps.shown(left, vcpu.program.collect())

    def queue(self, fields: Fields, replace: bool) -> tuple[tuple[int, int], int]:
        vm = self.vm(fields)
        program = self.vcpu(fields, vm).program
        more = steps.KINDS.parse(fields)
        steps.KINDS.queue(program, more, replace)
        return (vm.lpid, fields.number("vcpu")), program.waiting()

    def collect(self, vcpu: object) -> list[dict[str, Any]]:
        assert isinstance(vcpu, tuple)
        return self._program(*vcpu).collect()

    def _program(self, lpid: int, number: int) -> Program:
        return self.kvm.vms[lpid].vcpus[number].program

    def staying(self, vcpu: object) -> dict[str, Any]:
        return {"steps": self.collect(vcpu)}

    def hcall(self, fields: Fields, cpu: int) -> dict[str, Any]:
        """A hypercall as if this vcpu had made it; an open reflection of the vcpu stays."""
        vm = self.vm(fields)
        vcpu = self.vcpu(fields, vm)
        gpr = steps.registers(fields)
        fields.number("r3")
        srr1 = fields.number("srr1", 0)
        it = self._seat.cpus[cpu]
        try:
            known = run(running.hypercall(self.kvm, it, vm, vcpu, gpr, srr1))
        except HostStopped as stopped:
            raise self.stops(stopped) from stopped
        if not known:
            gpr[3] = running.unknown(gpr[3])
        shown = {f"r{number}": hex(gpr[number]) for number in range(3, 13)}
        return shown | {"to": "ultravisor" if vm.flags else "guest"}

    # -- CPUs ------------------------------------------------------------------------------------------------

    def settings(self, fields: Fields, cpu: int) -> dict[str, Any]:
        """Everything is looked at before anything is set."""
        it = self._seat.cpus[cpu]
        hv, pr = fields.flag("hv", it.hv), fields.flag("pr", it.pr)
        tm = fields.choice("tm", TM_STATES, it.tm)
        lpidr = fields.number("lpidr", it.lpidr, 0, U32)
        pidr = fields.number("pidr", it.pidr, 0, U32)
        it.hv, it.pr, it.tm, it.lpidr, it.pidr = hv, pr, tm, lpidr, pidr
        return {"hv": hv, "pr": pr, "tm": tm, "lpidr": hex(lpidr), "pidr": hex(pidr)}

    def fault(self, fault: Fault, **more: object) -> Raised:
        body = {
            "code": hex(fault.code),
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
        yield from self._do_reset(kind)
        self._fresh()

    def kill(self) -> Step[None]:
        yield from self._do_kill()
        self._fresh()

    def _fresh(self) -> None:
        self._left.clear()
        self.kvm.restart(self.level)

    def issued(self) -> dict[str, Any]:
        return self.kvm.counted()
