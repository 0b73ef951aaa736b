"""`nestbed trace`: one operation as it goes through every level, for people and for programs."""

from __future__ import annotations

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from actors import exit_codes
from actors.cli import app
from actors.compare.progress import Progress
from actors.compare.run import run as compare
from actors.compare.tracing import Tracing
from actors.scenario import known_architectures, load
from protocol.ledger import flatten


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "120", "NO_COLOR": "1"})


def test_the_picture_of_the_talk() -> None:
    """L2's call, what each level below makes of it, and the calls that reach the machine."""
    result = run("trace", "--arch", "s390", "--op", "create", "--depth", "2")
    assert result.exit_code == exit_codes.OK, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[1].startswith("10 messages, 9 exits at L0, 3 calls at the Trusted Entity; modelled ")
    assert "uvc create_config l1.kvm modified 1 L2 uvc, 1 L1 sie 10 132 B 3" in lines
    assert "uvc create_config l0.kvm modified 1 L1 uvc 10 132 B 3" in lines
    assert "2 x uvc create_cpu te issued" in lines


def test_the_hosted_path_goes_by_the_broker() -> None:
    text = run("trace", "--op", "create", "--path", "hosted").stdout
    assert "start" in text
    assert "broker" in text
    assert "1 L1 vsock" in text, "and the message is an exit of its requester"


@pytest.mark.slow
@pytest.mark.parametrize("arch", known_architectures())
def test_spans_hold_exactly_what_is_counted(arch: str) -> None:
    """Every operation traced: their counts are those of the run, and the run's those of one untraced."""
    flags = {"arch": arch, "paths": "direct,nested,hosted", "l1.count": "2", "guest.per_l1": "1"}
    scenario = load("default", flags=flags, environment={}).scenario
    plain = compare(scenario, Progress())
    tracing = Tracing(lambda _path, _name, _before: True)
    followed = compare(scenario, Progress(), tracing=tracing)
    assert tracing.dropped == 0
    for result, untraced in zip(followed.results, plain.results, strict=True):
        assert result["counts"] == untraced["counts"]
        found: Counter[str] = Counter()
        for traced in tracing.found:
            if traced.path == result["path"]:
                found.update(flatten(traced.root.total()))
        outside = Counter(result["counts"])
        outside.subtract(found)
        assert {name: n for name, n in outside.items() if n} == BEFORE.get((arch, result["path"]), {})


# What L0 does when the machine is put together, before any operation.
BEFORE = {
    ("s390", "nested"): {
        "te_calls": 1,
        "te_calls.init.init.own.0": 1,
        "te_issued": 1,
        "te_issued.init.0": 1,
    },
    ("tdx", "nested"): {"tracking_updates": 2, "tracking_updates.te_context.create.l0": 2},
}


def test_as_json_every_span_has_its_ids_and_counts() -> None:
    (found,) = json.loads(run("trace", "--arch", "s390", "--op", "create", "--json").stdout)
    root, *spans = found["spans"]
    ids = {span["span_id"] for span in found["spans"]}
    assert all(span["parent_id"] in ids for span in spans)
    assert {span["trace_id"] for span in spans} == {root["trace_id"]}
    assert sum(span["counts"].get("exits", 0) for span in found["spans"]) == 3
    assert found["modelled_ns"] == root["modelled_end_ns"] > 0


def test_the_same_seed_gives_the_same_trace() -> None:
    arguments = ("trace", "--op", "load", "--json", "--seed", "5")
    assert run(*arguments).stdout == run(*arguments).stdout


def test_files_for_other_tools(tmp_path: Path) -> None:
    chrome, mermaid = tmp_path / "load.json", tmp_path / "load.mmd"
    which = ("--arch", "s390", "--path", "nested", "--path", "hosted")
    result = run("trace", "--op", "load", *which, "--chrome", str(chrome), "--mermaid", str(mermaid))
    assert result.exit_code == exit_codes.OK, result.output
    events = json.loads(chrome.read_text())["traceEvents"]
    assert {event["args"]["name"] for event in events if event["name"] == "process_name"} == {
        "s390 nested",
        "s390 hosted",
    }
    assert mermaid.read_text().count("sequenceDiagram") == 2
    assert "loop 64 times" in mermaid.read_text()


def test_an_operation_that_is_not_there_lists_those_that_are() -> None:
    result = run("trace", "--op", "creat")
    assert result.exit_code == exit_codes.USAGE
    assert "--op creat: no operation of that name; there are boothost, create, load" in result.output
    assert run("trace", "--op", "create", "--nth", "99").exit_code == exit_codes.USAGE


def test_a_place_that_cannot_be_written_is_said() -> None:
    result = run("trace", "--op", "create", "--chrome", "/nowhere/here.json")
    assert result.exit_code == exit_codes.ENVIRONMENT
    assert "--chrome /nowhere/here.json: cannot be written" in result.output


class Collector(BaseHTTPRequestHandler):
    bodies: list[bytes]

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_spans_reach_a_collector_of_others() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="nestbed[otel] is not installed")
    from gzip import decompress

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    taken = type("Taken", (Collector,), {"bodies": []})
    with HTTPServer(("127.0.0.1", 0), taken) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1/traces"
            result = run("trace", "--arch", "s390", "--op", "create", "--otlp", url)
        finally:
            server.shutdown()
            thread.join()
    assert result.exit_code == exit_codes.OK, result.output
    (body,) = taken.bodies
    request = ExportTraceServiceRequest.FromString(decompress(body) if body[:2] == b"\x1f\x8b" else body)
    spans = [span for of in request.resource_spans for scope in of.scope_spans for span in scope.spans]
    assert [span.name for span in spans].count("create_cpu") == 4
    assert len({span.trace_id for span in spans}) == 1


def test_no_collector_is_said() -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="nestbed[otel] is not installed")
    result = run("trace", "--op", "create", "--otlp", "nowhere")
    assert result.exit_code == exit_codes.ENVIRONMENT
    assert "allowed: http://HOST:PORT/v1/traces" in result.output
