# ruff: noqa: T201 - it prints what it found
"""`./x fuzz`: give every door of the program what nobody would give it, until time is over.

An input is known by its target, a seed and its number, and made from these alone: what fails is printed with
the command that makes it again. `corpus.txt` beside this file has inputs that once failed; they go first.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

import documents
import wires
from calls import DEALERS, calls

Target = Callable[[Random], Iterator[str]]
TARGETS: dict[str, Target] = {
    **{f"calls-{arch}": partial(calls, arch) for arch in DEALERS},
    **{made.__name__: made for made in (wires.frames, wires.records, wires.structs, wires.hosting)},
    **{
        made.__name__: made
        for made in (
            documents.console,
            documents.scenario,
            documents.policy,
            documents.transcript,
            documents.image,
        )
    },
}
CORPUS = Path(__file__).parent / "corpus.txt"


def one(name: str, seed: int, number: int) -> Counter[str]:
    """Do one input; how often which answer came. Raises what the program should not."""
    return Counter(TARGETS[name](Random(f"{name}:{seed}:{number}")))


def corpus() -> list[tuple[str, int, int]]:
    rows = [line.split() for line in CORPUS.read_text().splitlines() if line and not line.startswith("#")]
    return [(name, int(seed), int(number)) for name, seed, number in rows]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./x fuzz", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=0, help="stop after that time; 0: never")
    parser.add_argument(
        "--seed", type=int, default=None, help="of all inputs; another one each time if not given"
    )
    parser.add_argument("--only", choices=sorted(TARGETS), action="append", help="these targets alone")
    parser.add_argument("--input", type=int, default=None, help="this input alone")
    parser.add_argument("--calls", type=int, default=0, help="calls alone, of all architectures, so many")
    asked = parser.parse_args(arguments)
    names = asked.only or [name for name in TARGETS if not asked.calls or name.startswith("calls-")]
    seed = asked.seed if asked.seed is not None else time.time_ns() % 1_000_000
    if asked.input is not None:
        for name in names:
            print(name, dict(one(name, seed, asked.input)))
        return 0
    for name, at, number in corpus():
        if name in names:
            one(name, at, number)
    return _until(asked.seconds, names, seed, asked.calls)


def _until(seconds: float, names: list[str], seed: int, calls: int = 0) -> int:
    """Targets in turn. Returns the exit code."""
    began, number = time.monotonic(), 0
    tried: Counter[str] = Counter()
    failed: set[str] = set()
    try:
        while (not seconds or time.monotonic() - began < seconds) and (
            not calls or sum(tried.values()) < calls
        ):
            for name in names:
                try:
                    tried[name] += sum(one(name, seed, number).values())
                except Exception:
                    failed.add(name)
                    traceback.print_exc()
                    print(f"again: ./x fuzz --only {name} --seed {seed} --input {number}", flush=True)
                if seconds and time.monotonic() - began >= seconds:
                    break
            gc.collect()
            number += 1
    except KeyboardInterrupt:
        pass
    for name in names:
        print(f"{name:16} {tried[name]:>12,} inputs{'  FAILED' if name in failed else ''}")
    print(f"seed {seed}, {sum(tried.values()):,} inputs in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
