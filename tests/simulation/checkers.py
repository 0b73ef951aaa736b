"""Every place where the soak says that something does not hold, and how a mutation proves it able to fail.

A *checker* is one `raise Violation` of `protocol/soak`: they are read from its source, so that a new one is
known here at once. A *mutation* is a mistake that somebody could make in the code that a checker guards: it
patches a function of the program, never one of the soak. Its *trial* is the run in which it is noticed; the
same run holds without it. A plain module.
"""

from __future__ import annotations

import ast
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import protocol.soak
from protocol.arch import load
from protocol.soak import Options
from protocol.soak.episode import Episode
from protocol.soak.isolation import alone_and_beside
from protocol.soak.options import SAFETY, Tally, Violation

Patch = pytest.MonkeyPatch
SOAK = Path(protocol.soak.__file__).parent


@dataclass(frozen=True)
class Trial:
    """One episode, alone: with an odd number a fleet stands beside the islands, else a hosting service."""

    seed: int
    episode: int = 1
    steps: int = 4_000
    without: frozenset[str] = frozenset()
    mode: str = SAFETY

    def run(self, arch: str) -> None:
        """Raises Violation."""
        options = Options(self.seed, self.steps, arch, self.mode, self.without)
        Episode(options, self.episode, Tally(), {arch: load(arch)}).run(self.steps)


@dataclass(frozen=True)
class Beside:
    """One life, alone and beside a hostile host."""

    seed: str = "seed"
    depth: int = 1

    def run(self, arch: str) -> None:
        """Raises Violation."""
        alone_and_beside(load(arch), self.depth, self.seed, Tally())


@dataclass(frozen=True)
class Mutation:
    """`checker` is the one that notices, and `says` is in what it says; `mistake` makes it.

    `kind` is that of the guests, where an architecture has several.
    """

    checker: str
    mistake: Callable[[Patch], None]
    trial: Trial | Beside
    says: str = ""
    kind: str = ""

    @property
    def name(self) -> str:
        return self.mistake.__name__ + (f"-{self.kind}" if self.kind else "")


def violated(arch: str, trial: Trial | Beside) -> tuple[str, str]:
    """The checker that does not hold, and what it says; two empty strings if all hold."""
    try:
        trial.run(arch)
    except Violation as violation:
        return _where(violation), str(violation)
    return "", ""


def _where(violation: Violation) -> str:
    """The checker that raised it."""
    frame = traceback.extract_tb(violation.__traceback__)[-1]
    path = Path(frame.filename)
    assert path.parent == SOAK, f"{frame} raises a Violation"
    (found,) = [name for name, first, last in _raises(path) if first <= (frame.lineno or 0) <= last]
    return found


@cache
def checkers() -> tuple[str, ...]:
    """All of them: module and function, and a number where a function has more than one."""
    return tuple(name for path in sorted(SOAK.glob("*.py")) for name, _, _ in _raises(path))


@cache
def _raises(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What a module raises: name, first and last line."""
    tree = ast.parse(path.read_text("utf-8"))
    found = []
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            lines = sorted(_violations(function))
            for number, (first, last) in enumerate(lines, 1):
                name = f"{path.stem}.{function.name}" + (f"/{number}" if len(lines) > 1 else "")
                found.append((name, first, last))
    return tuple(found)


def _violations(function: ast.FunctionDef) -> Iterator[tuple[int, int]]:
    for node in ast.walk(function):
        raised = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(raised, ast.Call) and ast.unparse(raised.func) == "Violation":
            yield node.lineno, node.end_lineno or node.lineno
