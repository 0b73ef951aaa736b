"""The architectures, by name. A new one is a folder here with a `SLICE`; nothing else changes."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.arch.contract import Architecture


@cache  # every machine that is made asks; the folders stay what they are
def architectures() -> tuple[str, ...]:
    """Names of all architectures, sorted: the folders here that have a `slice`. Imports none of them."""
    folders = (module.name for module in iter_modules(__path__) if module.ispkg)
    return tuple(sorted(name for name in folders if find_spec(f"{__name__}.{name}.slice") is not None))


def kinds() -> tuple[str, ...]:
    """Names of all kinds of secure guests that a comparison may name: an architecture may have several.

    An architecture's own name is one of them; others stand in `KINDS` of its slice.
    """
    more = (kind for name in architectures() for kind in getattr(_slice(name), "KINDS", {}))
    return tuple(sorted({*architectures(), *more}))


def load(name: str) -> Architecture:
    """The slice of the architecture or of the kind `name`. Raises KeyError for a name that is none."""
    if name in architectures():
        return _slice(name).SLICE  # type: ignore[no-any-return]
    for folder in architectures():
        found: Architecture | None = getattr(_slice(folder), "KINDS", {}).get(name)
        if found is not None:
            return found
    raise KeyError(name)


def _slice(folder: str) -> ModuleType:
    return import_module(f"protocol.arch.{folder}.slice")
