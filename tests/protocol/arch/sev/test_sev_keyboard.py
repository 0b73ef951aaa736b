"""What a keyboard of the slice holds back."""

from __future__ import annotations

import pytest

from protocol.arch import load
from protocol.arch.sev.keyboard import host


def test_guest_cpus_with_a_program_have_a_limit_and_those_that_are_there_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "PROGRAMS", 2)
    keyboard = load("sev").keyboard()

    def asked(vcpu: int) -> dict[str, object]:
        answer: dict[str, object] = keyboard.answer(
            {"id": 1, "op": "guest", "vcpu": hex(vcpu << 12), "do": [{"touch": "0x0"}]}
        )
        return answer

    assert "ok" in asked(1)
    assert "ok" in asked(2)
    error = asked(3)["error"]
    assert isinstance(error, dict)
    assert (error["code"], error["field"]) == ("limit", "vcpu")
    assert "at most 2" in error["message"]
    assert "ok" in asked(2)
