"""Hosts beside each other: whatever one does, the others meet a module of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tdx_field import TdxHost
from tdx_names import KOT, NDA, OPERAND_BUSY, PAGE, PAGE_METADATA_INCORRECT, RCX, RDX, SUCCESS, WBCACHE

NO_HKID_READY = 0x0000082100000000
TDS = 47


@pytest.fixture
def pair(tdx: Callable[..., Any]) -> tuple[TdxHost, TdxHost]:
    one: TdxHost = tdx(hosts=2)
    return one.boot(), one.sibling(1).boot()


def test_an_address_names_a_page_of_ones_own(pair: tuple[TdxHost, TdxHost]) -> None:
    one, other = pair
    td = one.runnable()
    assert other.kind(td.tdr) == NDA
    assert other.call("MNG.ADDCX", rcx=other.alloc(), rdx=td.tdr).rax == PAGE_METADATA_INCORRECT | RDX
    assert other.call("PHYMEM.PAGE.RECLAIM", rcx=td.pages[0]).rax == PAGE_METADATA_INCORRECT | RCX
    other.write(td.pages[0], b"not theirs")
    assert td.enter({"read": 0, "len": 4}).steps == [{"hex": "00" * 4}]


def test_both_use_the_same_keyid(pair: tuple[TdxHost, TdxHost]) -> None:
    first, second = (host.created(17) for host in pair)
    first.block()
    assert second.host.call("MNG.CREATE", rcx=second.host.alloc(), rdx=17).rax != SUCCESS
    assert first.host.created(17).hkid == 17


def test_each_has_all_keyids_that_it_knows_of(pair: tuple[TdxHost, TdxHost]) -> None:
    for host in pair:
        for hkid in range(17, 17 + TDS):
            host.created(hkid)
    te = pair[0].ok("audit")["hosts"]
    assert [host["te"]["hkid_assigned"] for host in te] == [TDS, TDS]


@pytest.mark.parametrize("leaf", ["MNG.CREATE", "MNG.VPFLUSHDONE", "MNG.KEY.FREEID", "MNG.KEY.CONFIG"])
def test_a_lock_of_the_whole_module_that_a_sibling_holds(pair: tuple[TdxHost, TdxHost], leaf: str) -> None:
    """It is the sibling's module's alone."""
    one, other = pair
    td, spare = one.created(), one.created()
    if leaf == "MNG.KEY.FREEID":
        td.host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
        td.host.good("PHYMEM.CACHE.WB")
    registers = {"rcx": one.alloc(), "rdx": 40} if leaf == "MNG.CREATE" else {"rcx": td.tdr}
    request = one.park(leaf, **registers)
    if leaf != "MNG.KEY.CONFIG":
        assert one.call("MNG.VPFLUSHDONE", 1, rcx=spare.tdr).rax == OPERAND_BUSY | KOT
    theirs = other.runnable()
    theirs.destroy()
    assert one.resume(request).rax == SUCCESS


def test_caches_of_a_sibling_are_its_own(pair: tuple[TdxHost, TdxHost]) -> None:
    one, other = pair
    td = one.created()
    one.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    assert other.call("PHYMEM.CACHE.WB").rax == NO_HKID_READY
    request = one.park("PHYMEM.CACHE.WB")
    assert one.call("PHYMEM.CACHE.WB", 1).rax == OPERAND_BUSY | WBCACHE
    theirs = other.created()
    other.good("MNG.VPFLUSHDONE", rcx=theirs.tdr)
    other.good("PHYMEM.CACHE.WB")
    other.good("MNG.KEY.FREEID", rcx=theirs.tdr)
    assert one.resume(request).rax == SUCCESS
    one.good("MNG.KEY.FREEID", rcx=td.tdr)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["kill", "boot"])
def test_the_end_of_one_is_not_the_end_of_others(pair: tuple[TdxHost, TdxHost], end: str) -> None:
    one, other = pair
    kept = other.runnable(pages=(0, PAGE))
    kept.stay({"touch": PAGE, "write": True, "value": "77"})
    for _ in range(3):
        one.runnable().enter({"touch": 0, "write": True})
        if end == "kill":
            one.ok("kill")
        else:
            one.ok("reset", kind="boot")
        one.next_hkid = 17
        one.boot()
    kept.kick()
    assert kept.enter({"read": PAGE, "len": 1}).steps == [{"hex": "77"}]
    kept.destroy()


def test_what_a_dead_host_leaves_is_not_to_be_seen(pair: tuple[TdxHost, TdxHost]) -> None:
    one, _ = pair
    page, td = one.alloc(), one.runnable(pages=(0,))
    one.write(page, b"secret")
    td.enter({"touch": 0, "write": True, "value": "5e"})
    one.ok("kill")
    for address in (page, td.pages[0], td.tdr):
        assert one.read(address, 64) == bytes(64)
