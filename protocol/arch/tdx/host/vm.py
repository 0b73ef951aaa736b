"""A TD of a plan as KVM and QEMU have it, and its run loop: EPT violations and what it asks by TDVMCALL.

Sections 6.5 and 6.6. All of a guest's memory is private from the start; the guest accepts pages before it
uses them. A private page and a shared one are different frames, and a change of a page drops one of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from protocol.arch.tdx.cpu import Registers, registers
from protocol.arch.tdx.guest import GuestStep, Program
from protocol.arch.tdx.host.shared import SharedEpt
from protocol.arch.tdx.status import R8, R10, R11, R12, R13, RAX, RCX, Status, name_of
from protocol.effects import Fault, Step
from protocol.errors import OperationFailed
from protocol.memory.store import PAGE, PAGE_SHIFT

if TYPE_CHECKING:
    from protocol.arch.tdx.host.system import Host

INTERRUPT, EPT_VIOLATION, TDCALL = 1, 48, 77
SHARED_BIT = 1 << 47
MAP_GPA = 0x10001
GET_QUOTE = 0x10002  # unconfirmed, as the fact sheet has it
SUCCESS = 0  # of a TDVMCALL


class GuestFailed(OperationFailed):
    """The guest cannot go on. It can still be destroyed."""


@dataclass(slots=True)
class Vcpu:
    """`pages` are those of its TDVPS, the TDVPR first."""

    pages: list[int]
    lp: int

    @property
    def handle(self) -> int:
        return self.pages[0]


@dataclass(slots=True)
class Vm:
    """`private` and `shared`: guest page -> address of what is under it; `open` are pages that are shared."""

    number: int
    pages: int
    hkid: int
    tdr: int
    ept: SharedEpt
    descriptors: int  # page with the posted-interrupt descriptors
    tdcs: list[int] = field(default_factory=list)
    vcpus: list[Vcpu] = field(default_factory=list)
    tables: dict[tuple[int, int], int] = field(default_factory=dict)  # (level, number) -> page of the SEPT
    private: dict[int, int] = field(default_factory=dict)
    shared: dict[int, int] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    accepted: set[int] = field(default_factory=set)  # what the guest knows
    may_run: bool = False  # its measurement is final


def run(
    host: Host,
    vm: Vm,
    vcpu: int,
    steps: Iterable[GuestStep],
    reasons: Iterable[str] = (),
    program: Program | None = None,
) -> Step[None]:
    """Let a VCPU do `steps`, each exit answered. `reasons` are the exits that the VMM answers.

    A guest that has nothing more to do leaves with an interrupt. With `program` it goes on with that one.
    Raises GuestFailed.
    """
    program = program or Program(vmm_reasons=frozenset(reasons))
    program.steps.extend(steps)
    host.heard.clear()
    r = registers(rcx=vm.vcpus[vcpu].handle)
    while program.steps:
        r = yield from turn(host, vm, vcpu, program, r)


def turn(host: Host, vm: Vm, vcpu: int, program: Program, r: Registers) -> Step[Registers]:
    """Enter once and answer the exit; the registers for the next entry. Raises GuestFailed."""
    place = vm.vcpus[vcpu]
    out = yield from host.module.enter(place.lp, r, program)
    if isinstance(out, Fault):
        raise GuestFailed(f"VP.ENTER of guest {vm.number} raises {out.name}")
    for result in program.collect():
        _look(vm, result)
        if "hex" in result:
            host.heard.append(bytes.fromhex(result["hex"]))
    following = registers(rcx=place.handle)
    if out[RAX] == EPT_VIOLATION:
        yield from _violation(host, vm, out)
    elif out[RAX] == TDCALL:
        yield from _answer(host, vm, out)
        following[R10] = SUCCESS
    elif out[RAX] != INTERRUPT:
        raise GuestFailed(f"guest {vm.number} leaves with {name_of(out[RAX])} ({out[RAX]:#x})")
    return following


def _look(vm: Vm, result: dict[str, Any]) -> None:
    if "fault" in result or int(result.get("rax", "0x0"), 16):
        raise GuestFailed(f"a step of guest {vm.number} ends with {result}")


# -- the first touch of a page -----------------------------------------------------------------------------


def _violation(host: Host, vm: Vm, out: Registers) -> Step[None]:
    """Private or shared, as the guest meant it and as the VMM was told."""
    page, private = (out[R8] & ~SHARED_BIT) >> PAGE_SHIFT, not out[R8] & SHARED_BIT
    if page >= vm.pages or private is (page in vm.open) or page in (vm.private if private else vm.shared):
        raise GuestFailed(f"guest {vm.number} faults at {out[R8]:#x}")
    if private:
        yield from add(host, vm, page)
        return
    under = vm.shared[page] = host.page()
    vm.ept.put(out[R8] & ~(PAGE - 1), under)
    host.keep("native_page", 1)


def add(host: Host, vm: Vm, page: int) -> Step[None]:
    """Put a page under a private address; the guest accepts it when it comes to it."""
    under = host.page()
    yield from tables(host, vm, page)
    yield from host.module.call("mem_page_aug", vm.vcpus[0].lp, rcx=page << PAGE_SHIFT, rdx=vm.tdr, r8=under)
    vm.private[page] = under
    host.keep("native_page", 1)


def missing(vm: Vm, page: int) -> list[tuple[int, int]]:
    """The tables of the Secure EPT that lead to a page and are not there, from the top."""
    keys = ((level, page >> 9 * level) for level in (3, 2, 1))
    return [key for key in keys if key not in vm.tables]


def tables(host: Host, vm: Vm, page: int) -> Step[None]:
    """Add the tables that lead to a page."""
    for key in missing(vm, page):
        level, table = key[0], host.page()
        where = key[1] << 12 + 9 * level | level
        yield from host.module.call("mem_sept_add", rcx=where, rdx=vm.tdr, r8=table)
        vm.tables[key] = table


# -- TDVMCALL ----------------------------------------------------------------------------------------------


def _answer(host: Host, vm: Vm, out: Registers) -> Step[None]:
    """Of all sub-functions only GetQuote and MapGPA do more than to be answered."""
    if out[R11] == GET_QUOTE and not out[R10]:
        host.give_quote(vm, out[R12], out[R13])
    if out[R11] != MAP_GPA:
        return
    first, count = (out[R12] & ~SHARED_BIT) >> PAGE_SHIFT, out[R13] >> PAGE_SHIFT
    if out[R10] or first + count > vm.pages:
        raise GuestFailed(f"guest {vm.number} asks to map {out[R12]:#x}, {out[R13]:#x} bytes")
    for page in range(first, first + count):
        yield from _change(host, vm, page, bool(out[R12] & SHARED_BIT))


def _change(host: Host, vm: Vm, page: int, to_shared: bool) -> Step[None]:
    """A page that is what was asked for stays as it is."""
    if to_shared is (page in vm.open):
        return
    (vm.open.add if to_shared else vm.open.discard)(page)
    under = (vm.private if to_shared else vm.shared).pop(page, None)
    if under is None:
        return
    if to_shared:
        yield from _remove(host, vm, page, under)
    else:
        vm.ept.drop(page << PAGE_SHIFT | SHARED_BIT)
    host.give([under])
    host.keep("native_page", -1)


def _remove(host: Host, vm: Vm, page: int, under: int) -> Step[None]:
    """Section 6.6. VCPUs are kicked between TRACK and REMOVE: here none of them is inside."""
    where = page << PAGE_SHIFT
    yield from host.module.call("mem_range_block", rcx=where, rdx=vm.tdr)
    yield from _remove_blocked(host, vm, page, under)


def _remove_blocked(host: Host, vm: Vm, page: int, under: int) -> Step[None]:
    where = page << PAGE_SHIFT
    yield from host.module.call("mem_track", rcx=vm.tdr)
    out = yield from host.module.call("mem_page_remove", rcx=where, rdx=vm.tdr)
    if out[RCX] != under:
        raise GuestFailed(f"PAGE.REMOVE of guest {vm.number} gives {out[RCX]:#x} and not {under:#x}")
    yield from host.flush(under, vm.hkid)
    host.level.clear([under >> PAGE_SHIFT])


def lose_memory(host: Host, vm: Vm) -> Step[None]:
    """guest_memfd closes while the KeyID is assigned: every page the slow way of section 6.9.

    A TD that is fatal, or never ran, has its pages taken later, when its KeyID is gone.
    """
    for page, under in list(vm.private.items()) if vm.may_run else ():
        out = yield from host.module.call(
            "mem_range_block", allowed=(0, Status.TD_FATAL), rcx=page << PAGE_SHIFT, rdx=vm.tdr
        )
        if out[RAX]:
            break
        yield from _remove_blocked(host, vm, page, under)
        del vm.private[page]
        host.give([under])
        host.keep("native_page", -1)


__all__ = ["GuestFailed", "Vcpu", "Vm", "add", "lose_memory", "missing", "run", "tables", "turn"]
