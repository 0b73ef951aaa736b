"""KVM's pool of ASIDs:

used ones wait for a flush, and one flush recycles them all. Section 4.4 of the fact sheet.
"""

from __future__ import annotations

from protocol.arch.sev.host.driver import Driver, Failed
from protocol.arch.sev.status import Status
from protocol.effects import Step

_TAKEN = (Status.ASID_OWNED, Status.DFFLUSH_REQUIRED)


class AsidPool:
    """Free numbers of one range. A number that somebody else has bound is found out at ACTIVATE."""

    def __init__(self, first: int, last: int) -> None:
        self._free = list(range(first, last + 1))
        self._used: list[int] = []
        self._size = len(self._free)

    def take(self, driver: Driver) -> Step[int]:
        if not self._free and self._used:
            yield from driver.wbinvd_everywhere()
            yield from driver.command("SNP_DF_FLUSH" if driver.snp else "DF_FLUSH")
            self._free, self._used = sorted(self._used), []
        if not self._free:
            raise Failed("no ASID is free")
        return self._free.pop(0)

    def give(self, asid: int) -> None:
        """Its guest is gone: it is dirty until the next flush."""
        self._used.append(asid)

    def activate(self, driver: Driver, name: str, **fields: int) -> Step[int]:
        """Bind the first ASID that the firmware accepts."""
        for _ in range(2 * self._size):
            asid = yield from self.take(driver)
            status = yield from driver.command(name, (0, *_TAKEN), False, asid=asid, **fields)
            if status == Status.SUCCESS:
                return asid
            self.give(asid)
        raise Failed("no ASID is free")
