"""A tree in Chrome's trace format, which Perfetto and chrome://tracing open. Times there are microseconds.

Each party is a thread of its own, one process holds those of one path. A message is an asynchronous event
(`b` and `e` with an id), because calls of one party may be under way at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from protocol.ledger import flatten
from protocol.trace.span import Span, calls
from protocol.trace.timeline import Bar

Json = dict[str, Any]


def events(path: str, bars: Iterable[Bar[Span]], process: int) -> Iterator[Json]:
    """The events of one operation. `path` names the process in the picture, `process` numbers it."""
    bars = list(bars)
    threads = {who: number for number, who in enumerate(dict.fromkeys(bar.span.who for bar in bars), 1)}
    yield {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": path}}
    for who, thread in threads.items():
        yield {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": who}}
    for bar in bars:
        span = bar.span
        both = {
            "name": name(span),
            "cat": category(span),
            "pid": process,
            "tid": threads[span.who],
            "id": f"{process}:{span.number}",
        }
        yield {**both, "ph": "b", "ts": bar.begin_ns / 1000, "args": arguments(span)}
        yield {**both, "ph": "e", "ts": bar.end_ns / 1000}


def document(found: Iterable[Json], about: Json) -> Json:
    """The whole file."""
    return {"displayTimeUnit": "ns", "otherData": about, "traceEvents": list(found)}


def name(span: Span) -> str:
    """What a span is called: the call that it is, or what was asked."""
    return " ".join(call.name for call in calls(span)) or span.what


def category(span: Span) -> str:
    return " ".join(dict.fromkeys(call.category for call in calls(span) if call.category)) or "message"


def arguments(span: Span) -> Json:
    """What is known of a span besides its times. No payload: counts, words, ids."""
    found: Json = {
        "who": span.who,
        "message": span.what,
        "trace_id": span.trace_id.hex(),
        "span_id": span.context.span_id.hex(),
        "counts": flatten(span.counts),
    }
    if span.parent is not None:
        found["parent_id"] = span.parent.context.span_id.hex()
    treatments = " ".join(dict.fromkeys(call.treatment for call in calls(span)))
    if treatments:
        found["treatment"] = treatments
    if span.error is not None:
        found["error"] = span.error
    return found
