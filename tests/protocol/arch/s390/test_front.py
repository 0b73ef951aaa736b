"""The front of every call: what is touched, what is read once, which lock is held and for how long."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.arch.s390 import cpu as z
from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.front import UV_LOCK, Front
from protocol.arch.s390.structs import BUSY, ERROR, OK, Outcome
from protocol.calls import CallSpec
from protocol.effects import Fault, Park, run
from protocol.errors import OwnerGone
from protocol.nesting.locks import Locks

MEMORY = 0x10000
BLOCK = 0x1000
VERIFY, CREATE_CPU, PIN, RESET, QUERY, INIT = 0x0302, 0x0120, 0x0341, 0x0310, 0x0001, 0x000F


class Level(Front):
    """A level that keeps what it was asked; `shut` pages answer 0x3D."""

    def __init__(self) -> None:
        self.calls = {code: spec for code, spec in CALLS.items() if spec.for_host()}
        self.locks = Locks()
        self.ready = True
        self.size = MEMORY
        self.memory = bytearray(MEMORY)
        self.shut: set[int] = set()
        self.handles = {("config", 7), ("cpu", 8)}
        self.performed: list[tuple[str, bytes]] = []
        self.outcome: Callable[[], Any] = lambda: Outcome(1)

    def peek(self, address: int, length: int) -> bytes | Fault:
        fault = self.refusal(address, length)
        return (
            z.program(fault.code, fault.address) if fault else bytes(self.memory[address : address + length])
        )

    def poke(self, address: int, data: bytes) -> Fault | None:
        fault = self.refusal(address, len(data))
        if fault is None:
            self.memory[address : address + len(data)] = data
        return fault

    def refusal(self, address: int, length: int) -> Fault | None:
        if address + length > MEMORY:
            return z.program(z.ADDRESSING, max(address, MEMORY), True)
        for page in range(address >> 12, (address + max(length, 1) - 1 >> 12) + 1):
            if page in self.shut:
                return z.program(z.SECURE_ACCESS, max(address, page << 12), True)
        return None

    def known(self, kind: str, handle: int) -> bool:
        return (kind, handle) in self.handles

    def perform(self, spec: CallSpec, cpu: Cpu, block: bytes) -> Outcome | Generator[Any, Any, Outcome]:
        self.performed.append((spec.name, block))
        return self.outcome()  # type: ignore[no-any-return]


@pytest.fixture
def level() -> Level:
    return Level()


def put(
    level: Level, code: int, at: int = BLOCK, length: int | None = None, handle: int | None = None
) -> bytes:
    spec = CALLS[code]
    block = bytearray(spec.length)
    block[:4] = (spec.length if length is None else length).to_bytes(2, "big") + code.to_bytes(2, "big")
    if spec.handle:
        chosen = {"config": 7, "cpu": 8}[spec.handle] if handle is None else handle
        block[spec.handle_at : spec.handle_at + 8] = chosen.to_bytes(8, "big")
    level.memory[at : at + len(block)] = block
    return bytes(block)


def uvc(level: Level, at: int = BLOCK, cpu: Cpu | None = None, m3: int = 0, m4: int = 0) -> int | Fault:
    return run(level.uvc(cpu or Cpu(0), at, m3, m4, park=False))


def code_at(level: Level, at: int = BLOCK) -> int:
    return int.from_bytes(level.memory[at + 4 : at + 6], "big")


# -- the block ----------------------------------------


def test_a_call_gets_the_whole_block_and_answers_with_its_codes(level: Level) -> None:
    block = put(level, VERIFY)
    level.outcome = lambda: Outcome(0x0102, 0x1A, ((0x30, b"output"),))
    assert uvc(level) == ERROR
    assert level.performed == [("verify", block)]
    after = bytes(level.memory[BLOCK : BLOCK + 0x40])
    assert after == block[:4] + b"\x01\x02\x00\x1a" + block[8:0x30] + b"output" + block[0x36:]


@pytest.mark.parametrize("prefix", [0, 0x6000])
def test_an_output_that_cannot_be_stored_is_an_exception_without_codes(level: Level, prefix: int) -> None:
    """The page is taken away while the call is under way: who sees codes sees all that belongs to them."""
    at = 0x3000 - 0x30
    put(level, VERIFY, at)

    def performed() -> Outcome:
        level.shut = {3}
        return Outcome(1, 0, ((0x30, b"output"),))

    level.outcome = performed
    assert uvc(level, at, Cpu(0, prefix=prefix)) == z.program(z.SECURE_ACCESS, 0x3000, True)
    assert code_at(level, at) == 0


@given(st.integers(0, 0x40), st.booleans())
def test_the_whole_length_is_touched_before_anything_is_processed(crossing: int, dat: bool) -> None:
    """3.4 rule 3, for a block of 0x40 bytes of which `crossing` lie on a page that is not there."""
    level = Level()
    level.shut = {3}
    at = 0x3000 - 0x40 + crossing
    level.memory[0x3000:0x4000] = bytes(0x1000)
    block = put(level, VERIFY, at)
    found = uvc(level, at)
    if crossing:
        assert found == z.program(z.SECURE_ACCESS, max(at, 0x3000), True)
        assert level.performed == []
        assert bytes(level.memory[at : at + 0x40]) == block
    else:
        assert found == OK


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_block_shorter_than_its_header_is_a_block_of_its_header(level: Level, length: int) -> None:
    put(level, VERIFY, length=length)
    assert uvc(level) == ERROR
    assert code_at(level) == 0x0005


@pytest.mark.parametrize("prefix", [0, 0x6000])
def test_a_block_of_its_header_alone_at_the_end_of_a_page_does_not_touch_the_next(
    level: Level, prefix: int
) -> None:
    level.memory[0x2FF8:0x3000] = bytes((0, 8)) + VERIFY.to_bytes(2, "big") + bytes(4)
    level.shut = {3}
    assert uvc(level, 0x2FF8, Cpu(0, prefix=prefix)) == ERROR
    assert code_at(level, 0x2FF8) == 0x0005


def test_a_length_beyond_all_calls_is_touched_all_the_same(level: Level) -> None:
    put(level, VERIFY, at=MEMORY - 0x1000, length=0xFFFF)
    found = uvc(level, MEMORY - 0x1000)
    assert found == z.program(z.ADDRESSING, MEMORY, True)
    put(level, VERIFY, at=0, length=0xFFFF)
    assert uvc(level, 0) == ERROR
    assert code_at(level, 0) == 0x0005


def test_a_block_is_read_once(level: Level) -> None:
    """Another CPU may change it meanwhile: what was checked is what is done."""
    block = put(level, VERIFY)

    def change() -> Outcome:
        level.memory[BLOCK : BLOCK + 0x40] = b"\xff" * 0x40
        return Outcome(1)

    level.outcome = change
    assert uvc(level) == OK
    assert level.performed == [("verify", block)]
    assert bytes(level.memory[BLOCK : BLOCK + 8]) == b"\xff\xff\xff\xff\x00\x01\x00\x00"


def test_the_prefix_is_applied_to_a_real_address(level: Level) -> None:
    put(level, VERIFY, at=0x4100)
    assert uvc(level, 0x100, Cpu(0, prefix=0x4000)) == OK
    assert code_at(level, 0x4100) == 0x0001


def test_an_exception_before_the_block_leaves_it_untouched(level: Level) -> None:
    block = put(level, VERIFY)
    assert uvc(level, cpu=Cpu(0, problem_state=True), m3=1) == z.program(z.PRIVILEGED, BLOCK)
    assert uvc(level, m3=1) == z.program(z.SPECIFICATION, BLOCK)
    assert uvc(level, m4=15) == z.program(z.SPECIFICATION, BLOCK)
    assert bytes(level.memory[BLOCK : BLOCK + 0x40]) == block
    assert level.performed == []


# -- the order of the generic codes ----------------------------------------


@given(
    st.sampled_from([VERIFY, CREATE_CPU, PIN, RESET, QUERY, INIT, 0x7777]),
    st.booleans(),
    st.sampled_from([-8, 0, 8]),
    st.booleans(),
)
def test_installed_then_state_then_length_then_handle(
    code: int, ready: bool, off_by: int, known: bool
) -> None:
    """3.4 rules 4 to 7, every combination of what can be wrong."""
    level = Level()
    level.ready = ready
    if not known:
        level.handles.clear()
    spec = CALLS.get(code)
    if spec is None:
        level.memory[BLOCK : BLOCK + 4] = (0x40 + off_by).to_bytes(2, "big") + code.to_bytes(2, "big")
        want = 0x0002
    else:
        put(level, code, length=spec.length + off_by)
        want = 0x0001
        if spec.handle and not known:
            want = 0x0020 if spec.handle == "config" else 0x0021
        if off_by and code != QUERY:
            want = 0x0005
        if not ready and spec.states == "ready":
            want = 0x0003
    assert uvc(level) == (OK if want == 1 else ERROR)
    assert code_at(level) == want
    assert bool(level.performed) == (want == 1)


# -- locks ----------------------------------------


@pytest.mark.parametrize(
    ("code", "entity"),
    [(VERIFY, ("config", 7)), (CREATE_CPU, ("config", 7)), (RESET, ("cpu", 8)), (PIN, UV_LOCK)],
)
def test_a_call_holds_the_lock_of_what_it_names_while_it_is_performed(
    level: Level, code: int, entity: tuple[str, int]
) -> None:
    held: list[bool] = []

    def look() -> Outcome:
        held.append(not level.locks.take(entity))
        return Outcome(1)

    level.outcome = look
    put(level, code)
    assert uvc(level) == OK
    assert held == [True]
    assert len(level.locks) == 0


def test_a_call_that_does_not_get_its_lock_is_busy_and_stores_nothing(level: Level) -> None:
    block = put(level, VERIFY)
    level.locks.take(("config", 7))
    assert uvc(level) == BUSY
    assert bytes(level.memory[BLOCK : BLOCK + 0x40]) == block
    assert level.performed == []
    put(level, RESET)
    assert uvc(level) == OK, "another entity"


def test_a_parked_call_holds_its_lock_and_has_not_begun(level: Level) -> None:
    put(level, VERIFY)
    step = level.uvc(Cpu(0), BLOCK, 0, 0, park=True)
    assert isinstance(next(step), Park)
    assert level.performed == []
    assert uvc(level) == BUSY
    with pytest.raises(StopIteration) as stop:
        step.send(None)
    assert stop.value.value == OK
    assert level.performed[0][0] == "verify"
    assert len(level.locks) == 0


def test_a_call_whose_owner_goes_gives_its_lock_back(level: Level) -> None:
    block = put(level, VERIFY)
    step = level.uvc(Cpu(0), BLOCK, 0, 0, park=True)
    next(step)
    with pytest.raises(OwnerGone):
        step.throw(OwnerGone())
    assert len(level.locks) == 0
    assert bytes(level.memory[BLOCK : BLOCK + 0x40]) == block


def test_a_refused_call_takes_no_lock(level: Level) -> None:
    level.locks.take(("config", 7))
    put(level, VERIFY, length=0x48)
    assert uvc(level) == ERROR
    assert code_at(level) == 0x0005


def test_a_call_may_ask_below_and_go_on(level: Level) -> None:
    def ask() -> Generator[Any, Any, Outcome]:
        reply = yield Park()
        return Outcome(1, reply)

    level.outcome = ask
    put(level, VERIFY)
    step = level.uvc(Cpu(0), BLOCK, 0, 0, park=False)
    next(step)
    assert uvc(level) == BUSY
    with pytest.raises(StopIteration):
        step.send(0x55)
    assert bytes(level.memory[BLOCK + 4 : BLOCK + 8]) == b"\x00\x01\x00\x55"


# -- the issuing CPU's view of storage ----------------------------------------


@given(st.integers(0, MEMORY - 1), st.binary(max_size=64), st.integers(1, 80), st.sets(st.integers(0, 15)))
def test_what_would_be_refused_is_what_is_refused(
    address: int, piece: bytes, times: int, shut: set[int]
) -> None:
    level, data = Level(), piece * times
    level.shut = shut
    cpu = Cpu(0, prefix=0x2000)
    refusal = level.home_refusal(cpu, address, len(data))
    stored = level.home_write(cpu, address, data)
    assert (refusal is None) == (stored is None)
    if refusal is None and data:
        assert level.home_read(cpu, address, len(data)) == data
    elif refusal is not None:
        assert refusal == stored


@given(st.integers(0, (1 << 64) - 1), st.integers(0, 0x3FFFF).map(lambda block: block * 0x2000))
def test_prefixing_is_its_own_inverse_and_moves_two_areas_alone(address: int, prefix: int) -> None:
    cpu = Cpu(0, prefix=prefix)
    assert cpu.real(cpu.real(address)) == address
    if not (address < 0x2000 or prefix <= address < prefix + 0x2000):
        assert cpu.real(address) == address
