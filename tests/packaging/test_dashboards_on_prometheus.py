"""Every query of every dashboard, asked of a real Prometheus that holds a recorded run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dashboards.recorded import MISSING, PROMETHEUS, PROMTOOL, Server, recorded

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMTOOL is None or PROMETHEUS is None, reason=MISSING),
]
FLAGS = {
    "arch": "s390",
    "paths": "direct,nested,hosted",
    "l1.count": "2",
    "guest.image_pages": "4",
    "guest.touch_pages": "4",
    "guest.share_pages": "2",
    "run.swap_pages": "2",
}
# The one about the program itself has nothing to say of a run that is over: test_dashboards_live.py asks it.
FILES = [path for path in sorted((ROOT / "dashboards").glob("*.json")) if path.stem != "runtime"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A comparison that ran, in a Prometheus."""
    with recorded(tmp_path_factory.mktemp("prometheus"), "default", FLAGS) as made:
        yield made


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_panel_shows_something_and_all_of_it_is_finite(server: Server, file: Path) -> None:
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel["targets"]:
            values = server.values(target["expr"], once=target.get("instant", False))
            assert values, (panel["title"], target["expr"])
            assert all(math.isfinite(value) for value in values), panel["title"]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_marks_stand_where_things_happened(server: Server, file: Path) -> None:
    began, gone, faults = json.loads(file.read_text())["annotations"]["list"]
    (at,) = {value / 1000 for value in server.values(began["expr"], once=False)}
    assert began["useValueForTime"] and at == pytest.approx(server.began, abs=1)
    assert server.values(gone["expr"], once=False)
    kinds = {each["metric"]["kind"] for each in server.series(faults["expr"], once=False, step=0.1)}
    assert kinds, "two faults a page, at the least"
    assert "vsock" not in kinds


def test_the_verdicts_are_those_of_the_counts(server: Server) -> None:
    """The dashboard's own arithmetic against a plain sum over the same storage."""
    board = json.loads((ROOT / "dashboards/nested-against-hosted.json").read_text())
    panels = {panel["title"]: panel["targets"][0]["expr"] for panel in board["panels"]}
    for measure, family in {
        "Exits": "nestbed_exits_total",
        "Calls at the TE": "nestbed_te_issued_total",
        "Addresses translated": "nestbed_address_translations_total",
    }.items():
        (nested,) = server.values(f'sum({family}{{path="nested"}}) or vector(0)', once=True)
        (hosted,) = server.values(f'sum({family}{{path="hosted"}}) or vector(0)', once=True)
        assert nested > 0
        assert server.values(panels[f"{measure}: difference"], once=True) == [nested - hosted]
        sign = (nested > hosted) - (nested < hosted)
        assert server.values(panels[f"{measure}: verdict"], once=True) == [sign]
