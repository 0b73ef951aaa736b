"""Put the pieces of a trace together that several processes have made.

A process that serves a traced message from elsewhere *adopts* it: it keeps a stub under the number of the
sender's span, and what it counts and asks for itself on its behalf hangs below. Numbers are unique over the
processes of a run, so a stub finds its span, and every other span its parent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from protocol.trace.span import Span


class Piece(NamedTuple):
    """A span on its way to whoever puts traces together: plain values, so that it can travel.

    `parent` is 0 for a stub, whose `number` is that of the span it belongs to. Counts: a key, then how many.
    """

    trace_id: bytes
    number: int
    parent: int
    who: str
    what: str
    began_ns: int
    ended_ns: int | None
    error: str | None
    counts: list[tuple[list[str], int]]


def pieces(stubs: Iterable[Span]) -> Iterator[Piece]:
    """What one process adopted, parents before children."""
    for stub in stubs:
        for span in stub.walk():
            parent = 0 if span is stub or span.parent is None else span.parent.number
            counts = [(list(key), n) for key, n in span.counts.items()]
            yield Piece(
                *(span.trace_id, span.number, parent, span.who, span.what),
                *(span.began_ns, span.ended_ns, span.error, counts),
            )


def join(roots: Iterable[Span], *processes: Iterable[Piece]) -> int:
    """Hang the pieces of all processes below `roots`; returns how many belong to none of them.

    Children come in the order in which they began: the processes of one machine share a clock.
    """
    found = {span.number: span for root in roots for span in root.walk()}
    came = [piece for of_process in processes for piece in of_process]
    children: defaultdict[int, list[Span]] = defaultdict(list)
    for piece in came:
        if piece.parent:
            found[piece.number] = span = _span(piece)
            children[piece.parent].append(span)
    lost = 0
    for piece in came:
        if not piece.parent:
            owner = found.get(piece.number)
            if owner is None:
                lost += 1
                continue
            for key, n in piece.counts:
                owner.counts[tuple(key)] += n
    for number, spans in children.items():
        parent = found.get(number)
        if parent is None:
            lost += len(spans)
            continue
        for span in spans:
            span.parent = parent
        parent.children = sorted((*parent.children, *spans), key=lambda span: span.began_ns)
    return lost


def _span(piece: Piece) -> Span:
    made = Span(piece.trace_id, piece.number, None, piece.who, piece.what, piece.began_ns)
    made.ended_ns, made.error = piece.ended_ns, piece.error
    made.counts.update({tuple(key): n for key, n in piece.counts})
    return made
