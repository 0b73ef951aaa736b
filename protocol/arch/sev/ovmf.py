"""Firmware of guests: what OVMF says of itself in its table of GUIDs, and where QEMU puts it.

The table ends 32 bytes before the end of the image, its entries are read backwards: data, then 2 bytes of
length and 16 of GUID. It names the address where other VCPUs start (SEV-ES), the page for hashes of a kernel,
and the list of pages that are to be added beside the image (SNP). Sources: EDK II, OvmfPkg ResetVector;
QEMU `hw/i386/pc_sysfw_ovmf.c`, `target/i386/sev.c`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct, error

from protocol.arch.sev.status import PageType
from protocol.arch.sev.structs import PAGE

FOUR_GIB = 1 << 32
MAX_SECTIONS, MAX_BYTES = (
    64,
    64 << 20,
)  # that a firmware may list beside itself; ours, as real ones list a MiB


def _guid(text: str) -> bytes:
    """As it lies in memory: the first three parts are little-endian numbers."""
    first, second, third, *rest = (bytes.fromhex(part) for part in text.split("-"))
    return first[::-1] + second[::-1] + third[::-1] + b"".join(rest)


_FOOTER = _guid("96b582de-1fb2-45f7-baea-a366c55a082d")
_RESET_BLOCK = _guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
_HASH_TABLE = _guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
_METADATA = _guid("dc886566-984a-4798-a75e-5585a7bf67cc")
_ENTRY, _HEADER, _SECTION = Struct("<H16s"), Struct("<4sIII"), Struct("<III")
_FROM_END = 32
_KERNEL_HASHES = 0x10
_SECTIONS = {  # section type -> page type, as QEMU adds it
    1: PageType.ZERO,  # memory of the firmware's first phase
    2: PageType.SECRETS,
    3: PageType.CPUID,
    4: PageType.ZERO,  # calling area of a service module
    _KERNEL_HASHES: PageType.ZERO,  # if no kernel is given
}

# The table of hashes, in the order in which it lists them.
_HASHES = _guid("9438d606-4f22-4cc9-b479-a793d411fd21")
_HASHED = (
    _guid("97d02dd8-bd20-4c94-aa78-e7714d36ab2a"),  # command line
    _guid("44baf731-3a2f-4bd7-9af1-41e29169781d"),  # initrd
    _guid("4de79437-abd2-427f-b835-d5b172d2045b"),  # kernel
)


@dataclass(frozen=True, slots=True)
class Section:
    """A run of pages beside the image: `size` bytes from `gpa` on."""

    gpa: int
    size: int
    kind: int


class Firmware:
    """An image of whole pages. Raises ValueError for what no guest can start with."""

    def __init__(self, data: bytes) -> None:
        if not data or len(data) % PAGE:
            raise ValueError(f"firmware has whole pages of 4096 bytes; here are {len(data)} bytes")
        if len(data) > FOUR_GIB // 2:
            raise ValueError("firmware of more than 2 GiB does not fit below 4 GiB")
        self.data = data
        self._table = dict(_entries(data))

    @property
    def gpa(self) -> int:
        """It ends at 4 GiB."""
        return FOUR_GIB - len(self.data)

    @property
    def start_of_others(self) -> int:
        """Where VCPUs but the first start. Raises ValueError if the image says nothing of SEV-ES."""
        return self._word(_RESET_BLOCK, "address at which further VCPUs start: it was not built for SEV-ES")

    @property
    def hash_table(self) -> int:
        """The guest address of the table of hashes. Raises ValueError if it has none."""
        gpa = self._word(_HASH_TABLE, "place for hashes of a kernel")
        if not gpa:
            raise ValueError("the firmware has no place for hashes of a kernel")
        return gpa

    def sections(self) -> list[Section]:
        """Pages that an SNP guest gets beside the image, in their order; none if it says nothing of SNP."""
        if _METADATA not in self._table:
            return []
        start = len(self.data) - self._word(_METADATA, "metadata")
        try:
            magic, _, version, count = _HEADER.unpack_from(self.data, start)
            if count > MAX_SECTIONS:
                raise ValueError(
                    f"the firmware lists {count} SNP sections; at most {MAX_SECTIONS} are allowed"
                )
            first = start + _HEADER.size
            listed = [_SECTION.unpack_from(self.data, first + n * _SECTION.size) for n in range(count)]
        except error:
            raise ValueError("the firmware's list of SNP pages lies outside it") from None
        if magic != b"ASEV" or version != 1:
            raise ValueError(f"the firmware's list of SNP pages is of another kind: {magic!r} {version}")
        for gpa, size, kind in listed:
            if kind not in _SECTIONS or gpa % PAGE or size % PAGE:
                raise ValueError(f"the firmware lists a section that nobody knows: type {kind} at {gpa:#x}")
        if sum(size for _, size, _ in listed) > MAX_BYTES:
            raise ValueError(f"the firmware's SNP sections have more than {MAX_BYTES} bytes")
        return [Section(*each) for each in listed]

    def pages(self, hashes: bytes) -> Iterator[tuple[int, int, bytes]]:
        """(guest address, page type, contents) of what is added to an SNP guest, in QEMU's order.

        `hashes` is a table of hashes or nothing. Raises ValueError if there is no page for it.
        """
        sections = self.sections()
        if hashes and not any(each.kind == _KERNEL_HASHES for each in sections):
            raise ValueError("the firmware has no page for hashes of a kernel")
        for at in range(0, len(self.data), PAGE):
            yield self.gpa + at, PageType.NORMAL, self.data[at : at + PAGE]
        for each in sections:
            if each.kind == _KERNEL_HASHES and hashes:
                page = bytes(self.hash_table % PAGE) + hashes
                if len(page) > PAGE:
                    raise ValueError(f"{len(hashes)} bytes of hashes do not fit into the page for them")
                yield each.gpa, PageType.NORMAL, page.ljust(PAGE, b"\0")
                continue
            for gpa in range(each.gpa, each.gpa + each.size, PAGE):
                yield gpa, _SECTIONS[each.kind], bytes(PAGE)

    def _word(self, guid: bytes, what: str) -> int:
        entry = self._table.get(guid)
        if entry is None or len(entry) < 4:
            raise ValueError(f"the firmware names no {what}")
        return int.from_bytes(entry[:4], "little")


def kernel_hashes(kernel: bytes, initrd: bytes, command_line: str) -> bytes:
    """The table of hashes that QEMU makes: SHA-256 of each, padded to 16 bytes."""
    line = command_line.encode() + b"\0"
    entries = b"".join(
        guid + (50).to_bytes(2, "little") + hashlib.sha256(each).digest()
        for guid, each in zip(_HASHED, (line, initrd, kernel), strict=True)
    )
    table = _HASHES + (18 + len(entries)).to_bytes(2, "little") + entries
    return table.ljust(-(-len(table) // 16) * 16, b"\0")


def _entries(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The table of GUIDs, from its end; nothing if there is none. Raises ValueError for a broken one."""
    end = len(data) - _FROM_END - _ENTRY.size
    length, guid = _ENTRY.unpack_from(data, end)
    if guid != _FOOTER:
        return
    start = end + _ENTRY.size - length
    while end - _ENTRY.size >= max(start, 0):
        length, guid = _ENTRY.unpack_from(data, end - _ENTRY.size)
        if length < _ENTRY.size or end - length < start:
            raise ValueError("the firmware's table of GUIDs is broken")
        yield guid, data[end - length : end - _ENTRY.size]
        end -= length
