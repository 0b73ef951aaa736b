"""`nestbed hosted ...`: what a program in a guest host asks of the hosting service."""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.options import AsJson
from actors.commands.speak import end, say

if TYPE_CHECKING:
    from ssl import SSLContext

    from nestbed.client import Hosting

Json = dict[str, Any]
ADDRESS = "NESTBED_HOSTING"
CERTIFICATE = "NESTBED_CERTIFICATE"
STATES = ("READY", "STOPPED", "RELEASED")

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="ADDRESS",
        envvar=ADDRESS,
        help="Where the service is, like vsock:2:5200, unix:PATH, hybrid:PATH:PORT or tcp:HOST:PORT.",
    ),
]


def _name_of_a_child(text: str) -> str:
    """Ends the command for what is none: an empty one would be the beginning of every name."""
    if not text or len(text) > 32 or not set(text) <= set(string.hexdigits):
        end(exit_codes.USAGE, f"{text!r}: a child's name is 32 hexadecimal digits, or the first of them")
    return text


ChildName = Annotated[
    str,
    typer.Argument(
        metavar="CHILD", callback=_name_of_a_child, help="A child's name, or the beginning of it."
    ),
]


@contextmanager
def connected(address: str, patient: bool = False) -> Iterator[Hosting]:
    """The service at `address`; its refusals and silences end the command in words.

    `patient`: once it has answered, a minute without it is waited for: whoever runs it may start it again.
    """
    from nestbed.client import Budget, Hosting, HostingError, HostingProtocolError, HostingUnreachable

    try:
        with Hosting(address, tls=_certificates(address)) as hosting:
            if patient:
                hosting.budget = Budget(tries=1000, seconds=60, longest_s=2)
            yield hosting
    except ValueError as error:
        end(exit_codes.USAGE, str(error))
    except HostingUnreachable as silent:
        end(exit_codes.ENVIRONMENT, f"{silent}; {_hint(address)}")
    except HostingProtocolError as wrong:
        end(exit_codes.ENVIRONMENT, f"{address}: {wrong}")
    except HostingError as refused:
        end(_exit_code(refused.code), _in_words(refused))


def _hint(address: str) -> str:
    """What to look at where nobody answers."""
    if address.startswith(("unix:", "hybrid:")):
        return "is `nestbed hosted serve` running there?"
    return "is `nestbed hosted serve` running there, and does its --requester name whoever asks?"


def _certificates(address: str) -> SSLContext | None:
    """For TCP: the certificate that NESTBED_CERTIFICATE names, its key and its authority's beside it."""
    import os

    from nestbed.client import tls_context

    if not address.startswith("tcp:"):
        return None
    path = Path(os.environ.get(CERTIFICATE, ""))
    if path.suffix != ".pem":
        end(exit_codes.USAGE, f"{CERTIFICATE} is to name a certificate, as `nestbed pki issue` makes it")
    try:
        return tls_context(path, path.with_suffix(".key"), path.with_name("ca.pem"))
    except OSError as error:
        end(exit_codes.USAGE, f"{path}, its .key or ca.pem beside it: {error.strerror or error}")


def _exit_code(code: int) -> int:
    """What is the caller's mistake is usage, what the host lacks the environment, the rest has failed."""
    if code < 200:
        return exit_codes.USAGE
    return exit_codes.ENVIRONMENT if 400 <= code < 500 else exit_codes.FAILED


def _in_words(refused: Any) -> str:
    detail = ", ".join(f"{name} {_plain(value)}" for name, value in refused.detail.items())
    words = f"{refused} [{refused.code}; {refused.who}]"
    return f"{words} {detail}" if detail else words


def _plain(value: Any) -> Any:
    """Bytes as hexadecimal digits, also inside of maps and arrays."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(_plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _child(hosting: Hosting, name: str) -> bytes:
    """The one child, or exit record, whose name begins so."""
    if len(name) == 32:
        return bytes.fromhex(name)
    found: list[bytes] = [
        each["child"] for each in hosting.list(exited=True) if each["child"].hex().startswith(name.lower())
    ]
    if len(found) != 1:
        allowed = ", ".join(each.hex() for each in found) or "see `nestbed hosted list --exited`"
        end(exit_codes.USAGE, f"{name}: names {len(found)} children: {allowed}")
    return found[0]


def wait(
    child: ChildName,
    to: To,
    until: Annotated[
        str, typer.Option("--until", metavar="STATE", help="READY, STOPPED or RELEASED.")
    ] = "READY",
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long.")] = 30.0,
) -> None:
    """Wait until a child has reached a state; its timings are printed."""
    if until not in STATES:
        end(exit_codes.USAGE, f"--until {until}: allowed: {', '.join(STATES)}")
    with connected(to) as hosting:
        show_json(hosting.wait(_child(hosting, child), until, timeout))


def listed(
    to: To,
    exited: Annotated[bool, typer.Option("--exited", help="Exit records as well.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the requester's own children."""
    with connected(to) as hosting:
        children = list(hosting.list(exited=exited))
    if as_json:
        show_json(children)
        return
    if not children:
        say("no children" + ("" if exited else "; those that ended: --exited"))
    for each in children:
        labels = " ".join(f"{name}={value}" for name, value in each["labels"].items())
        sys.stdout.write(
            f"{each['child'].hex()}  {each['cid']}  {each['state']:<9} {each['reason']} {labels}\n"
        )


def describe(child: ChildName, to: To) -> None:
    """Print all that the host tells of one child, or its exit record."""
    with connected(to) as hosting:
        show_json(hosting.describe(_child(hosting, child)))


def console(
    child: ChildName,
    to: To,
    cursor: Annotated[int, typer.Option("--from", metavar="BYTE", min=0, help="Where to begin.")] = 0,
) -> None:
    """Print what a child that was started with --debug wrote on its console."""
    with connected(to) as hosting:
        name = _child(hosting, child)
        while True:
            data, cursor, lost = hosting.console(name, cursor)
            if lost:
                say(f"{lost} bytes are gone")
            if not data:
                return
            sys.stdout.buffer.write(data)
            sys.stdout.flush()


def channel(
    child: ChildName,
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, help="Port of the child.")],
    to: To,
) -> None:
    """Connect standard input and output to a port of a child, until either side ends."""
    from actors.runtime.transport.blocking import pump

    with connected(to) as hosting:
        try:
            stream = hosting.channel(_child(hosting, child), port)
        except ConnectionError as refused:
            end(exit_codes.FAILED, str(refused))
        with stream:
            stream.settimeout(None)
            pump(stream, sys.stdin.fileno(), sys.stdout.fileno())


def attest(
    child: ChildName,
    to: To,
    nonce: Annotated[
        str | None, typer.Option("--nonce", metavar="HEX", help="Up to 512 bytes; drawn if not given.")
    ] = None,
    trust: Annotated[
        Path | None, typer.Option("--trust", metavar="FILE", help="Public key of the host: verify with it.")
    ] = None,
) -> None:
    """Print evidence of what a child is, whose and in which boot; verified where a key is given."""
    import secrets

    from protocol.hosting.evidence import verify

    try:
        fresh = secrets.token_bytes(32) if nonce is None else bytes.fromhex(nonce)
    except ValueError:
        end(exit_codes.USAGE, f"--nonce {nonce}: allowed: hexadecimal digits")
    try:
        key = None if trust is None else trust.read_bytes()
    except OSError as error:
        end(exit_codes.USAGE, f"{trust}: cannot be read: {error.strerror}")
    with connected(to) as hosting:
        evidence = hosting.attest(_child(hosting, child), fresh)
        if key is None:
            show_json({"evidence": evidence, "nonce": fresh})
            return
        try:
            said = verify(evidence, key, fresh)
        except ValueError as error:
            end(exit_codes.FAILED, f"not to be trusted: {error}")
        show_json({"verified": True} | said)


def dump(
    child: ChildName,
    to: To,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the dump goes.")],
) -> None:
    """Write a dump of a child that was started with --debug to a file."""
    from nestbed.client import HostingUnreachable

    with connected(to) as hosting:
        pieces = hosting.dump(_child(hosting, child))
        first = next(pieces)  # a refusal comes before anything that is there is overwritten
        try:
            with out.open("wb") as file:
                size = file.write(first) + sum(file.write(piece) for piece in pieces)
        except HostingUnreachable:
            raise
        except OSError as error:
            end(exit_codes.ENVIRONMENT, f"{out}: cannot be written: {error.strerror}")
        show_json({"bytes": size})


def adopt(
    to: To,
    credential: Annotated[
        str, typer.Option("--credential", metavar="HEX", help="What hello answered in the former boot.")
    ],
    epoch: Annotated[int, typer.Option("--epoch", metavar="N", min=1, help="The former boot.")],
) -> None:
    """Take over the children that linger from a former boot."""
    try:
        proof = bytes.fromhex(credential)
    except ValueError:
        end(exit_codes.USAGE, "--credential: allowed: 64 hexadecimal digits")
    with connected(to) as hosting:
        show_json(hosting.adopt(proof, epoch))


def hello(to: To) -> None:
    """Say hello: epoch, credential, limits, policy and profile are printed."""
    with connected(to) as hosting:
        show_json(hosting.facts)


def quota(to: To) -> None:
    """Print what is charged and what is free, by dimension."""
    with connected(to) as hosting:
        show_json(hosting.quota())


def deposit(
    pages: Annotated[int, typer.Argument(metavar="PAGES", help="How many.", min=0)],
    to: To,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take back so many that are free.")] = False,
) -> None:
    """Deposit pages for the host's records of children, where its profile is l1vh."""
    with connected(to) as hosting:
        show_json(hosting.withdraw(pages) if withdraw else hosting.deposit(pages))


def migrate(to: To) -> None:
    """Ask whether this guest host may move to another host: not while it has children here."""
    with connected(to) as hosting:
        hosting.migrate()
        show_json({"may_move": True})


def stop(
    child: ChildName,
    to: To,
    kill: Annotated[bool, typer.Option("--kill", help="Give it no time.")] = False,
    grace: Annotated[float, typer.Option("--grace", metavar="SECONDS", help="Time for it to end.")] = 10.0,
) -> None:
    """End a child's run; it keeps what it holds until it is destroyed."""
    with connected(to) as hosting:
        show_json({"state": hosting.stop(_child(hosting, child), "kill" if kill else "graceful", grace)})


def reset(child: ChildName, to: To) -> None:
    """Boot a child again from its image; its name, context id and share stay."""
    with connected(to) as hosting:
        show_json({"state": hosting.reset(_child(hosting, child))})


def destroy(
    child: ChildName,
    to: To,
    acknowledge: Annotated[bool, typer.Option("--ack", help="Drop its exit record, too.")] = False,
) -> None:
    """End a child whatever its state, and give back all that it holds."""
    with connected(to) as hosting:
        name = _child(hosting, child)
        hosting.destroy(name)
        if acknowledge:
            hosting.acknowledge(name)
        show_json({"state": "RELEASED"})


def keep(to: To) -> None:
    """Renew the lease until interrupted: without that the children end after 30 seconds.

    A service that ends and is started again within a minute is waited for.
    """
    import time

    with connected(to, patient=True) as hosting:
        say(f"keeps the lease of {hosting.facts['id']}, epoch {hosting.epoch}; Ctrl-C ends it")
        try:
            while True:
                told = hosting.renew()
                time.sleep(max(0.05, told["renew_in_ms"] / 1000))
        except KeyboardInterrupt:
            raise typer.Exit(exit_codes.INTERRUPTED) from None


def watch(
    to: To,
    since: Annotated[
        int | None,
        typer.Option("--since", metavar="N", min=0, help="Number of the last event that is known."),
    ] = None,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=0, help="End after so many; 0: never.")
    ] = 0,
) -> None:
    """Print each change of a child's state as it happens, one JSON object per line.

    A service that ends and is started again within a minute is waited for; `established` is printed anew.
    """
    with connected(to, patient=True) as hosting:
        try:
            left = count
            for event in hosting.events(since):
                show_json(event)
                left -= event["kind"] != "established"
                if count and left == 0:
                    return
        except KeyboardInterrupt:
            raise typer.Exit(exit_codes.INTERRUPTED) from None


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="Number or name of an error, like 400.")],
    to: Annotated[
        str | None, typer.Option("--to", metavar="ADDRESS", help="Ask that host; else this program answers.")
    ] = None,
) -> None:
    """Say what an error of the hosting interface means and who can do something about it."""
    from protocol.hosting.errors import ERRORS, Code
    from protocol.hosting.errors import explain as explained

    known = {str(int(each)): each for each in ERRORS} | {each.name: each for each in ERRORS}
    found: Code | None = known.get(code.upper())
    if found is None:
        end(exit_codes.USAGE, f"{code}: allowed: {', '.join(f'{int(each)} {each.name}' for each in ERRORS)}")
    if to is None:
        show_json(explained(found))
        return
    with connected(to) as hosting:
        show_json(hosting.explain(int(found)))
