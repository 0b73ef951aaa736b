"""What a host does, told in the words of its console while it happens: a transcript that can be asked again.

A recorded level stands before the level that a host meets. Loads and stores pass through here, calls and
entries in the architecture's own class; each is told as the request that a person at the keyboard would have
typed, with the answer that the console gives. What the hardware does for the host (`peek`, `poke`) is no
request.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from protocol.effects import Fault
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting.linked import LinkedLevel

Json = dict[str, Any]
Say = Callable[[Json, Json], None]


class Telling:
    """How to tell. `say` is given a request and its answer.

    `typed` is a guest's step as it is typed, `fault` an exception as the console tells of it.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._asked = 0
        self._queued: dict[Hashable, tuple[object, int]] = {}  # VCPU -> its program, steps that were told of

    # -- what an architecture adds ---------------------------------------------------------------------------

    def typed(self, step: Any) -> Json:
        """A guest's step as it is typed."""
        raise NotImplementedError

    def fault(self, fault: Any, **more: Any) -> Json:
        """An answer that is an exception; `more` stands beside it."""
        code = hex(fault.code)
        body = {"code": code, "name": fault.name, "address": hex(fault.address), "write": fault.write}
        return {"fault": {**body, **more}}

    # -- telling ---------------------------------------------------------------------------------------------

    def tell(self, answer: Json, **request: Any) -> None:
        """One request and its answer."""
        self._asked += 1
        self._say({"id": self._asked, **request}, {"id": self._asked, **answer})

    def queue(self, key: Hashable, program: Any, **names: Any) -> None:
        """Tell of the steps that a VCPU's program has got since its last entry; `names` say which one."""
        known, told = self._queued.get(key, (None, 0))
        replaced = known is not program
        steps = [self.typed(step) for step in list(program.steps)[0 if replaced else told :]]
        if not steps and not (replaced and told):
            return
        request: Json = {"op": "guest", **names, "do": steps}
        if replaced and told:
            request["replace"] = True
        self.tell({"ok": {"queued": len(program.steps)}}, **request)

    def entered(self, key: Hashable, program: Any) -> None:
        """The VCPU has left: what its program still holds was told of."""
        self._queued[key] = (program, len(program.steps))


class RecordedLevel(Telling):
    """Put before an architecture's linked level, which is set up first: the memory half."""

    def __init__(self, level: LinkedLevel, say: Say) -> None:
        super().__init__(say)
        self._level: Any = level
        self.read = self._read
        self.write = self._write

    # -- memory ----------------------------------------------------------------------------------------------

    def _read(self, address: int, length: int) -> bytes | Fault:
        data: bytes | Fault = self._level.read(address, length)
        answer = self.fault(data) if isinstance(data, Fault) else {"ok": {"hex": data.hex()}}
        self.tell(answer, op="read", addr=hex(address), len=length)
        return data

    def _write(self, address: int, data: bytes, stores: int = 1) -> Fault | None:
        fault: Fault | None = self._level.write(address, data, stores)
        answer = {"ok": {}} if fault is None else self.fault(fault)
        self.tell(answer, op="write", addr=hex(address), hex=bytes(data).hex())
        return fault

    def clear(self, frames: Sequence[int] | np.ndarray) -> None:
        """Zero whole frames."""
        self._level.clear(frames)
        for frame in np.asarray(frames).tolist():
            self.tell({"ok": {}}, op="fill", addr=hex(frame << PAGE_SHIFT), len=PAGE)
