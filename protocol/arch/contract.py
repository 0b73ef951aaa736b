"""What an architecture provides. The core and the actors know architectures by this alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from protocol.calls import CallSpec
from protocol.plan.fit import Profile


class Keyboard(Protocol):
    """A secure host at a keyboard: one request in, one answer out (the console's contract)."""

    def answer(self, request: dict[str, Any]) -> dict[str, Any]: ...


class Architecture(Protocol):
    """One slice. `realism` says who runs the nested path: built, prototype, software, needs_te_change, hypothetical."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def realism(self) -> str: ...
    @property
    def profiles(self) -> Mapping[str, Profile]: ...
    @property
    def calls(self) -> Mapping[int, CallSpec]: ...

    def keyboard(
        self,
        depth: int = 0,
        hosts: int = 1,
        memory_mib: int | None = None,
        cpus: int | None = None,
        profile: str = "small",
        seed: int = 0,
    ) -> Keyboard:
        """A fresh machine with `hosts` secure hosts at `depth`. Raises ValueError saying what is allowed."""
        ...
