"""Who waits for whom, across the processes of a deployment: one tree for each call that nobody waits behind.

The pictures of `actors.deployment.why` are joined by what both ends know of a call: its number and whom it
asks. Within a process a parked handler (a *step*) is joined with what it serves and with the call that it
made. A link between a part and its machine has a name at both ends; where several links of a part serve the
same number and target, that name decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Picture = dict[str, Any]
Told = Mapping[str, Sequence[Picture]]


def tree(told: Told) -> list[str]:
    """The lines of all trees, each line two spaces deeper than what it is waited for by."""
    return list(_Joined(told).lines())


class _Joined:
    def __init__(self, told: Told) -> None:
        self._told = told
        self._steps = {
            (process, step["step"]): (picture, step)
            for process, picture in self._all("parked")
            for step in picture["parked"]
        }
        self._drawn: set[tuple[str, int]] = set()

    def _all(self, kind: str) -> Iterator[tuple[str, Picture]]:
        for process, pictures in self._told.items():
            for picture in pictures:
                if kind in picture:
                    yield process, picture

    def lines(self) -> Iterator[str]:
        for process, picture in self._all("calls"):
            for call in picture["calls"]:
                if call["step"] is None:  # asked by a task, for which nobody waits
                    yield from self._call(process, picture["link"], call, 0)
        for (process, step), (picture, parked) in self._steps.items():
            if (process, step) not in self._drawn and not isinstance(parked["serves"], int):
                yield from self._step(process, picture, parked, 0)

    def _call(self, process: str, link: str, call: Picture, depth: int) -> Iterator[str]:
        trace = f", trace {call['trace']}" if call.get("trace") else ""
        asked = f"{call['target']} of {link.partition(' ')[0]}"
        yield f"{'  ' * depth}{process}: call {call['call']} to {asked}{trace}"
        for there, served in self._served(process, link, call):
            found = [
                (picture, parked)
                for (where, _), (picture, parked) in self._steps.items()
                if where == there and _is(parked["serves"], served, call["call"])
            ]
            if not found:
                yield f"{'  ' * (depth + 1)}{there}: {call['target']} has it, and it waits in no handler"
            for picture, parked in found:
                yield from self._step(there, picture, parked, depth + 1)

    def _served(self, process: str, link: str, call: Picture) -> list[tuple[str, str]]:
        """In which part, on which of its links, that call is served."""
        found = [
            (there, picture["link"])
            for there, picture in self._all("serves")
            if there == link.partition(" ")[0]
            and any(
                each["call"] == call["call"] and each["target"] == call["target"]
                for each in picture["serves"]
            )
        ]
        named = [(there, name) for there, name in found if f"{there}.{name}" == process]
        return named or found

    def _step(self, process: str, picture: Picture, parked: Picture, depth: int) -> Iterator[str]:
        if (process, parked["step"]) in self._drawn:
            yield f"{'  ' * depth}{process}: {picture['actor']}, as above"
            return
        self._drawn.add((process, parked["step"]))
        of = f" for {parked['for']}" if parked["for"] != "None" else ""
        yield f"{'  ' * depth}{process}: {picture['actor']}{of} waits for {parked['waits_for']}"
        for where, link in self._all("calls"):
            if where == process:
                for call in link["calls"]:
                    if call["step"] == parked["step"]:
                        yield from self._call(process, link["link"], call, depth + 1)
        for (where, _), (below, other) in self._steps.items():
            if where == process and other["serves"] == parked["step"]:
                yield from self._step(process, below, other, depth + 1)


def _is(serves: Any, link: str, number: int) -> bool:
    """Whether a step serves that call. What crossed a link is a tuple, what comes from JSON a list."""
    return isinstance(serves, tuple | list) and tuple(serves) == (link, number)
