"""ASIDs as KVM keeps them:

used ones wait for a flush, and one flush recycles them all. Section 4.4 of the fact sheet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from protocol.arch.sev.host.driver import Driver, Failed
from protocol.arch.sev.host.turns import Turns
from protocol.arch.sev.status import Status
from protocol.effects import Step

T = TypeVar("T")
_TAKEN = (Status.ASID_OWNED, Status.DFFLUSH_REQUIRED)


@dataclass(slots=True)
class FlushLock:
    """Linux's lock around ASIDs: who leaves one is a reader, who flushes a writer.

    There is one for all that a kernel does, for guests of its own and for guest hosts.
    """

    contention: MutableMapping[str, int] = field(default_factory=Counter)
    flushing: bool = False
    leaving: int = 0
    mailbox: Turns = field(init=False)  # beside it: of the same kernel, for the same users

    def __post_init__(self) -> None:
        self.mailbox = Turns(self.contention)

    def leave(self, level: Any, step: Step[T]) -> Step[T]:
        """`step` leaves an ASID."""
        while self.flushing:
            yield from self._wait(level)
        self.leaving += 1
        try:
            return (yield from step)
        finally:
            self.leaving -= 1

    def flush(self, level: Any, driver: Driver) -> Step[None]:
        """WBINVD on every CPU of the level, and the flush.

        Nobody may leave an ASID between the two: that would undo them.
        """
        while self.flushing or self.leaving:
            yield from self._wait(level)
        self.flushing = True
        try:
            yield from driver.wbinvd_everywhere()  # of the whole level: the ASID may be dirty anywhere
            yield from driver.command("SNP_DF_FLUSH" if driver.snp else "DF_FLUSH")
        finally:
            self.flushing = False

    def held(self) -> Iterator[str]:
        """What of it is taken now, in words."""
        yield from self.mailbox.held()
        if self.flushing:
            yield "ASIDs, to flush them"
        if self.leaving:
            yield f"ASIDs, {self.leaving} leave one"

    def _wait(self, level: Any) -> Step[None]:
        self.contention["absorbed_busy"] = self.contention.get("absorbed_busy", 0) + 1
        yield from level.poll()


class AsidPool:
    """Free numbers of one range. A number that somebody else has bound is found out at ACTIVATE."""

    def __init__(self, asids: range, lock: FlushLock | None = None) -> None:
        self.lock = lock or FlushLock()
        self._free = list(asids)
        self._used: list[int] = []
        self._size = len(self._free)

    def take(self, driver: Driver) -> Step[int]:
        if not self._free and self._used:
            yield from self.lock.flush(driver.hands.seat.level, driver)
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
