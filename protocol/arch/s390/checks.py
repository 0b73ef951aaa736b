"""The checks of single calls, in their order, for the machine and for every emulation of it alike.

Follows section 3.5 of the fact sheet; where it gives no order, ascending return codes (3.4, rule 8, a guess).
A `View` is what a level knows about one host: its memory, its CPUs, its entities, its limits. The checks
change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np

from protocol.arch.s390 import dat
from protocol.arch.s390.cpu import LOWCORE, Cpu
from protocol.arch.s390.profiles import Profile
from protocol.arch.s390.structs import (
    INVALID_ADDRESS,
    NO_TRANSLATION,
    REAL_SPACE,
    CreateConfig,
    CreateCpu,
)
from protocol.effects import Fault
from protocol.memory.store import PAGE, PAGE_SHIFT

MIB = 1 << 20
TWO_GIB = 1 << 31
NO_MORE_CONFIGS = 0x0103  # guess: the sheet names no code for a full table
ASCE_IN_USE = 0x0106  # guess, as the sheet proposes
VARIABLE_NOT_USABLE = 0x010A  # guess


class View(Protocol):
    """One host as the checks look at it."""

    profile: Profile
    size: int
    cpus: list[Cpu]
    ready: bool
    asking: tuple[int, ...]  # frames of the control block of the call that is checked

    def usable(self, first: int, count: int) -> bool:
        """Are these frames plain memory of the host, neither donated nor part of a secure guest?"""
        ...

    def accessible(self, address: int) -> bool:
        """Could a CPU of the host store to this byte?"""
        ...

    def home(self, cpu: Cpu, address: int, write: bool) -> int | Fault: ...

    def configs_in_use(self) -> int: ...

    def asce_in_use(self, asce: int) -> bool: ...

    def numbers_in_use(self, config: int) -> Iterable[int]:
        """CPU numbers defined in a known configuration."""
        ...


Frames = np.ndarray | range  # a run where they lie so: it takes no memory


class InitPlan(NamedTuple):
    frames: range


class ConfigPlan(NamedTuple):
    fields: CreateConfig
    base: range  # frames
    variable: Frames  # in order of their virtual addresses


class CpuPlan(NamedTuple):
    fields: CreateCpu
    storage: range  # frames


def init(view: View, origin: int, length: int) -> int | InitPlan:
    """Initialize UV: return code of the first failing check, or what to donate. Section 3.5 and 7.3."""
    origin &= ~(MIB - 1)
    length &= ~(PAGE - 1)
    if view.ready:
        return 0x0101
    if sum(cpu.running for cpu in view.cpus) > 1:
        return 0x0102
    if length != view.profile.base_len:
        return 0x0103
    if origin >= view.size:
        return 0x0104
    if origin + length > view.size:
        return 0x0105
    if origin < TWO_GIB:
        return 0x0108
    frames = range(origin >> PAGE_SHIFT, (origin + length) >> PAGE_SHIFT)
    if not _usable(view, frames):
        return 0x0104  # guess: "invalid" origin; only left-over secure pages lead here
    return InitPlan(frames)


def create_config(view: View, cpu: Cpu, block: bytes) -> int | ConfigPlan:
    """Create Secure Configuration."""
    fields = CreateConfig.unpack(block)
    profile = view.profile
    if cpu.home_is_real:
        return REAL_SPACE
    variable = _variable(view, cpu, fields.variable, fields.length)
    if isinstance(variable, int) and variable < 0x0100:
        return variable
    if fields.mso > profile.max_storage:
        return 0x0101
    if fields.mso + fields.length > profile.max_storage:
        return 0x0102
    if view.configs_in_use() >= profile.max_configs:
        return NO_MORE_CONFIGS
    if not fields.asce & dat.PRIVATE or fields.asce & dat.REAL_SPACE:
        return 0x0105
    if view.asce_in_use(fields.asce):
        return ASCE_IN_USE
    base = _run(fields.base, profile.conf_base_len)
    if not _usable(view, base):
        return 0x0108
    if _has_lowcore(view, base):
        return 0x0109
    if isinstance(variable, int) or np.isin(variable, np.arange(base.start, base.stop)).any():
        return VARIABLE_NOT_USABLE
    if not fields.sca:
        return 0x010C
    if not view.accessible(fields.sca):
        return 0x010D
    return ConfigPlan(fields, base, variable)


def create_cpu(view: View, block: bytes) -> int | CpuPlan:
    """Create Secure CPU; the configuration's handle was checked before."""
    fields = CreateCpu.unpack(block)
    if fields.number > view.profile.max_cpu_id:
        return 0x0103
    if fields.number in view.numbers_in_use(fields.config):
        return 0x0104
    storage = _run(fields.storage, view.profile.cpu_len)
    if not _usable(view, storage):
        return 0x0105
    if _has_lowcore(view, storage):
        return 0x0106
    if not view.accessible(fields.state):
        return 0x0107
    return CpuPlan(fields, storage)


def _usable(view: View, frames: range) -> bool:
    """Plain memory, and none of it holds the call's own block: its answer could not be stored (guess)."""
    return view.usable(frames.start, len(frames)) and not any(frame in frames for frame in view.asking)


def _run(address: int, length: int) -> range:
    first = address >> PAGE_SHIFT
    return range(first, first + (length >> PAGE_SHIFT))


def _variable(view: View, cpu: Cpu, address: int, guest_length: int) -> int | Frames:
    """Frames behind a virtually contiguous area. A translation failure has the generic codes below 0x0100."""
    length = view.profile.variable_len(guest_length)
    impossible = guest_length > view.profile.max_storage or length > view.size
    if address + length > 1 << 64:
        return INVALID_ADDRESS
    frames = []
    first = address & ~(PAGE - 1)
    for at in range(first, first + (PAGE if impossible else length), PAGE):
        absolute = view.home(cpu, at, True)
        if isinstance(absolute, Fault):
            return NO_TRANSLATION
        if absolute >= view.size:
            return INVALID_ADDRESS
        frames.append(absolute >> PAGE_SHIFT)
    usable = all(_usable(view, range(frame, frame + 1)) for frame in frames)
    if impossible or len(set(frames)) != len(frames) or not usable:
        return VARIABLE_NOT_USABLE
    run = range(frames[0], frames[0] + len(frames)) if frames else range(0)
    return run if frames == list(run) else np.array(frames, np.int64)


def _has_lowcore(view: View, frames: range) -> bool:
    return any(
        cpu.prefix >> PAGE_SHIFT < frames.stop and frames.start < (cpu.prefix + LOWCORE) >> PAGE_SHIFT
        for cpu in view.cpus
    )
