"""The dashboards are what Grafana's makers say one may hold: their types, as npm has them, and a compiler.

`npm install` in dashboards/types fetches both, as `.ci/run` does; without them these tests are skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "dashboards"
TYPES = FOLDER / "types"
FILES = sorted(FOLDER.glob("*.json"))
COMPILER = TYPES / "node_modules" / "typescript" / "bin" / "tsc"
NODE = shutil.which("node")
STRICT = ("--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler")
STRICT += ("--module", "esnext", "--target", "es2022")
# One mistake each, of the kinds that a reader of JSON overlooks.
PLANTED = {
    "a field of a kind of panel": ('"lineWidth"', '"lineWitdh"'),
    "an option's value": ('"displayMode": "table"', '"displayMode": "tabel"'),
    "a query": ('"expr":', '"exprr":'),
    "a place": ('"gridPos"', '"gridPoss"'),
    "a colour's mode": ('"mode": "fixed"', '"mode": "fixd"'),
    "an annotation": ('"step": "15s"', '"stepp": "15s"'),
    "a kind of panel": ('"type": "stat"', '"type": "statt"'),
    "a panel's option": ('"reduceOptions"', '"reduceOption"'),
    "the dashboard itself": ('"uid": "nestbed-overview"', '"uidd": "nestbed-overview"'),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        NODE is None or not COMPILER.exists(), reason="dashboards/types: npm install was not run"
    ),
]


def wrong(folder: Path, boards: dict[str, str]) -> dict[str, list[str]]:
    """What the compiler has to say about each of these texts of dashboards."""
    for name in ("board.ts", "node_modules"):
        (folder / name).symlink_to(TYPES / name)
    for name, text in boards.items():
        typed = f"import type {{ Board }} from './board';\nexport const board: Board = {text};\n"
        (folder / f"{name}.ts").write_text(typed)
    assert NODE is not None
    compile_them = [NODE, str(COMPILER), *STRICT, "--preserveSymlinks", *(f"{name}.ts" for name in boards)]
    done = subprocess.run(compile_them, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    lines = done.stdout.splitlines()
    assert done.returncode in (0, 1, 2), done.stderr
    return {name: [line for line in lines if line.startswith(f"{name}.ts(")] for name in boards}


def test_grafanas_types_allow_every_dashboard(tmp_path: Path) -> None:
    found = wrong(tmp_path, {path.stem: path.read_text() for path in FILES})
    assert found == {path.stem: [] for path in FILES}


def test_a_mistake_anywhere_in_a_dashboard_is_found(tmp_path: Path) -> None:
    text = (FOLDER / "overview.json").read_text()
    planted = {}
    for number, (right, mistaken) in enumerate(PLANTED.values()):
        assert right in text, right
        planted[f"planted{number}"] = re.sub(re.escape(right), mistaken, text, count=1)
    found = wrong(tmp_path, planted)
    assert [name for name, said in found.items() if not said] == []
