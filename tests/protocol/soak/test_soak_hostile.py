"""What a hostile host makes of what its software asks, and what it leaves alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any, NamedTuple

import pytest

from protocol.effects import Issue, Step
from protocol.soak import hostile
from protocol.soak.hostile import Corrupted, Loot, looked_at, numbers

SIZE = 1 << 20
BLOCK = bytes(range(0x100))


@dataclass
class Memory:
    """A host's level, as far as its CPUs load and store."""

    size: int = SIZE
    readable: bool = True
    stored: list[tuple[int, bytes]] = field(default_factory=list)

    def peek(self, address: int, length: int) -> Any:
        assert address >= 0
        assert address + length <= self.size
        return BLOCK[:length] if self.readable else None

    def write(self, address: int, data: bytes) -> None:
        assert address >= 0
        assert address + len(data) <= self.size
        self.stored.append((address, data))


class Who(NamedTuple):
    number: int


class Program(NamedTuple):
    steps: tuple[int, ...] = ()


class Registers(NamedTuple):
    cpu: int
    value: int
    name: str
    program: Program


@dataclass(frozen=True)
class Frozen:
    value: int
    level: int
    program: Program


class Kind(Enum):
    ONE = "one"


def software(*asked: Issue) -> Step[list[Any]]:
    answers = []
    for each in asked:
        answers.append((yield each))
    return answers


def driven(step: Step[Any]) -> tuple[list[Any], Any]:
    """What the level is asked, each answered by its number; and how the step ends."""
    asked: list[Any] = []
    answer: Any = None
    while True:
        try:
            asked.append(step.send(answer))
        except StopIteration as stop:
            return asked, stop.value
        answer = len(asked) - 1


def corrupted(*asked: Issue, loot: Loot | None = None, patience: int = 0) -> tuple[Corrupted, Memory]:
    memory = Memory()
    return Corrupted(software(*asked), Random(1), loot or Loot(Random(1)), memory, patience), memory


def always(monkeypatch: pytest.MonkeyPatch, **rates: float) -> None:
    for name in ("CHANGED", "REPLAYED", "STORED"):
        monkeypatch.setattr(hostile, name, rates.get(name.lower(), 0.0))


def test_a_patient_host_asks_what_its_software_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, changed=1.0, stored=1.0)
    issues = [Issue("call", (number,)) for number in range(40)]
    host, memory = corrupted(*issues, patience=20)
    asked, answers = driven(host.steps())
    assert asked[:20] == issues[:20]
    assert asked[20:] != issues[20:]
    assert answers == list(range(40)), "the software has its own answers"
    assert len(memory.stored) == 20


def test_what_another_host_issued_is_issued_again_between_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, replayed=1.0)
    loot = Loot(Random(1))
    loot.issued.append(Issue("foreign", (b"block",)))
    asked, answers = driven(corrupted(Issue("call", ()), Issue("call", ()), loot=loot)[0].steps())
    assert [each.operation for each in asked] == ["foreign", "call", "foreign", "call"]
    assert answers == [1, 3], "the answers to what was replayed are nobody's"


def test_to_look_for_news_again_would_be_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, replayed=1.0)
    loot = Loot(Random(1))
    loot.issued.append(Issue("poll", ()))
    asked, _ = driven(corrupted(Issue("call", ()), loot=loot)[0].steps())
    assert asked == [Issue("call", ())]


@pytest.mark.parametrize(
    "value",
    [None, True, "text", Kind.ONE, Who(7), Program()],
    ids=["nothing", "truth", "text", "of another kind", "who asks", "program"],
)
def test_what_a_host_cannot_choose_stays(monkeypatch: pytest.MonkeyPatch, value: object) -> None:
    always(monkeypatch, changed=1.0)
    issues = [Issue("call", (value,))] * 30
    assert driven(corrupted(*issues)[0].steps())[0] == issues


def test_a_guest_of_a_hostile_host_does_not_what_its_host_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, changed=1.0)
    asked, _ = driven(corrupted(*[Issue("enter", (Program((1, 2)),))] * 5)[0].steps())
    assert asked == [Issue("enter", (Program(),))] * 5


def test_registers_keep_their_shape_and_have_other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, changed=1.0)
    asked = Issue(
        "call", (Registers(1, 1 << 40, "name", Program((1,))), Frozen(5, 2, Program((1,))), [b"abcd"])
    )
    sent = [each.arguments for each in driven(corrupted(*[asked] * 60)[0].steps())[0]]
    for registers, frozen, listed in sent:
        assert (registers.cpu, registers.name, registers.program) == (1, "name", Program())
        assert 0 <= registers.value < 1 << 64
        assert (frozen.level, frozen.program) == (2, Program())
        assert [len(each) for each in listed] == [4]
    assert len({registers.value for registers, _, _ in sent}) > 5
    assert len({frozen.value for _, frozen, _ in sent}) > 5
    assert len({listed[0] for _, _, listed in sent}) > 5


def test_a_store_goes_anywhere_into_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    always(monkeypatch, stored=1.0)
    loot = Loot(Random(1))
    loot.blocks.append(BLOCK)
    loot.numbers.append(SIZE * 4)  # an address that it does not have
    host, memory = corrupted(*[Issue("call", ())] * 200, loot=loot)
    driven(host.steps())
    assert len(memory.stored) == 200
    assert len({address for address, _ in memory.stored}) > 50
    assert any(data == BLOCK for _, data in memory.stored), "what stood in another's block"


def test_somebody_looks_at_one_of_ten_and_at_what_it_points_at() -> None:
    loot = Loot(Random(1))
    driven(looked_at(software(*[Issue("call", (0x2004, 1, 1 << 40, Who(9)))] * 300), loot, Memory()))
    assert 10 < len(loot.issued) < 60
    assert {0x2004, 1 << 40} < set(loot.numbers)
    assert not {0, 1, 9} & (set(loot.numbers) - set(BLOCK_NUMBERS))
    assert set(loot.blocks) == {BLOCK}


BLOCK_NUMBERS = [int.from_bytes(BLOCK[at : at + 8], "big") for at in range(0, 0x100, 8)]


def test_of_a_block_that_cannot_be_read_nothing_is_kept() -> None:
    loot = Loot(Random(1))
    driven(looked_at(software(*[Issue("call", (0x2004,))] * 100), loot, Memory(readable=False)))
    assert set(loot.numbers) == {0x2004}
    assert not loot.blocks


def test_numbers_of_a_request_are_all_but_what_the_link_says() -> None:
    assert list(numbers((1, (2, [3, True]), b"4", "5", Who(6), None))) == [1, 2, 3]
