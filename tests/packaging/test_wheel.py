"""The artefact: what is in the wheel, what it needs, and how quickly it says its version."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import nestbed

CORE = {"trio", "msgpack", "prometheus-client", "numpy", "cryptography", "typer", "pydantic", "structlog"}


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_the_version_is_said_in_one_voice(project: dict[str, Any]) -> None:
    assert project["version"] == nestbed.__version__


def test_the_core_needs_exactly_these_and_only_from_some_version_on(project: dict[str, Any]) -> None:
    parsed = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in project["dependencies"])
    assert set(parsed) == CORE
    assert parsed["msgpack"] == "1.2.3", "older ones leak when they refuse a key"


def test_the_version_is_answered_without_importing_anything_heavy(root: Path) -> None:
    program = (
        "import sys, json; sys.argv = ['nestbed', '--version']\n"
        "from nestbed.__main__ import main\n"
        "main()\n"
        "heavy = ('trio', 'typer', 'numpy', 'pydantic', 'msgpack')\n"
        "print(json.dumps([m for m in heavy if m in sys.modules]))\n"
    )
    # A fresh interpreter without the test run's own hooks.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root, env=environment
    )
    version, imported = ran.stdout.splitlines()
    assert version == f"nestbed {nestbed.__version__}"
    assert json.loads(imported) == []


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this very tree. Hatchling is a plain library: no isolation, no network."""
    builders = pytest.importorskip("hatchling.builders.wheel")
    built = list(builders.WheelBuilder(str(root)).build(directory=str(tmp_path_factory.mktemp("wheel"))))
    return zipfile.ZipFile(built[0])


@pytest.mark.slow
def test_the_wheel_holds_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert tops == {"nestbed", "actors", "protocol", f"nestbed-{nestbed.__version__}.dist-info"}


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_every_data_file(wheel: zipfile.ZipFile, root: Path) -> None:
    wanted = {
        path.relative_to(root).as_posix()
        for package in ("nestbed", "actors", "protocol")
        for pattern in ("*.py", "py.typed", "*.toml", "*.html", "*.j2")
        for path in (root / package).rglob(pattern)
    }
    assert wanted - set(wheel.namelist()) == set()
    assert {f"{package}/py.typed" for package in ("nestbed", "actors", "protocol")} <= wanted


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    folder = f"nestbed-{nestbed.__version__}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert b"nestbed = nestbed.__main__:main" in wheel.read(f"{folder}/entry_points.txt")
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


@pytest.mark.slow
def test_no_compiled_file_travels(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if name.endswith((".pyc", ".so"))] == []
