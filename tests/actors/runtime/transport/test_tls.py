"""TCP with TLS: who is at the other end is what its certificate says, and what it may ask is its role's."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from actors.runtime.link import Link
from actors.runtime.transport.pki import Authority
from actors.runtime.transport.tls import HANDSHAKE_S, Exchange, Expected, Peer, context, dial, only
from protocol.errors import LevelGone, RemoteProtocolError
from protocol.roles import DRIVER, HOSTS, MACHINE, ROLES, may_ask
from protocol.wire import pack_frame

NODE = Peer(HOSTS, "node-0")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def exchange(authority: Authority) -> AsyncIterator[tuple[Exchange, Expected, tuple[str, int]]]:
    """A machine that expects one link of `NODE`, and its address."""
    made = Exchange(authority.issue(MACHINE, "l0"))
    async with trio.open_nursery() as nursery:
        address = await made.listen(nursery, "127.0.0.1")
        with trio.fail_after(30):
            yield made, made.expect("node-0.0", NODE), address
        nursery.cancel_scope.cancel()


def echo(_target: str, message: object, deliver: Any) -> None:
    deliver(message, None)


async def test_a_link_runs_over_it_and_a_role_asks_for_what_is_its_own(authority: Authority) -> None:
    async with exchange(authority) as (made, expected, address), trio.open_nursery() as nursery:
        serves = Link(expected, only(may_ask(HOSTS), echo))
        nursery.start_soon(serves.run)
        stream = await dial(*address, authority.issue(HOSTS, "node-0"), MACHINE, "node-0.0")
        asks = Link(stream)
        nursery.start_soon(asks.run)
        assert await asks.ask("kvm", 7) == 7
        with pytest.raises(LevelGone):
            await asks.ask("te", 7)
        assert serves.statistics().violations == {"role": 1}
        assert not made.violations
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("role", "name", "ticket", "reason"),
    [
        (DRIVER, "node-0", "node-0.0", "role"),
        (HOSTS, "node-1", "node-0.0", "role"),
        (HOSTS, "node-0", "node-9.0", "order"),
        (HOSTS, "node-0", "x" * 1000, "oversized"),
    ],
    ids=["another role", "another name", "a link of nobody", "a ticket too long"],
)
async def test_whoever_is_not_expected_is_counted_and_closed(
    authority: Authority, role: str, name: str, ticket: str, reason: str
) -> None:
    async with exchange(authority) as (made, expected, address):
        stream = await dial(*address, authority.issue(role, name), MACHINE, ticket)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
        assert made.violations == {reason: 1}
        assert not expected.came.is_set()


async def test_a_link_is_opened_once(authority: Authority) -> None:
    async with exchange(authority) as (made, _, address):
        credentials = authority.issue(HOSTS, "node-0")
        await dial(*address, credentials, MACHINE, "node-0.0")
        again = await dial(*address, credentials, MACHINE, "node-0.0")
        with pytest.raises(trio.BrokenResourceError):
            await again.receive_some(1)
        assert made.violations == {"order": 1}


async def test_a_certificate_of_another_authority_is_worth_nothing(
    authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority.create(tmp_path).issue(HOSTS, "node-0")
    async with exchange(authority) as (made, _, address):
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):
            await dial(*address, stranger, MACHINE, "node-0.0")
        while not made.violations:
            await trio.sleep(0.01)
        assert made.violations == {"malformed": 1}


@pytest.mark.parametrize("what", ["no certificate", "an older version", "no TLS at all"])
async def test_less_than_both_certificates_and_the_latest_version_is_refused(
    authority: Authority, what: str
) -> None:
    credentials = authority.issue(HOSTS, "node-0")
    async with exchange(authority) as (made, _, (host, port)):
        plain = await trio.open_tcp_stream(host, port)
        if what == "no TLS at all":
            await plain.send_all(pack_frame(["node-0.0"]))
        else:
            client = context(credentials, server=False)
            if what == "no certificate":
                client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                client.check_hostname = False
                client.load_verify_locations(credentials.authority)
            else:
                client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
            stream = trio.SSLStream(plain, client)
            with suppress(trio.BrokenResourceError, ssl.SSLError):
                await stream.do_handshake()
                assert not await stream.receive_some(1)
        while not made.violations:
            await trio.sleep(0.01)
        assert made.violations == {"malformed": 1}


async def test_a_stranger_who_says_nothing_is_closed_in_time(
    authority: Authority, autojump_clock: MockClock
) -> None:
    made = Exchange(authority.issue(MACHINE, "l0"))
    silent, ours = memory_stream_pair()
    began = trio.current_time()
    await made._take(ours)  # type: ignore[arg-type]
    assert trio.current_time() - began == pytest.approx(HANDSHAKE_S)
    assert made.violations == {"order": 1}
    await silent.aclose()


async def test_a_machine_of_another_role_is_not_spoken_to(authority: Authority) -> None:
    async with exchange(authority) as (_, _, address):
        with pytest.raises(RemoteProtocolError, match="role"):
            await dial(*address, authority.issue(HOSTS, "node-0"), DRIVER, "node-0.0")


def test_openssl_finds_the_certificates_in_order(authority: Authority) -> None:
    credentials = authority.issue(HOSTS, "node-7", ["127.0.0.1", "l0.example"])
    command = ["openssl", "verify", "-x509_strict", "-CAfile", credentials.authority, credentials.certificate]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert credentials.key.stat().st_mode & 0o777 == 0o600
    shown = ["openssl", "x509", "-in", credentials.certificate, "-noout", "-ext", "subjectAltName"]
    text = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert "URI:nestbed:hosts:node-7" in text
    assert "DNS:l0.example" in text


def test_an_authority_is_not_made_twice(authority: Authority) -> None:
    with pytest.raises(FileExistsError):
        Authority.create(authority.folder)
    assert Authority.open(authority.folder).certificate == authority.certificate
    with pytest.raises(ValueError, match="no role"):
        authority.issue("machine:te", "l0")


@pytest.mark.parametrize("role", ROLES)
def test_no_role_speaks_as_trusted_entity(role: str) -> None:
    assert not may_ask(role)("te")
    assert may_ask(role)("kvm") == (role == HOSTS)
    assert may_ask(role)("host.3") == (role == DRIVER)
