"""The same input gives the same answers at every depth: random scripts, one console for each depth."""

from __future__ import annotations

from random import Random

import pytest
from driver import Keyboard, in_process
from tdx_field import TdxHost
from tdx_script import Script, Together, pages_of

DEPTHS = (0, 1, 2)
STEPS = 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("profile", ["small", "small-2p", "migration"])
def test_a_random_script_is_answered_alike_at_every_depth(profile: str, seed: int) -> None:
    keyboards = [Keyboard(in_process("tdx", depth, profile=profile), depth) for depth in DEPTHS]
    host = TdxHost(Together(keyboards))  # type: ignore[arg-type]
    script = Script(Random(f"{profile}:{seed}"), host.boot((1, 2)), profile == "migration")
    for _ in range(STEPS):
        script.step()
    script.settle()
    counts = [keyboard.ok("counts") for keyboard in keyboards]
    for each in counts:
        each.pop("machine")
    assert all(each == counts[0] for each in counts)
    audits = [keyboard.ok("audit") for keyboard in keyboards]
    assert all(audit["leaks"] == [] for audit in audits)
    assert all(pages_of(audit) == pages_of(audits[0]) for audit in audits)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_siblings_are_answered_as_if_each_had_a_machine_of_its_own(seed: int) -> None:
    """At depth 0 they have one."""
    keyboards = [Keyboard(in_process("tdx", depth, hosts=2), depth) for depth in DEPTHS]
    one = TdxHost(Together(keyboards))  # type: ignore[arg-type]
    random = Random(f"siblings:{seed}")
    scripts = [Script(random, host.boot((1, 2))) for host in (one, one.sibling(1))]
    for _ in range(STEPS):
        random.choice(scripts).step()
    for script in scripts:
        script.settle()
    audits = [keyboard.ok("audit") for keyboard in keyboards]
    assert all(audit["leaks"] == [] for audit in audits)
    assert all(pages_of(audit) == pages_of(audits[0]) for audit in audits)
