"""A Prometheus on the loopback with a run in it: for tests of the dashboards and for their pictures.

Needs Debian's package `prometheus`, or NESTBED_PROMETHEUS and NESTBED_PROMTOOL.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

from actors.compare.openmetrics import Recording
from actors.compare.progress import Progress
from actors.compare.run import run
from actors.scenario import load

Json = dict[str, Any]
PROMTOOL = os.environ.get("NESTBED_PROMTOOL") or shutil.which("promtool")
PROMETHEUS = os.environ.get("NESTBED_PROMETHEUS") or shutil.which("prometheus")
PORTS = 5  # that are tried
SETTLED_S = 3.0  # a scrape takes a second at most: of what is older nothing more can come
MISSING = "there is no prometheus with promtool (Debian: apt install prometheus)"


class NotStarted(Exception):
    """Prometheus ended before it was ready; the message has what it said last."""


class Server:
    """A Prometheus on loopback, and the time of the run that it holds, in Unix time."""

    def __init__(self, port: int, began: float, ended: float) -> None:
        self.port, self.began, self.ended = port, began, ended

    def ask(self, what: str, **parameters: Any) -> list[Json]:
        """The result of one request to its API."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{urlencode(parameters)}"
        with urlopen(url, timeout=60) as answer:
            said = json.load(answer)
        assert said["status"] == "success"
        found: list[Json] = said["data"]["result"]
        return found

    def series(self, query: str, *, once: bool, step: float = 1, chosen: str = ".*") -> list[Json]:
        """What a panel draws: series with `metric` and `values`, with every variable set to `chosen`."""
        for name, value in {"$__rate_interval": "1m", "$__range": "15m"}.items():
            query = query.replace(name, value)
        query = re.sub(r"\$\w+", chosen, query)
        if once:
            found = self.ask("query", query=query, time=self.ended + 1)
            return [{"metric": each["metric"], "values": [each["value"]]} for each in found]
        return self.ask("query_range", query=query, start=self.began, end=self.ended + 15 * step, step=step)

    def values(self, query: str, *, once: bool) -> list[float]:
        """All numbers that a panel would draw."""
        return [float(value) for each in self.series(query, once=once) for _, value in each["values"]]

    def wait_until(self, query: str, least: float, patience_s: float) -> None:
        """Let time pass until `query` answers `least` or more. Raises TimeoutError.

        It is asked of a moment that is past: all that is asked of it later sees the same.
        """
        until = time.time() + patience_s
        while time.time() < until:
            self.ended = time.time() - SETTLED_S
            if any(value >= least for value in self.values(query, once=True)):
                return
            time.sleep(0.2)
        raise TimeoutError(f"{query} did not come to {least:g} within {patience_s:g} s")


@contextmanager
def recorded(folder: Path, scenario: str, flags: Mapping[str, str]) -> Iterator[Server]:
    """Run a comparison, make storage of its record in `folder`, and serve that while the block runs."""
    progress = Progress()
    progress.recording = Recording()
    outcome = run(load(scenario, flags=dict(flags), environment={}).scenario, progress)
    text = progress.recording.text(outcome.results)
    times = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if not line.startswith("#")]
    with served(folder, text) as port:
        yield Server(port, min(times), max(times))


@contextmanager
def served(folder: Path, text: str) -> Iterator[int]:
    """Serve OpenMetrics `text` from storage in `folder`; gives the port."""
    assert PROMTOOL is not None, MISSING
    (folder / "metrics.om").write_text(text)
    (folder / "none.yml").write_text("scrape_configs: []\n")
    make = [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", "metrics.om", "data"]
    subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=60)
    with listening(folder, "none.yml") as port:
        yield port


@contextmanager
def listening(folder: Path, configuration: str) -> Iterator[int]:
    """Run a Prometheus in `folder` with this file of configuration there; gives its port on the loopback."""
    assert PROMETHEUS is not None, MISSING
    command = [PROMETHEUS, f"--config.file={configuration}", "--storage.tsdb.path=data"]
    command.append("--storage.tsdb.retention.time=100y")
    with ExitStack() as running:
        yield _listens(command, folder, running)


def _listens(command: list[str], folder: Path, running: ExitStack) -> int:
    """Start it on a port that is free; one that was free a moment ago may be somebody's by then."""
    for again in reversed(range(PORTS)):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        serve = [*command, f"--web.listen-address=127.0.0.1:{port}"]
        process = subprocess.Popen(serve, cwd=folder, stderr=subprocess.PIPE, text=True)
        running.enter_context(process)
        running.callback(process.kill)
        try:
            _wait(process)
        except NotStarted as error:
            if not again or "address already in use" not in str(error):
                raise
        else:
            break
    return port


def _wait(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "Server is ready" in line:
            return
    raise NotStarted("prometheus did not start:\n" + "".join(said[-20:]))
