"""Pages made from tables are what the tables make; the record of which test covers which check is true."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from docs.build import documents, pages
from docs.record import measure
from protocol.arch import load

NAMES = sorted(pages())
Record = dict[tuple[str, int], tuple[str, ...]]


def covered(name: str) -> Record:
    return dict(load(name).explain.covered)  # type: ignore[attr-defined]


def general(name: str) -> dict[int, tuple[str, ...]]:
    return dict(load(name).explain.general_covered)  # type: ignore[attr-defined]


def named(name: str) -> list[str]:
    return sorted({test for tests in (*covered(name).values(), *general(name).values()) for test in tests})


def test_every_document_is_up_to_date() -> None:
    stale = [str(path) for path, text in documents() if not path.exists() or path.read_text() != text]
    assert stale == [], "./x docs writes them"


@pytest.mark.parametrize("name", NAMES)
def test_the_record_is_of_checks_that_there_are(name: str) -> None:
    rows = {row.name: row for row in load(name).calls.values()}
    assert [(call, place) for call, place in covered(name) if place >= len(rows[call].checks)] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_check_is_provoked_by_a_test(name: str) -> None:
    missing = {
        (row.name, place): f"{row.name} {check.code:#06x}: {check.text}"
        for row in load(name).calls.values()
        for place, check in enumerate(row.checks)
        if not covered(name).get((row.name, place))
    }
    left = pages()[name].not_provoked
    assert [text for key, text in missing.items() if key not in left] == [], (
        "write a test for it, then: ./x docs --measure"
    )
    assert [key for key in left if key not in missing] == [], "these are provoked: say so"


@pytest.mark.parametrize("name", NAMES)
def test_every_test_that_is_named_exists(name: str, root: Path) -> None:
    functions: dict[str, set[str]] = {}
    gone = []
    for test in named(name):
        file, _, function = test.partition("::")
        if file not in functions:
            path = root / file
            tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
            functions[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if function not in functions[file]:
            gone.append(test)
    assert gone == [], "./x docs --measure names others"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_test_named_first_provokes_its_check(name: str) -> None:
    record, codes_of = covered(name), general(name)
    firsts = sorted({tests[0] for tests in (*record.values(), *codes_of.values())})
    found = measure(name, (*firsts, "-k", "not depth1 and not depth2"))
    provoked = {
        (test.partition("[")[0], call, place, code)
        for test, checks in found.items()
        for call, place, code, _ in checks
    }
    places = {(test, call, place) for test, call, place, _ in provoked}
    codes = {(test, code) for test, _, place, code in provoked if place == -1}
    wrong = [(tests[0], *key) for key, tests in record.items() if (tests[0], *key) not in places]
    unsaid = [(tests[0], code) for code, tests in codes_of.items() if (tests[0], code) not in codes]
    assert (wrong, unsaid) == ([], [])
