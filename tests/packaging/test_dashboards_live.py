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

from dashboards.live import running, scraping
from dashboards.recorded import MISSING, PROMETHEUS, PROMTOOL, Server

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROMTOOL is None or PROMETHEUS is None, reason=MISSING),
]
# One process has no links and nobody who restarts it; those panels are asked for an answer, not for series.
MAY_BE_EMPTY = {"Frames over links a second", "Calls on links"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def server(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with scraping(tmp_path_factory.mktemp("live"), address, scrapes=3) as made:
        yield made


def test_what_is_served_is_what_promtool_allows(address: str) -> None:
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read()
    assert PROMTOOL is not None
    said = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_target_is_up_and_has_the_labels_that_it_was_given(server: Server) -> None:
    (up,) = server.ask("query", query='up{job="nestbed"}', time=server.ended)
    assert (up["metric"]["rank"], up["value"][1]) == ("0", "1")


def test_the_runtime_is_shown(server: Server) -> None:
    for panel in json.loads((ROOT / "dashboards" / "runtime.json").read_text())["panels"]:
        for target in panel["targets"]:
            values = server.values(target["expr"], once=target.get("instant", False))
            assert values or panel["title"] in MAY_BE_EMPTY, panel["title"]
            assert all(math.isfinite(value) for value in values), panel["title"]
