"""No file imports itself, by whatever way round: a file stands above all that it imports.

Imports inside functions count, too: they hide a circle from Python and not from whoever reads. What is
imported for annotations alone does not. There is no list of exceptions, since none is needed: small things
that two files share go into the lower one, and a table of acts stands above the acts.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

TABLE = """
from protocol.made.acts import go
ACTS = {"go": go}
"""
ACTS = """
def go(word):
    from protocol.made.table import ACTS
    return ACTS[word]
"""


def at_run_time(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports in `node` that are ever carried out, wherever they stand."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            for other in child.orelse:
                yield from at_run_time(other)
        else:
            yield from at_run_time(child)


def imported(source: Any, modules: frozenset[str]) -> set[str]:
    """Those of `modules` that a source imports; with a package come the faces of all packages around it."""
    found: set[str] = set()
    for statement in at_run_time(source.tree):
        if isinstance(statement, ast.Import):
            found.update(alias.name for alias in statement.names)
            continue
        for alias in statement.names:
            whole = f"{statement.module}.{alias.name}"
            found.add(whole if whole in modules else statement.module or "")
    for name in list(found):
        parts = name.split(".")
        faces = (".".join(parts[:count]) for count in range(1, len(parts)))
        found.update(face for face in faces if not f"{source.module}.".startswith(f"{face}."))
    return (found & modules) - {source.module}


def graph(sources: Iterable[Any]) -> dict[str, set[str]]:
    every = list(sources)
    modules = frozenset(source.module for source in every)
    return {source.module: imported(source, modules) for source in every}


def circle(imports: Mapping[str, set[str]]) -> list[str]:
    """Modules each of which imports the next, the first one at the end again; none if there is no circle."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]  # there it is the other way round: what is imported comes first
    return []


def test_no_import_goes_round_in_a_circle(sources: Any) -> None:
    found = circle(graph(sources))
    assert found == [], " imports ".join(found)


# -- that this would be seen --------------------------------------------------------------------------


def made(**texts: str) -> list[Any]:
    """Sources of a package that is not there; `face` is the package itself."""
    return [
        SimpleNamespace(module=f"protocol.made.{name}".removesuffix(".face"), tree=ast.parse(text))
        for name, text in texts.items()
    ]


def test_a_circle_is_seen_where_an_import_hides_in_a_function() -> None:
    found = circle(graph(made(table=TABLE, acts=ACTS)))
    assert found[0] == found[-1]
    assert set(found) == {"protocol.made.table", "protocol.made.acts"}


def test_a_circle_is_seen_among_all_that_is_fine(sources: Any) -> None:
    """Whatever is lowest in the house, it must not import what is highest."""
    imports = graph(sources)
    imports["protocol.errors"].add("protocol.arch.s390.host.system")
    found = circle(imports)
    assert {"protocol.errors", "protocol.arch.s390.host.system"} <= set(found)
    assert all(after in imports[before] for before, after in pairwise(found))


@pytest.mark.parametrize(
    "acts",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from protocol.made.table import ACTS\n",
        "def go(word):\n    return word\n",
    ],
)
def test_an_annotation_closes_no_circle(acts: str) -> None:
    assert circle(graph(made(table=TABLE, acts=acts))) == []


def test_who_imports_out_of_a_package_imports_its_face_as_well() -> None:
    """Inside the package the face is there already."""
    outside = SimpleNamespace(module="protocol.outside", tree=ast.parse("import protocol.made.acts"))
    face = "from protocol.made.acts import go\nimport protocol.outside"
    inner = made(face=face, acts="def go():\n    pass\n")
    assert circle(graph(inner)) == []
    assert set(circle(graph([*inner, outside]))) == {"protocol.made", "protocol.outside"}
