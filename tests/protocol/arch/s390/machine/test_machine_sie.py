"""SIE on the machine:

the timer's rule, what is stored where, where a guest that is not secure has its storage.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.arch.s390.guest import (
    Diag,
    Load,
    Loop,
    Program,
    Read,
    Sclp,
    SetCpu,
    Sigp,
    Spx,
    Touch,
    Uvc,
    Wait,
)
from protocol.arch.s390.machine.sie import TIMER_MARGIN, area
from protocol.arch.s390.structs import SieExit
from protocol.effects import Fault, Idle, run

PAGE, MIB = 0x1000, 0x100000
U64 = (1 << 64) - 1
IMAGE = 0x10000

shared_fixture = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


# -- the CPU timer ----------------------------------------


@shared_fixture
@given(
    st.integers(0, U64),
    st.integers(-2 * TIMER_MARGIN, 40 * TIMER_MARGIN) | st.integers(0, U64),
    st.integers(0, 30 * TIMER_MARGIN),
)
def test_a_timer_goes_down_by_the_time_outside_and_the_margin_at_most(
    guest: Any, timer: int, down: int, outside: int
) -> None:
    """5.3, and the contract's number for the margin; it counts modulo 2 ** 64."""
    bench = guest.bench
    secure = bench.uv.secure_cpus[guest.cpus[0]]
    secure.timer = None
    guest.run(SetCpu(timer=timer))
    bench.uv.tod += outside
    bench.put(guest.blocks[0] + 0x28, (timer - down) & U64)
    left = guest.enter()
    assert isinstance(left, SieExit)
    assert left.code == (0x1C if down & U64 <= outside + TIMER_MARGIN else 0x20)


def test_the_timer_at_an_exit_is_the_guests(guest: Any) -> None:
    guest.run(SetCpu(timer=0x1234_5678))
    block = guest.bench.read(guest.blocks[0], 0x400)
    assert int.from_bytes(block[0x28:0x30], "big") == 0x1234_5678


# -- what is stored in the block ----------------------------------------


def test_a_fault_shows_in_the_timer_and_the_injection_alone(guest: Any) -> None:
    bench, at = guest.bench, guest.blocks[0]
    before = bytearray(bench.read(at, 0x400))
    fault = guest.enter(SetCpu(timer=0x77), Touch(0x50000))
    assert isinstance(fault, Fault)
    before[0x28:0x30] = (0x77).to_bytes(8, "big")
    assert bench.read(at, 0x400) == bytes(before)


@pytest.mark.parametrize("why", ["handle", "prefix"])
def test_a_refused_entry_stores_its_code_and_its_text_alone(guest: Any, why: str) -> None:
    bench, at = guest.bench, guest.blocks[0]
    bench.uv.write(at + 0x380, bytes(range(128)))
    if why == "handle":
        bench.put(at + 0x10, 1)
    else:
        guest.export(0)
    before = bytearray(bench.read(at, 0x400))
    left = guest.enter(Read(IMAGE, 4))
    assert isinstance(left, SieExit)
    assert left.code == (0x20 if why == "handle" else 0x70)
    before[0x50] = left.code
    before[0x56:0x5C] = left.ipa.to_bytes(2, "big") + left.ipb.to_bytes(4, "big")
    assert bench.read(at, 0x400) == bytes(before)
    assert left.gprs[0] == 0x0001020304050607, "the answer is what stands in the block"
    assert list(guest.programs[0].steps) == [Read(IMAGE, 4)]


@given(st.integers(0, 1 << 40).map(lambda page: page << 12), st.integers(0, 0xFFF))
def test_the_low_bits_of_a_data_area_are_its_pages_less_one(origin: int, more: int) -> None:
    assert area(origin | more) == (origin, PAGE * (more + 1))


def test_a_load_that_faults_leaves_its_register_and_is_done_by_the_next_entry(guest: Any) -> None:
    secure = guest.bench.uv.secure_cpus[guest.cpus[0]]
    fault = guest.enter(SetCpu(gprs=((3, 0x33),)), Load(0x50000, 8, 3))
    assert isinstance(fault, Fault)
    assert (fault.address, fault.write, secure.gprs[3]) == (0x50000, False, 0x33)
    guest.secure(0x50000)
    assert guest.run() == [{}, {}]
    assert secure.gprs[3] == 0


# -- a stay ----------------------------------------


def test_a_guest_that_stays_looks_again_when_it_is_told_to(guest: Any) -> None:
    bench, program = guest.bench, guest.programs[0]
    bench.cpu.cr[1] = guest.asce
    step = bench.uv.enter(bench.cpu, guest.blocks[0], program, True, 1)
    assert isinstance(next(step), Idle)
    program.steps.append(Read(IMAGE, 8))
    assert isinstance(step.send(True), Idle)
    assert program.collect() == [{"hex": b"a kernel".hex()}]
    assert bench.uv.secure_cpus[guest.cpus[0]].inside
    with pytest.raises(StopIteration) as stop:
        step.send(False)
    assert stop.value.value.code == 0
    assert not bench.uv.secure_cpus[guest.cpus[0]].inside


def test_a_stay_that_is_thrown_away_leaves_the_cpu_outside(guest: Any) -> None:
    bench = guest.bench
    bench.cpu.cr[1] = guest.asce
    step = bench.uv.enter(bench.cpu, guest.blocks[0], guest.programs[0], True, 1)
    next(step)
    with pytest.raises(RuntimeError):
        step.throw(RuntimeError())
    assert not bench.uv.secure_cpus[guest.cpus[0]].inside


# -- a guest that is not secure ----------------------------------------


class Normal:
    """A guest of the bench's host with `mso` and 2 MiB, its first MiB mapped."""

    def __init__(self, guest: Any, mso: int = 0) -> None:
        self.bench, self.guest, self.mso = guest.bench, guest, mso
        self.block = self.bench.alloc()
        self.bench.put(self.block + 0x80, mso)
        self.bench.put(self.block + 0x88, mso + 2 * MIB - 1)
        self.program = Program()

    def enter(self, *steps: Any) -> SieExit | Fault:
        self.program.steps.extend(steps)
        self.bench.cpu.cr[1] = self.guest.asce
        return run(self.bench.uv.enter(self.bench.cpu, self.block, self.program, False, 1))


@pytest.fixture
def normal(guest: Any) -> Normal:
    made = Normal(guest)
    for gaddr in (0x40000, 0x41000):
        guest.back(gaddr)
    return made


def test_a_normal_guest_has_its_storage_in_the_hosts(normal: Normal) -> None:
    left = normal.enter(
        Touch(0x40FFE, True, b"abcd"), Read(0x40FFE, 4), Load(0x41000, 2, 7), Diag(0x500, 7, 0)
    )
    assert isinstance(left, SieExit)
    assert (left.code, left.ipa, left.gprs[7]) == (0x04, 0x8370, 0x6364)
    assert normal.program.collect() == [{}, {"hex": b"abcd".hex()}, {}, {}]
    assert normal.bench.read(normal.guest.pages[0x40] + 0xFFE, 2) == b"ab"


@pytest.mark.parametrize(
    ("step", "code", "text", "shown"),
    [
        (Sigp(5, 1, 9), 0x04, (0xAE02, 0x0005_0000), {1: 9, 2: 1}),
        (Sclp(1, 2), 0x04, (0xB220, 0x0002_0000), {0: 1, 2: 2}),
        (Diag(0x44, 1, 2), 0x04, (0x8312, 0x0044_0000), {}),
        (Spx(0x4000), 0x04, (0xB210, 0), {}),
        (Uvc(0x1000), 0x04, (0xB9A4, 0), {}),
        (Wait(), 0x1C, (0, 0), {}),
        (Loop(), 0x08, (0, 0), {}),
    ],
    ids=str,
)
def test_a_normal_guest_leaves_with_its_text_and_all_its_registers(
    normal: Normal, step: Any, code: int, text: tuple[int, int], shown: dict[int, int]
) -> None:
    values = {number: 100 + number for number in range(16)}
    left = normal.enter(SetCpu(gprs=tuple(values.items())), step)
    assert isinstance(left, SieExit)
    assert (left.code, (left.ipa, left.ipb)) == (code, text)
    assert dict(enumerate(left.gprs)) == values | shown


def test_a_load_of_a_normal_guest_that_faults_leaves_its_register(normal: Normal) -> None:
    left = normal.enter(SetCpu(gprs=((3, 0x33),)), Load(0x50000, 8, 3))
    assert isinstance(left, Fault)
    assert (left.code, left.address, normal.program.gprs[3]) == (0x11, 0x50000, 0x33)


def test_a_normal_guest_beyond_its_limit_interrupts_itself(normal: Normal) -> None:
    """The code is stored at real 0x8E of the guest, where its lowcore is one of its pages."""
    left = normal.enter(Spx(0x40000))
    assert isinstance(left, SieExit)
    left = normal.enter(Touch(2 * MIB), Read(0x8E, 2))
    assert normal.program.collect() == [{}, {"pgm": "0x05"}, {"hex": "0005"}]
    assert isinstance(left, SieExit)


def test_a_normal_guest_whose_lowcore_is_not_there_faults_first(normal: Normal) -> None:
    normal.guest.export(0)
    fault = normal.enter(SetCpu(problem_state=True), Wait())
    assert isinstance(fault, SieExit), "the exported page is plain memory of the host"
    normal = Normal(normal.guest)
    normal.enter(Spx(0x60000))
    fault = normal.enter(Touch(2 * MIB))
    assert isinstance(fault, Fault)
    assert (fault.code, fault.address & ~0xFFF) == (0x11, 0)


def test_a_normal_guests_privileged_instructions_are_its_supervisors(normal: Normal) -> None:
    normal.enter(Spx(0x40000))
    normal.program.collect()
    normal.enter(
        SetCpu(problem_state=True), SetCpu(timer=5), SetCpu(problem_state=True), Uvc(0x8000), Uvc(0x8000)
    )
    assert normal.program.collect() == [{}, {"pgm": "0x02"}, {}, {"pgm": "0x02"}, {}]


def test_a_normal_guests_origin_is_where_its_storage_begins(guest: Any) -> None:
    """MSO: address 0 of the guest is a MiB further in the host's table; `fault.address` is the guest's."""
    guest.back(MIB + 0x3000)
    shifted = Normal(guest, mso=MIB)
    assert isinstance(shifted.enter(Touch(0x3000, True, b"here")), SieExit)
    assert guest.bench.read(guest.pages[0x103], 4) == b"here"
    fault = shifted.enter(Touch(0x4000))
    assert isinstance(fault, Fault)
    assert fault.address == 0x4000


def test_a_normal_guest_whose_host_maps_what_is_not_there_faults(normal: Normal) -> None:
    table = normal.guest.tables[0]
    normal.bench.put(table + 8 * 0x41, 1 << 40)
    for step in (Touch(0x41000), Touch(0x41000, True, b"x")):
        fault = normal.enter(step)
        assert isinstance(fault, Fault) and (fault.code, fault.address) == (0x05, 0x41000)
        normal.program.steps.clear()


def test_a_normal_guest_sets_its_registers(normal: Normal) -> None:
    left = normal.enter(SetCpu(((3, 7), (15, U64))), Wait())
    assert isinstance(left, SieExit)
    assert (left.gprs[3], left.gprs[15], left.gprs[4]) == (7, U64, 0)


# -- what a secure guest may not do ----------------------------------------


def test_a_block_of_an_unknown_format_is_no_guests(guest: Any) -> None:
    guest.bench.put(guest.blocks[0] + 0x68, 1 << 56)
    left = guest.enter(Wait())
    assert isinstance(left, SieExit) and left.code == 0x20
    assert list(guest.programs[0].steps) == [Wait()]


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Diag(0x308, r1=3), "0x06"),
        (Diag(0x288, r1=1), "0x06"),
        (Diag(0x308, r1=2, r3=4), "0x06"),  # a subcode that a secure guest may not use
        (Spx(2 * MIB), "0x05"),
    ],
)
def test_an_instruction_that_makes_no_sense_interrupts_the_guest(guest: Any, step: Any, code: str) -> None:
    assert guest.run(SetCpu(((4, 10),)), step, Read(0x8E, 2)) == [
        {},
        {"pgm": code},
        {"hex": f"{int(code, 16):04x}"},
    ]


def test_a_program_in_problem_state_sets_registers_alone(guest: Any) -> None:
    done = guest.run(
        SetCpu(problem_state=True), SetCpu(((3, 5),)), SetCpu(timer=5), SetCpu(problem_state=True), Wait()
    )
    assert done == [{}, {}, {"pgm": "0x02"}, {}, {"pgm": "0x02"}]


def test_an_interruption_comes_when_its_lowcore_is_there_again(guest: Any) -> None:
    bench, program = guest.bench, guest.programs[0]
    bench.cpu.cr[1] = guest.asce
    step = bench.uv.enter(bench.cpu, guest.blocks[0], program, True, 1)
    next(step)
    guest.export(0)
    program.steps.append(Spx(2 * MIB))
    with pytest.raises(StopIteration) as stop:
        step.send(True)
    assert stop.value.value.code == 0x70
    assert list(program.steps) == [Spx(2 * MIB)]
    guest.secure(0)
    assert guest.run() == [{"pgm": "0x05"}]


def test_a_block_for_the_service_processor_that_is_not_there_is_asked_for(guest: Any) -> None:
    fault = guest.enter(Sclp(0x20001, 0x50000))
    assert isinstance(fault, Fault) and fault.address == 0x50000
    guest.secure(0x50000)
    left = guest.enter()
    assert isinstance(left, SieExit) and left.code == 0x6C


def test_data_for_a_host_that_has_taken_the_data_area_away_is_its_fault(guest: Any) -> None:
    """The area was there at the entry. The guest stays; its host makes a page of another use of it."""
    bench, program = guest.bench, guest.programs[0]
    sida = int.from_bytes(bench.read(guest.blocks[0] + 0x180, 8), "big") & ~0xFFF
    guest.secure(0x50000)
    bench.cpu.cr[1] = guest.asce
    step = bench.uv.enter(bench.cpu, guest.blocks[0], program, True, 1)
    next(step)
    guest.pages[0x60] = sida
    bench.put(guest.tables[0] + 8 * 0x60, sida)
    guest.secure(0x60000)
    program.steps.append(Sclp(0x20001, 0x50000))
    with pytest.raises(StopIteration) as stop:
        step.send(True)
    fault = stop.value.value
    assert isinstance(fault, Fault) and fault.address & ~0xFFF == sida
    assert list(program.steps) == [Sclp(0x20001, 0x50000)], "it was not done"
