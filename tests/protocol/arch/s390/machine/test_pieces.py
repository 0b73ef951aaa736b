"""Calls that are done piece by piece: what is remembered of them has an end."""

from __future__ import annotations

from protocol.arch.s390.cpu import Cpu
from protocol.arch.s390.machine.pieces import REMEMBERED, Pieces


def test_of_too_many_calls_that_are_done_in_part_the_oldest_begins_anew() -> None:
    """Two pieces of work each: what is remembered is done the next time."""
    pieces, cpu = Pieces(1), Cpu(0)
    blocks = [bytes([number]) for number in range(REMEMBERED + 1)]
    for block in blocks:
        assert pieces.left(cpu, block, 2)
    assert not any(pieces.left(cpu, block, 2) for block in blocks[1:])
    assert pieces.left(cpu, blocks[0], 2), "forgotten"
    assert not pieces.left(cpu, blocks[0], 2)
