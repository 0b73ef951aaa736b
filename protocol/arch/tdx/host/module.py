"""The kernel's hands on the TDX module: SEAMCALL, what is tried again, and how the module comes up.

Section 6.1. One TDMR covers all memory from address 0 on, in whole GiBs; what is no memory for TDs in it
(the first MiB, SEAMRR, the PAMT, what lies behind the end) is a reserved area.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from protocol.arch.tdx.cpu import Lp, Registers, registers
from protocol.arch.tdx.guest import Program
from protocol.arch.tdx.profiles import GIB, KIB, LOW_MEMORY, MIB, SEAMRR_BASE, SEAMRR_SIZE, Range
from protocol.arch.tdx.status import CODE_MASK, R8, RAX, RDX, Status, name_of
from protocol.arch.tdx.structs import U64, TdmrInfo
from protocol.effects import Fault, Step
from protocol.memory.store import PAGE

TRIES = 10_000  # of a call that somebody else's is in the way of
BUSY = frozenset({Status.OPERAND_BUSY, Status.SYS_BUSY, Status.PREVIOUS_TLB_EPOCH_BUSY})
PAMT_OF_A_GIB = (16, 8 * KIB, 4 * MIB)  # of its entries for 1G, 2M and 4K
PAMT_AT = SEAMRR_BASE + SEAMRR_SIZE
SYS_KEY_CONFIG, SYS_INIT, SYS_RD, LP_INIT, TDMR_INIT, SYS_CONFIG = 31, 33, 34, 35, 36, 45
NUM_CPUID_CONFIG, CPUID_LEAVES, CPUID_VALUES = 0x9900000100000004, 0x9900000300000400, 0x9900000300000500
WANTED = (
    *(0x0800000100000003 + n for n in range(3)),  # versions
    0x0A00000300000008,  # TDX_FEATURES0
    *(0x9100000100000000 + n for n in (0x8, 0x9, 0x10, 0x11, 0x12)),  # of TDMRs
    *(0x9800000100000000 + n for n in (0, 0x100, 0x200)),  # sizes of control structures
    *(0x1900000300000000 + n for n in range(4)),  # what ATTRIBUTES and XFAM may be
    0x9900000100000008,  # MAX_VCPUS_PER_TD
)  # what Linux reads, but for the CPUID configuration


class Failed(Exception):
    """The module refused what the host's software was about to do."""


class Module:
    """The module as the kernel of a host has it. LPs are named by their place in `lps`."""

    def __init__(self, level: Any, lps: Sequence[Lp]) -> None:
        self.level = level
        self.lps = list(lps)
        self.global_key = level.profile.first_private + level.profile.tdx_keyids - 1
        self._numbers = {spec.name: code for code, spec in level.calls.items()}

    @property
    def one_of_each_package(self) -> list[int]:
        """An LP in each package."""
        return list({lp.package: at for at, lp in reversed(list(enumerate(self.lps)))}.values())

    # -- calls -------------------------------------------------------------------------------------

    def call(self, name: str, lp: int = 0, allowed: Sequence[int] = (0,), **operands: int) -> Step[Registers]:
        """One call by its name. Raises Failed where the status is none of `allowed`."""
        for _ in range(TRIES):
            out = yield from self.level.call(self.lps[lp], registers(rax=self._numbers[name], **operands))
            if isinstance(out, Fault):
                raise Failed(f"{name} raises {out.name}")
            done: Registers = out
            if done[RAX] & CODE_MASK not in BUSY:
                break
        if done[RAX] & CODE_MASK not in allowed:
            raise Failed(f"{name} answers {name_of(done[RAX])} ({done[RAX]:#x})")
        return done

    def enter(self, lp: int, r: Registers, program: Program) -> Step[Registers | Fault]:
        """TDH.VP.ENTER with these registers, again as long as a lock is in the way."""
        out: Registers | Fault = r
        for _ in range(TRIES):
            out = yield from self.level.enter(self.lps[lp], list(r), program)
            if isinstance(out, Fault) or out[RAX] & CODE_MASK not in BUSY:
                break
        return out

    # -- memory ------------------------------------------------------------------------------------

    def write(self, address: int, data: bytes, stores: int = 1) -> None:
        """A store, which succeeds always on this architecture."""
        self.level.write(address, data, stores)

    # -- the module comes up (6.1) -----------------------------------------------------------------

    def bring_up(self, scratch: int) -> Step[None]:
        """Two pages from `scratch` on hold what SYS.CONFIG reads."""
        yield from self.call("sys_init")
        for lp in range(len(self.lps)):
            yield from self.call("sys_lp_init", lp)
        yield from self._read_metadata()
        info = tdmr(self.level.size)
        self.write(scratch, U64.pack(scratch + PAGE))
        self.write(scratch + PAGE, info.pack())
        yield from self.call("sys_config", rcx=scratch, rdx=1, r8=self.global_key)
        for lp in self.one_of_each_package:
            yield from self.call("sys_key_config", lp)
        done = info.base
        while done < info.base + info.size:
            out = yield from self.call("sys_tdmr_init", rcx=info.base)
            done = out[RDX]

    def _read_metadata(self) -> Step[None]:
        for field in WANTED:
            yield from self.call("sys_rd", rdx=field)
        out = yield from self.call("sys_rd", rdx=NUM_CPUID_CONFIG)
        for n in range(out[R8]):
            for field in (CPUID_LEAVES + n, CPUID_VALUES + 2 * n, CPUID_VALUES + 2 * n + 1):
                yield from self.call("sys_rd", rdx=field)


def tdmr(size: int) -> TdmrInfo:
    """The TDMR of a host with `size` bytes of memory, its PAMT right behind SEAMRR."""
    gibs = -(-size // GIB)
    at, areas = PAMT_AT, []
    for each in PAMT_OF_A_GIB:
        length = -(-gibs * each // PAGE) * PAGE
        areas.append(Range(at, length))
        at += length
    reserved = [Range(0, LOW_MEMORY), Range(SEAMRR_BASE, at - SEAMRR_BASE)]
    if size < gibs * GIB:
        reserved.append(Range(size, gibs * GIB - size))
    return TdmrInfo(0, gibs * GIB, (areas[0], areas[1], areas[2]), tuple(reserved))
