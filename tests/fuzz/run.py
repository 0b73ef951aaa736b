# ruff: noqa: T201 - it prints what it found
"""`./x fuzz`: give every door of the program what nobody would give it, until time is over.

An input is known by its target, a seed and its number, and made from these alone: what fails is printed with
the command that makes it again. `corpus.txt` beside this file has inputs that once failed; they go first.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parent))

import beyond
import documents
import files
import images
import papers
import wires
from calls import calls
from dealers import DEALERS
from reached import reached

from benchmarks.progress import Progress

Target = Callable[[Random], Iterator[str]]
Job = tuple[str, int, int]  # target, seed, number of the input
TARGETS: dict[str, Target] = {
    **{f"calls-{arch}": partial(calls, arch) for arch in DEALERS},
    **{
        made.__name__: made
        for made in (
            wires.frames,
            wires.records,
            wires.structs,
            wires.hosting,
            wires.replies,
            beyond.fleet,
            beyond.vsock,
        )
    },
    **{
        made.__name__: made
        for made in (
            documents.console,
            documents.scenario,
            documents.policy,
            documents.transcript,
            *images.TARGETS,
            *papers.TARGETS,
            *files.TARGETS,
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
    parser.add_argument(
        "--only",
        metavar="TARGET",
        choices=sorted(TARGETS),
        action="append",
        help=f"this target alone; may be repeated: {', '.join(sorted(TARGETS))}",
    )
    parser.add_argument("--input", type=int, default=None, help="this input alone")
    parser.add_argument("--calls", type=int, default=0, help="calls alone, of all architectures, so many")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per CPU")
    parser.add_argument(
        "--reached", action="store_true", help="which checks --calls provoke, by architecture"
    )
    asked = parser.parse_args(arguments)
    names = asked.only or [name for name in TARGETS if not asked.calls or name.startswith("calls-")]
    seed = asked.seed if asked.seed is not None else time.time_ns() % 1_000_000
    if asked.reached:
        return reached(seed, [name for name in names if name.startswith("calls-")], asked.calls or 100_000)
    if asked.input is not None:
        for name in names:
            print(name, dict(one(name, seed, asked.input)))
        return 0
    for name, at, number in corpus():
        if name in names:
            one(name, at, number)
    return _until(asked.seconds, names, seed, asked.calls, asked.processes)


def _attempt(job: Job) -> tuple[Job, int, str]:
    """One input: how many were tried with it, and what went wrong."""
    try:
        return job, sum(one(*job).values()), ""
    except Exception:
        return job, 0, traceback.format_exc()
    finally:
        gc.collect()


def _until(seconds: float, names: list[str], seed: int, calls: int, processes: int) -> int:
    """Targets in turn, each once at least, until time is over or each has had its share: the exit code."""
    began = time.monotonic()
    tried: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    share, said = calls / len(names), Progress("fuzz", calls, "calls")

    def jobs() -> Iterator[Job]:
        for number in itertools.count():
            left = [name for name in names if not calls or tried[name] < share]
            if not left or (number and seconds and time.monotonic() - began >= seconds):
                return
            yield from ((name, seed, number) for name in left)

    try:
        for (name, _, number), count, error in _spread(jobs(), processes):
            tried[name] += count
            if calls:
                said(int(sum(min(share, tried[each]) for each in names)), f"{failed.total()} failed")
            if error:
                failed[name] += 1
                print(error + f"again: ./x fuzz --only {name} --seed {seed} --input {number}", flush=True)
    except KeyboardInterrupt:
        pass
    took = time.monotonic() - began
    for name in names:
        print(f"{name:16} {tried[name]:>12,} inputs{f'  {failed[name]} FAILED' if failed[name] else ''}")
    total = sum(tried.values())
    print(f"seed {seed}, {total:,} inputs in {took:.0f} s ({total / max(took, 1e-9):,.0f}/s)")
    return 1 if failed else 0


def _spread(jobs: Iterator[Job], processes: int) -> Iterator[tuple[Job, int, str]]:
    """Do jobs in so many processes, two waiting for each, so that the order of results decides nothing."""
    if processes < 2:
        yield from map(_attempt, jobs)
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, context, max_tasks_per_child=200) as pool:
        waiting = {pool.submit(_attempt, job) for job in itertools.islice(jobs, 2 * processes)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(_attempt, job) for job in itertools.islice(jobs, len(done))}
            yield from (each.result() for each in done)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
