"""How much of a comparison is its seed: the same scenario run with several.

Two ranges are kept apart: over the seeds with all costs as they are, and over the costs with the seed as it
is. That over the seeds is from the least to the most of N runs. Another seed falls into it with probability
(N - 1) / (N + 1), whatever the distribution: the interval of order statistics, which assumes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from actors.compare.hatched import bars
from actors.compare.markup import escaped, table, tag
from actors.compare.outcome import Json, Outcome
from actors.compare.progress import Progress
from actors.compare.run import run
from protocol.cost.table import Costs
from protocol.plan.scenario import Scenario

LARGEST_SEED = 2**63 - 1


def seeds_of(scenario: Scenario, count: int) -> list[int]:
    """That of the scenario and those behind it; past the largest that there is they go on at 0."""
    return [(scenario.seed + step) % (LARGEST_SEED + 1) for step in range(count)]


def over_seeds(
    scenario: Scenario, first: Outcome, count: int, costs: Costs | None, progress: Progress
) -> Json:
    """Run the seeds behind the one of `first`; what each result has in all of them.

    Raises actors.compare.progress.Stopped.
    """
    seeds = seeds_of(scenario, count)
    runs = [first.results]
    for seed in seeds[1:]:
        other = run(replace(scenario, seed=seed), Quiet(progress), costs=costs)
        progress.phase("seed", str(seed), 0, 0)  # a run that was stopped is no run
        runs.append(other.results)
    return {"seeds": seeds, "rows": [_row(same) for same in zip(*runs, strict=True)]}


class Quiet(Progress):
    """Shows nothing, and ends with the one that the person can stop."""

    def __init__(self, outer: Progress) -> None:
        super().__init__()
        self._outer = outer

    def phase(self, path: str, phase: str, done: int, total: int) -> None:
        self.stopped = self._outer.stopped
        super().phase(path, phase, done, total)


def _row(results: Sequence[Json]) -> Json:
    one = results[0]
    row = {name: one[name] for name in ("arch", "path", "depth")}
    row["exits"] = [result["counts"].get("exits", 0) for result in results]
    if one.get("modelled"):
        row["ns"] = [result["modelled"]["ns"] for result in results]
        row["costs_ns"] = [one["modelled"][name] for name in ("low_ns", "high_ns")]
    return row


def chance(count: int) -> float:
    """The probability that one more seed falls between the least and the most of so many."""
    return (count - 1) / (count + 1)


def _name(row: Json) -> str:
    return f"{row['arch']} {row['path']}"


def seeds_section(found: Json | None) -> Iterator[str]:
    """The section of the report; nothing where one seed was run."""
    if not found:
        return
    seeds = found["seeds"]
    yield tag("h2", "Over the seeds", id="seeds")
    yield tag(
        "p",
        escaped(
            f"The same scenario with seeds {seeds[0]} to {seeds[-1]}, from the least to the most of "
            f"{len(seeds)} runs. Another seed falls between with a probability of {chance(len(seeds)):.0%}. "
            "Beside it, for the first seed, what the ranges of all costs allow: the two are not the same "
            "kind of doubt."
        ),
        class_="note",
    )
    rows = [row for row in found["rows"] if "ns" in row]
    drawn = []
    for row in rows:
        low, high = min(row["ns"]), max(row["ns"])
        drawn.append((f"{_name(row)}, seeds", row["path"], (row["ns"][0], low, high)))
        drawn.append((f"{_name(row)}, costs", row["path"], (row["ns"][0], *row["costs_ns"])))
    yield bars("Whole run, over seeds and over costs", drawn)
    yield table(
        ["exits at L0", "this seed", "least", "most"],
        [
            [
                _name(row),
                *(f"{value:,}" for value in (row["exits"][0], min(row["exits"]), max(row["exits"]))),
            ]
            for row in found["rows"]
        ],
    )
