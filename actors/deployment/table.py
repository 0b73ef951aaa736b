"""The live table of a deployment: on a terminal it is drawn in place, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import trio

from actors.deployment.supervise import Deployed, Seen

if TYPE_CHECKING:
    from rich.table import Table

DRAW_S = 0.5
LINE_S = 10.0
COLUMNS = ("part", "state", "epoch", "pid", "restarts", "metrics", "numbers")


def row(seen: Seen, port: int | None) -> tuple[str, ...]:
    """One part, in words."""
    life = seen.life
    numbers = life.status.get("numbers", {}) if life is not None else {}
    return (
        seen.part.name,
        seen.state,
        str(life.epoch) if life is not None else "-",
        str(life.process.pid) if life is not None and seen.state in ("starting", "ready") else "-",
        str(seen.restarts),
        str(port) if port else "-",
        " ".join(f"{name}={value}" for name, value in numbers.items()),
    )


def rows(deployed: Deployed) -> list[tuple[str, ...]]:
    return [row(seen, deployed.targets.get(name)) for name, seen in deployed.seen.items()]


async def show(deployed: Deployed, quiet: bool) -> None:
    """Show how the deployment is, until cancelled."""
    if quiet:
        return
    if sys.stderr.isatty():
        await _draw(deployed)
    else:
        await _write(deployed)


async def _draw(deployed: Deployed) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=False) as live:
        while True:
            live.update(_table(deployed), refresh=True)
            await trio.sleep(DRAW_S)


def _table(deployed: Deployed) -> Table:
    from rich.table import Table

    made = Table(*COLUMNS, title=f"nestbed up: {deployed.assignment.deployment.name}")
    for each in rows(deployed):
        made.add_row(*each)
    return made


async def _write(deployed: Deployed) -> None:
    began = time.monotonic()
    while True:
        await trio.sleep(LINE_S)
        ready = sum(seen.state == "ready" for seen in deployed.seen.values())
        numbers = " ".join(line[-1] for line in rows(deployed) if line[0] == "load")
        passed = time.monotonic() - began
        sys.stderr.write(f"nestbed: {passed:.0f} s: {ready} of {len(deployed.seen)} ready {numbers}\n")
        sys.stderr.flush()
