"""How the calls of each architecture are taken apart and put together.

The one place of the fuzzer that knows an architecture. A new one needs a dealer here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from seen import Numbers, Sample

from protocol.arch.pef.cpu import TM_STATES
from protocol.arch.s390.layouts import LAYOUTS as S390_LAYOUTS
from protocol.arch.s390.layouts import Field
from protocol.arch.sev.crypto.message import KEY_REQ, REPORT_REQ, seal
from protocol.arch.sev.structs import CERT_LEN, FIRMWARE, HEADER_LEN, PAGE, SESSION_LEN, SHARED, NewState
from protocol.arch.sev.structs import LAYOUTS as SEV_LAYOUTS
from protocol.calls import CallSpec
from protocol.effects import Issue, Step

AT = "@"  # the field that holds a block's own address
BLOCKS_AT = 0x20_0000  # where blocks are built that no software built
SEV_BLOCKS_AT = 0x300_0000  # beyond what AMD's firmware keeps for itself, and the RMP
BOTH = (True, False)
WRITTEN = ("resp", "dst", "mdata", "status")  # fields of pages that AMD's firmware writes to
RECLAIM = "SNP_PAGE_RECLAIM"
ADDRESSES = frozenset(
    {
        field
        for layout in SEV_LAYOUTS.values()
        for field, place in layout.fields.items()
        if place.width == 8 and field not in ("gctx", "policy", "sw_data", "tcb", "flags", "status")
    }
)


class Dealer:
    """Of one architecture. `order` is its byte order."""

    order: ClassVar[Any]
    kinds: ClassVar[tuple[str, ...]]  # of guests
    states: ClassVar[tuple[tuple[str, tuple[Any, ...]], ...]]  # of a CPU: an attribute, and what it may be
    handles: frozenset[str] = frozenset()

    def __init__(self, rows: list[CallSpec]) -> None:
        self.rows = {row.code: row for row in rows}
        self.codes = {row.name: row.code for row in rows}
        self.machines: list[Any] = []  # of the composition: whose keys the fuzzer holds

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        """See `seen.Taker`."""
        raise NotImplementedError

    def state(self, issue: Issue, level: Any) -> tuple[tuple[str, Any], ...]:
        """See `seen.Taker`."""
        return ()

    def likely(self, field: str, random: Random, pools: Mapping[str, Sequence[int]]) -> int | None:
        """See `seen.Taker`."""
        return None

    def cpu_of(self, issue: Issue, cpus: list[Any]) -> Any:
        """The CPU that issues a call."""
        return cpus[issue.arguments[0].cpu]

    def fields(self, spec: CallSpec) -> tuple[str, ...]:
        raise NotImplementedError

    def named(self, spec: CallSpec) -> str:
        """The field that names the entity."""
        raise NotImplementedError

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        raise NotImplementedError


def _word(value: int, width: int) -> int:
    return value & (1 << 8 * width) - 1


class S390(Dealer):
    order = "big"
    kinds = ("s390",)
    handles = frozenset({"config handle", "cpu handle"})
    states = (("running", BOTH), ("problem_state", BOTH), ("dat", BOTH), ("prefix", (0, 0x2000, 1 << 20)))
    alike: ClassVar = {"guest_handle": "config handle", "cpu_handle": "cpu handle"}

    def state(self, issue: Issue, level: Any) -> tuple[tuple[str, Any], ...]:
        """Blocks that name addresses of home space are issued with translation on."""
        return (("dat", level.cpus[issue.arguments[0].cpu].dat),)

    def _layout(self, name: str) -> tuple[Field, ...]:
        return S390_LAYOUTS.get(name, ())

    def _name(self, field: Field) -> str:
        return self.alike.get(field.name, field.name)

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        if issue.operation != "uvc":
            return None
        at = issue.arguments[0].r2
        head = level.peek(at, 8)
        if not isinstance(head, bytes):
            return None
        length, code = int.from_bytes(head[:2], "big"), int.from_bytes(head[2:4], "big")
        spec, block = self.rows.get(code), level.peek(at, max(8, min(length, 0x200)))
        if spec is None or not isinstance(block, bytes):
            return None
        numbers = {AT: at, "length": length}
        for field in self._layout(spec.name):
            if not field.out or answered:
                numbers[self._name(field)] = int.from_bytes(block[field.at : field.at + field.width], "big")
        return spec.name, numbers

    def fields(self, spec: CallSpec) -> tuple[str, ...]:
        inside = tuple(self._name(field) for field in self._layout(spec.name) if not field.out)
        return (*inside, *inside, *inside, AT, "length")

    def named(self, spec: CallSpec) -> str:
        return {"config": "config handle", "cpu": "cpu handle"}.get(spec.handle, "")

    def block(self, spec: CallSpec, numbers: Numbers, random: Random) -> bytes:
        block = bytearray(spec.length)
        for field in self._layout(spec.name):
            name = self._name(field)
            if name in numbers and not field.out and field.at + field.width <= len(block):
                value = _word(numbers[name], field.width)
                block[field.at : field.at + field.width] = value.to_bytes(field.width, "big")
        if random.random() < 0.03:
            block[random.randrange(len(block))] = random.randrange(256)
        length = spec.length if random.random() < 0.97 else _word(numbers.get("length", 0), 2)
        block[:4] = length.to_bytes(2, "big") + spec.code.to_bytes(2, "big")
        return bytes(block)

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        at = sample.numbers.get(AT, 0) if random.random() < 0.3 else BLOCKS_AT
        seen.memory.write(at if at + spec.length < seen.memory.size else BLOCKS_AT,
                          self.block(spec, sample.numbers, random))  # fmt: skip
        return seen.call(cpu, at)


class Sev(Dealer):
    order = "little"
    kinds = ("sev", "sev-es", "snp")
    handles = frozenset({"handle", "gctx", "asid"})
    lengths: ClassVar = (0x20, 0x20, 0x20, 16, HEADER_LEN, SESSION_LEN, CERT_LEN, PAGE)
    states = (("cpl", (0, 3)),)

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        if issue.operation != "psp":
            return None
        _, command, at, *_ = issue.arguments
        spec = self.rows.get(command >> 16 & 0x7FF)
        if spec is None:
            return None
        layout = SEV_LAYOUTS[spec.name]
        raw = level.peek(at, layout.length) if layout.length else b""
        if not isinstance(raw, bytes):
            return None
        found = {
            name: int.from_bytes(raw[field.offset : field.offset + field.width], "little")
            for name, field in layout.fields.items()
        }
        return spec.name, {AT: at} | found

    def likely(self, field: str, random: Random, pools: Mapping[str, Sequence[int]]) -> int | None:
        """Lengths that something has; pages of guests, and pages where nothing is."""
        if field == AT:
            return random.choice(pools[AT]) if pools.get(AT) else None
        if field in ("hdr_len", "session_len"):
            return HEADER_LEN if field == "hdr_len" else SESSION_LEN
        if field == "len" or field.endswith("_len"):
            return random.choice(self.lengths) if field != "guest_len" and field != "trans_len" else 0x20
        if field in ("flags", "numids", "size"):
            return random.choice((0, 0, 0, 1, 2, 4, 6))
        if field == "policy":
            return None
        if field in ("pa", "src", "guest", "dst", "mdata") and random.random() < 0.5 and pools.get("pa"):
            return random.choice(pools["pa"]) & -PAGE
        if field in ADDRESSES:
            return SEV_BLOCKS_AT + PAGE * random.randrange(1, 64)
        return None

    def fields(self, spec: CallSpec) -> tuple[str, ...]:
        inside = tuple(SEV_LAYOUTS[spec.name].fields)
        return (*inside, *inside, *inside, AT)

    def named(self, spec: CallSpec) -> str:
        return "gctx" if "gctx" in SEV_LAYOUTS[spec.name].fields else "handle"

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        layout, at = SEV_LAYOUTS[spec.name], SEV_BLOCKS_AT
        if random.random() < 0.5:  # commands that the firmware answers in their buffer want it prepared
            at = sample.numbers.get(AT, 0)
        values = {}
        for name, field in layout.fields.items():
            value = _word(sample.numbers.get(name, 0), field.width)
            values[name] = value & field.allowed if random.random() < 0.97 else value
            if name == "length" and random.random() < 0.9:
                values[name] = layout.length
        if spec.name == "SNP_GUEST_REQUEST" and random.random() < 0.6:
            self._say(values["req"] & -PAGE, seen.memory, random)
        given = self._given(spec, values, seen, random)
        for page, state in given:
            yield from seen.rmpupdate(cpu, page, state)
        seen.memory.write(
            at if at + layout.length < seen.memory.size else SEV_BLOCKS_AT, layout.pack(**values)
        )
        answer = yield from seen.call(cpu, spec.code << 16 | 1, at)
        for page, _ in given if random.random() < 0.7 else ():  # else nothing is left to give
            seen.memory.write(SEV_BLOCKS_AT, SEV_LAYOUTS[RECLAIM].pack(pa=page))
            yield from seen.call(cpu, self.codes[RECLAIM] << 16 | 1, SEV_BLOCKS_AT)
            yield from seen.rmpupdate(cpu, page, SHARED)
        return answer

    def _given(
        self, spec: CallSpec, values: Numbers, seen: Any, random: Random
    ) -> list[tuple[int, NewState]]:
        """Pages that the host gives away for a command about SNP guests, as real software does before it."""
        if not spec.name.startswith("SNP_") or random.random() < 0.5:
            return []
        asids = [guest.asid for guest in self._guests()] or [1]
        found = [(values[name] & -PAGE, FIRMWARE) for name in WRITTEN if name in values]
        if spec.name == "SNP_LAUNCH_UPDATE":
            state = NewState(PAGE * random.randrange(64), True, False, True, random.choice(asids))
            found.append((values["pa"] & -PAGE, state))
        return [(page, state) for page, state in found if SEV_BLOCKS_AT < page < seen.memory.size]

    def _guests(self) -> list[Any]:
        return [guest for machine in self.machines for guest in machine.platform.contexts.values()]

    def _say(self, page: int, memory: Any, random: Random) -> None:
        """A message of some guest, sealed with its own key, with anything in it."""
        guests = self._guests()
        if not guests or page + PAGE > memory.size:
            return
        guest, key = random.choice(guests), random.choice((0, 0, 0, 1, 2, 3))
        payload = bytearray(random.choice((0x60, 0x60, 0x20, 0x20, 0x10)))
        for _ in range(random.randrange(3)):
            at = 4 * random.randrange(len(payload) // 4)
            payload[at : at + 4] = random.choice((1, 2, 3, 4, 0xFF, random.getrandbits(32))).to_bytes(
                4, "little"
            )
        sequence = guest.counts[key] + random.choice((1, 1, 1, 1, 0, 2))
        kind = random.choice((REPORT_REQ, KEY_REQ, REPORT_REQ, KEY_REQ, 7))
        memory.write(page, seal(guest.vmpcks[key], kind, sequence, key, bytes(payload)))


class Registers(Dealer):
    """Calls whose numbers stand in registers. `inputs` are those that calls use, the frequent ones often."""

    inputs: ClassVar[tuple[str, ...]]
    count: ClassVar[int]

    def fields(self, spec: CallSpec) -> tuple[str, ...]:
        return self.inputs

    def named(self, spec: CallSpec) -> str:
        return f"r{spec.handle_at}"

    def registers(self, numbers: Numbers) -> list[int]:
        return [numbers.get(f"r{register}", 0) % (1 << 64) for register in range(self.count)]

    def _numbers(self, registers: list[int]) -> Numbers:
        return {name: registers[int(name[1:])] for name in self.inputs}


class Tdx(Registers):
    order = "little"
    kinds = ("tdx",)
    states = (("vmx", BOTH), ("cpl", (0, 3)), ("interrupt", BOTH))
    count = 16
    inputs = ("r1", "r1", "r2", "r2", "r8", "r8", "r9", "r10", "r11", "r12", "r13")

    def cpu_of(self, issue: Issue, cpus: list[Any]) -> Any:
        return cpus[issue.arguments[0].lp.number]

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        if issue.operation != "seamcall" or answered:
            return None
        registers = issue.arguments[0].r
        spec = self.rows.get(registers[0] & 0xFFFF)
        return None if spec is None else (spec.name, self._numbers(registers) | {"r0": registers[0]})

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        registers = self.registers(sample.numbers)
        registers[0] = registers[0] & 0xFF_0000 | spec.code
        if random.random() < 0.05:
            registers[0] ^= 1 << random.randrange(16, 64)
        return seen.call(cpu, registers)


class Pef(Registers):
    order = "big"
    kinds = ("pef",)
    states = (("hv", BOTH), ("pr", BOTH), ("tm", TM_STATES), ("lpidr", (0, 1, 2, 4095)), ("pidr", (0, 1)))
    count = 32
    inputs = ("r4", "r4", "r5", "r5", "r6", "r6", "r7", "r8", "r9")

    def cpu_of(self, issue: Issue, cpus: list[Any]) -> Any:
        return cpus[issue.arguments[0].cpu.number]

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        if issue.operation != "call" or answered:
            return None
        registers = issue.arguments[0].arguments[0]
        spec = self.rows.get(registers[3])
        return None if spec is None else (spec.name, self._numbers(registers))

    def named(self, spec: CallSpec) -> str:
        return "r4"

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        registers = self.registers(sample.numbers)
        registers[3] = spec.code
        return seen.call(cpu, registers)


DEALERS: dict[str, type[Dealer]] = {"s390": S390, "sev": Sev, "tdx": Tdx, "pef": Pef}
