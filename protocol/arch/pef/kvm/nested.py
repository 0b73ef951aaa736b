"""The nesting API for KVM's own guests: not offered yet, so its calls answer as they do where it is off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.arch.pef import hcalls
from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.kvm.vm import KvmVcpu, Vm
from protocol.arch.pef.status import FUNCTION
from protocol.effects import Step

if TYPE_CHECKING:
    from protocol.arch.pef.kvm import Kvm

HANDLERS = frozenset(
    {hcalls.SET_PARTITION_TABLE, hcalls.ENTER_NESTED, hcalls.TLB_INVALIDATE, hcalls.COPY_TOFROM_GUEST}
)


def answer(kvm: Kvm, cpu: Cpu, vm: Vm, vcpu: KvmVcpu, gpr: list[int]) -> Step[int]:
    yield from ()
    return FUNCTION
