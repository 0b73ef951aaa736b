"""`nestbed worklist` says which checks the Trusted Entity below makes: at depth 1 it is they that refuse."""

from __future__ import annotations

import pytest

from docs.record import SEVERAL, measure
from protocol.arch import load
from protocol.calls import Issuer

MEASURED = ("pef", "s390", "sev", "tdx")  # whose consoles say which level refused


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURED)
def test_what_is_called_inherited_is_found_below_and_nothing_else_is(name: str) -> None:
    slice_ = load(name)
    rows = {row.name: row for row in slice_.calls.values() if row.issuer is not Issuer.GUEST}
    said = slice_.feasibility  # type: ignore[attr-defined]
    tests = sorted({test for tests in slice_.explain.covered.values() for test in tests})  # type: ignore[attr-defined]
    here: dict[tuple[str, tuple[int, ...]], set[bool]] = {}
    for checks in measure(name, (*tests, "-k", "depth1")).values():
        for call, place, code, level in checks:
            if call in rows and (place >= 0 or place == SEVERAL):
                same = tuple(at for at, check in enumerate(rows[call].checks) if check.code == code)
                here.setdefault((call, (place,) if place >= 0 else same), set()).add(level > 0)
    wrong = []
    for (call, places), seen in here.items():
        told = {said.judged_here(rows[call], place) for place in places}
        # What this level makes in part is its own to write; of several with one code any may have been it.
        if not seen <= told if len(places) > 1 else (True in seen) is not (True in told):
            wrong.append((call, places, told, seen))
    assert wrong == []
    found = {(call, place) for call, places in here for place in places}
    checks = sum(len(row.checks) for row in rows.values())
    assert len(found) > 0.9 * checks, f"{len(found)} of {checks}: too few to say anything"
