"""A real Prometheus finds a running nestbed by file_sd and scrapes it; the runtime's dashboard shows it."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from dashboards.live import deployed, scraping
from dashboards.recorded import MISSING, PROMETHEUS, PROMTOOL, Server

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMTOOL is None or PROMETHEUS is None, reason=MISSING),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def targets(folder: Path) -> Iterator[list[str]]:
    with deployed(folder) as made:
        yield made


@pytest.fixture(scope="module")
def server(targets: list[str], folder: Path) -> Iterator[Server]:
    with scraping(folder, scrapes=3) as made:
        yield made


def test_what_is_served_is_what_promtool_allows(targets: list[str]) -> None:
    assert PROMTOOL is not None
    for target in targets:
        with urlopen(f"http://{target}/metrics", timeout=60) as answer:
            text = answer.read()
        check = [PROMTOOL, "check", "metrics"]
        said = subprocess.run(check, input=text, capture_output=True, timeout=60, check=False)
        assert said.returncode == 0, said.stdout + said.stderr


def test_every_process_is_found_and_says_what_part_it_is(server: Server) -> None:
    found = server.ask("query", query='up{job="nestbed"}', time=server.ended)
    parts = {"l0-0", "l0-0.l1-0", "l0-0.l1-1", "load"}
    assert {each["metric"]["part"] for each in found} == parts | {"supervisor"}
    assert {each["value"][1] for each in found} == {"1"}


def test_the_supervisor_tells_of_its_children(server: Server) -> None:
    children = 'nestbed_supervised_children{part="supervisor",supervisor="root"}'
    assert server.values(children, once=True) == [4]


def test_what_the_target_says_hides_no_label_of_a_family(server: Server) -> None:
    (renamed,) = server.values('count({__name__=~"nestbed_.*",exported_role!=""}) or vector(0)', once=True)
    assert renamed == 0
    roles = server.ask("query", query="count by (role) (nestbed_actors)", time=server.ended)
    assert {each["metric"]["role"] for each in roles} >= {"te", "kvm", "broker", "host"}


def test_the_runtime_is_shown(server: Server) -> None:
    for panel in json.loads((ROOT / "dashboards" / "runtime.json").read_text())["panels"]:
        for target in panel["targets"]:
            values = server.values(target["expr"], once=target.get("instant", False))
            assert values, panel["title"]
            assert all(math.isfinite(value) for value in values), panel["title"]
