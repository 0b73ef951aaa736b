"""Who waits behind an answer that has yet to come: a handler that is parked, or a call of a peer.

What delivers an answer is a chain of callables; the chain is walked, not called. A link of the chain may be a
method of a step or of a serial port, a span of tracing, a partial, or a function around one of those.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

from actors.runtime.actor import InFlight
from actors.runtime.link import Link
from actors.runtime.serial import Serial
from actors.runtime.tracing import Followed

LONGEST = 8  # callables around each other


def behind(deliver: Any, longest: int = LONGEST) -> InFlight | tuple[Link, int] | None:
    """Return the step that `deliver` continues, or the link and the number of the call that it answers.

    None for a task that waits, or for what nobody waits for.
    """
    if longest == 0:
        return None
    inner: list[Any] = []
    match deliver:
        case Followed():
            inner = [deliver.inner]
        case partial():
            link = getattr(deliver.func, "__self__", None)
            if isinstance(link, Link) and getattr(deliver.func, "__func__", None) is Link._answer:
                return link, deliver.args[0]
            inner = [deliver.func, *deliver.args]
        case MethodType():
            if isinstance(deliver.__self__, InFlight):
                return deliver.__self__
            inner = [deliver.__self__.deliver] if isinstance(deliver.__self__, Serial) else []
        case FunctionType():
            inner = [
                cell.cell_contents for cell in deliver.__closure__ or () if cell.cell_contents is not deliver
            ]
    for each in inner:
        if callable(each) and (found := behind(each, longest - 1)) is not None:
            return found
    return None
