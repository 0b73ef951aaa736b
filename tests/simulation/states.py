"""What a deployment in the middle of something *is*, in sixteen bytes: equal states go on equally.

All that its levels hold goes in: tables, pools, books, the bytes of memory that somebody wrote, and of each
step that is under way where it stands and with what in hand. Two states that differ in nothing but the order
in which they came about have one digest, or two where a container remembers an order: then a search looks at
one state twice, and misses none. Counts (the ledger) decide nothing, and are left out.
"""

from __future__ import annotations

import copyreg
import dataclasses
import hashlib
import io
import pickle
import struct
import types
from collections.abc import Callable
from functools import cache
from operator import attrgetter
from typing import Any

import numpy as np

from protocol.ledger import Ledger
from protocol.memory.physical import Physical
from protocol.memory.store import PAGE, PrivateStore

UNTOLD = (types.ModuleType, memoryview, PrivateStore, Ledger)  # views and stores are told where they belong
PIECE = 1 << 13  # words; larger ones would be mapped and unmapped again and again
WEIGHTS = np.random.default_rng(1).integers(0, 1 << 64, (2, PIECE), np.uint64)
LARGE = 1 << 14  # bytes of a table that is told by a digest of its own


def digest(*of: Any) -> bytes:
    """The digest of everything that can be reached from `of`."""
    into = _Hash()
    writer = _Writer(into, 5)
    writer.dump(of)
    while writer.waiting:
        writer.dump(writer.waiting.pop(0)())
    return into.digest()


class _Hash(io.RawIOBase):
    """A file of which only a digest is kept."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return len(data)

    def digest(self) -> bytes:
        return self._hash.digest()


class _Writer(pickle.Pickler):
    """Writes what pickle does not: steps that are under way, functions made in functions, memory."""

    def __init__(self, into: _Hash, protocol: int) -> None:
        super().__init__(into, protocol)
        self._known: dict[int, tuple[int, object]] = {}
        self.waiting: list[Callable[[], object]] = []  # what is inside of them comes last, as it goes round

    def reducer_override(self, value: Any) -> Any:
        how = _how(type(value))
        return NotImplemented if how is None else how(self, value)

    def later(self, value: object, name: str, inside: Callable[[], object]) -> Any:
        known = self._known.get(id(value))
        if known is None:
            known = self._known[id(value)] = len(self._known), value
            self.waiting.append(inside)
        return _told, (name, known[0])


@cache
def _how(kind: type) -> Callable[[_Writer, Any], Any] | None:
    """How values of a kind are written. None: as pickle does."""
    if kind is np.ndarray:
        return lambda _, value: _table(value) if value.nbytes >= LARGE else NotImplemented
    if kind is types.GeneratorType:
        return lambda writer, value: writer.later(value, value.__qualname__, lambda: _where(value))
    if kind is types.FunctionType:
        return _function
    if kind is types.MappingProxyType:
        return lambda _, value: (_told, (dict(value),))
    if kind.__module__ == "_hashlib":
        return lambda _, value: (_told, (value.name, value.digest()))
    if kind is struct.Struct:
        return lambda _, value: (_told, (value.format,))
    if kind in UNTOLD or kind.__module__.startswith("cryptography"):
        return lambda _, value: (_told, (type(value).__name__,))
    if issubclass(kind, Physical):
        return lambda writer, value: writer.later(value, "memory", lambda: _memory(value))
    return _row(kind)


def _function(writer: _Writer, value: types.FunctionType) -> Any:
    if value is _told:  # what this module itself puts in
        return NotImplemented
    return writer.later(value, value.__qualname__, lambda: _inside(value))


def _row(kind: type) -> Callable[[_Writer, Any], Any] | None:
    """Frozen rows of slots: dataclasses would look their fields up one by one for every row."""
    slow = getattr(kind, "__getstate__", None) is getattr(dataclasses, "_dataclass_getstate", 0)
    names = [each.name for each in dataclasses.fields(kind)] if slow else []
    if not names:
        return None
    fields = attrgetter(*names)
    return lambda _, value: (copyreg.__newobj__, (kind,), fields(value))


def _told(*what: object) -> object:
    return what


def _table(table: np.ndarray) -> Any:
    """Sums with random weights, forwards and with bytes swapped, piece by piece: faster than a digest."""
    flat = np.ascontiguousarray(table).reshape(-1).view(np.uint8)
    words, rest = flat[: flat.size & ~7].view(np.uint64), flat[flat.size & ~7 :].tobytes()
    sums = []
    for at in _filled_pieces(words):
        piece = words[at : at + PIECE]
        one, other = WEIGHTS[:, : piece.size]
        sums.append((at, int(np.dot(piece, one)), int(np.dot(piece.byteswap(), other))))
    return _told, (table.shape, table.dtype.str, tuple(sums), rest)


def _filled_pieces(words: np.ndarray) -> list[int]:
    """Where the pieces begin in which there is something but zeroes."""
    whole = words.size // PIECE * PIECE
    found: list[int] = (np.flatnonzero(words[:whole].reshape(-1, PIECE).max(axis=1)) * PIECE).tolist()
    return [*found, whole] if words[whole:].any() else found


def _where(step: types.GeneratorType[Any, Any, Any]) -> object:
    frame = step.gi_frame
    return None if frame is None else (frame.f_lasti, dict(frame.f_locals), step.gi_yieldfrom)


def _inside(function: types.FunctionType) -> object:
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return cells, function.__defaults__, function.__kwdefaults__


def _set(flags: np.ndarray) -> np.ndarray:
    return np.flatnonzero(flags.view(bool))  # fifty times faster than of bytes


def _memory(memory: Physical) -> object:
    """Bytes of pages that are known to be zero are left out."""
    open_, taken = _set(memory._filled), _set(memory._vaulted)
    return (
        memory._away,
        getattr(memory, "_owed", None),
        [(page, memory._first.read(page * PAGE, PAGE)) for page in open_.tolist()],
        [(frame, memory.vault_read(frame, 0, PAGE)) for frame in taken.tolist()],
    )
