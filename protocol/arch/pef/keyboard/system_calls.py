"""`kvm` and `load`: the system calls of the host's VMM, and its boot."""

from __future__ import annotations

from typing import Any

from protocol.arch.pef.cpu import Cpu
from protocol.arch.pef.image import LARGEST
from protocol.arch.pef.keyboard.host import PefHost
from protocol.arch.pef.kvm import vmm
from protocol.arch.pef.tables import ADDRESS_LIMIT, LPIDS
from protocol.effects import Fault, run
from protocol.keyboard import Answer, Fields

CMDLINE_BYTES = 2048
NAMES = (
    *("KVM_CREATE_VM", "KVM_PPC_CONFIGURE_V3_MMU", "KVM_CREATE_VCPU", "KVM_SET_USER_MEMORY_REGION"),
    *("KVM_ENABLE_CAP", "KVM_PPC_SVM_OFF", "close"),
)
_U32 = (1 << 32) - 1


def call(host: PefHost, fields: Fields, cpu: Cpu) -> Answer:
    """One system call. A negative errno is a number. None lets a vcpu go on, so none stops the machine."""
    name, kvm = fields.choice("name", NAMES), host.kvm
    if name == "KVM_CREATE_VM":
        lpid = fields.number("vm", None, 1, LPIDS - 1) if "vm" in fields else None
        ret, lpid = run(vmm.create_vm(kvm, cpu, lpid, fields.flag("tpm_proxy", True)))
        return {"ret": ret, "vm": hex(lpid)} if not ret else {"ret": ret}
    vm = host.vm(fields)
    if name == "KVM_PPC_CONFIGURE_V3_MMU":
        return {"ret": run(vmm.configure_mmu(kvm, cpu, vm, fields.flag("radix", True)))}
    if name == "KVM_CREATE_VCPU":
        return {"ret": vmm.create_vcpu(vm, fields.number("vcpu", None, 0, _U32))}
    if name == "KVM_SET_USER_MEMORY_REGION":
        slot = fields.number("slot", None, 0, _U32)
        gpa = fields.number("gpa")
        return {"ret": run(vmm.set_memory(kvm, cpu, vm, slot, gpa, fields.number("size")))}
    if name == "KVM_ENABLE_CAP":
        return {"ret": vmm.enable_cap(kvm, vm, fields.text("cap"))}
    if name == "KVM_PPC_SVM_OFF":
        return {"ret": run(vmm.svm_off(kvm, cpu, vm))}
    return {"ret": run(vmm.close(kvm, cpu, vm))}


def load(host: PefHost, fields: Fields, cpu: Cpu) -> Answer:
    """The VMM's boot: what it wrote, and where."""
    vm = host.vm(fields)
    at = fields.number("at", None, 0, ADDRESS_LIMIT)
    kernel = fields.number("kernel", None, 1, LARGEST)
    initrd = fields.number("initrd", None, 0, LARGEST)
    cmdline = fields.text("cmdline", "")
    if not cmdline.isascii() or "\0" in cmdline or len(cmdline) > CMDLINE_BYTES:
        raise fields.wrong("cmdline", f"at most {CMDLINE_BYTES} characters of ASCII, none of them zero")
    seed = f"{host.seed}:image"
    try:
        areas = run(vmm.load(host.kvm, cpu, vm, at, kernel, initrd, cmdline, seed))
    except ValueError as wrong:
        raise fields.wrong("at", str(wrong)) from wrong
    if isinstance(areas, Fault):
        return host.fault(areas)
    shown: dict[str, Any] = {}
    for name, area in areas.items():
        shown[name] = hex(area.address)
        shown[f"{name}_len"] = hex(len(area.data))
    return shown
