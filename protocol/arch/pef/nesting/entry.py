"""A vcpu of a guest host: H_ENTER_NESTED and UV_RETURN on their way down, exits on their way up. Section 8.2.

The guest host's registers are copied in and out at every entry and nothing of a vcpu is kept between. A
storage interrupt that the guest host's own table resolves is answered here: by the shadow table, or, where
the level below moved the frame of a shared page, by a UV_PAGE_IN of its own. Everything else belongs to the
guest host.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from protocol.arch.pef import front, hcalls
from protocol.arch.pef.cpu import (
    DATA_STORAGE,
    DECREMENTER,
    HCALL,
    INSTRUCTION_STORAGE,
    MACHINE_CHECK,
    Cpu,
    Entry,
    Exit,
    Stopped,
)
from protocol.arch.pef.guest import Program
from protocol.arch.pef.machine.upcall import BAD_COOKIE, OS_TERM_RETURNED
from protocol.arch.pef.machine.vcpu import VECTOR_ALIGN, VECTORS_END
from protocol.arch.pef.nesting.records import Record, Reflection
from protocol.arch.pef.radix import PAGE_ADDRESS, root_of, walk
from protocol.arch.pef.status import SUCCESS, signed
from protocol.arch.pef.tables import ORDER, PAGE_SHIFT
from protocol.effects import Step
from protocol.memory.pool import OutOfFrames

if TYPE_CHECKING:
    from protocol.arch.pef.nesting import Nested

STATE_BYTES = 248  # hv_guest_state, version 2
REGISTER_BYTES = 352  # the register block

ELEMENT_BYTES, BUFFER_HEAD = 12, 4  # of a guest state buffer: id, size and 8 bytes; a count before them
ELEMENTS = 12  # R3 to R12, NIA and MSR: what an exit or its answer needs, a guess

Left = Exit | Stopped


def enter(nested: Nested, cpu: Cpu, entry: Entry) -> Step[Left]:
    """H_ENTER_NESTED: the vcpu runs under its shadow LPID."""
    _copied(nested)
    cpu.lpidr, cpu.pidr = entry.lpid, entry.pidr
    if not nested.may_use(entry.lpid):  # nothing runs under an id that was not given
        return _not_run(entry)
    try:
        record = nested.record(entry.lpid)
    except OutOfFrames:
        return _not_run(entry)
    return (yield from nested.under_way(cpu, record, _entered(nested, cpu, record, entry)))


def _entered(nested: Nested, cpu: Cpu, record: Record, entry: Entry) -> Step[Left]:
    yield from nested.write_first(cpu, record)
    below, life = nested.cpu_below(cpu), record.lives
    left = yield from nested.below.memory.enter(below, replace(entry, lpid=record.shadow))
    return (yield from _up(nested, cpu, below, record, life, left, entry.stay))


def _not_run(entry: Entry) -> Exit:
    """A time slice is over, and nothing was done in it: a host tries again, and gives up one day."""
    return Exit(
        DECREMENTER,
        entry.lpid,
        entry.vcpu,
        list(entry.gpr),
        hsrr0=entry.nip,
        hsrr1=entry.msr,
        srr0=entry.nip,
        srr1=entry.msr,
        program=entry.program,
    )


def uv_return(
    nested: Nested, cpu: Cpu, gpr: list[int], hsrr0: int, stay: bool, program: Program | None
) -> Step[Left]:
    """What would end the machine ends this guest host alone, and never reaches the level below."""
    cookie = gpr[31]
    record = nested.open.get(cookie)
    if record is None or record.ending:
        return nested.stop(BAD_COOKIE)
    reflection = record.open.pop(cookie)
    del nested.open[cookie]
    nested.book.drop("vcpu_map")
    changed = cpu.lpidr != record.lpid or cpu.pidr != reflection.pidr
    wrong = cpu.tm == "none" and hsrr0 != cookie and (hsrr0 >= VECTORS_END or hsrr0 % VECTOR_ALIGN)
    if reflection.last and not changed and not wrong:
        return nested.stop(OS_TERM_RETURNED)
    if reflection.hypercall == hcalls.SVM_INIT_DONE and not changed and signed(gpr[0]) == SUCCESS:
        record.secure = True
    pidr = reflection.pidr ^ changed  # handed on as what it is: the ultravisor kills the SVM
    step = _returned(nested, cpu, record, gpr, pidr, hsrr0, stay, program)
    return (yield from nested.under_way(cpu, record, step))


def _returned(
    nested: Nested,
    cpu: Cpu,
    record: Record,
    gpr: list[int],
    pidr: int,
    hsrr0: int,
    stay: bool,
    program: Program | None,
) -> Step[Left]:
    _copied(nested)
    below, life = nested.cpu_below(cpu), record.lives
    below.lpidr, below.pidr, below.tm = record.shadow, pidr, cpu.tm
    left = yield from _return_below(nested, below, record, gpr, hsrr0, stay, program)
    below.tm = "none"
    return (yield from _up(nested, cpu, below, record, life, left, stay))


def as_vcpu(nested: Nested, cpu: Cpu, gpr: list[int], program: Program | None) -> Step[list[int] | Left]:
    """A guest's ultracall by a CPU that is no vcpu: the level below lets it make it where it says it is."""
    record = None
    if cpu.lpidr and nested.may_use(cpu.lpidr):
        with suppress(OutOfFrames):  # then it runs nowhere
            record = nested.record(cpu.lpidr)
    return (yield from nested.under_way(cpu, record, _called(nested, cpu, record, gpr, program)))


def _called(
    nested: Nested, cpu: Cpu, record: Record | None, gpr: list[int], program: Program | None
) -> Step[list[int] | Left]:
    if record is not None:
        yield from nested.write_first(cpu, record)
    below, life = nested.cpu_below(cpu), 0 if record is None else record.lives
    below.hv, below.lpidr, below.pidr = cpu.hv, 0 if record is None else record.shadow, cpu.pidr
    out: list[int] | Left = yield from nested.below.memory.call(below, gpr, program=program)
    below.hv = True
    if isinstance(out, list) or record is None:
        return out
    return (yield from _up(nested, cpu, below, record, life, out, stay=False))


def _copied(nested: Nested) -> None:
    """Count what crosses for one entry or one exit: all of it (v1), or what is needed (v2)."""
    if nested.api == "v1":
        nested.ledger.count(("copied_bytes", "hv_guest_state"), STATE_BYTES + REGISTER_BYTES)
    else:
        nested.ledger.count(("copied_bytes", "guest_state_buffer"), BUFFER_HEAD + ELEMENTS * ELEMENT_BYTES)


def _return_below(
    nested: Nested,
    below: Cpu,
    record: Record,
    gpr: list[int],
    hsrr0: int,
    stay: bool,
    program: Program | None,
) -> Step[Left]:
    """The SVM does not end while its return is on its way: the ultravisor would panic."""
    record.returning += not stay  # one that stays is seen to have come in
    try:
        out = yield from nested.below.memory.call(below, gpr, hsrr0, stay, program)
    finally:
        record.returning -= not stay
    assert not isinstance(out, list), "UV_RETURN came back"
    left: Left = out
    return left


def _up(
    nested: Nested, cpu: Cpu, below: Cpu, record: Record, life: int, left: Left, stay: bool
) -> Step[Left]:
    """Answer what is this level's to answer, hand up the rest. `life`: the record's when the vcpu went in."""
    while isinstance(left, Exit):
        if left.secure and record.lives != life:
            return (yield from _too_late(nested, cpu, record, left))
        if left.secure and not record.svm:
            record.svm = True
            nested.book.add("te_object")
        try:
            resolved = yield from _resolved(nested, cpu, record, left)
        except OutOfFrames:  # for the shadow table: the guest host is told of the end of a time slice
            left = replace(left, trap=DECREMENTER, hdar=0, hdsisr=0, asdr=0)
            resolved = False
        if left.secure and record.lives != life:
            continue
        if not resolved or record.ending:
            return _handed_up(nested, cpu, record, left)
        below.lpidr, below.pidr = record.shadow, 0
        if left.secure:
            gpr = list(left.gpr)
            gpr[0], gpr[2], gpr[3] = SUCCESS, left.srr1, front.RETURN
            left = yield from _return_below(nested, below, record, gpr, left.hsrr0, stay, left.program)
        else:
            assert left.program is not None
            entry = Entry(record.shadow, left.vcpu, left.gpr, left.hsrr0, left.srr1, left.program, stay)
            left = yield from nested.below.memory.enter(below, entry)
    return left  # pragma: no cover - what would stop the level below stops the guest host first


def _too_late(nested: Nested, cpu: Cpu, record: Record, left: Exit) -> Step[Exit]:
    """An exit of an SVM that was ended meanwhile: it is not noted, and there is no way back into it.

    The same entry may have begun another one behind that end, of which nothing is noted: that ends, too.
    """
    if not record.svm:
        yield from nested.end_below(cpu, record)
    return replace(left, lpid=record.lpid)


def _resolved(nested: Nested, cpu: Cpu, record: Record, left: Exit) -> Step[bool]:
    """Is it a storage interrupt of this level's own making?"""
    if left.trap not in (DATA_STORAGE, INSTRUCTION_STORAGE):
        return False
    gfn = left.asdr >> PAGE_SHIFT
    if left.secure:
        return (yield from _bound_again(nested, cpu, record, gfn))
    page = _page_of(nested, record, gfn)
    if page is None or (page + 1) << PAGE_SHIFT > nested.size:
        return False
    if record.mapped.get(gfn) == page:
        return False  # it is there, and did not help
    nested.ledger.count(("table_ops", "map"))
    nested.ledger.count(("translations", "page"))
    nested.map(record, gfn, page)
    return True


def _bound_again(nested: Nested, cpu: Cpu, record: Record, gfn: int) -> Step[bool]:
    """A shared page whose frame moved below: the guest host's own view of it is valid."""
    if gfn not in record.lost:
        return False
    record.lost.discard(gfn)
    page = record.bound[gfn]
    real = nested.address_below(page << PAGE_SHIFT)
    nested.pin(page)
    try:
        status = yield from nested.ucall(cpu, front.PAGE_IN, record.shadow, real, gfn << PAGE_SHIFT, 0, ORDER)
    finally:
        nested.unpin(page)
    return status == SUCCESS


def _page_of(nested: Nested, record: Record, gfn: int) -> int | None:
    """The guest host's page behind a GFN, by its own table."""
    leaf = walk(nested.peek, root_of(record.entry[0]), gfn << PAGE_SHIFT)
    return (leaf & PAGE_ADDRESS) >> PAGE_SHIFT if leaf else None


def _handed_up(nested: Nested, cpu: Cpu, record: Record, left: Exit) -> Exit:
    """An exit that belongs to the guest host, in its own numbers."""
    nested.ledger.count(("reflections", str(nested.below.level), str(nested.level)))
    _copied(nested)
    cpu.lpidr, cpu.pidr, cpu.hv, cpu.pr = record.lpid, 0, True, False
    up = replace(left, lpid=record.lpid)
    if left.secure:
        _note(nested, record, left)
    elif left.trap in (DATA_STORAGE, INSTRUCTION_STORAGE):
        page = _page_of(nested, record, left.asdr >> PAGE_SHIFT)
        if page is not None and (page + 1) << PAGE_SHIFT > nested.size:  # its table leads out of its memory
            up = replace(up, trap=MACHINE_CHECK, hdar=0, hdsisr=0, asdr=0, hsrr1=left.srr1)
    return up


def _note(nested: Nested, record: Record, left: Exit) -> None:
    """Remember a reflection, and what it says about the pages of the VM."""
    reflection = Reflection(left.vcpu, 0, last=left.last)
    record.open[left.gpr[31]] = reflection
    nested.open[left.gpr[31]] = record
    nested.book.add("vcpu_map")
    if left.trap != HCALL:
        return
    reflection.hypercall = left.gpr[3]
    if left.gpr[3] == hcalls.SVM_PAGE_IN:
        gfn = left.gpr[4] >> PAGE_SHIFT
        if left.gpr[5] & hcalls.SHARED:
            record.shared.add(gfn)
        else:
            record.shared.discard(gfn)
            nested.unbind(record, gfn)
    name = hcalls.NAMES.get(left.gpr[3])
    if name is not None and name.startswith("H_SVM_"):
        spec = nested.calls[left.gpr[3]]
        nested.ledger.count(("te_calls", spec.name, spec.category, spec.treatment, str(nested.level)))
