"""The real thing: secure processor, RMP and SVM of one emulated machine. Its host is L0.

Theory of operation. Bytes lie in `OwingPhysical`, those of encrypted pages as ciphertext, so that whoever
reads one without its key reads just that. The page table of states is the RMP's columns; only this package
writes it. A command goes through `Front.mailbox` and lands in a handler named by the call table; VMRUN is
in `svm`. Handlers check first and change afterwards: a command that fails has changed nothing, but for what
section 3 of the fact sheet says it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from protocol.arch.sev import cpuid
from protocol.arch.sev.books import LOW_DRAM, Platform, fresh_platform, is_dram
from protocol.arch.sev.cpu import Cpu, X86Fault, not_present, rmp_violation
from protocol.arch.sev.crypto.certificates import chip_id
from protocol.arch.sev.crypto.identity import Identity
from protocol.arch.sev.crypto.keys import MemoryKey, derive
from protocol.arch.sev.front import Front
from protocol.arch.sev.guest import Program
from protocol.arch.sev.machine.entities import LegacyGuest, SnpGuest
from protocol.arch.sev.machine.owed import OwingPhysical
from protocol.arch.sev.machine.svm import Svm
from protocol.arch.sev.profiles import Profile
from protocol.arch.sev.reply import Reply, done
from protocol.arch.sev.rmp import Rmp
from protocol.arch.sev.structs import Buffer, Exit, NewState
from protocol.calls import CallSpec, Category, Treatment
from protocol.effects import Fault, Step
from protocol.ledger import Ledger
from protocol.memory.store import PAGE_SHIFT, Store

HOLE = range(LOW_DRAM >> PAGE_SHIFT, 0x100)


class Machine(Front):
    """Level 0. `size` is the end of memory in bytes; `seed` makes chip and keys."""

    platform: Platform[LegacyGuest, SnpGuest]
    nested_msr = False

    def __init__(
        self,
        profile: Profile,
        memory_bytes: int,
        cpus: Sequence[Cpu],
        calls: Mapping[int, CallSpec],
        ledger: Ledger,
        seed: int = 0,
        ram: Store | None = None,
    ) -> None:
        self.profile = profile
        self.size = memory_bytes
        self.cpus = list(cpus)
        self.calls = {code: spec for code, spec in calls.items() if spec.for_host()}
        self.ledger = ledger
        self.seed = seed
        self.storage = OwingPhysical(memory_bytes >> PAGE_SHIFT, ram)
        self.usable = np.ones(self.storage.frames, bool)
        self.usable[HOLE] = False
        self.rmp = Rmp(self.storage.frames, profile.asid_limit)
        self.chip_secret = derive(seed, "chip", 32)
        self.chip_key = MemoryKey(derive(seed, "chip memory", 32))
        self.svm = Svm(self)
        self.chip = chip_id(seed)
        self._made = 0
        self._start()

    def _start(self) -> None:
        self.platform = fresh_platform(self.profile, self.cpus)
        self.keys: dict[int, MemoryKey] = {}  # by ASID
        self.identity = Identity(self.seed, owned=self.profile.owned)
        self.vlek: tuple[bytes, bytes] | None = None  # seeds and TCB

    # -- the level --------------------------------------------------------------------------------------

    def call(self, cpu: Cpu, cmdresp: int, address: int, park: bool = False, lose: bool = False) -> Step[int]:
        """One command through the mailbox: CmdResp afterwards. Nothing gets lost on the machine itself."""
        return self.mailbox(cpu, cmdresp, address, park)

    def rmpupdate(self, cpu: Cpu, address: int, new: NewState) -> Step[int]:
        """RMPUPDATE; privilege and SNP_EN were looked at before."""
        self._asked("RMPUPDATE", cpu)
        return done(self.rmp.update(address, new))

    def psmash(self, cpu: Cpu, address: int) -> Step[int]:
        self._asked("PSMASH", cpu)
        return done(self.rmp.smash(address))

    def _asked(self, instruction: str, cpu: Cpu) -> None:
        """A page request of the host, which the RMP sees to."""
        if not cpu.origin:
            self.ledger.count(("te_calls", instruction, Category.MEMORY, Treatment.OWN, "0"))
        self.ledger.count(("te_issued", instruction, str(cpu.origin)))

    def wbinvd(self, cpu: Cpu) -> Step[None]:
        self.platform.asids.wbinvd(cpu.core)
        return done(None)

    def poll(self) -> Step[None]:
        """Look at the mailbox: nothing is ever under way here between two requests."""
        return done(None)

    def rdmsr(self, cpu: Cpu, number: int) -> Step[int | Fault]:
        return done(cpu.read_msr(number))

    def wrmsr(self, cpu: Cpu, number: int, value: int) -> Step[Fault | None]:
        return done(cpu.write_msr(number, value))

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return cpuid.leaf(self.profile, leaf, subleaf, nested_msr=False)

    def enter(self, cpu: Cpu, vmcb: int, program: Program, stay: bool, level: int) -> Step[Exit | Fault]:
        """VMRUN. `program` is what the guest's memory says it does, `level` the guest's level."""
        return self.svm.enter(cpu, vmcb, program, stay, level)

    # -- memory as the host's CPUs reach it -------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes | Fault:
        """Reads are never refused where there is memory."""
        if not self._is_memory(address, length):
            return not_present(self._first_outside(address, length), write=False)
        return self.fetch(address, length)

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        fault = self.refusal(address, len(data))
        if fault is None:
            tmr = self.platform.tmr
            if address < tmr.stop and tmr.start < address + len(data):
                data = self._without_tmr(address, data)
            self.storage.write(address, data)
        return fault

    peek = read

    def poke(self, address: int, data: bytes) -> Fault | None:
        return self.write(address, data)

    def refusal(self, address: int, length: int) -> X86Fault | None:
        """What a store to this range would raise."""
        if not self._is_memory(address, length):
            return not_present(self._first_outside(address, length), write=True)
        if not self.rmp.live or not length:
            return None
        first = address >> PAGE_SHIFT
        bad = self.rmp.any_assigned(first, (address + length - 1 >> PAGE_SHIFT) - first + 1)
        return None if bad is None else rmp_violation(max(address, bad << PAGE_SHIFT))

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero frames that the host owns."""
        self.storage.clear_many(np.asarray(frames, np.int64))

    def _is_memory(self, address: int, length: int) -> bool:
        if address < 0 or address + length > self.size:
            return False
        return is_dram(self.size, address, length)

    def _first_outside(self, address: int, length: int) -> int:
        if is_dram(self.size, address, 1):
            return LOW_DRAM if address < LOW_DRAM else self.size
        return address

    def _without_tmr(self, address: int, data: bytes) -> bytes:
        """Without SNP, stores to the trusted region are lost (guess: it is not the CPUs' memory any more)."""
        tmr = self.platform.tmr
        first, last = max(address, tmr.start) - address, min(address + len(data), tmr.stop) - address
        kept = self.storage.read(address + first, last - first)
        return data[:first] + kept + data[last:]

    # -- memory as the firmware reaches it --------------------------------------------------------------

    def fetch(self, address: int, length: int) -> bytes:
        rmp = self.rmp
        if not rmp.live or address >= rmp.end or address + length <= rmp.base:
            return self.storage.read(address, length)
        first, last = max(address, rmp.base), min(address + length, rmp.end)
        before = self.storage.read(address, first - address) if first > address else b""
        behind = self.storage.read(last, address + length - last) if last < address + length else b""
        return before + rmp.rendered(first, last - first) + behind

    def deposit(self, address: int, data: bytes) -> None:
        self.storage.write(address, data)

    def plain(self, key: MemoryKey, address: int, length: int) -> bytes:
        """Plaintext of a range of a guest's memory, whose ends lie on 16 bytes."""
        return key.decrypt(address, self.storage.read(address, length))

    def seal(self, key: MemoryKey, address: int, data: bytes) -> None:
        """Store plaintext as the guest's memory."""
        self.storage.write(address, key.encrypt(address, data))

    # -- the firmware -----------------------------------------------------------------------------------

    def perform(self, spec: CallSpec, cpu: Cpu, b: Buffer) -> Reply | Step[Reply]:
        origin = str(cpu.origin)
        if not cpu.origin:
            self.ledger.count(("te_calls", spec.name, spec.category, "own", "0"))
        self.ledger.count(("te_issued", spec.name, origin))
        assert spec.handler is not None
        answer: Reply | Step[Reply] = spec.handler(self, b)
        return answer

    def end_guests(self) -> Step[None]:
        for guest in self.platform.guests.values():
            self.keys.pop(guest.asid, None)
        return done(None)

    def secret(self, label: str, length: int) -> bytes:
        """Fresh random bytes: they depend on the seed and on how many were drawn before."""
        self._made += 1
        return derive(self.seed, label, length, self._made.to_bytes(8, "little"))

    def install(self, asid: int, key: MemoryKey) -> None:
        self.keys[asid] = key

    def key_of(self, asid: int) -> MemoryKey:
        """The key in the ASID's slot; an empty slot has one that nobody knows."""
        return self.keys.get(asid) or self.chip_key

    def statistics(self) -> dict[str, Any]:
        """What `audit` shows of this machine's host."""
        assigned, secure = self.rmp.assigned_pages(), int(np.count_nonzero(self.rmp.asid))
        return {
            "te": {
                "sev_guests": len(self.platform.guests),
                "gctx": len(self.platform.contexts),
                "asids": self.platform.asids.bound(),
                "assigned_pages": assigned,
            },
            "donated_pages": assigned - secure,
            "secure_pages": secure,
        }

    # -- the machine is reset ---------------------------------------------------------------------------

    def reset(self) -> None:
        """A power cycle: everything is as at the start, memory zero."""
        self.rmp.drop()
        for cpu in self.cpus:
            cpu.reset()
        self._start()
        self.storage.clear_many(range(self.storage.frames))
