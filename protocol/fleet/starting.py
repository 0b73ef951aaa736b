"""How a machine takes a start: the number is written down as its own first, and only then anything is done.

`placing` says whose turn it is and what its tenant does; this is the machine's side, as a generator.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from protocol.errors import NotDelivered, RemoteProtocolError
from protocol.fleet.directory import MACHINES, PLACEMENTS, Asking, Get, Opened, Put, Value
from protocol.fleet.entry import Entry
from protocol.fleet.lease import SILENT
from protocol.fleet.placing import NOTHING_DONE, Answer, Placement, open_placement, pack_placement, turn_of
from protocol.fleet.subjects import is_token

WRITES = 4  # others may write at the same time


@dataclass(frozen=True, slots=True)
class Start:
    """Have the broker of this machine start what has the number. Answered with its reply frame."""

    name: str


def started(
    name: str, machine: str, epoch: int, opened: Opened, holds: Callable[[], bool]
) -> Generator[Get | Put | Start, Any, Answer | None]:
    """Start what has the number `name` (`placement_key`), or say whose it is; None: past the lease.

    Raises NotDelivered where the directory does not say whose it is: then nothing is done.
    """
    taken = yield from _taken(name, machine, epoch, opened)
    if isinstance(taken, str):
        return Answer(machine, epoch, to=taken)
    if not holds():
        return None
    reply = yield Start(name)
    if reply["t"] == "err" and reply["b"]["name"] in NOTHING_DONE:
        yield Put(PLACEMENTS, name, pack_placement(Placement("", 0)), taken)
    return Answer(machine, epoch, reply)


def _taken(name: str, machine: str, epoch: int, opened: Opened) -> Asking[int | str]:
    """The revision under which a number is ours; or whose it is. Raises NotDelivered.

    What is ours already is written again: our own giving back of it may still be under way, over what we see,
    and would take the number from under a guest.
    """
    ours = Placement(machine, epoch)
    for _ in range(WRITES):
        value: Value = yield Get(PLACEMENTS, name)
        if value.revision == SILENT:
            break
        found = open_placement(value.data) if value.revision else None
        turn = turn_of(found, machine, epoch, (yield from _entry_of(found, machine, opened)))
        if turn != machine:
            if not is_token(turn):
                raise RemoteProtocolError("order", f"a later life of {machine} has the number")
            return turn
        revision: int = yield Put(PLACEMENTS, name, pack_placement(ours), value.revision)
        if revision:
            return revision
    raise NotDelivered("the directory does not say whose the number is")


def _entry_of(found: Placement | None, machine: str, opened: Opened) -> Asking[Mapping[str, Entry]]:
    """What the directory says of the machine that has a number, where it is another one."""
    if found is None or found.machine in ("", machine):
        return {}
    entry = opened((yield Get(MACHINES, found.machine)))
    return {} if entry is None else {found.machine: entry}
