"""`nestbed measure`: the digests of an image, computed from its pages, or that of a launch of firmware."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors import exit_codes
from actors.commands.image import Arch, owner_of, read
from actors.commands.options import AsJson
from actors.commands.speak import end, say, tell, tell_json

if TYPE_CHECKING:
    from actors.measuring import Launch

MAX_VCPUS = 512


class PathName(StrEnum):
    """How the guest is run."""

    DIRECT = "direct"
    NESTED = "nested"
    HOSTED = "hosted"


def measure(
    file: Annotated[Path | None, typer.Argument(help="The image.", metavar="[FILE]")] = None,
    arch: Arch = "s390",
    firmware: Annotated[
        Path | None,
        typer.Option(
            "--firmware", metavar="FILE", help="Firmware to launch (snp, sev, sev-es, tdx): OVMF.fd."
        ),
    ] = None,
    path: Annotated[PathName, typer.Option("--path", help="How the guest is run.")] = PathName.DIRECT,
    depth: Annotated[
        int, typer.Option("--depth", min=1, max=3, metavar="N", help="Level of the nested host.")
    ] = 1,
    vcpus: Annotated[
        int, typer.Option("--vcpus", min=1, max=MAX_VCPUS, metavar="N", help="VCPUs of the guest.")
    ] = 1,
    vcpu_type: Annotated[
        str | None,
        typer.Option("--vcpu-type", metavar="TYPE", help="Their model, as QEMU names it (not tdx): EPYC-v4."),
    ] = None,
    kernel: Annotated[
        Path | None, typer.Option("--kernel", metavar="FILE", help="A kernel whose hash is measured, too.")
    ] = None,
    initrd: Annotated[Path | None, typer.Option("--initrd", metavar="FILE", help="Its initrd.")] = None,
    append: Annotated[str, typer.Option("--append", metavar="TEXT", help="Its command line.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the emulated machine.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Measure an image: compute the digests that its header has to carry, or launch it and say its digest.

    On s390 these are the page, address and tweak list digests (PLD, ALD, TLD); where the pages are not those
    of the header, the exit code is 1. For snp, sev, sev-es and tdx firmware is launched on an emulated
    machine as QEMU does it, and the last line is the digest that the machine's Trusted Entity made of it.
    """
    comparison = _comparison(arch)
    launching = getattr(comparison, "firmware", None)
    if launching is None:
        if firmware is not None:
            end(exit_codes.USAGE, f"--firmware: {arch} measures images: give the file alone")
        _digests(file, arch, as_json)
        return
    chosen = firmware or file
    if chosen is None:
        end(exit_codes.USAGE, f"{arch}: give --firmware FILE, such as Debian's /usr/share/ovmf/OVMF.fd")
    if kernel is None and (initrd is not None or append):
        end(exit_codes.USAGE, "--initrd and --append go with --kernel")
    vcpu_type = vcpu_type or comparison.vcpu_type
    hashed = None if kernel is None else read(kernel), b"" if initrd is None else read(initrd), append
    try:
        image = launching(read(chosen), vcpu_type, *hashed)
    except ValueError as error:
        end(exit_codes.USAGE, f"{chosen}: {error}")
    from actors.measuring import Launch

    level = depth if path is PathName.NESTED else 0
    _launch(Launch(arch, image, vcpus, path.value, level, seed), chosen, vcpu_type, as_json)


def _launch(launch: Launch, file: Path, vcpu_type: str | None, as_json: bool) -> None:
    from actors.measuring import measured
    from protocol.errors import OperationFailed

    try:
        digest = measured(launch)
    except OperationFailed as error:
        end(exit_codes.FAILED, f"{file}: {error}")
    if as_json:
        about = {"arch": launch.arch, "path": launch.path, "depth": launch.depth, "vcpus": launch.vcpus}
        tell_json({**about, "vcpu_type": vcpu_type, "digest": digest})
        return
    where = f"{launch.path} at depth {launch.depth}" if launch.depth else launch.path
    of_type = f" of type {vcpu_type}" if vcpu_type else ""
    tell(f"{launch.arch}, {where}: {file.name}, {launch.vcpus} VCPUs{of_type}")
    tell(digest)


def _comparison(arch: str) -> Any:
    from protocol.arch import kinds, load

    return load(arch).comparison if arch in kinds() else None


def _digests(file: Path | None, arch: str, as_json: bool) -> None:
    owner = owner_of(arch)
    if file is None:
        end(exit_codes.USAGE, "give the image: nestbed measure FILE")
    try:
        digests, complaint = owner.measure(read(file))
    except ValueError as error:
        end(exit_codes.USAGE, f"{file} is no image of {arch}: {error}; `nestbed image build` makes one")
    if as_json:
        tell_json(dict(digests))
    else:
        tell("\n".join(f"{name} {value}" for name, value in digests))
    if complaint:
        say(f"{file}: {complaint}")
        raise typer.Exit(exit_codes.FAILED)
