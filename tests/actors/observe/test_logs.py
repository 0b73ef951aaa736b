"""Lines of a process's log: for people on a terminal, for programs elsewhere, and never with a payload."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from actors.observe.logs import BadLogging, configure, logger
from actors.runtime.actor import open_runtime
from actors.runtime.tracing import Tracer
from protocol.ledger import Ledger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def said(to: io.StringIO) -> Any:
    return json.loads(to.getvalue())


def test_elsewhere_a_line_is_one_json_object() -> None:
    to = io.StringIO()
    configure({}, to=to)
    logger(rank=2).info("host booted", seat=3)
    line = said(to)
    assert {name: line[name] for name in ("event", "level", "rank", "seat")} == {
        "event": "host booted",
        "level": "info",
        "rank": 2,
        "seat": 3,
    }
    assert line["timestamp"].endswith("Z")


def test_on_a_terminal_it_is_words_and_pairs() -> None:
    to = Terminal()
    configure({"NO_COLOR": "1"}, to=to)
    logger(rank=2).warning("host died", cause="l1_crash")
    assert "host died cause=l1_crash rank=2" in " ".join(to.getvalue().split())


def test_the_environment_decides() -> None:
    to = Terminal()
    configure({"NESTBED_LOG_FORMAT": "json", "NESTBED_LOG_LEVEL": "error"}, to=to)
    logger().info("not worth a line")
    assert to.getvalue() == ""
    logger().error("lost")
    assert said(to)["event"] == "lost"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("NESTBED_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("NESTBED_LOG_FORMAT", "xml", "text, json"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(name: str, value: str, allowed: str) -> None:
    with pytest.raises(BadLogging, match=f"{name}={value}: allowed: {allowed}"):
        configure({name: value})


def test_no_payload_and_no_endless_line() -> None:
    to = io.StringIO()
    configure({}, to=to)
    logger().info("refused", frame=b"secret page", handle=0xBEEF, detail="x" * 10_000)
    line = said(to)
    assert (line["frame"], line["handle"]) == ("<11 bytes>", "0xbeef")
    assert len(line["detail"]) < 600
    assert "secret" not in to.getvalue()


async def test_what_is_traced_carries_its_ids() -> None:
    to = io.StringIO()
    async with open_runtime(lambda: 0.0) as runtime:
        configure({}, to=to, tracer=lambda: runtime.tracer)
        tracer = Tracer(runtime, Ledger().divert)
        with tracer.operation("host 0", "create") as root:
            logger().info("creating")
        first = said(to)
        assert (first["trace_id"], first["span_id"]) == (root.trace_id.hex(), root.context.span_id.hex())
        logger().info("at rest")
        assert "trace_id" not in json.loads(to.getvalue().splitlines()[1])
