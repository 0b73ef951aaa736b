"""Types of fields on the wire: what each accepts, and how the documentation says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from protocol.hosting.errors import Code, Refusal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A type on the wire. `read` returns the value or raises Refusal; `text` describes it."""

    text: str
    read: Callable[[str, object], Any]


def wire(kind: Kind, default: Any = MISSING) -> Any:
    """Declare a field of a message: required unless it has a default."""
    if default is MISSING:
        return field(metadata={"kind": kind})
    return field(default=default, metadata={"kind": kind})


def read(into: type[T], body: object, where: str = "b") -> T:
    """Return `body` as the message `into`; raises Refusal (BAD_ARGUMENT) naming the first wrong field."""
    if type(body) is not dict:
        raise bad(where, "is a map")
    declared = {f.name: f for f in fields(into)}  # type: ignore[arg-type] # every message is a dataclass
    for name in body:
        if name not in declared:
            raise bad(f"{where}.{str(name)[:40]}", "is not a field of this message")
    values = {}
    for name, f in declared.items():
        if name in body:
            values[name] = f.metadata["kind"].read(f"{where}.{name}", body[name])
        elif f.default is MISSING:
            raise bad(f"{where}.{name}", "is required")
    return into(**values)


def bad(where: str, what: str) -> Refusal:
    return Refusal(Code.BAD_ARGUMENT, f"{where} {what}")


def _checked(text: str, accepts: Callable[[object], bool]) -> Kind:
    def take(where: str, value: object) -> object:
        if not accepts(value):
            raise bad(where, f"is {text}")
        return value

    return Kind(text, take)


def uint(low: int, high: int) -> Kind:
    # A truth value is an int for Python, but not on the wire.
    return _checked(f"uint {low}..{high}", lambda v: type(v) is int and low <= v <= high)


def binary(low: int, high: int | None = None) -> Kind:
    high = low if high is None else high
    text = f"bin of {low} bytes" if low == high else f"bin of {low}..{high} bytes"
    return _checked(text, lambda v: type(v) is bytes and low <= len(v) <= high)


def text(high: int) -> Kind:
    return _checked(f"str of 1..{high} characters", lambda v: type(v) is str and 1 <= len(v) <= high)


def one_of(*values: str) -> Kind:
    return _checked(" | ".join(f'"{value}"' for value in values), lambda v: type(v) is str and v in values)


def truth() -> Kind:
    return _checked("bool", lambda v: type(v) is bool)


def maybe(kind: Kind) -> Kind:
    return Kind(f"{kind.text}, or nil", lambda where, v: None if v is None else kind.read(where, v))


def array(kind: Kind, high: int) -> Kind:
    def take(where: str, value: object) -> tuple[Any, ...]:
        if type(value) is not list or len(value) > high:
            raise bad(where, f"is an array of at most {high}")
        return tuple(kind.read(f"{where}[{i}]", item) for i, item in enumerate(value))

    return Kind(f"array of at most {high}: {kind.text}", take)


def mapping(name: Kind, value: Kind, high: int) -> Kind:
    def take(where: str, given: object) -> Mapping[str, Any]:
        if type(given) is not dict or len(given) > high:
            raise bad(where, f"is a map of at most {high}")
        return {name.read(f"{where} key", k): value.read(f"{where}.{k}", v) for k, v in given.items()}

    return Kind(f"map of at most {high}, {name.text} to {value.text}", take)


def record(into: type[T], text: str) -> Kind:
    return Kind(text, lambda where, value: read(into, value, where))
