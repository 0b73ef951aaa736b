"""`./x bench --peers`: nestbed's runtime beside other actor runtimes and messaging libraries, in one run.

Rounds are interleaved: every runtime once, then every one again, so that a busy moment hits all alike. Each
figure is the median of the rounds, with its spread (largest less smallest, over the median). A ratio above 1
is in favour of nestbed. What is not installed is left out and named: `pip install 'nestbed[peers]'`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.measures import BEGAN, DEATH, FIRST, FIRST_REMOTE, MEMORY, UNITS

HERE = Path(__file__).resolve().parent

OURS = "nestbed"
PEERS = {
    "Pykka": ("pykka", "pykka_threads.py"),
    "Thespian": ("thespian", "thespian_simple.py"),
    "pyzmq": ("zmq", "zmq_dealer.py"),
    "xoscar": ("xoscar", "xoscar_pool.py"),
    "Ray": ("ray", "ray_actors.py"),
}
LESS_IS_BETTER = (MEMORY, DEATH, FIRST, FIRST_REMOTE)
PATIENCE_S = 180

Figures = dict[str, float]


def figures(program: str) -> Figures | str:
    """What a runtime's program tells; why there is nothing, if there is nothing."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), BEGAN: str(time.time())}
    try:
        ran = subprocess.run(
            [sys.executable, str(HERE / program)],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done within {PATIENCE_S} s"
    if ran.returncode:
        return (ran.stderr.strip().splitlines() or ["no word"])[-1]
    told: Figures = json.loads(ran.stdout.strip().splitlines()[-1])
    return told


def measure(rounds: int, only: str | None) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """All rounds of all that is there, and why the others are missing."""
    programs, missing = {OURS: "nestbed_itself.py"}, {}
    for name, (module, program) in PEERS.items():
        if only is not None and only.lower() not in name.lower():
            continue
        if find_spec(module) is None:
            missing[name] = "not installed"
        else:
            programs[name] = program
    done: dict[str, list[Figures]] = {name: [] for name in programs}
    for number in range(rounds):
        for name, program in programs.items():
            if name in missing:
                continue
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            told = figures(program)
            if isinstance(told, str):
                missing[name] = told
            else:
                done[name].append(told)
    return done, missing


def rows(done: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """One row for each discipline and each peer that has it."""
    found = []
    for discipline, unit in UNITS.items():
        ours = [told[discipline] for told in done[OURS] if discipline in told]
        for name, rounds in done.items():
            theirs = [told[discipline] for told in rounds if discipline in told]
            if name == OURS or not theirs or not ours:
                continue
            ratio = median(ours) / median(theirs)
            if discipline in LESS_IS_BETTER:
                ratio = 1 / ratio
            found.append(
                {
                    "name": f"{discipline}, beside {name}",
                    "value": median(ours),
                    "unit": unit,
                    "baseline": median(theirs),
                    "ratio": ratio,
                    "spread": spread(ours),
                    "baseline_spread": spread(theirs),
                }
            )
    return found


def spread(values: list[float]) -> float:
    return (max(values) - min(values)) / median(values)


def main(rounds: int, as_json: bool, only: str | None = None) -> int:
    done, missing = measure(rounds, only)
    if not done[OURS]:
        print(f"nestbed itself: {missing.get(OURS)}", file=sys.stderr)
        return 1
    made = rows(done)
    if as_json:
        print(json.dumps(made, indent=1))
    else:
        print(
            f"{'what':<44} {'nestbed':>12} {'spread':>7} {'peer':>12} {'spread':>7} {'unit':<8} {'ratio':>8}"
        )
        for row in made:
            print(
                f"{row['name']:<44} {row['value']:>12,.0f} {row['spread']:>7.0%} {row['baseline']:>12,.0f} "
                f"{row['baseline_spread']:>7.0%} {row['unit']:<8} {row['ratio']:>8.2f}"
            )
    for name, why in missing.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    return 0
