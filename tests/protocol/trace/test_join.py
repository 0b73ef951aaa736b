"""Pieces that several processes made become one tree, with every count once."""

from __future__ import annotations

from protocol.ledger import Key
from protocol.trace.join import join, pieces
from protocol.trace.span import Span, trace_id

TRACE = trace_id(0, 0)
SIE: Key = ("exits", "1", "sie", "kernel")


def span(number: int, who: str, parent: Span | None = None, began: int = 0, **counts: int) -> Span:
    made = Span(TRACE, number, parent, who, "uvc", began, began + 1)
    made.counts.update({("pages", name): n for name, n in counts.items()})
    if parent is not None:
        parent.children.append(made)
    return made


def test_a_span_gets_what_was_done_for_it_elsewhere() -> None:
    root = span(1, "host 0")
    link = span(2, "host.0", root)
    stub = span(2, "", touched=3)  # the node's, for the driver's span 2
    host = span(101, "l1.0", stub, began=5, loaded=2)
    kvm = span(102, "kvm", host, began=6)
    below = span(102, "", swapped=1)  # L0's, for the node's span 102
    te = span(201, "te", below, began=7)
    te.counts[SIE] = 4
    assert join([root], pieces([stub]), pieces([below])) == 0
    assert [each.who for each in root.walk()] == ["host 0", "host.0", "l1.0", "kvm", "te"]
    assert link.counts == {("pages", "touched"): 3}
    assert root.total() == {
        ("pages", "touched"): 3,
        ("pages", "loaded"): 2,
        ("pages", "swapped"): 1,
        SIE: 4,
    }
    assert kvm.children == [], "what was sent is a copy"


def test_children_come_in_the_order_in_which_they_began() -> None:
    root = span(1, "host 0")
    span(2, "late", root, began=9)
    stub = span(1, "")
    span(101, "early", stub, began=3)
    join([root], pieces([stub]))
    assert [child.who for child in root.children] == ["early", "late"]


def test_what_belongs_to_nobody_is_said() -> None:
    stub = span(77, "", lost=1)
    span(101, "l1.0", stub)
    assert join([span(1, "host 0")], pieces([stub])) == 2
