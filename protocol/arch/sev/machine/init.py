"""Initialisation and shutdown of both platforms, and flushing:

sections 3.3, 3.4, 4.1, 4.4 of the fact sheet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.sev.checks import platform as checks
from protocol.arch.sev.effects import initialise, power_down, power_up, shut_down
from protocol.arch.sev.machine import identity
from protocol.arch.sev.reply import DONE, Reply
from protocol.arch.sev.status import SnpState, Status
from protocol.arch.sev.structs import Buffer
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.sev.front import Front
    from protocol.arch.sev.machine import Machine


def init(fw: Front, b: Buffer) -> Reply:
    if status := checks.init(fw, b, extended=False):
        return Reply(status)
    initialise(fw, b, extended=False)
    fw.marks_changed()
    return DONE


def init_ex(fw: Machine, b: Buffer) -> Reply:
    """A damaged NV area is erased: the next try starts with a new identity."""
    if status := checks.init(fw, b, extended=True):
        return Reply(status)
    if not identity.load(fw, b.nv):
        return Reply(Status.SECURE_DATA_INVALID)
    initialise(fw, b, extended=True)
    fw.marks_changed()
    identity.save(fw)
    return DONE


def shutdown(fw: Front, b: Buffer) -> Step[Reply]:
    """In any state, even with guests that run: their handles die, their keys go."""
    yield from fw.end_guests()
    shut_down(fw)
    fw.marks_changed()
    return DONE


def df_flush(fw: Front, b: Buffer) -> Reply:
    return Reply(fw.platform.asids.flush())


def snp_init(fw: Front, b: Buffer) -> Step[Reply]:
    return (yield from _snp_init(fw, checks.INIT_RMP, 0, strays=False))


def snp_init_ex(fw: Front, b: Buffer) -> Step[Reply]:
    return (yield from _snp_init(fw, b.flags, b.list, b.strays))


def _snp_init(fw: Front, flags: int, listed: int, strays: bool) -> Step[Reply]:
    if status := checks.snp_init(fw, flags, strays):
        return Reply(status)
    fixed = checks.ranges(fw, listed) if flags & checks.LIST_EN else []
    if isinstance(fixed, Status):
        return Reply(fixed)
    place = checks.rmp_place(fw) if flags & checks.INIT_RMP else (0, 0)
    if isinstance(place, Status):
        return Reply(place)
    yield from fw.hold()
    if place[1]:
        yield from fw.before_rebuild()
    power_up(fw, place, fixed)
    fw.marks_changed()
    return DONE


def snp_shutdown(fw: Front, b: Buffer) -> Step[Reply]:
    if status := checks.snp_shutdown(fw, b, extended=False):
        return Reply(status)
    yield from fw.hold()
    power_down(fw, wipe=False)
    return DONE


def snp_shutdown_ex(fw: Front, b: Buffer) -> Step[Reply]:
    if status := checks.snp_shutdown(fw, b, extended=True):
        return Reply(status)
    yield from fw.hold()
    wipe = bool(b.flags & checks.IOMMU_SHUTDOWN) and fw.platform.snp is SnpState.INIT
    if wipe:
        yield from fw.end_contexts()
    power_down(fw, wipe)
    return DONE


def snp_df_flush(fw: Front, b: Buffer) -> Step[Reply]:
    yield from fw.hold()
    return Reply(fw.platform.asids.flush())
