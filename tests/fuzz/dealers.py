"""How the calls of each architecture are taken apart and put together, and what a guest may do.

The one place of the fuzzer that knows an architecture. A new one needs a dealer here.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from importlib import import_module
from random import Random
from typing import Any, ClassVar, get_args

from draw import number
from seen import Numbers, Sample, Seen

from protocol.arch.pef.cpu import TM_STATES
from protocol.arch.s390.layouts import LAYOUTS as S390_LAYOUTS
from protocol.arch.s390.layouts import Field
from protocol.arch.sev.structs import LAYOUTS as SEV_LAYOUTS
from protocol.arch.tdx.machine.steps import LEAVES
from protocol.calls import CallSpec
from protocol.effects import Issue, Step

AT = "@"  # the field that holds a block's own address
BLOCKS_AT = 0x20_0000  # where blocks are built that no software built
GUEST_PAGES = (1600, 1100, 2048, 0, 16)  # of a guest: mostly mapped
PAGE = 4096
BOTH = (True, False)


class Dealer:
    """Of one architecture. `order` is its byte order."""

    order: ClassVar[Any]
    kinds: ClassVar[tuple[str, ...]]  # of guests
    states: ClassVar[tuple[tuple[str, tuple[Any, ...]], ...]]  # of a CPU: an attribute, and what it may be
    handles: frozenset[str] = frozenset()
    words: ClassVar[tuple[str, ...]] = ()  # what a guest's step that names something may say

    def __init__(self, rows: list[CallSpec]) -> None:
        self.rows = {row.code: row for row in rows}
        guest = import_module(f"protocol.arch.{self.kinds[0].partition('-')[0]}.guest")
        self.steps = get_args(guest.GuestStep)
        self.program = guest.Program

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        """See `seen.Taker`."""
        raise NotImplementedError

    def state(self, issue: Issue, level: Any) -> tuple[tuple[str, Any], ...]:
        """See `seen.Taker`."""
        return ()

    def fields(self, spec: CallSpec) -> tuple[str, ...]:
        raise NotImplementedError

    def named(self, spec: CallSpec) -> str:
        """The field that names the entity."""
        raise NotImplementedError

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        raise NotImplementedError

    # -- guests ----------------------------------------------------------------------------------------------

    def called(self, spec: CallSpec, numbers: Numbers, random: Random) -> list[Any]:
        """A guest's steps that make a call."""
        raise NotImplementedError

    def guest(self, random: Random, seen: Seen, guests: list[CallSpec]) -> Any:
        """What a guest does: calls of its own, and anything else."""
        steps: list[Any] = []
        for _ in range(random.randrange(1, 4)):
            if guests and random.random() < 0.6:
                spec = random.choice(guests)
                sample = seen.made(spec, self.fields(spec), self.named(spec))
                steps += self.called(spec, sample.numbers, random)
            else:
                steps.append(self._step(random, random.choice(self.steps)))
        return self.program(steps=deque(steps))

    def _step(self, random: Random, kind: type) -> Any:
        """Any step, of anything that its fields may hold."""
        return kind(**{field.name: self._field(random, field) for field in dataclasses.fields(kind)})

    def _field(self, random: Random, field: Any) -> Any:
        if field.name == "gpa":
            return random.choice(GUEST_PAGES) * PAGE + 8 * random.randrange(8)
        if field.name == "length":
            return random.randrange(1, 9)
        if field.name in ("r1", "r3", "gpr", "cr") and field.type == "int":
            return random.randrange(16)
        match field.type:
            case "bool":
                return random.random() < 0.5
            case "bytes":
                return random.randbytes(8)
            case "str":
                return random.choice(self.words)
            case "tuple[int, ...]":
                return tuple(number(random) for _ in range(16 if "Tdcall" in str(self.steps) else 32))
            case "int":
                return number(random)
        return field.default


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

    def _block(self, spec: CallSpec, numbers: Numbers, random: Random) -> bytes:
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
                          self._block(spec, sample.numbers, random))  # fmt: skip
        return seen.call(cpu, at)

    def called(self, spec: CallSpec, numbers: Numbers, random: Random) -> list[Any]:
        from protocol.arch.s390.guest import Touch, Uvc

        block = self._block(spec, numbers, random)
        at = random.choice(GUEST_PAGES) * PAGE
        stores = [Touch(at + place, True, block[place : place + 8]) for place in range(0, len(block), 8)]
        return [*stores, Uvc(at if random.random() < 0.9 else number(random))]


class Sev(Dealer):
    order = "little"
    kinds = ("sev", "sev-es", "snp")
    handles = frozenset({"handle", "gctx", "asid"})
    states = (("cpl", (0, 3)),)
    words = ("vmgexit", "hlt", "shutdown")

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

    def fields(self, spec: CallSpec) -> tuple[str, ...]:
        inside = tuple(SEV_LAYOUTS[spec.name].fields)
        return (*inside, *inside, *inside, AT)

    def named(self, spec: CallSpec) -> str:
        return "gctx" if "gctx" in SEV_LAYOUTS[spec.name].fields else "handle"

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        layout, at = SEV_LAYOUTS[spec.name], BLOCKS_AT
        if random.random() < 0.5:  # commands that the firmware answers in their buffer want it prepared
            at = sample.numbers.get(AT, 0)
        values = {}
        for name, field in layout.fields.items():
            value = _word(sample.numbers.get(name, 0), field.width)
            values[name] = value & field.allowed if random.random() < 0.97 else value
            if name == "length" and random.random() < 0.9:
                values[name] = layout.length
        seen.memory.write(at if at + layout.length < seen.memory.size else BLOCKS_AT, layout.pack(**values))
        return seen.call(cpu, spec.code << 16 | 1, at)

    def called(self, spec: CallSpec, numbers: Numbers, random: Random) -> list[Any]:
        return []


class Registers(Dealer):
    """Calls whose numbers stand in registers. `inputs` are those that calls use, the frequent ones often."""

    inputs: ClassVar[tuple[str, ...]]
    count: ClassVar[int]

    def fields(self, spec: CallSpec) -> tuple[str, ...]:
        return self.inputs

    def named(self, spec: CallSpec) -> str:
        return f"r{spec.handle_at}"

    def _registers(self, numbers: Numbers) -> list[int]:
        return [numbers.get(f"r{register}", 0) % (1 << 64) for register in range(self.count)]

    def _numbers(self, registers: list[int]) -> Numbers:
        return {name: registers[int(name[1:])] for name in self.inputs}


class Tdx(Registers):
    order = "little"
    kinds = ("tdx",)
    states = (("vmx", BOTH), ("cpl", (0, 3)), ("interrupt", BOTH))
    words = tuple(LEAVES)
    count = 16
    inputs = ("r1", "r1", "r2", "r2", "r8", "r8", "r9", "r10", "r11", "r12", "r13")

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        if issue.operation != "seamcall" or answered:
            return None
        registers = issue.arguments[0].r
        spec = self.rows.get(registers[0] & 0xFFFF)
        return None if spec is None else (spec.name, self._numbers(registers) | {"r0": registers[0]})

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        registers = self._registers(sample.numbers)
        registers[0] = registers[0] & 0xFF_0000 | spec.code
        if random.random() < 0.05:
            registers[0] ^= 1 << random.randrange(16, 64)
        return seen.call(cpu, registers)

    def called(self, spec: CallSpec, numbers: Numbers, random: Random) -> list[Any]:
        from protocol.arch.tdx.calls import GUEST
        from protocol.arch.tdx.guest import Tdcall

        registers = self._registers(numbers)
        registers[0] = spec.code - GUEST
        if random.random() < 0.3:
            registers[1] = random.choice(GUEST_PAGES) * PAGE | random.randrange(2)
        return [Tdcall(tuple(registers))]


class Pef(Registers):
    order = "big"
    kinds = ("pef",)
    states = (("hv", BOTH), ("pr", BOTH), ("tm", TM_STATES), ("lpidr", (0, 1, 2, 4095)), ("pidr", (0, 1)))
    count = 32
    inputs = ("r4", "r4", "r5", "r5", "r6", "r6", "r7", "r8", "r9")

    def taken(self, issue: Issue, level: Any, answered: bool = False) -> tuple[str, Numbers] | None:
        if issue.operation != "call" or answered:
            return None
        registers = issue.arguments[0].arguments[0]
        spec = self.rows.get(registers[3])
        return None if spec is None else (spec.name, self._numbers(registers))

    def named(self, spec: CallSpec) -> str:
        return "r4"

    def issued(self, spec: CallSpec, sample: Sample, seen: Any, cpu: Any, random: Random) -> Step[Any]:
        registers = self._registers(sample.numbers)
        registers[3] = spec.code
        return seen.call(cpu, registers)

    def called(self, spec: CallSpec, numbers: Numbers, random: Random) -> list[Any]:
        from protocol.arch.pef.guest import Hypercall, Ultracall

        registers = self._registers(numbers)
        registers[3] = spec.code
        if random.random() < 0.5:
            registers[4:6] = random.choice(GUEST_PAGES) >> 4, random.randrange(4)
        return [(Hypercall if spec.name.startswith("H_") else Ultracall)(tuple(registers))]


DEALERS: dict[str, type[Dealer]] = {"s390": S390, "sev": Sev, "tdx": Tdx, "pef": Pef}
