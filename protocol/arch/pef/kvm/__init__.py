"""The hypervisor's side: KVM as a host runs it, and as much of a VMM as a guest needs.

Theory of operation. `run` lets a vcpu run until something reaches the VMM: KVM answers what it knows
(`svm`, `pages`), the VMM its TPM (`vmm`). Every ultracall goes through `ucall`, so that it is counted as
the host sees it. Nothing here knows at which depth it runs.

  frames   the host's memory        vm      what KVM keeps of a VM
  pages    frames, device frames    svm     H_SVM_*
  run      vcpus                    vmm     system calls, loading, TPM
  own      what it has beside guest hosts
"""

from __future__ import annotations

from collections import defaultdict
from random import Random

import numpy as np

from protocol.arch.pef import front
from protocol.arch.pef.calls import CALLS
from protocol.arch.pef.cpu import HCALL, Cpu, Exit, Stopped, gprs
from protocol.arch.pef.guest import Program
from protocol.arch.pef.hcalls import name_of
from protocol.arch.pef.kvm.frames import Arena, Frames
from protocol.arch.pef.kvm.own import Own
from protocol.arch.pef.kvm.vm import MEM, SHARED, UVMEM, Vm
from protocol.arch.pef.level import Level
from protocol.arch.pef.radix import Tree
from protocol.arch.pef.status import signed
from protocol.arch.pef.tables import LPIDS, PAGE
from protocol.effects import Step
from protocol.memory.store import PAGE_SHIFT as SMALL_SHIFT


class HostStopped(Exception):
    """The machine of this host stands still. The keyboard says so; nothing goes on before a reset."""


class Kvm:
    """KVM of one host on `level`. `guest`: it is a guest itself; `random` makes what its guests ask for.

    `own`: what it has beside guest hosts; else all is its own.
    """

    def __init__(self, level: Level, guest: bool, random: Random, own: Own | None = None) -> None:
        self.level = level
        self.guest = guest
        self.random = random
        self.frames = Frames(level.size, None if own is None else own.memory)
        self.lpids = range(1, LPIDS) if own is None else own.lpids
        self.ucalls: defaultdict[str, int] = defaultdict(int)
        self.hcalls: defaultdict[str, int] = defaultdict(int)
        self.reflections: defaultdict[str, int] = defaultdict(int)
        self.restart(level)

    def restart(self, level: Level) -> None:
        """The host boots: it has no VM."""
        self.level = level
        self.vms: dict[int, Vm] = {}
        self.shadows: set[int] = set()  # LPIDs of nested VMs
        self._lowest = self.lpids.start  # no LPID below it is free
        self.frames.forget_kvm()
        self.devices = list(range(level.profile.devices - 1, -1, -1))

    def free_lpid(self) -> int:
        """The lowest LPID that no VM has; 0: there is none. It stays free until a VM is made under it."""
        left = range(self._lowest, self.lpids.stop)
        self._lowest = next((n for n in left if n not in self.vms and n not in self.shadows), left.stop)
        return self._lowest if self._lowest in self.lpids else 0

    def gives_back(self, lpid: int) -> None:
        """No VM has this LPID any more."""
        if lpid in self.lpids:
            self._lowest = min(self._lowest, lpid)

    @property
    def has_ultravisor(self) -> bool:
        return self.level.profile.ultravisor

    # -- ultracalls ------------------------------------------------------------------------------------------

    def ucall(self, cpu: Cpu, number: int, *arguments: int) -> Step[int]:
        """An ultracall that answers a status, by the kernel: in its own context. Raises HostStopped."""
        gpr = gprs(r3=number)
        gpr[4 : 4 + len(arguments)] = arguments
        kept = cpu.hv, cpu.pr, cpu.tm
        cpu.hv, cpu.pr, cpu.tm = True, False, "none"
        out = yield from self.issue(cpu, gpr)
        cpu.hv, cpu.pr, cpu.tm = kept
        assert isinstance(out, list), f"{number:#x} left the hypervisor"
        return signed(out[3])

    def issue(
        self,
        cpu: Cpu,
        gpr: list[int],
        hsrr0: int = 0,
        stay: bool = False,
        program: Program | None = None,
    ) -> Step[list[int] | Exit]:
        """Any ultracall, counted. Raises HostStopped."""
        spec = CALLS.get(gpr[3])
        self.ucalls[spec.name if spec is not None else hex(gpr[3])] += 1
        return self.checked((yield from self.level.call(cpu, gpr, hsrr0, stay, program)))

    def checked(self, out: list[int] | Exit | Stopped) -> list[int] | Exit:
        if isinstance(out, Stopped):
            raise HostStopped(out.reason)
        return out

    def write_entry(self, cpu: Cpu, lpid: int, dw0: int, dw1: int) -> Step[None]:
        """A partition table entry: by the ultravisor, or in the host's own table where there is none."""
        if self.has_ultravisor:
            yield from self.ucall(cpu, front.WRITE_PATE, lpid, dw0, dw1)
        else:
            yield from self.level.own_entry(cpu, lpid, dw0, dw1)

    def tree(self, arena: Arena) -> Tree:
        """A table for a VM, in pages of its arena. Raises OutOfMemory."""

        def take(size: int) -> int:
            before = len(arena.pages)
            at = arena.take(size)
            if len(arena.pages) > before:
                first = arena.pages[-1] >> SMALL_SHIFT
                self.level.clear(np.arange(first, first + (PAGE >> SMALL_SHIFT)))
            return at

        return Tree(self.level.peek, self.level.write, take)

    # -- counting --------------------------------------------------------------------------------------------

    def arrived(self, exit: Exit) -> None:  # noqa: A002 - it is one
        """An exit reached the hypervisor."""
        if exit.secure:
            self.reflections[hex(exit.trap)] += 1
        if exit.trap == HCALL:
            self.hcalls[name_of(exit.gpr[3])] += 1

    def counted(self) -> dict[str, dict[str, int]]:
        return {
            "ucalls": dict(self.ucalls),
            "hcalls": dict(self.hcalls),
            "reflections": dict(self.reflections),
        }

    def tracked(self) -> dict[str, int]:
        """KVM's words, in the console's words."""
        vms = self.vms.values()
        return {
            "vms": len(vms),
            "gfns_secure": sum(vm.count(UVMEM) for vm in vms),
            "gfns_paged_out": sum(vm.count(MEM) for vm in vms),
            "gfns_shared": sum(vm.count(SHARED) for vm in vms),
        }
