"""Values on a link: the classes that may cross, and the form in which they do.

What an actor says is made of plain values (None, truth values, integers of 64 bits, text, bytes, maps by
text), tuples, and records: frozen dataclasses and named tuples that the codec was told of. On the wire an
array is a tuple if its first element is 0, else a record: its name, then its fields in the order in which
they are declared.

Decoding checks each field against its annotation, because the other side may be anybody: a value of the
wrong type is a violation of the protocol (`shape`), and nothing of the record is made.
"""

from __future__ import annotations

import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from protocol.errors import LocalProtocolError, RemoteProtocolError

TUPLE = 0
U64 = 1 << 64
_LEAST = -(1 << 63)
_PLAIN = (bool, str, bytes, float, type(None))

Check = Callable[[Any], bool]


class Codec:
    """Encodes and decodes records of `classes`, each by its own name."""

    def __init__(self, classes: Iterable[type]) -> None:
        self._classes: dict[str, type] = {}
        self._fields: dict[type, tuple[str, ...]] = {}
        self._checks: dict[type, tuple[Check, ...]] = {}
        for each in classes:
            if each.__name__ in self._classes:
                raise ValueError(f"two classes are called {each.__name__}")
            self._classes[each.__name__] = each
            self._fields[each], self._checks[each] = _form_of(each)

    def encode(self, value: object) -> object:
        """The form of `value` on the wire. Raises LocalProtocolError if it has none."""
        kind = type(value)
        if kind is int:
            if _LEAST <= value < U64:  # type: ignore[operator]
                return value
            raise LocalProtocolError(f"{value!r} does not fit in 64 bits")
        if kind in _PLAIN:
            return value
        names = self._fields.get(kind)
        if names is not None:
            return [kind.__name__, *(self.encode(getattr(value, name)) for name in names)]
        if isinstance(value, Enum):
            return self.encode(value.value)
        if isinstance(value, dict):
            return {str(key): self.encode(item) for key, item in value.items()}
        if kind in (tuple, list, deque):
            return [TUPLE, *(self.encode(item) for item in value)]  # type: ignore[attr-defined]
        if isinstance(value, frozenset):
            return [TUPLE, *(self.encode(item) for item in sorted(value))]
        raise LocalProtocolError(f"a {kind.__name__} has no form on the wire")

    def decode(self, value: object) -> object:
        """The value that was encoded as `value`. Raises RemoteProtocolError (shape)."""
        kind = type(value)
        if kind is dict:
            return {key: self.decode(item) for key, item in value.items()}  # type: ignore[attr-defined]
        if kind is not list:
            return value
        array = typing.cast("list[object]", value)
        name = array[0] if array else None
        items = [self.decode(item) for item in array[1:]]
        if type(name) is int and name == TUPLE:
            return tuple(items)
        cls = self._classes.get(name) if type(name) is str else None
        if cls is None:
            raise RemoteProtocolError("shape", f"no record is called {str(name)[:40]!r}")
        return self._record(cls, items)

    def _record(self, cls: type, items: list[Any]) -> object:
        checks = self._checks[cls]
        if len(items) != len(checks):
            raise RemoteProtocolError("shape", f"{cls.__name__} has {len(checks)} fields, not {len(items)}")
        for name, check, item in zip(self._fields[cls], checks, items, strict=True):
            if not check(item):
                raise RemoteProtocolError("shape", f"{cls.__name__}.{name} is {str(item)[:40]!r}")
        restore = getattr(cls, "from_fields", cls)
        return restore(*items)


@cache
def _form_of(cls: type) -> tuple[tuple[str, ...], tuple[Check, ...]]:
    """The fields of `cls` and what is checked of each. Read once: to read annotations takes milliseconds."""
    names, hints = _field_names(cls), typing.get_type_hints(cls)
    return names, tuple(_check(hints[name]) for name in names)


def _field_names(cls: type) -> tuple[str, ...]:
    if is_dataclass(cls):
        return tuple(field.name for field in fields(cls))
    named = getattr(cls, "_fields", None)
    if not isinstance(named, tuple):
        raise TypeError(f"{cls.__name__} is neither a dataclass nor a named tuple")
    return named


def _check(hint: Any) -> Check:
    """Whether a decoded value may stand in a field annotated with `hint`."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return _anything
    if origin in (typing.Union, types.UnionType):
        options = [_check(option) for option in typing.get_args(hint)]
        return lambda value: any(option(value) for option in options)
    if origin in (tuple, list, deque, frozenset):
        return _check_items(typing.get_args(hint))
    if origin is dict or origin is Mapping:
        return lambda value: type(value) is dict
    if hint is int:
        return lambda value: type(value) is int
    exact: type = hint
    return lambda value: type(value) is exact


def _check_items(of: tuple[Any, ...]) -> Check:
    if not of or (len(of) == 2 and of[1] is Ellipsis) or len(of) == 1:
        item = _check(of[0]) if of else _anything
        return lambda value: type(value) is tuple and all(item(each) for each in value)
    each_of = [_check(option) for option in of]
    return lambda value: (
        type(value) is tuple
        and len(value) == len(each_of)
        and all(check(item) for check, item in zip(each_of, value, strict=True))
    )


def _anything(_value: object) -> bool:
    return True
