"""What a run leaves behind: one directory that says what was run, where, and what came of it.

`run.json` holds the resolved scenario with the origin of each value, versions, environment, results. It is
written in one step: either it is whole or the one before is still there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from actors.compare.breakeven import break_even
from actors.compare.outcome import Json, Outcome
from nestbed import __version__
from protocol.plan.scenario import Scenario, as_dict

LIBRARIES = ("trio", "msgpack", "numpy", "cryptography", "prometheus-client", "pydantic", "typer")
CHUNK = 1 << 20


def document(scenario: Scenario, outcome: Outcome, verdicts: list[Json]) -> Json:
    """The object that `--json` prints. `thresholds` and `interrupted` stand in it where there is any."""
    made = {
        "nestbed": __version__,
        "seed": scenario.seed,
        "scenario": as_dict(scenario),
        "results": outcome.results,
        "claims": outcome.claims,
        "breakeven": outcome.breakeven or break_even(as_dict(scenario), outcome.results),
        **({"sensitivity": outcome.sensitivity} if outcome.sensitivity else {}),
        **({"model": outcome.model} if outcome.model else {}),
        **({"census": outcome.census} if outcome.census else {}),
        **({"seeds": outcome.seeds} if outcome.seeds else {}),
        "wall": outcome.wall,
    }
    if outcome.traces:
        made["traces"] = outcome.traces
    if verdicts:
        made["thresholds"] = verdicts
    if outcome.stopped:
        made["interrupted"] = True
    return made


def bundle(scenario: Scenario, outcome: Outcome, origins: Mapping[str, str], verdicts: list[Json]) -> Json:
    """The content of run.json: the object that `--json` prints, and where it comes from."""
    return {
        **document(scenario, outcome, verdicts),
        "interrupted": outcome.stopped,
        "thresholds": verdicts,
        "origins": dict(origins),
        "image_sha256": digest_of(scenario.guest.image),
        "versions": versions(),
        "environment": environment(),
    }


def digest_of(image: str | None) -> str | None:
    """SHA-256 of the user's image in hex; None without one, or if it is not there any more."""
    if image is None:
        return None
    digest = hashlib.sha256()
    try:
        with Path(image).open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What this program and its libraries are."""
    found = {"nestbed": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def environment() -> dict[str, Any]:
    """Where it ran: nothing that names a person or a machine."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "implementation": platform.python_implementation(),
        "byte_order": sys.byteorder,
        "revision": _revision(),
    }


def _revision() -> str | None:
    """The revision of this program's sources, if they are a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607, as the user's shell finds it
            cwd=root,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None


def write(directory: Path, content: Json) -> Path:
    """Write run.json into `directory`, made if it is not there. Raises OSError, with nothing half written."""
    directory.mkdir(parents=True, exist_ok=True)
    return write_text(directory / "run.json", json.dumps(content, indent=2) + "\n")


def write_text(target: Path, text: str) -> Path:
    """Write a file in one step. Raises OSError; then what was there before is still there."""
    unfinished = target.parent / f".{target.name}.{os.getpid()}"
    try:
        with unfinished.open("w", encoding="utf-8", errors="backslashreplace") as file:  # names of files
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return target
