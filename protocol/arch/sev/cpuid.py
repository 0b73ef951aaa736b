"""The machine's feature leaves, and the check of a launch CPUID page against them:

section 2.8 of the fact sheet.

The leaves are those of a part of the Genoa generation, in outline; what matters is that a guest may not be
promised what they lack.
"""

from __future__ import annotations

from struct import Struct

from protocol.arch.sev.profiles import Profile
from protocol.arch.sev.structs import C_BIT

SEV_LEAF = 0x8000_001F
NESTED_MSR = 1 << 29
_SME, _SEV, _ES, _SNP, _VMPL = 1, 2, 8, 16, 32
_PHYSICAL_BITS, _LINEAR_BITS = 52, 57
Leaf = tuple[int, int, int, int]

_FIXED: dict[tuple[int, int], Leaf] = {
    (0x0, 0): (0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65),  # AuthenticAMD
    (0x1, 0): (0x00A1_0F11, 0x0002_0800, 0x7EFA_320B, 0x178B_FBFF),
    (0x7, 0): (0x1, 0xF1BF_97A9, 0x0041_5FDE, 0x1000_0010),
    (0x8000_0000, 0): (0x8000_0028, 0x6874_7541, 0x444D_4163, 0x6974_6E65),
    (0x8000_0001, 0): (0x00A1_0F11, 0, 0x75C2_37FF, 0x2FD3_FBFF),
    (0x8000_0008, 0): (_LINEAR_BITS << 8 | _PHYSICAL_BITS, 0x791E_F257, 0, 0),
}
# Registers (EAX, EBX, ECX, EDX) that promise features.
_MASKED = {
    0x1: (False, False, True, True),
    0x7: (False, True, True, True),
    0x8000_0001: (False, False, True, True),
    0x8000_0008: (False, True, False, False),
    SEV_LEAF: (True, False, False, False),
}
_AT_MOST = {(0x7, 0), (0x8000_0008, 0), (0x8000_0000, 0), (0x0, 0)}  # EAX may not be above the machine's
_HEADER = Struct("<I4x8x")
_ENTRY = Struct("<IIQQIIIIQ")
MAX_ENTRIES = 64


def leaf(profile: Profile, number: int, subleaf: int, nested_msr: bool) -> Leaf:
    if number == SEV_LEAF:
        eax = _SME | _SEV | _ES | _SNP | _VMPL | (NESTED_MSR if nested_msr else 0)
        return eax, C_BIT, profile.asids, profile.min_sev_asid
    return _FIXED.get((number, subleaf if number == 0x7 else 0), (0, 0, 0, 0))


def corrected(profile: Profile, page: bytes) -> bytes | None:
    """None if the page promises nothing wrong, else the page with what is wrong masked; empty if it is
    malformed.
    """
    count = _HEADER.unpack_from(page)[0]
    if count > MAX_ENTRIES or any(page[4:16]):
        return b""
    fixed = bytearray(page)
    for at in range(16, 16 + _ENTRY.size * count, _ENTRY.size):
        fields = list(_ENTRY.unpack_from(page, at))
        fields[4:8] = _allowed(profile, fields[0], fields[1], fields[4:8])
        _ENTRY.pack_into(fixed, at, *fields)
    return None if fixed == page else bytes(fixed)


def _allowed(profile: Profile, number: int, subleaf: int, claimed: list[int]) -> list[int]:
    """The registers of one entry, with nothing that the machine lacks."""
    if number & 0x7FFF_FFFF > 0xFFFF:
        return claimed
    have = leaf(profile, number, subleaf, nested_msr=False)
    masks = _MASKED.get(number, (False,) * 4)
    registers = [
        claim & bits if masked else claim for claim, bits, masked in zip(claimed, have, masks, strict=True)
    ]
    if (number, subleaf) in _AT_MOST and registers[0] > have[0]:
        registers[0] = have[0]
    if number == SEV_LEAF and registers[1] & 0x3F != C_BIT:
        registers[1] = registers[1] & ~0x3F | C_BIT
    return registers
