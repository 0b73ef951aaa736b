"""The keyboard of a TDX host itself: the contract's examples, memory, LPs, instructions, complaints."""

from __future__ import annotations

from typing import Any

import pytest
from tdx_field import TdxHost
from tdx_names import GIB, MIB, MIB2, NDA, PAGE, REG, SYS_NOT_READY

REGISTERS = ("rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13")
PRIVATE, SHARED_ID = 16, 15
KEY_SHIFT = 46


def test_the_first_example_of_the_contract(tdx_raw: TdxHost) -> None:
    assert tdx_raw.ok("call", rax="0x21") == {"cf": 0} | dict.fromkeys(REGISTERS, "0x0")


def test_a_new_td_as_in_the_contract(tdx_host: TdxHost) -> None:
    host = tdx_host
    assert host.alloc() == 0x40000000
    assert host.alloc() == 0x40001000
    answer = host.ok("call", rax="0x9", rcx="0x40001000", rdx="0x11")
    assert (answer["cf"], answer["rax"], answer["rcx"], answer["rdx"]) == (0, "0x0", "0x40001000", "0x11")
    assert host.ok("call", rax="0x8", rcx="0x40001000")["rax"] == "0x0"
    answer = host.ok("call", rax="0x18", rcx="0x40001000")
    assert [answer[name] for name in ("rax", "rcx", "rdx", "r8")] == ["0x0", "0x4", "0x0", "0x0"]


def test_a_guest_as_in_the_contract(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable()
    do = [{"call": {"rax": "0x1"}}, {"call": {"rax": "0x0", "rcx": "0xc00", "r11": "0xc"}}]
    assert tdx_host.ok("guest", vm=td.tdr, vcpu=td.vcpus[0], do=do) == {"queued": 2}
    answer = tdx_host.ok("enter", vcpu=td.vcpus[0])
    assert (answer["cf"], answer["rax"], answer["rcx"]) == (0, "0x4d", "0xc00")
    assert (answer["r10"], answer["r11"]) == ("0x0", "0xc")
    assert [(step["rax"], step["rcx"]) for step in answer["steps"]] == [("0x0", "0x30")]


def test_info_tells_the_machine(tdx_raw: TdxHost) -> None:
    info = tdx_raw.info
    assert (info["arch"], info["depth"], info["hosts"], info["profile"]) == ("tdx", tdx_raw.depth, 1, "small")
    assert (info["memory"], info["cpus"], info["page_size"]) == (4 * GIB, 2, PAGE)
    te = info["te"]
    assert (te["module"], te["handoff_version"], te["packages"]) == ("1.5.01", 0, 1)
    assert (te["mktme_keyids"], te["tdx_keyids"], te["hkid_shift"], te["hkid_bits"]) == (15, 48, 46, 6)
    assert te["cpus"] == [{"cpu": 0, "package": 0}, {"cpu": 1, "package": 0}]
    cmrs = [(int(cmr["base"], 16), int(cmr["size"], 16)) for cmr in te["cmrs"]]
    assert cmrs == sorted(cmrs)
    base, size = int(te["seamrr"]["base"], 16), int(te["seamrr"]["size"], 16)
    assert base + size <= GIB
    assert all(at + length <= base or base + size <= at for at, length in cmrs)
    whole = sum(length for _, length in cmrs)
    assert whole == 4 * GIB - MIB - size


@pytest.mark.parametrize(
    ("profile", "packages", "cpus"), [("small-2p", [0, 1], 2), ("migration", [0, 0], 2), ("linux", [0, 0], 2)]
)
def test_profiles_of_the_small_kind(tdx: Any, profile: str, packages: list[int], cpus: int) -> None:
    info = tdx(profile=profile).info
    assert [cpu["package"] for cpu in info["te"]["cpus"]] == packages
    assert (info["cpus"], info["memory"], info["profile"]) == (cpus, 4 * GIB, profile)


def test_options_override_the_profile(tdx: Any) -> None:
    info = tdx(memory_mib=2048, cpus=3, hosts=2).info
    assert (info["memory"], info["cpus"], info["hosts"]) == (2 * GIB, 3, 2)


# -- memory ----------------------------------------------------------------------


def test_alloc_gives_memory_that_nobody_uses(tdx_host: TdxHost) -> None:
    host = tdx_host
    td = host.runnable(pages=(0, PAGE))
    donated = {td.tdr, *td.tdcs, *td.vcpus, *td.vcpu_pages, *td.tables.values(), *td.pages.values()}
    for page in list(donated)[:4]:
        host.ok("free", addr=page)
    more = [host.alloc() for _ in range(8)]
    assert not donated & set(more)
    assert all(host.read(page, 64) == bytes(64) for page in more)


def test_alloc_never_reaches_into_seamrr_or_the_first_mib(tdx_raw: TdxHost) -> None:
    seamrr = tdx_raw.info["te"]["seamrr"]
    base, size = int(seamrr["base"], 16), int(seamrr["size"], 16)
    tdx_raw.error("alloc", "limit", len=PAGE, above=base, below=base + size)
    tdx_raw.error("alloc", "limit", len=PAGE, above=0, below=MIB)
    assert tdx_raw.alloc(PAGE, above=base - PAGE) == base - PAGE
    assert tdx_raw.alloc(PAGE, above=base - PAGE) == base + size


def test_memory_keeps_what_is_written_with_any_shared_keyid(tdx_raw: TdxHost) -> None:
    page = tdx_raw.plain()
    tdx_raw.write(page, b"plain")
    assert tdx_raw.read(page, 5) == b"plain"
    tdx_raw.write(page | SHARED_ID << KEY_SHIFT, b"keyed")
    assert tdx_raw.read(page | SHARED_ID << KEY_SHIFT, 5) == b"keyed"
    assert tdx_raw.ok("fill", addr=page, len=2 * MIB, byte=7) == {}
    assert tdx_raw.read(page + MIB, 3) == b"\7\7\7"
    assert tdx_raw.ok("fill", addr=page, len=2 * MIB) == {}
    assert tdx_raw.read(page + MIB, 3) == bytes(3)


@pytest.mark.parametrize("op", ["read", "write", "fill"])
def test_a_private_keyid_outside_seam_mode_is_a_fault(tdx_raw: TdxHost, op: str) -> None:
    page = tdx_raw.plain()
    fields: dict[str, Any] = {"read": {"len": 8}, "write": {"hex": "00" * 8}, "fill": {"len": 8}}[op]
    fault = tdx_raw.fault(op, addr=page | PRIVATE << KEY_SHIFT, **fields)
    assert (fault["code"], fault["name"], fault["write"]) == ("0xd", "#GP", op != "read")


def test_behind_the_end_of_memory_nothing_can_be_asked(tdx_raw: TdxHost) -> None:
    end = tdx_raw.info["memory"]
    tdx_raw.write(end - 8, b"the last")
    tdx_raw.error("read", "bad_value", addr=end - 4, len=8)
    tdx_raw.error("write", "bad_value", addr=end - 4, hex="ff" * 8)
    assert tdx_raw.read(end - 8, 8) == b"the last"


def test_there_is_one_space(tdx_raw: TdxHost) -> None:
    tdx_raw.error("read", "bad_value", addr=MIB, len=1, space="virt")
    assert tdx_raw.ok("read", addr=MIB, len=1, space="phys") == {"hex": "00"}


# -- LPs and instructions ----------------------------------------------------------


def test_an_lp_starts_in_vmx_operation(tdx_raw: TdxHost) -> None:
    for cpu in (0, 1):
        assert tdx_raw.ok("cpu", cpu=cpu) == {"vmx": True, "cpl": 0, "interrupt": False, "package": 0}


def test_the_package_of_an_lp_is_only_to_be_read(tdx_raw: TdxHost) -> None:
    """And nothing else of such a request is done."""
    error = tdx_raw.error("cpu", "bad_value", cpl=3, interrupt=True, package=1)
    assert error["field"] == "package"
    assert tdx_raw.ok("cpu") == {"vmx": True, "cpl": 0, "interrupt": False, "package": 0}


def test_seamcall_outside_vmx_operation_is_ud_and_with_cpl_gp(tdx_raw: TdxHost) -> None:
    tdx_raw.ok("cpu", vmx=False)
    assert tdx_raw.fault("call", rax="0x21")["code"] == "0x6"
    tdx_raw.ok("cpu", vmx=True, cpl=3)
    assert tdx_raw.fault("call", rax="0x21")["code"] == "0xd"
    tdx_raw.ok("cpu", vmx=False)
    assert tdx_raw.fault("call", rax="0x21")["name"] == "#UD"
    assert tdx_raw.fault("enter", vcpu="0x1000")["name"] == "#UD"
    tdx_raw.ok("cpu", vmx=True, cpl=0)
    tdx_raw.good("SYS.INIT")


def test_the_keyid_partitioning_can_be_read(tdx_raw: TdxHost) -> None:
    assert tdx_raw.ok("insn", name="rdmsr", ecx="0x87") == {"eax": "0xf", "edx": "0x30"}
    assert tdx_raw.fault("insn", name="rdmsr", ecx="0xffff")["name"] == "#GP"
    assert tdx_raw.fault("insn", name="wrmsr", ecx="0x87", eax="0x1", edx="0x0")["name"] == "#GP"
    tdx_raw.ok("cpu", cpl=3)
    assert tdx_raw.fault("insn", name="rdmsr", ecx="0x87")["name"] == "#GP"


def test_movdir64b_stores_one_line(tdx_raw: TdxHost) -> None:
    page = tdx_raw.plain()
    assert tdx_raw.ok("insn", name="movdir64b", address=page + 64, hex="5a" * 64) == {}
    assert tdx_raw.read(page + 60, 8) == bytes(4) + b"\x5a" * 4
    assert tdx_raw.fault("insn", name="movdir64b", address=page + 8, hex="5a" * 64)["name"] == "#GP"
    tdx_raw.error("insn", "bad_value", name="movdir64b", address=page, hex="5a" * 8)
    assert tdx_raw.ok("insn", name="wbinvd") == {}
    assert tdx_raw.ok("insn", name="clflush", address=page) == {}


# -- complaints ----------------------------------------------------------------------


def test_the_loaders_calls_are_not_modelled(tdx_raw: TdxHost) -> None:
    tdx_raw.error("call", "bad_value", rax=1 << 63)


def test_what_makes_no_sense_changes_nothing(tdx_raw: TdxHost) -> None:
    tdx_raw.error("call", "bad_request")
    tdx_raw.error("call", "bad_value", rax="33")
    tdx_raw.error("call", "bad_value", rax="0x21", cpu=2)
    tdx_raw.error("cpu", "bad_value", cpl=4)
    tdx_raw.error("reset", "bad_value", kind="warm")
    tdx_raw.error("insn", "bad_value", name="cpuid")
    tdx_raw.error("guest", "bad_value", vm="0x0", vcpu="0x0", do=[{"call": {"rax": "0x1", "rsp": "0x1"}}])
    tdx_raw.error("guest", "bad_value", vm="0x0", vcpu="0x0", do=[{"exit": "hlt"}])
    tdx_raw.error("stage", "bad_request", vm="0x0", op_state="RUNNABLE")
    assert tdx_raw.call("MNG.CREATE").rax == SYS_NOT_READY
    tdx_raw.good("SYS.INIT")


def test_stage_belongs_to_the_profile_migration(tdx: Any) -> None:
    host = tdx(profile="migration").boot()
    td = host.initialized()
    host.error("stage", "bad_value", vm=td.tdr, op_state="ASLEEP")
    host.error("stage", "bad_value", vm=td.tdr + PAGE, op_state="RUNNABLE")
    assert host.ok("stage", vm=td.tdr, op_state="LIVE_EXPORT") == {}


# -- the end ---------------------------------------------------------------------------


def test_a_restart_forgets_everything_but_the_book_of_alloc(tdx_host: TdxHost) -> None:
    host = tdx_host
    td = host.runnable()
    page = host.alloc()
    host.write(page, b"remember")
    assert host.ok("reset", kind="boot") == {}
    assert host.call("MNG.CREATE").rax == SYS_NOT_READY
    assert host.read(page, 8) == bytes(8)
    assert host.read(td.tdr, 64) == bytes(64)
    assert host.alloc() not in (page, td.tdr)
    te = host.ok("audit")["hosts"][0]["te"]
    assert set(te.values()) == {0}
    host.boot()
    assert host.kind(page) == NDA
    host.runnable()


def test_a_killed_host_is_followed_by_a_fresh_one(tdx_host: TdxHost) -> None:
    host = tdx_host
    host.runnable()
    first = host.alloc(MIB2, MIB2)
    assert host.ok("kill") == {}
    assert host.call("MNG.CREATE").rax == SYS_NOT_READY
    host.boot()
    assert host.alloc(MIB2, MIB2) <= first
    host.runnable()


def test_audit_counts_the_modules_pages(tdx_host: TdxHost) -> None:
    td = tdx_host.runnable(pages=(0, PAGE, 2 * PAGE))
    hosts = tdx_host.ok("audit")["hosts"]
    assert hosts[0]["te"] == {
        "reg": 3, "tdr": 1, "tdcx": 11, "tdvpr": 1, "ept": 3, "hkid_assigned": 1, "hkid_flushed": 0,
    }  # fmt: skip
    assert hosts[0]["secure_pages"] == 3
    assert tdx_host.kind(td.pages[0]) == REG
    td.destroy()
    assert set(tdx_host.ok("audit")["hosts"][0]["te"].values()) == {0}


def test_counts_are_those_since_the_last_reset(tdx_raw: TdxHost) -> None:
    tdx_raw.lps()
    counts = tdx_raw.ok("counts")
    assert counts["seamcall"] == {"sys_init": 1, "sys_lp_init": 2}
    assert counts["machine"]
    tdx_raw.call("MNG.CREATE")
    assert tdx_raw.ok("counts", reset=False)["status"] == {"sys_not_ready": 1}
    assert tdx_raw.ok("counts")["seamcall"] == {"mng_create": 1}
    assert "seamcall" not in tdx_raw.ok("counts")


def test_siblings_have_memory_and_modules_of_their_own(tdx: Any) -> None:
    one = tdx(hosts=2)
    other = one.sibling(1)
    one.boot()
    assert other.call("MNG.CREATE").rax == SYS_NOT_READY
    other.boot()
    first, second = one.created(17), other.created(17)
    assert first.tdr == second.tdr
    one.write(one.plain(), b"mine")
    assert one.ok("audit")["hosts"][1]["te"]["tdr"] == 1
    first_te = one.ok("audit")["hosts"][0]["te"]
    assert first_te["hkid_assigned"] == 1


def test_partitioning_is_refused_as_a_nesting_target() -> None:
    from actors.keyboard import Options, WrongOptions, keyboard

    with pytest.raises(WrongOptions, match=r"partitioning is no nesting target.*allowed: small"):
        keyboard(Options("tdx", profile="partitioning"))
