"""A scenario that comes with the program, narrowed to the architectures that can do what was asked.

The shipped scenarios name every architecture that they are about. An image of one of them, or an option that
not all have, leaves the others out, each with its reason, instead of ending the command. Whoever names the
architectures gets what is wrong with each of them as an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.scenario import (
    IMAGE_HEAD_BYTES,
    SHIPPED,
    BrokenScenario,
    Resolved,
    find,
    load,
    variable_of,
)

if TYPE_CHECKING:
    from protocol.arch.contract import Owner

NARROWED = "file, narrowed"


def load_fitting(name: str | None, *, flags: Mapping[str, str], environment: Mapping[str, str]) -> Resolved:
    """As `actors.scenario.load`; raises what it raises where nothing would be left."""
    try:
        return load(name, flags=flags, environment=environment)
    except BrokenScenario as broken:
        if find(name).parent != SHIPPED or "arch" in flags or variable_of("arch") in environment:
            raise
        named = load(name).scenario.arch
        whose = _whose_image(flags.get("guest.image"), named)
        if whose:  # it is an image of these; whatever is wrong with it is theirs to say
            resolved = load(name, flags={**flags, "arch": ",".join(whose)}, environment=environment)
            return _noted(resolved, {arch: "the image is none of it" for arch in named if arch not in whose})
        mistakes = {arch: _mistakes(name, arch, flags, environment) for arch in named}
        fit = [arch for arch in named if not mistakes[arch]]
        if not fit or len(fit) == len(named):
            raise broken from None
        resolved = load(name, flags={**flags, "arch": ",".join(fit)}, environment=environment)
        left = {arch: mistakes[arch] for arch in named if arch not in fit}
        return _noted(resolved, left)


def _whose_image(image: str | None, named: Iterable[str]) -> list[str]:
    """The architectures of which a file means to be an image; any other file is an image of all."""
    from protocol.arch import load as slice_of

    try:
        with Path(image or "").expanduser().open("rb") as file:
            head = file.read(IMAGE_HEAD_BYTES)
    except (OSError, RuntimeError, ValueError):
        return []
    owners: dict[str, Owner | None] = {arch: getattr(slice_of(arch), "owner", None) for arch in named}
    return [arch for arch, owner in owners.items() if owner is not None and owner.is_image(head)]


def _mistakes(name: str | None, arch: str, flags: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """What is wrong with one architecture, "" if nothing."""
    try:
        load(name, flags={**flags, "arch": arch}, environment=environment)
    except BrokenScenario as broken:
        first = broken.mistakes[0]
        return f"{first.path}: {first.hint or f'allowed: {first.allowed}'}"
    return ""


def _noted(resolved: Resolved, left: Mapping[str, str]) -> Resolved:
    notes = (*resolved.notes, *(f"{arch} is left out: {why}" for arch, why in left.items()))
    return replace(resolved, origins={**resolved.origins, "arch": NARROWED}, notes=notes)
