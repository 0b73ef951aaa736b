"""Issuing a call: how long a host repeats it, and what it makes of a level that refuses its own storage."""

from __future__ import annotations

import pytest

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.issue import BUSY_LIMIT, Broken, Issuer
from protocol.arch.s390.structs import BUSY, NOT_NOW, OK, Outcome
from protocol.effects import Fault, Step, run

SCRATCH = 0x1000
REFUSED = Fault(0x3D, "secure storage access", SCRATCH)


class Level:
    """A level that answers `cc` for ever, with a page of storage that may be refused."""

    def __init__(self, cc: int | Fault, loads: bool = True, stores: bool = True) -> None:
        self.cc, self.loads, self.stores = cc, loads, stores
        self.page = bytearray(0x1000)
        self.calls = 0

    def call(self, cpu: Cpu, r2: int, m3: int = 0, m4: int = 0, park: bool = False) -> Step[int | Fault]:
        yield from ()
        self.calls += 1
        self.page[4:8] = b"\0\1\0\0"
        return self.cc

    def read(self, address: int, length: int) -> bytes | Fault:
        return bytes(self.page[address - SCRATCH :][:length]) if self.loads else REFUSED

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        if not self.stores:
            return REFUSED
        self.page[address - SCRATCH :][: len(data)] = data
        return None


def issued(level: Level) -> Outcome:
    return run(Issuer(level, Cpu(0), SCRATCH).uvc(bytes(8)))


def test_a_call_that_is_always_busy_is_given_up() -> None:
    level = Level(BUSY)
    assert issued(level) == NOT_NOW
    assert level.calls == BUSY_LIMIT


def test_a_call_that_is_done_is_issued_once() -> None:
    level = Level(OK)
    assert issued(level) == Outcome(1, 0) and level.calls == 1


def test_a_call_that_is_an_exception_is_not_repeated() -> None:
    level = Level(REFUSED)
    with pytest.raises(Broken) as broken:
        issued(level)
    assert broken.value.args == (REFUSED,)
    assert level.calls == 1


@pytest.mark.parametrize("level", [Level(OK, stores=False), Level(OK, loads=False)])
def test_a_host_whose_own_page_is_refused_is_not_set_up(level: Level) -> None:
    with pytest.raises(Broken) as broken:
        issued(level)
    assert broken.value.args == (REFUSED,)
    assert level.calls == (1 if level.stores else 0), "a block that was not stored is not issued"
