"""A guest of a plan as KVM and QEMU have it, and its run loop: nested faults and what it asks by VMGEXIT.

Sections 5.7, 6.5 and 6.7 of the fact sheet. All of a guest's memory is private from the start, as a VMM sets
it up; the guest accepts pages before it uses them. The GHCBs lie behind the end of its memory, one page for
each VCPU: where Linux has them, in memory that it shared, changes nothing but one more change of a page.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from protocol.arch.sev.guest import GuestStep, Program
from protocol.arch.sev.host.driver import Driver
from protocol.arch.sev.host.tables import Tables
from protocol.arch.sev.structs import (
    EXIT_HLT,
    EXIT_INTR,
    EXIT_NPF,
    EXIT_VMGEXIT,
    PAGE,
    SHARED,
    U32,
    U64,
    VMCB_ASID,
    VMCB_MODE,
    VMCB_NCR3,
    VMCB_VMSA,
)
from protocol.effects import Fault, Step
from protocol.errors import OperationFailed

if TYPE_CHECKING:
    from protocol.arch.sev.host.system import Host

SW_EXITCODE, SW_EXITINFO1, SW_EXITINFO2, SW_SCRATCH = 0x390, 0x398, 0x3A0, 0x3A8  # of a GHCB
SHARED_BUFFER = 0x800
PSC_EVENT, REQUEST_EVENT = 0x8000_0010, 0x8000_0011
PSC_ENTRIES = 253
TO_PRIVATE, TO_SHARED = 1, 2  # operations of an entry of a page state change


class GuestFailed(OperationFailed):
    """The guest cannot go on. It can still be destroyed."""


@dataclass(slots=True)
class Vm:
    """`private` and `shared`: guest page -> address of what is under it; `open` are pages that are shared."""

    number: int
    pages: int
    tables: Tables
    asid: int = 0
    context: int = 0  # of an SNP guest; any other has a handle
    response: int = 0
    handle: int = 0
    vmsas: list[int] = field(default_factory=list)
    vmcbs: list[int] = field(default_factory=list)
    ghcbs: list[int] = field(default_factory=list)
    private: dict[int, int] = field(default_factory=dict)
    shared: dict[int, int] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)
    accepted: set[int] = field(default_factory=set)  # what the guest knows: its validated pages
    measurement: bytes = b""  # of a legacy guest: the MAC and the nonce
    secrets: int = -1  # of an SNP guest: the guest address of its secrets page, if it was launched with one
    sequence: int = 1  # what its next message to the firmware is numbered

    def ghcb(self, vcpu: int) -> int:
        """The guest address of the GHCB of a VCPU."""
        return (self.pages + vcpu) * PAGE

    @property
    def device(self) -> int:
        """The guest address of a device's page, behind all else: nothing is ever mapped there."""
        return (self.pages + len(self.vmcbs)) * PAGE


def add_vcpu(host: Host, vm: Vm, number: int) -> None:
    """A VCPU that a guest can be entered with: its control block, and where it needs them VMSA and GHCB."""
    driver, kind = host.driver, host.kind
    vmcb = host.page()
    vmsa = host.page() if kind.encrypted_state else 0
    for at, data in (
        (VMCB_ASID, U32.pack(vm.asid)),
        (VMCB_MODE, U64.pack(kind.mode)),
        (VMCB_NCR3, U64.pack(vm.tables.root)),
        (VMCB_VMSA, U64.pack(vmsa)),
    ):
        driver.write(vmcb + at, data)
    vm.vmcbs.append(vmcb)
    if not kind.encrypted_state:
        return
    ghcb = host.page()
    vm.vmsas.append(vmsa)
    vm.ghcbs.append(ghcb)
    vm.tables.map(vm.ghcb(number), ghcb)


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
    while program.steps:
        yield from turn(host, vm, vcpu, program)


def turn(host: Host, vm: Vm, vcpu: int, program: Program) -> Step[None]:
    """Enter once and answer the exit. Raises GuestFailed."""
    left = yield from host.hands.vmrun(host.cpu_of(vm, vcpu), vm.vmcbs[vcpu], program)
    if isinstance(left, Fault):
        raise GuestFailed(f"VMRUN of guest {vm.number} raises {left.name}")
    for result in program.collect():
        _look(vm, result)
        if "hex" in result:
            host.heard = bytes.fromhex(result["hex"])
    if left.code == EXIT_NPF:
        yield from host.kind.nested_fault(host, vm, left, program)
    elif left.code == EXIT_VMGEXIT:
        yield from _answer(host, vm, vcpu)
    elif left.code not in (EXIT_INTR, EXIT_HLT):
        raise GuestFailed(f"guest {vm.number} leaves with {left.code:#x}")


def _look(vm: Vm, result: dict[str, Any]) -> None:
    if "fault" in result or int(result.get("rax", "0x0"), 16) or result.get("cf"):
        raise GuestFailed(f"a step of guest {vm.number} ends with {result}")


# -- VMGEXIT -----------------------------------------------------------------------------------------------


def _answer(host: Host, vm: Vm, vcpu: int) -> Step[None]:
    """Read what is asked, answer in the same page. Two of the events make a host do more."""
    driver, ghcb = host.driver, vm.ghcbs[vcpu]
    event = U64.unpack(driver.read(ghcb + SW_EXITCODE, 8))[0]
    if event == PSC_EVENT:
        yield from _page_state_change(host, vm, ghcb)
    elif event == REQUEST_EVENT:
        yield from host.kind.guest_request(host, vm, ghcb)
    driver.write(ghcb + SW_EXITINFO1, U64.pack(0))


def _page_state_change(host: Host, vm: Vm, ghcb: int) -> Step[None]:
    """Entry by entry: the VMM changes the page's attribute and drops what was under it."""
    driver = host.driver
    head = driver.read(ghcb + SHARED_BUFFER, 8)
    first, last = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    for number in range(first, last + 1):
        (entry,) = U64.unpack(driver.read(ghcb + SHARED_BUFFER + 8 + 8 * number, 8))
        page, operation = entry >> 12 & (1 << 40) - 1, entry >> 52 & 0xF
        if page >= vm.pages or operation not in (TO_PRIVATE, TO_SHARED):
            raise GuestFailed(f"guest {vm.number} asks for {operation} of page {page:#x}")
        yield from _change(driver, host, vm, page, operation == TO_SHARED)
        if operation == TO_PRIVATE and host.pages == "merged_l1" and page not in vm.private:
            yield from host.kind.bring_in(host, vm, page)


def _change(driver: Driver, host: Host, vm: Vm, page: int, to_shared: bool) -> Step[None]:
    """A page that is what was asked for stays as it is."""
    if to_shared is (page in vm.open):
        return
    (vm.open.add if to_shared else vm.open.discard)(page)
    under = (vm.private if to_shared else vm.shared).pop(page, None)
    if under is None:
        return
    vm.tables.unmap(page * PAGE)
    if to_shared:
        yield from driver.rmpupdate(under, SHARED)
    host.give([under])
    host.keep("native_page", -1)
