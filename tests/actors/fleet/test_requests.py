"""Hosting requests of a fleet: any machine with room, one child for each key.

The machines are real ones in this process; the directory is a cluster of three.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from typer.testing import CliRunner

from actors import exit_codes
from actors.cli import app
from actors.deployment.child import BODIES
from actors.deployment.leases import open_leases
from actors.deployment.parts import parts_of
from actors.deployment.place import Place
from actors.deployment.process import Assignment, Held, live
from actors.deployment.settings import Deployment, scenario_of
from actors.fleet.bus import Bus, NobodyListens, open_bus
from actors.fleet.serve import MACHINES
from actors.fleet.tenant import Refused, Tenant, open_tenant
from protocol.errors import NotDelivered, OutcomeUnknown
from protocol.fleet.placing import NoRoom
from protocol.fleet.subjects import ANY
from protocol.wire import pack_body

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PATIENCE_S = 120
LEASE_S = 15.0
SMALL = {"l1.count": "1", "guest.per_l1": "2", "guest.memory_mib": "2", "guest.image_pages": "4"}


@asynccontextmanager
async def machine(cluster: Any, folder: Path, cell_of: str, number: int) -> AsyncIterator[None]:
    """The machine l0-NUMBER, up, as an instance of a platform has it."""
    words = {"set": SMALL, "load": None, "placement": "together", "tenants": ["blue", "red"], "machines": 2}
    deployment = Deployment.model_validate(words)
    scenario = scenario_of(deployment).scenario
    parts = tuple(part for part in parts_of(deployment, 1) if part.machine == number)
    place = Place(folder / f"{number}")
    place.prepare(tuple(part.name for part in parts))
    up = trio.Event()
    name = parts[0].name
    async with open_leases(cluster.door("machine", cell_of, f"m{number}"), f"i{number}", LEASE_S) as leases:
        await leases.give_back(name)
        claim = await leases.claim(name)
        assignment = Assignment(deployment, scenario, parts, place, folder, {name: claim.epoch})
        async with trio.open_nursery() as nursery:
            held = Held(leases, [claim], up.set)
            nursery.start_soon(live, assignment, BODIES, None, lambda: None, held)
            await up.wait()
            yield
            nursery.cancel_scope.cancel()
        await leases.release(claim)


@asynccontextmanager
async def fleet(cluster: Any, folder: Path) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """Two machines, and two tenants before them."""
    async with AsyncExitStack() as stack:
        for number, name in enumerate(("one", "two")):
            await stack.enter_async_context(machine(cluster, folder, name, number))
        blue = await stack.enter_async_context(open_tenant(cluster.door("tenant", "blue")))
        red = await stack.enter_async_context(open_tenant(cluster.door("tenant", "red")))
        for tenant in (blue, red):
            for name in ("l0-0", "l0-1"):
                await reached(tenant, name)
        yield blue, red


async def reached(tenant: Tenant, name: str) -> None:
    """Wait until the tenant's server knows of the machine: servers tell one another, and take a moment."""
    while True:
        try:
            await tenant.ask(name, "list")
        except Refused:  # it has not said hello, and nobody has to
            return
        except NobodyListens:
            await trio.sleep(0.05)
        else:
            return


async def left(cluster: Any) -> None:
    """Wait until no server knows of a machine of the test before."""
    for url in cluster.urls:
        door = cluster.door("tenant", "blue")
        async with open_bus(replace(door, servers=(url,))) as bus:
            known = True
            while known:
                with suppress(OutcomeUnknown):
                    known = await heard(bus, bus.cell.ask("blue", ANY, MACHINES))


async def heard(bus: Bus, subject: str) -> bool:
    """Whether the server takes a question there; raises OutcomeUnknown where nobody answers it."""
    try:
        await bus.request(subject, pack_body({}), 1)
    except NobodyListens:
        return False
    return True


IMAGE = b"a guest of any machine"  # each makes of it an image that it can open
SPEC: dict[str, Any] = {"vcpus": 1, "memory_mib": 2}


async def children(tenant: Tenant) -> dict[str, list[bytes]]:
    """A tenant's children by machine."""
    found = {}
    for name in await tenant.machines():
        try:
            listed = (await tenant.ask(name, "list"))["children"]
        except Refused as stranger:
            assert stranger.name == "STALE_EPOCH"
            listed = []
        found[name] = [each["child"] for each in listed]
    return found


async def test_a_fleet_takes_requests_where_there_is_room(cluster: Any, tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        async with fleet(cluster, tmp_path) as (blue, red):
            started = [await blue.start(number, IMAGE, **SPEC) for number in range(1, 5)]
            assert sorted(name for name, _ in started) == ["l0-0", "l0-0", "l0-1", "l0-1"]
            with pytest.raises(NoRoom):  # each machine has two of each tenant
                await blue.start(5, IMAGE, **SPEC)
            _, body = await red.start(1, IMAGE, **SPEC)  # its number 1 is not blue's
            assert not body["replayed"]
            await red.ask(started[0][0], "hello", versions=[1])
            with pytest.raises(Refused, match="NOT_FOUND"):
                await red.ask(started[0][0], "describe", child=started[0][1]["child"])

            # The same number: the same child, whoever is asked.
            for number, (where, made) in enumerate(started, 1):
                again, body = await blue.start(number, IMAGE, **SPEC)
                assert (again, body["child"], body["replayed"]) == (where, made["child"], True)
            assert {name: len(found) for name, found in (await children(blue)).items()} == {
                "l0-0": 2,
                "l0-1": 2,
            }

            # Room that was given back is taken by the next.
            where, made = started[0]
            await blue.ask(where, "destroy", child=made["child"])
            await blue.ask(where, "ack_exit", child=made["child"])
            assert (await blue.start(6, IMAGE, **SPEC))[0] == where


def test_where_no_machine_listens_a_start_says_that_nothing_was_done(cluster: Any, tmp_path: Path) -> None:
    trio.run(left, cluster)
    image = tmp_path / "guest.img"
    image.write_bytes(IMAGE)
    certificate = cluster.credentials("tenant", "blue").certificate
    servers = [word for url in cluster.urls for word in ("--nats", url)]
    words = ["fleet", "start", str(image), "--certificate", str(certificate), *servers]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == exit_codes.ENVIRONMENT, done.output
    assert "nobody is at" in done.stderr
    assert "nothing was done" in done.stderr


async def test_what_is_no_question_is_counted_and_not_answered(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes that are none, words that are none, an answer wanted elsewhere; a real one is answered."""
    hello = {
        "v": 1,
        "t": "hello",
        "rid": bytes(16),
        "epoch": 0,
        "dl": None,
        "key": None,
        "b": {"versions": [1]},
    }
    wrong = {
        "malformed": ("hosting", b"\xc1"),
        "shape": ("hosting", pack_body([1, 2])),
        "oversized": ("hosting", bytes(70_000)),
        "too_deep": ("hosting", b"\x91" * 200 + b"\x90"),
        "duplicate_key": ("hosting", b"\x82\xa1v\x01\xa1v\x02"),
        "kind": ("hosting", pack_body({**hello, "t": "watch"})),
    }
    with trio.fail_after(PATIENCE_S):
        async with fleet(cluster, tmp_path) as (blue, _):
            bus = blue._bus
            inbox = f"{bus.cell.inbox('blue')}.odd"
            answers = await bus.subscribe(f"{inbox}.>")
            for number, (verb, data) in enumerate(wrong.values()):
                await bus.publish(bus.cell.ask("blue", "l0-0", verb), data, f"{inbox}.{number}")
            await bus.publish(bus.cell.ask("blue", "l0-0", "hosting"), pack_body(hello), "nb-inbox.lab.red.1")
            await bus.publish(bus.cell.ask("blue", "l0-0", "nonsense"), pack_body(hello), f"{inbox}.x")
            assert (await blue.ask("l0-0", "hello", versions=[1]))["epoch"] == 1, "it goes on"
            with pytest.raises(trio.WouldBlock):
                answers.receive_nowait()
    said = capsys.readouterr().err
    for reason in (*wrong, "role"):
        assert f'"reason": "{reason}"' in said, reason


async def test_many_requests_of_one_number_at_once_make_one_child(cluster: Any, tmp_path: Path) -> None:
    with trio.fail_after(PATIENCE_S):
        async with fleet(cluster, tmp_path) as (blue, _):
            made: set[bytes] = set()

            async def ask() -> None:
                while True:
                    try:
                        _, body = await blue.start(77, IMAGE, **SPEC)
                    except (OutcomeUnknown, NotDelivered, Refused):
                        await trio.sleep(0.05)  # the image is on its way, or the directory is busy
                        continue
                    made.add(body["child"])
                    return

            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(ask)
            assert len(made) == 1
            assert sum(len(found) for found in (await children(blue)).values()) == 1
