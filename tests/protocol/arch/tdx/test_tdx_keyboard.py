"""The keyboard of a TDX host: what nobody could type often enough to see it."""

from __future__ import annotations

from typing import Any

import pytest

from nestbed.testing import SecureHost
from protocol.arch.tdx.keyboard import host


def test_programs_are_kept_for_a_limited_number_of_vcpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have one already can be given more to do."""
    monkeypatch.setattr(host, "PROGRAMS", 2)
    console = SecureHost.open("tdx", 0).keyboard

    def queue(vcpu: int) -> dict[str, Any]:
        request = {"id": 1, "op": "guest", "vm": "0x0", "vcpu": hex(vcpu), "do": [{"exit": "nmi"}]}
        answer: dict[str, Any] = console.answer(request)
        return answer

    assert [queue(vcpu << 12)["ok"] for vcpu in (1, 2)] == [{"queued": 1}] * 2
    error = queue(3 << 12)["error"]
    assert (error["code"], error["field"]) == ("limit", "vcpu")
    assert queue(1 << 12)["ok"] == {"queued": 2}
