"""What a path does not do while others do is named, or their totals would not compare like with like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.plan.scenario import PATHS, Scenario
from protocol.plan.workload import workload


@pytest.mark.parametrize("reboots", [0, 1, 3])
@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_a_phase_that_only_other_paths_have_is_named_with_its_reason(reboots: int, deaths: int) -> None:
    run = replace(Scenario().run, reboots=reboots, deaths=deaths, dumps=1, level_swaps=1)
    scenario = replace(Scenario(), run=run)
    plans = {path: workload(scenario, path) for path in PATHS}
    happens = {phase for plan in plans.values() for phase in plan.phases}
    for path, plan in plans.items():
        missing = happens - set(plan.phases)
        assert missing <= set(plan.absent), path
        assert all(plan.absent[phase] for phase in missing)
        assert not set(plan.absent) & set(plan.phases)


def test_what_an_architecture_lacks_is_named_where_it_was_asked_for() -> None:
    lacking = {"dump": "it has no such call", "attest": "neither"}
    plan = workload(replace(Scenario(), run=replace(Scenario().run, dumps=1)), "direct")
    lacks = plan.without(lacking)
    assert lacks.absent["dump"] == "it has no such call"
    assert "attest" not in lacks.absent, "nobody asked"
    assert set(plan.phases) - set(lacks.phases) == {"dump"}
