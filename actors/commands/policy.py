"""`nestbed policy ...`: look at a policy of the hosting interface before it decides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from actors import exit_codes
from actors.commands.hosted_serve import read_policy
from actors.commands.speak import end


def check(
    policy: Annotated[Path, typer.Argument(metavar="FILE", help="A policy, as TOML.")],
    call: Annotated[
        str | None, typer.Option("--call", metavar="NAME", help="A message of docs/wire.md, like start.")
    ] = None,
    source: Annotated[int, typer.Option("--source", metavar="CID", help="Who asks.")] = 3,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME", help="A label of the child; may be repeated.")
    ] = None,
    vcpus: Annotated[int, typer.Option("--vcpus", metavar="N", help="Of a start.")] = 1,
    memory: Annotated[int, typer.Option("--memory", metavar="MIB", help="Of a start.")] = 1,
    linger: Annotated[int, typer.Option("--linger", metavar="SECONDS", help="Of a start.")] = 0,
    vmm: Annotated[str, typer.Option("--vmm", metavar="NAME", help="Of a start.")] = "emulated",
    debug: Annotated[bool, typer.Option("--debug", help="Of a start.")] = False,
) -> None:
    """Check a policy and print its version; with --call say how it decides, and by which rule.

    What is wrong with it is listed all at once (exit code 2). A call that is denied ends with exit code 1.
    """
    from protocol.hosting.machine import Spec
    from protocol.hosting.messages import MESSAGES

    rules = read_policy(policy)
    told: dict[str, object] = {"policy": rules.digest.hex(), "rules": len(rules.rules)}
    allowed = True
    if call is not None:
        if call not in MESSAGES:
            end(exit_codes.USAGE, f"--call {call}: allowed: {', '.join(MESSAGES)}")
        spec = Spec(bytes(32), vcpus, memory, linger_s=linger, vmm=vmm, debug=debug)
        labels = dict.fromkeys(tag or (), "")
        allowed, rule = rules.decide(call, source, labels, spec if call == "start" else None)
        told |= {"call": call, "source": source, "allowed": allowed, "rule": rule}
    sys.stdout.write(json.dumps(told) + "\n")
    if not allowed:
        raise typer.Exit(exit_codes.FAILED)
