"""The registers with which QEMU and KVM start a VCPU, in the layout of a VMSA.

A measured launch covers them, so every byte counts. Sources: AMD's manual, volume 2, table B-4 for the
places; Linux `arch/x86/kvm/svm/svm.c` and QEMU `target/i386/cpu.c` for what is in them after a reset.
"""

from __future__ import annotations

from struct import Struct

from protocol.arch.sev.structs import PAGE, SNP_ACTIVE, VMSA_FEATURES

FIRST_START = 0xFFFF_FFF0  # the reset vector
_SEGMENT = Struct("<HHIQ")  # selector, attributes, limit, base
_DATA, _CODE, _LDT, _TSS = 0x93, 0x9B, 0x82, 0x8B
_SEGMENTS = {  # offset -> attributes
    0x00: _DATA,  # ES
    0x20: _DATA,  # SS
    0x30: _DATA,  # DS
    0x40: _DATA,  # FS
    0x50: _DATA,  # GS
    0x60: 0,  # GDTR
    0x70: _LDT,
    0x80: 0,  # IDTR
    0x90: _TSS,
}
_CS = 0x10
_REGISTERS = (  # offset, width, value
    (0xD0, 8, 0x1000),  # EFER: KVM sets SVME
    (0x148, 8, 0x40),  # CR4: KVM sets MCE
    (0x158, 8, 0x10),  # CR0
    (0x160, 8, 0x400),  # DR7
    (0x168, 8, 0xFFFF_0FF0),  # DR6
    (0x170, 8, 2),  # RFLAGS
    (0x268, 8, 0x0007_0406_0007_0406),  # PAT
    (0x3E8, 8, 1),  # XCR0
    (0x408, 4, 0x1F80),  # MXCSR
    (0x410, 2, 0x37F),  # x87 control word
)
_RIP, _RDX = 0x178, 0x310


def signature(family: int, model: int, stepping: int) -> int:
    """CPUID leaf 1 EAX."""
    extended = max(family - 0xF, 0)
    return extended << 20 | model >> 4 << 16 | (family - extended) << 8 | (model & 0xF) << 4 | stepping


_NAPLES, _ROME = signature(23, 1, 2), signature(23, 49, 0)
_MILAN, _GENOA, _TURIN = signature(25, 1, 1), signature(25, 17, 0), signature(26, 0, 0)
VCPU_TYPES = {  # QEMU's models -> what RDX holds after a reset
    "EPYC": _NAPLES,
    **{f"EPYC-v{n}": _NAPLES for n in range(1, 5)},
    "EPYC-IBPB": _NAPLES,
    "EPYC-Rome": _ROME,
    **{f"EPYC-Rome-v{n}": _ROME for n in range(1, 5)},
    "EPYC-Milan": _MILAN,
    **{f"EPYC-Milan-v{n}": _MILAN for n in range(1, 4)},
    "EPYC-Genoa": _GENOA,
    **{f"EPYC-Genoa-v{n}": _GENOA for n in range(1, 3)},
    "EPYC-Turin": _TURIN,
    "EPYC-Turin-v1": _TURIN,
}


def after_reset(start: int, rdx: int, snp: bool) -> bytes:
    """The page of a VCPU that starts at `start`."""
    page = bytearray(PAGE)
    for offset, attributes in _SEGMENTS.items():
        _SEGMENT.pack_into(page, offset, 0, attributes, 0xFFFF, 0)
    _SEGMENT.pack_into(page, _CS, 0xF000, _CODE, 0xFFFF, start & 0xFFFF_0000)
    variable = ((_RIP, 8, start & 0xFFFF), (_RDX, 8, rdx), (VMSA_FEATURES, 8, SNP_ACTIVE if snp else 0))
    for offset, width, value in (*_REGISTERS, *variable):
        page[offset : offset + width] = value.to_bytes(width, "little")
    return bytes(page)
