"""Two benches, one in runs and one in single calls, and all that has to be alike. A plain module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from host_bench import FIRST, Bench, Size

from protocol.arch.s390.host.memory import mapped
from protocol.arch.s390.machine import Machine
from protocol.arch.s390.machine.memory import plaintext
from protocol.arch.s390.nesting import Nested
from protocol.arch.s390.runs import here
from protocol.plan.operations import (
    Operation,
)

MIB = 12
IMAGE = 40
SPAN = MIB * 256 - FIRST - IMAGE  # pages that a guest may touch or share
SIZE = Size(2, IMAGE, 0, 0, MIB)


# -- what there is ---------------------------------------------------------------------------------


def levels(bench: Bench) -> Iterator[Machine | Nested]:
    """The level that the host stands on, then what that stands on, down to the machine."""
    level: Any = bench.level
    while level is not None:
        found = here(level)
        assert found is not None
        yield found
        level = found.below.memory if isinstance(found, Nested) else None


def state(bench: Bench) -> dict[str, Any]:
    """Everything that anyone could find out later, frames' numbers apart."""
    machine = next(level for level in levels(bench) if isinstance(level, Machine))
    host = bench.host
    found: dict[str, Any] = {
        "machine": np.bincount(machine.state, minlength=5).tolist(),
        "guests": {},
        "free": host.pool.free + host.backing.left if host.query else None,
        "leaked": host.leaked,
    }
    for config in machine.configs.values():
        pages = np.flatnonzero(config.resident)
        content = {
            page: (int(machine.state[frame]), plaintext(machine, frame))
            for page, frame in zip(pages.tolist(), (config.resident[pages] - 1).tolist(), strict=True)
        }
        shared = sorted(int(machine.guest_page[frame]) for frame in config.shared)
        found["guests"][config.handle] = (
            config.state,
            content,
            shared,
            sorted(config.exported),
            config.generation,
        )
    for number, guest in host.guests.items():
        found[f"mapped {number}"] = mapped(bench.host.level, guest.table)[0].tolist()
        found[f"swapped {number}"] = sorted(guest.swapped or {})
    for level in levels(bench):
        if isinstance(level, Nested):
            found[f"level {level.level}"] = books(level)
    return found


def books(nested: Nested) -> dict[str, Any]:
    owned = np.flatnonzero(nested.page_owner)
    return {
        "owned": sorted(
            zip(nested.page_owner[owned].tolist(), nested.page_number[owned].tolist(), strict=True)
        ),
        "attention": Counter(nested.attention.tolist()),
        "shadows": {
            serial: sorted(
                (number, index)
                for number, segment in space.segments.items()
                for index, frame in enumerate(segment)
                if frame
            )
            for serial, space in nested.shadows.spaces.items()
        },
        "mapped": Counter(nested.shadows.mapper[nested.shadows.mapper != 0].tolist()),
        "away": sorted(nested.away.values()),
        "pins": sorted(nested.pins.values()),
        "live": nested.book.records(),
        "peaks": nested.book.peaks(),
        "below": nested.below.pool.free,
        "promised": nested.below.promised,
    }


def follow(bench: Bench) -> None:
    """From the host's table down to the machine: every level has the page in the frame that the next has."""
    for guest in bench.host.guests.values():
        pages, frames = mapped(bench.host.level, guest.table)
        handle = guest.handle
        for level in levels(bench):
            if isinstance(level, Machine):
                config = level.configs[handle]
                resident = config.resident[pages] != 0
                assert (config.resident[pages][resident] - 1 == frames[resident]).all()
                continue
            tracked = level.configs[handle]
            for page, frame in zip(pages.tolist(), frames.tolist(), strict=True):
                shadowed = tracked.space.frame_of(page)
                assert shadowed in (None, frame)
            handle, frames = tracked.real, level.slots[frames]


def pair(depth: int, **options: Any) -> tuple[Bench, Bench]:
    return Bench(depth, SIZE, **options), Bench(depth, SIZE, bulk=True, **options)


def alike(one: Bench, run: Bench, operation: Operation) -> None:
    assert one.do(operation) == run.do(operation), operation
