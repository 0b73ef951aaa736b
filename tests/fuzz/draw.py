"""Drawing what a fuzzer tries: numbers and bytes that sit at edges, near what is right, or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

EDGES = (
    0,
    1,
    2,
    7,
    8,
    0xFF,
    0xFFF,
    0x1000,
    0xFFFF,
    0x10000,
    1 << 20,
    1 << 31,
    (1 << 32) - 1,
    1 << 52,
    (1 << 64) - 1,
)
PAGE = 4096
NEAR = (-PAGE, -8, -1, 1, 8, PAGE, 1 << 20, 1 << 21)
STRIDES = (1, 8, PAGE, 1 << 21)


def number(random: Random, known: Sequence[int] = (), bits: int = 64) -> int:
    """An edge, a number that was seen before, something near one, or anything. Hot: it draws little."""
    drawn = random.getrandbits(16)
    way = drawn & 7
    if way < 3 and known:
        value = known[(drawn >> 3) % len(known)]
        if way == 1:
            value += NEAR[drawn % len(NEAR)]
        elif way == 2:
            value ^= 1 << random.getrandbits(8) % bits
    elif way < 6:
        value = EDGES[(drawn >> 3) % len(EDGES)]
    elif way == 6:
        value = (drawn >> 3 & 63) * STRIDES[drawn >> 9 & 3]
    else:
        value = random.getrandbits(bits)
    return value % (1 << bits)


def changed(random: Random, data: bytes) -> bytes:
    """`data` with a few mistakes in it."""
    made = bytearray(data)
    for _ in range(random.randrange(1, 5)):
        way = random.randrange(5)
        at = random.randrange(len(made)) if made else 0
        if way == 0 and made:
            made[at] ^= 1 << random.randrange(8)
        elif way == 1:
            made[at:at] = random.randbytes(random.randrange(1, 9))
        elif way == 2 and made:
            del made[at : at + random.randrange(1, 9)]
        elif way == 3 and made:
            made[at] = random.choice((0, 1, 0x7F, 0x80, 0xC1, 0xFF))
        else:
            made += made[at : at + random.randrange(1, 33)]
    return bytes(made)


def anything(random: Random, deep: int = 0) -> Any:
    """A plain value of any kind."""
    ways = 6 if deep > 3 else 8
    way = random.randrange(ways)
    if way == 0:
        return random.choice((None, True, False, 0.5, float("inf")))
    if way in (1, 2):
        return random.choice((number(random), -number(random, bits=63)))
    if way == 3:
        return random.randbytes(random.choice((0, 1, 16, 32, 300)))
    if way in (4, 5):
        return "".join(random.choices("az0x-_. \u00e9\U0001f511\0", k=random.randrange(12)))
    if way == 6:
        return [anything(random, deep + 1) for _ in range(random.randrange(5))]
    return {f"k{random.randrange(5)}": anything(random, deep + 1) for _ in range(random.randrange(5))}
