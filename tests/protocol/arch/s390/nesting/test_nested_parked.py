"""Everything at once: CPUs of two hosts, levels that swap under them, a death, messages in any order.

What was checked before a message left has to hold when its answer comes. At the end of each round nothing is
under way, and the invariants hold.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nested_crossing import Crowd
from nested_invariants import nothing_is_left
from test_nested_random import STRATEGIES

from protocol.arch.s390.nesting import Strategy


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 30), strategy=STRATEGIES, profile=st.sampled_from(("small", "partial")))
def test_no_order_of_messages_breaks_an_invariant(
    depth: int, seed: int, strategy: Strategy, profile: str
) -> None:
    crowd = Crowd(depth, seed, strategy, profile)
    for _ in range(4):
        crowd.round()
    crowd.finish()
    nothing_is_left(crowd.rig)
