"""How a file looks: short functions, short files, one place that prints, no path of somebody's machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FUNCTION_LINES = 70  # without the docstring
FILE_LINES = 500
TABLES = ("calls.py", "coverage.py", "structs.py", "tables.py")
PRINTS = ("actors/cli.py", "actors/console", "nestbed/__main__.py", "benchmarks/")
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".html", ".sh", ""}


def functions(tree: ast.Module) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    """Yield every function and how many lines its body has."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        yield node, (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_functions_fit_on_a_screen(sources: Any) -> None:
    wrong = [
        f"{source.name}:{node.lineno}: {node.name} has {length} lines"
        for source in sources
        for node, length in functions(source.tree)
        if length > FUNCTION_LINES
    ]
    assert wrong == []


def test_files_can_be_read_in_one_go(sources: Any) -> None:
    wrong = [
        f"{source.name}: {lines} lines"
        for source in sources
        if source.path.name not in TABLES and (lines := source.text.count("\n")) > FILE_LINES
    ]
    assert wrong == []


def test_every_module_says_what_it_is(sources: Any) -> None:
    assert [source.name for source in sources if not ast.get_docstring(source.tree)] == []


def test_only_the_command_line_prints(sources: Any) -> None:
    wrong = [
        f"{source.name}:{line}"
        for source in sources
        if not source.name.startswith(PRINTS)
        for call, line in source.calls()
        if call == "print"
    ]
    assert wrong == []


def test_names_say_something(sources: Any) -> None:
    empty_words = {"utils.py", "common.py", "helpers.py", "manager.py", "misc.py"}
    assert [source.name for source in sources if source.path.name in empty_words] == []


def test_ignored_lints_name_themselves(sources: Any) -> None:
    bare = re.compile(r"#\s*noqa(?!:)|#\s*type:\s*ignore(?!\[)")
    assert [source.name for source in sources if bare.search(source.text)] == []


def test_tests_and_benchmarks_are_no_packages(root: Path) -> None:
    """An editable installation makes the root importable; a package called tests would shadow others'."""
    assert [
        str(path) for folder in ("tests", "benchmarks") for path in (root / folder).rglob("__init__.py")
    ] == []


def test_tests_never_sleep(root: Path) -> None:
    """Trio's sleep on a simulated clock is a jump; the wall's is a wait."""
    wrong = [
        str(path)
        for path in (root / "tests").rglob("*.py")
        if re.search(r"\btime\.sle" r"ep\(", path.read_text())
    ]
    assert wrong == []


def test_no_text_names_a_path_of_a_machine(tracked: tuple[Path, ...], root: Path) -> None:
    path_of_a_machine = re.compile(r"/(?:work|root|home/\w+)/(?:main|shared|\.)|bash_" r"jobs")
    wrong = [
        str(path.relative_to(root))
        for path in tracked
        if path.suffix in TEXT and path_of_a_machine.search(path.read_text(errors="replace"))
    ]
    assert wrong == []


def test_links_between_documents_are_alive(tracked: tuple[Path, ...], root: Path) -> None:
    wrong = []
    for path in tracked:
        if path.suffix != ".md":
            continue
        text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if (
                "://" not in target
                and not target.startswith("mailto:")
                and not (path.parent / target).exists()
            ):
                wrong.append(f"{path.relative_to(root)} -> {target}")
    assert wrong == []
