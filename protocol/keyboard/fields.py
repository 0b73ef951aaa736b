"""A request taken apart, field by field.

Everything that is wrong with a request is found before anything happens, and said with the name of the field
and what is allowed. Integers are JSON numbers or strings "0x..."; a truth value is no integer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

U64_MAX = (1 << 64) - 1
_HEX_NUMBER = re.compile("0x[0-9a-fA-F]{1,64}")
DIGITS = "two hexadecimal digits for each byte"
SHOWN = 60  # characters of a value in a message


class Complaint(Exception):
    """The request made no sense; nothing changed. `code` is one of the contract's."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(code, message, field)
        self.code = code
        self.message = message
        self.field = field

    def body(self) -> dict[str, str]:
        """What the answer's `error` holds."""
        body = {"code": self.code, "message": self.message}
        return body | {"field": self.field} if self.field else body


class Fields:
    """The fields of a request, or of an object inside one: then `within` names the request's own field."""

    __slots__ = ("_path", "_values", "_within")

    def __init__(self, values: Mapping[str, Any], within: str = "", path: str = "") -> None:
        self._values = values
        self._within = within
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    # -- complaints ------------------------------------------------------------------------------------------

    def wrong(self, name: str, allowed: str) -> Complaint:
        """A value that is not allowed."""
        shown = repr(self._values.get(name))
        if len(shown) > SHOWN:
            shown = f"{shown[:SHOWN]}..."
        return Complaint(
            "bad_value", f"{self._path}{name}: {shown}; allowed: {allowed}", self._within or name
        )

    def missing(self, name: str) -> Complaint:
        """A field without which the request says nothing."""
        return Complaint("bad_request", f"{self._path}{name} is missing", self._within or name)

    def only(self, *names: str) -> None:
        """Refuse an object with a field that has no meaning: a misspelt one would be left out silently."""
        for name in self._values:
            if name not in names:
                raise Complaint(
                    "bad_value",
                    f"{self._path}{name}: no such field; allowed: {', '.join(names)}",
                    self._within or name,
                )

    # -- values ----------------------------------------------------------------------------------------------

    def number(self, name: str, default: int | None = None, low: int = 0, high: int = U64_MAX) -> int:
        """An integer from `low` to `high`; without `default` it has to be there."""
        if name not in self._values and default is not None:
            return default
        value = self._values.get(name)
        if value is None:
            raise self._absent(name)
        if value.__class__ is str:
            if not _HEX_NUMBER.fullmatch(value):
                raise self.wrong(name, f'a number, or a string "0x...", from {bounds(low, high)}')
            value = int(value, 16)
        elif value.__class__ is not int:
            raise self.wrong(name, f'a number, or a string "0x...", from {bounds(low, high)}')
        if not low <= value <= high:
            raise self.wrong(name, bounds(low, high))
        number: int = value
        return number

    def flag(self, name: str, default: bool = False) -> bool:
        """A truth value."""
        value = self._values.get(name, default)
        if value.__class__ is not bool:
            raise self.wrong(name, "true or false")
        flag: bool = value
        return flag

    def choice(self, name: str, allowed: Collection[str], default: str | None = None) -> str:
        """One of the names in `allowed`."""
        value = self.text(name, default)
        if value not in allowed:
            raise self.wrong(name, ", ".join(allowed))
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._values.get(name, default)
        if value is None:
            raise self._absent(name)
        if value.__class__ is not str:
            raise self.wrong(name, "a string")
        text: str = value
        return text

    def data(self, name: str, most: int = U64_MAX, default: bytes | None = None) -> bytes:
        """Bytes, written as two hexadecimal digits each."""
        if default is not None and name not in self._values:
            return default
        value = self.text(name)
        if len(value) > 2 * most:
            raise self.wrong(name, f"at most {most} bytes")
        try:
            data = bytes.fromhex(value)
        except ValueError:
            raise self.wrong(name, DIGITS) from None
        if len(value) != 2 * len(data):  # white space between the digits
            raise self.wrong(name, DIGITS)
        return data

    def raw(self, name: str) -> Any:
        """Any value; it has to be there."""
        if name not in self._values:
            raise self.missing(name)
        return self._values[name]

    def inner(self, name: str, default: Mapping[str, Any] | None = None) -> Fields:
        """An object."""
        value = self._values.get(name, default)
        if value is None:
            raise self._absent(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Fields(value, self._within or name, f"{self._path}{name}.")

    def objects(self, name: str, most: int) -> list[Fields]:
        """A list of at most `most` objects."""
        values = self._list(name, most)
        for value in values:
            if not isinstance(value, dict):
                raise self.wrong(name, "a list of objects")
        at = f"{self._path}{name}"
        return [Fields(value, self._within or name, f"{at}[{i}].") for i, value in enumerate(values)]

    def texts(self, name: str, allowed: Collection[str], default: list[str]) -> list[str]:
        """A list of names, each in `allowed`."""
        if name not in self._values:
            return default
        values = self._list(name, len(allowed))
        if not all(isinstance(value, str) and value in allowed for value in values):
            raise self.wrong(name, f"a list of {', '.join(allowed)}")
        return values

    def _list(self, name: str, most: int) -> list[Any]:
        values = self._values.get(name)
        if values is None:
            raise self._absent(name)
        if not isinstance(values, list):
            raise self.wrong(name, "a list")
        if len(values) > most:
            raise Complaint("limit", f"{self._path}{name}: at most {most}", self._within or name)
        return values

    def _absent(self, name: str) -> Complaint:
        """Not there, or null: the same mistake but for what is said about it."""
        return self.wrong(name, "a value") if name in self._values else self.missing(name)


def bounds(low: int, high: int) -> str:
    """How a range is written down in a message."""
    return f"{low if low < 10 else hex(low)} to {high if high < 10 else hex(high)}"
