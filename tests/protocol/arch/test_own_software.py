"""L0's own software beside guest hosts, on every architecture: it comes and goes, its kernel stays."""

from __future__ import annotations

from random import Random

import pytest

from protocol.arch import architectures, load
from protocol.crossing import inline
from protocol.ledger import Ledger
from protocol.nesting.sizes import Sizes
from protocol.plan import operations as op

MIB = 1 << 20


@pytest.mark.parametrize("arch", architectures())
def test_what_it_had_of_its_kernel_goes_back_however_often_it_comes_up(arch: str) -> None:
    comparison = load(arch).comparison
    least = load(arch).profiles["small"].host_least_mib()[0]
    rig = comparison.compose(Sizes("small", 1, 1, (least + 64) * MIB, 2, 1), Ledger(), spare=64 * MIB)
    pool, image = rig.chain[0].pool, comparison.image(1, 4, None)
    free = pool.free
    life = op.Create(0, 1, 1), op.Load(0), op.Start(0), op.Destroy(0)
    for _ in range(2):
        software = comparison.software(
            rig, None, Random(1), pages="two_fault", bulk=False, image=image, pool=pool, cpus=rig.own_cpus
        )
        for operation in (op.BootHost(), *life, op.Shutdown()):
            inline(software.perform(operation), rig.below(None))
        assert pool.free == free
    assert rig.leaks() == []
