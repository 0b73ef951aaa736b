"""What can be measured on this machine without its hypervisor: copies, ciphers, digests, round trips,
processes.

Each is repeated; the value is the median, the bounds are the 5th and the 95th percentile. What stands for
an entry of the cost table names it. A process is no VMM, and a Unix socket no VSOCK: those are shown and
go into no overlay.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from actors.runtime import roundtrip
from protocol.cost.calibrate import Estimate

PAGE = 4096
AREA_PAGES = 16_384  # 64 MiB: no cache holds it
UNIT = 1 << 20
REPEATS = 31
TRIPS = 2000
PROCESSES = 15


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of one. `cost` is the entry that it stands for; "" if for none."""

    what: str
    cost: str
    estimate: Estimate


def measured() -> Iterator[Measured]:
    """Everything that can be measured here, one after the other."""
    area = np.frombuffer(os.urandom(PAGE * AREA_PAGES), dtype=np.uint8)
    target = np.empty_like(area)
    data = area.tobytes()
    yield Measured("copy of a page", "common.copy_page", _per_page(lambda: np.copyto(target, area)))
    yield Measured("AES-XTS of a page", "common.aes_page", _per_page(lambda: _aes(data)))
    yield Measured("SHA-384 of a page", "", _per_page(lambda: hashlib.sha384(data).digest(), 7))
    yield Measured("round trip over a Unix socket", "", spread(roundtrip.unix(TRIPS)))
    trips = roundtrip.vsock(TRIPS)
    if trips is not None:
        yield Measured("round trip over VSOCK to this machine", "common.vsock_rtt", spread(trips))
    yield Measured("start and end of a process", "", spread([_process() for _ in range(PROCESSES)]))


def _per_page(work: Callable[[], object], repeats: int = REPEATS) -> Estimate:
    """Seconds for each page of the area."""
    work()
    return spread([_timed(work) / AREA_PAGES for _ in range(repeats)])


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _aes(data: bytes) -> None:
    """In data units of 1 MiB: one unit may not be longer than 16, and a call each would cost more than it."""
    cipher = Cipher(algorithms.AES(bytes(range(64))), modes.XTS(bytes(16)))
    view = memoryview(data)
    for at in range(0, len(data), UNIT):
        cipher.encryptor().update(view[at : at + UNIT])


def _process() -> float:
    return _timed(lambda: subprocess.run(["/bin/true"], check=False))


def spread(seconds: list[float]) -> Estimate:
    """The median, with the 5th and the 95th percentile."""
    low, value, high = np.percentile(seconds, (5, 50, 95))
    return Estimate(float(value), float(low), float(high))
