"""The record of the conformance suite, `protocol/arch/NAME/coverage.py`: which test provokes which check.

A plugin of the suite, `tests/conformance/NAME_recorder.py`, writes down what is provoked while tests run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
TESTS = 3  # named for each check
SEVERAL = -2  # in the place of a check: one of several with this code

# test -> (call, place of the check, -1 or SEVERAL, code, level: 0 for the machine)
Found = Mapping[str, Iterable[tuple[str, int, int, int]]]


def record_file(arch: str) -> Path:
    """Where the record of an architecture is."""
    return ROOT / "protocol" / "arch" / arch / "coverage.py"


def measure(arch: str, where: Iterable[str]) -> Found:
    """Run tests with the recorder of an architecture: what each of them provoked."""
    with TemporaryDirectory() as folder:
        into = Path(folder) / "record.json"
        path = os.pathsep.join((str(ROOT / "tests" / "conformance"), os.environ.get("PYTHONPATH", "")))
        environment = os.environ | {"PYTHONPATH": path, "NESTBED_RECORD": str(into)}
        command = [sys.executable, "-m", "pytest", "-q", "-p", f"{arch}_recorder", *where]
        ran = subprocess.run(  # noqa: S603 - the arguments are this module's own
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise SystemExit(f"the suite did not pass:\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}")
        found: Found = json.loads(into.read_text())
        return found


def record(found: Found) -> str:
    """The text of coverage.py: for each check the tests that provoke it, those that provoke least besides."""
    tests: dict[str, set[tuple[object, ...]]] = defaultdict(set)
    for test, provoked in found.items():
        tests[re.sub(r"\[.*", "", test)] |= {tuple(each) for each in provoked}
    checks: dict[tuple[str, int], list[str]] = defaultdict(list)
    general: dict[int, list[str]] = defaultdict(list)
    for test in sorted(tests, key=lambda test: (len(tests[test]), test)):
        for call, place, code, _ in sorted(tests[test], key=str):
            if int(str(place)) == SEVERAL:
                continue
            kept = checks[str(call), int(str(place))] if place != -1 else general[int(str(code))]
            if test not in kept and len(kept) < TESTS:
                kept.append(test)
    named = sorted({test for kept in (*checks.values(), *general.values()) for test in kept})
    place_of = {test: number for number, test in enumerate(named)}
    lines = [
        '"""Which test provokes which check: made by `docs/build.py --measure`, do not edit."""',
        "",
        "from __future__ import annotations",
        "",
        "TESTS = (",
        *(f'    "{test}",' for test in named),
        ")",
        "# (call, place of the check in its row) -> tests, the most specific first",
        "_COVERED = {",
        *(_entry(repr(key).replace("'", '"'), checks[key], place_of) for key in sorted(checks)),
        "}",
        "# code of a check that every call makes -> tests",
        "_GENERAL: dict[int, tuple[int, ...]] = {",
        *(_entry(f"{code:#06x}", general[code], place_of) for code in sorted(general) if code),
        "}",
        "COVERED = {key: tuple(TESTS[number] for number in tests) for key, tests in _COVERED.items()}",
        "GENERAL_COVERED = {rc: tuple(TESTS[number] for number in tests) for rc, tests in _GENERAL.items()}",
    ]
    return "\n".join(lines) + "\n"


def _entry(key: str, tests: Iterable[str], place_of: Mapping[str, int]) -> str:
    numbers = [str(place_of[test]) for test in tests]
    return f"    {key}: ({', '.join(numbers)}{',' if len(numbers) == 1 else ''}),"
