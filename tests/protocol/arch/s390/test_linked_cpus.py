"""What a request tells of its host's CPUs: what changed; nothing where the level below has the very same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.linked import CpuState, LinkedUltravisor, Server


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
