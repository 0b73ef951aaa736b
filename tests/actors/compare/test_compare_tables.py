"""The counts side by side: what a cell says, what a sum is over, what is left out."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.compare import tables as t
from protocol.calls import Category, Treatment
from protocol.ledger import FAMILIES, Ledger
from protocol.plan.fit import PHASES

Json = dict[str, Any]


def of(results: list[Json], name: str) -> t.Table:
    return next(table for table in t.tables(t.in_order(results)) if table.name == name)


def cells(table: t.Table, label: str) -> dict[str, t.Cell]:
    """The cells of the first row with that label, by column."""
    row = next(row for row in table.rows if row.label == label)
    return dict(zip(table.columns, row.cells, strict=True))


def values(table: t.Table, label: str) -> dict[str, int | None]:
    return {name: cell.value for name, cell in cells(table, label).items()}


def test_direct_comes_first_and_unknown_paths_last(result: Any) -> None:
    results = [result("mixed"), result("hosted"), result("nested") | {"path": "new"}, result("direct")]
    assert t.columns(t.in_order(results)) == ("direct", "hosted", "mixed", "new")


def test_a_path_that_is_there_twice_is_named_with_its_depth(result: Any) -> None:
    results = t.in_order([result("nested") | {"depth": 2}, result("nested"), result("direct")])
    assert t.columns(results) == ("direct", "nested 1", "nested 2")


def test_a_cell_says_how_many_times_that_of_direct_it_is(result: Any) -> None:
    row = cells(of([result("direct"), result("nested")], "exits"), "run")
    assert row["direct"] == t.Cell(80)
    assert row["nested"] == t.Cell(160, 2.0), "an exit of L2 is an arrival at L0 and a re-entry that traps"


def test_there_is_no_ratio_without_a_direct_path_or_to_nothing(result: Any) -> None:
    assert cells(of([result("nested")], "exits"), "run")["nested"].ratio is None
    table = of([result("direct"), result("nested")], "exits")
    assert cells(table, "host setup")["nested"] == t.Cell(3)


def test_what_a_path_lacks_is_none_and_its_reason_stands_below(results: list[Json]) -> None:
    table = of(results, "exits")
    assert values(table, "swap") == {"direct": 20, "nested": 40, "hosted": None}
    assert table.notes == ("hosted: no swap: the owner cannot reach the pages",)


def test_a_lacking_phase_without_a_reason_says_so(results: list[Json]) -> None:
    del results[0]["absent"]
    assert of(results, "exits").notes == ("hosted: no swap: no reason given",)


def test_totals_are_over_what_all_paths_have(results: list[Json]) -> None:
    table = of(results, "exits")
    assert table.rows[0].label == "in all phases that every path has"
    parts = dict.fromkeys(table.columns, 0)
    for row in table.rows[1:]:
        if row.level == 0:
            break
        if row.label != "swap":
            for name, cell in zip(table.columns, row.cells, strict=True):
                parts[name] += cell.value or 0
    assert {name: cell.value for name, cell in zip(table.columns, table.rows[0].cells, strict=True)} == parts
    # So it is in every other table: on the direct path each exit is followed by one entry.
    assert values(of(results, "hand-overs"), "guest entries by L0")["direct"] == parts["direct"]


def test_without_lacking_phases_the_total_is_the_runs(result: Any) -> None:
    both = [result("direct"), result("nested")]
    assert values(of(both, "exits"), "in all") == {each["path"]: each["counts"]["exits"] for each in both}


def test_phases_stand_in_the_order_of_a_run(result: Any) -> None:
    found = result("direct")
    found["phases"] = {name: {"exits": 1} for name in ("zzz_new", *reversed(PHASES))}
    assert t.phases([found]) == [*PHASES, "zzz_new"]


def test_a_phase_that_no_path_has_is_noted_once_and_is_no_row(result: Any) -> None:
    both = [result("direct", lacks=["swap"]), result("hosted", lacks=["swap"])]
    table = of(both, "exits")
    assert "swap" not in [row.label for row in table.rows]
    assert table.rows[0].label == "in all"
    assert table.notes == ("no path has swap: the owner cannot reach the pages",)


def test_rows_in_which_nothing_happened_are_left_out_but_for_the_sums_that_matter(result: Any) -> None:
    direct = [result("direct")]
    labels = [row.label for row in of(direct, "translation").rows]
    assert labels[:2] == ["addresses translated", "bytes copied"], "zero is an answer here"
    assert "operations on shadow tables" not in labels
    assert "hosting" not in [table.name for table in t.tables(direct)]


def test_calls_are_summed_by_category_and_treatment(result: Any) -> None:
    table = of([result("direct"), result("nested")], "te-calls")
    assert values(table, "as issued, at every level") == {"direct": 44, "nested": 44}
    assert values(table, "memory") == {"direct": 40, "nested": 40}
    assert values(table, "passed") == {"direct": 0, "nested": 40}
    assert values(table, "caused by L1") == {"direct": 0, "nested": 4}


def test_a_name_with_dots_is_one_label() -> None:
    counts = {
        "te_calls": 2,
        "te_calls.tdh.mng.create.vm.modified.1": 2,
        "exits.1.port.0x3f.kernel": 3,
        "exits.too_few": 9,
        "exits.1.x.y": None,
    }
    assert list(t.labelled(counts, "te_calls")) == [(("tdh.mng.create", "vm", "modified", "1"), 2)]
    assert list(t.labelled(counts, "exits")) == [(("1", "port.0x3f", "kernel"), 3)]


def test_tracking_is_told_by_holder_and_plane_and_summed_over_l0_and_l1(result: Any) -> None:
    table = of([result("direct"), result("nested")], "tracking")
    assert values(table, "records at most, L0 and L1") == {"direct": 44, "nested": 46}
    assert values(table, "model bytes at most, L0 and L1")["nested"] == 40 * 16 + 4 * 40 + 2 * 1024
    assert values(table, "changes, L0 and L1") == {"direct": 44, "nested": 46}
    assert values(table, "held by L1") == {"direct": 4, "nested": 0}


def test_teardown_is_told_over_the_whole_run(result: Any) -> None:
    """Also where direct has no such phase: the items do not vanish with it."""
    nested = result("nested")
    nested["phases"]["owner_reboot"] = {
        "exits": 2,
        "te_issued": 400,
        "teardown": 7,
        "teardown.vm.l1_reboot": 7,
    }
    nested["counts"] |= {"teardown": 47, "teardown.vm.l1_reboot": 7}
    direct = result("direct")
    direct["phases"]["owner_reboot"] = None
    table = of([direct, nested], "teardown")
    assert values(table, "items released") == {"direct": 40, "nested": 47}
    assert values(table, "cause: l1 reboot") == {"direct": 0, "nested": 7}
    assert values(table, "real TE calls: owner reboot") == {"direct": None, "nested": 400}


def test_a_result_without_tracking_or_contention_is_no_trouble(result: Any) -> None:
    bare = result("direct") | {"tracking": None, "contention": None}
    assert {table.name for table in t.tables([bare])} >= {"exits", "te-calls"}


def test_contention_is_shown_and_said_to_depend_on_timing(result: Any) -> None:
    table = of([result("direct"), result("nested")], "contention")
    assert values(table, "absorbed busy") == {"direct": 0, "nested": 3}
    assert "timing" in table.title


def test_every_family_of_counts_is_shown_somewhere() -> None:
    """A new family must not be forgotten: what is counted and not shown answers nobody."""
    ledger = Ledger()
    for place, (family, (labels, _)) in enumerate(FAMILIES.items()):
        ledger.count((family, *(_label(label) for label in labels)), 1000 + place)
    found = {
        "arch": "x",
        "path": "direct",
        "depth": 0,
        "counts": ledger.flat(),
        "phases": ledger.phases(),
    }
    shown = {cell.value for table in t.tables([found]) for row in table.rows for cell in row.cells}
    missing = {
        family for place, family in enumerate(FAMILIES) if 1000 + place not in shown and family != "exits"
    }
    assert missing == set()


def _label(name: str) -> str:
    known = {"category": "vm", "treatment": "passed", "holder": "l0", "kind": "vm_map", "from_level": "1"}
    return known.get(name, "a")


CALLS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b.c"]),
        st.sampled_from(list(Category)),
        st.sampled_from(list(Treatment)),
        st.sampled_from(["0", "1"]),
        st.integers(1, 9),
    )
)


@given(CALLS)
def test_parts_always_add_up_to_their_sum(calls: list[tuple[str, Category, Treatment, str, int]]) -> None:
    ledger = Ledger()
    for name, category, treatment, origin, n in calls:
        ledger.count(("te_calls", name, category, treatment, origin), n)
    found = {"arch": "x", "path": "direct", "depth": 0, "counts": ledger.flat(), "phases": ledger.phases()}
    table = t.te_calls([found])
    total = table.rows[0].cells[0].value
    assert total == sum(call[-1] for call in calls)
    assert sum(row.cells[0].value or 0 for row in table.rows if row.level == 1) == total
    assert sum(row.cells[0].value or 0 for row in table.rows if row.level == 2) == total
