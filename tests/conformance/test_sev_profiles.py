"""Profiles beyond the contract's: what a public cloud offers, and a trap that no hardware has."""

from __future__ import annotations

import pytest
from driver import number
from sev_field import HSAVE, PAGE, SLOW_AT_DEPTH_2, Sevs, SnpVm

TRAP = 0xC001F001


@SLOW_AT_DEPTH_2
def test_a_cloud_gives_snp_alone_and_hides_where_a_store_faulted(sev: Sevs, sev_depth: int) -> None:
    """7.1: legacy guests are not nested; an RMP fault of a guest host comes without its linear address."""
    host = sev(profile="azure")
    assert (host.te["asids"], host.te["min_sev_asid"]) == (64, 65)
    host.snp_up()
    tmr = host.alloc(2 << 20, 2 << 20)
    host.firmware(*range(tmr, tmr + (2 << 20), PAGE))
    assert host.cmd("INIT", flags=1, tmr=tmr, tmr_len=2 << 20) == (0x15 if sev_depth else 0)
    if sev_depth:
        assert host.cmd("PDH_GEN") == 0x01
    vm = SnpVm(host, asid=64)
    fault = host.fault("write", addr=vm.pages[0] + 8, hex="00")
    assert number(fault["address"]) == (0 if sev_depth else vm.pages[0] + 8)
    assert number(fault["error"]) & 1 << 31
    assert "realism" not in host.ok("info")


@SLOW_AT_DEPTH_2
def test_a_trapped_instruction_says_of_itself_that_no_hardware_has_it(sev: Sevs, sev_depth: int) -> None:
    host = sev(profile="hypothetical-trap")
    assert host.te["nested_msr"] is False
    assert host.ok("info").get("realism") == ("hypothetical" if sev_depth else None)
    host.snp_up()
    page = host.alloc()
    host.firmware(page)
    assert host.fault("insn", name="wrmsr", cpu=0, ecx=TRAP, rax=page)["name"] == "#GP"
    vm = SnpVm(host)
    assert vm.vcpu.enter()["exitcode"] == "0x60"
    assert host.rdmsr(HSAVE)


@pytest.mark.parametrize("profile", ["azure", "hypothetical-trap"])
def test_a_comparison_says_how_real_its_profile_is(profile: str) -> None:
    from protocol.arch import load

    realism = load("snp").profiles[profile].realism  # type: ignore[attr-defined]
    assert realism == ("hypothetical" if profile == "hypothetical-trap" else "")
