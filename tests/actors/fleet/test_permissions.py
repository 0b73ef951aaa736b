"""Who may get in, and say what: mutual TLS and subjects, with the configuration that is shipped."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from actors.deployment.leases import machines_of, open_leases
from actors.fleet.bus import Bus, Door, NobodyListens, NoDirectory, open_bus
from protocol.errors import NotDelivered

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PATIENCE_S = 60
MACHINES = machines_of("lab")


async def answered(bus: Bus, subject: str, data: bytes) -> bytes:
    """The answer of whoever listens there: servers tell one another of them, and that takes a moment."""
    while True:
        try:
            return await bus.request(subject, data, 10)
        except NobodyListens:
            await trio.sleep(0.05)


async def test_a_tenant_reaches_its_own_prefix_and_gets_answers_there(cluster: Any) -> None:
    with trio.fail_after(PATIENCE_S):
        async with (
            open_bus(cluster.door("machine", "one")) as machine,
            open_bus(cluster.door("tenant", "blue")) as blue,
        ):
            questions = await machine.subscribe(machine.cell.asked_of("l0-0"))

            async def serve() -> None:
                async for asked in questions:
                    assert machine.cell.opened(asked.subject, asked.reply).who == "blue"
                    await machine.publish(asked.reply, asked.data[::-1])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                subject = blue.cell.ask("blue", "l0-0", "hosting")
                assert await answered(blue, subject, b"abc") == b"cba"
                nursery.cancel_scope.cancel()


async def test_a_tenant_asks_in_no_other_name_reads_no_other_inbox_and_no_directory(cluster: Any) -> None:
    """Each refusal comes from the server, and what was refused reached nobody."""
    with trio.fail_after(PATIENCE_S):
        async with (
            open_bus(cluster.door("machine", "one")) as machine,
            open_bus(cluster.door("tenant", "blue")) as blue,
            open_bus(cluster.door("tenant", "red")) as red,
        ):
            questions = await machine.subscribe(machine.cell.asked_of("l0-0"))
            for who in ("red", "driver", "machine"):
                with pytest.raises(NotDelivered, match="does not let blue publish"):
                    await blue.request(blue.cell.ask(who, "l0-0", "hosting"), b"forged", 10)
            for inbox in (red.cell.inbox("red"), red.cell.inbox("driver")):
                with pytest.raises(NotDelivered, match="does not let blue subscribe"):
                    await blue.subscribe(f"{inbox}.>")
                with pytest.raises(NotDelivered, match="does not let blue publish"):
                    await blue.request(f"{inbox}.1", b"forged", 10)
            for subject in (f"$KV.{MACHINES}.l0-0", f"$JS.API.STREAM.MSG.GET.KV_{MACHINES}"):
                with pytest.raises(NotDelivered, match="does not let blue publish"):
                    await blue.request(subject, b"{}", 10)
            with pytest.raises(NotDelivered, match="does not let blue subscribe"):
                await blue.subscribe(blue.cell.asked_of("l0-0"))
            seen = []

            async def serve() -> None:
                async for asked in questions:
                    seen.append(asked.data)
                    await machine.publish(asked.reply, b"seen")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                await answered(red, red.cell.ask("red", "l0-0", "hosting"), b"real")
                assert set(seen) == {b"real"}
                nursery.cancel_scope.cancel()


async def test_a_driver_reads_the_directory_and_writes_nothing_into_it(cluster: Any) -> None:
    with trio.fail_after(PATIENCE_S):
        async with (
            open_leases(cluster.door("machine", "one"), "a", 15.0) as leases,
            open_bus(cluster.door("driver", "operator")) as driver,
        ):
            await leases.bucket.put("read-me", b"as it is", 0)
            bucket = await driver.found(MACHINES)
            assert (await bucket.get("read-me")).data == b"as it is"
            with pytest.raises(NotDelivered, match="does not let driver publish"):
                await driver.request(f"$KV.{MACHINES}.read-me", b"mine", 10)
            assert (await leases.bucket.get("read-me")).data == b"as it is"


async def test_who_has_no_certificate_or_one_that_nobody_knows_is_not_let_in(
    cluster: Any, tmp_path: Any
) -> None:
    stranger = type(cluster.keys).create(tmp_path / "other").issue("machine", "one")
    server_only = cluster.routes.issue("machine", "one")  # servers' authority is none for clients
    unlisted = cluster.credentials("tenant", "green")
    with trio.fail_after(PATIENCE_S):
        for credentials in (None, stranger, server_only, unlisted):
            with pytest.raises(NoDirectory):
                async with open_bus(Door(cluster.urls[:1], "machine", "lab", credentials)):
                    pass


async def spoken(stream: trio.SSLStream[trio.SocketStream]) -> bytes:
    await stream.send_all(b"PING\r\n")
    return bytes(await stream.receive_some(1))


async def test_a_client_is_no_server_of_the_cluster(cluster: Any) -> None:
    """Servers believe an authority of their own: no certificate of a client opens a route."""
    from actors.runtime.transport.tls import context

    given = cluster.credentials("machine", "two")
    with trio.fail_after(PATIENCE_S):
        plain = await trio.open_tcp_stream("127.0.0.1", cluster.route_ports["n1"])
        async with plain:
            believing = context(given, server=False)
            believing.load_verify_locations(cluster.routes.folder / "ca.pem")
            stream = trio.SSLStream(plain, believing)
            with pytest.raises(trio.BrokenResourceError):  # in TLS 1.3 it is refused after the handshake
                await spoken(stream)
        while "TLS route handshake error" not in cluster.log("n1"):
            await trio.sleep(0.05)  # the server writes that down a moment later
