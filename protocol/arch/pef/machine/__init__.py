"""The machine: memory, the partition table, the ultravisor, and the processor that runs guests.

Theory of operation. A host's CPU makes an ultracall (`call`) or enters a vcpu (`enter`); both may run a
guest until it leaves, and UV_RETURN is an ultracall that does. Work that the ultravisor does for a vcpu of
an SVM is a generator; where the hypervisor has to be asked it is kept under a cookie (`svm.Thread`) until
UV_RETURN brings that back. So nothing is ever asked upwards: what comes up is the value of a call or an
entry.

Where things live: `svm` secure memory and its page table of states, `vm` `memory` `lifecycle` `guest`
`init` the calls by category, `vcpu` entries and exits, `normal` a vcpu with MSR[S] off, `sharing` `files`
what an SVM asks, `upcall` what the hypervisor is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import numpy as np

from protocol.arch.pef import front
from protocol.arch.pef.cpu import HCALL, Cpu, Entry, Exit, Return, Stopped, Vcpu, machine_check
from protocol.arch.pef.guest import Program
from protocol.arch.pef.machine import files, guest, lifecycle, vcpu
from protocol.arch.pef.machine.init import DebugRegisters
from protocol.arch.pef.machine.memory import usable
from protocol.arch.pef.machine.svm import SecureMemory, Svm
from protocol.arch.pef.machine.upcall import Work
from protocol.arch.pef.profiles import Profile
from protocol.arch.pef.status import FUNCTION, unsigned
from protocol.arch.pef.tpm import Tpm
from protocol.calls import CallSpec
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.physical import Physical
from protocol.memory.store import PAGE_SHIFT

Answered = list[int] | Exit | Stopped


class Machine:
    """A level that stands on memory. `seed` makes keys, cookies, and what registers are scrubbed with."""

    def __init__(
        self,
        profile: Profile,
        memory_bytes: int,
        cpus: Sequence[Cpu],
        calls: Mapping[int, CallSpec],
        ledger: Ledger,
        seed: int,
        number: int = 0,
    ) -> None:
        self.profile = profile
        self.number = number
        self.size = memory_bytes
        self.cpus = list(cpus)
        self.calls = calls
        self.ledger = ledger
        self.seed = seed
        self.storage = Physical(memory_bytes >> PAGE_SHIFT)
        self.tpm = Tpm(seed)
        self.lives = 0
        self._start()

    def _start(self) -> None:
        """The ultravisor comes up: it is there before any hypervisor."""
        self.lives += 1
        self.random = Random(f"{self.seed}:ultravisor:{self.number}:{self.lives}")
        self.secure = SecureMemory(self.profile.units)
        self.svms: dict[int, Svm] = {}
        self.reflected: dict[int, Svm] = {}  # by the cookies of its open reflections
        self.debug = DebugRegisters()
        self.stopped = ""
        self._table = np.zeros((self.profile.lpids, 2), np.uint64)  # in secure memory: only a call reaches it

    # -- the level -------------------------------------------------------------------------------------------

    def call(
        self,
        cpu: Cpu,
        gpr: Sequence[int],
        hsrr0: int = 0,
        stay: bool = False,
        program: Program | None = None,
    ) -> Step[Answered]:
        """`sc 2` of a host's CPU. The registers after it; an exit if it was a UV_RETURN that did its work."""
        out = list(gpr)
        number = out[3]
        refused = self._refusal(cpu, number)
        if refused is not None:
            out[3] = unsigned(refused)
            return out
        spec = self.calls[number]
        self._count(spec, cpu)
        if number == front.RETURN:
            return self._left(cpu, (yield from vcpu.uv_return(self, cpu, Return(out, hsrr0, stay, program))))
        if number == front.ESM:
            return (yield from self._esm(cpu, out, program or Program()))
        if number == front.ESMB_GET_FILE:
            out[3] = unsigned(files.get_file(self.svms.get(cpu.lpidr), cpu.pidr, out))
            return out
        assert spec.handler is not None
        out[3] = unsigned(spec.handler(self, cpu, out))
        return out

    def enter(self, cpu: Cpu, entry: Entry) -> Step[Exit | Stopped]:
        """HRFID into a vcpu, until it leaves."""
        return self._left(cpu, (yield from vcpu.hrfid(self, cpu, entry)))

    def tlbie(self, cpu: Cpu, lpid: int, gpa: int) -> Step[None]:
        """Translations are looked up for every access, so there is nothing to forget."""
        yield from ()

    def own_entry(self, cpu: Cpu, lpid: int, dw0: int, dw1: int) -> Step[None]:
        """Without an ultravisor the partition table is the host's own."""
        yield from ()
        self.set_pate(lpid, dw0, dw1)

    def new_lpid(self, cpu: Cpu) -> Step[int | None]:
        """A hypervisor on the machine picks its LPIDs itself."""
        yield from ()
        return None

    def give_lpid(self, cpu: Cpu, lpid: int) -> Step[None]:
        yield from ()

    def tpm_public(self) -> bytes:
        return self.tpm.public

    def tpm_execute(self, cpu: Cpu, command: bytes) -> Step[bytes]:
        """The host's own TPM device."""
        yield from ()
        return self.tpm.execute(command)

    def tpm_close(self, cpu: Cpu) -> Step[None]:
        """Nothing of a connection is kept: a session ends with its one message."""
        yield from ()

    def _refusal(self, cpu: Cpu, number: int) -> int | None:
        if not self.profile.ultravisor:
            return FUNCTION
        return front.refusal(number, front.context_of(cpu), self.profile.choices)

    def _esm(self, cpu: Cpu, gpr: list[int], program: Program) -> Step[Answered]:
        """UV_ESM of a CPU that left HV mode by itself: it is the first vcpu of its LPIDR's VM."""
        begun = lifecycle.accept(self, cpu.lpidr, gpr)
        if isinstance(begun, int):
            gpr[3] = unsigned(begun)
            return gpr
        program.issued = True
        it = Vcpu(cpu.lpidr, 0, list(gpr), 0, 0, program, cpu.pidr)
        return self._left(cpu, (yield from vcpu.begin(self, cpu, begun, it)))

    def _left(self, cpu: Cpu, exit: Exit | Stopped) -> Exit | Stopped:  # noqa: A002 - it is one
        """Count an arrival at the hypervisor of the machine."""
        if isinstance(exit, Exit):
            cpu.hv, cpu.pr = True, False  # an interrupt to the hypervisor
            by_vmm = exit.trap == HCALL and exit.program is not None and exit.gpr[3] in exit.program.vmm
            reason = f"{'uv_' if exit.secure else ''}{exit.trap:x}"
            self.ledger.exit(cpu.origin + 1, reason, "vmm" if by_vmm else "kernel")
        return exit

    def _count(self, spec: CallSpec, cpu: Cpu) -> None:
        if not cpu.origin:
            self.ledger.count(("te_calls", spec.name, spec.category, "own", "0"))
        self.ledger.count(("te_issued", spec.name, str(cpu.origin)))

    def native(self, number: int) -> None:
        """A guest made an ultracall: no hypervisor is on its way."""
        spec = self.calls.get(number)
        if spec is not None and spec.for_guest():
            self.ledger.count(("te_calls", spec.name, spec.category, "native", "guest"))

    def life(self, svm: Svm, it: Vcpu) -> Work:
        return guest.life(self, svm, it)

    def stop(self, reason: str) -> Stopped:
        """The ultravisor panicked: nothing goes on before a reset."""
        self.stopped = reason
        return Stopped(reason)

    # -- the partition table ---------------------------------------------------------------------------------

    def pate(self, lpid: int) -> tuple[int, int]:
        """The entry of a partition; behind the table's end there is none, nothing is translated (guess)."""
        if lpid >= len(self._table):
            return 0, 0
        return int(self._table[lpid, 0]), int(self._table[lpid, 1])

    def set_pate(self, lpid: int, dw0: int, dw1: int) -> None:
        self._table[lpid] = dw0, dw1

    # -- memory ----------------------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes | Fault:
        """A load of the host's. Secure memory is not in reach: its addresses lie behind the end."""
        if address < 0 or address + length > self.size:
            return machine_check(max(address, self.size))
        return self.storage.read(address, length)

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        if address < 0 or address + len(data) > self.size:
            return machine_check(max(address, self.size), write=True)
        self.storage.write(address, data)
        return None

    peek = read

    def poke(self, address: int, data: bytes) -> Fault | None:
        return self.write(address, data)

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        self.storage.clear_many(np.asarray(frames, np.int64))

    def move(self, old: int, new: int) -> None:
        self.storage.write(new << PAGE_SHIFT, self.storage.read(old << PAGE_SHIFT, 1 << PAGE_SHIFT))
        self.storage.clear(old)

    def normal_page(self, address: int) -> bool:
        return usable(address, self.size)

    def load(self, address: int, length: int) -> bytes:
        """The ultravisor's own access to normal memory, which it has looked at before."""
        return self.storage.read(address, length)

    def store(self, address: int, data: bytes) -> None:
        self.storage.write(address, data)

    # -- the end ---------------------------------------------------------------------------------------------

    def reset(self, clear_memory: bool = False) -> None:
        """The machine restarts: whatever was secure is gone."""
        self._start()
        for cpu in self.cpus:
            cpu.reset()
        if clear_memory:
            self.clear(np.arange(self.size >> PAGE_SHIFT))


__all__ = ["Machine"]
