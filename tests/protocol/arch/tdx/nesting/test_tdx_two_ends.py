"""Guest hosts that end at the same time: what each leaves is asked for once, and all of it comes back."""

from __future__ import annotations

from random import Random

import pytest

from protocol.arch import load
from protocol.crossing import Thread, inline
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

MIB = 1 << 20
HOSTS = 2


@pytest.mark.parametrize("seed", range(4))
def test_hosts_that_end_at_the_same_time_leave_nothing(seed: int) -> None:
    tdx = load("tdx").comparison
    assert tdx is not None
    rig = tdx.compose(Sizes("small", 1, HOSTS, 192 * MIB, 2, 1), Ledger())
    for seat in range(HOSTS):
        software = tdx.software(
            rig, seat, Random(seat), pages="two_fault", bulk=False, image=tdx.image(1, 2, None)
        )
        for operation in (op.BootHost(), op.Create(0, 1, 1), op.Load(0), op.Start(0)):
            inline(software.perform(operation), rig.below(seat))
    threads = [Thread(f"kill {seat}", rig.kill(seat), rig.below(seat)[1:]) for seat in range(HOSTS)]
    random = Random(seed)
    while going := [thread for thread in threads if not thread.done]:
        random.choice(going).hop()
    assert [thread.error for thread in threads] == [None] * HOSTS
    assert rig.haunting == []
    assert rig.leaks() == []
