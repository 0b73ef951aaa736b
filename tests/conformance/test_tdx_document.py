"""The session in `docs/arch/tdx.md` is answered as it stands there, at every depth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from driver import Json, in_process

DOCUMENT = Path(__file__).parents[2] / "docs" / "arch" / "tdx.md"


def session() -> list[tuple[Json, Json, bool]]:
    """Each request, its answer, and whether more was answered than is shown."""
    lines = DOCUMENT.read_text().splitlines()
    asked = [json.loads(line[2:]) for line in lines if line.startswith("> ")]
    answers = [line[2:] for line in lines if line.startswith("< ")]
    assert len(asked) == len(answers) > 20
    return [
        (request, json.loads(answer.replace(", ...", "")), ", ..." in answer)
        for request, answer in zip(asked, answers, strict=True)
    ]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_session_of_the_document(depth: int) -> None:
    console = in_process("tdx", depth)
    for request, shown, more in session():
        answer = console.answer(request)
        assert answer["id"] == shown["id"]
        for kind in ("ok", "fault"):
            assert (kind in answer) == (kind in shown), request
            got: dict[str, Any] = answer.get(kind, {})
            wanted: dict[str, Any] = shown.get(kind, {})
            assert {name: got[name] for name in wanted} == wanted, request
            assert more == (len(got) > len(wanted)) or kind not in shown
