"""The load's account: every operation is written down before it is asked for, and again when it is over.

So whoever is killed, no operation is forgotten: one that has a beginning and no end in the file is *unknown*.
Outcomes: ok; failed (it was certainly not done, or it was undone); unknown (it may have been done). Lines:

    T OK FAILED UNKNOWN ROUNDS   what earlier lives came to, the first line
    B NUMBER WHO OPERATION       one begins
    E NUMBER OUTCOME             it is over
    R WHO                        a round of one host is over

The kernel keeps what was written when this process dies; against a loss of power it is not meant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

OK, FAILED, UNKNOWN = "ok", "failed", "unknown"
OUTCOMES = (OK, FAILED, UNKNOWN)


@dataclass(slots=True)
class Totals:
    """Operations by outcome, all lives together; `rounds` by host."""

    ok: int = 0
    failed: int = 0
    unknown: int = 0
    rounds: int = 0

    @property
    def issued(self) -> int:
        return self.ok + self.failed + self.unknown

    def add(self, outcome: str) -> None:
        setattr(self, outcome, getattr(self, outcome) + 1)


def read(path: Path) -> tuple[Totals, dict[str, str]]:
    """The totals of a journal and what is still open in it, by number: nothing ended it.

    A last line that was cut off is not there.
    """
    totals, begun = Totals(), dict[str, str]()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return totals, begun
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        match line.split():
            case ["T", ok, failed, unknown, rounds]:
                totals = Totals(int(ok), int(failed), int(unknown), int(rounds))
            case ["B", number, *what]:
                begun[number] = " ".join(what)
            case ["E", number, outcome] if number in begun and outcome in OUTCOMES:
                del begun[number]
                totals.add(outcome)
            case ["R", _]:
                totals.rounds += 1
            case _:
                raise ValueError(f"{path}: not a line of an account: {line[:80]!r}")
    return totals, begun


class Account:
    """An open account. What an earlier life left open is unknown from now on."""

    def __init__(self, path: Path) -> None:
        totals, begun = read(path)
        totals.unknown += len(begun)
        self.totals = totals
        self.inherited = len(begun)
        self._open: set[int] = set()
        self._numbers = 0
        fresh = path.with_name(path.name + ".part")
        head = f"T {totals.ok} {totals.failed} {totals.unknown} {totals.rounds}\n"
        fresh.write_text(head, encoding="utf-8")
        os.replace(fresh, path)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def begin(self, who: str, operation: str) -> int:
        """One operation is about to be asked for."""
        self._numbers = number = self._numbers + 1
        self._open.add(number)
        self._write(f"B {number} {who} {operation}\n")
        return number

    def end(self, number: int, outcome: str) -> None:
        self._open.remove(number)
        self.totals.add(outcome)
        self._write(f"E {number} {outcome}\n")

    def round(self, who: str) -> None:
        self.totals.rounds += 1
        self._write(f"R {who}\n")

    def numbers(self) -> dict[str, int]:
        totals = self.totals
        return {
            "ok": totals.ok, "failed": totals.failed, "unknown": totals.unknown,
            "under_way": len(self._open), "rounds": totals.rounds,
        }  # fmt: skip

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, line: str) -> None:
        os.write(self._fd, line.encode())
