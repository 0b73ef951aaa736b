"""How long this project's own emulations are: lines of code, without comments, docstrings and empty ones."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib.resources import files


def lines_of(arch: str, names: Iterable[str]) -> dict[str, int]:
    """Lines of code of files in an architecture's `nesting` folder."""
    folder = files("protocol.arch") / arch / "nesting"
    return {name: code_lines((folder / name).read_text()) for name in names}


def code_lines(text: str) -> int:
    """Lines on which code stands."""
    spoken: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            spoken.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and at not in spoken for at, line in lines
    )
