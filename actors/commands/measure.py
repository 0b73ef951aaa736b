"""`nestbed measure`: the digests of an image, computed from its pages."""

from __future__ import annotations

import typer

from actors import exit_codes
from actors.commands.image import Arch, ImageFile, owner_of, read
from actors.commands.options import AsJson
from actors.commands.speak import end, say, tell, tell_json


def measure(file: ImageFile, arch: Arch = "s390", as_json: AsJson = False) -> None:
    """Measure an image: compute from its pages the digests that its header has to carry.

    On s390 these are the page, address and tweak list digests (PLD, ALD, TLD). Where the pages are not those
    of the header, the exit code is 1.
    """
    try:
        digests, complaint = owner_of(arch).measure(read(file))
    except ValueError as error:
        end(exit_codes.USAGE, f"{file} is no image of {arch}: {error}; `nestbed image build` makes one")
    if as_json:
        tell_json(dict(digests))
    else:
        tell("\n".join(f"{name} {value}" for name, value in digests))
    if complaint:
        say(f"{file}: {complaint}")
        raise typer.Exit(exit_codes.FAILED)
