"""Run a guest until its program is done, and answer each exit and each fault on the way. Section 5.4.

A guest that has nothing to do waits, so every run ends with one enabled wait. What the VMM answers and what
the kernel answers is the same act here; it differs in what it costs, and is counted by `vmm`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from protocol.arch.s390 import instructions
from protocol.arch.s390.guest import GuestStep, Program
from protocol.arch.s390.host import pages as page
from protocol.arch.s390.host.guests import OPERATING, STOPPED, Guest, GuestFailed, Vcpu
from protocol.arch.s390.host.lifecycle import LOAD_NORMAL, MODIFIED_CLEAR, reset, set_state
from protocol.arch.s390.structs import SHARE, SIE_GPRS, SIE_IICTL, U64, SieExit
from protocol.effects import Fault, Step
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.s390.host.system import Host

KERNEL: frozenset[str] = frozenset()  # the VMM answers nothing
INJECT_IO = b"\x03"  # what ends an enabled wait
SIGP_START, SIGP_STOP, SIGP_RESTART = 4, 5, 6
STATE_AFTER = {SIGP_START: OPERATING, SIGP_RESTART: OPERATING, SIGP_STOP: STOPPED}
SIGP_BYTE = 0xAE
# After these the guest is entered again; what it enabled is looked at before every entry.
GOES_ON = frozenset(
    {
        instructions.WAIT,
        instructions.KICKED,
        instructions.INTERRUPT_ENABLED,
        instructions.MACHINE_CHECK_ENABLED,
    }
)


class Feed:
    """Hands out a program up to the next step that is sure to exit, and no further.

    So little has to cross a link with each entry, and still the guest never runs dry before its end. Whether
    a step is sure to exit is asked when it is handed out.
    """

    __slots__ = ("_source",)

    def __init__(self, steps: Iterable[tuple[GuestStep, bool]]) -> None:
        self._source: Iterator[tuple[GuestStep, bool]] = iter(steps)

    def top_up(self, program: Program) -> None:
        """Before an entry: what led to the exit before it is done."""
        for step, sure in self._source:
            program.steps.append(step)
            if sure:
                return


def run(
    host: Host,
    guest: Guest,
    vcpu: Vcpu,
    feed: Feed,
    vmm: frozenset[str] = KERNEL,
    program: Program | None = None,
) -> Step[None]:
    """Let the guest do all that `feed` has, after what `program` has.

    Raises GuestFailed, TeRefused, OutOfFrames.
    """
    program = program or Program(vmm_reasons=vmm)
    while True:
        feed.top_up(program)
        if vcpu.waiting and not program.steps:
            return
        result = yield from enter(host, guest, vcpu, program)
        yield from answer(host, guest, vcpu, result)


def enter(host: Host, guest: Guest, vcpu: Vcpu, program: Program) -> Step[SieExit | Fault]:
    """SIE, once."""
    if vcpu.waiting:
        host.store(vcpu.sie + SIE_IICTL, INJECT_IO)
        vcpu.waiting = False
    cpu = host.cpu_of(guest, vcpu.number)
    cpu.origin = 0
    cpu.cr[1] = guest.table.asce
    result = yield from host.level.enter(cpu, vcpu.sie, program, False, host.depth + 1)
    for done in program.collect():
        if "pgm" in done or done.get("cc"):
            raise GuestFailed(f"guest {guest.number}: the program of CPU {vcpu.number} failed: {done}")
        if "hex" in done:
            host.heard = bytes.fromhex(done["hex"])
    if isinstance(result, SieExit) and result.code == instructions.WAIT:
        vcpu.waiting = True
    return result


def answer(host: Host, guest: Guest, vcpu: Vcpu, result: SieExit | Fault) -> Step[None]:
    """Do what the guest left SIE for."""
    if isinstance(result, Fault):
        yield from page.answer_fault(host, guest, result)
    elif result.code == instructions.PREFIX:
        yield from page.import_prefix(host, guest, vcpu)
    elif result.code == instructions.SECURE_INSTRUCTION:
        _complete(host, vcpu, result)
    elif result.code == instructions.NOTIFICATION:
        yield from _notified(host, guest, vcpu, result)
    elif result.code not in GOES_ON:
        reason = f"intercept {result.code:#04x}, reason {result.ipb >> 16:#06x}"
        raise GuestFailed(f"guest {guest.number}, CPU {vcpu.number}: {reason}")


def _complete(host: Host, vcpu: Vcpu, result: SieExit) -> None:
    """A 104: the next entry finishes it. Of the registers only the hypercall's return value is the host's."""
    if result.gprs[5] == 0x500:
        host.store(vcpu.sie + SIE_GPRS + 2 * 8, U64.pack(0))


def _notified(host: Host, guest: Guest, vcpu: Vcpu, result: SieExit) -> Step[None]:
    """A 108: done already; some have consequences."""
    gprs = result.gprs
    if result.ipa == instructions.IPA_SPX:
        vcpu.prefix = int.from_bytes(host.load(vcpu.sida, 4), "big")
    elif result.ipa == instructions.IPA_UVC:
        address = instructions.prefixed(vcpu.prefix, SHARE.unpack(host.load(vcpu.sida, SHARE.size))[0])
        yield from page.unpin(host, guest, address >> PAGE_SHIFT)
    elif result.ipa >> 8 == SIGP_BYTE:
        state = STATE_AFTER.get(gprs[5])
        if state is not None and gprs[2] < len(guest.vcpus):
            yield from set_state(host, guest, guest.vcpus[gprs[2]], state)
    elif (
        result.ipa == instructions.IPA_DIAG and gprs[5] == 0x308 and gprs[2] in (MODIFIED_CLEAR, LOAD_NORMAL)
    ):
        yield from reset(host, guest, gprs[2])
