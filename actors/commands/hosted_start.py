"""`nestbed hosted start` and `pack`: an image, and a guest from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from actors import exit_codes
from actors.commands.hosted import ADDRESS, Json, To, connected, show_json
from actors.commands.speak import end, say
from actors.given import whole


def start(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The guest's image, any file.")],
    to: To = "",
    vcpus: Annotated[int, typer.Option("--vcpus", metavar="N", min=1, help="CPUs of the guest.")] = 1,
    memory: Annotated[int, typer.Option("--memory", metavar="MIB", min=1, help="Memory of the guest.")] = 64,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label; may be repeated.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="N", help="Number of the request: the same one starts nothing twice."),
    ] = None,
    linger: Annotated[
        int,
        typer.Option("--linger", metavar="SECONDS", min=0, max=3600, help="How long it outlives the lease."),
    ] = 0,
    ready: Annotated[
        str, typer.Option("--ready", metavar="WHEN", help="entered: it runs; notified: it has said so.")
    ] = "entered",
    vmm: Annotated[str, typer.Option("--vmm", metavar="NAME", help="emulated or qemu.")] = "emulated",
    debug: Annotated[bool, typer.Option("--debug", help="Its console can be read.")] = False,
    reserve: Annotated[bool, typer.Option("--reserve", help="Only take its share.")] = False,
    deposit: Annotated[
        bool, typer.Option("--deposit", help="Profile l1vh: deposit the pages that it lacks.")
    ] = False,
    dry_run: Annotated[
        str | None,
        typer.Option("--dry-run", metavar="TE", help="Start nothing: show QEMU's command line for that TE."),
    ] = None,
) -> None:
    """Bring an image and start a secure guest from it; its name is printed once it is ready.

    It lives as long as this requester's lease: 30 seconds from its last command, or as long as
    `nestbed hosted keep` renews it. With --dry-run nothing is asked of anybody: TE is tcg, sev-snp-guest,
    tdx-guest, s390-pv-guest or pef-guest.
    """
    if dry_run is not None:
        _show_command(dry_run, vcpus, memory)
        return
    if not to:
        end(exit_codes.USAGE, f"--to ADDRESS is missing; {ADDRESS} may have it, too")
    labels = dict(each.partition("=")[::2] for each in label or ())
    if any(not name or not value for name, value in labels.items()):
        end(exit_codes.USAGE, "--label: allowed: NAME=VALUE")
    data = _bytes_of(image)
    spec: Json = {"vcpus": vcpus, "memory_mib": memory, "labels": labels, "ready": ready, "vmm": vmm}
    spec |= {"debug": debug, "on_owner_loss": "linger" if linger else "stop", "linger_s": linger}
    with connected(to) as hosting:
        number = None
        if key is not None:
            chosen = whole(key, 1 << 96)
            if not chosen:
                end(exit_codes.USAGE, f"--key {key}: allowed: a number from 1 up")
            number = hosting.epoch.to_bytes(4, "big") + chosen.to_bytes(12, "big")
        mode = "reserve" if reserve else "run"
        try:
            child = hosting.start(data, key=number, mode=mode, deposit=deposit, **spec)
        except KeyboardInterrupt:
            say("interrupted; what the host was asked for goes on there: see `nestbed hosted list`")
            raise
        show_json(
            {"child": child.id, "cid": child.cid, "state": child.state, "replayed": child.replayed}
            | {"charged": dict(child.charged)}
        )


def _bytes_of(image: Path) -> bytes:
    """All of an image, or the end of the command with what is wrong with it."""
    if image.exists() and not image.is_file():
        end(exit_codes.USAGE, f"{image}: not a file")
    try:
        data = image.read_bytes()
    except OSError as error:
        end(exit_codes.USAGE, f"{image}: cannot be read: {error.strerror}")
    if not data:
        end(exit_codes.USAGE, f"{image}: the image is empty")
    return data


def _show_command(te: str, vcpus: int, memory: int) -> None:
    import shlex

    from actors.hosting.vmm.qemu import MACHINES, MEMBERS, command

    if te not in MACHINES:
        end(exit_codes.USAGE, f"--dry-run {te}: allowed: {', '.join(MACHINES)}")
    facts = {"vcpus": str(vcpus), "memory_mib": str(memory), "nonce": "NONCE"}
    line = command(te, Path("GUEST"), facts, dict.fromkeys(MEMBERS[:2], True))
    sys.stdout.write(shlex.join(line) + "\n")
    if MACHINES[te].note:
        say(MACHINES[te].note)


def pack(
    kernel: Annotated[Path, typer.Argument(metavar="KERNEL", help="A kernel that QEMU boots.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the image goes.")],
    initrd: Annotated[Path | None, typer.Option("--initrd", metavar="FILE", help="Initial RAM disk.")] = None,
    cmdline: Annotated[str, typer.Option("--cmdline", metavar="TEXT", help="Kernel command line.")] = "",
) -> None:
    """Make the image of a guest that QEMU runs: a kernel and what belongs to it in one file."""
    from actors.hosting.vmm import qemu

    for given in (kernel, initrd):
        if given is not None and given.exists() and not given.is_file():
            end(exit_codes.USAGE, f"{given}: not a file")
    try:
        qemu.pack(out, kernel, initrd, cmdline)
    except OSError as error:
        end(exit_codes.ENVIRONMENT, f"{error.filename or out}: {error.strerror}")
