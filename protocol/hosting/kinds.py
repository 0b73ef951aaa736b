"""Types of fields on the wire: what each accepts, and how the documentation says it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from protocol.hosting.errors import Code, Refusal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A type on the wire. `read` returns the value or raises Refusal; `text` describes it."""

    text: str
    read: Callable[[str, object], Any]


def wire(kind: Kind, default: Any = MISSING, name: str = "") -> Any:
    """Declare a field of a message: required unless it has a default. `name`: on the wire, if it differs."""
    metadata = {"kind": kind, "name": name}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def declared(into: type) -> dict[str, Field[Any]]:
    """The fields of a message by their names on the wire."""
    return {f.metadata["name"] or f.name: f for f in fields(into)}


def read(into: type[T], body: object, where: str = "b", more: bool = False) -> T:
    """Return `body` as the message `into`; raises Refusal (BAD_ARGUMENT) naming the first wrong field.

    `more`: there may be fields that are not declared; they are passed over.
    """
    if type(body) is not dict:
        raise bad(where, "is a map")
    of = declared(into)
    for name in body:
        if name not in of and not more:
            raise bad(f"{where}.{str(name)[:40]}", "is not a field of this message")
    values = {}
    for name, f in of.items():
        if name in body:
            values[f.name] = f.metadata["kind"].read(f"{where}.{name}", body[name])
        elif f.default is MISSING:
            raise bad(f"{where}.{name}", "is required")
    return into(**values)


class Misfit(Refusal):
    """A field is not what it has to be: `where` it is, like `b.spec.vcpus`, and `what` it has to be."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(Code.BAD_ARGUMENT, f"{where} {what}")
        self.where, self.what = where, what


def bad(where: str, what: str) -> Misfit:
    return Misfit(where, what)


def _checked(text: str, accepts: Callable[[object], bool]) -> Kind:
    def take(where: str, value: object) -> object:
        if not accepts(value):
            raise bad(where, f"is {text}")
        return value

    return Kind(text, take)


def uint(low: int, high: int) -> Kind:
    # A truth value is an int for Python, but not on the wire.
    return _checked(f"uint {low}..{high}", lambda v: type(v) is int and low <= v <= high)


def integer(low: int, high: int) -> Kind:
    return _checked(f"int {low}..{high}", lambda v: type(v) is int and low <= v <= high)


def binary(low: int, high: int | None = None) -> Kind:
    high = low if high is None else high
    text = f"bin of {low} bytes" if low == high else f"bin of {low}..{high} bytes"
    return _checked(text, lambda v: type(v) is bytes and low <= len(v) <= high)


def text(high: int, low: int = 1) -> Kind:
    return _checked(f"str of {low}..{high} characters", lambda v: type(v) is str and low <= len(v) <= high)


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


def record(into: type[T], text: str, more: bool = False) -> Kind:
    return Kind(text, lambda where, value: read(into, value, where, more))


def whatever() -> Kind:
    return Kind("any value", lambda where, value: value)
