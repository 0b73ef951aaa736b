"""The scenario `snp-mailbox`: fifty SNP guests of one host, launched through the machine's one mailbox."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from actors.compare.progress import Progress
from actors.compare.run import run
from actors.scenario import load

PAGES, VCPUS = 64, 1  # of each guest's launch, as the scenario has it


def issued(result: dict[str, Any], phase: str) -> dict[str, int]:
    """Commands that reached the machine's secure processor in a phase, by name."""
    found: dict[str, int] = {}
    for key, n in result["phases"][phase].items():
        family, _, labels = key.partition(".")
        if family == "te_issued" and labels and not labels.startswith(("RMPUPDATE", "PSMASH")):
            name = labels.split(".")[0]
            found[name] = found.get(name, 0) + n
    return found


@pytest.mark.slow
def test_fifty_guests_of_one_l1_are_launched_through_one_mailbox() -> None:
    """N + V + 4 commands each (6.4), none more for all that they wait for one another."""
    scenario = load("snp-mailbox").scenario
    guests = scenario.guest.per_l1
    assert (guests, scenario.guest.image_pages, scenario.guest.vcpus) == (50, PAGES, VCPUS)
    fewer = replace(scenario.guest, touch_pages=2, share_pages=0)
    quiet = replace(scenario.run, page_changes=0)
    (result,) = run(replace(scenario, paths=("nested",), guest=fewer, run=quiet), Progress()).results
    create, loaded = issued(result, "create"), issued(result, "load")
    assert create == dict.fromkeys(("SNP_GCTX_CREATE", "SNP_LAUNCH_START", "SNP_ACTIVATE"), guests)
    assert loaded == {"SNP_LAUNCH_UPDATE": guests * (PAGES + VCPUS), "SNP_LAUNCH_FINISH": guests}
    assert sum((create | loaded).values()) == guests * (PAGES + VCPUS + 4)
    assert issued(result, "boot") == issued(result, "run") == {}
