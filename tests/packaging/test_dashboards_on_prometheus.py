"""Every query of every dashboard, asked of a real Prometheus that holds a recorded run."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from actors.compare.openmetrics import Recording
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.scenario import load

Json = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
PROMTOOL = os.environ.get("NESTBED_PROMTOOL") or shutil.which("promtool")
PROMETHEUS = os.environ.get("NESTBED_PROMETHEUS") or shutil.which("prometheus")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROMTOOL is None or PROMETHEUS is None,
        reason="there is no prometheus with promtool (Debian: apt install prometheus)",
    ),
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
FILES = sorted((ROOT / "dashboards").glob("*.json"))


class Server:
    """A Prometheus on loopback, and the time of the run that it holds."""

    def __init__(self, port: int, began: float, ended: float) -> None:
        self.port, self.began, self.ended = port, began, ended

    def ask(self, what: str, **parameters: Any) -> list[Json]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urlencode(parameters)}"
        with urlopen(url, timeout=10) as answer:
            said = json.load(answer)
        assert said["status"] == "success"
        return said["data"]["result"]

    def values(self, query: str, *, once: bool) -> list[float]:
        """All numbers that a panel would draw."""
        for name, value in {"$__rate_interval": "1m", "$__range": "15m"}.items():
            query = query.replace(name, value)
        query = re.sub(r"\$\w+", ".*", query)
        if once:
            return [float(each["value"][1]) for each in self.ask("query", query=query, time=self.ended + 1)]
        times = {"start": self.began, "end": self.ended + 15, "step": 1}
        series = self.ask("query_range", query=query, **times)
        return [float(value) for each in series for _, value in each["values"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a comparison, make storage of its record, and serve that."""
    folder = tmp_path_factory.mktemp("prometheus")
    progress = Progress()
    progress.recording = Recording()
    outcome = run(load("default", flags=FLAGS, environment={}).scenario, progress)
    text = progress.recording.text(outcome.results)
    (folder / "metrics.om").write_text(text)
    (folder / "none.yml").write_text("scrape_configs: []\n")
    make = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", "metrics.om", "data"]
    subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [
        PROMETHEUS,
        "--config.file=none.yml",
        "--storage.tsdb.path=data",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    times = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")]
    with subprocess.Popen(serve, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if "Server is ready" in line:
                    break
            else:
                pytest.fail("prometheus did not start:\n" + "".join(said[-20:]))
            yield Server(port, min(times), max(times))
        finally:
            process.kill()


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_every_panel_shows_something_and_all_of_it_is_finite(server: Server, file: Path) -> None:
    for panel in json.loads(file.read_text())["panels"]:
        for target in panel["targets"]:
            values = server.values(target["expr"], once=target.get("instant", False))
            assert values, (panel["title"], target["expr"])
            assert all(math.isfinite(value) for value in values), panel["title"]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_marks_stand_where_things_happened(server: Server, file: Path) -> None:
    began, gone = json.loads(file.read_text())["annotations"]["list"]
    (at,) = {value / 1000 for value in server.values(began["expr"], once=False)}
    assert began["useValueForTime"] and at == pytest.approx(server.began, abs=1)
    assert server.values(gone["expr"], once=False)


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
