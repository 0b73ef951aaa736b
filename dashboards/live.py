"""A deployment that runs, and a Prometheus that finds it by file_sd and scrapes it: all on the loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dashboards.recorded import NotStarted, Server, listening

ROOT = Path(__file__).resolve().parents[1]
DEPLOYMENT = """
scenario = "default"
placement = "apart"
load = { pause_ms = 1 }
"""
SCRAPES = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - job_name: nestbed
    file_sd_configs: [{files: ["run/targets.json"], refresh_interval: 1s}]
"""
PARTS = 5  # a machine, two guest hosts, the load, and the supervisor of them all
PATIENCE_S = 120.0


@contextmanager
def deployed(folder: Path) -> Iterator[list[str]]:
    """A machine, its L1s and a load as processes of their own; gives where they serve their metrics."""
    (folder / "lab.toml").write_text(DEPLOYMENT)
    command = [sys.executable, "-m", "nestbed", "up", str(folder / "lab.toml"), "--quiet"]
    with subprocess.Popen([*command, "--directory", str(folder / "run")], cwd=ROOT) as process:
        try:
            yield _targets(folder / "run" / "targets.json", process)
        finally:
            process.terminate()


def _targets(file: Path, process: subprocess.Popen[bytes]) -> list[str]:
    """What Prometheus will find, once every part is there. Raises NotStarted."""
    until = time.time() + PATIENCE_S
    while time.time() < until and process.poll() is None:
        if file.exists():
            found = [target for each in json.loads(file.read_text()) for target in each["targets"]]
            if len(found) == PARTS:
                return found
        time.sleep(0.1)
    raise NotStarted(f"{file}: not every part is there")


@contextmanager
def scraping(folder: Path, scrapes: int) -> Iterator[Server]:
    """A Prometheus in `folder` that has scraped every process of the deployment there that many times.

    At the moment that is asked about, all of them had answered in time: a scrape may fail on a busy machine.
    """
    (folder / "scrape.yml").write_text(SCRAPES)
    began = time.time()
    with listening(folder, "scrape.yml") as port:
        made = Server(port, began, began)
        made.wait_until(
            f"min(count_over_time(nestbed_build_info[5m])) and count(up == 1) == {PARTS}", scrapes, PATIENCE_S
        )
        yield made
