"""The cost table: what is in the package, what a user may lay over it, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from actors.costs import UnreadableCosts, load, shipped
from protocol.cost.table import BadCosts, Costs


def entry(**changes: Any) -> dict[str, Any]:
    made = {
        "value_ns": 2,
        "low_ns": 1,
        "high_ns": 3,
        "basis": "derived",
        "unit": "per_op",
        "source": "a book",
    }
    return made | changes


def table(**entries: Any) -> dict[str, Any]:
    return {"cost": {"s390": entries}}


def test_every_entry_of_the_package_has_range_basis_and_source() -> None:
    costs = shipped()
    for group in ("common", "s390", "snp", "tdx", "pef"):
        for name in costs.names(group):
            cost = costs.of(group, name)
            assert cost.low <= cost.value <= cost.high, name
            assert cost.source


def test_what_an_architecture_lacks_is_common() -> None:
    costs = Costs.read({"cost": {"s390": {"a": entry()}, "common": {"b": entry(value_ns=3)}}})
    assert costs.of("s390", "a").value == 2
    assert costs.of("s390", "b").value == 3
    with pytest.raises(KeyError):
        costs.of("s390", "c")


@pytest.mark.parametrize(
    ("document", "mistake"),
    [
        ({}, "cost: is missing"),
        ({"cost": {"s390": 5}}, "cost.s390 = 5"),
        (table(a=7), "cost.s390.a = 7"),
        (table(a=entry(value_ns="2")), "cost.s390.a.value_ns = '2'"),
        (table(a=entry(value_ns=True)), "cost.s390.a.value_ns = True"),
        (table(a=entry(low_ns=-1)), "cost.s390.a.low_ns = -1"),
        (table(a=entry(high_ns=10**400)), "cost.s390.a.high_ns = 1000"),
        (table(a=entry(high_ns=float("nan"))), "cost.s390.a.high_ns = nan"),
        (table(a=entry(high_ns=1)), "cost.s390.a: low_ns <= value_ns <= high_ns"),
        (table(a=entry(basis="hearsay")), "cost.s390.a.basis = 'hearsay'"),
        (table(a=entry(source="")), "cost.s390.a.source = ''"),
        (table(a=entry(price=1)), "cost.s390.a.price"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_named_with_what_is_allowed(document: dict[str, Any], mistake: str) -> None:
    with pytest.raises(BadCosts) as caught:
        Costs.read(document)
    assert any(text.startswith(mistake) for text in caught.value.mistakes)


def test_all_mistakes_are_found_at_once() -> None:
    with pytest.raises(BadCosts) as caught:
        Costs.read(table(a=entry(basis="hearsay", unit=5), b=entry(low_ns=9)))
    assert len(caught.value.mistakes) == 3


def test_an_overlay_replaces_entries_and_adds_none(tmp_path: Any) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        "[cost.s390.exit_l1_l0]\nvalue_ns = 700\nlow_ns = 650\nhigh_ns = 750\n"
        'basis = "measured"\nunit = "per_op"\nsource = "my machine"\n'
    )
    costs = load(mine)
    assert (costs.of("s390", "exit_l1_l0").value, costs.of("s390", "exit_l1_l0").basis) == (700, "measured")
    assert costs.of("snp", "exit_l1_l0") == shipped().of("snp", "exit_l1_l0")
    mine.write_text(mine.read_text().replace("exit_l1_l0", "exit_to_the_moon"))
    with pytest.raises(UnreadableCosts, match="exit_to_the_moon"):
        load(mine)


@pytest.mark.parametrize("text", ["[cost", "\xff", "cost = 5"], ids=["not TOML", "odd", "no table"])
def test_a_file_that_is_none_is_said_to_be_so(tmp_path: Any, text: str) -> None:
    path = tmp_path / "costs.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UnreadableCosts, match=r"costs\.toml"):
        load(path)
    with pytest.raises(UnreadableCosts, match=r"none\.toml"):
        load(tmp_path / "none.toml")


LOCK = {"scope": "package", "servers": 1, "covers": ["a"], "basis": "derived", "source": "a book"}
FACTOR = {"value": 2, "low": 1, "high": 3, "basis": "derived", "source": "a book"}


@pytest.mark.parametrize(
    ("kind", "given", "mistake"),
    [
        ("factor", 7, "factor.s390.a = 7: allowed: a table with"),
        ("factor", FACTOR | {"price": 1}, "factor.s390.a.price: no such field"),
        ("factor", FACTOR | {"high": 1}, "factor.s390.a: low <= value <= high does not hold"),
        ("factor", FACTOR | {"source": ""}, "factor.s390.a.source = ''"),
        ("lock", [1], "lock.s390.a = [1]: allowed: a table with"),
        ("lock", LOCK | {"price": 1}, "lock.s390.a.price: no such field"),
        ("lock", LOCK | {"scope": "planet"}, "lock.s390.a.scope = 'planet'"),
        ("lock", LOCK | {"servers": -1}, "lock.s390.a.servers = -1"),
        ("lock", LOCK | {"servers": True}, "lock.s390.a.servers = True"),
        ("lock", LOCK | {"covers": "a"}, "lock.s390.a.covers = 'a'"),
        ("lock", LOCK | {"covers": [1]}, "lock.s390.a.covers = [1]"),
        ("lock", LOCK | {"waits": "no"}, "lock.s390.a.waits = 'no'"),
        ("lock", LOCK | {"basis": "hearsay"}, "lock.s390.a.basis = 'hearsay'"),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_a_mistake_in_a_factor_or_a_lock_is_named_too(kind: str, given: Any, mistake: str) -> None:
    document = table(a=entry()) | {kind: {"s390": {"a": given}}}
    with pytest.raises(BadCosts) as broken:
        Costs.read(document)
    assert mistake in str(broken.value)


def test_a_factor_and_a_lock_that_are_whole_are_read() -> None:
    costs = Costs.read(table(a=entry()) | {"factor": {"s390": {"a": FACTOR}}, "lock": {"s390": {"b": LOCK}}})
    assert costs.factor("s390", "a").value == 2
    (lock,) = costs.locks("s390")
    assert (lock.name, lock.servers, lock.covers, lock.waits) == ("b", 1, ("a",), True)
