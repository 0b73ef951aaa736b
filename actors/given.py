"""TOML and JSON that somebody else wrote: what comes out is small enough for whoever reads on.

A parser takes more than its readers can: a key with a thousand dots is a thousand tables inside each other,
a number in hexadecimal may be longer than Python prints, a text of JSON may hold half a character, which no
file and no screen takes. All of that is refused here, once for every reader.
"""

from __future__ import annotations

import json
from typing import Any

DEPTH = 64  # tables and lists inside each other; ours have 6
LEAST, MOST = -(1 << 63), (1 << 64) - 1


class BadDocument(ValueError):
    """A text that is none, or that holds what nobody can use. The message says which."""


def from_toml(text: str) -> dict[str, Any]:
    """The tables of a text. Raises BadDocument."""
    import tomllib  # later: most commands read none

    if _dots(text) > DEPTH:  # the parser takes the square of them in time
        raise BadDocument(f"nested too deeply: a key with more than {DEPTH} dots")
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise BadDocument("nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits is none of TOML's own errors
        raise BadDocument(f"not TOML: {error}") from None
    _bounded(found)
    return found


def from_json(data: bytes | str) -> Any:
    """The value of a text. Raises BadDocument."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not JSON: {error}") from None
    _bounded(found)
    return found


def _dots(text: str) -> int:
    """How many dots the longest key may have: words, or texts in quotes, with nothing but dots between."""
    longest = run = 0
    for piece in text.split("."):
        is_name = "\n" not in piece and (len(piece.split()) == 1 or '"' in piece or "'" in piece)
        run = run + 1 if is_name else 0
        longest = max(longest, run)
    return longest


def _bounded(value: Any) -> None:
    """Look at everything in a value, one list for each level: it may be deeper than functions can go."""
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str):
                _is_text(each)
            elif type(each) is int and not LEAST <= each <= MOST:
                raise BadDocument("a number of more than 64 bits")
        if not below:
            return
        level = below
    raise BadDocument(f"nested too deeply: more than {DEPTH} levels")


def _is_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadDocument(f"{text[:40]!r} holds half a character") from None


def whole(text: str, below: int) -> int | None:
    """A whole number in decimal, from 0 on; None for any other text, such as digits of other scripts."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(below))):
        return None
    number = int(text)
    return number if number < below else None
