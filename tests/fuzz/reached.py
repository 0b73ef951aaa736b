# ruff: noqa: T201 - it prints what it found
"""`./x fuzz --reached`: which checks of the call tables the fuzzer's calls provoke.

The recorders of the conformance suite tell (`tests/conformance/NAME_recorder.py`). Where two checks of a row
answer one code and the recorder cannot tell them apart, none of them counts as reached.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from calls import Rig, calls

from protocol.arch import load
from protocol.watch import Watch

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))


def reached(seed: int, names: list[str], wanted: int) -> int:
    """Deal so many calls of each architecture and print the share of its checks. Returns the exit code."""
    recorder = import_module("recorder")
    for name in names:
        arch = name.removeprefix("calls-")
        recorder.found.clear()
        import_module(f"{arch}_recorder").pytest_configure()  # for calls of guests
        kinds = vars(import_module(f"protocol.arch.{arch}.watch")).values()
        kind = next(
            each for each in kinds if isinstance(each, type) and issubclass(each, Watch) and each is not Watch
        )
        own = recorder.watching(kind)()
        Rig.watch = staticmethod(partial(_attach, own))
        count, number = 0, 0
        while count < wanted:
            count += sum(1 for _ in calls(arch, Random(f"{name}:{seed}:{number}")))
            number += 1
        provoked = {(call, place) for each in recorder.found.values() for call, place, *_ in each}
        for who, rows in _rows(arch):
            every = [(row.name, place) for row in rows for place in range(len(row.checks))]
            met = sum(check in provoked for check in every)
            print(f"{arch:5} {who:6} {met:>4} of {len(every):>4} checks, {count:,} calls", flush=True)
    return 0


def _attach(own: Watch, levels: list[Any]) -> None:
    for level in levels:
        own.attach(level)


def _rows(arch: str) -> list[tuple[str, list]]:  # type: ignore[type-arg]
    rows = list(load(arch).calls.values())
    return [
        ("hosts", [row for row in rows if row.for_host()]),
        ("guests", [row for row in rows if not row.for_host()]),
    ]
