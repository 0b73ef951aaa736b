"""Shadows of nested tables: which of them go, what they leave, and what a guest that runs meanwhile finds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sev_nested_host import Host, rig_of

from protocol.arch.sev.cpu import VM_HSAVE_PA
from protocol.arch.sev.guest import Program, Read
from protocol.arch.sev.host.tables import Tables
from protocol.arch.sev.nesting import shadow
from protocol.arch.sev.profiles import MIB
from protocol.arch.sev.structs import NESTED_PAGING, PAGE, U32, U64, VMCB_ASID, VMCB_MODE, VMCB_NCR3
from protocol.effects import Idle, run


class Guest:
    """A guest without SEV; its first pages hold `contents`."""

    def __init__(self, host: Host, asid: int, tables: Tables | None, *contents: bytes) -> None:
        self.host, driver = host, host.driver
        self.tables = Tables(driver) if tables is None else tables
        for n, data in enumerate(contents):
            self.maps(n, data)
        self.vmcb = host.allocate(PAGE, PAGE)
        driver.write(self.vmcb + VMCB_ASID, U32.pack(asid))
        driver.write(self.vmcb + VMCB_MODE, U64.pack(NESTED_PAGING))
        driver.write(self.vmcb + VMCB_NCR3, U64.pack(self.tables.root))

    def maps(self, page: int, data: bytes) -> None:
        under = self.host.allocate(PAGE, PAGE)
        self.host.driver.write(under, data)
        self.tables.map(page * PAGE, under)

    def reads(self, page: int, cpu: int = 0) -> bytes:
        program = Program()
        program.steps.append(Read(page * PAGE, 4))
        run(self.host.hands.vmrun(cpu, self.vmcb, program))
        return found(program)

    @contextmanager
    def running(self) -> Iterator[Any]:
        """CPU 0 stays in it: what it reads, asked while others do something."""
        program = Program()
        step = self.host.hands.vmrun(0, self.vmcb, program, stay=True)
        assert isinstance(next(step), Idle)

        def reads(page: int) -> bytes:
            program.steps.append(Read(page * PAGE, 4))
            assert isinstance(step.send(True), Idle)
            return found(program)

        yield reads
        with pytest.raises(StopIteration):
            step.send(False)


def found(program: Program) -> bytes:
    (result,) = program.collect()
    return bytes.fromhex(result["hex"])


@pytest.fixture
def host() -> Host:
    made = Host(rig_of(1))
    for cpu in made.seat.cpus:
        run(made.driver.write_msr(cpu.number, VM_HSAVE_PA, made.allocate(PAGE, PAGE)))
    return made


def opened(host: Host) -> int:
    counted: int = host.rig.ledger.counts()["table_ops", "shadow_open"]
    return counted


def test_tables_of_two_guests_stay_protected_for_the_one_whose_shadow_is_left(
    monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    monkeypatch.setattr(shadow, "SPACES", 2)
    one = Guest(host, 1, None, b"old.")
    other, third = Guest(host, 2, one.tables), Guest(host, 3, None, b"else")
    assert [guest.reads(0) for guest in (one, other, third)] == [b"old.", b"old.", b"else"]
    host.rig.ledger.reset()
    one.maps(0, b"new.")
    assert host.rig.ledger.flat()["exits.1.table_write.kernel"] == 1
    assert other.reads(0) == b"new."


def test_the_shadow_that_a_cpu_is_in_makes_no_room(monkeypatch: pytest.MonkeyPatch, host: Host) -> None:
    """There is one too many then; the next that comes finds it left."""
    monkeypatch.setattr(shadow, "SPACES", 1)
    free = host.seat.level.below.pool.free
    one, other = Guest(host, 1, None, b"one1", b"one2"), Guest(host, 2, None, b"two1", b"two2")
    with one.running() as reads:
        assert reads(0) == b"one1"
        assert (other.reads(0, 1), other.reads(1, 1)) == (b"two1", b"two2")
        assert (reads(0), reads(1)) == (b"one1", b"one2")
        before = opened(host)
    assert other.reads(0) == b"two1"
    assert opened(host) == before
    assert Guest(host, 3, None, b"last").reads(0) == b"last"
    assert (one.reads(1), opened(host)) == (b"one2", before + 2)
    run(host.rig.end(0, "l1_crash"))
    assert host.seat.level.below.pool.free == free


def test_a_page_that_is_mapped_anew_is_forgotten_where_it_lay(host: Host) -> None:
    """What happens around its old frame does not concern it any more."""
    guest = Guest(host, 1, None, b"old.")
    assert guest.reads(0) == b"old."
    shadows: Any = host.seat.level.shadows
    space = shadows.known(guest.tables.root, 1, 0)
    old, fresh = space.pages[0][0], host.allocate(4 * MIB, 2 * MIB) // PAGE + 512
    shadows.map(space, 0, fresh, True)
    shadows.forget_around(old)
    assert space.pages[0] == (fresh, True)
    shadows.forget_around(fresh)
    assert space.pages == {}
    assert guest.reads(0) == b"old."
