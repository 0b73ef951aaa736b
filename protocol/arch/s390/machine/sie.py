"""SIE: enter a secure CPU, run its program until something has to be told to the host.

Follows sections 5.3 and 5.4 of the fact sheet and the console's contract. Reasons of validity intercepts are
numbers of our own in the Ultravisor's range 0x20xx (guess: the sheet gives none). A validity and a 112
consume nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.s390 import cpu as z
from protocol.arch.s390 import dat, instructions
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program
from protocol.arch.s390.instructions import Intercept
from protocol.arch.s390.machine import normal, steps
from protocol.arch.s390.machine.entities import Config, ConfigState, CpuState, PageState, SecureCpu
from protocol.arch.s390.machine.steps import Trap
from protocol.arch.s390.structs import (
    GPRS,
    SECURE,
    SIE_GPRS,
    SIE_ICPTCODE,
    SIE_IICTL,
    SIE_IPA,
    SIE_LENGTH,
    SIE_TIMER,
    TEXT,
    U64,
    SieEntry,
    SieExit,
)
from protocol.effects import Fault, Idle, Step
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.machine import Machine

NO_GPRS = (0,) * 16
TIMER_MARGIN = 100 * 4096  # TOD units: 100 microseconds
LAST_PROMPTS = {0x10: z.SPECIFICATION, 0x11: z.OPERAND}

BAD_FORMAT = 0x2001
BAD_HANDLE = 0x2002
BAD_ASCE = 0x2003
NOT_STARTED = 0x2004
IN_RESET = 0x2005
ALREADY_INSIDE = 0x2006
BAD_TIMER = 0x2007
BAD_INJECTION = 0x2008
BAD_SIDA = 0x2009
DUMPING = 0x200A


def area(sida: int) -> tuple[int, int]:
    """Origin and length of the instruction data area;

    the low bits are its size in pages, minus one (inferred).
    """
    return sida & ~OFFSET, PAGE * ((sida & OFFSET) + 1)


class Sie:
    """The instruction, on one machine."""

    def __init__(self, uv: Machine) -> None:
        self.uv = uv

    def enter(self, cpu: Cpu, block: int, program: Program, stay: bool, level: int) -> Step[SieExit | Fault]:
        if cpu.problem_state:
            return z.program(z.PRIVILEGED, block)
        raw = self.uv.read(block, SIE_LENGTH)
        if isinstance(raw, Fault):
            return raw
        entry = SieEntry.unpack(raw)
        if entry.sdf == 0:
            return (yield from normal.enter(self.uv, cpu, block, raw, program, stay, level))
        refusal = self._validity(cpu, entry)
        if refusal:
            return self._refused(block, entry, level, Intercept(instructions.VALIDITY, ipb=refusal << 16))
        secure = self.uv.secure_cpus[entry.cpu_handle]
        if not self._prefix_ready(secure):
            return self._refused(block, entry, level, Intercept(instructions.PREFIX))
        secure.inside = True
        try:
            secure.guest_timer = entry.timer
            self._complete(secure, entry, program)
            result = yield from self._run(secure, entry, program, stay)
        finally:
            secure.inside = False
        return self._left(block, secure, program, level, result)

    # -- before anything of the guest runs -------------------------------------------------------------------

    def _validity(self, cpu: Cpu, entry: SieEntry) -> int:
        """The reason why this block is not acceptable, else 0."""
        if entry.sdf != SECURE:
            return BAD_FORMAT
        config = self.uv.configs.get(entry.config_handle)
        secure = self.uv.secure_cpus.get(entry.cpu_handle)
        if config is None or secure is None or secure.config is not config:
            return BAD_HANDLE
        if cpu.cr[1] != config.asce:
            return BAD_ASCE
        if secure.inside:
            return ALREADY_INSIDE
        if config.reset_pending or config.state in (ConfigState.UNSHARED, ConfigState.RESET_PREPARED):
            return IN_RESET
        if config.dump is not None:
            return DUMPING
        if config.state is not ConfigState.RUNNING or secure.state is not CpuState.OPERATING:
            return NOT_STARTED
        if not self._timer_fits(secure, entry.timer):
            return BAD_TIMER
        if not self._injection_fits(secure, entry.iictl):
            return BAD_INJECTION
        return 0 if entry.sida == 0 or self.uv.refusal(*area(entry.sida)) is None else BAD_SIDA

    def _timer_fits(self, secure: SecureCpu, timer: int) -> bool:
        if secure.timer is None:
            return True
        down = (secure.timer - timer) & 0xFFFF_FFFF_FFFF_FFFF
        return down <= self.uv.tod - secure.tod + TIMER_MARGIN

    @staticmethod
    def _injection_fits(secure: SecureCpu, iictl: int) -> bool:
        if iictl == 0:
            return True
        if iictl == 0x10:
            return secure.completing in (0x288, 0x500)
        if iictl == 0x11:
            return secure.completing == 0x500
        if iictl == 4:  # a restart cannot be disabled (inferred: general architecture)
            return not secure.after_notice
        return iictl in secure.enabled

    def _prefix_ready(self, secure: SecureCpu) -> bool:
        """Both prefix pages are resident and this guest's; sharing does not change ownership."""
        for page in (secure.prefix, secure.prefix + PAGE):
            if not isinstance(self.frame(secure.config, page, write=True), int):
                return False
        return True

    def _complete(self, secure: SecureCpu, entry: SieEntry, program: Program) -> None:
        """Finish the instruction of a 104, or give it the outcome that the host injected."""
        code, secure.completing = secure.completing, None
        secure.enabled, secure.after_notice = (), False
        if code is None or not program.awaiting:
            return
        if entry.iictl in LAST_PROMPTS:
            steps.interrupt(self, secure, program, LAST_PROMPTS[entry.iictl])
        elif code == 0x500:
            secure.set_gpr(2, entry.gprs[2])
            program.finish({"gprs": {"2": hex(entry.gprs[2])}})
        else:
            program.finish({"gprs": {}})

    # -- the guest runs --------------------------------------------------------------------------------------

    def _run(
        self, secure: SecureCpu, entry: SieEntry, program: Program, stay: bool
    ) -> Step[Intercept | Fault]:
        """Steps until one leaves.

        A CPU that stays goes on as long as its prefix pages are there and nobody resets its configuration:
        the one shows as at an entry, the other as an interruption, and the next entry says why.
        """
        while True:
            while program.steps:
                result = steps.do(self, secure, program)
                if result is not None:
                    return self._with_data(entry, secure, program, result)
            if not stay:
                secure.enabled = instructions.OF_A_WAIT
                return Intercept(instructions.WAIT)
            if not (yield Idle()) or secure.config.reset_pending:
                return Intercept(instructions.KICKED)
            if not self._prefix_ready(secure):
                return Intercept(instructions.PREFIX, gprs=entry.gprs)

    def _with_data(
        self, entry: SieEntry, secure: SecureCpu, program: Program, result: Trap | Fault
    ) -> Intercept | Fault:
        """Put the instruction's data into the SIDA; one that was taken away meanwhile is the host's fault.

        Without a SIDA the host gets no data (guess).
        """
        if isinstance(result, Fault):
            return result
        if result.data and entry.sida:
            origin, room = area(entry.sida)
            fault = self.uv.write(origin, result.data[:room])
            if fault is not None:
                return fault
        result.commit(secure, program)
        return result.intercept

    # -- leaving ---------------------------------------------------------------------------------------------

    def _refused(self, block: int, entry: SieEntry, level: int, left: Intercept) -> SieExit:
        """Nothing of the guest has run and nothing is consumed:

        what the host put into the registers stays there.
        """
        self._store(block, level, left, "kernel")
        return SieExit(left.code, left.ipa, left.ipb, entry.gprs)

    def _left(
        self, block: int, secure: SecureCpu, program: Program, level: int, result: Intercept | Fault
    ) -> SieExit | Fault:
        """Store how it ended in the block as the hardware does. A host exception shows in no field of it."""
        secure.timer = secure.guest_timer
        secure.tod = self.uv.tod
        self.uv.write(block + SIE_TIMER, U64.pack(secure.timer))
        self.uv.write(block + SIE_IICTL, b"\0")
        if isinstance(result, Fault):
            self.uv.ledger.exit(level, f"pgm_{result.code:02x}")
            return result
        self._store(block, level, result, "vmm" if result.reason in program.vmm_reasons else "kernel")
        self.uv.write(block + SIE_GPRS, GPRS.pack(*result.gprs))
        return SieExit(result.code, result.ipa, result.ipb, result.gprs)

    def _store(self, block: int, level: int, left: Intercept, to: str) -> None:
        self.uv.ledger.exit(level, left.reason, to)
        self.uv.write(block + SIE_ICPTCODE, bytes((left.code,)))
        self.uv.write(block + SIE_IPA, TEXT.pack(left.ipa, left.ipb))

    # -- the guest's storage ---------------------------------------------------------------------------------

    @staticmethod
    def absolute(secure: SecureCpu, address: int) -> int:
        """Guest absolute address of a guest real one."""
        return instructions.prefixed(secure.prefix, address)

    def frame(self, config: Config, absolute: int, write: bool) -> int | Fault:
        """The frame behind a guest absolute address inside the guest, if the guest may use it."""
        uv = self.uv
        host = dat.walk(uv.read, config.asce, config.mso + absolute, write)
        if isinstance(host, Fault):
            return z.program(host.code, absolute, write)
        if host >= uv.size:
            return z.program(z.ADDRESSING, absolute, write)
        frame = host >> PAGE_SHIFT
        state = uv.states[frame]
        if state == PageState.DONATED:
            return z.program(z.SECURE_ACCESS, absolute, write)
        if state == PageState.NORMAL:
            return z.program(z.NON_SECURE_ACCESS, absolute, write)
        if uv.owner[frame] == config.serial and uv.guest_page[frame] == absolute >> PAGE_SHIFT:
            return frame
        if state != PageState.SECURE and uv.owner[frame] != config.serial:
            return z.program(z.NON_SECURE_ACCESS, absolute, write)
        return z.program(z.SECURE_VIOLATION, absolute, write)
