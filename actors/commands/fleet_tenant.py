"""`nestbed fleet start` and what follows it: hosted guests on any machine of a fleet with room."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.door import TENANT, CellName, Certificate, Servers, door_of
from actors.commands.hosted import show_json
from actors.commands.options import AsJson
from actors.commands.speak import end
from actors.given import whole

if TYPE_CHECKING:
    from actors.fleet.tenant import Tenant

Json = dict[str, Any]
NUMBERS = 1 << 96
ChildName = Annotated[str, typer.Argument(metavar="CHILD", help="A child's name, or the beginning of it.")]


def _as_tenant(
    nats: list[str] | None,
    certificate: Path | None,
    cell: str,
    act: Callable[[Tenant], Coroutine[Any, Any, Any]],
) -> Any:
    """Do something as the tenant that the certificate names; a refusal ends the command in words."""
    import trio

    from actors.commands.hosted import _exit_code
    from actors.fleet.bus import NoDirectory
    from actors.fleet.tenant import Refused, open_tenant
    from protocol.errors import NotDelivered, OutcomeUnknown
    from protocol.fleet.placing import NoRoom

    door = door_of(nats, certificate, cell, TENANT)
    if door.credentials is None:
        end(exit_codes.USAGE, "--certificate FILE is missing: who asks is the tenant in a certificate")

    async def run() -> Any:
        async with open_tenant(door) as tenant:
            return await act(tenant)

    try:
        return trio.run(run)
    except Refused as refused:
        end(_exit_code(refused.code), str(refused))
    except NoRoom as full:
        end(exit_codes.FAILED, f"{full}; nothing was started")
    except NotDelivered as error:
        end(exit_codes.ENVIRONMENT, f"{error}; nothing was done")
    except OutcomeUnknown as error:
        end(exit_codes.FAILED, f"{error}; it may have been done: repeat it with the same --key")
    except NoDirectory as error:
        end(exit_codes.ENVIRONMENT, f"--nats {error}")


def start(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The guest's image, any file.")],
    nats: Servers = None,
    certificate: Certificate = None,
    cell: CellName = "lab",
    vcpus: Annotated[int, typer.Option("--vcpus", metavar="N", help="CPUs of the guest.")] = 1,
    memory: Annotated[int, typer.Option("--memory", metavar="MIB", help="Memory of the guest.")] = 64,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label; may be repeated.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key",
            metavar="N",
            help="Number of the request: the same one never starts two guests.",
        ),
    ] = None,
    linger: Annotated[
        int, typer.Option("--linger", metavar="SECONDS", help="How long it outlives the lease.")
    ] = 0,
) -> None:
    """Start a secure guest on any machine of a fleet that has room; its machine and name are printed.

    A machine without room refuses, and the next one is asked. The same --key never starts two guests, on
    whichever machines it is asked: it is remembered for seven days.
    """
    number = secrets.randbelow(NUMBERS - 1) + 1 if key is None else whole(key, NUMBERS)
    if not number:
        end(exit_codes.USAGE, f"--key {key}: allowed: a number from 1 up")
    labels = dict(each.partition("=")[::2] for each in label or ())
    if any(not name or not value for name, value in labels.items()):
        end(exit_codes.USAGE, "--label: allowed: NAME=VALUE")
    try:
        data = image.read_bytes()
    except OSError as error:
        end(exit_codes.USAGE, f"{image}: {error.strerror}")
    spec: Json = {"vcpus": vcpus, "memory_mib": memory, "labels": labels}
    spec |= {"on_owner_loss": "linger" if linger else "stop", "linger_s": linger}
    machine, body = _as_tenant(nats, certificate, cell, lambda tenant: tenant.start(number, data, **spec))
    names = ("child", "cid", "state", "replayed", "charged")
    show_json({"machine": machine, "key": number} | {name: body[name] for name in names})


async def _children(tenant: Tenant) -> list[Json]:
    """The tenant's children on every machine that answers."""
    from actors.fleet.tenant import Refused

    found = []
    for machine in sorted(await tenant.machines()):
        after = None
        while True:
            try:
                page = await tenant.ask(machine, "list", after=after)
            except Refused as refused:
                if refused.name != "STALE_EPOCH":  # this machine has not heard of us
                    raise
                break
            found += [{"machine": machine, **child} for child in page["children"]]
            after = page["after"]
            if after is None:
                break
    return found


def listed(
    nats: Servers = None, certificate: Certificate = None, cell: CellName = "lab", as_json: AsJson = False
) -> None:
    """List the tenant's own guests, on all machines of the fleet."""
    children = _as_tenant(nats, certificate, cell, _children)
    if as_json:
        show_json(children)
        return
    for each in children:
        labels = " ".join(f"{name}={value}" for name, value in each["labels"].items())
        sys.stdout.write(f"{each['child'].hex()}  {each['machine']:<8} {each['state']:<9} {labels}\n")


def destroy(
    child: ChildName, nats: Servers = None, certificate: Certificate = None, cell: CellName = "lab"
) -> None:
    """End a guest wherever it is, give back all that it holds, and drop its exit record."""

    async def act(tenant: Tenant) -> Json | int:
        found = [each for each in await _children(tenant) if each["child"].hex().startswith(child.lower())]
        if len(found) != 1:
            return len(found)
        machine, name = found[0]["machine"], found[0]["child"]
        await tenant.ask(machine, "destroy", child=name)
        await tenant.ask(machine, "ack_exit", child=name)
        return {"machine": machine, "state": "RELEASED"}

    done = _as_tenant(nats, certificate, cell, act)
    if isinstance(done, int):
        end(exit_codes.USAGE, f"{child}: names {done} children: see `nestbed fleet list`")
    show_json(done)


def keep(nats: Servers = None, certificate: Certificate = None, cell: CellName = "lab") -> None:
    """Renew the tenant's lease on every machine until interrupted: without that its guests end after 30 s."""

    async def act(tenant: Tenant) -> None:
        import trio

        from protocol.errors import NestbedError

        while True:
            pause = 10.0
            try:
                for machine in await tenant.machines():
                    hello = await tenant.ask(machine, "hello", versions=[1])
                    pause = min(pause, hello["lease"]["renew_ms"] / 1000)
            except NestbedError:
                pause = 1.0  # a machine is gone, or an election is under way
            await trio.sleep(pause)

    try:
        _as_tenant(nats, certificate, cell, act)
    except KeyboardInterrupt:
        raise typer.Exit(exit_codes.INTERRUPTED) from None
