"""What a process that lives long says of itself: key=value on a terminal, JSON lines everywhere else.

Import it in the entry of a process and not in the library: structlog takes a fifth of a second. What is said
says what happened, to whom, with which numbers; never what a guest or a requester sent: bytes become their
length. Handles and addresses are hexadecimal, as the architectures write them.

NESTBED_LOG_LEVEL (debug, info, warning, error) and NESTBED_LOG_FORMAT (text, json) decide where no flag does.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from actors.runtime.tracing import Tracer

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
FORMATS = ("text", "json")
HEXADECIMAL = frozenset({"handle", "address", "gctx", "lpid", "tdr"})
LONGEST = 500  # characters of one value

Event = MutableMapping[str, Any]


class BadLogging(ValueError):
    """A level or a format that there is not; the message says what is allowed."""


def configure(
    environment: Mapping[str, str] | None = None,
    *,
    to: TextIO | None = None,
    tracer: Callable[[], Tracer | None] = lambda: None,
) -> None:
    """Set up logging of this process. `tracer` gives that of its runtime, whose ids are bound.

    Raises BadLogging.
    """
    given = os.environ if environment is None else environment
    stream = sys.stderr if to is None else to
    level, style = wanted(given, "text" if stream.isatty() else "json")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _traced(tracer),
            _harmless,
            structlog.processors.format_exc_info,
            _renderer(style, given),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )


def wanted(environment: Mapping[str, str], style: str = "json") -> tuple[str, str]:
    """Level and format as the environment has them. Raises BadLogging."""
    level = _one_of("NESTBED_LOG_LEVEL", environment, tuple(LEVELS), "info")
    return level, _one_of("NESTBED_LOG_FORMAT", environment, FORMATS, style)


def logger(**bound: object) -> Any:
    """A logger that says `bound` with everything: the rank of a process, the name of an actor."""
    return structlog.get_logger(**bound)


def _one_of(name: str, given: Mapping[str, str], allowed: tuple[str, ...], default: str) -> str:
    value = given.get(name, default) or default
    if value not in allowed:
        raise BadLogging(f"{name}={value}: allowed: {', '.join(allowed)}")
    return value


def _renderer(style: str, given: Mapping[str, str]) -> Any:
    if style == "json":
        return structlog.processors.JSONRenderer(sort_keys=True)
    return structlog.dev.ConsoleRenderer(colors="NO_COLOR" not in given, pad_event_to=0)


def _traced(tracer: Callable[[], Tracer | None]) -> Any:
    """Binds the ids of the operation that is being worked on, if it is traced."""

    def bind(_logger: object, _method: str, event: Event) -> Event:
        following = tracer()
        context = None if following is None else following.context()
        if context is not None:
            event["trace_id"] = context.trace_id.hex()
            event["span_id"] = context.span_id.hex()
        return event

    return bind


def _harmless(_logger: object, _method: str, event: Event) -> Event:
    """No payload, no line without end, handles as they are written."""
    for key, value in event.items():
        if isinstance(value, bytes | bytearray | memoryview):
            event[key] = f"<{len(value)} bytes>"
        elif key in HEXADECIMAL and isinstance(value, int):
            event[key] = f"{value:#x}"
        elif isinstance(value, str) and len(value) > LONGEST:
            event[key] = f"{value[:LONGEST]}... ({len(value)} characters)"
    return event
