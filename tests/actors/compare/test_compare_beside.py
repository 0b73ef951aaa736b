"""Several architectures in one table: what each costs, its census, whether the talk's order holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors.compare.answer import answer
from actors.compare.beside import ORDER, census, side_by_side
from actors.compare.text import lines
from protocol.arch import architectures, load
from protocol.calls import Category, Treatment

Json = dict[str, Any]
Result = Callable[..., Json]


def document(result: Result, **more: Any) -> Json:
    results = [
        result(path, arch=arch, scale=scale)
        for arch, scale in (("s390", 1), ("pef", 2))
        for path in ("direct", "nested", "hosted")
    ]
    return {"results": results, "seed": 1, "scenario": {"name": "x", "depth": 1}, **more}


def rows(document: Json, table: int = 0) -> dict[str, tuple[str, ...]]:
    return {label: cells for _, label, cells in side_by_side(document)[table].rows}


def test_one_architecture_stands_beside_nothing(results: list[Json]) -> None:
    assert side_by_side({"results": results}) == ()


def test_each_has_a_column_and_each_path_a_row(result: Result) -> None:
    (costs,) = side_by_side(document(result))
    assert costs.columns == ("s390", "pef")
    labels = [label for _, label, _ in costs.rows]
    at = labels.index("exits that arrive at L0")
    assert labels[at + 1 : at + 4] == ["direct", "nested", "hosted"]


def test_cells_are_those_of_the_architectures_own_tables(result: Result) -> None:
    said = document(result)
    own = {part.arch: part for part in answer(said).parts}
    cells = next(each for _, label, each in side_by_side(said)[0].rows if label == "nested")
    for arch, cell in zip(("s390", "pef"), cells, strict=True):
        exits = next(table for table in own[arch].tables if table.name == "exits").rows[0]
        assert cell.split()[0] == f"{exits.cells[1].value:,}"
        assert cell.split()[1] == f"{exits.cells[1].ratio:.1f}x"


def test_the_talks_order_is_judged_for_each(result: Result) -> None:
    claims = [
        {"arch": "s390", "claim": f"{ORDER}: by the call table", "by": "construction", "holds": True},
        {"arch": "pef", "claim": f"{ORDER}: by the call table", "by": "construction", "holds": False},
        {"arch": "pef", "claim": "another", "by": "emulation", "holds": None},
    ]
    found = rows(document(result, claims=claims))
    assert found["by the call table"] == ("holds", "does not hold")
    assert found["claims of the talk that hold"] == ("1 of 1", "0 of 1")


def test_the_census_is_of_the_call_tables(result: Result) -> None:
    counted = {arch: census(load(arch).calls.values()) for arch in ("s390", "pef")}
    found = rows(document(result, census=counted), 1)
    assert found["calls"] == tuple(str(len(load(arch).calls)) for arch in ("s390", "pef"))
    for category in Category:
        of = [sum(row.category is category for row in load(arch).calls.values()) for arch in ("s390", "pef")]
        assert found[str(category)] == tuple(str(n) if n else "-" for n in of)


def test_every_call_is_in_the_census_of_every_architecture_once() -> None:
    for arch in architectures():
        calls = load(arch).calls.values()
        counted = census(calls)
        assert sum(n for each in counted.values() for n in each.values()) == len(calls)
        assert set(counted) <= set(map(str, Category))
        assert {treatment for each in counted.values() for treatment in each} <= set(map(str, Treatment))


def test_text_begins_with_the_table_and_has_no_headlines_then(result: Result) -> None:
    texts = [str(each) for each in lines(answer(document(result))) if str(each)]
    assert texts[1] == "The architectures side by side"
    assert not any(text.startswith("pef: exits") for text in texts)
