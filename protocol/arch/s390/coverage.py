"""Which test provokes which check: made by `docs/build.py --measure`, do not edit."""

from __future__ import annotations

COVERED: dict[tuple[str, int], tuple[str, ...]] = {}
GENERAL_COVERED: dict[int, tuple[str, ...]] = {}
