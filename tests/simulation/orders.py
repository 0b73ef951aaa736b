# ruff: noqa: T201 - it prints what it found
"""Every order of every story, and a table of it: the part `orders` of `./x endurance`.

The victim of a story is cut at each of its messages, by a reboot and by its end; the stories of the hosting
service are told whole. One is told by each CPU at a time. How far they are goes to stderr.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import hosting_explorer
from explorer import explore, messages
from progress import Progress
from stories import ENDS, HOSTING, STORIES, Story

SUMMARY = "Every order of every story, and a table of it."
Told = tuple[int, int, int, float]  # cuts, states, orders that were counted, seconds


def _cut(story: Story, how: str, stride: int) -> Told:
    """Raises AssertionError where something does not hold."""
    began = time.monotonic()
    said = Progress(f"{story}, {how}", -(-messages(story.make()) // stride), "cuts")
    found = explore(story.make, how, 0, stride, lambda now: said(now.cuts, f"{len(now.follows):,} states"))
    return found.cuts, len(found.follows), found.orders, time.monotonic() - began


def _hosted(name: str) -> Told:
    """Raises AssertionError where something does not hold."""
    began = time.monotonic()
    states, _ = hosting_explorer.explore(HOSTING[name])
    return 0, states, 0, time.monotonic() - began


def stories(stride: int) -> dict[str, Callable[[], Told]]:
    """All that there is to tell, the longest first."""
    hosts = {f"{each}, {how}": partial(_cut, each, how, stride) for each in STORIES[::-1] for how in ENDS}
    return hosts | {f"hosting: {name}": partial(_hosted, name) for name in HOSTING}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests/simulation/orders.py", description=SUMMARY)
    parser.add_argument("--only", metavar="WORD", help="stories alone in whose names it is")
    parser.add_argument("--stride", type=int, default=1, help="cut at every so manyth message (1: at each)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per CPU")
    asked = parser.parse_args(arguments)
    chosen = {name: tell for name, tell in stories(asked.stride).items() if (asked.only or "") in name}
    if not chosen:
        parser.error(f"no story has {asked.only!r} in its name; there are: {', '.join(stories(1))}")
    cuts, states, failed, said = 0, 0, 0, Progress("orders", len(chosen), "stories", 0)
    print(f"{'story':44} {'cuts':>5} {'states':>8} {'orders':>22} {'took':>8}", flush=True)
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("fork")) as pool:
        under_way = {pool.submit(tell): name for name, tell in chosen.items()}
        for done, future in enumerate(as_completed(under_way), 1):
            name = under_way[future]
            try:
                told = future.result()
            except AssertionError as error:
                print(f"FAILED {name}: {error}", flush=True)
                failed += 1
            else:
                cuts, states = cuts + told[0], states + told[1]
                counted = f"{told[0]:5,} {told[1]:8,} {told[2]:22,}" if told[0] else f"{told[1]:14,} {'':22}"
                print(f"{name:44} {counted} {told[3]:6,.0f} s", flush=True)
            said(done, f"{cuts:,} cuts, {states:,} states")
    print(f"{len(chosen)} stories, {cuts:,} cuts, {states:,} states, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
