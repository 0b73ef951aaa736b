"""What a path does not do while others do is named, or their totals would not compare like with like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from protocol.plan.scenario import PATHS, Scenario
from protocol.plan.workload import workload


@pytest.mark.parametrize("reboots", [0, 1, 3])
@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_a_phase_that_only_other_paths_have_is_named_with_its_reason(reboots: int, deaths: int) -> None:
    scenario = replace(Scenario(), run=replace(Scenario().run, reboots=reboots, deaths=deaths))
    plans = {path: workload(scenario, path) for path in PATHS}
    happens = {phase for plan in plans.values() for phase in plan.phases}
    for path, plan in plans.items():
        missing = happens - set(plan.phases)
        assert missing <= set(plan.absent), path
        assert all(plan.absent[phase] for phase in missing)
        assert not set(plan.absent) & set(plan.phases)
