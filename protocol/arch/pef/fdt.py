"""Flattened device trees, as far as boot and the ESM blob need them: version 17 of the format.

A node is a `Node`: properties by name, children by name. What is malformed raises ValueError; nothing is read
outside of the tree.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

MAGIC = 0xD00DFEED
VERSION, LAST_COMPATIBLE = 17, 16
_HEADER = struct.Struct(">10I")
_BEGIN, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
MAX_BYTES = 1 << 21
_DEPTH = 16


@dataclass(slots=True)
class Node:
    """One node of a tree."""

    properties: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Node] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """A property that is one big-endian number. Raises ValueError if it is missing."""
        value = self.properties.get(name)
        if value is None or len(value) not in (4, 8):
            raise ValueError(f"no number {name}")
        return int.from_bytes(value, "big")

    def data(self, name: str) -> bytes:
        """A property. Raises ValueError if it is missing."""
        value = self.properties.get(name)
        if value is None:
            raise ValueError(f"no property {name}")
        return value

    def child(self, name: str) -> Node:
        """A child. Raises ValueError if it is missing."""
        found = self.children.get(name)
        if found is None:
            raise ValueError(f"no node {name}")
        return found


def cell(value: int) -> bytes:
    """A number of 64 bits as a property."""
    return value.to_bytes(8, "big")


def total_size(head: bytes) -> int:
    """Length of the tree that begins with `head`. Raises ValueError for what is no tree."""
    if len(head) < _HEADER.size:
        raise ValueError("shorter than a header")
    magic, total = struct.unpack_from(">2I", head)
    if magic != MAGIC or not _HEADER.size <= total <= MAX_BYTES:
        raise ValueError("no device tree")
    return int(total)


def pack(root: Node, reserved: list[tuple[int, int]] | None = None) -> bytes:
    """The tree as bytes; `reserved` are areas (address, length) that nobody may use."""
    strings = bytearray()
    places: dict[str, int] = {}
    body = bytearray()

    def put(node: Node, name: str) -> None:
        body.extend(struct.pack(">I", _BEGIN) + _padded(name.encode() + b"\0"))
        for key, value in node.properties.items():
            if key not in places:
                places[key] = len(strings)
                strings.extend(key.encode() + b"\0")
            body.extend(struct.pack(">3I", _PROP, len(value), places[key]) + _padded(value))
        for key, child in node.children.items():
            put(child, key)
        body.extend(struct.pack(">I", _END_NODE))

    put(root, "")
    body.extend(struct.pack(">I", _END))
    areas = b"".join(struct.pack(">2Q", *area) for area in [*(reserved or ()), (0, 0)])
    map_at = _HEADER.size
    struct_at = map_at + len(areas)
    strings_at = struct_at + len(body)
    total = strings_at + len(strings)
    header = _HEADER.pack(
        MAGIC, total, struct_at, strings_at, map_at, VERSION, LAST_COMPATIBLE, 0, len(strings), len(body)
    )
    return header + areas + bytes(body) + bytes(strings)


def unpack(data: bytes) -> tuple[Node, list[tuple[int, int]]]:
    """The tree and its reserved areas. Raises ValueError for what is malformed."""
    data = data[: total_size(data)]
    head = _HEADER.unpack_from(data)
    struct_at, strings_at, map_at = head[2:5]
    try:
        reserved = _reserved(data, map_at)
        reader = _Reader(data, struct_at, strings_at)
        root = reader.node(0)
    except (struct.error, IndexError, UnicodeDecodeError) as wrong:
        raise ValueError(f"malformed device tree: {wrong}") from wrong
    return root, reserved


def _reserved(data: bytes, at: int) -> list[tuple[int, int]]:
    areas = []
    while (area := struct.unpack_from(">2Q", data, at)) != (0, 0):
        areas.append((int(area[0]), int(area[1])))
        at += 16
    return areas


class _Reader:
    """The structure block, read from the front."""

    def __init__(self, data: bytes, at: int, strings: int) -> None:
        self._data = data
        self._at = at
        self._strings = strings

    def node(self, depth: int) -> Node:
        if depth > _DEPTH or self._token() != _BEGIN:
            raise ValueError("malformed device tree: no node where one begins")
        self._name(self._at)
        return self._inside(depth)

    def _inside(self, depth: int) -> Node:
        end = self._data.index(b"\0", self._at) + 1
        self._at = end + -end % 4
        made = Node()
        while True:
            at = self._at
            token = self._token()
            if token == _PROP:
                length, name = struct.unpack_from(">2I", self._data, self._at)
                value = self._data[self._at + 8 : self._at + 8 + length]
                if len(value) != length:
                    raise ValueError("malformed device tree: a property leaves it")
                made.properties[self._name(self._strings + name)] = value
                self._at += 8 + length + -length % 4
            elif token == _BEGIN:
                name_text = self._name(self._at)
                self._at = at
                made.children[name_text] = self.node(depth + 1)
            elif token == _END_NODE:
                return made
            elif token != _NOP:
                raise ValueError("malformed device tree: an unknown token")

    def _token(self) -> int:
        (token,) = struct.unpack_from(">I", self._data, self._at)
        self._at += 4
        return int(token)

    def _name(self, at: int) -> str:
        return self._data[at : self._data.index(b"\0", at)].decode("ascii")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
