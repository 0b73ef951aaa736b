"""Subjects: who asks what of whom, in words that a NATS server can hold against its permissions.

    nb.CELL.WHO.MACHINE.VERB     to one machine, which has one subscription for all of it
    nb.CELL.WHO.any.VERB         to any instance of the fleet (a queue group)
    nb-inbox.CELL.WHO....        answers to WHO

WHO is a tenant, or one of `driver` and `machine`. A server that lets a tenant publish below `nb.CELL.TENANT`
and nowhere else vouches for the word: identity is the transport's. An answer goes to an inbox of whoever
asked and nowhere else, or a tenant could have a machine, which may write more than it, write for it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from protocol.errors import RemoteProtocolError

ROOT, INBOX = "nb", "nb-inbox"
ANY = "any"
MACHINE, DRIVER = "machine", "driver"
RESERVED = (MACHINE, DRIVER, ANY)
SUBJECT_BYTES = 512
_TOKEN = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class Asked(NamedTuple):
    """A question, as its subject says it. `machine` is ANY or the name of one."""

    who: str
    machine: str
    verb: str


def is_token(word: str) -> bool:
    """Whether `word` may stand between two dots: 1 to 32 of a-z, 0-9 and -."""
    return _TOKEN.fullmatch(word) is not None


class Cell:
    """The subjects of one fleet. Raises ValueError for a name that is none."""

    def __init__(self, name: str) -> None:
        if not is_token(name):
            raise ValueError(f"no name of a cell: {name[:40]!r}; allowed: 1 to 32 of a-z, 0-9 and -")
        self.name = name
        self._root = f"{ROOT}.{name}"

    def ask(self, who: str, machine: str, verb: str) -> str:
        """Where `who` asks `machine`, or ANY."""
        assert all(map(is_token, (who, machine, verb))), (who, machine, verb)
        return f"{self._root}.{who}.{machine}.{verb}"

    def asked_of(self, machine: str) -> str:
        """What `machine`, or ANY, subscribes to."""
        assert is_token(machine), machine
        return f"{self._root}.*.{machine}.>"

    def inbox(self, who: str) -> str:
        """Below what answers to `who` come."""
        assert is_token(who), who
        return f"{INBOX}.{self.name}.{who}"

    def opened(self, subject: str, reply: str) -> Asked:
        """What is asked there. Raises RemoteProtocolError for a subject or an inbox that is none of ours."""
        if max(len(subject), len(reply)) > SUBJECT_BYTES:
            raise RemoteProtocolError("oversized", f"a subject of {len(subject)} bytes")
        match subject.split("."):
            case [root, cell, who, machine, verb] if f"{root}.{cell}" == self._root:
                asked = Asked(who, machine, verb)
            case _:
                raise RemoteProtocolError("shape", f"no subject of this fleet: {subject[:80]!r}")
        if not all(map(is_token, asked)):
            raise RemoteProtocolError("shape", f"no words of a subject: {subject[:80]!r}")
        if not reply.startswith(f"{self.inbox(asked.who)}."):
            raise RemoteProtocolError("role", f"{asked.who} wants the answer sent to {reply[:80]!r}")
        return asked
