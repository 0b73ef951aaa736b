"""Spans for a collector of others, over OTLP/HTTP: Jaeger, Tempo and their kin. Needs `nestbed[otel]`.

Times of spans are modelled and begin when they are sent: a span's length says what the model says, its place
on the calendar says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nestbed import __version__
from protocol.trace.chrome import category, name
from protocol.trace.span import Span, calls
from protocol.trace.timeline import Bar

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TIMEOUT_S = 10.0


class CannotSend(Exception):
    """The spans did not reach a collector. The message says why."""


def send(url: str, bars: Sequence[Bar[Span]]) -> None:
    """Send the bars of operations to `url`, like http://127.0.0.1:4318/v1/traces. Raises CannotSend."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError as missing:
        raise CannotSend(f"{missing.name} is not installed; allowed: pip install 'nestbed[otel]'") from None
    if not url.startswith(("http://", "https://")):
        raise CannotSend("allowed: http://HOST:PORT/v1/traces or https://...")
    begin_ns = time.time_ns()
    exporter = OTLPSpanExporter(endpoint=url, timeout=TIMEOUT_S)
    try:
        result = exporter.export([_span(bar, begin_ns) for bar in bars])
    except Exception as error:
        raise CannotSend(str(error)) from None
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    if result is not SpanExportResult.SUCCESS:
        raise CannotSend("the collector did not take them")


def _span(bar: Bar[Span], begin_ns: int) -> ReadableSpan:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Status, StatusCode

    span = bar.span
    attributes: dict[str, Any] = {
        "nestbed.message": span.what,
        "nestbed.category": category(span),
        "nestbed.treatment": " ".join(dict.fromkeys(call.treatment for call in calls(span))),
        "nestbed.time": "modelled",
        **{".".join(("nestbed", "count", *key)): n for key, n in span.counts.items() if n},
    }
    return ReadableSpan(
        name=name(span),
        context=_context(span.trace_id, span.number),
        parent=None if span.parent is None else _context(span.trace_id, span.parent.number),
        resource=Resource({"service.name": span.who, "service.version": __version__}),
        attributes=attributes,
        status=Status(StatusCode.OK) if span.error is None else Status(StatusCode.ERROR, span.error),
        start_time=begin_ns + bar.begin_ns,
        end_time=begin_ns + bar.end_ns,
    )


def _context(trace_id: bytes, number: int) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int.from_bytes(trace_id, "big"), number, False, TraceFlags(TraceFlags.SAMPLED))
