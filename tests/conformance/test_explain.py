"""`--explain` on every architecture: which level refused a call, by which check; all else stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from driver import Json, Keyboard, in_process
from pef_field import FUNCTION, SUCCESS, PefHost, code
from sev_field import Sev
from tdx_field import TdxHost, td_params
from tdx_names import MIB2, PAGE

from protocol.arch import load

DEPTHS = (0, 1, 2)
pytestmark = pytest.mark.parametrize("depth", DEPTHS, ids=[f"depth{depth}" for depth in DEPTHS])
MACHINE = "L0 machine"


class Explained:
    """A console that explains itself; it keeps what it explained."""

    def __init__(self, arch: str, depth: int, **options: Any) -> None:
        self.console = load(arch).explaining(in_process(arch, depth, **options))  # type: ignore[attr-defined]
        self.said: list[Json] = []

    def answer(self, request: Json) -> Json:
        answer: Json = self.console.answer(request)
        if "explain" in answer:
            self.said.append(answer.pop("explain"))
        return answer

    @property
    def last(self) -> tuple[str, str, str]:
        said = self.said[-1]
        assert set(said) == {"level", "check", "call", "basis", "code", "name"}
        return said["level"], said["name"], said["check"]


def here(depth: int) -> str:
    return f"emulation at L{depth}" if depth else MACHINE


# -- TDX -----------------------------------------------------------------------------------------------------


def tdx(depth: int, **options: Any) -> tuple[TdxHost, Explained]:
    console = Explained("tdx", depth, **options)
    return TdxHost(Keyboard(console, depth)), console


def test_tdx_the_dispatcher_is_that_of_the_level_that_the_host_meets(depth: int) -> None:
    host, console = tdx(depth)
    host.call("MNG.CREATE", rcx=1 << 30, rdx=17)
    text = "the module is not ready, and the leaf is none of those that bring it up"
    assert console.last == (here(depth), "SYS_NOT_READY", text)


def test_tdx_an_emulation_finds_out_by_itself_what_the_module_below_cannot_know(depth: int) -> None:
    host, console = tdx(depth)
    td = host.boot().created()
    host.call("MNG.CREATE", rcx=host.alloc(), rdx=host.next_hkid - 1)
    assert console.last == (here(depth), "HKID_NOT_FREE", "the KeyID is somebody's")
    host.call("MNG.ADDCX", rcx=td.tdr | 8, rdx=td.tdr)
    assert console.last == (MACHINE, "TD_KEYS_NOT_CONFIGURED", "the key is not on all packages")
    host.good("MNG.KEY.CONFIG", rcx=td.tdr)
    host.call("MNG.ADDCX", rcx=td.tdr | 8, rdx=td.tdr)
    assert console.last[:2] == (here(depth), "OPERAND_INVALID|RCX")


def test_tdx_what_a_td_is_in_the_module_below_says(depth: int) -> None:
    host, console = tdx(depth)
    td = host.boot().keyed()
    host.call("MNG.KEY.CONFIG", rcx=td.tdr)
    assert console.last == (MACHINE, "LIFECYCLE_STATE_INCORRECT", "the key is configured")
    host.call("MR.FINALIZE", rcx=td.tdr)
    assert console.last[:2] == (MACHINE, "OP_STATE_INCORRECT")


def test_tdx_an_exit_is_no_refusal_and_an_entry_that_is_refused_is_explained(depth: int) -> None:
    host, console = tdx(depth)
    td = host.boot().runnable()
    before = len(console.said)
    assert td.enter().reason == 1
    assert len(console.said) == before
    host.call("VP.ENTER", rcx=1)
    assert console.last == (here(depth), "OPERAND_INVALID|RCX", "a reserved bit")


def test_tdx_a_call_that_was_parked_is_explained_when_it_goes_on(depth: int) -> None:
    host, console = tdx(depth)
    td = host.boot().keyed()
    parked = host.park("MNG.ADDCX", rcx=host.alloc(), rdx=td.tdr)
    host.call("MR.FINALIZE", cpu=1, rcx=td.tdr)
    assert console.last[:2] == (here(depth), "OPERAND_BUSY|RCX")
    before = len(console.said)
    host.resume(parked)
    assert len(console.said) == before, "it did what it was to do"


def test_tdx_checks_of_one_status_are_told_apart_by_what_was_asked(depth: int) -> None:
    host, console = tdx(depth)
    td = host.boot().runnable()
    page, keyed, form = host.alloc(), 20 << 46, "not aligned, KeyID bits, or too high"

    def said(leaf: str, **registers: int) -> str:
        host.call(leaf, **registers)
        return console.last[2]

    vcpu = td.vcpus[0]
    assert said("VP.ENTER", rcx=vcpu | keyed) == f"TDVPR: {form}"
    assert said("VP.ENTER", rcx=vcpu | 1 << 52) == "a hint, or RESUME_L1, that does not fit the last exit"
    assert said("MEM.SEPT.ADD", rcx=1 << 30 | 1, rdx=td.tdr | 2, r8=page) == "reserved bits"
    assert said("MEM.SEPT.ADD", rcx=1 << 30 | 1, rdx=td.tdr | keyed, r8=page) == f"TDR: {form}"
    assert said("MEM.PAGE.RELOCATE", rcx=0, rdx=td.tdr, r8=td.pages[0]) == "the present page"
    host.good("MEM.RANGE.BLOCK", rcx=0, rdx=td.tdr)
    host.good("MEM.TRACK", rcx=td.tdr)
    assert said("MEM.PAGE.RELOCATE", rcx=0, rdx=td.tdr, r8=page | 8) == f"page: {form}"
    large = td.aug(MIB2, level=1)
    assert said("PHYMEM.PAGE.RECLAIM", rcx=large + PAGE) == "inside a large page"
    assert said("PHYMEM.PAGE.RECLAIM", rcx=large | 8) == form
    for pages, text in ((5, "fewer than six TDCS pages"), (6, "not enough pages for the L2 VMs")):
        new = host.keyed(pages)
        buffer = host.buffer(td_params(l2_vms=1))
        assert said("MNG.INIT", rcx=new.tdr, rdx=buffer) == text


def test_tdx_a_status_with_details_is_explained_by_what_it_is_without_them(depth: int) -> None:
    host, console = tdx(depth)
    host.lps()
    tdmr = bytearray(host.tdmr(1 << 30))
    tdmr[24:32] = bytes(8)  # no PAMT for pages of 1 GiB
    assert host.configure(bytes(tdmr)).rax & 0xFFFF == 2 << 8
    assert console.last[1].startswith("INVALID_PAMT")
    assert console.last[2]


def test_tdx_an_exception_is_no_refusal(depth: int) -> None:
    host, console = tdx(depth)
    td = host.boot().runnable()
    other = host.initialized()
    other.tables_for(0)
    host.write(td.pages[0], b"x")
    before = len(console.said)
    where = {"rcx": 0, "rdx": other.tdr, "r8": host.alloc(), "r9": td.pages[0]}
    assert host.fault("call", rax=2, **where)["name"] == "#MC"
    assert len(console.said) == before


# -- AMD -----------------------------------------------------------------------------------------------------


def sev(depth: int) -> tuple[Sev, Explained]:
    console = Explained("sev", depth)
    return Sev(Keyboard(console, depth), 0), console


def test_sev_mailbox_and_platform_are_those_of_the_level_that_the_host_meets(depth: int) -> None:
    host, console = sev(depth)
    host.cmd("SNP_DECOMMISSION", gctx=0x100000)
    assert console.last == (here(depth), "INVALID_PLATFORM_STATE", "SNP is not initialised")
    host.ask("call", cmdresp=hex(0x7FF << 16), lo="0x0", hi="0x0")
    assert console.last == (here(depth), "INVALID_COMMAND", "there is no such command")


def test_sev_what_is_in_a_guests_page_the_firmware_below_finds(depth: int) -> None:
    host, console = sev(depth)
    host.snp_up()
    gctx, page = host.snp_guest(), host.alloc()
    host.write(page, (65).to_bytes(4, "little"))  # more entries than a CPUID page has
    host.give(page, 4096, 1, immutable=1)
    host.cmd("SNP_LAUNCH_UPDATE", gctx=gctx, flags=6 << 1, pa=page)
    assert console.last == (MACHINE, "INVALID_PARAM", "CPUID table")  # of four checks with this status


# -- POWER ---------------------------------------------------------------------------------------------------


def pef(depth: int, **options: Any) -> tuple[PefHost, Explained]:
    console = Explained("pef", depth, **{"profile": "small", "memory_mib": 128} | options)
    return PefHost(Keyboard(console, depth)), console


def test_pef_an_lpid_is_looked_up_where_the_host_is_known(depth: int) -> None:
    host, console = pef(depth)
    host.ucall("SVM_TERMINATE", 9)
    assert console.last == (here(depth), "U_PARAMETER", "nothing runs under this LPID")


def test_pef_what_a_page_is_the_ultravisor_below_says(depth: int) -> None:
    host, console = pef(depth)
    vm = host.svm()
    vm.inval(0)
    assert console.last[:2] == (MACHINE, "U_P2")


def test_pef_the_dispatcher_refuses_what_it_does_not_know(depth: int) -> None:
    host, console = pef(depth)
    assert code(host.ok("call", r3="0xf7fc")["r3"]) == FUNCTION
    assert console.last[:2] == (here(depth), "U_FUNCTION") and console.said[-1]["call"] == "0xf7fc"
    assert host.ucall("SHARE_PAGE", 0, 1) != SUCCESS
    assert console.said[-1]["call"] == "UV_SHARE_PAGE"


def test_pef_as_it_is_the_ultravisor_answers_and_no_hypervisor_sees_the_call(depth: int) -> None:
    host, console = pef(depth, profile="as-is")
    host.ucall("SVM_TERMINATE", 9)
    permission = (MACHINE, "U_PERMISSION", "caller is not HV, or PR")
    assert console.last == (permission if depth else (MACHINE, "U_PARAMETER", "nothing runs under this LPID"))


def test_pef_bytes_of_a_file_are_no_refusal(depth: int) -> None:
    host, console = pef(depth)
    vm = host.svm()
    said = list(console.said)
    host.ok("cpu", hv=False, lpidr=vm.lpid)
    name = [int.from_bytes(b"secret".ljust(64, b"\0")[at : at + 8], "big") for at in range(0, 64, 8)]
    assert host.ucall("ESMB_GET_FILE", 0, *name) == 64
    assert console.said == said
    host.ok("cpu", hv=False, lpidr=vm.lpid)
    host.ucall("ESMB_GET_FILE", 0, *name)  # it is read forward only
    assert console.last[1] == "U_PARAMETER"


# -- all -----------------------------------------------------------------------------------------------------


def _tdx_life(host: TdxHost) -> None:
    td = host.boot().runnable()
    host.call("VP.ENTER", rcx=1)
    td.destroy()


def _pef_life(host: PefHost) -> None:
    vm = host.svm()
    vm.inval(0)
    vm.sys("close")


@pytest.mark.parametrize(("make", "live"), [(tdx, _tdx_life), (pef, _pef_life)], ids=["tdx", "pef"])
def test_a_console_that_explains_answers_the_same_otherwise(
    make: Callable[[int], tuple[Any, Explained]], live: Callable[[Any], None], depth: int
) -> None:
    host, console = make(depth)
    live(host)
    assert console.said
    arch = {"tdx": {}, "pef": {"profile": "small", "memory_mib": 128}}
    name = make.__name__
    plain = in_process(name, depth, **arch[name])
    for request, answer in host.keyboard.transcript:
        assert plain.answer(request) == answer
