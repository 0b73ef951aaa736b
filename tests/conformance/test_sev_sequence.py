"""The op `sequence`: Linux and QEMU at work, with exactly the counts that the documents derive."""

from __future__ import annotations

from typing import Any

import pytest
from sev_field import C_BIT, MIB, PAGE, RMP_AT, RMP_LEN, Sev, Sevs


def counted(host: Sev) -> tuple[int, int, int, dict[str, int]]:
    """(commands, RMPUPDATEs, WBINVDs, commands by name) since the last time."""
    counts = host.ok("counts")
    psp: dict[str, int] = counts.get("psp", {})
    return sum(psp.values()), counts.get("rmpupdate", 0), counts.get("wbinvd", 0), psp


def sequence(host: Sev, name: str, **fields: Any) -> dict[str, Any]:
    return host.ok("sequence", name=name, **fields)


@pytest.fixture
def probed(sev: Sevs) -> Sev:
    """A host whose driver has found SNP."""
    host = sev()
    host.alloc(RMP_LEN, MIB, above=RMP_AT)
    host.cpus_up()
    host.ok("counts")
    sequence(host, "probe")
    return host


def test_a_probe_with_snp(probed: Sev) -> None:
    commands, updates, wbinvds, psp = counted(probed)
    assert (commands, updates, wbinvds) == (7, 514, 3 * probed.cpus)
    assert psp == {
        "PLATFORM_STATUS": 1,
        "SNP_INIT_EX": 1,
        "SNP_DF_FLUSH": 1,
        "INIT": 1,
        "DF_FLUSH": 1,
        "SNP_PLATFORM_STATUS": 1,
        "SNP_PAGE_RECLAIM": 1,
    }


def test_a_probe_without_snp(sev: Sevs) -> None:
    host = sev()
    sequence(host, "probe")
    assert counted(host)[:3] == (3, 0, host.cpus)


@pytest.mark.parametrize(("runs", "secrets"), [(1, 0), (3, 2)])
@pytest.mark.parametrize(("kind", "vcpus"), [("sev", 2), ("es", 3)])
def test_a_legacy_launch(sev: Sevs, kind: str, vcpus: int, runs: int, secrets: int) -> None:
    host = sev()
    sequence(host, "probe")
    host.ok("counts")
    made = sequence(host, "launch", kind=kind, pages=6, runs=runs, vcpus=vcpus, secrets=secrets)
    assert len(made["vmcbs"]) == vcpus
    vmsas = vcpus if kind == "es" else 0
    assert counted(host)[0] == runs + vmsas + 5 + secrets
    sequence(host, "attest", vm=made["vm"])
    assert counted(host)[3] == {"ATTESTATION": 2}
    assert host.ok("enter", vcpu=made["vmcbs"][-1])["exitcode"] == "0x60"
    host.ok("counts")
    sequence(host, "destroy", vm=made["vm"])
    assert counted(host) == (2, 0, host.cpus, {"DEACTIVATE": 1, "DECOMMISSION": 1})
    assert host.ok("audit")["hosts"][0]["te"]["sev_guests"] == 0


def test_a_legacy_launch_pays_for_snp(probed: Sev) -> None:
    probed.ok("counts")
    sequence(probed, "launch", kind="es", pages=4, runs=2, vcpus=1)
    commands, updates, _, psp = counted(probed)
    dance = 4 + 1 + 4  # updated pages; LAUNCH_START, MEASURE twice, its output
    assert psp["SNP_PAGE_RECLAIM"] == dance
    assert (commands - dance, updates) == (2 + 1 + 5, 2 * dance)


def test_an_snp_launch(probed: Sev, sev_depth: int) -> None:
    probed.ok("counts")
    pages, vcpus = 16, 3
    made = sequence(probed, "launch", kind="snp", pages=pages, vcpus=vcpus)
    assert counted(probed)[:3] == (pages + vcpus + 4, pages + vcpus + 2, 0)
    for vmcb in made["vmcbs"]:
        probed.ok("guest", vcpu=vmcb, do=[{"read": hex(C_BIT | (pages - 1) * PAGE), "len": 4}])
        assert probed.ok("enter", vcpu=vmcb)["steps"] == [{"hex": "00000000"}]
    report = bytes.fromhex(sequence(probed, "attest", vm=made["vm"])["report"])
    assert counted(probed)[:2] == (1, 0)
    assert len(report) == 0x4A0
    sequence(probed, "destroy", vm=made["vm"])
    assert counted(probed)[:3] == (3, 2 + vcpus + pages, probed.cpus)
    books = probed.ok("audit")["hosts"][0]
    nothing = {"sev_guests": 0, "gctx": 0, "asids": 0}
    if sev_depth:  # difference: te
        assert books["te"] == nothing | {"assigned_pages": 0}
        assert books["tracked"] == nothing | {"assigned_pages": 512}
    else:
        assert books["te"] == nothing | {"assigned_pages": 512}


def test_page_state_changes_cost_the_firmware_nothing(probed: Sev) -> None:
    vm = sequence(probed, "launch", kind="snp", pages=8, vcpus=1)
    probed.ok("counts")
    sequence(probed, "convert", vm=vm["vm"], pages=5, to="shared")
    assert counted(probed)[:2] == (0, 5)
    probed.ok(
        "guest",
        vcpu=vm["vmcbs"][0],
        do=[{"touch": "0x0", "write": True}, {"read": hex(C_BIT | 5 * PAGE), "len": 1}],
    )
    assert probed.ok("enter", vcpu=vm["vmcbs"][0])["steps"] == [{}, {"hex": "00"}]
    sequence(probed, "convert", vm=vm["vm"], pages=8, to="private")
    assert counted(probed)[:2] == (0, 5)
    probed.ok("guest", vcpu=vm["vmcbs"][0], do=[{"touch": hex(C_BIT), "write": True}])
    assert probed.ok("enter", vcpu=vm["vmcbs"][0])["steps"] == [{}]


def test_asids_are_recycled_by_one_flush(probed: Sev) -> None:
    for _ in range(7):
        sequence(probed, "destroy", vm=sequence(probed, "launch", kind="snp", pages=1)["vm"])
    probed.ok("counts")
    sequence(probed, "launch", kind="snp", pages=1)
    commands, _, wbinvds, psp = counted(probed)
    assert psp["SNP_DF_FLUSH"] == 1
    assert (commands, wbinvds) == (1 + 1 + 4 + 1, probed.cpus)


def test_a_launch_takes_a_platform_that_was_brought_up_by_hand(snp: Sev) -> None:
    by_hand = snp.snp_guest(asid=1)
    made = sequence(snp, "launch", kind="snp", pages=2)
    assert snp.ok("enter", vcpu=made["vmcbs"][0])["exitcode"] == "0x60"
    snp.did("SNP_DECOMMISSION", gctx=by_hand)


def test_no_sequence_begins_while_the_host_is_at_something_else(probed: Sev) -> None:
    made = sequence(probed, "launch", kind="snp", pages=1)
    probed.ok("enter", vcpu=made["vmcbs"][0], stay=True)
    assert "kick it" in probed.error("sequence", name="probe")["message"]
    assert "another CPU" in probed.error("enter", vcpu=int(made["vmcbs"][0], 16), cpu=1)["message"]
    probed.ok("kick")
    probed.ok("cpu", cpu=1, cpl=3)
    assert "CPL 0" in probed.error("sequence", name="probe")["message"]
    assert probed.fault("insn", name="cpuid", cpu=1, eax=0)["name"] == "#GP"
    probed.ok("cpu", cpu=1, cpl=0)
    page = probed.alloc()
    probed.firmware(page)
    request = {"cmdresp": 0x093 << 16, "lo": probed.buffer, "hi": 0}
    probed.write(probed.buffer, page.to_bytes(8, "little"))
    assert probed.ok("call", **request, park=True) == {"parked": True}
    parked = probed.keyboard.transcript[-1][0]["id"]
    assert "resume it" in probed.error("sequence", name="probe")["message"]
    probed.ok("resume", call=parked)
    sequence(probed, "destroy", vm=made["vm"])


def test_a_sequence_takes_no_more_memory_than_there_is(probed: Sev) -> None:
    error = probed.error("sequence", name="launch", kind="sev", pages=1 << 20)
    assert (error["code"], "free bytes" in error["message"]) == ("limit", True)


def test_owners_of_snp_guests_send_their_secrets_later(probed: Sev) -> None:
    error = probed.error("sequence", name="launch", kind="snp", pages=1, secrets=1)
    assert (error["code"], error["field"]) == ("bad_value", "secrets")


def test_what_a_sequence_cannot_do_is_said(sev: Sevs) -> None:
    host = sev()
    assert host.error("sequence", name="launch", kind="snp", pages=1)["code"] == "bad_request"
    assert host.error("sequence", name="launch", kind="sev", pages=1)["code"] == "bad_request"
    assert host.error("sequence", name="launch", kind="tdx", pages=1)["code"] == "bad_value"
    assert host.error("sequence", name="launch", kind="sev", pages=0)["code"] == "bad_value"
    sequence(host, "probe")
    vm = sequence(host, "launch", kind="sev", pages=1)["vm"]
    assert host.error("sequence", name="convert", vm=vm, pages=1, to="shared")["code"] == "bad_request"
