"""How much of the beginning is no steady state: MSER-5 (White), a rule without a knob.

Means of five observations; cut where the rest has the least standard error of its mean. If that would cut
more than half, the series has not become steady, and the rule says so instead of cutting.
"""

from __future__ import annotations

from collections.abc import Sequence

BATCH = 5
LEAST_BATCHES = 4


def cut(values: Sequence[float]) -> tuple[int, bool]:
    """How many observations to leave out, and whether what remains is steady."""
    batches = [sum(values[at : at + BATCH]) / BATCH for at in range(0, len(values) - BATCH + 1, BATCH)]
    if len(batches) < LEAST_BATCHES:
        return 0, False
    best, least = 0, float("inf")
    total, squares, count = 0.0, 0.0, 0
    for at in range(len(batches) - 1, -1, -1):  # from the end, so that each step adds one batch
        total, squares, count = total + batches[at], squares + batches[at] ** 2, count + 1
        if count < 2:
            continue
        spread = max(0.0, squares / count - (total / count) ** 2) / count
        if spread <= least and count >= LEAST_BATCHES:
            best, least = at, spread
    if best > len(batches) // 2:
        return 0, False
    return best * BATCH, True
