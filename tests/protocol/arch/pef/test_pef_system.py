"""What a host does is told as somebody would type it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from pef_bench import Bench

from protocol.arch.pef.cpu import gprs
from protocol.arch.pef.guest import GuestStep, Hypercall, Read, Touch, Ultracall
from protocol.arch.pef.host.system import ToldSystem
from protocol.arch.pef.keyboard.steps import KINDS
from protocol.keyboard import Fields

STEPS: tuple[GuestStep, ...] = (
    Touch(0x5000),
    Touch(0x5000, True, b"\xbe\xef"),
    Read(1, 2),
    Ultracall(tuple(gprs(r3=0xF130, r4=5, r31=7))),
    Hypercall(tuple(gprs(r3=0, r11=1 << 63))),
)


@pytest.mark.parametrize("step", STEPS, ids=repr)
def test_a_step_is_told_as_it_is_typed(step: GuestStep) -> None:
    told = ToldSystem(Bench(0).kvm, lambda *_: None)
    assert KINDS.parse(Fields({"do": [told.typed(step)]})) == [step]
