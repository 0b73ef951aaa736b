"""The ccp driver: command buffers, pages that change hands around a command, the probe. Sections 2.1 and 6.1.

Under SNP the buffer of a command that is written has to be a page of the firmware's; Linux makes it one,
and takes it back with PAGE_RECLAIM and RMPUPDATE afterwards. So it does with every page that a legacy
command writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from protocol.arch.sev.cpu import RMP_BASE, RMP_END, SYSCFG, VM_HSAVE_PA
from protocol.arch.sev.hands import Hands
from protocol.arch.sev.host.turns import Turns
from protocol.arch.sev.instructions import MASK32, Registers
from protocol.arch.sev.structs import FIRMWARE, LAYOUTS, PAGE, SHARED, TWO_MIB, U32, U64, WRITTEN, NewState
from protocol.effects import Fault, Step
from protocol.errors import OwnerGone

T = TypeVar("T")
MIB = 1 << 20
ES_FLAG = 1
INIT_RMP_AND_LIST = 3
LOW_END, HIGH_START = 0xA0000, 0x100000
SNP_EN = 1 << 24


class Failed(Exception):
    """The firmware or the RMP refused what the host's software was about to do."""


def undone(step: Step[T], undo: Callable[[], Step[Any]]) -> Step[T]:
    """Do `step`, then `undo`, which may be done twice; it is done even if the owner of the work vanishes."""
    try:
        result = yield from step
        yield from undo()
    except OwnerGone:
        yield from undo()
        raise
    return result


class Driver:
    """The kernel's hands on the platform. `allocate(length, align)` gives memory of the host, zeroed."""

    def __init__(self, hands: Hands, allocate: Callable[[int, int], int]) -> None:
        self.hands = hands
        self.allocate = allocate
        self._codes = {spec.name: code for code, spec in hands.seat.level.calls.items()}
        self._buffers = allocate(2 * PAGE, PAGE)  # PAGE_RECLAIM may come while another command is prepared
        self.operand = allocate(PAGE, PAGE)  # new states for RMPUPDATE
        self.snp = False
        self.turns: Turns | None = None  # of a kernel that rings for others, too

    @property
    def pages(self) -> tuple[int, ...]:
        """What it has for itself as long as it lives: a kernel that stays up takes it back."""
        return self._buffers, self._buffers + PAGE, self.operand

    # -- memory and instructions ------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        data: bytes | Fault = self.hands.seat.level.read(address, length)
        if isinstance(data, Fault):
            raise Failed(f"a read at {address:#x} raises {data.name}")
        return data

    def write(self, address: int, data: bytes) -> None:
        fault = self.hands.seat.level.write(address, data)
        if fault is not None:
            raise Failed(f"a store at {address:#x} raises {fault.name}")

    def rmpupdate(self, page: int, new: NewState) -> Step[None]:
        """Trapping MSRs have the state in registers, the instruction in memory; the host's kernel knows
        which.
        """
        self.write(self.operand, new.pack())
        r = Registers(rax=page, rcx=self.operand)
        result = yield from self.hands.instruction(0, "rmpupdate", r)
        if isinstance(result, Fault) or result["rax"]:
            what = result.name if isinstance(result, Fault) else f"{result['rax']:#x}"
            raise Failed(f"RMPUPDATE of {page:#x} to {new} answers {what}")

    def wbinvd_everywhere(self) -> Step[None]:
        """On every CPU of the level, whoever uses it."""
        for cpu in self.hands.seat.level.cpus:
            yield from self.hands.wbinvd(cpu)

    def read_msr(self, cpu: int, number: int) -> Step[int]:
        result = yield from self.hands.instruction(cpu, "rdmsr", Registers(rcx=number))
        if isinstance(result, Fault):
            raise Failed(f"RDMSR {number:#x} raises {result.name}")
        return result["rdx"] << 32 | result["rax"]

    def write_msr(self, cpu: int, number: int, value: int) -> Step[None]:
        r = Registers(rcx=number, rax=value & MASK32, rdx=value >> 32)
        result = yield from self.hands.instruction(cpu, "wrmsr", r)
        if isinstance(result, Fault):
            raise Failed(f"WRMSR {number:#x} raises {result.name}")

    # -- commands ---------------------------------------------------------------------------------------

    def command(
        self, name: str, allowed: Sequence[int] = (0,), park: bool = False, **fields: int
    ) -> Step[int]:
        """One command with this buffer. Raises Failed where the status is none of `allowed`."""
        layout = LAYOUTS[name]
        body = layout.pack(**fields)
        nested = name == "SNP_PAGE_RECLAIM"
        buffer = self._buffers + (PAGE if nested else 0)
        if body:
            self.write(buffer, body)
        address = buffer if body else 0
        if self.snp and (name in WRITTEN or name == "ATTESTATION"):
            answer = yield from undone(self._guarded(name, buffer), lambda: self.take_back(buffer))
        else:
            answer = yield from self._ring(name, address, park)
        status = answer & 0xFFFF
        if status not in allowed:
            raise Failed(f"{name} answers {status:#x}")
        return status

    def _guarded(self, name: str, buffer: int) -> Step[int]:
        yield from self.rmpupdate(buffer, FIRMWARE)
        return (yield from self._ring(name, buffer))

    def _ring(self, name: str, address: int, park: bool = False) -> Step[int]:
        """What is to stand still must not keep anybody waiting for ever."""
        step = self.hands.mailbox(0, self._codes[name] << 16 | 1, address, park)
        if self.turns is None or park:
            return step
        return self.turns.take(self.hands.seat.level, step)

    def field(self, name: str, field: str) -> int:
        """A field of the buffer that the last command left."""
        place = LAYOUTS[name].fields[field]
        return int.from_bytes(self.read(self._buffers + place.offset, place.width), "little")

    def take_back(self, page: int) -> Step[None]:
        """Always PAGE_RECLAIM first:

        whether the firmware has dropped the page by itself makes no difference.
        """
        yield from self.command("SNP_PAGE_RECLAIM", pa=page)
        yield from self.rmpupdate(page, SHARED)

    def lent(
        self, pages: Iterable[int], name: str, allowed: Sequence[int] = (0,), **fields: int
    ) -> Step[int]:
        """A legacy command, its output pages the firmware's for as long as it takes."""
        pages = list(pages) if self.snp else []
        for page in pages:
            yield from self.rmpupdate(page, FIRMWARE)
        status = yield from self.command(name, allowed, False, **fields)
        for page in pages:
            yield from self.take_back(page)
        return status

    # -- the probe (6.1) --------------------------------------------------------------------------------

    def probe(self) -> Step[None]:
        """Bring the platform up: SNP first where the kernel has switched it on on every CPU."""
        yield from self.command("PLATFORM_STATUS")
        self.snp = yield from self._snp_wanted()
        if self.snp:
            self.snp = False  # nothing is guarded until the RMP is there
            yield from self._probe_snp()
        if self.hands.seat.level.profile.snp_only and self.hands.seat.level.nested_msr:
            yield from self._kvm_check()  # no legacy platform: neither INIT nor a trusted region (7.1)
            return
        size = TWO_MIB if self.snp else MIB
        tmr = self.allocate(size, size)
        if self.snp:
            for page in range(tmr, tmr + size, PAGE):
                yield from self.rmpupdate(page, FIRMWARE)
        yield from self.command("INIT", flags=ES_FLAG, tmr=tmr, tmr_len=size)
        yield from self.wbinvd_everywhere()
        yield from self.command("DF_FLUSH")
        if self.snp:
            yield from self._kvm_check()

    def _snp_wanted(self) -> Step[bool]:
        for cpu in self.hands.seat.cpus:
            if not (yield from self.read_msr(cpu.number, SYSCFG)) & SNP_EN:
                return False
        base = yield from self.read_msr(0, RMP_BASE)
        end = yield from self.read_msr(0, RMP_END)
        return base < end

    def _probe_snp(self) -> Step[None]:
        for cpu in self.hands.seat.cpus:
            yield from self.write_msr(cpu.number, VM_HSAVE_PA, 0)
        yield from self.wbinvd_everywhere()
        listed = self.allocate(PAGE, PAGE)
        hole = U64.pack(LOW_END) + U32.pack((HIGH_START - LOW_END) // PAGE) + bytes(4)
        self.write(listed, U32.pack(1) + bytes(4) + hole)
        yield from self.command("SNP_INIT_EX", flags=INIT_RMP_AND_LIST, list=listed)
        yield from self.wbinvd_everywhere()
        yield from self.command("SNP_DF_FLUSH")
        self.snp = True

    def _kvm_check(self) -> Step[None]:
        page = self.allocate(PAGE, PAGE)
        yield from self.rmpupdate(page, FIRMWARE)
        yield from self.command("SNP_PLATFORM_STATUS", status=page)
        yield from self.take_back(page)

    def look(self) -> Step[None]:
        """Learn whether SNP is initialised, where somebody else has done that: the RMP's own pages say so."""
        if not self.snp and (yield from self._snp_wanted()):
            base = yield from self.read_msr(0, RMP_BASE)
            entry = self.read(base + 0x4000 + 16 * (base // PAGE), 8)
            self.snp = bool(entry[0] & 1)
