"""The sources as the packaging tests read them: parsed, never imported."""

from __future__ import annotations

import ast
import gc
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nestbed", "actors", "protocol")


@dataclass(frozen=True)
class Source:
    """One module."""

    path: Path
    name: str  # relative to the root, with slashes
    text: str
    tree: ast.Module

    @cached_property
    def _nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    @property
    def module(self) -> str:
        return self.name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    def imports(self) -> tuple[tuple[str, str | None], ...]:
        """(module, name) of everything that is imported, wherever; name None for a plain import."""
        return self._imports

    @cached_property
    def _imports(self) -> tuple[tuple[str, str | None], ...]:
        return tuple(self._each_import())

    def _each_import(self) -> Iterator[tuple[str, str | None]]:
        for node in self._nodes:
            if isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name}:{node.lineno}: imports are absolute here"
                yield from ((node.module or "", alias.name) for alias in node.names)

    def calls(self) -> Iterator[tuple[str, int]]:
        """Yield (dotted name, line) of every call of a name."""
        for node in self._nodes:
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), node.lineno


@cache
def _sources() -> tuple[Source, ...]:
    """A million objects that stay: Python's collector need not look at them after every few tests."""
    gc.collect()
    gc.disable()
    found = []
    for folder in (*PACKAGES, "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text()
            found.append(Source(path, path.relative_to(ROOT).as_posix(), text, ast.parse(text)))
    gc.freeze()
    gc.enable()
    return tuple(found)


@pytest.fixture(scope="session")
def sources() -> tuple[Source, ...]:
    """Every module of the three packages and of the benchmarks."""
    return _sources()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tracked(root: Path) -> tuple[Path, ...]:
    """Every file that git knows, or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    names = listed.stdout.decode().split("\0")
    return tuple(path for name in names if name and (path := root / name).is_file())
