"""The cost table that comes with the program, and what a user lays over it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from actors.given import BadDocument, from_toml
from protocol.cost.table import BadCosts, Costs

FILE_BYTES = 1 << 20


class UnreadableCosts(Exception):
    """A file of costs that cannot be used. The message says where and why."""


def shipped() -> Costs:
    """The table of the package."""
    text = (resources.files("protocol.cost") / "costs.toml").read_text(encoding="utf-8")
    return Costs.read(from_toml(text))


def load(overlay: Path | None = None) -> Costs:
    """The shipped table with a user's file laid over it. Raises UnreadableCosts with every mistake."""
    costs = shipped()
    if overlay is None:
        return costs
    try:
        with overlay.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
        if len(data) > FILE_BYTES:
            raise UnreadableCosts(f"{overlay}: more than {FILE_BYTES} bytes")
        return costs.overlaid(Costs.read(from_toml(data.decode())))
    except OSError as error:
        raise UnreadableCosts(f"{overlay}: {error.strerror}") from None
    except BadCosts as bad:
        raise UnreadableCosts("\n".join(f"{overlay}: {mistake}" for mistake in bad.mistakes)) from None
    except BadDocument as error:
        raise UnreadableCosts(f"{overlay}: {error}") from None
    except UnicodeDecodeError as error:
        raise UnreadableCosts(f"{overlay}: not TOML: not UTF-8 text (byte {error.start})") from None
