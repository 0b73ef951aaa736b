"""What a load says in its log: what is the matter, once, and nothing where a machine only comes up."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors.deployment.load import AGAIN_S, UP_S, Load
from protocol.errors import NotDelivered

NOBODY = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
TRIES = int(UP_S / AGAIN_S)


def noted(driven: Any, *troubles: Exception) -> None:
    for trouble in troubles:
        Load._note(cast(Load, None), driven, trouble)


def test_a_machine_that_comes_up_is_no_trouble_and_one_that_stays_away_is(
    capsys: pytest.CaptureFixture[str],
) -> None:
    driven = SimpleNamespace(name="l0-0.hosted-1", trouble="", tries=0)
    noted(driven, *[NOBODY] * (TRIES - 1))
    assert capsys.readouterr().err == ""
    noted(driven, *[NOBODY] * TRIES)
    assert capsys.readouterr().err == (
        "nestbed: l0-0.hosted-1: nobody listens for 5 s now: No such file or directory\n"
    )


def test_what_a_machine_answers_is_said_at_once_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    driven = SimpleNamespace(name="l0-0.l1-1", trouble="", tries=0)
    noted(driven, *[NotDelivered("closed")] * 3)
    assert capsys.readouterr().err == "nestbed: l0-0.l1-1: NotDelivered: closed\n"
