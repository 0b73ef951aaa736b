"""What a request tells of its host's CPUs: what changed; nothing where the level below has the very same."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.guest import Program, Touch, Wait
from protocol.arch.s390.linked import (
    SIE,
    UVC,
    WIRE,
    CpuState,
    LinkedUltravisor,
    Server,
    SieAnswer,
    SieRequest,
    UvcRequest,
)
from protocol.arch.s390.structs import SieExit
from protocol.codec import Codec
from protocol.effects import Issue
from protocol.errors import RemoteProtocolError


class Below(SimpleNamespace):
    """As much of a level as a link looks at; it remembers who called."""

    size = 1 << 20

    def read(self, *_: Any) -> Any: ...

    write = peek = poke = read

    def call(self, cpu: Cpu, *_: int) -> Any:
        return cpu


def changed(link: LinkedUltravisor, cpu: Cpu) -> tuple[CpuState, ...]:
    told: tuple[CpuState, ...] = next(link.call(cpu, 0x1000)).arguments[0].changed  # type: ignore[attr-defined]
    return told


def test_all_is_told_once_and_then_what_changed() -> None:
    own = [Cpu(0), Cpu(1)]
    link = LinkedUltravisor(Below(cpus=[Cpu(0), Cpu(1)]), own)
    assert [state.number for state in changed(link, own[0])] == [0, 1]
    assert changed(link, own[0]) == ()
    own[1].cr[13] = 0x7000
    assert [(state.number, state.cr13) for state in changed(link, own[0])] == [(1, 0x7000)]
    assert changed(link, own[0]) == ()


def test_cpus_that_the_level_below_has_itself_are_not_told() -> None:
    own = [Cpu(0), Cpu(1)]
    below = Below(cpus=own)
    link = LinkedUltravisor(below, own)
    own[1].prefix = 0x4000
    effect = next(link.call(own[1], 0x1000))
    assert effect.arguments[0].changed == ()  # type: ignore[attr-defined]
    assert Server(below)(effect).prefix == 0x4000  # type: ignore[arg-type,attr-defined]


def uvc(changed: tuple[CpuState, ...] = (), cpu: int = 0, r2: int = 0x1000) -> Issue:
    return Issue(UVC, (UvcRequest(changed, cpu, r2, 0, 0, False),))


def test_what_a_host_tells_of_its_cpus_is_what_the_level_below_has() -> None:
    theirs = [Cpu(0), Cpu(1)]
    state = CpuState(1, False, True, True, 0x4000, 0x111, 0x777, 0xDDD, 2)
    assert Server(Below(cpus=theirs))(uvc((state,), cpu=1)) is theirs[1]  # type: ignore[arg-type,comparison-overlap]
    it = theirs[1]
    assert (it.running, it.problem_state, it.dat, it.prefix, it.origin) == (False, True, True, 0x4000, 2)
    assert (it.cr[1], it.cr[7], it.cr[13]) == (0x111, 0x777, 0xDDD)
    assert theirs[0].prefix == 0, "the other one is as it was"


def test_a_program_crosses_a_link_as_it_stands_and_goes_on() -> None:
    program = Program(
        deque([Touch(0x1000, True, b"x"), Wait()]),
        [{"cc": 0}],
        list(range(16)),
        0x2000,
        True,
        frozenset({"sclp"}),
        True,
    )
    codec = Codec(WIRE)
    crossed = codec.decode(codec.encode(program))
    assert crossed == program
    crossed.steps.popleft()
    crossed.finish({"hex": "00"})
    crossed.gprs[3] = 7
    program.become(crossed)
    assert (program.results, program.gprs[3]) == ([{"cc": 0}, {"hex": "00"}], 7)


STATE = CpuState(0, True, False, False, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("effect", "says"),
    [
        (Issue("reboot", (uvc().arguments[0],)), "no operation of this level: 'reboot'"),
        (Issue(UVC, ()), "no operation"),
        (Issue(SIE, (uvc().arguments[0],)), "no operation"),
        (uvc(cpu=1), "has 1 CPUs, no number 1"),
        (uvc(cpu=-1), "has 1 CPUs, no number -1"),
        (uvc((STATE._replace(number=7),)), "has 1 CPUs, no number 7"),
        (uvc((STATE._replace(prefix=1 << 64),)), "is not a number of 64 bits"),
        (uvc((STATE._replace(cr7=-1),)), "-1 is not a number of 64 bits"),
        (uvc(r2=1 << 64), "is not a number of 64 bits"),
        (Issue(SIE, (SieRequest((), 0, -1, Program(), False, 1),)), "-1 is not a number of 64 bits"),
    ],
)
def test_what_is_no_request_closes_the_link(effect: Issue, says: str) -> None:
    cpu = Cpu(0)
    with pytest.raises(RemoteProtocolError, match=says):
        Server(Below(cpus=[cpu]))(effect)  # type: ignore[arg-type]
    assert (cpu.prefix, cpu.cr[7]) == (0, 0), "and nothing of it was taken"


def test_a_program_that_was_run_elsewhere_stands_where_it_stood_there() -> None:
    own, theirs = Program(), Program()
    own.steps.extend([Touch(0), Wait()])
    theirs.steps.append(Wait())
    theirs.results.append({"hex": "00"})
    theirs.gprs[3] = 7
    cpu = Cpu(0)
    entry = LinkedUltravisor(Below(cpus=[cpu]), [cpu]).enter(cpu, 0x2000, own, False, 1)
    next(entry)
    left = SieExit(0x1C, 0, 0, (0,) * 16)
    with pytest.raises(StopIteration) as stop:
        entry.send(SieAnswer(left, theirs))
    assert stop.value.value is left
    assert list(own.steps) == [Wait()] and own.collect() == [{"hex": "00"}] and own.gprs[3] == 7
