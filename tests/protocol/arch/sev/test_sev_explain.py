"""Statuses are asked for by number or by name; what a command cannot answer is not said to be its answer."""

from __future__ import annotations

import pytest

from protocol.arch.sev.calls import CALLS
from protocol.arch.sev.explain import EXPLAINER
from protocol.explain import Unknown, explain


def texts(question: str) -> list[str]:
    found, _ = explain(CALLS, EXPLAINER, question)
    return [one.text for one in found]


def test_only_a_command_with_a_buffer_is_refused_for_it() -> None:
    """SHUTDOWN takes none."""
    (text,) = texts("DEACTIVATE:INVALID_ADDRESS")
    assert "the buffer is not in memory" in text
    with pytest.raises(Unknown, match="SHUTDOWN does not answer"):
        explain(CALLS, EXPLAINER, "SHUTDOWN:INVALID_ADDRESS")


def test_only_a_buffer_that_is_written_has_to_be_the_firmwares() -> None:
    (text,) = texts("LAUNCH_START:INVALID_PAGE_STATE")
    assert "buffer" in text
    with pytest.raises(Unknown, match="DEACTIVATE does not answer"):
        explain(CALLS, EXPLAINER, "DEACTIVATE:INVALID_PAGE_STATE")


def test_sixty_four_more_is_the_same_status_of_another_firmware() -> None:
    same, remarks = explain(CALLS, EXPLAINER, "LAUNCH_START:0x5a")
    assert [one.text for one in same] == texts("LAUNCH_START:0x1a")
    assert "64 added" in remarks[0]


def test_every_command_may_succeed() -> None:
    for row in CALLS.values():
        assert texts(f"{row.name}:SUCCESS")
