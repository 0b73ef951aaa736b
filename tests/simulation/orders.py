# ruff: noqa: T201 - it prints what it found
"""Every order of every story, and a table of it: the part `orders` of `./x endurance`.

The victim of a story is cut at each of its messages, by a reboot and by its end; the stories of the hosting
service are told whole. Pieces of a few cuts are looked at side by side. How far it is goes to stderr.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import hosting_explorer
from explorer import Explored, explore, messages
from stories import ENDS, HOSTING, STORIES, Story

from benchmarks.progress import Progress

SUMMARY = "Every order of every story, and a table of it."
PIECE = 6  # cuts: neighbours have many states in common, which are gone into once


@dataclass
class Told:
    """What came of a story up to now."""

    found: Explored = field(default_factory=Explored)
    states: int = 0
    seconds: float = 0.0  # of the CPU's time, of all its pieces
    left: int = 0  # pieces


def _cut(story: Story, how: str, first: int, stride: int) -> Told:
    """A piece of a story. Raises AssertionError where something does not hold."""
    began = _cpu()
    found = explore(story.make, how, first, stride, first + PIECE * stride)
    return Told(found, len(found.follows), _cpu() - began)


def _hosted(name: str) -> Told:
    """Raises AssertionError where something does not hold."""
    began = _cpu()
    states, _ = hosting_explorer.explore(HOSTING[name])
    return Told(Explored(), states, _cpu() - began)


def _cpu() -> float:
    """Seconds of the CPU's time that this process and its copies have taken: however busy the machine is."""
    return sum(os.times()[:4])


def pieces(word: str, stride: int) -> dict[str, list[Callable[[], Told]]]:
    """The pieces of each story in whose name is `word`, the longest story first."""
    found: dict[str, list[Callable[[], Told]]] = {}
    for story in STORIES[::-1]:
        for name, how in ((f"{story}, {how}", how) for how in ENDS):
            if word in name:
                firsts = range(0, messages(story.make()), PIECE * stride)
                found[name] = [partial(_cut, story, how, first, stride) for first in firsts]
    hosting = ((f"hosting: {name}", name) for name in HOSTING)
    return found | {whole: [partial(_hosted, name)] for whole, name in hosting if word in whole}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tests/simulation/orders.py", description=SUMMARY)
    parser.add_argument("--only", metavar="WORD", default="", help="stories alone in whose names it is")
    parser.add_argument("--stride", type=int, default=1, help="cut at every so manyth message (1: at each)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per CPU")
    asked = parser.parse_args(arguments)
    chosen = pieces(asked.only, asked.stride)
    if not chosen:
        parser.error(f"no story has {asked.only!r} in its name; there are: {'; '.join(pieces('', 1))}")
    print(f"{'story':44} {'cuts':>5} {'states':>8} {'orders':>22} {'seconds of CPU':>14}", flush=True)
    with ProcessPoolExecutor(asked.processes, multiprocessing.get_context("fork")) as pool:
        stories, failed = _all(pool, chosen)
    cuts, states = sum(each.found.cuts for each in stories), sum(each.states for each in stories)
    print(
        f"{len(chosen)} stories, {cuts:,} cuts, {states:,} states, {failed} failed, "
        f"{sum(each.seconds for each in stories):,.0f} s of the CPU's time"
    )
    return 1 if failed else 0


def _all(pool: ProcessPoolExecutor, chosen: dict[str, list[Callable[[], Told]]]) -> tuple[list[Told], int]:
    """What came of all stories, and how many pieces failed. A story is printed when it is done."""
    told, failed = {name: Told(left=len(of)) for name, of in chosen.items()}, 0
    under_way = {pool.submit(piece): name for name, of in chosen.items() for piece in of}
    said = Progress("orders", len(under_way), "pieces")
    for done, future in enumerate(as_completed(under_way), 1):
        name = under_way[future]
        story = told[name]
        story.left -= 1
        try:
            piece = future.result()
        except AssertionError as error:
            print(f"FAILED {name}: {error}", flush=True)
            failed += 1
        else:
            story.found.add(piece.found)
            story.states = len(story.found.follows) or piece.states
            story.seconds += piece.seconds
        if not story.left:
            print(_row(name, story), flush=True)
        said(done, f"{sum(each.states for each in told.values()):,} states")
    return list(told.values()), failed


def _row(name: str, story: Told) -> str:
    cuts, orders = story.found.cuts, story.found.orders
    counted = f"{cuts:5,} {story.states:8,} {orders:22,}" if cuts else f"{story.states:14,} {'':22}"
    return f"{name:44} {counted} {story.seconds:14,.0f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
