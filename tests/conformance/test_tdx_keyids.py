"""KeyIDs are the hard limit: the documented machine has 48 private ones, the first for the module itself."""

from __future__ import annotations

from typing import Any

import pytest
from driver import Keyboard, in_process
from tdx_field import GLOBAL_HKID, Td, TdxHost
from tdx_names import HKID_NOT_FREE, OPERAND_INVALID, RDX, SUCCESS, WBCACHE_NOT_COMPLETE

KEYIDS = range(16, 64)
TDS = 47


@pytest.fixture
def documented(tdx: Any) -> TdxHost:
    """The documentation's example, with less memory: KeyIDs are what is short here."""
    host: TdxHost = tdx(profile="documented", memory_mib=4096).boot()
    return host


def test_the_48th_td_finds_no_keyid(documented: TdxHost) -> None:
    host = documented
    tds = [host.created() for _ in range(TDS)]
    assert sorted([GLOBAL_HKID, *(td.hkid for td in tds)]) == list(KEYIDS)
    page = host.alloc()
    for hkid in KEYIDS:
        assert host.call("MNG.CREATE", rcx=page, rdx=hkid).rax == HKID_NOT_FREE
    for hkid in (15, 64, 1 << 16):
        assert host.call("MNG.CREATE", rcx=page, rdx=hkid).rax == OPERAND_INVALID | RDX
    assert host.ok("audit")["hosts"][0]["te"]["hkid_assigned"] == TDS


def test_a_keyid_comes_back_when_it_has_left_all_caches(documented: TdxHost) -> None:
    """Until then it is taken, though its TD runs no more."""
    host = documented
    tds = [host.created() for _ in range(TDS)]
    gone, page = tds[5], host.alloc()
    host.good("MNG.VPFLUSHDONE", rcx=gone.tdr)
    assert host.call("MNG.CREATE", rcx=page, rdx=gone.hkid).rax == HKID_NOT_FREE
    first, second = host.packages()
    host.good("PHYMEM.CACHE.WB", first)
    assert host.call("MNG.KEY.FREEID", rcx=gone.tdr).rax == WBCACHE_NOT_COMPLETE
    host.good("PHYMEM.CACHE.WB", second)
    assert host.call("MNG.CREATE", rcx=page, rdx=gone.hkid).rax == HKID_NOT_FREE
    host.good("MNG.KEY.FREEID", rcx=gone.tdr)
    host.good("MNG.CREATE", rcx=page, rdx=gone.hkid)
    host.good("PHYMEM.PAGE.RECLAIM", rcx=gone.tdr)


@pytest.fixture(params=[1, 2])
def siblings(request: pytest.FixtureRequest) -> Any:
    """Two hosts on one machine."""
    keyboard = Keyboard(in_process("tdx", request.param, hosts=2), request.param)
    one = TdxHost(keyboard)
    yield one.boot(), one.sibling(1).boot()
    assert keyboard.ok("audit")["leaks"] == []


def ended(td: Td) -> None:
    td.block()
    td.host.good("PHYMEM.PAGE.RECLAIM", rcx=td.tdr)


def test_each_host_has_its_own_quota_whatever_the_other_takes(siblings: tuple[TdxHost, TdxHost]) -> None:
    """Both have a creation under way each time, and one waits for nothing of the other's."""
    tds: dict[TdxHost, list[Td]] = {host: [] for host in siblings}
    for _ in range(TDS):
        made = [Td(host, host.alloc(), host.hkid()) for host in siblings]
        parked = [td.host.park("MNG.CREATE", 1, rcx=td.tdr, rdx=td.hkid) for td in made]
        for td, request in zip(reversed(made), reversed(parked), strict=True):
            assert td.host.resume(request).rax == SUCCESS
            tds[td.host].append(td)
    for host in siblings:
        assert host.call("MNG.CREATE", rcx=host.alloc(), rdx=20).rax == HKID_NOT_FREE
    first, second = siblings
    gone = tds[first][0]
    ended(gone)
    assert second.call("MNG.CREATE", rcx=second.alloc(), rdx=gone.hkid).rax == HKID_NOT_FREE
    first.created(gone.hkid)


def test_a_host_that_ends_gives_all_of_its_keyids_back(siblings: tuple[TdxHost, TdxHost]) -> None:
    first, second = siblings
    console: Any = first.keyboard.console
    below = console._rig.chain[-1]
    full = len(below.hkids)
    for host in siblings:
        for number in range(10):
            td = host.created()
            if number % 2:
                host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    assert len(below.hkids) == full - 20
    assert first.ok("kill") == {}
    assert len(below.hkids) == full - 10
    assert second.ok("reset", kind="boot") == {}
    assert len(below.hkids) == full
    first.next_hkid = GLOBAL_HKID + 1
    first.boot()
    for _ in range(TDS):
        first.created()
