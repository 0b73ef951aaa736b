"""What guests of each architecture may do: steps of their own, calls, and what their owners gave them.

Software has a guest make requests of several steps: a block is built, then the call is made. Such runs of
steps are kept, and done again with a field or two changed; others are made up. The one place beside `dealers`
that knows an architecture.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from functools import lru_cache
from importlib import import_module
from random import Random
from typing import Any, ClassVar, get_args

from dealers import S390, Dealer, Registers
from draw import PAGE, number
from seen import Seen, near

from protocol.arch.tdx.machine.steps import LEAVES
from protocol.calls import CallSpec

ENTRIES = frozenset({"sie", "vmrun", "vp_enter", "enter"})
PAGES = (1600, 1100, 2048, 2, 16, 0)  # of a guest: mostly mapped
REGISTERS = frozenset({"r1", "r3", "gpr", "cr"})  # numbers of them, 4 bits
KEPT = 16  # runs of steps


def program_in(value: Any) -> Any:
    """The program of a guest in a message that enters it; None if it has none."""
    for each in value:
        if type(each).__name__ == "Program":
            return each
        if type(each).__name__ == "Request":
            return program_in(each.arguments)
        found = getattr(each, "program", None)
        if found is not None:
            return found
    return None


class Guests:
    """Of one architecture, in one composition."""

    words: ClassVar[tuple[str, ...]] = ()  # what a step that names something may say

    def __init__(self, random: Random, dealer: Dealer, calls: list[CallSpec], rig: Any, image: Any) -> None:
        self.random, self.dealer, self.calls, self.rig, self.image = random, dealer, calls, rig, image
        module = import_module(f"protocol.arch.{dealer.kinds[0].partition('-')[0]}.guest")
        self.steps = get_args(module.GuestStep)
        self.make = module.Program
        self.runs: deque[list[Any]] = deque(maxlen=KEPT)

    def mislead(self, program: Any, seen: Seen) -> None:
        """What a guest was to do comes a little different, or behind something else."""
        if program is None or getattr(program, "awaiting", False):
            return
        steps = list(program.steps)
        if len(steps) > 1:
            self.runs.append(steps)
        other = steps and self.random.random() < 0.5
        steps = self.changed(steps) if other else self.some(seen) + steps
        program.steps.clear()
        program.steps.extend(steps)

    def program(self, seen: Seen) -> Any:
        """A program of its own."""
        return self.make(steps=deque(self.some(seen)))

    def some(self, seen: Seen) -> list[Any]:
        """A few steps: a run that was seen, a call, or anything."""
        random = self.random
        way = random.random()
        if way < 0.2 and self.runs:
            return self.changed(random.choice(self.runs))
        if way < 0.3:
            return self.brought()
        made: list[Any] = []
        for _ in range(random.randrange(1, 4)):
            if self.calls and random.random() < 0.7:
                spec = random.choice(self.calls)
                sample = seen.made(spec, self.dealer.fields(spec), self.dealer.named(spec), self.dealer)
                made += self.called(spec, sample.numbers)
            else:
                made.append(self._any(random.choice(self.steps)))
        return made

    def called(self, spec: CallSpec, numbers: dict[str, int]) -> list[Any]:
        """Steps that make a call."""
        return []

    def brought(self) -> list[Any]:
        """Steps that hand over what an owner, or an attacker, has made outside."""
        return [self._any(self.random.choice(self.steps))]

    # -- steps -----------------------------------------------------------------------------------------------

    def changed(self, steps: list[Any]) -> list[Any]:
        """The same steps with other numbers in one or two of them; one may be missing."""
        random, made = self.random, list(steps)
        if not made:
            return made
        for _ in range(random.randrange(1, 3)):
            at = random.randrange(len(made))
            step = made[at]
            field = random.choice(dataclasses.fields(step) or (None,))
            if field is not None:
                made[at] = dataclasses.replace(
                    step, **{field.name: self._other(field, getattr(step, field.name))}
                )
        if random.random() < 0.1:
            del made[random.randrange(len(made))]
        return made

    def _other(self, field: Any, value: Any) -> Any:
        random = self.random
        if isinstance(value, bool):
            return not value
        if isinstance(value, bytes):
            return self.patched(value)
        if isinstance(value, int):
            other = field.name in REGISTERS or random.random() < 0.3
            return self._value(field) if other else near(random, value) % (1 << 64)
        if isinstance(value, tuple) and value and all(isinstance(each, int) for each in value):
            at = random.randrange(min(len(value), 14))
            new = number(random, value) if random.random() < 0.6 else near(random, value[at]) % (1 << 64)
            return (*value[:at], new, *value[at + 1 :])
        return self._value(field) if type(value) is str else value

    def patched(self, data: bytes) -> bytes:
        """One field of a block has another number in it."""
        random = self.random
        width = random.choice((1, 2, 4, 8))
        at = width * random.randrange(max(1, min(len(data), 0x200) // width))
        old = int.from_bytes(data[at : at + width], self.dealer.order)
        new = near(random, old) if random.random() < 0.5 else number(random, bits=8 * width)
        word = (new % (1 << 8 * width)).to_bytes(width, self.dealer.order)
        return data[:at] + word[: len(data) - at] + data[at + width :]

    def _any(self, kind: type) -> Any:
        """A step of anything that its fields may hold."""
        return kind(**{field.name: self._value(field) for field in dataclasses.fields(kind)})

    def _value(self, field: Any) -> Any:
        random = self.random
        if field.name == "gpa":
            return random.choice(PAGES) * PAGE + 8 * random.randrange(8)
        if field.name == "length":
            return random.randrange(1, 9)
        if field.name in REGISTERS and field.type == "int":
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


class S390Guests(Guests):
    dealer: S390

    def called(self, spec: CallSpec, numbers: dict[str, int]) -> list[Any]:
        from protocol.arch.s390.guest import Touch, Uvc

        random = self.random
        if random.random() < 0.5:  # indices, lengths and addresses that can be
            small = (0, 1, 2, 32, PAGE, random.choice(PAGES) * PAGE, random.choice(PAGES) * PAGE)
            numbers = {name: random.choice(small) for name in numbers}
        block = self.dealer.block(spec, numbers, random)
        at = random.choice(PAGES) * PAGE
        return [Touch(at, True, block), Uvc(at if random.random() < 0.9 else number(random))]

    def brought(self) -> list[Any]:
        """A request of its owner, who knows the machine's key: sealed with anything in it."""
        from protocol.arch.s390.guest import Touch, Uvc
        from protocol.arch.s390.host.papers import ADD_SECRET_CODE, ADD_SECRET_LENGTH, BLOCK_AT, REQUEST_AT
        from protocol.arch.s390.structs import GUEST_ADDRESS, block

        random = self.random
        if random.random() < 0.5:
            request, fields = self._attestation()
        else:
            request = self._secret()
            fields = bytes(block(ADD_SECRET_LENGTH, ADD_SECRET_CODE, GUEST_ADDRESS, REQUEST_AT))
        if random.random() < 0.4:
            request = self.patched(request)
        if random.random() < 0.2:
            fields = self.patched(fields)
        made = [Touch(REQUEST_AT, True, request), Touch(BLOCK_AT, True, fields), Uvc(BLOCK_AT)]
        return made + self._asked_for() if random.random() < 0.5 else made

    def _asked_for(self) -> list[Any]:
        """The guest looks at its store, or closes it."""
        from protocol.arch.s390.guest import Touch, Uvc
        from protocol.arch.s390.host.papers import BLOCK_AT, REQUEST_AT
        from protocol.arch.s390.structs import GUEST_ADDRESS, LIST_SECRETS, RETRIEVE_SECRET, block

        random = self.random
        number, length = random.choice((0, 0, 1, 200)), random.choice((0, 32, PAGE))
        at = random.choice((REQUEST_AT, REQUEST_AT & -PAGE, 1 << 40))
        made = random.choice(
            (
                block(0x40, 0x1035, RETRIEVE_SECRET, number, length, at),
                block(0x48, 0x1033, LIST_SECRETS, number, at),
                block(0x40, 0x1034, GUEST_ADDRESS, 0),
            )
        )
        return [Touch(BLOCK_AT, True, bytes(made)), Uvc(BLOCK_AT)]

    def _attestation(self) -> tuple[bytes, bytes]:
        from protocol.arch.s390.evidence import attestation as form
        from protocol.arch.s390.host.papers import ADDITIONAL_AT, MEASUREMENT_AT, REQUEST_AT
        from protocol.arch.s390.structs import Attest

        random = self.random
        raw = asked_for(
            self.rig.seed + (random.random() < 0.15),
            random.choice((form.FLAG_IMAGE_KEY, form.FLAG_IMAGE_KEY, 0, 1)),
            random.choice((0x100, 0x100, 0x100, 0x200)),
            random.choice((form.HMAC_SHA512, form.HMAC_SHA512, 2)),
        )
        fields = Attest(
            request=REQUEST_AT,
            token=0,
            user_length=random.choice((0, 7, 256)),
            user=b"nestbed",
            measurement_length=random.choice((64, 64, 64, 63, 0)),
            measurement=random.choice((MEASUREMENT_AT, MEASUREMENT_AT, MEASUREMENT_AT, 1 << 40)),
            additional_length=random.choice((32, 32, 32, 0)),
            additional=random.choice((ADDITIONAL_AT, ADDITIONAL_AT, ADDITIONAL_AT, 1 << 40)),
        )
        return raw, bytes(fields.pack())

    def _secret(self) -> bytes:
        random = self.random
        return sealed(
            self.rig.seed + (random.random() < 0.1),
            self.image.header,
            random.choice(((1, 0), (2, 32), (3, 48), (3, 16), (0x16, 32), (4, 32), (2, 31))),
            random.choice((0, 0, 0, 0, 1 << 63, 1)),
            random.choice(("", "", "", "uid", "extension")),
        )


@lru_cache(maxsize=512)
def asked_for(machine: int, flags: int, version: int, algorithm: int) -> bytes:
    """A request for evidence, for the machine of that seed: sealing one takes as long as twenty calls."""
    from protocol.arch.s390.evidence.attestation import build
    from protocol.arch.s390.image import host_key

    keys = [host_key(machine, "host")]
    return build(keys, seed=1, digest=b"fuzz", flags=flags, version=version, algorithm=algorithm).raw


@lru_cache(maxsize=512)
def sealed(machine: int, header: bytes, what: tuple[int, int], flags: int, odd: str) -> bytes:
    """A request to add a secret of a kind and a length, to guests of the image with this header."""
    from protocol.arch.s390.evidence.secrets import GuestSecret, build
    from protocol.arch.s390.image import host_key

    kind, length = what
    return build(
        GuestSecret(kind, bytes(length)),
        header,
        [host_key(machine, "host")],
        seed=1,
        digest=b"fuzz",
        flags=flags,
        uid=(b"\1" if odd == "uid" else b"").ljust(16, b"\0"),
        extension=(b"\1" if odd == "extension" else b"").ljust(32, b"\0"),
    )


class SevGuests(Guests):
    words = ("vmgexit", "hlt", "shutdown")


class TdxGuests(Guests):
    words = tuple(LEAVES)
    dealer: Registers

    def called(self, spec: CallSpec, numbers: dict[str, int]) -> list[Any]:
        from protocol.arch.tdx.calls import GUEST
        from protocol.arch.tdx.guest import Tdcall

        random = self.random
        registers = self.dealer.registers(numbers)
        registers[0] = spec.code - GUEST
        if random.random() < 0.7:  # operands that can be: pages, levels, small numbers
            registers[1] = self._operand()
            registers[2] = self._operand() if random.random() < 0.5 else random.randrange(6)
            for at in (8, 9, 10):
                registers[at] = 0 if random.random() < 0.6 else number(random)
        return [Tdcall(tuple(registers))]

    def _operand(self) -> int:
        random = self.random
        where = random.choice(PAGES) * PAGE
        return where + random.choice((0, 0, 0, 0, 1, 0x400, 0x40)) | random.choice((0, 0, 0, 1 << 47))

    def brought(self) -> list[Any]:
        """A report is made, something in it is changed, and it is shown to the module."""
        from protocol.arch.tdx.guest import Tdcall, Touch

        random = self.random
        at, data = random.choice(PAGES[:3]) * PAGE, random.choice(PAGES[:3]) * PAGE + 0x800
        report, verify = [4, at, data, *[0] * 13], [22, at, *[0] * 14]
        change = Touch(at + random.choice((16, 20, 64, 0xE0)), True, random.randbytes(4))
        changes = [change] if random.random() < 0.7 else []
        return [Touch(at, True), Touch(data, True), Tdcall(tuple(report)), *changes, Tdcall(tuple(verify))]


class PefGuests(Guests):
    dealer: Registers

    def called(self, spec: CallSpec, numbers: dict[str, int]) -> list[Any]:
        from protocol.arch.pef.guest import Hypercall, Ultracall

        random = self.random
        registers = self.dealer.registers(numbers)
        registers[3] = spec.code
        if random.random() < 0.6:
            registers[4:6] = random.choice(PAGES) >> 4, random.randrange(4)
        if spec.name.startswith("H_"):
            if random.random() < 0.7:
                registers[4], registers[5] = (
                    random.choice(PAGES) * PAGE & -0x10000,
                    random.choice((0, 0, 1, 2)),
                )
                registers[6] = random.choice((16, 16, 12, number(random)))
            return [Hypercall(tuple(registers))]
        return [Ultracall(tuple(registers), random.random() < 0.1)]


GUESTS: dict[str, type[Guests]] = {
    "s390": S390Guests, "sev": SevGuests, "tdx": TdxGuests, "pef": PefGuests,
}  # fmt: skip
