"""A guest for QEMU that fits on a page: an initial RAM disk with one program, assembled here by hand.

It writes `up` on the console, announces itself on the second serial port (its first argument and 0xB7), waits
for the byte to come back, then returns every byte that it gets there; `Q` powers the machine off.
"""

from __future__ import annotations

import struct

BASE = 0x400000
HEADERS = 64 + 56
OPEN, READ, WRITE, IOCTL, REBOOT = 2, 0, 1, 16, 169
RAW = struct.pack("<4IB19B", 0, 0, 0x1CB2, 0, 0, *(1 if n == 6 else 0 for n in range(19)))  # 115200, 8N1
WORD = b"\xb7"


def program() -> bytes:
    """An ELF file for x86-64 without a library."""
    code = assemble({})
    data = {}
    at = BASE + HEADERS + len(code)
    blob = b""
    for name, value in {
        "up": b"up\n",
        "path": b"/dev/ttyS1\0",
        "raw": RAW,
        "word": WORD,
        "ready": b"ready\n",
        "byte": b"\0",
    }.items():
        data[name] = at + len(blob)
        blob += value
    body = assemble(data) + blob
    size = HEADERS + len(body)
    elf = b"\x7fELF\x02\x01\x01" + bytes(9)
    elf += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    elf += struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, size, 0x1000)
    return elf + body


def assemble(data: dict[str, int]) -> bytes:
    """The instructions; addresses of `data` are 0 on the first pass."""

    def imm(number: int, register: str) -> bytes:
        return {"eax": b"\xb8", "edi": b"\xbf", "esi": b"\xbe", "edx": b"\xba"}[register] + struct.pack(
            "<I", number
        )

    def call(number: int) -> bytes:
        return imm(number, "eax") + b"\x0f\x05"

    def channel() -> bytes:
        return b"\x44\x89\xef"  # mov edi, r13d

    at = data.get
    start = b"\x4c\x8b\x64\x24\x10"  # mov r12, [rsp+16]: the first argument
    start += imm(1, "edi") + imm(at("up", 0), "esi") + imm(3, "edx") + call(WRITE)
    start += imm(at("path", 0), "edi") + imm(0x102, "esi") + imm(0, "edx") + call(OPEN)
    start += b"\x41\x89\xc5"  # mov r13d, eax
    start += channel() + imm(0x5402, "esi") + imm(at("raw", 0), "edx") + call(IOCTL)  # TCSETS
    start += channel() + b"\x4c\x89\xe6" + imm(32, "edx") + call(WRITE)  # mov rsi, r12: the nonce
    start += channel() + imm(at("word", 0), "esi") + imm(1, "edx") + call(WRITE)
    start += channel() + imm(at("byte", 0), "esi") + imm(1, "edx") + call(READ)
    start += imm(1, "edi") + imm(at("ready", 0), "esi") + imm(6, "edx") + call(WRITE)
    read = channel() + imm(at("byte", 0), "esi") + imm(1, "edx") + call(READ)
    compare = b"\x80\x3c\x25" + struct.pack("<I", at("byte", 0)) + b"Q"  # cmp byte [byte], 'Q'
    write = channel() + imm(at("byte", 0), "esi") + imm(1, "edx") + call(WRITE)
    off = imm(0xFEE1DEAD, "edi") + imm(0x28121969, "esi") + imm(0x4321FEDC, "edx") + call(REBOOT)
    leave = b"\x74" + bytes([len(write) + 2])  # je off
    back = b"\xeb" + struct.pack("<b", -(len(read) + len(compare) + len(leave) + len(write) + 2))
    return start + read + compare + leave + write + back + off


def initrd() -> bytes:
    """An archive with /init and the three devices that it opens."""
    made = entry("dev", 0o40755)
    for name, major, minor in (("console", 5, 1), ("ttyS0", 4, 64), ("ttyS1", 4, 65)):
        made += entry(f"dev/{name}", 0o20600, device=(major, minor))
    made += entry("init", 0o100755, program())
    return made + entry("TRAILER!!!", 0)


def entry(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One member of a cpio archive in the form that Linux reads."""
    words = (1, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % word for word in words) + name.encode() + b"\0"
    return pad(head) + pad(data)


def pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
