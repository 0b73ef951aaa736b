"""Packets of virtio-vsock: a header of 44 bytes, little-endian, and what follows it."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple

HEADER = struct.Struct("<QQIIIHHIII")
STREAM = 1
PAYLOAD = 64 * 1024  # most bytes of one packet


class Op(IntEnum):
    """What a packet is for."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shut(IntFlag):
    """Flags of SHUTDOWN: what its sender will not do any more."""

    RECEIVE = 1
    SEND = 2


class Packet(NamedTuple):
    """One packet. `buf_alloc` and `fwd_cnt` tell the peer how much it may send."""

    src_cid: int
    dst_cid: int
    src_port: int
    dst_port: int
    op: Op
    buf_alloc: int = 0
    fwd_cnt: int = 0
    flags: int = 0
    data: bytes = b""
    type: int = STREAM

    def pack(self) -> bytes:
        head = (self.src_cid, self.dst_cid, self.src_port, self.dst_port, len(self.data))
        tail = (self.type, int(self.op), self.flags, self.buf_alloc, self.fwd_cnt)
        return HEADER.pack(*head, *tail) + self.data


def unpack(raw: bytes) -> Packet:
    """Return the packet in `raw`; raises ValueError: too short, another length, an operation that is none."""
    if len(raw) < HEADER.size:
        raise ValueError(f"a header has {HEADER.size} bytes, not {len(raw)}")
    src, dst, src_port, dst_port, length, kind, op, flags, buf_alloc, fwd_cnt = HEADER.unpack_from(raw)
    if length != len(raw) - HEADER.size or length > PAYLOAD:
        raise ValueError(f"{length} bytes announced, {len(raw) - HEADER.size} there, at most {PAYLOAD}")
    if src >> 32 or dst >> 32:
        raise ValueError("the upper half of a context id is zero")
    return Packet(src, dst, src_port, dst_port, Op(op), buf_alloc, fwd_cnt, flags, raw[HEADER.size :], kind)
