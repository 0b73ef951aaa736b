"""What Linux and QEMU issue, held to the formulas of section 6 of the fact sheet: three sizes, at any depth.

L LPs, P packages, V VCPUs, M measured pages, N pages added while the TD runs, T tables of the Secure EPT,
all of S bytes densely used. TDMR.INIT takes one call a GiB here.
"""

from __future__ import annotations

from collections import Counter
from math import ceil
from typing import NamedTuple

import pytest

from protocol.arch.tdx.compose import compose
from protocol.arch.tdx.host.system import Host
from protocol.arch.tdx.profiles import GIB, MIB, PROFILES
from protocol.effects import run
from protocol.ledger import Ledger
from protocol.plan import operations as op
from protocol.plan.fit import FIRST_PAGES

PAGE = 4096
CPUID_CONFIGS = 12


class Size(NamedTuple):
    profile: str
    lps: int
    packages: int
    memory_mib: int  # of the host
    vcpus: int
    measured: int
    mib: int  # of the guest


SIZES = (
    Size("small", 2, 1, 128, 1, 1, 2),
    Size("small-2p", 4, 2, 256, 3, 100, 6),
    Size("small", 2, 1, 1536, 2, 700, 1026),
)


@pytest.fixture(
    params=[*SIZES[:2], pytest.param(SIZES[2], marks=pytest.mark.slow)], ids=lambda size: f"{size.mib}MiB"
)
def size(request: pytest.FixtureRequest) -> Size:
    found: Size = request.param
    return found


class Counted:
    """A host whose calls are counted, operation by operation, as it made them itself."""

    def __init__(self, size: Size, depth: int) -> None:
        self.ledger, self._depth = Ledger("vmresume"), depth
        rig = compose(PROFILES[size.profile], depth, 1, size.memory_mib * MIB, size.lps, ledger=self.ledger)
        seat = rig.seats[0]
        image = b"".join(bytes([n % 251]) * PAGE for n in range(size.measured))
        self.host = Host(seat.level, seat.cpus, depth=depth, image=image, bulk=True)

    def do(self, *operations: op.Operation) -> Counter[str]:
        """Calls by their name; entries are another matter."""
        before = self._calls()
        for operation in operations:
            run(self.host.perform(operation))
        now = self._calls()
        now.subtract(before)
        return Counter({name: n for name, n in now.items() if n})

    def _calls(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for (family, *labels), n in self.ledger.counts().items():
            if family == "te_calls" and labels[3] == str(self._depth) and labels[0] != "vp_enter":
                found[labels[0]] += n
        return found


def tables(size: Size) -> int:
    """T, for all of the guest's memory."""
    bytes_ = size.mib * MIB
    return ceil(bytes_ / (2 * MIB)) + ceil(bytes_ / GIB) + 1


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_module_comes_up(size: Size, depth: int) -> None:
    found = Counted(size, depth).do(op.BootHost())
    gibs = ceil(size.memory_mib * MIB / GIB)
    reads = 18 + 3 * CPUID_CONFIGS  # of metadata
    assert found == {
        "sys_init": 1,
        "sys_lp_init": size.lps,
        "sys_rd": reads,
        "sys_config": 1,
        "sys_key_config": size.packages,
        "sys_tdmr_init": gibs,
    }
    assert found.total() == 1 + size.lps + reads + 1 + size.packages + gibs


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_tds_life(size: Size, depth: int) -> None:
    counted = Counted(size, depth)
    counted.do(op.BootHost())
    v, p, m = size.vcpus, size.packages, size.measured

    created = counted.do(op.Create(0, memory_mib=size.mib, vcpus=v))
    assert created.total() == (10 + p) + 10 * v + v  # and the root of the shared EPT for each VCPU
    assert (created["mng_key_config"], created["mng_addcx"], created["vp_wr"]) == (p, 6, 4 * v)

    loaded = counted.do(op.Load(0))
    t_init = tables(size._replace(mib=ceil((FIRST_PAGES + m) * PAGE / MIB)))
    assert loaded.total() == m + 16 * m + t_init + 1

    last = size.mib * MIB // PAGE
    n = last - FIRST_PAGES - m
    counted.do(op.Start(0))
    touched = counted.do(op.Touch(0, 0, op.Pages(FIRST_PAGES + m, n, n)))
    assert touched == Counter({"mem_page_aug": n, "mem_sept_add": tables(size) - t_init}) + Counter()

    shared = 7
    opened = counted.do(op.Share(0, 0, op.Pages(last - shared, shared, shared)))
    assert opened == dict.fromkeys(
        ("mem_range_block", "mem_track", "mem_page_remove", "phymem_page_wbinvd"), shared
    )

    destroyed = counted.do(op.Destroy(0))
    assert destroyed.total() == 3 + v + p + (m + n - shared) + tables(size) + 6 * v + 6 + 1
    assert destroyed["phymem_page_reclaim"] == m + n - shared + tables(size) + 6 * v + 7


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize(
    "size", [*SIZES[:2], Size("small", 2, 1, 128, 2, 30, 34)], ids=lambda size: f"{size.mib}MiB"
)
def test_a_killed_vmms_td_goes_the_slow_way(size: Size, depth: int) -> None:
    """Section 6.9: its memory is closed first, four calls for each page; what is left is as ever."""
    counted = Counted(size, depth)
    v, p, m = size.vcpus, size.packages, size.measured
    n = size.mib * MIB // PAGE - FIRST_PAGES - m
    counted.do(op.BootHost())
    free, keys = counted.host.pool.free, len(counted.host.keys)
    counted.do(op.Create(0, memory_mib=size.mib, vcpus=v), op.Load(0), op.Start(0))
    counted.do(op.Touch(0, 0, op.Pages(FIRST_PAGES + m, n, n)))

    killed = counted.do(op.Kill(0))
    for call in ("mem_range_block", "mem_track", "mem_page_remove"):
        assert killed[call] == m + n
    assert killed["phymem_page_wbinvd"] == m + n + 1  # and the TDR
    assert killed["phymem_page_reclaim"] == tables(size) + 6 * v + 7
    assert killed.total() == 4 * (m + n) + 3 + v + p + tables(size) + 6 * v + 6 + 1
    assert (counted.host.pool.free, len(counted.host.keys), counted.host.guests) == (free, keys, {})


@pytest.mark.parametrize("depth", [0, 1])
def test_a_td_that_never_ran_is_killed_the_fast_way(depth: int) -> None:
    counted = Counted(SIZES[0], depth)
    counted.do(op.BootHost(), op.Create(0, memory_mib=2, vcpus=1))
    killed = counted.do(op.Kill(0))
    assert killed["mem_range_block"] == 0
    assert killed.total() == 3 + 1 + 1 + 6 + 6 + 1


def test_a_fatal_td_is_killed_the_fast_way() -> None:
    counted = Counted(SIZES[0], 0)
    counted.do(op.BootHost())
    free = counted.host.pool.free
    counted.do(op.Create(0, memory_mib=2, vcpus=1), op.Load(0))
    (td,) = counted.host.level.tds.values()
    td.fatal = True
    killed = counted.do(op.Kill(0))
    assert (killed["mem_range_block"], killed["mem_track"]) == (1, 0)
    assert counted.host.pool.free == free
