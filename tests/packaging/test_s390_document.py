"""docs/arch/s390.md is what its tables make; the record of which test covers which check is true."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from protocol.arch.s390.calls import CALLS
from protocol.arch.s390.coverage import COVERED, GENERAL_COVERED

ROWS = {row.name: row for row in CALLS.values()}
NAMED = sorted({test for tests in (*COVERED.values(), *GENERAL_COVERED.values()) for test in tests})


@pytest.fixture(scope="module")
def build(root: Path) -> ModuleType:
    """The builder, which is no package."""
    spec = importlib.util.spec_from_file_location("docs_build", root / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_up_to_date(build: ModuleType, root: Path) -> None:
    assert (root / "docs" / "arch" / "s390.md").read_text() == build.document(), "./x docs writes it"


def test_the_record_is_of_checks_that_there_are() -> None:
    assert [(name, place) for name, place in COVERED if place >= len(ROWS[name].checks)] == []


def test_every_check_is_provoked_by_a_test() -> None:
    missing = [
        f"{row.name} {check.code:#06x}: {check.text}"
        for row in CALLS.values()
        for place, check in enumerate(row.checks)
        if not COVERED.get((row.name, place))
    ]
    assert missing == [], "write a test for it, then: ./x docs --measure"


def test_every_test_that_is_named_exists(root: Path) -> None:
    functions: dict[str, set[str]] = {}
    gone = []
    for named in NAMED:
        file, _, name = named.partition("::")
        if file not in functions:
            path = root / file
            tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
            functions[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if name not in functions[file]:
            gone.append(named)
    assert gone == [], "./x docs --measure names others"


@pytest.mark.slow
def test_the_test_named_first_provokes_its_check(build: ModuleType) -> None:
    firsts = sorted({tests[0] for tests in (*COVERED.values(), *GENERAL_COVERED.values())})
    found = build.measure((*firsts, "-k", "not depth1 and not depth2"))
    provoked = {
        (test.partition("[")[0], call, place, rc)
        for test, checks in found.items()
        for call, place, rc in checks
    }
    places = {(test, call, place) for test, call, place, _ in provoked}
    codes = {(test, rc) for test, _, place, rc in provoked if place == -1}
    wrong = [(tests[0], *key) for key, tests in COVERED.items() if (tests[0], *key) not in places]
    general = [(tests[0], rc) for rc, tests in GENERAL_COVERED.items() if (tests[0], rc) not in codes]
    assert (wrong, general) == ([], [])
