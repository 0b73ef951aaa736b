"""What a command that passed its checks does to the books: the same on the machine and in every emulation.

Sections 4.1 and 4.4 of the fact sheet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from protocol.arch.sev.books import LOW_DRAM
from protocol.arch.sev.checks.platform import ES_FLAG, tmr_size
from protocol.arch.sev.status import SevState, SnpState
from protocol.arch.sev.structs import NV_LEN, Buffer
from protocol.memory.store import PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.sev.front import Front


def initialise(fw: Front, b: Buffer, extended: bool) -> None:
    """INIT and INIT_EX. ASIDs stay as they are where SNP came first: it has made them dirty already."""
    platform = fw.platform
    if platform.snp is SnpState.UNINIT:
        platform.asids.all_dirty()
    platform.es = bool(b.flags & ES_FLAG)
    if platform.es:
        platform.tmr = range(b.tmr, b.tmr + tmr_size(fw))
    if extended:
        platform.nv = range(b.nv, b.nv + NV_LEN)
    platform.sev = SevState.INIT


def shut_down(fw: Front) -> None:
    platform = fw.platform
    for guest in platform.guests.values():
        if guest.asid:
            platform.asids.release(guest.asid)
    platform.guests.clear()
    platform.es = False
    platform.tmr = platform.nv = range(0)
    platform.sev = SevState.UNINIT


def power_up(fw: Front, place: tuple[int, int], fixed: Iterable[range]) -> None:
    """SNP_INIT: build the RMP unless the valid one is kept."""
    platform = fw.platform
    if place[1]:
        usable = np.ones(fw.size >> PAGE_SHIFT, bool)
        usable[LOW_DRAM >> PAGE_SHIFT : 0x100] = False
        for pages in fixed:
            usable[pages.start : pages.stop] = False
        fw.rmp.build(*place, usable)
        platform.contexts.clear()
    platform.rmp_valid = True
    platform.asids.all_dirty()
    platform.snp = SnpState.INIT


def power_down(fw: Front, wipe: bool) -> None:
    """SNP_SHUTDOWN: with the IOMMU's part of it, keys are wiped and the RMP has to be built anew."""
    platform = fw.platform
    if platform.snp is SnpState.UNINIT:
        return
    platform.snp = SnpState.UNINIT
    if wipe:
        platform.contexts.clear()
        platform.rmp_valid = False
