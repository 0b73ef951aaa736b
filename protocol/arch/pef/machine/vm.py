"""VMs: partition table entries, and the end of an SVM. The way in, UV_ESM, is in `lifecycle`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.machine.svm import Svm
from protocol.arch.pef.profiles import DOCUMENTATION, FIRMWARE
from protocol.arch.pef.status import INVALID, PARAMETER, PERMISSION, SUCCESS
from protocol.arch.pef.tables import SvmState

if TYPE_CHECKING:
    from protocol.arch.pef.machine import Machine


def write_pate(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    """The entry of an SVM keeps its first half: that is the ultravisor's."""
    lpid, dw0, dw1 = gpr[4:7]
    if lpid >= machine.profile.lpids:
        return PARAMETER
    if lpid in machine.svms:
        if machine.profile.choices.pate_of_svm == DOCUMENTATION:
            return PERMISSION
        dw0 = machine.pate(lpid)[0]
    machine.set_pate(lpid, dw0, dw1)
    return SUCCESS


def terminate(machine: Machine, cpu: Cpu, gpr: list[int]) -> int:
    """UV_SVM_TERMINATE. An LPID that nothing runs under is unknown, one of a normal VM is no SVM."""
    lpid = gpr[4]
    svm = machine.svms.get(lpid)
    if svm is None:
        if machine.profile.choices.terminate_none == FIRMWARE:
            return SUCCESS
        return INVALID if lpid < machine.profile.lpids and machine.pate(lpid) != (0, 0) else PARAMETER
    end(machine, svm)
    return SUCCESS


def end(machine: Machine, svm: Svm) -> None:
    """Free everything that an SVM has; open reflections lose their cookies."""
    if svm.state is SvmState.SECURE:
        machine.set_pate(svm.lpid, 0, 0)
    for slot in svm.slots.values():
        machine.secure.release(slot)
    svm.slots.clear()
    for cookie, thread in svm.open.items():
        thread.work.close()
        del machine.reflected[cookie]
    svm.open.clear()
    del machine.svms[svm.lpid]
