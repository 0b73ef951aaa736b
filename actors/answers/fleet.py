"""(j) A fleet of 1,000 machines and 1,000,000 secure guests, from the bulk emulation of one shard."""

from __future__ import annotations

import numpy as np

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from actors.load.recorded import of_result
from protocol.arch import load
from protocol.queueing.demand import Demands, Place
from protocol.queueing.engine import Step
from protocol.queueing.fleet import Waits, started

SCENARIO = "fleet"
ARCH = "s390"
MACHINES, GUESTS = 1_000, 1_000  # guests of each machine
SHARD_GUESTS = 32
SIZES = (10, 100, 1_000)  # machines
USED = 0.7  # of the narrowest resource
SLOW = "snp"  # whose machine has one secure processor for all


def fleet() -> Page:
    """The page."""
    rows = []
    for path in ("nested", "hosted"):
        result = r.result(r.outcome(SCENARIO), ARCH, path)
        each = {
            "exits": r.counted(result, "exits", r.LIFE) / SHARD_GUESTS,
            "calls": r.counted(result, "te_issued", r.LIFE) / SHARD_GUESTS,
            "bytes": sum(plane["bytes"] for plane in result["tracking"]["l0"].values()) / SHARD_GUESTS,
            "ns": r.modelled(result, r.LIFE)["ns"] / SHARD_GUESTS,
        }
        for machines in SIZES:
            guests = machines * GUESTS
            rows.append(
                (
                    f"{path}, {guests:,} guests",
                    f"{each['exits'] * guests:,.0f}",
                    f"{each['calls'] * guests:,.0f}",
                    f"{each['bytes'] * GUESTS / 2**20:,.1f} MiB",
                    f"{each['ns'] * guests / 3.6e12:,.1f} h",
                )
            )
    waits = [row for path in ("nested", "hosted") for row in _waits(path)]
    return Page(
        "j",
        "A fleet: 1,000 machines, 1,000,000 secure guests?",
        (
            "**A fleet is a thousand times a machine, and no more.** Machines share nothing that a "
            "guest's life needs, so cost grows with the guests and with nothing else; what a fleet adds "
            "are more chances to wait.",
            f"Where a machine has one of something, as {SLOW} has one secure processor, that decides how "
            "many guests it can start, and whether they are nested or hosted does not.",
        ),
        (
            Grid(
                (
                    "lives of guests of 33 MiB",
                    "exits",
                    "real calls",
                    "tracked at each L0",
                    "modelled CPU time",
                ),
                rows,
                f"{ARCH}, worked out from one shard of {SHARD_GUESTS} guests in bulk, whose counts are "
                "exact.",
            ),
            Grid(
                ("starts of 1,000,000 guests", "mean", "p50", "p99", "longest"),
                waits,
                "How long a guest waits for its start, with the narrowest resource of each machine used "
                f"to 70 %, and with all {GUESTS:,} guests of each machine asked for at once.",
            ),
        ),
        (
            "Every machine of the fleet is alike, and every guest; their times of arrival are not.",
            "CPUs do not run out in this model, and nothing is lost or repeated.",
        ),
        (SCENARIO, "impact"),
    )


def _waits(path: str) -> list[tuple[str, ...]]:
    """The queues of the architecture whose machines have one secure processor."""
    result = r.result(r.outcome("impact"), SLOW, path)
    recorded = of_result(load(SLOW), result, 2)
    steps = Demands(r.costs(), "snp").steps(recorded.request("start"), Place(0, 0))
    held, alone = split(steps)
    found = []
    for name, between in ((f"at {USED:.0%}", held / USED), ("all at once", 0.0)):
        waits = started(MACHINES, GUESTS, held, alone, between, np.random.default_rng(1))
        found.append((f"{SLOW} {path}, {name}", *_shown(waits)))
    return found


def split(steps: list[Step]) -> tuple[float, float]:
    """Nanoseconds of one start that need the secure processor, and all others."""
    held = sum(step.ns for step in steps if "psp_mailbox" in step.servers)
    return held, sum(step.ns for step in steps) - held


def _shown(waits: Waits) -> tuple[str, ...]:
    return tuple(duration(ns) for ns in (waits.mean_ns, waits.p50_ns, waits.p99_ns, waits.largest_ns))
