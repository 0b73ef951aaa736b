"""The architectures, by name. A new one is a folder here with a `SLICE`; nothing else changes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protocol.arch.contract import Architecture


def architectures() -> tuple[str, ...]:
    """Names of all architectures, sorted: the folders here that have a `slice`. Imports none of them."""
    folders = (module.name for module in iter_modules(__path__) if module.ispkg)
    return tuple(sorted(name for name in folders if find_spec(f"{__name__}.{name}.slice") is not None))


def load(name: str) -> Architecture:
    """The slice of the architecture `name`. Raises KeyError for a name that is none."""
    if name not in architectures():
        raise KeyError(name)
    found: Architecture = import_module(f"protocol.arch.{name}.slice").SLICE
    return found
