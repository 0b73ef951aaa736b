"""An s390 host at the keyboard, in the words of the field: tables, control blocks, UVC, SIE.

A `Host` keeps no state of the Ultravisor: whatever a test asserts was read back through the console.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from driver import Json, Keyboard, number
from s390_blocks import GIB, MIB, NAMES, PAGE, PARTIAL, Reply, uvcb

SEGMENT_ENTRIES = 2048
INVALID = 0x20
PAGE_INVALID = 0x400
PROTECT = 0x200
PRIVATE = 0x100
REGION_THIRD_TYPE = 0x04

PIECES = 1000  # of one call, as often as the tests issue it again
HOME_BASE = 5 << 31  # where the tests put their home space: not where anything is, and above the first 2 GiB


@dataclass(frozen=True, slots=True)
class HostFault:
    """An exception that a host's CPU took, and what a guest had done before it."""

    code: int
    address: int
    write: bool
    steps: list[Json]

    @classmethod
    def read(cls, body: Json) -> HostFault:
        """Check the form of a fault and take it apart."""
        code = number(body["code"])
        assert body["name"] == NAMES[code], body
        assert isinstance(body["write"], bool), body
        return cls(code, number(body["address"]), body["write"], body.get("steps", []))

    @property
    def page(self) -> int:
        return self.address & ~(PAGE - 1)


@dataclass(frozen=True, slots=True)
class Exit:
    """How SIE ended, as the host reads it."""

    code: int
    ipa: int
    ipb: int
    gprs: list[int]
    steps: list[Json]

    @classmethod
    def read(cls, body: Json) -> Exit:
        """Check the form of an exit and take it apart."""
        gprs = [number(value) for value in body["gprs"]]
        assert len(gprs) == 16, body
        return cls(number(body["icptcode"]), number(body["ipa"]), number(body["ipb"]), gprs, body["steps"])

    @property
    def reason(self) -> int:
        """The reason of a validity intercept."""
        return self.ipb >> 16


class AddressSpace:
    """Tables of section 8.4 in a host's memory, written with plain stores."""

    def __init__(
        self, host: Host, kind: str = "segment", private: bool = True, entries: int = SEGMENT_ENTRIES
    ) -> None:
        self.host = host
        self.kind = kind
        self._segments: dict[int, int] = {}  # 2 GiB piece -> its segment table
        self._pages: dict[int, int] = {}  # MiB -> its page table
        self._targets: dict[int, int] = {}
        self.top = self._table(entries)
        if kind == "segment":
            self._segments[0] = self.top
        kind_bits = REGION_THIRD_TYPE if kind == "region" else 0
        self.asce = self.top | (PRIVATE if private else 0) | kind_bits | (entries // 512 - 1)

    def _table(self, entries: int) -> int:
        origin = self.host.alloc(entries * 8)
        entry = INVALID | (REGION_THIRD_TYPE if self.kind == "region" and not self._segments else 0)
        self.host.write(origin, entry.to_bytes(8, "big") * entries)
        return origin

    def segment_entry(self, virtual: int) -> int:
        """Where the segment entry of `virtual` lies; its table is made if need be."""
        piece = virtual // (2 * GIB)
        if piece not in self._segments:
            assert self.kind == "region", hex(virtual)
            origin = self.host.alloc(SEGMENT_ENTRIES * 8)
            self.host.write(origin, INVALID.to_bytes(8, "big") * SEGMENT_ENTRIES)
            self._segments[piece] = origin
            self.host.put(self.top + 8 * piece, origin | REGION_THIRD_TYPE | 3)
        return self._segments[piece] + 8 * (virtual // MIB % SEGMENT_ENTRIES)

    def page_entry(self, virtual: int) -> int:
        """Where the page entry of `virtual` lies; its table is made if need be."""
        if virtual // MIB not in self._pages:
            entry = self.segment_entry(virtual)
            origin = self.host.alloc(PAGE)
            self.host.write(origin, PAGE_INVALID.to_bytes(8, "big") * 256)
            self._pages[virtual // MIB] = origin
            self.host.put(entry, origin)
        return self._pages[virtual // MIB] + 8 * (virtual // PAGE % 256)

    def map(self, virtual: int, absolute: int, length: int = PAGE, protect: bool = False) -> None:
        """Map the pages of `length` bytes at `virtual` to `absolute`."""
        for offset in range(0, length, PAGE):
            entry = (absolute + offset) | (PROTECT if protect else 0)
            self.host.put(self.page_entry(virtual + offset), entry)
            self._targets[(virtual + offset) // PAGE] = absolute + offset

    def unmap(self, virtual: int) -> None:
        """Make the page at `virtual` invalid."""
        self.host.put(self.page_entry(virtual), PAGE_INVALID)
        self._targets.pop(virtual // PAGE, None)

    def target(self, virtual: int) -> int:
        """The absolute address that this test mapped at `virtual`."""
        return self._targets[virtual // PAGE] + virtual % PAGE

    def maps(self, virtual: int) -> bool:
        return virtual // PAGE in self._targets


class Host:
    """One secure host at the keyboard."""

    def __init__(self, keyboard: Keyboard, which: int = 0) -> None:
        self.keyboard = keyboard
        self.which = which
        self._blocks: dict[int, int] = {}  # CPU -> page for its control blocks
        self._home: AddressSpace | None = None
        self._home_next = HOME_BASE
        self._in_home: set[int] = set()  # CPUs with DAT on

    @property
    def depth(self) -> int:
        return self.keyboard.depth

    def sibling(self, which: int) -> Host:
        """Another host on the same console."""
        return Host(self.keyboard, which)

    def _mine(self, fields: Json) -> Json:
        return fields | ({"host": self.which} if self.which else {})

    def ask(self, op: str, **fields: Any) -> Json:
        return self.keyboard.ask(op, **self._mine(fields))

    def ok(self, op: str, **fields: Any) -> Json:
        return self.keyboard.ok(op, **self._mine(fields))

    def error(self, op: str, code: str, field: str | None = None, **fields: Any) -> Json:
        """Put a request that makes no sense; hold the complaint to its code, and its field if known."""
        body = self.keyboard.error(op, **self._mine(fields))
        assert body["code"] == code, body
        assert isinstance(body["message"], str) and body["message"], body
        if field is not None:
            assert body["field"] == field, body
        return body

    def fault(self, op: str, **fields: Any) -> HostFault:
        return HostFault.read(self.keyboard.fault(op, **self._mine(fields)))

    # -- memory ----------------------------------------

    def alloc(self, length: int = PAGE, **where: int) -> int:
        return number(self.ok("alloc", len=length, **where)["addr"])

    def free(self, address: int) -> None:
        assert self.ok("free", addr=hex(address)) == {}

    def read(self, address: int, length: int = PAGE, **how: Any) -> bytes:
        data = bytes.fromhex(self.ok("read", addr=hex(address), len=length, **how)["hex"])
        assert len(data) == length
        return data

    def write(self, address: int, data: bytes, **how: Any) -> None:
        assert self.ok("write", addr=hex(address), hex=data.hex(), **how) == {}

    def fill(self, address: int, length: int, byte: int = 0, **how: Any) -> None:
        assert self.ok("fill", addr=hex(address), len=length, byte=byte, **how) == {}

    def put(self, address: int, value: int, width: int = 8) -> None:
        self.write(address, value.to_bytes(width, "big"))

    def get(self, address: int, width: int = 8) -> int:
        return int.from_bytes(self.read(address, width), "big")

    def page_of(self, byte: int) -> int:
        """A fresh page full of `byte`."""
        page = self.alloc()
        self.fill(page, PAGE, byte)
        return page

    def is_secure(self, address: int) -> bool:
        """Whether both a load and a store at `address` end in 0x3D. The two must agree."""
        load = self.ask("read", addr=hex(address), len=8)
        store = self.ask("write", addr=hex(address), hex=load["ok"]["hex"] if "ok" in load else "00" * 8)
        assert ("fault" in load) == ("fault" in store), (load, store)
        if "ok" in load:
            return False
        for answer, write in ((load, False), (store, True)):
            fault = HostFault.read(answer["fault"])
            assert (fault.code, fault.address, fault.write) == (0x3D, address, write), fault
        return True

    # -- CPUs and instructions ----------------------------------------

    def cpu(self, cpu: int = 0, **settings: Any) -> Json:
        return self.ok("cpu", cpu=cpu, **settings)

    def control(self, cpu: int = 0, **registers: int) -> None:
        """Load control registers: `control(cr1=asce)`."""
        self.cpu(cpu, cr={name.removeprefix("cr"): hex(value) for name, value in registers.items()})

    def tod(self) -> int:
        return number(self.ok("insn", name="stck")["tod"])

    def use_home(self, cpu: int = 0) -> AddressSpace:
        """Switch DAT on: blocks and parameters of this CPU are in the home space from now on."""
        if self._home is None:
            self._home = AddressSpace(self, "region")
        self.control(cpu, cr13=self._home.asce)
        self.cpu(cpu, dat=True)
        self._in_home.add(cpu)
        return self._home

    def to_home(self, absolute: int, length: int = PAGE) -> int:
        """Map memory somewhere in the home space, in the order that scatters it least, and return where."""
        assert self._home is not None
        virtual = self._home_next
        self._home_next += (length + PAGE - 1) // PAGE * PAGE + PAGE
        self._home.map(virtual, absolute, length)
        return virtual

    def block_page(self, cpu: int = 0) -> tuple[int, int]:
        """The page for this CPU's control blocks: where it is, and by which address UVC reaches it."""
        absolute = self._blocks.setdefault(cpu, 0) or self.alloc()
        self._blocks[cpu] = absolute
        if cpu not in self._in_home:
            return absolute, absolute
        assert self._home is not None
        virtual = HOME_BASE - (cpu + 1) * 16 * PAGE
        if not self._home.maps(virtual):
            self._home.map(virtual, absolute)
        return absolute, virtual

    def forget(self) -> None:
        """After `kill` or `load-clear`: nothing that was prepared is there any more."""
        self._blocks.clear()
        self._in_home.clear()
        self._home = None

    def uvc(self, block: bytes, cpu: int = 0, **registers: Any) -> Reply:
        """Store `block`, issue UVC on it and read it back."""
        absolute, address = self.block_page(cpu)
        self.write(absolute, block)
        body = self.ok("call", cpu=cpu, r2=hex(address), **registers)
        assert set(body) == {"cc"} and body["cc"] in range(4), body
        return Reply(body["cc"], self.read(absolute, len(block)))

    def uvc_fault(self, block: bytes, cpu: int = 0, **registers: Any) -> HostFault:
        """Issue UVC on `block` where it must end in an exception, which must leave the block as it was."""
        absolute, address = self.block_page(cpu)
        self.write(absolute, block)
        fault = self.fault("call", cpu=cpu, r2=hex(address), **registers)
        assert self.read(absolute, len(block)) == block
        return fault

    def call(self, name: str, cpu: int = 0, **fields: int) -> Reply:
        """Issue the call `name` with `fields` in its block, again while it is done in part."""
        for _ in range(PIECES):
            reply = self.uvc(uvcb(name, **fields), cpu)
            if reply.cc != PARTIAL:
                return reply
        raise AssertionError(f"{name}: no end after {PIECES} pieces")

    def park(self, block: bytes, cpu: int, at: int) -> int:
        """Issue UVC so that the Ultravisor stops inside it; return the id to resume."""
        self.write(at, block)
        assert self.ok("call", cpu=cpu, r2=hex(at), park=True) == {"parked": True}
        request: int = self.keyboard.transcript[-1][0]["id"]
        return request

    def resume(self, call: int, at: int, length: int) -> Reply:
        body = self.ok("resume", call=call)
        return Reply(body["cc"], self.read(at, length))

    # -- the Ultravisor ----------------------------------------

    def query(self, length: int = 0x120, cpu: int = 0) -> Reply:
        return self.uvc(uvcb("query", length), cpu)

    def init(self) -> int:
        """Initialise the Ultravisor with the storage that it asks for; return where that is."""
        length = self.query().field(0x40)
        origin = self.alloc(length, align=MIB, above=2 * GIB)
        self.call("init", origin=origin, len=length).done()
        return origin

    def installed(self) -> set[int]:
        """The bits of the calls that the query reports."""
        words = self.query().field(0x10, 32)
        return {bit for bit in range(256) if words >> (255 - bit) & 1}

    def plan_config(self, mib: int = 2, asce: int | None = None, **fields: int) -> dict[str, int]:
        """Everything that Create Configuration wants, allocated and not yet given."""
        answer = self.query()
        length = mib * MIB
        variable = answer.field(0x58) + answer.field(0x60) * mib
        plan = {
            "base": self.alloc(answer.field(0x50), align=0x4000),
            "variable": self.alloc(variable),
            "len": length,
            "sca": self.alloc(4 * PAGE),
            "asce": AddressSpace(self).asce if asce is None else asce,
        }
        if 0 in self._in_home:
            plan["variable"] = self.to_home(plan["variable"], variable)
        return plan | fields

    def donated_by(self, plan: dict[str, int]) -> list[int]:
        """The pages that a configuration of `plan` donates (with DAT off)."""
        answer = self.query()
        variable = answer.field(0x58) + answer.field(0x60) * (plan["len"] // MIB)
        areas = ((plan["base"], answer.field(0x50)), (plan["variable"], variable))
        return [origin + offset for origin, length in areas for offset in range(0, length, PAGE)]

    def plan_cpu(self, config: int, num: int = 0, **fields: int) -> dict[str, int]:
        """Everything that Create CPU wants."""
        storage = self.alloc(self.query().field(0x68))
        return {"config": config, "num": num, "storage": storage, "state": self.alloc()} | fields

    def enter(self, sie: int, cpu: int = 0) -> Exit:
        return Exit.read(self.ok("enter", vcpu=hex(sie), cpu=cpu))

    def enter_fault(self, sie: int, cpu: int = 0) -> HostFault:
        return self.fault("enter", vcpu=hex(sie), cpu=cpu)

    def reset(self, kind: str) -> None:
        assert self.ok("reset", kind=kind) == {}
        self._in_home.clear()

    def audit(self) -> Json:
        return self.ok("audit")

    def books(self) -> Json:
        """What the audit says of this host."""
        mine: Json = self.audit()["hosts"][self.which]
        return mine
