"""`nestbed hosted serve`: the hosting service as a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors import exit_codes
from actors.commands.hosted import show_json
from actors.commands.speak import end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from actors.hosting.serve import Options
    from actors.runtime.transport.pki import Credentials
    from protocol.hosting import Limits
    from protocol.hosting.policy import Policy


POLICY_BYTES = 1 << 20


def serve(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where journal, guests and sockets are; made if not there.")
    ],
    requester: Annotated[
        list[int] | None,
        typer.Option("--requester", metavar="CID", help="A guest host that may come; may be repeated. (3)"),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="Who may ask what; deny by default.")
    ] = None,
    profile: Annotated[
        str, typer.Option("--profile", metavar="NAME", help="Whose CPUs and memory: peer, nitro or l1vh.")
    ] = "peer",
    tcp: Annotated[
        str | None,
        typer.Option("--tcp", metavar="HOST:PORT", help="Serve requesters with certificates, too."),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="FILE", help="For --tcp; key and ca.pem are beside it."),
    ] = None,
    half_open: Annotated[
        int,
        typer.Option(
            "--half-open",
            metavar="SECONDS",
            help="How long a channel of which one side has ended may be silent; 0: for ever.",
            min=0,
            max=86_400,
        ),
    ] = 600,
    vsock: Annotated[
        bool,
        typer.Option("--vsock", help="Serve this machine's guests over AF_VSOCK, too: port 5200."),
    ] = False,
    qemu: Annotated[
        bool, typer.Option("--qemu", help="Offer --vmm qemu as well: real QEMU, under software emulation.")
    ] = False,
    kvm: Annotated[bool, typer.Option("--kvm", help="With --qemu: under KVM, needs /dev/kvm.")] = False,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            "--metrics-port", metavar="PORT", help="Metrics on loopback; 0: any port.", min=0, max=65535
        ),
    ] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="Take orders as lines on standard input: reboot CID, audit.")
    ] = False,
) -> None:
    """Serve the hosting interface until interrupted; guests are processes that outlive the service.

    Each requester comes by a socket of its own, DIR/CID.vsock_5200: the path says who it is. Without --policy
    it may ask everything of its own children. What a former life left is taken on again before anybody is
    served, and told in one line of JSON on standard output.
    """
    from contextlib import AsyncExitStack

    import trio

    from actors.hosting.serve import Options, obey, open_service, scraped
    from actors.hosting.store import StoreError
    from actors.observe.exporter import CannotListen
    from protocol.hosting.journal import DamagedJournal
    from protocol.hosting.profiles import PROFILES

    cids = list(dict.fromkeys(requester or [3]))
    if any(not 3 <= cid < 0x4000_0000 for cid in cids):
        end(exit_codes.USAGE, "--requester: allowed: context ids from 3 to 1073741823")
    if profile not in PROFILES:
        end(exit_codes.USAGE, f"--profile {profile}: allowed: {', '.join(PROFILES)}")
    rules = None if policy is None else read_policy(policy)
    options = Options(directory, cids, limits_for(cids, profile, half_open), policy=rules)
    _all_files()
    if qemu:
        _offer_qemu(options, "kvm" if kvm else "tcg")
    elif kvm:
        end(exit_codes.USAGE, "--kvm is for --qemu")
    if certificate is not None and tcp is None:
        end(exit_codes.USAGE, "--certificate is for --tcp")
    if vsock:
        from actors.runtime.transport.address import listen_vsock

        options.vsock = listen_vsock
    if tcp is not None:
        options.tcp = _tcp(tcp, certificate)

    async def run() -> None:
        async with open_service(options) as hosting, AsyncExitStack() as stack:
            told = {name: getattr(hosting.recovery, name) for name in hosting.recovery.__slots__}
            said: dict[str, object] = {"sockets": [hosting.socket_of(cid) for cid in cids], "recovered": told}
            if hosting.tcp_address is not None:
                said["tcp"] = "{}:{}".format(*hosting.tcp_address)
            if metrics_port is not None:
                said["metrics"] = await stack.enter_async_context(scraped(hosting, metrics_port))
            show_json(said)
            if admin:
                await obey(hosting, show_json)
            await trio.sleep_forever()

    try:
        trio.run(run, strict_exception_groups=True)
    except* KeyboardInterrupt:
        raise typer.Exit(exit_codes.INTERRUPTED) from None
    except* (StoreError, DamagedJournal, CannotListen, OSError) as group:
        end(exit_codes.ENVIRONMENT, _in_words(_first(group)))


def limits_for(requesters: Sequence[int], profile: str, half_open_s: int = 600) -> Limits:
    """Bounds of a service for these: whoever is named has an account."""
    from protocol.hosting import Limits

    accounts = max(Limits().requesters, len(requesters))
    return Limits(profile=profile, requesters=accounts, half_open=half_open_s * 1000)


def _all_files() -> None:
    """Each guest takes a few descriptors: a few hundred guests take more than many systems give at first."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _offer_qemu(options: Options, kind: str) -> None:
    import os
    import shutil

    from actors.hosting.vmm.qemu import MACHINES, Qemu

    program = MACHINES[kind].program
    if shutil.which(program) is None:
        end(exit_codes.ENVIRONMENT, f"--qemu: {program} is not here; on Debian: apt install qemu-system-x86")
    if kind == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        end(
            exit_codes.ENVIRONMENT,
            "--kvm: /dev/kvm is not here, or not ours; without --kvm QEMU emulates",
        )
    options.vmms["qemu"] = Qemu(kind)


def _tcp(where: str, certificate: Path | None) -> tuple[str, int, Credentials]:
    from actors.given import whole
    from actors.runtime.transport.pki import Credentials

    host, _, port = where.rpartition(":")
    number = whole(port, 1 << 16)
    if not host or number is None:
        end(exit_codes.USAGE, f"--tcp {where}: allowed: HOST:PORT; port 0: any")
    if certificate is None or not certificate.is_file():
        end(
            exit_codes.USAGE,
            "--tcp needs --certificate FILE: nestbed pki issue DIR machine NAME",
        )
    given = Credentials.beside(certificate)
    _look_at(given)
    return host, number, given


def _look_at(given: Credentials) -> None:
    """End the command where a certificate does not serve: whoever asks believes a machine's alone."""
    from protocol.roles import MACHINE

    for path in (given.certificate, given.key, given.authority):
        if not path.is_file():
            end(exit_codes.USAGE, f"--certificate {given.certificate}: {path} is not there")
    try:
        role, name = given.says()
    except (OSError, ValueError) as error:
        end(exit_codes.USAGE, f"--certificate {given.certificate}: {error}")
    if role != MACHINE:
        allowed = "allowed: a machine's (nestbed pki issue DIR machine NAME)"
        end(exit_codes.USAGE, f"--certificate {given.certificate}: that of {role} {name}; {allowed}")


def read_policy(path: Path) -> Policy:
    """The policy in a file, or the end of the command with everything that is wrong with it."""
    from actors.given import from_toml
    from protocol.hosting.messages import MESSAGES
    from protocol.hosting.policy import BrokenPolicy, policy_from

    try:
        with path.open("rb") as file:
            data = file.read(POLICY_BYTES + 1)
        if len(data) > POLICY_BYTES:
            end(exit_codes.USAGE, f"{path}: more than {POLICY_BYTES} bytes")
        return policy_from(from_toml(data.decode()), MESSAGES)
    except OSError as error:
        end(exit_codes.USAGE, f"{path}: cannot be read: {error.strerror}")
    except BrokenPolicy as error:
        end(exit_codes.USAGE, "\n".join(f"{path}: {line}" for line in error.wrong))
    except ValueError as error:  # no UTF-8, or no TOML
        end(exit_codes.USAGE, f"{path}: {error}")


def _in_words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
