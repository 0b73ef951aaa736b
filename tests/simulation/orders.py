# ruff: noqa: T201 - it prints what it found
"""Every order of every story, and a table of it: the part `orders` of `./x endurance`.

The victim of a story is cut at each of its messages, by a reboot and by its end; the stories of the hosting
service are told whole. Several are looked at at once, one by CPU. How far it is goes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import hosting_explorer
from explorer import Explored, explore, messages
from progress import Progress
from stories import ENDS, HOSTING, STORIES, Story

HEAD = f"{'story':44} {'cuts':>5} {'states':>9} {'distinct':>9} {'orders':>15} {'took':>8}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="tests/simulation/orders.py", description=(__doc__ or "").split("\n\n")[0]
    )
    names = [*(str(story) for story in STORIES), "hosting"]
    parser.add_argument("--only", choices=names, action="append", help="this story alone; may be repeated")
    parser.add_argument(
        "--stride", type=int, default=1, help="cut at every so manyth message; default: 1, at each"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per CPU")
    asked = parser.parse_args(arguments)
    chosen, cuts, states, failed = asked.only or names, 0, 0, 0
    print(HEAD, flush=True)
    for story in (each for each in STORIES if str(each) in chosen):
        for how in ENDS:
            found = _cut(story, how, asked.stride, asked.processes)
            cuts, states, failed = cuts + found.cuts, states + found.looked, failed + bool(found.failed)
    if "hosting" in chosen:
        seen, wrong = _hosting(asked.processes)
        states, failed = states + seen, failed + wrong
    print(f"{cuts:,} cuts, {states:,} states, {failed} stories failed")
    return 1 if failed else 0


def _cut(story: Story, how: str, stride: int, processes: int) -> Explored:
    name, began = f"{story}, {how}", time.monotonic()
    said = Progress(name, -(-messages(story.make()) // stride), "cuts")

    def told(found: Explored) -> None:
        said(found.cuts, f"{found.looked:,} states")

    try:
        found = explore(story.make, how, 0, stride, processes, told)
    except AssertionError as error:
        print(f"FAILED {name}: {error}", flush=True)
        return Explored(failed=str(error))
    row = f"{found.cuts:5,} {found.looked:9,} {len(found.follows):9,} {found.orders:15,}"
    print(f"{name:44} {row} {time.monotonic() - began:6,.0f} s", flush=True)
    return found


def _hosting(processes: int) -> tuple[int, int]:
    """How many states, and how many stories failed."""
    said, done, states, failed = Progress("hosting", len(HOSTING), "stories"), 0, 0, 0
    with ProcessPoolExecutor(processes) as pool:
        under_way = {pool.submit(_timed, name): name for name in HOSTING}
        for future in as_completed(under_way):
            name, done = f"hosting: {under_way[future]}", done + 1
            try:
                seen, ends, took = future.result()
            except AssertionError as error:
                print(f"FAILED {name}: {error}", flush=True)
                failed += 1
                continue
            states += seen
            said(done, f"{states:,} states")
            print(f"{name:44} {'':5} {seen:9,} {seen:9,} {'':>15} {took:6,.0f} s, {ends:,} ends", flush=True)
    return states, failed


def _timed(name: str) -> tuple[int, int, float]:
    began = time.monotonic()
    return *hosting_explorer.explore(HOSTING[name]), time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
