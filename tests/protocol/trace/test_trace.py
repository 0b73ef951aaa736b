"""Trees of spans: what repeats is said once, and no count is lost or found twice."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from protocol.ledger import Key
from protocol.trace.chrome import document, events
from protocol.trace.fold import LONGEST, fold
from protocol.trace.mermaid import diagram
from protocol.trace.span import Span, calls, trace_id
from protocol.trace.text import lines
from protocol.trace.timeline import timeline

UNPACK: Key = ("te_calls", "unpack", "memory", "passed", "1")
ISSUED: Key = ("te_issued", "unpack", "1")


class Tree:
    """Makes spans with numbers of their own."""

    def __init__(self) -> None:
        self.number = 0

    def span(self, who: str, what: str, *children: Span, **counts: int) -> Span:
        self.number += 1
        made = Span(trace_id(0, 0), self.number, None, who, what)
        made.counts.update({("exits", "1", name, "kernel"): n for name, n in counts.items()})
        for child in children:
            child.parent = made
            made.children.append(child)
        return made

    def unpack(self, exits: int = 1) -> Span:
        te = self.span("te", "uvc")
        te.counts[ISSUED] = 1
        made = self.span("l0.kvm", "uvc", te, uvc=exits)
        made.counts[UNPACK] = 1
        return made


def totals(counts: dict[Key, int], more: dict[Key, int]) -> None:
    for key, n in more.items():
        counts[key] += n


def test_a_call_is_named_by_what_was_counted() -> None:
    span = Tree().unpack()
    assert [(call.name, call.treatment) for call in calls(span)] == [("unpack", "passed")]
    assert [(call.name, call.treatment) for call in calls(span.children[0])] == [("unpack", "issued")]


def test_what_repeats_is_one_row_with_the_counts_of_all() -> None:
    tree = Tree()
    row = fold(tree.span("l1.0", "load", *(tree.unpack(exits=n) for n in range(1, 11))))
    (only,) = row.children
    assert (only.times, only.amount("exits")) == (10, 55)
    assert only.children[0].times == 10


def test_a_pattern_of_several_repeats_as_one() -> None:
    tree = Tree()
    turn = [(tree.unpack(), tree.span("l0.kvm", "sie")) for _ in range(5)]
    row = fold(tree.span("l1.0", "load", *(span for pair in turn for span in pair)))
    assert [(child.what, child.times) for child in row.children] == [("uvc", 5), ("sie", 5)]


def test_what_failed_is_a_row_of_its_own() -> None:
    tree = Tree()
    spans = [tree.unpack() for _ in range(3)]
    spans[1].error = "LevelGone: l0.kvm died"
    row = fold(tree.span("l1.0", "load", *spans))
    assert [(child.times, child.error) for child in row.children] == [
        (1, None),
        (1, "LevelGone: l0.kvm died"),
        (1, None),
    ]


def branches(tree: Tree) -> Any:
    leaf = st.builds(
        lambda who, what, n: tree.span(who, what, uvc=n),
        st.sampled_from("ab"),
        st.sampled_from("xy"),
        st.integers(0, 3),
    )
    return st.recursive(
        leaf,
        lambda inner: st.builds(
            lambda who, what, n, below: tree.span(who, what, *below, uvc=n),
            st.sampled_from("ab"),
            st.sampled_from("xy"),
            st.integers(0, 3),
            st.lists(inner, max_size=2 * LONGEST),
        ),
        max_leaves=40,
    )


@given(st.data())
def test_folding_loses_no_span_and_no_count(data: st.DataObject) -> None:
    root: Span = data.draw(branches(Tree()))
    found: defaultdict[Key, int] = defaultdict(int)
    spans = 0
    for _, row in fold(root).walk():
        spans += row.times
        totals(found, row.counts)
    assert spans == sum(1 for _ in root.walk())
    assert {key: n for key, n in found.items() if n} == root.total()


@given(st.data())
def test_in_modelled_time_children_lie_within_their_parents_one_after_another(data: st.DataObject) -> None:
    root: Span = data.draw(branches(Tree()))
    bars = {id(bar.span): bar for bar in timeline(root, lambda counts: 10 * sum(counts.values()))}
    for span in root.walk():
        bar = bars[id(span)]
        at = bar.begin_ns
        for child in span.children:
            assert at <= bars[id(child)].begin_ns
            at = bars[id(child)].end_ns
        assert at <= bar.end_ns
    assert bars[id(root)].took_ns == 10 * sum(root.total().values())


def test_chromes_format_has_a_begin_and_an_end_for_each_span() -> None:
    tree = Tree()
    root = tree.span("l1.0", "load", tree.unpack(), tree.unpack())
    made = document(events("s390 nested", timeline(root, lambda _: 100), 1), {"time": "modelled"})
    begins = [event for event in made["traceEvents"] if event["ph"] == "b"]
    ends = [event for event in made["traceEvents"] if event["ph"] == "e"]
    assert sorted(event["id"] for event in begins) == sorted(event["id"] for event in ends)
    assert len(begins) == 5
    assert begins[1]["args"]["parent_id"] == begins[0]["args"]["span_id"]
    assert {event["args"]["name"] for event in made["traceEvents"] if event["ph"] == "M"} == {
        "s390 nested",
        "l1.0",
        "l0.kvm",
        "te",
    }


def test_a_diagram_has_an_arrow_there_and_back_and_a_loop_for_what_repeats() -> None:
    tree = Tree()
    text = diagram(fold(tree.span("l1.0", "load", tree.unpack(), tree.unpack())))
    assert text.splitlines() == [
        "sequenceDiagram",
        "    participant p0 as l1.0",
        "    participant p1 as l0.kvm",
        "    participant p2 as te",
        "    loop 2 times",
        "        p0->>+p1: uvc unpack",
        "        Note right of p1: passed  2 L1 uvc",
        "        p1->>+p2: uvc unpack",
        "        Note right of p2: issued",
        "        p2-->>-p1: done",
        "        p1-->>-p0: done",
        "    end",
    ]


def test_rows_are_indented_by_level() -> None:
    tree = Tree()
    rows = list(lines(fold(tree.span("l1.0", "load", tree.unpack(), tree.unpack()))))
    assert [(line.depth, line.cells[0]) for line in rows] == [
        (0, "load"),
        (1, "2 x uvc unpack"),
        (2, "2 x uvc unpack"),
    ]


def test_ids_are_the_same_in_every_run_of_a_seed() -> None:
    assert trace_id(7, 3) == trace_id(7, 3) != trace_id(7, 4) != trace_id(8, 4)
    assert len(trace_id(1, 1)) == 16


def test_what_failed_says_why_in_chromes_format_and_in_a_diagram() -> None:
    tree = Tree()
    failed = tree.span("l0.kvm", "uvc")
    failed.error = "Busy"
    root = tree.span("l1.0", "load", failed)
    made = document(events("s390 nested", timeline(root, lambda _: 100), 1), {})
    begins = [event for event in made["traceEvents"] if event["ph"] == "b"]
    assert [event["args"].get("error") for event in begins] == [None, "Busy"]
    text = diagram(fold(root))
    assert "        p1-->>-p0: Busy\n" in text.replace("    p1", "        p1")
    assert "Note" not in text, "nothing was counted, and nothing is noted"
