"""A count of calls names a trace in which one was made, for whoever asks for OpenMetrics."""

from __future__ import annotations

import re
from urllib.request import Request, urlopen

from actors.commands.metrics import served
from protocol.ledger import Ledger

CALL = ("te_calls", "unpack", "memory", "passed", "1")
TRACE = "0af7651916cd43dd8448eb211c80319c"


def scraped(kind: str) -> str:
    ledger = Ledger()
    ledger.count(CALL, 7)
    with served(0, depth=1) as (watching, port):
        watching.attach("s390", "nested", ledger)
        watching.exemplify(lambda: {("s390", "nested", *CALL): TRACE})
        request = Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": kind})
        with urlopen(request, timeout=60) as answer:
            text: str = answer.read().decode()
    return text


def test_openmetrics_has_the_trace_beside_the_count() -> None:
    (line,) = re.findall(
        r"^nestbed_te_calls_total.*trace_id.*$", scraped("application/openmetrics-text"), re.M
    )
    assert 'call="unpack"' in line
    assert line.endswith(f' 7.0 # {{trace_id="{TRACE}"}} 1.0')


def test_plain_text_has_none() -> None:
    assert "trace_id" not in scraped("text/plain")
