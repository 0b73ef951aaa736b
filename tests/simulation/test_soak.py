"""`nestbed soak`: one seed is one run, what does not hold is replayed and made smaller, and much is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.commands.soak import command
from protocol.arch import architectures, kinds, load
from protocol.soak import KINDS, Options, Outcome, shrink, soak
from protocol.soak.options import LIVENESS, MODES, SAFETY

SEEDS = int(os.environ.get("NESTBED_SOAK_SEEDS", "8"))
STEPS = int(os.environ.get("NESTBED_SOAK_STEPS", "25000"))
ROOT = Path(__file__).parents[2]
ONLY = {  # why a kind of fault is on one architecture alone
    "swap": "s390",  # elsewhere the level below swaps no pages of secure guests: `Rig.swap` refuses
    "partial": "s390",  # its Ultravisor alone has a profile that answers long calls in pieces
    "interrupt": "tdx",  # its module alone stops half way for one, and says so
}
ARCHES = {name: load(name) for name in kinds()}


def run(options: Options) -> Outcome:
    arches = ARCHES if options.arch is None else {options.arch: ARCHES[options.arch]}
    return soak(options, arches)


def held(outcome: Outcome) -> Outcome:
    """Nothing was violated; else the failure says how to see it again."""
    failure = outcome.failure
    assert failure is None, f"{failure}\nagain: ./x {command(outcome.options, failure)}"
    return outcome


def test_two_runs_of_a_seed_have_one_trace_whatever_the_hash_seed() -> None:
    said = []
    for hash_seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "nestbed", "soak", "--seed", "5", "--steps", "900", "--json"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        said.append(json.loads(ran.stdout))
    assert said[0] == said[1]
    assert {"seed", "commit", "steps", "faults", "checks", "violations", "trace"} <= set(said[0])


def test_another_seed_is_another_run() -> None:
    one, other = (run(Options(seed=seed, steps=600, arch="pef")) for seed in (1, 2))
    assert one.tally.trace != other.tally.trace


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arch", sorted(ARCHES))
def test_a_deployment_of_every_architecture_and_kind_of_guests_holds(arch: str, mode: str) -> None:
    outcome = held(run(Options(seed=3, steps=1200, arch=arch, mode=mode)))
    assert outcome.tally.steps >= 1200
    assert outcome.tally.checks["books"]


def test_kinds_of_faults_can_be_left_out() -> None:
    outcome = held(run(Options(seed=3, steps=3000, arch="pef", without=frozenset(KINDS) - {"hold"})))
    assert set(outcome.tally.faults) <= {"hold"}


@pytest.mark.slow
@pytest.mark.parametrize("arch", architectures())
def test_every_kind_of_fault_comes_on_every_architecture_that_can_have_it(arch: str) -> None:
    wanted = {kind for kind in KINDS if ONLY.get(kind, arch) == arch}
    seen: set[str] = set()
    for seed in range(1, 13):
        beside = seed % 2  # a fleet, or a hosting service
        options = Options(seed=seed, steps=4_000, arch=arch, episode=beside)
        seen |= set(held(run(options)).tally.faults)
        if seen == wanted:
            break
    assert seen == wanted


def test_a_failure_is_replayed_by_its_command_and_needs_less_after_shrinking(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from protocol.arch.pef.nesting import teardown

    def nothing(*_: Any) -> Any:
        yield from ()

    monkeypatch.setattr(teardown, "everything", nothing)
    options = Options(seed=1, steps=20_000, arch="pef")
    outcome = run(options)
    assert outcome.failure is not None
    least = shrink(outcome, {"pef": ARCHES["pef"]})
    assert least.check == outcome.failure.check
    assert least.without > outcome.failure.without
    words = command(options, least).split()
    assert words[:2] == ["nestbed", "soak"]
    again = run(replace(options, episode=least.episode, without=least.without))
    assert again.failure == least


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEEDS))
def test_much_is_run_and_nothing_is_violated(seed: int) -> None:
    """200,000 steps in all; with `./x endurance` a million over 200 seeds."""
    mode = LIVENESS if seed % 4 == 3 else SAFETY
    held(run(Options(seed=1000 + seed, steps=STEPS, mode=mode)))
