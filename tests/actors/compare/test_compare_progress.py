"""How far a comparison is: how often it says so, and how it is stopped."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from actors.compare import progress as p
from protocol.ledger import Ledger


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_at_once_and_then_every_ten_seconds() -> None:
    clock, log = Clock(), io.StringIO()
    lines = p.Lines(log, clock)
    for second in range(25):
        clock.now = float(second)
        lines.phase("nested", "page_change", second, 25)
    assert log.getvalue().splitlines() == [
        "nestbed: 0/25 nested: page change",
        "nestbed: 10/25 nested: page change",
        "nestbed: 20/25 nested: page change",
    ]


def test_a_stopped_run_learns_of_it_at_its_next_step_and_keeps_what_it_has() -> None:
    progress = p.Progress()
    progress.result({"path": "direct"})
    progress.stopped = True
    with pytest.raises(p.Stopped):
        progress.phase("nested", "boot", 1, 2)
    assert progress.results == [{"path": "direct"}]


def test_lines_stop_as_well() -> None:
    lines = p.Lines(io.StringIO())
    lines.stopped = True
    with pytest.raises(p.Stopped):
        lines.phase("nested", "boot", 1, 2)


def test_machines_are_attached_where_somebody_wants_them() -> None:
    progress, seen = p.Progress(), list[Any]()
    ledger = Ledger()
    progress.attach("s390", "direct", ledger)
    progress.on_attach = lambda *given: seen.append(given)
    progress.attach("s390", "nested", ledger)
    assert seen == [("s390", "nested", ledger, ())]


def test_what_suits_depends_on_who_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert type(p.choose(quiet=True)) is p.Progress
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(p.choose(quiet=False)) is p.Lines
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(p.choose(quiet=False)) is p.Live


def test_the_live_bar_moves_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    live = p.Live()
    live.phase("direct", "boot", 0, 2)  # before its start there is nothing to show
    live.start(2)
    live.phase("direct", "owner_reboot", 1, 2)
    live.end()
    live.end()
    assert live.results == []
