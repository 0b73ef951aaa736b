"""What a soak needs of an architecture and of a composition: some of `protocol.arch.contract`, no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from protocol.effects import Issue, Step
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan.operations import LevelSwap, Operation


class Software(Protocol):
    """A host's kernel and VMM."""

    def perform(self, operation: Operation) -> Step[Any]: ...


class Rig(Protocol):
    """A machine, the hypervisors on it, and `seats` for hosts at the top."""

    ledger: Ledger

    @property
    def seats(self) -> Sequence[Any]: ...

    def below(self, seat: int) -> Sequence[Callable[[Issue], Step[Any]]]: ...

    def end(self, seat: int, cause: str) -> Step[None]: ...

    def reset(self, seat: int, kind: str) -> Step[None]: ...

    def kill(self, seat: int) -> Step[None]: ...

    def swap(self, seat: int, event: LevelSwap) -> Step[int]: ...

    def sweep(self, seat: int, pages: int) -> Step[int]: ...

    def leaks(self) -> Iterable[Any]: ...

    def exposed(self, needle: bytes) -> Sequence[int]: ...

    def remains(self) -> Mapping[str, int]: ...


class Comparison(Protocol):
    """What puts a composition together whose levels live apart."""

    @property
    def reboot(self) -> str: ...

    def compose(self, sizes: Sizes, ledger: Ledger, spare: int = 0) -> Rig: ...

    def software(
        self, rig: Any, seat: int | None, random: Random, *, pages: str, bulk: bool, image: Any = None
    ) -> Software: ...

    def image(self, seed: int, pages: int, data: bytes | None) -> Any: ...

    def proving(self, image: Any) -> Any: ...


class Architecture(Protocol):
    """A slice."""

    @property
    def name(self) -> str: ...
    @property
    def profiles(self) -> Mapping[str, Any]: ...
    @property
    def comparison(self) -> Any: ...
