"""`nestbed load` against a deployment that runs: its hosts and its broker, in processes of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from actors.deployment.reach import Here
from actors.deployment.settings import scenario_of
from actors.load.elsewhere import against, running
from actors.load.run import blocks, judged
from protocol.load.requests import Request
from protocol.plan.scenario import Load, Mix

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("placement", ["together", "apart"])
async def test_a_running_deployment_bears_load_on_both_paths(lab: Any, placement: str) -> None:
    async with lab(load=None, placement=placement, scenario={"l1.count": "1"}) as up:
        deployment = up.deployed.assignment.deployment
        scenario = replace(
            up.deployed.assignment.scenario,
            paths=("nested", "hosted"),
            load=Load(
                rate_per_min=600,
                duration_s=1,
                pairs=1,
                warm_up="none",
                mix=Mix(run=2, restart=1, page_change=1, swap=1),
            ),
        )
        assert scenario.run.swap_pages, "or a swap does nothing"
        sides = await blocks(scenario, 0, against(Here(up.place), deployment, scenario))
        answer = judged(scenario, sides)
        for path in ("nested", "hosted"):
            assert answer["paths"][path]["measured"] > 0
            assert answer["paths"][path]["errors"] == 0
        assert answer["paths"]["nested"]["measured"] == answer["paths"]["hosted"]["measured"]
        json.dumps(answer)


async def test_guests_of_all_hosts_are_numbered_through_and_go_back(lab: Any) -> None:
    async with lab(load=None, placement="together") as up:
        deployment = up.deployed.assignment.deployment
        scenario = scenario_of(deployment).scenario
        for path in ("nested", "hosted"):
            async with running(Here(up.place), deployment, scenario, path) as found:
                assert list(found.guests) == [0, 1]
                for number, kind in enumerate(("run", "restart", "page_change", "swap")):
                    await found.ask(Request(number, 0.0, kind, number % 2), lambda: None)


async def test_arrivals_that_were_recorded_come_again(lab: Any) -> None:
    async with lab(load=None, placement="together", scenario={"l1.count": "1"}) as up:
        deployment = up.deployed.assignment.deployment
        scenario = replace(
            up.deployed.assignment.scenario,
            paths=("nested", "hosted"),
            load=Load(arrivals="replay", pairs=1, warm_up="none", mix=Mix(run=1, restart=0, page_change=0)),
        )
        times = [0.0, 0.01, 0.02, 0.05]
        sides = await blocks(scenario, 0, against(Here(up.place), deployment, scenario, replay=times))
        assert {path: side["measured"] for path, side in sides.items()} == {"nested": 4, "hosted": 4}
