"""Episodes in a row until the steps are done or something does not hold; then the search for less."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from protocol.soak.episode import Episode
from protocol.soak.isolation import alone_and_beside
from protocol.soak.options import EPISODE, KINDS, Options, Tally, Violation
from protocol.soak.ports import Architecture

ISOLATED = 3  # every so many episodes one life is compared beside a hostile host and alone


@dataclass(frozen=True, slots=True)
class Failure:
    """Where what did not hold: `without` has what need not go wrong for it."""

    check: str
    detail: str
    episode: int
    step: int
    without: frozenset[str] = frozenset()

    def body(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "detail": self.detail,
            "episode": self.episode,
            "step": self.step,
            "without": sorted(self.without),
        }


@dataclass(slots=True)
class Outcome:
    """What a soak came to."""

    options: Options
    tally: Tally
    episodes: int = 0
    failure: Failure | None = None

    def body(self) -> dict[str, Any]:
        """The object of `--json`."""
        options, tally = self.options, self.tally
        return {
            "seed": options.seed,
            "arch": options.arch,
            "mode": options.mode,
            "without": sorted(options.without),
            "episodes": self.episodes,
            "steps": tally.steps,
            "faults": dict(sorted(tally.faults.items())),
            "checks": dict(sorted(tally.checks.items())),
            "done": dict(sorted(tally.done.items())),
            "violations": [self.failure.body()] if self.failure else [],
            "trace": tally.trace,
        }


def _unheard() -> None:
    """Nobody waits for a word."""


def soak(
    options: Options,
    arches: Mapping[str, Architecture],
    progress: Callable[[Tally, int], None] | None = None,
) -> Outcome:
    """Run deployments of `arches` until the steps are done, or something does not hold.

    `progress` is told what was done up to now, and in which episode: some ten times in each.
    """
    outcome = Outcome(options, Tally())
    for number in _numbers(options):
        left = options.steps - outcome.tally.steps
        if left <= 0:
            break
        outcome.episodes += 1
        looked = partial(progress, outcome.tally, number) if progress is not None else _unheard
        outcome.failure = one(options, arches, number, min(left, EPISODE), outcome.tally, looked)
        if outcome.failure is not None:
            break
        gc.collect()  # an episode is one large knot of references
        looked()
    return outcome


def _numbers(options: Options) -> Iterator[int]:
    if options.episode is not None:
        yield options.episode
        return
    number = 0
    while True:
        yield number
        number += 1


def one(
    options: Options,
    arches: Mapping[str, Architecture],
    number: int,
    steps: int,
    tally: Tally,
    looked: Callable[[], None] = _unheard,
) -> Failure | None:
    """One episode; what did not hold in it."""
    episode = Episode(options, number, tally, arches)
    try:
        episode.run(steps, looked)
        if number % ISOLATED == 0 and "hostile" not in options.without:
            arch = arches[sorted(arches)[number // ISOLATED % len(arches)]]
            alone_and_beside(arch, 1 + number // ISOLATED % 2, episode.seed, tally)
    except Violation as violation:
        tally.note("violation", violation.check)
        return Failure(violation.check, violation.detail, number, episode.step, options.without)
    return None


def shrink(outcome: Outcome, arches: Mapping[str, Architecture]) -> Failure:
    """The same check failing with as few kinds of faults as can be, and the step at which it does."""
    assert outcome.failure is not None, "nothing failed"
    best, options = outcome.failure, outcome.options
    for kind in KINDS:
        without = best.without | {kind}
        again = one(replace(options, without=without), arches, best.episode, EPISODE, Tally())
        if again is not None and again.check == best.check:
            best = again
    return best
