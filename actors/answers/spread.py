"""(i) One guest host with many guests, or many with one."""

from __future__ import annotations

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from actors.compare.outcome import Json
from actors.load.recorded import of_result
from protocol.arch import load
from protocol.cost.formulas import groups
from protocol.queueing.demand import Demands, Place
from protocol.queueing.engine import Engine, Job

SCENARIO = "spread"
GUESTS = 8
SHAPES = ((1, 8), (2, 4), (8, 1))
ARCH = "s390"


def spread() -> Page:
    """The page."""
    counts, times, tracked = [], [], []
    starts: dict[str, list[float]] = {"nested": [], "hosted": []}
    whole: dict[str, list[int]] = {"nested": [], "hosted": []}
    for path in ("nested", "hosted"):
        exits, lives, records = [], [], []
        for hosts, each in SHAPES:
            outcome = r.outcome(SCENARIO, l1__count=str(hosts), guest__per_l1=str(each))
            result = r.result(outcome, ARCH, path)
            exits.append(f"{r.counted(result, 'exits', (*r.LIFE, 'host_setup')):,}")
            ns = r.modelled(result, (*r.LIFE, "host_setup"))["ns"]
            lives.append(duration(ns))
            whole[path].append(ns)
            records.append(f"{sum(plane['records'] for plane in result['tracking']['l0'].values()):,}")
            starts[path].append(_start(result, path, hosts))
        counts.append((f"{path}, exits", *exits))
        times.append((f"{path}, modelled", *lives))
        tracked.append((f"{path}, records that L0 keeps", *records))
    rows = [*counts, *times, *tracked]
    rows += [
        (f"{path}, mean start of all at once", *(duration(ns) for ns in starts[path])) for path in starts
    ]
    dearer = whole["hosted"][-1] / whole["hosted"][0]
    ratio = starts["nested"][0] / starts["nested"][-1]
    return Page(
        "i",
        "One guest host with many guests, or many with one?",
        (
            f"**It {'matters' if max(ratio, dearer) > 1.5 else 'hardly matters'}.** Eight guests cost "
            "the same calls whoever owns them, and each guest host adds its own set-up: nested a "
            "handful of exits, hosted its image, which L0 keeps apart for each owner and which "
            f"therefore travels again ({dearer:.2f} times the modelled time with eight owners instead of "
            "one).",
            "Each guest host's tracking table has one lock; started at once, the guests of one guest "
            f"host take {ratio:.2f} times as long as those of eight.",
            "A host that carries many guests is a larger loss when it reboots; how much larger is "
            "question (c).",
        ),
        (Grid((f"{ARCH}, 8 guests", *(f"{hosts} x {each}" for hosts, each in SHAPES)), rows),),
        (
            "One tracking lock for each guest host is a choice of this model (`lock.common.l0_track`), "
            "not of any hypervisor that was measured; a finer one moves the last rows together.",
        ),
        (SCENARIO,),
    )


def _start(result: Json, path: str, hosts: int) -> float:
    recorded = of_result(load(ARCH), result, GUESTS)
    demands = Demands(r.costs(), groups().get(ARCH, ARCH))
    jobs = [
        Job(str(guest), 0.0, demands.steps(recorded.request("start"), Place(guest * hosts // GUESTS, guest)))
        for guest in range(GUESTS)
    ]
    done = Engine(demands.server).run(jobs).done
    return sum(each.latency_ns for each in done) / GUESTS
