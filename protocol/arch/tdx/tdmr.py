"""What TDH.SYS.CONFIG checks of the TDMRs that a host describes: sections 2.2 and 3.3, in the module's
order.

A failing check is a status whose low bytes say which TDMR, which PAMT level or reserved area, which other
TDMR.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from protocol.arch.tdx.platform import Platform, Tdmr
from protocol.arch.tdx.profiles import MAX_PA, MAX_RESERVED, PAMT_ENTRY, Range
from protocol.arch.tdx.status import Refused, Status
from protocol.arch.tdx.structs import TdmrInfo

KIB4 = 1 << 12
GIB = 1 << 30
PAMT_LEVELS = ((2, 1 << 30), (1, 1 << 21), (0, 1 << 12))  # level and page size, in the order of TDMR_INFO


def refused(status: Status, *details: int) -> Refused:
    """A status with up to four bytes of details, the first one lowest."""
    return Refused(status + sum(detail << (8 * place) for place, detail in enumerate(details)))


def check(platform: Platform, described: Sequence[TdmrInfo], info: TdmrInfo) -> Tdmr:
    """The next TDMR, `described` being those before it. Raises Refused."""
    i = len(described)
    if info.base + info.size >> 64:
        raise refused(Status.INVALID_TDMR, i)
    if described:
        before = described[-1]
        if info.base < before.base + before.size:  # out of order, or overlapping
            raise refused(Status.NON_ORDERED_TDMR, i)
    if info.base % GIB or info.size % GIB or not info.size:
        raise refused(Status.INVALID_TDMR, i)
    if not _plain(platform, info.base, info.size):
        raise refused(Status.INVALID_TDMR, i)
    _reserved(info, i)
    _pamt(platform, described, info, i)
    for free in available(info):
        if not in_cmr(platform, free):
            raise refused(Status.TDMR_OUTSIDE_CMRS, i)
    areas = tuple(Range(info.base + area.base, area.size) for area in info.reserved if area.size)
    return Tdmr(info.base, info.size, info.pamt, areas, info.base)


def _plain(platform: Platform, base: int, size: int) -> bool:
    """Both ends below the limit, without KeyID bits."""
    return all(
        not at >> MAX_PA and not platform.profile.hkid_of(at)
        for at in (base, base + size - 1 if size else base)
    )


def _reserved(info: TdmrInfo, i: int) -> None:
    """Reserved areas: ascending, apart, 4K-granular, inside the TDMR, null ones last."""
    end_before = 0
    for j, area in enumerate(info.reserved):
        if not area.size:
            if j + 1 < MAX_RESERVED and info.reserved[j + 1].size:
                raise refused(Status.NON_ORDERED_RESERVED_IN_TDMR, i, j)
            continue
        if area.base + area.size >> 64:
            raise refused(Status.INVALID_RESERVED_IN_TDMR, i, j)
        if area.base < end_before:
            raise refused(Status.NON_ORDERED_RESERVED_IN_TDMR, i, j)
        if area.base % KIB4 or area.size % KIB4:
            raise refused(Status.INVALID_RESERVED_IN_TDMR, i, j)
        if area.base + area.size > info.size:
            raise refused(Status.INVALID_RESERVED_IN_TDMR, i, j)
        end_before = area.base + area.size


def _pamt(platform: Platform, described: Sequence[TdmrInfo], info: TdmrInfo, i: int) -> None:
    for (level, page), area in zip(PAMT_LEVELS, info.pamt, strict=True):
        if not _pamt_form(platform, area, info.size // page * PAMT_ENTRY):
            raise refused(Status.INVALID_PAMT, i, level)
    areas = _by_level(info)
    for j, other in enumerate(described):
        for level, area in areas:
            if any(overlap(area, theirs) for theirs in other.pamt):
                raise refused(Status.PAMT_OVERLAP, i, level, j)
    for place, (level, area) in enumerate(areas):
        if any(overlap(area, mine) for _, mine in areas[place + 1 :]):
            raise refused(Status.PAMT_OVERLAP, i, level, i)
    for j, other in enumerate((*described, info)):
        for level, area in areas:
            if _in_available(other, area):
                raise refused(Status.PAMT_OVERLAP, i, level, j)
        for level, area in _by_level(other) if j < i else ():
            if _in_available(info, area):
                raise refused(Status.PAMT_OVERLAP, j, level, i)
    for (level, _), area in zip(PAMT_LEVELS, info.pamt, strict=True):
        if not in_cmr(platform, area):
            raise refused(Status.PAMT_OUTSIDE_CMRS, i, level)


def _by_level(info: TdmrInfo) -> list[tuple[int, Range]]:
    """PAMT areas from the smallest pages on."""
    return list(enumerate(reversed(info.pamt)))


def _pamt_form(platform: Platform, area: Range, need: int) -> bool:
    if area.base + area.size >> 64 or area.base % KIB4 or area.size % KIB4:
        return False
    return _plain(platform, area.base, area.size) and area.size >= need


def overlap(one: Range, other: Range) -> bool:
    return bool(one.size and other.size) and one.base < other.end and other.base < one.end


def _in_available(info: TdmrInfo, area: Range) -> bool:
    return any(overlap(area, free) for free in available(info))


def available(info: TdmrInfo) -> Iterator[Range]:
    """What of a TDMR is in no reserved area."""
    at = info.base
    for area in info.reserved:
        if area.size:
            start = info.base + area.base
            if start > at:
                yield Range(at, start - at)
            at = start + area.size
    if at < info.base + info.size:
        yield Range(at, info.base + info.size - at)


def in_cmr(platform: Platform, area: Range) -> bool:
    """Does it lie in convertible memory? Ranges that touch count as one."""
    base, end = 0, 0
    for cmr in platform.cmrs:
        base, end = (base, cmr.end) if cmr.base == end and cmr.size else (cmr.base, cmr.end)
        if base <= area.base and area.end <= end:
            return True
    return False
