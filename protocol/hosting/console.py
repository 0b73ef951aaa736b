"""The console of a debug child: the newest bytes, read by a cursor. Production children have none."""

from __future__ import annotations

CONSOLE_BYTES = 64 * 1024  # kept for one child
TAIL_BYTES = 2048  # that are looked at for the last lines


class Console:
    """A ring of bytes; positions count from the child's first byte, or from the host's last restart."""

    __slots__ = ("_kept", "written")

    def __init__(self) -> None:
        self._kept = bytearray()
        self.written = 0

    def write(self, data: bytes) -> None:
        self.written += len(data)
        self._kept += data
        del self._kept[:-CONSOLE_BYTES]

    def read(self, cursor: int, most: int) -> dict[str, object]:
        """Return the body of the answer: at most `most` bytes from `cursor` on, and what was lost before."""
        oldest = self.written - len(self._kept)
        if cursor > self.written:
            cursor = oldest  # of a former life of the host
        start = max(cursor, oldest)
        data = bytes(self._kept[start - oldest : start - oldest + most])
        return {"data": data, "cursor": start + len(data), "lost": start - cursor}

    def tail(self, count: int) -> list[str]:
        """The last `count` lines that say something, fit for a person's terminal."""
        text = self._kept[-TAIL_BYTES:].decode(errors="replace")
        lines = ("".join(c if c.isprintable() else " " for c in line).strip() for line in text.splitlines())
        return [line for line in lines if line][-count:]
