"""UV_ESMB_GET_FILE: secrets that came with the ESM blob, each read once, forward, by one process."""

from __future__ import annotations

from protocol.arch.pef.machine.svm import Reader, Svm
from protocol.arch.pef.status import P2, PARAMETER

CHUNK = 64  # bytes of an answer, and of a name
_NAME = range(5, 13)
_DATA = range(4, 12)


def get_file(svm: Svm | None, pid: int, gpr: list[int]) -> int:
    """The number of bytes in R4..R11, or what is wrong. A name that no file has is the second parameter's."""
    if svm is None:
        return PARAMETER
    offset = gpr[4]
    name = b"".join(gpr[number].to_bytes(8, "big") for number in _NAME).rstrip(b"\0").decode("latin-1")
    data = svm.files.get(name)
    if data is None:
        return P2
    reader = svm.readers.setdefault(name, Reader(pid, 0))
    if reader.pid != pid or offset < reader.offset:
        return PARAMETER
    part = data[offset : offset + CHUNK]
    if part:
        reader.offset = offset + len(part)
    padded = part.ljust(CHUNK, b"\0")
    for place, number in enumerate(_DATA):
        gpr[number] = int.from_bytes(padded[8 * place : 8 * place + 8], "big")
    return len(part)
