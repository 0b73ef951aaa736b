"""A restart, or sudden death, whatever the host's TDs are just doing: everything comes back (section 7.7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from driver import Keyboard, in_process
from tdx_field import DEBUG, GLOBAL_HKID, Td, TdxHost, td_params
from tdx_names import MIB2, NDA, PAGE, SUCCESS

from protocol.arch.tdx.locks import Held

BUILDERS: dict[str, Callable[[TdxHost], Td]] = {}


def builder(build: Callable[[TdxHost], Td]) -> Callable[[TdxHost], Td]:
    BUILDERS[build.__name__] = build
    return build


@builder
def created(host: TdxHost) -> Td:
    return host.created()


@builder
def keyed(host: TdxHost) -> Td:
    return host.keyed(pages=3)


@builder
def initialized(host: TdxHost) -> Td:
    td = host.initialized(td_params(attributes=DEBUG))
    td.created_vcpu(pages=2)
    td.tables_for(0)
    return td


@builder
def run(host: TdxHost) -> Td:
    td = host.runnable(vcpus=2, pages=(0, PAGE))
    td.enter({"touch": 0, "write": True})
    td.enter(vcpu=1)
    return td


@builder
def on_two_lps(host: TdxHost) -> Td:
    td = host.runnable(vcpus=1)
    td.vcpus.append(td.vcpus[0])
    host.good("VP.FLUSH", rcx=td.vcpus[0])
    assert td.enter(cpu=1).reason == 1
    return td


@builder
def large(host: TdxHost) -> Td:
    td = host.runnable()
    td.aug(MIB2, level=1)
    return td


@builder
def pending_and_blocked(host: TdxHost) -> Td:
    td = host.runnable(pages=(0, PAGE))
    td.aug(2 * PAGE)
    host.good("MEM.RANGE.BLOCK", rcx=PAGE, rdx=td.tdr)
    return td


@builder
def fatal(host: TdxHost) -> Td:
    td = host.runnable()
    host.write(td.pages[0], b"poison")
    out = td.enter({"read": 0, "len": 1})
    assert out.rax == 0x6000000500000000
    return td


@builder
def flushed(host: TdxHost) -> Td:
    td = host.runnable()
    host.good("VP.FLUSH", rcx=td.vcpus[0])
    host.good("MNG.VPFLUSHDONE", rcx=td.tdr)
    return td


@builder
def written_back(host: TdxHost) -> Td:
    td = flushed(host)
    host.good("PHYMEM.CACHE.WB")
    return td


@builder
def torn_down(host: TdxHost) -> Td:
    td = host.runnable()
    td.block()
    host.good("PHYMEM.PAGE.RECLAIM", rcx=td.pages[0])
    return td


@builder
def staying(host: TdxHost) -> Td:
    td = host.runnable()
    td.stay()
    host.park("MEM.TRACK", 1, rcx=td.tdr)
    return td


@builder
def shared(host: TdxHost) -> Td:
    td = host.runnable()
    root = host.plain()
    host.good("VP.WR", rcx=td.vcpus[0], rdx=0x002400030000203C, r8=root, r9=(1 << 64) - 1)
    assert td.enter({"touch": 1 << 47, "write": False}).steps[0]["fault"]["name"] == "#VE"
    return td


@pytest.mark.parametrize("end", ["kill", "boot"])
@pytest.mark.parametrize("built", BUILDERS)
def test_everything_comes_back(tdx_host: TdxHost, built: str, end: str) -> None:
    host = tdx_host
    td = BUILDERS[built](host)
    assert host.ok("audit")["leaks"] == []
    if end == "kill":
        host.ok("kill")
    else:
        host.ok("reset", kind="boot")
    audit = host.ok("audit")
    assert audit["leaks"] == []
    assert set(audit["hosts"][0]["te"].values()) == {0}
    assert set(audit["hosts"][0]["tracked"].values()) <= {0}
    for page in (td.tdr, *td.tdcs, *td.vcpus, *td.pages.values(), *td.tables.values()):
        host.write(page, b"plain")
        assert host.read(page, 5) == b"plain"
    host.boot()
    for page in td.pages.values():
        assert host.kind(page) == NDA
    again = host.created(td.hkid)
    assert host.call("MNG.KEY.CONFIG", rcx=again.tdr).rax == SUCCESS
    host.runnable().destroy()


def test_many_tds_in_all_states_at_once(tdx_host: TdxHost) -> None:
    for build in BUILDERS.values():
        if build is not staying:
            build(tdx_host)
    tdx_host.ok("reset", kind="boot")
    assert set(tdx_host.ok("audit")["hosts"][0]["te"].values()) == {0}
    tdx_host.next_hkid = 17
    tdx_host.boot().runnable().destroy()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_page_that_the_module_below_keeps_is_missed_and_asked_for_again(depth: int) -> None:
    """Nothing that a host can do leads here: somebody below holds the page's lock, as if for good."""
    keyboard = Keyboard(in_process("tdx", depth), depth)
    host = TdxHost(keyboard).boot()
    host.runnable()
    console: Any = keyboard.console
    machine = console._rig.machines[0]
    (stuck,) = (frame for frame, kind in enumerate(machine.platform.kind.tolist()) if kind == 3)
    held = Held(machine.platform.locks)
    assert held.own(stuck << 2)
    error = host.error("kill", "limit")
    assert "the module below keeps 2 pages" in error["message"]  # the page, and so the TDR
    assert {leak["kind"] for leak in console._rig.leaks()} == {"quarantine"}
    host.error("call", "dead", rax=33)
    host.error("reset", "limit", kind="boot")
    held.release_all()
    assert host.ok("kill") == {}
    assert host.ok("audit")["leaks"] == []
    assert not any(machine.platform.pages().values())
    host.next_hkid = GLOBAL_HKID + 1
    host.boot().runnable()


@pytest.mark.parametrize("depth", [1, 2])
def test_a_host_that_restarts_beside_a_page_that_is_kept_gets_it_back_later(depth: int) -> None:
    keyboard = Keyboard(in_process("tdx", depth), depth)
    host = TdxHost(keyboard).boot()
    host.runnable()
    console: Any = keyboard.console
    machine = console._rig.machines[0]
    (stuck,) = (frame for frame, kind in enumerate(machine.platform.kind.tolist()) if kind == 3)
    held = Held(machine.platform.locks)
    assert held.own(stuck << 2)
    assert host.ok("reset", kind="boot") == {}
    assert {leak["kind"] for leak in host.ok("audit")["leaks"]} == {"quarantine"}
    held.release_all()
    assert host.ok("reset", kind="boot") == {}
    assert host.ok("audit")["leaks"] == []
    assert not any(machine.platform.pages().values())
    host.next_hkid = GLOBAL_HKID + 1
    host.boot().runnable()
