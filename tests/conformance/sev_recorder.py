"""A pytest plugin that writes down which test provokes which check of the secure processor.

`-p sev_recorder`. Where two checks of a command answer one status, the refusal itself says which it was.
"""

from __future__ import annotations

from recorder import pytest_runtest_protocol, pytest_sessionfinish, watch_consoles  # noqa: F401 - the hooks

from protocol.arch.sev.slice import Sev
from protocol.arch.sev.watch import SevWatch


def pytest_configure() -> None:
    watch_consoles(Sev, SevWatch)
