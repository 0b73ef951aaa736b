# ruff: noqa: T201 - it prints what it found
"""`./x endurance`: what takes minutes to hours, part by part, and a table of what came of it.

Each part is a process of its own; what fails goes on to the next part, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors import exit_codes
from benchmarks.progress import Progress

ROOT = Path(__file__).parents[1]
STEPS = 5_000  # of one seed of the soak


@dataclass(frozen=True)
class Asked:
    """How much."""

    seed: int
    calls: int
    seeds: int
    kills: int
    mib: int


Part = Callable[[Asked], tuple[bool, str]]  # whether it held, and what was done


def _pytest(*files: str, **environment: str) -> tuple[bool, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-n0", *files]  # -s: tests say how far they are
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | environment, check=False)
    return not ran.returncode, ", ".join(f"{name.removeprefix('NESTBED_').lower()} {value}"
                                         for name, value in environment.items())  # fmt: skip


def _program(*arguments: str) -> tuple[bool, str]:
    """A program whose last line says what it did; what it says is passed on at once."""
    last, command = "", [sys.executable, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, bufsize=1) as program:
        assert program.stdout is not None
        for line in program.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return not program.returncode, last


def dump(asked: Asked) -> tuple[bool, str]:
    """A guest is dumped and opened, at depth 0 and 1."""
    return _pytest("tests/protocol/arch/s390/machine/test_whole_dump.py", NESTBED_DUMP_MIB=str(asked.mib))


def deaths(asked: Asked) -> tuple[bool, str]:
    """Processes of a deployment are killed at random moments."""
    return _pytest("tests/actors/deployment/test_deaths.py", NESTBED_KILLS=str(asked.kills))


def hosting(_: Asked) -> tuple[bool, str]:
    """Starts while everybody is killed."""
    return _pytest("tests/actors/hosting/test_soak.py", NESTBED_SOAK="10000x100")


def guests(_: Asked) -> tuple[bool, str]:
    """Ten thousand secure guests at rest in twelve processes, within 2 GiB."""
    return _program("-m", "benchmarks.many_guests")


def fuzz(asked: Asked) -> tuple[bool, str]:
    """Calls of all architectures, with any block in any state."""
    return _program("-P", "tests/fuzz/run.py", "--calls", str(asked.calls), "--seed", str(asked.seed))


def orders(_: Asked) -> tuple[bool, str]:
    """A host is cut at every message, and all goes on in every order."""
    return _program("-P", "tests/simulation/orders.py")


def soak(asked: Asked) -> tuple[bool, str]:
    """Whole deployments on simulated time, with faults: every fourth seed for liveness."""
    said, found = Progress("soak", asked.seeds, "seeds"), []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for body in pool.map(_soaked, range(asked.seed, asked.seed + asked.seeds)):
            found.append(body)
            said(len(found), f"{found.count(None)} with a violation")
    done = [body for body in found if body is not None]
    steps, faults = sum(body["steps"] for body in done), sum(sum(body["faults"].values()) for body in done)
    checks, violations = sum(sum(body["checks"].values()) for body in done), len(found) - len(done)
    seeds = f"seeds {asked.seed} to {asked.seed + asked.seeds - 1}"
    did = f"{steps:,} steps, {faults:,} faults, {checks:,} checks, {violations} violations"
    return not violations, f"{seeds}: {did}"


def _soaked(seed: int) -> dict[str, Any] | None:
    """What one seed did; None, with all it says, where something was violated."""
    mode = "liveness" if seed % 4 == 3 else "safety"
    # Which kinds of guests there are, and whether a fleet, goes by the number of the episode.
    what = ["--seed", str(seed), "--episode", str(seed // 4), "--steps", str(STEPS)]
    command = [sys.executable, "-P", "-m", "nestbed", "soak", *what]
    ran = subprocess.run(
        [*command, "--mode", mode, "--json"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        print(ran.stdout + ran.stderr, flush=True)
        return None
    body: dict[str, Any] = json.loads(ran.stdout)
    return body


def coverage(_: Asked) -> tuple[bool, str]:
    """Every branch of protocol/ is taken by a test, or its exception is argued."""
    return _program("-P", "tests/covered.py")


PARTS: dict[str, Part] = {
    each.__name__: each for each in (dump, deaths, hosting, guests, orders, soak, fuzz, coverage)
}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./x endurance", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="of calls and of the first deployment")
    parser.add_argument("--calls", type=int, default=10_000_000, help="that are fuzzed")
    parser.add_argument("--seeds", type=int, default=200, help=f"of the soak, {STEPS:,} steps each")
    parser.add_argument("--kills", type=int, default=200, help="of processes of a deployment")
    parser.add_argument("--mib", type=int, default=1024, help="of the guest that is dumped")
    chosen = parser.parse_args(arguments)
    asked = Asked(chosen.seed, chosen.calls, chosen.seeds, chosen.kills, chosen.mib)
    rows: list[tuple[str, str, str, str]] = []
    try:
        for name in chosen.only or PARTS:
            rows.append(_row(name, asked))
            print(*rows[-1], flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted: what is below was done")
    print(f"\n{'part':8} {'result':7} {'took':>8}  what")
    for name, result, took, what in rows:
        print(f"{name:8} {result:7} {took:>8}  {what}")
    if len(rows) < len(chosen.only or PARTS):
        return exit_codes.INTERRUPTED
    return 1 if any(row[1] != "ok" for row in rows) else 0


def _row(name: str, asked: Asked) -> tuple[str, str, str, str]:
    """A part is run: its name, result, time and what it did."""
    print(f"== {name}: {(PARTS[name].__doc__ or '').strip()}", flush=True)
    began = time.monotonic()
    held, what = PARTS[name](asked)
    return name, "ok" if held else "FAILED", f"{time.monotonic() - began:,.0f} s", what


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
