"""Write the dashboards as Grafana reads them: `python -m dashboards.build`. A test says that they match."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.calls import calls
from dashboards.overview import overview
from dashboards.runtime import runtime
from dashboards.tracking import tracking
from dashboards.versus import versus

HERE = Path(__file__).resolve().parent


def dashboards() -> dict[str, Dashboard]:
    """Every dashboard under the name of its file."""
    return {
        "overview.json": overview(),
        "nested-against-hosted.json": versus(),
        "te-calls.json": calls(),
        "memory-and-tracking.json": tracking(),
        "runtime.json": runtime(),
    }


def files() -> dict[str, str]:
    """The text of every file."""
    return {
        name: json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for name, made in dashboards().items()
    }


def main() -> int:
    """Write all of them."""
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
