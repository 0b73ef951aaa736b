"""A guest host's memory, in a process of its own: plain bytes from the mapping, everything else asked of L0.

A load or store whose frame has no mark is done here and costs no message. What is marked (donated, secure,
a table that is shadowed and stored to) is asked of the hypervisor, synchronously: the CPU of the guest host
stands still, as it does when an access traps. Nothing on the other side ever waits for this one, so the
wait ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from actors.ram import RamFile
from protocol.codec import Codec
from protocol.effects import Fault
from protocol.errors import LevelGone, RemoteProtocolError
from protocol.memory.physical import chunks
from protocol.memory.store import OFFSET, PAGE, PAGE_SHIFT
from protocol.nesting.guest_host import TABLE
from protocol.wire import FrameDecoder, pack_frame

RECEIVE_BYTES = 1 << 16
FRAMES_AT_ONCE = 4096  # of one clear


class Stream(Protocol):
    """A connected socket that blocks."""

    def sendall(self, data: bytes, /) -> None: ...

    def recv(self, size: int, /) -> bytes: ...


class RemoteMemory:
    """What a host in another process has of its own memory. Raises LevelGone when L0 is gone."""

    def __init__(self, file: RamFile, traps: Stream, codec: Codec) -> None:
        self._codec = codec
        self.size = file.size
        self._file = file
        self._attention = file.attention.data
        self._traps = traps
        self._decoder = FrameDecoder()
        self.asked = 0  # accesses that trapped

    # -- accesses of the host's CPUs, and those of the hardware for it

    def read(self, address: int, length: int) -> bytes | Fault:
        return self._load("read", address, length)

    def peek(self, address: int, length: int) -> bytes | Fault:
        return self._load("peek", address, length)

    def write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        if self._is_plain(address, len(data), marks=0xFF):
            self._file.write(address, data)
            return None
        answer: Fault | None = self._ask("write", address, data, stores)
        return answer

    def poke(self, address: int, data: bytes) -> Fault | None:
        if self._is_plain(address, len(data), marks=0xFF):
            self._file.write(address, data)
            return None
        answer: Fault | None = self._ask("poke", address, data)
        return answer

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero whole frames."""
        listed = np.asarray(frames, np.int64)
        marked = listed[self._file.attention[listed] != 0]
        for frame in listed[self._file.attention[listed] == 0].tolist():
            self._file.clear(frame << PAGE_SHIFT, PAGE)
        for at in range(0, marked.size, FRAMES_AT_ONCE):
            self._ask("clear", *marked[at : at + FRAMES_AT_ONCE].tolist())

    def move(self, old: int, new: int) -> None:
        """Copy a page of the host's own to another frame of its own."""
        data = self.read(old << PAGE_SHIFT, PAGE)
        assert isinstance(data, bytes)
        self.write(new << PAGE_SHIFT, data)

    # -- how

    def _load(self, operation: str, address: int, length: int) -> bytes | Fault:
        if self._is_plain(address, length, marks=0xFF ^ TABLE):
            return self._file.read(address, length)
        if length <= PAGE:
            answer: bytes | Fault = self._ask(operation, address, length)
            return answer
        return self._load_pages(operation, address, length)

    def _load_pages(self, operation: str, address: int, length: int) -> bytes | Fault:
        if address < 0 or address + length > self.size:
            answer: Fault = self._ask(operation, address, length)
            return answer
        parts = []
        for at, n in chunks(address, length):
            part = self._load(operation, at, n)
            if isinstance(part, Fault):
                return replace(part, address=max(part.address, address))
            parts.append(part)
        return b"".join(parts)

    def _is_plain(self, address: int, length: int, marks: int) -> bool:
        if address < 0 or address + length > self.size:
            return False
        if (address & OFFSET) + length <= PAGE:
            return not self._attention[address >> PAGE_SHIFT] & marks
        first, last = address >> PAGE_SHIFT, (address + length - 1) >> PAGE_SHIFT
        return not bool((self._file.attention[first : last + 1] & marks).any())

    def _ask(self, operation: str, *arguments: object) -> Any:
        """One trap: the question, and the wait for its answer."""
        self.asked += 1
        try:
            self._traps.sendall(pack_frame([operation, *arguments]))
            frames: list[Any] = []
            while not frames:
                data = self._traps.recv(RECEIVE_BYTES)
                if not data:
                    raise LevelGone("the hypervisor below is gone")
                frames = list(self._decoder.feed(data))
        except OSError as error:
            raise LevelGone(f"the hypervisor below does not answer: {error}") from error
        return self._codec.decode(frames[0][0])


class TrapServer:
    """L0's side: answers the accesses that trap, of one guest host. `level` is its emulation.

    `codec` knows the architecture's exceptions.
    """

    def __init__(self, level: Any, codec: Codec) -> None:
        self._codec = codec
        self._decoder = FrameDecoder()
        self._do: dict[str, Callable[..., Any]] = {
            "read": level.read,
            "peek": level.peek,
            "write": level.write,
            "poke": level.poke,
        }
        self._level = level

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the guest host and return those of the answers. Raises RemoteProtocolError."""
        frames = self._decoder.feed(data)
        answers = b"".join(pack_frame([self._codec.encode(self._answer(frame))]) for frame in frames)
        if self._decoder.violation is not None:
            raise self._decoder.violation
        return answers

    def _answer(self, frame: object) -> object:
        match frame:
            case ["read" | "peek" as operation, int(address), int(length)] if 0 <= length <= PAGE:
                return self._do[operation](address, length)
            case ["read" | "peek" as operation, int(address), int(length)] if self._outside(address, length):
                return self._do[operation](address, length)
            case ["write", int(address), bytes(data), int(stores)] if stores > 0:
                return self._do["write"](address, data, stores)
            case ["poke", int(address), bytes(data)]:
                return self._do["poke"](address, data)
            case ["clear", *frames] if all(type(each) is int and self._has(each) for each in frames):
                return self._level.clear(frames)
        raise RemoteProtocolError("shape", "not an access: " + str(frame)[:60])

    def _outside(self, address: int, length: int) -> bool:
        return length > 0 and (address < 0 or address + length > self._level.size)

    def _has(self, frame: int) -> bool:
        """Whether the host may store to all of this frame, which is there."""
        return 0 <= frame < self._level.size >> PAGE_SHIFT and bool(self._level.may_clear(frame))


__all__ = ["RemoteMemory", "TrapServer"]
