"""Memory of a TD, touched by its host: pattern, poison, machine checks, and what makes a page plain again."""

from __future__ import annotations

import pytest
from tdx_field import Td, TdxHost, td_params
from tdx_names import GIB, LEAVES, NON_ACCESSIBLE, PAGE, SUCCESS, TD_FATAL


@pytest.fixture
def td(tdx_host: TdxHost) -> Td:
    return tdx_host.runnable(pages=(0, PAGE))


def private_pages(td: Td) -> dict[str, int]:
    return {
        "reg": td.pages[0], "tdr": td.tdr, "tdcx": td.tdcs[0], "tdvpr": td.vcpus[0], "ept": td.tables[1, 0],
        "vcpu_page": td.vcpu_pages[0],
    }  # fmt: skip


def test_a_host_reads_a_pattern_and_never_a_secret(td: Td) -> None:
    td.enter({"touch": 0, "write": True, "value": "5ec2e7" * 100})
    pattern = td.host.read(td.pages[PAGE], 64)
    for name, page in private_pages(td).items():
        for at in (0, 64, 4032):
            assert (name, td.host.read(page + at, 64)) == (name, pattern)
    assert td.enter({"read": 0, "len": 3}).steps == [{"hex": "5ec2e7"}]


def test_a_page_that_was_augmented_is_the_tds(td: Td) -> None:
    page = td.host.alloc()
    td.host.write(page, b"mine")
    td.host.good("MEM.PAGE.AUG", rcx=5 * PAGE, rdx=td.tdr, r8=page)
    assert td.host.read(page, 4) != b"mine"


def test_a_store_succeeds_and_its_owner_pays(td: Td) -> None:
    td.host.write(td.pages[0] + 128, b"x")
    out = td.enter({"read": 0, "len": 64}, {"read": 128, "len": 1})
    assert out.rax == NON_ACCESSIBLE
    assert out.steps == [{"hex": "00" * 64}]
    assert td.enter().rax == TD_FATAL
    assert td.host.call("MNG.RD", rcx=td.tdr, rdx=0x9010000200000004).rax == TD_FATAL


@pytest.mark.parametrize("which", ["tdr", "tdcx", "tdvpr", "vcpu_page"])
def test_a_spoiled_control_structure_kills_at_the_next_entry(td: Td, which: str) -> None:
    td.host.write(private_pages(td)[which] + 64, b"x")
    out = td.enter({"touch": 0})
    assert (out.rax, out.steps) == (NON_ACCESSIBLE, [])
    td.destroy()


def test_a_spoiled_table_kills_with_the_next_walk(td: Td) -> None:
    td.host.write(td.tables[1, 0], b"x")
    assert td.enter({"touch": 0}).rax == NON_ACCESSIBLE


def test_a_direct_store_into_a_tds_page_is_no_better(td: Td) -> None:
    td.host.ok("insn", name="movdir64b", address=td.pages[0], hex="aa" * 64)
    assert td.host.read(td.pages[0], 1) == b"\xaa"
    assert td.enter({"touch": 64}).steps == [{}]
    assert td.enter({"touch": 0}).rax == NON_ACCESSIBLE


def test_the_host_takes_the_machine_check_itself_if_it_comes_first(td: Td) -> None:
    td.host.write(td.pages[0] + 65, b"x")
    fault = td.host.fault("read", addr=td.pages[0], len=128)
    assert (fault["code"], fault["name"], fault["write"]) == ("0x12", "#MC", False)
    assert int(fault["address"], 16) & ~63 == td.pages[0] + 64
    td.host.read(td.pages[0], 64)


def test_a_call_that_reads_what_was_spoiled_is_a_machine_check_of_the_lp_that_made_it(td: Td) -> None:
    """Parameters of a TD that lie in another one's page; the address is that of its host."""
    host, page = td.host, td.pages[0]
    other = host.keyed()
    host.write(page + 64, b"x")
    fault = host.fault("call", rax=LEAVES["MNG.INIT"], rcx=other.tdr, rdx=page)
    assert (fault["code"], fault["name"], fault["write"]) == ("0x12", "#MC", False)
    assert int(fault["address"], 16) & ~63 == page + 64
    host.good("MNG.INIT", rcx=other.tdr, rdx=host.buffer(td_params()))


def test_accepting_writes_all_lines_anew(td: Td) -> None:
    page = td.aug(5 * PAGE)
    td.host.write(page, b"x")
    out = td.enter({"call": {"rax": 6, "rcx": 5 * PAGE}}, {"read": 5 * PAGE, "len": 2})
    assert out.steps[1] == {"hex": "0000"}


def test_a_returned_page_is_made_plain_with_direct_stores(td: Td) -> None:
    host, page = td.host, td.pages[0]
    td.drop(0)
    host.good("PHYMEM.PAGE.WBINVD", rcx=page | td.hkid << 46)
    host.write(page, b"too early")
    assert host.fault("read", addr=page, len=1)["name"] == "#MC"
    host.clean(page)
    assert host.read(page, PAGE) == bytes(PAGE)
    host.write(page, b"in time")
    assert host.read(page, 7) == b"in time"


def test_one_line_at_a_time(td: Td) -> None:
    host, page = td.host, td.pages[0]
    td.drop(0)
    host.ok("insn", name="movdir64b", address=page + 64, hex="11" * 64)
    host.write(page + 64, b"ok")
    assert host.read(page + 64, 3) == b"ok\x11"
    host.write(page + 128, b"no")
    assert host.fault("read", addr=page + 128, len=1)["name"] == "#MC"


def test_the_pamt_is_the_modules(tdx_raw: TdxHost) -> None:
    host = tdx_raw
    host.lps()
    tdmr = host.tdmr(GIB)
    pamt = int.from_bytes(tdmr[48:56], "little")
    host.write(pamt, b"mine")
    assert host.configure(tdmr).rax == SUCCESS
    host.good("SYS.KEY.CONFIG")
    assert host.read(pamt, 4) == b"mine"
    host.good("SYS.TDMR.INIT", rcx=GIB)
    assert host.read(pamt, 4) != b"mine"


def test_a_source_that_was_spoiled_is_a_machine_check_of_the_call(td: Td) -> None:
    host = td.host
    other = host.initialized()
    other.tables_for(0)
    host.write(td.pages[0], b"x")
    page = host.alloc()
    fault = host.fault("call", rax=2, rcx=0, rdx=other.tdr, r8=page, r9=td.pages[0])
    assert fault["name"] == "#MC"
    host.good("MEM.PAGE.ADD", rcx=0, rdx=other.tdr, r8=page, r9=host.plain())


def test_a_store_into_the_pamt_spoils_its_line_until_a_direct_one(tdx_raw: TdxHost) -> None:
    host = tdx_raw
    host.lps()
    tdmr = host.tdmr(GIB)
    pamt = int.from_bytes(tdmr[48:56], "little")
    assert host.configure(tdmr).rax == SUCCESS
    host.good("SYS.KEY.CONFIG")
    host.good("SYS.TDMR.INIT", rcx=GIB)
    pattern = host.read(pamt, 64)
    host.write(pamt + 60, b"0123456789")  # the end of one line, the beginning of the next
    for line in (pamt, pamt + 64):
        fault = host.fault("read", addr=line, len=64)
        assert (fault["name"], int(fault["address"], 16)) == ("#MC", line)
    assert host.read(pamt + 128, 64) == pattern
    host.ok("insn", name="movdir64b", address=pamt + 64, hex="77" * 64)
    host.write(pamt + 70, b"mine")
    assert host.read(pamt + 68, 8) == b"ww" + b"mine" + b"ww"
    assert host.fault("read", addr=pamt, len=1)["name"] == "#MC"


def test_memory_of_the_module_takes_no_store(tdx_host: TdxHost) -> None:
    """In SEAMRR there are all ones, whatever is stored."""
    seamrr = tdx_host.info["te"]["seamrr"]
    first, size = int(seamrr["base"], 16), int(seamrr["size"], 16)
    for address in (first, first + size - 64):
        tdx_host.write(address, b"lost")
        tdx_host.ok("insn", name="movdir64b", address=address, hex="00" * 64)
        assert tdx_host.read(address, 64) == b"\xff" * 64
    tdx_host.write(first - 2, b"kept")
    assert tdx_host.read(first - 2, 4) == b"ke\xff\xff"
