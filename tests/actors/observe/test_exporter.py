"""Metrics over HTTP: what is served, what is refused, and that nobody can hold it up for long."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector
from trio.testing import MockClock, memory_stream_pair

from actors.observe import exporter
from actors.observe.exporter import CannotListen, serve

Answer = tuple[int, dict[str, str], bytes]


class One(Collector):
    """A registry's worth of one value."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("answer", "to everything", value=42)


class Broken(Collector):
    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        raise ZeroDivisionError("no such book")


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(One())
    return registry


async def answer_to(stream: trio.SocketStream) -> Answer:
    """Read until the other side ends, and take the answer apart."""
    data = b""
    while more := await stream.receive_some():
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    named = dict(header.split(": ", 1) for header in headers)
    return int(line.split()[1]), named, body


async def exchange(port: int, request: bytes) -> Answer:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return await answer_to(stream)


async def get(port: int, path: str, *headers: str) -> Answer:
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]
    return await exchange(port, "\r\n".join(lines).encode())


async def test_metrics_come_as_text(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        status, headers, body = await get(port, "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert int(headers["Content-Length"]) == len(body)
    assert [family.samples[0].value for family in parse_text(body.decode())] == [42]


async def test_a_scraper_that_asks_for_openmetrics_gets_it(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        _, headers, body = await get(
            port, "/metrics", "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3"
        )
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert [family.name for family in parse_openmetrics(body.decode())] == ["answer"]


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=no.such", "text/plain;version=x", "=;=,;;", "*/*"]
)
async def test_a_strange_accept_header_is_no_obstacle(registry: CollectorRegistry, accept: str) -> None:
    async with serve(registry, 0) as port:
        status, _, body = await get(port, "/metrics", f"Accept: {accept}")
    assert status == 200
    assert b"answer 42" in body


async def test_a_query_behind_the_path_is_ignored(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        assert (await get(port, "/metrics?name[]=x"))[0] == 200


async def test_a_probe_is_told_whether_it_lives_and_whether_it_is_ready(registry: CollectorRegistry) -> None:
    is_ready = False
    async with serve(registry, 0, ready=lambda: is_ready) as port:
        assert (await get(port, "/healthz"))[0::2] == (200, b"ok\n")
        assert (await get(port, "/readyz"))[0::2] == (503, b"not ready\n")
        is_ready = True
        assert (await get(port, "/readyz"))[0::2] == (200, b"ready\n")


async def test_head_gets_the_headers_of_get_without_the_body(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        _, want, body = await get(port, "/metrics")
        status, headers, nothing = await exchange(port, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (status, headers, nothing) == (200, want, b"")
    assert int(headers["Content-Length"]) == len(body)


@pytest.mark.parametrize(
    ("request_bytes", "status", "said"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404, b"/metrics"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404, b"/metrics"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405, b"GET and HEAD"),
        (b"GET /metrics\r\n\r\n", 400, b"HTTP/1"),
        (b"GET /metrics HTTP/1.1\r\nAccept: text/plain; version=1.1.x\nX: y\r\n\r\n", 400, b"HTTP/1"),
        (b"PRI * HTTP/2.0\r\n\r\n", 400, b"HTTP/1"),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400, b"HTTP/1"),
        (b"GET /" + b"a" * exporter.HEAD_BYTES + b" HTTP/1.1\r\n\r\n", 431, b"8192"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000, 431, b"8192"),
    ],
)
async def test_what_is_not_served_is_refused_with_a_reason(
    registry: CollectorRegistry, request_bytes: bytes, status: int, said: bytes
) -> None:
    async with serve(registry, 0) as port:
        got, _, body = await exchange(port, request_bytes)
        assert got == status
        assert said in body
        assert (await get(port, "/healthz"))[0] == 200, "and it goes on serving"


async def test_a_wrong_method_is_told_the_right_ones(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        _, headers, _ = await exchange(port, b"DELETE /metrics HTTP/1.1\r\n\r\n")
    assert headers["Allow"] == "GET, HEAD"


async def test_a_request_may_come_in_pieces(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port, await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for piece in (b"GE", b"T /healthz HT", b"TP/1.1\r\nHost: x\r", b"\n\r", b"\n"):
            await stream.send_all(piece)
            await trio.testing.wait_all_tasks_blocked()
        assert (await answer_to(stream))[0] == 200


async def test_who_does_not_finish_a_request_is_cut_off(
    registry: CollectorRegistry, autojump_clock: MockClock
) -> None:
    client, server = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exporter._Exporter(registry, lambda: True).serve, server)
        await client.send_all(b"GET /metrics")
        assert await client.receive_some() == b""
    assert trio.current_time() == pytest.approx(exporter.REQUEST_S)


async def test_who_goes_away_early_harms_nobody(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        for request in (b"", b"GET /metr"):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                if request:
                    await stream.send_all(request)
        assert (await get(port, "/healthz"))[0] == 200


async def test_connections_beyond_the_limit_are_told_to_come_later(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(exporter.CONNECTIONS)]
        await trio.testing.wait_all_tasks_blocked()
        status, _, body = await exchange(port, b"GET /healthz HTTP/1.1\r\n\r\n")
        assert status == 503
        assert b"16 connections are open" in body
        for stream in held:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert (await get(port, "/healthz"))[0] == 200


async def test_a_mistake_in_what_is_read_is_the_scrapers_news_and_nobody_elses() -> None:
    registry = CollectorRegistry()
    registry.register(Broken())
    async with serve(registry, 0) as port:
        status, _, body = await get(port, "/metrics")
        assert status == 500
        assert b"ZeroDivisionError: no such book" in body
        assert (await get(port, "/healthz"))[0] == 200


async def test_a_port_that_is_taken_is_said_to_be_taken(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        with pytest.raises(CannotListen, match=f"127.0.0.1 port {port}: the port is taken"):
            async with serve(registry, port):
                pass


@pytest.mark.parametrize("port", [-1, 65_536])
async def test_a_number_that_is_no_port_is_refused(registry: CollectorRegistry, port: int) -> None:
    with pytest.raises(ValueError, match="0 to 65535"):
        async with serve(registry, port):
            pass


async def test_an_address_of_somebody_else_is_refused(registry: CollectorRegistry) -> None:
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1 port 0"):
        async with serve(registry, 0, host="192.0.2.1"):
            pass


async def test_what_the_block_raises_comes_out_as_it_is(registry: CollectorRegistry) -> None:
    with pytest.raises(ZeroDivisionError):
        async with serve(registry, 0):
            raise ZeroDivisionError


async def test_the_port_is_free_again_after_the_block(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        pass
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)


async def test_it_listens_on_one_address_only(registry: CollectorRegistry) -> None:
    async with serve(registry, 0) as port:
        (other,) = await trio.open_tcp_listeners(port, host="127.0.0.2")  # raises if all addresses are taken
        await other.aclose()
