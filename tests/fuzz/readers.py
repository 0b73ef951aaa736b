"""Which functions of the program take bytes or text apart, and which of them the fuzzer's targets enter."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).parents[2]
TAKE_APART = frozenset(
    """unpack unpack_from iter_unpack unpackb unpack_body loads fromhex fromisoformat from_encoded_point
    from_public_bytes load_der_public_key load_pem_private_key load_pem_x509_certificate
    load_pem_x509_certificates""".split()  # noqa: SIM905 - one a line would be a page
)
Place = tuple[str, str]  # file, name of the function


def readers(*parts: str) -> Iterator[Place]:
    """Functions of these folders that call what takes bytes or text apart."""
    for part in parts:
        for path in sorted((ROOT / part).rglob("*.py")):
            tree = ast.parse(path.read_text())
            for name, node in _functions(tree, ""):
                if any(map(_takes_apart, _own(node))):
                    yield str(path.relative_to(ROOT)), name


def _functions(tree: ast.AST, within: str) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield within + node.name, node
            yield from _functions(node, f"{within}{node.name}.<locals>.")
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{within}{node.name}.")
        else:
            yield from _functions(node, within)


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, but not in those inside of it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _own(child)


def _takes_apart(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) in TAKE_APART


def entered(work: Callable[[], Any]) -> set[Place]:
    """The functions of the program that are entered while `work` is done."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    root = f"{ROOT}/"
    return {
        (code.co_filename.removeprefix(root), code.co_qualname)
        for code in codes
        if code.co_filename.startswith(root)
    }
