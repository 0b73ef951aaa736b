"""Fixtures of the host's tests: sizes of guests, and every depth."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The helpers of this folder are a plain module beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from host_bench import SIZES, Size


@pytest.fixture(params=SIZES, ids=lambda size: f"V{size.vcpus}-P{size.image}-T{size.touched}")
def size(request: pytest.FixtureRequest) -> Size:
    """A guest of which the formulas of section 6 are held."""
    found: Size = request.param
    return found
