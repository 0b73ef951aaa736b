"""`nestbed worklist` says which checks the Trusted Entity below makes: at depth 1 it is they that refuse."""

from __future__ import annotations

import pytest

from docs.record import measure
from protocol.arch import load
from protocol.calls import Issuer

MEASURED = ("pef", "s390")  # whose recorders know which level refused


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_what_is_called_inherited_is_found_below_and_nothing_else_is(name: str) -> None:
    slice_ = load(name)
    tests = sorted({test for tests in slice_.explain.covered.values() for test in tests})  # type: ignore[attr-defined]
    found = measure(name, (*tests, "-k", "depth1"))
    here: dict[tuple[str, int], set[bool]] = {}
    for checks in found.values():
        for call, place, _, level in checks:
            if place >= 0:
                here.setdefault((call, place), set()).add(level > 0)
    rows = {row.name: row for row in slice_.calls.values()}
    said = slice_.feasibility  # type: ignore[attr-defined]
    of_hosts = {key: True in own for key, own in here.items() if rows[key[0]].issuer is not Issuer.GUEST}
    wrong = [(key, own) for key, own in of_hosts.items() if said.judged_here(rows[key[0]], key[1]) != own]
    assert wrong == []
    checks = sum(len(row.checks) for row in rows.values() if row.for_host())
    assert len(of_hosts) > 0.9 * checks, "too few were seen to say anything"
