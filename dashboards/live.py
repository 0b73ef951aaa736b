"""A nestbed that runs, and a Prometheus that finds it by file_sd and scrapes it: all on the loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dashboards.recorded import NotStarted, Server, listening

ROOT = Path(__file__).resolve().parents[1]
SCRAPES = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - job_name: nestbed
    file_sd_configs: [{files: ["targets.json"]}]
"""
PATIENCE_S = 60.0


@contextmanager
def running(*flags: str) -> Iterator[str]:
    """A comparison that lingers after its end; gives the address at which it serves its metrics."""
    command = [sys.executable, "-m", "nestbed", "compare", *flags]
    command += ["--metrics-port", "0", "--linger", "600", "--json"]
    said, lost = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, text=True, stderr=said, stdout=lost) as process:
        try:
            yield _address(process)
        finally:
            process.kill()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        found = re.search(r"metrics on http://(\S+)/metrics", line)
        if found:
            return found[1]
    raise NotStarted("it served no metrics:\n" + "".join(said[-20:]))


@contextmanager
def scraping(folder: Path, address: str, scrapes: int) -> Iterator[Server]:
    """A Prometheus in `folder` that has scraped `address` that many times."""
    (folder / "targets.json").write_text(json.dumps([{"targets": [address], "labels": {"rank": "0"}}]))
    (folder / "scrape.yml").write_text(SCRAPES)
    began = time.time()
    with listening(folder, "scrape.yml") as port:
        made = Server(port, began, began)
        made.wait_until("sum(count_over_time(nestbed_build_info[5m]))", scrapes, PATIENCE_S)
        yield made
