"""The reviewed list of what a host at depth 1 or more can tell from the real thing, and why.

Every entry is a promise that nothing else differs: `same` drops exactly what stands here before it compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from driver import Json

FENCED_FEATURES = 0x4C00_0000_0000_0000  # bits 1, 4 and 5 of the feature indications
QUERY = b"\x00\x01"


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that may differ between depths: what, why, and how it is taken out of an answer."""

    name: str
    reason: str
    drop: Callable[[Json, Json], Json]


def _of_a_query(request: Json, answer: Json, offset: int, width: int) -> Json:
    """Blank `width` bytes at `offset` where `answer` is the block of a query, read back from its start."""
    if request["op"] != "read" or "ok" not in answer:
        return answer
    block = bytearray.fromhex(answer["ok"]["hex"])
    if len(block) < 0xA8 or bytes(block[2:4]) != QUERY:
        return answer
    block[offset : offset + width] = bytes(width)
    return answer | {"ok": {"hex": block.hex()}}


def _features(request: Json, answer: Json) -> Json:
    return _of_a_query(request, answer, 0xA0, 8)


def _storage_limit(request: Json, answer: Json) -> Json:
    return _of_a_query(request, answer, 0x80, 8)


def _without(op: str, *keys: str) -> Callable[[Json, Json], Json]:
    def drop(request: Json, answer: Json) -> Json:
        if request["op"] != op or "ok" not in answer:
            return answer
        return answer | {"ok": {key: value for key, value in answer["ok"].items() if key not in keys}}

    return drop


def _books(request: Json, answer: Json) -> Json:
    """What the levels below keep is theirs; what the Ultravisor knows of the host is not."""
    if request["op"] != "audit" or "ok" not in answer:
        return answer
    hosts = [
        {key: value for key, value in host.items() if key != "tracked"} for host in answer["ok"]["hosts"]
    ]
    return answer | {"ok": answer["ok"] | {"hosts": hosts}}


DIFFERENCES = (
    Difference(
        "feature bits 1, 4 and 5 are zero",
        "adapter interrupt virtualisation, AP and AP interrupts reach through to hardware",
        _features,
    ),
    Difference(
        "max_guest_stor_addr is at most the host's memory size",
        "a guest of a guest host cannot be larger than the memory that the level below maps for it",
        _storage_limit,
    ),
    Difference(
        "info names the depth",
        "the console's own statement, not the architecture's",
        _without("info", "depth"),
    ),
    Difference(
        "counts.machine", "what a request took below is what depth means", _without("counts", "machine")
    ),
    Difference(
        "audit.tracked", "the books of the levels below exist only where there are such levels", _books
    ),
)


def without_differences(request: Json, answer: Json) -> Json:
    """`answer` with everything taken out that may differ between depths."""
    for difference in DIFFERENCES:
        answer = difference.drop(request, answer)
    return answer
