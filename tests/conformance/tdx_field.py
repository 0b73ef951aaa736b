"""A TDX host at the keyboard, in the words of the field: module init, TDs, VCPUs, private memory.

A `TdxHost` keeps no state of the module: whatever a test asserts was read back through the console.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from driver import Json, Keyboard, number
from tdx_names import GIB, LEAVES, MIB2, PAGE, SUCCESS

from protocol.arch.tdx.calls import CALLS

REGISTERS = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")
GLOBAL_HKID = 16
TDCS_PAGES, TDVPS_PAGES = 6, 6
FOUR_LEVELS = 6 | 3 << 3  # EPTP_CONTROLS: write-back, page walk of four
FIVE_LEVELS = 6 | 4 << 3
DEBUG, SEPT_VE_DISABLE, MIGRATABLE, PERFMON = 1 << 0, 1 << 28, 1 << 29, 1 << 63
ERROR = 1 << 63
# What a call that is refused may change beside RAX: what its row says (`nestbed calls tdx`).
CHANGED_BY = {
    row.title.removeprefix("TDH."): {name.lower() for name in re.findall(r"\bR(?:CX|DX|\d+)\b", row.on_error)}
    for row in CALLS.values()
    if row.for_host()
}
seen_to_change: defaultdict[str, set[str]] = defaultdict(set)
PRESENT_LEAF = 7 | 6 << 3 | 1 << 63  # of a shared EPT: readable, writable, write-back, suppress #VE
PRESENT_TABLE = 7
SHARED = 1 << 47


@dataclass(frozen=True, slots=True)
class Out:
    """What a SEAMCALL left in the registers; an entry also what the guest had done."""

    rax: int
    rcx: int
    rdx: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    steps: list[Json] = field(default_factory=list)

    @classmethod
    def read(cls, body: Json) -> Out:
        """Check the form of an answer and take it apart."""
        assert body["cf"] == 0, body
        registers = {name: number(body[name]) for name in REGISTERS}
        return cls(**registers, steps=body.get("steps", []))

    @property
    def reason(self) -> int:
        """The exit reason, if the VCPU was entered."""
        return self.rax & 0xFFFFFFFF

    @property
    def entry_state(self) -> int:
        """The state of the entry that stood in the way."""
        return self.rdx >> 8 & 0xFF

    @property
    def level(self) -> int:
        return self.rdx & 7


def td_params(
    attributes: int = 0,
    xfam: int = 3,
    max_vcpus: int = 4,
    l2_vms: int = 0,
    eptp: int = FOUR_LEVELS,
    flags: int = 0,
    tsc: int = 40,
    **patches: bytes,
) -> bytes:
    """TD_PARAMS; `patches` overwrite bytes, named `at_<offset>`."""
    data = bytearray(
        struct.pack("<QQHBBIQQH", attributes, xfam, max_vcpus, l2_vms, 0, 0, eptp, flags, tsc).ljust(
            1024, b"\0"
        )
    )
    for name, patch in patches.items():
        at = int(name.removeprefix("at_"))
        data[at : at + len(patch)] = patch
    return bytes(data)


class TdxHost:
    def __init__(self, keyboard: Keyboard) -> None:
        self.keyboard = keyboard
        self.depth = keyboard.depth
        self.which = 0
        self.next_hkid = GLOBAL_HKID + 1

    def sibling(self, which: int) -> TdxHost:
        """Another host on the same console."""
        other = TdxHost(self.keyboard)
        other.which = which
        return other

    # -- requests ----------------------------------------------------------------------------------

    def _of(self, fields: Json) -> Json:
        shaped = {
            name: hex(value) if isinstance(value, int) and not isinstance(value, bool) else value
            for name, value in fields.items()
        }
        return {"host": self.which} | shaped if self.which else shaped

    def ask(self, op: str, **fields: Any) -> Json:
        return self.keyboard.ask(op, **self._of(fields))

    def ok(self, op: str, **fields: Any) -> Json:
        return self.keyboard.ok(op, **self._of(fields))

    def fault(self, op: str, **fields: Any) -> Json:
        return self.keyboard.fault(op, **self._of(fields))

    def error(self, op: str, code: str, **fields: Any) -> Json:
        body = self.keyboard.error(op, **self._of(fields))
        assert body["code"] == code, body
        return body

    def call(self, leaf: str, cpu: int = 0, version: int = 0, **registers: int) -> Out:
        """One SEAMCALL."""
        rax = LEAVES[leaf] | version << 16
        out = Out.read(self.ok("call", rax=rax, cpu=cpu, **registers))
        if out.rax & ERROR:
            changed = {name for name in REGISTERS[1:] if getattr(out, name) != registers.get(name, 0)}
            assert changed <= CHANGED_BY[leaf], f"{leaf} {registers}: {out} changed {changed}"
            seen_to_change[leaf] |= changed
        return out

    def good(self, leaf: str, cpu: int = 0, version: int = 0, **registers: int) -> Out:
        """One SEAMCALL that has to succeed."""
        out = self.call(leaf, cpu, version, **registers)
        assert out.rax == SUCCESS, f"{leaf} {registers}: {out.rax:#x}"
        return out

    def park(self, leaf: str, cpu: int = 0, **registers: int) -> int:
        """Start a call that stops at its commit point; the name to resume it by."""
        assert self.ok("call", rax=LEAVES[leaf], cpu=cpu, park=True, **registers) == {"parked": True}
        request: int = self.keyboard.transcript[-1][0]["id"]
        return request

    def resume(self, request: int) -> Out:
        return Out.read(
            self.keyboard.ok("resume", **({"host": self.which} if self.which else {}), call=request)
        )

    # -- memory ------------------------------------------------------------------------------------

    def alloc(self, length: int = PAGE, align: int = PAGE, above: int = GIB, below: int | None = None) -> int:
        """Memory that nobody uses; without `above` in TDMR memory as `boot` makes it."""
        limit = {} if below is None else {"below": below}
        return number(self.ok("alloc", len=length, align=align, above=above, **limit)["addr"])

    def plain(self, length: int = PAGE, align: int = PAGE) -> int:
        """Memory outside the TDMRs."""
        return self.alloc(length, align, above=0, below=GIB)

    def write(self, address: int, data: bytes) -> None:
        assert self.ok("write", addr=address, hex=data.hex()) == {}

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.ok("read", addr=address, len=length)["hex"])

    def buffer(self, data: bytes, align: int = 1024) -> int:
        """Plain memory with `data` in it."""
        address = self.plain(len(data), max(align, PAGE))
        self.write(address, data)
        return address

    def clean(self, page: int) -> None:
        """Make a returned page usable again: 64 direct stores."""
        for line in range(page, page + PAGE, 64):
            assert self.ok("insn", name="movdir64b", address=line, hex=bytes(64).hex()) == {}

    # -- the module comes up (section 6.1) ---------------------------------------------------------

    @property
    def info(self) -> Json:
        return self.ok("info")

    def lps(self) -> None:
        self.good("SYS.INIT")
        for cpu in range(self.info["cpus"]):
            self.good("SYS.LP.INIT", cpu)

    def tdmr(self, base: int, size: int = GIB, pamt: list[tuple[int, int]] | None = None) -> bytes:
        """TDMR_INFO of whole convertible GiBs."""
        gibs = size // GIB
        areas = pamt or [
            (self.plain(PAGE), PAGE),
            (self.plain(8192 * gibs), 8192 * gibs),
            (self.plain(gibs << 22), gibs << 22),
        ]
        return struct.pack("<8Q", base, size, *(word for area in areas for word in area)).ljust(512, b"\0")

    def configure(self, *tdmrs: bytes, hkid: int = GLOBAL_HKID) -> Out:
        pointers = [self.buffer(tdmr, 512) for tdmr in tdmrs]
        array = self.buffer(b"".join(struct.pack("<Q", pointer) for pointer in pointers), 512)
        return self.call("SYS.CONFIG", rcx=array, rdx=len(tdmrs), r8=hkid)

    def packages(self) -> list[int]:
        """One CPU of each package."""
        first: dict[int, int] = {}
        for cpu in self.info["te"]["cpus"]:
            first.setdefault(cpu["package"], cpu["cpu"])
        return [first[package] for package in sorted(first)]

    def boot(self, gibs: tuple[int, ...] = (1, 2)) -> TdxHost:
        """Bring the module up, with TDMRs at these GiBs, all of them initialised."""
        self.lps()
        assert self.configure(*(self.tdmr(gib * GIB) for gib in gibs)).rax == SUCCESS
        for cpu in self.packages():
            self.good("SYS.KEY.CONFIG", cpu)
        for gib in gibs:
            self.good("SYS.TDMR.INIT", rcx=gib * GIB)
        return self

    # -- TDs (sections 6.2 to 6.4, 6.9) ------------------------------------------------------------

    def hkid(self) -> int:
        self.next_hkid += 1
        return self.next_hkid - 1

    def created(self, hkid: int | None = None) -> Td:
        """A TD that has its KeyID and nothing else."""
        td = Td(self, self.alloc(), self.hkid() if hkid is None else hkid)
        self.good("MNG.CREATE", rcx=td.tdr, rdx=td.hkid)
        return td

    def keyed(self, pages: int = TDCS_PAGES, hkid: int | None = None) -> Td:
        """A TD with its key on all packages, and TDCS pages."""
        td = self.created(hkid)
        for cpu in self.packages():
            self.good("MNG.KEY.CONFIG", cpu, rcx=td.tdr)
        for _ in range(pages):
            td.tdcs.append(self.alloc())
            self.good("MNG.ADDCX", rcx=td.tdcs[-1], rdx=td.tdr)
        return td

    def initialized(self, params: bytes | None = None, pages: int = TDCS_PAGES) -> Td:
        """A TD whose op state is INITIALIZED."""
        td = self.keyed(pages)
        self.good("MNG.INIT", rcx=td.tdr, rdx=self.buffer(params or td_params()))
        return td

    def runnable(self, params: bytes | None = None, vcpus: int = 1, pages: tuple[int, ...] = (0,)) -> Td:
        """A TD that may run, with some measured pages and their tables."""
        td = self.initialized(params)
        for _ in range(vcpus):
            td.vcpu()
        for gpa in pages:
            td.add(gpa, bytes([gpa >> 12 & 0xFF]) * 16)
        self.good("MR.FINALIZE", rcx=td.tdr)
        return td

    def stage(self, td: Td, op_state: str) -> None:
        assert self.ok("stage", vm=td.tdr, op_state=op_state) == {}

    def kind(self, page: int) -> int:
        """The type of a page, as the module tells it."""
        return self.good("PHYMEM.PAGE.RDMD", rcx=page).rcx


@dataclass(slots=True)
class Td:
    host: TdxHost
    tdr: int
    hkid: int
    tdcs: list[int] = field(default_factory=list)
    vcpus: list[int] = field(default_factory=list)
    vcpu_pages: list[int] = field(default_factory=list)
    tables: dict[tuple[int, int], int] = field(default_factory=dict)  # level and first address -> page
    pages: dict[int, int] = field(default_factory=dict)  # guest address -> page

    # -- VCPUs -------------------------------------------------------------------------------------

    def created_vcpu(self, pages: int = TDVPS_PAGES - 1) -> int:
        """A VCPU with its control pages, not initialised."""
        host = self.host
        tdvpr = host.alloc()
        host.good("VP.CREATE", rcx=tdvpr, rdx=self.tdr)
        self.vcpus.append(tdvpr)
        for _ in range(pages):
            self.vcpu_pages.append(host.alloc())
            host.good("VP.ADDCX", rcx=self.vcpu_pages[-1], rdx=tdvpr)
        return tdvpr

    def vcpu(self, cpu: int = 0) -> int:
        tdvpr = self.created_vcpu()
        self.host.good("VP.INIT", cpu, rcx=tdvpr, rdx=0)
        return tdvpr

    # -- private memory ----------------------------------------------------------------------------

    def tables_for(self, gpa: int, level: int = 1, top: int = 3) -> None:
        """Make the tables down to entries of one level below `level`."""
        for parent in range(top, level - 1, -1):
            first = gpa & ~((1 << (12 + 9 * parent)) - 1)
            if (parent, first) not in self.tables:
                page = self.host.alloc()
                self.host.good("MEM.SEPT.ADD", rcx=first | parent, rdx=self.tdr, r8=page)
                self.tables[parent, first] = page

    def add(self, gpa: int, data: bytes = b"", measure: bool = False) -> int:
        """PAGE.ADD, before the TD is finalised."""
        self.tables_for(gpa)
        page = self.host.alloc()
        source = self.host.buffer(data.ljust(PAGE, b"\0"))
        self.host.good("MEM.PAGE.ADD", rcx=gpa, rdx=self.tdr, r8=page, r9=source)
        self.pages[gpa] = page
        for chunk in range(gpa, gpa + PAGE, 256) if measure else ():
            self.host.good("MR.EXTEND", rcx=chunk, rdx=self.tdr)
        return page

    def aug(self, gpa: int, level: int = 0) -> int:
        """PAGE.AUG: the guest has to accept it."""
        self.tables_for(gpa, level + 1)
        size = MIB2 if level else PAGE
        page = self.host.alloc(size, size)
        self.host.good("MEM.PAGE.AUG", rcx=gpa | level, rdx=self.tdr, r8=page)
        self.pages[gpa] = page
        return page

    def entry(self, gpa: int, level: int = 0) -> Out:
        """SEPT.RD."""
        return self.host.good("MEM.SEPT.RD", rcx=gpa | level, rdx=self.tdr)

    def state(self, gpa: int, level: int = 0) -> int:
        return self.entry(gpa, level).entry_state

    def mem(self, leaf: str, gpa: int, level: int = 0, **registers: int) -> Out:
        """A call about a guest address."""
        return self.host.call(leaf, rcx=gpa | level, rdx=self.tdr, **registers)

    def drop(self, gpa: int, level: int = 0) -> int:
        """BLOCK, TRACK, REMOVE of a page while nobody runs; the page."""
        self.host.good("MEM.RANGE.BLOCK", rcx=gpa | level, rdx=self.tdr)
        self.host.good("MEM.TRACK", rcx=self.tdr)
        self.pages.pop(gpa, None)
        return self.host.good("MEM.PAGE.REMOVE", rcx=gpa | level, rdx=self.tdr).rcx

    # -- running -----------------------------------------------------------------------------------

    def queue(self, *steps: Json, vcpu: int = 0, replace: bool = False) -> Json:
        fields = {"replace": True} if replace else {}
        return self.host.ok(
            "guest", vm=self.tdr, vcpu=self.vcpus[vcpu], do=[_hexed(step) for step in steps], **fields
        )

    def enter(self, *steps: Json, vcpu: int = 0, cpu: int = 0, **fields: Any) -> Out:
        """Queue steps and enter."""
        if steps:
            self.queue(*steps, vcpu=vcpu)
        return Out.read(self.host.ok("enter", vcpu=self.vcpus[vcpu], cpu=cpu, **fields))

    def stay(self, *steps: Json, vcpu: int = 0, cpu: int = 0) -> list[Json]:
        """Enter and stay inside; what the steps came to."""
        if steps:
            self.queue(*steps, vcpu=vcpu)
        answer = self.host.ok("enter", vcpu=self.vcpus[vcpu], cpu=cpu, stay=True)
        assert answer["running"] is True, answer
        done: list[Json] = answer["steps"]
        return done

    def kick(self, cpu: int = 0) -> Out:
        return Out.read(self.host.ok("kick", cpu=cpu))

    def tdcall(self, leaf: int, vcpu: int = 0, cpu: int = 0, **registers: int) -> dict[str, int]:
        """One TDCALL that does not leave; the guest's registers after it."""
        out = self.enter({"call": {"rax": leaf, **registers}}, vcpu=vcpu, cpu=cpu)
        assert len(out.steps) == 1 and "rax" in out.steps[0], out
        return {name: number(value) for name, value in out.steps[0].items()}

    # -- the end (section 6.9) ---------------------------------------------------------------------

    def block(self, flush: bool = True) -> None:
        """Down to TEARDOWN: nobody has the KeyID any more."""
        host = self.host
        for tdvpr in self.vcpus if flush else ():
            host.call("VP.FLUSH", rcx=tdvpr)
        host.good("MNG.VPFLUSHDONE", rcx=self.tdr)
        for cpu in host.packages():
            host.good("PHYMEM.CACHE.WB", cpu, rcx=0)
        host.good("MNG.KEY.FREEID", rcx=self.tdr)

    def destroy(self) -> None:
        """Everything back, the TDR last."""
        self.block()
        host = self.host
        everything = [*self.pages.values(), *self.tables.values(), *self.vcpu_pages, *self.vcpus, *self.tdcs]
        for page in everything:
            host.good("PHYMEM.PAGE.RECLAIM", rcx=page)
        host.good("PHYMEM.PAGE.RECLAIM", rcx=self.tdr)


class SharedEpt:
    """An ordinary EPT of the host's: four levels, edited with plain stores."""

    def __init__(self, td: Td, empty: int = 1 << 63) -> None:
        self.host = td.host
        self.empty = empty
        self.root = self._table()
        self._tables: dict[tuple[int, int], int] = {}
        td.host.good("VP.WR", rcx=td.vcpus[0], rdx=0x002400030000203C, r8=self.root, r9=(1 << 64) - 1)

    def _table(self) -> int:
        page = self.host.plain()
        self.host.write(page, struct.pack("<Q", self.empty) * 512)
        return page

    def entry(self, gpa: int, level: int = 0) -> int:
        """Where the entry for `gpa` lies."""
        at = self.root
        for upper in range(3, level, -1):
            slot = at + 8 * (gpa >> (12 + 9 * upper) & 511)
            if (at, slot) not in self._tables:
                self._tables[at, slot] = self._table()
                self.host.write(slot, struct.pack("<Q", self._tables[at, slot] | PRESENT_TABLE))
            at = self._tables[at, slot]
        return at + 8 * (gpa >> (12 + 9 * level) & 511)

    def put(self, gpa: int, entry: int, level: int = 0) -> None:
        self.host.write(self.entry(gpa, level), struct.pack("<Q", entry))


def _hexed(step: Json) -> Json:
    """Numbers of a step as strings, but for a length."""
    shaped: Json = {}
    for name, value in step.items():
        if isinstance(value, dict):
            shaped[name] = _hexed(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            shaped[name] = hex(value)
        else:
            shaped[name] = value
    return shaped
