"""A guest host reboots or dies: everything of its VMs goes, with no help from it. Section 8.6."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.pef import front
from protocol.arch.pef.nesting.records import Record
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.pef.nesting import Nested


def everything(nested: Nested, cause: str) -> Step[None]:
    """End every VM of the guest host."""
    for record in list(nested.records.values()):
        yield from vm(nested, record, cause)
    for lpid in list(nested.ids):
        yield from nested.delete(nested.keeper, lpid, cause)
        nested.ledger.count(("teardown", "guest_id", cause))


def vm(nested: Nested, record: Record, cause: str) -> Step[None]:
    """Slots, the SVM, the partition table entry, the shadow LPID. Its end takes open reflections."""
    keeper = nested.keeper
    for slot in list(record.slots):
        yield from nested.ucall(keeper, front.UNREGISTER_MEM_SLOT, record.shadow, slot)
        nested.ledger.count(("teardown", "slot", cause))
    if record.svm:
        yield from nested.ucall(keeper, front.SVM_TERMINATE, record.shadow)
        nested.ledger.count(("teardown", "svm", cause))
    yield from nested.take_out(keeper, record)
    nested.ledger.count(("teardown", "lpid", cause))
    nested.forget(record)
