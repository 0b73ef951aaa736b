"""(a) What is the performance impact? Counts first, then modelled time, then what a busy guest loses."""

from __future__ import annotations

from collections.abc import Iterator

from actors.answers import runs as r
from actors.answers.page import Grid, Page
from actors.compare.answer import duration
from actors.compare.outcome import Outcome
from actors.compare.sensitivity import said
from actors.load.recorded import of_result
from protocol.arch import load
from protocol.cost.formulas import groups
from protocol.queueing.demand import Demands, Place
from protocol.queueing.engine import Engine, Job

SCENARIO = "impact"
PATHS = ("direct", "nested", "hosted")
RATES = (1_000, 10_000, 100_000)
STARTS = (1, 10, 50)


def impact() -> Page:
    """The page."""
    outcome = r.outcome(SCENARIO)
    more, longer = [], []
    for arch in r.arches():
        rests = outcome.sensitivity[arch]
        exits = [r.counted(r.result(outcome, arch, path), "exits", r.LIFE) for path in ("nested", "direct")]
        more.append(f"{exits[0] / exits[1]:.1f} on {arch}")
        longer.append(f"{rests['ratio']:.2f} on {arch} ({rests['low']:.2f} to {rests['high']:.2f})")
    return Page(
        "a",
        "What is the performance impact?",
        (
            "**It depends on what a guest does.** A nested guest costs several times the exits of the same "
            "guest on L0 itself: "
            + ", ".join(more)
            + ". In modelled time its life takes longer than a hosted "
            "one's by the factor " + ", ".join(longer) + ".",
            "Hosting costs next to no exits more than a guest of L0 itself; it pays for its requests "
            "instead. Where the Trusted Entity is the bottleneck, as the secure processor of SEV is, "
            "both ways wait for it alike and nesting hardly shows; where exits dominate, it does.",
        ),
        (_exits(outcome), _time(outcome), _lost(), _starts(outcome), *_verdicts(outcome)),
        (
            "Exits are arrivals at L0 and exact for this scenario; modelled time is counts times the "
            "table of costs, whose ranges are wide, and for s390 and PEF nearly all assumptions.",
            "The guests' own time is in no figure, nor is that of devices.",
        ),
        (SCENARIO,),
    )


def _exits(outcome: Outcome) -> Grid:
    rows = []
    for arch in r.arches():
        counts = [r.counted(r.result(outcome, arch, path), "exits", r.LIFE) for path in PATHS]
        rows.append((arch, *(f"{count:,}" for count in counts), r.times(counts[1], counts[0])))
    return Grid(
        ("exits at L0", *PATHS, "nested to direct"),
        rows,
        "Two guests, from creation to end, without host set-up.",
    )


def _time(outcome: Outcome) -> Grid:
    rows = [
        (arch, *(r.spanned(r.modelled(r.result(outcome, arch, path), r.LIFE)) for path in PATHS))
        for arch in r.arches()
    ]
    return Grid(
        ("modelled time", *PATHS), rows, "The same lives in virtual time, with the range of all costs."
    )


def _lost() -> Grid:
    rows = []
    for arch in r.arches():
        for path in ("nested", "hosted"):
            cells = []
            for rate in RATES:
                shares = [
                    100 * r.formulas(arch, which).lost(path, rate) for which in ("value", "low", "high")
                ]
                cells.append(r.ranged(shares, " %"))
            rows.append((f"{arch} {path}", *cells))
    heads = ("CPU time lost", *(f"{rate:,} exits/s" for rate in RATES))
    return Grid(
        heads, rows, "What exits take from a CPU-bound guest, by formula; above 100 % it cannot make so many."
    )


def _starts(outcome: Outcome) -> Grid:
    rows = []
    for arch in r.arches():
        for path in ("nested", "hosted"):
            means = [_mean_start(outcome, arch, path, guests) for guests in STARTS]
            slope = (means[-1] - means[0]) / (STARTS[-1] - STARTS[0])
            rows.append((f"{arch} {path}", *(duration(mean) for mean in means), duration(slope)))
    return Grid(
        ("mean start", *(f"{guests} at once" for guests in STARTS), "each further guest"),
        rows,
        "Guests of one host that start together: create, load and boot as recorded, queued for the "
        "locks of the table.",
    )


def _mean_start(outcome: Outcome, arch: str, path: str, guests: int) -> float:
    result = r.result(outcome, arch, path)
    recorded = of_result(load(arch), result, outcome_guests())
    demands = Demands(r.costs(), groups().get(arch, arch))
    engine = Engine(demands.server)
    jobs = [
        Job(str(guest), 0.0, demands.steps(recorded.request("start"), Place(0, guest)))
        for guest in range(guests)
    ]
    done = engine.run(jobs).done
    return sum(each.latency_ns for each in done) / guests


def outcome_guests() -> int:
    """Guests of the scenario."""
    from actors.scenario import load as scenario

    resolved = scenario(SCENARIO).scenario
    return resolved.l1.count * resolved.guest.per_l1


def _verdicts(outcome: Outcome) -> Iterator[Grid]:
    for arch in r.arches():
        rows = [(text,) for text in said(outcome.sensitivity[arch])]
        yield Grid((f"{arch}: what the verdict rests on",), rows)
