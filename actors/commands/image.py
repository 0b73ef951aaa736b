"""`nestbed image`: the owner's side of a secure guest, with files: build an image, look at one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.options import AsJson, complete_architecture
from actors.commands.speak import end, say, tell, tell_json

if TYPE_CHECKING:
    from protocol.arch.contract import Owner

SEED_MAX = 2**63 - 1
FILE_BYTES = 1 << 30  # of one file that is read; an architecture may allow less

Arch = Annotated[
    str,
    typer.Option(
        "--arch",
        metavar="ARCH",
        help="Architecture of the image.",
        autocompletion=complete_architecture,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        "--seed",
        metavar="S",
        min=0,
        max=SEED_MAX,
        help="Seed of the emulated machine; those that console and compare make by default if not given.",
    ),
]
ImageFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="An image, as `nestbed image build` writes it.")
]


def build(
    kernel: Annotated[
        Path, typer.Argument(metavar="KERNEL", help="Any file; its bytes are taken as they are.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where the image goes.")],
    initrd: Annotated[
        Path | None, typer.Option("--initrd", metavar="FILE", help="Initial RAM disk.", show_default=False)
    ] = None,
    cmdline: Annotated[
        str | None, typer.Option("--cmdline", metavar="TEXT", help="Kernel command line.", show_default=False)
    ] = None,
    host_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--host-key",
            metavar="FILE",
            help="PEM of a machine that may open it, for the emulated one's; may be repeated.",
        ),
    ] = None,
    psw: Annotated[
        str | None,
        typer.Option("--psw", metavar="HEX", help="16 bytes; 64-bit mode at the kernel if not given."),
    ] = None,
    pcf: Annotated[
        str | None,
        typer.Option("--pcf", metavar="N", help="Plaintext control flags, like 0x20000000: dumps allowed."),
    ] = None,
    scf: Annotated[str | None, typer.Option("--scf", metavar="N", help="Secret control flags.")] = None,
    key_out: Annotated[
        Path | None,
        typer.Option(
            "--cck", metavar="FILE", help="Where the owner's key goes: it opens dumps of the guest."
        ),
    ] = None,
    seed: Seed = None,
    arch: Arch = "s390",
) -> None:
    """Build a secure image from files, for an emulated machine, or for the host keys that are given.

    Everything in it follows from the seed and from what is asked: the same command writes the same bytes. The
    keys protect nothing, as anyone can derive them.
    """
    owner = owner_of(arch)
    inputs = [path for path in (kernel, initrd, *(host_key or ())) if path is not None]
    _keep_apart([path for path in (out, key_out) if path is not None], inputs)
    parts = {"kernel": read(kernel)}
    if initrd is not None:
        parts["initrd"] = read(initrd)
    if cmdline is not None:
        parts["cmdline"] = os.fsencode(cmdline)  # the very bytes that were typed
    flags = _flags(owner, arch, {"pcf": pcf, "scf": scf})
    keys = [read(path) for path in host_key or ()]
    own = () if keys and seed is None else machines(seed)
    try:
        data, kept = owner.build(
            parts, seed=seed or 0, machines=own, host_keys=keys, psw=_psw(psw), flags=flags
        )
    except ValueError as error:
        end(exit_codes.USAGE, str(error))
    _write(out, data, 0o644)
    if key_out is not None:
        _write(key_out, kept, 0o600)
    say(f"{out}: {len(data):,} bytes; `nestbed image show {out}` says what is in it")


def show(file: ImageFile, seed: Seed = None, arch: Arch = "s390", as_json: AsJson = False) -> None:
    """Print in words what the header of an image says: pages, flags, keys, digests, components."""
    try:
        words = owner_of(arch).describe(read(file), machines(seed))
    except ValueError as error:
        end(exit_codes.USAGE, f"{file} is no image of {arch}: {error}")
    if as_json:
        tell_json(dict(words))
        return
    width = max(len(name) for name, _ in words)
    tell("\n".join(f"{name:<{width}}  {text}" for name, text in words))


# -- what image and measure share --------------------------------


def machines(seed: int | None) -> tuple[int, ...]:
    """Seeds of the machines that are meant: the one given, else those that other commands make by default."""
    if seed is not None:
        return (seed,)
    from actors.keyboard import Options
    from protocol.plan.scenario import Scenario

    return tuple(sorted({Options("").seed, Scenario().seed}))


def owner_of(arch: str) -> Owner:
    """The owner's side of an architecture, or the end of the command."""
    from protocol.arch import architectures, load

    having = [name for name in architectures() if getattr(load(name), "owner", None) is not None]
    if arch not in having:
        known = "it has no images here" if arch in architectures() else "no such architecture"
        end(exit_codes.USAGE, f"{arch}: {known}; allowed: {', '.join(having)}")
    found: Any = load(arch)
    owner: Owner = found.owner
    return owner


def read(path: Path) -> bytes:
    """A file's bytes, or the end of the command."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            end(exit_codes.USAGE, f"{path}: not a regular file")
        if path.stat().st_size > FILE_BYTES:
            end(exit_codes.USAGE, f"{path}: more than {FILE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        end(exit_codes.USAGE, f"{path}: {error.strerror}")


def _keep_apart(written: Sequence[Path], taken: Sequence[Path]) -> None:
    """No file that is read is written over, and no file is written twice."""
    known = {path.resolve() for path in taken}
    for path in written:
        if path.resolve() in known:
            end(exit_codes.USAGE, f"{path}: would be written over; allowed: a file that is named only once")
        known.add(path.resolve())


def _write(path: Path, data: bytes, mode: int) -> None:
    """Whole, or what was there before is still there."""
    if path.is_dir():
        end(exit_codes.ENVIRONMENT, f"{path}: cannot be written: it is a directory")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        end(exit_codes.ENVIRONMENT, f"{path}: cannot be written: {error.strerror}")


def _psw(text: str | None) -> bytes | None:
    if text is None:
        return None
    if not re.fullmatch("(0x)?[0-9a-fA-F]{32}", text):
        end(exit_codes.USAGE, f"--psw {text}: allowed: 32 hexadecimal digits, mask and address")
    return bytes.fromhex(text.removeprefix("0x"))


def _flags(owner: Owner, arch: str, given: Mapping[str, str | None]) -> dict[str, int]:
    flags = {}
    for name, text in given.items():
        if text is None:
            continue
        if name not in owner.flags:
            end(exit_codes.USAGE, f"--{name}: {arch} has no such flags; allowed: {', '.join(owner.flags)}")
        try:
            flags[name] = int(text, 0)
        except ValueError:
            end(exit_codes.USAGE, f"--{name} {text}: allowed: a number, like 0x20000000")
    return flags
