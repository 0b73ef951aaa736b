"""How much work an act is, by what Python does and not by a clock."""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


def steps(act: Callable[[], object]) -> Counter[str]:
    """How many of Python's instructions each function took: the same on every machine, however busy."""
    taken: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> Any:
        frame.f_trace_opcodes = True
        if event == "opcode":
            taken[f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"] += 1
        return count

    before = sys.gettrace()
    gc.disable()  # who is told when it comes round takes steps, too, in the midst of whatever is under way
    sys.settrace(count)
    try:
        act()
    finally:
        sys.settrace(before)
        gc.enable()
    return taken
