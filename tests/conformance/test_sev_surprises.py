"""What the fact sheet warns of: rules that most emulators miss, each as a case of its own.

Where an older test has the case already, `ELSEWHERE` names it; the rest is here. Numbers are sections of the
sheet.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from sev_field import MIB, PAGE, POLICY, SLOW_AT_DEPTH_2, Sev, Sevs

ES = 4
HERE = Path(__file__).parent
ELSEWHERE = {
    "2.1 the firmware drops the command buffer to Reclaim even if the command fails": (
        "test_sev_platform.py::test_the_buffer_is_dropped_even_if_the_command_fails"
    ),
    "2.1 PAGE_RECLAIM of a page that is not immutable succeeds and does nothing": (
        "test_sev_rmp.py::test_reclaim_of_a_page_that_is_not_immutable_succeeds_and_does_nothing"
    ),
    "2.0 lengths are asked for by a buffer that is too short, before any page is looked at": (
        "test_sev_platform.py::test_certificate_commands_tell_the_lengths_that_they_need"
    ),
    "2.2 with SNP on, SNP has to be initialised before SEV": (
        "test_sev_platform.py::test_snp_comes_before_legacy_where_the_cpus_have_it_on"
    ),
    "3.3 the trusted region is looked at with the ES flag only": (
        "test_sev_platform.py::test_without_es_nobody_looks_at_the_trusted_region"
    ),
    "3.3 a damaged NV area is erased, and one retry succeeds": (
        "test_sev_platform.py::test_a_damaged_nv_area_is_erased_and_one_retry_succeeds"
    ),
    "3.3 SHUTDOWN is accepted in every state, with guests that run": (
        "test_sev_platform.py::test_shutdown_ends_guests_and_is_accepted_in_every_state"
    ),
    "3.3 a flush that lacks cores cleans what those that did it have": (
        "test_sev_platform.py::test_a_flush_needs_every_core_but_flushes_those_that_did"
    ),
    "3.3 ACTIVATE again: the same ASID is owned, another one says ACTIVE; ranges come last": (
        "test_sev_legacy.py::test_kinds_of_guests_have_their_own_asids"
    ),
    "3.3 an unknown handle has a status: state 0; a length query moves no state": (
        "test_sev_legacy.py::test_the_states_of_a_launch"
    ),
    "3.3 LAUNCH_UPDATE_VMSA looks at its length first, SEND_UPDATE at its header before the handle": (
        "test_sev_migration_orders.py::test_the_first_check_that_fails_decides"
    ),
    "3.4 SNP_DBG_ENCRYPT has its first two checks the other way round": (
        "test_sev_orders.py::test_the_first_check_that_fails_decides"
    ),
    "3.4 a plain SNP_SHUTDOWN leaves the RMP valid": (
        "test_sev_platform.py::test_a_plain_shutdown_leaves_the_rmp_valid"
    ),
    "3.4 a CPUID page that promises too much comes back corrected, in clear, and Pre-Guest": (
        "test_sev_launch.py::test_a_cpuid_page_that_promises_more_comes_back_corrected"
    ),
    "3.4 what the guest did wrong is said inside an encrypted response, with SUCCESS": (
        "test_sev_requests.py::test_what_the_guest_did_wrong_is_said_inside_the_response"
    ),
    "3.4 a message counter moves only where there is a response": (
        "test_sev_requests.py::test_refused_requests_move_no_counter_and_get_no_response"
    ),
    "3.4 an ID block: digest, policy, algorithms, signatures": (
        "test_sev_requests.py::test_an_id_block_is_looked_at_in_order"
    ),
    "4.3 handles: the lowest free number, at once": (
        "test_sev_legacy.py::test_handles_are_the_lowest_free_and_used_again_at_once"
    ),
    "4.4 an ASID that ran is dirty, one that did not is clean": (
        "test_sev_legacy.py::test_an_asid_that_ran_is_dirty_and_one_that_did_not_is_clean"
    ),
    "4.4 SNP_ACTIVATE refuses an ASID that the RMP names": (
        "test_sev_launch.py::test_an_asid_with_pages_in_the_rmp_is_refused"
    ),
    "5.2 of a 2 MiB entry 511 look like Reclaim": (
        "test_sev_rmp.py::test_a_large_entry_is_that_of_its_first_page"
    ),
    "5.2 only the debug commands look up the large entry": (
        "test_sev_swap.py::test_debugging_looks_up_the_large_entry_that_a_page_is_part_of"
    ),
    "5.3 a change of ASID, GPA or size takes validation away": (
        "test_sev_rmp.py::test_a_change_of_owner_or_place_takes_validation_away"
    ),
    "5.3 PSMASH keeps validated, VMSA and masks": (
        "test_sev_rmp.py::test_psmash_keeps_what_the_large_entry_said"
    ),
    "5.4 PVALIDATE tells whether anything changed": (
        "test_sev_guest_accesses.py::test_pvalidate_tells_whether_anything_changed"
    ),
    "5.5 a page that is not validated is an exception in the guest, and no exit": (
        "test_sev_guest_accesses.py::test_rmpadjust_of_a_page_that_is_not_validated_is_an_exception_of_the_guest"
    ),
    "5.7 a small leaf in a large entry is right, a large leaf over small entries is not": (
        "test_sev_guest_accesses.py::test_a_large_leaf_over_small_entries_is_a_violation"
    ),
    "7.1 the trapping MSRs raise #GP before SNP_EN, which stays until a reset": (
        "test_sev_console.py::test_snp_enable_stays_until_a_reset"
    ),
    "7.1 an RMP fault of a guest host comes without its linear address": (
        "test_sev_profiles.py::test_a_cloud_gives_snp_alone_and_hides_where_a_store_faulted"
    ),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_the_case_is_there(what: str) -> None:
    file, name = ELSEWHERE[what].split("::")
    assert f"def {name}(" in (HERE / file).read_text()


@pytest.fixture
def both(snp: Sev) -> Sev:
    """SNP and the legacy platform up."""
    tmr = snp.alloc(2 * MIB, 2 * MIB)
    snp.firmware(*range(tmr, tmr + 2 * MIB, PAGE))
    snp.did("INIT", flags=1, tmr=tmr, tmr_len=2 * MIB)
    snp.flush()
    return snp


def started(host: Sev, policy: int, asid: int) -> int:
    status, page = host.guarded("LAUNCH_START", policy=policy)
    assert status == 0
    handle: int = struct.unpack("<I", host.read(page, 4))[0]
    host.did("ACTIVATE", handle=handle, asid=asid)
    return handle


@SLOW_AT_DEPTH_2
def test_a_buffer_that_was_refused_is_not_dropped(both: Sev) -> None:
    """2.1: rule 3 does not follow where rule 1 refused; and of a buffer across pages the first one goes."""
    page = both.alloc(2 * PAGE)
    assert both.submit("PLATFORM_STATUS", page) == 0x1A
    assert both.entry(page) == (0, 0)
    both.firmware(page)
    across = page + PAGE - 4
    assert both.submit("PLATFORM_STATUS", across) == 0x1A, "its second page is not the firmware's"
    assert both.entry(page) == (5, 0)
    both.firmware(page + PAGE)
    assert both.submit("PLATFORM_STATUS", across) == 0
    assert (both.entry(page), both.entry(page + PAGE)) == ((1, 0), (5, 0))


@SLOW_AT_DEPTH_2
def test_attestation_writes_its_buffer_and_nobody_asks_whose_it_is(both: Sev) -> None:
    """2.1: the firmware's own table forgets this command; the length comes back into a plain page."""
    handle = started(both, ES, 1)
    blob = both.alloc()
    both.firmware(blob)
    assert both.guarded("LAUNCH_MEASURE", handle=handle, pa=blob, len=48)[0] == 0
    assert both.cmd("ATTESTATION", handle=handle) == 0x04
    assert both.out("ATTESTATION", "len") == 208
    assert both.entry(both.buffer & ~(PAGE - 1)) == (0, 0)


@SLOW_AT_DEPTH_2
def test_firmware_1_55_25_adds_64(sev: Sevs) -> None:
    """2.1, rule 4: a leftover, so an option; every other refusal is the plain one."""
    host = sev(profile="leftover")
    host.snp_up()
    assert host.cmd("PLATFORM_STATUS") == 0x5A
    assert host.cmd("SNP_PLATFORM_STATUS", status=host.alloc()) == 0x1A


@SLOW_AT_DEPTH_2
def test_policy_bits_are_not_looked_at_without_a_session(legacy: Sev) -> None:
    """3.3: reserved bits and an API from the future."""
    for policy in (0xFFC0 & ~ES, 0xFF00_0000, 0x00FF_0000):
        handle = legacy.legacy_guest(policy)
        legacy.did("GUEST_STATUS", handle=handle)
        assert legacy.out("GUEST_STATUS", "policy") == policy


@SLOW_AT_DEPTH_2
def test_legacy_activate_does_not_look_at_the_rmp(both: Sev) -> None:
    """4.4: an ASID that pages carry is refused to an SNP guest alone."""
    page = both.alloc()
    both.give(page, 0, 3)
    gctx = both.snp_guest(asid=0)
    assert both.cmd("SNP_ACTIVATE", gctx=gctx, asid=3) == 0x03
    started(both, ES, 3)


@SLOW_AT_DEPTH_2
def test_an_snp_guest_counts_from_its_launch_on(snp: Sev) -> None:
    """4.2: GCTX_CREATE makes no guest yet, and DECOMMISSION of such a context takes none away."""

    def guests() -> int:
        status = snp.alloc()
        snp.firmware(status)
        snp.did("SNP_PLATFORM_STATUS", status=status)
        count: int = struct.unpack("<I", snp.read(status + 0xC, 4))[0]
        return count

    fresh = snp.snp_guest(start=False)
    assert guests() == 0
    other = snp.snp_guest(start=False)
    snp.did("SNP_LAUNCH_START", gctx=fresh, policy=POLICY)
    assert guests() == 1
    snp.did("SNP_DECOMMISSION", gctx=other)
    assert guests() == 1
    snp.did("SNP_DECOMMISSION", gctx=fresh)
    assert guests() == 0


@SLOW_AT_DEPTH_2
def test_shutting_down_what_is_down_succeeds(sev: Sevs) -> None:
    """3.4: SNP UNINIT is SUCCESS, before flushes and lengths are looked at; SEV UNINIT likewise."""
    host = sev()
    assert host.cmd("SNP_SHUTDOWN") == 0
    assert host.cmd("SNP_SHUTDOWN_EX", length=1) == 0
    assert host.cmd("SHUTDOWN") == 0


@SLOW_AT_DEPTH_2
def test_the_internal_command_is_refused_from_outside(sev: Sevs) -> None:
    """2.0: 0x0CC, and what is newer than this firmware (trusted IO)."""
    host = sev()
    for code in (0x0CC, 0x0D0, 0x0D5, 0x7FF):
        answer = host.ok("call", cmdresp=code << 16, lo=0, hi=0)
        assert answer["cmdresp"] == hex(1 << 31 | code << 16 | 0x11)


@SLOW_AT_DEPTH_2
def test_a_command_sees_the_buffer_as_it_was_when_it_began(snp: Sev) -> None:
    """2.0: the whole buffer is copied in; what the host stores meanwhile is not seen."""
    gctx = snp.snp_guest()
    page, other = snp.pages(2)
    snp.give(page, 0, 1, immutable=1)
    snp.give(other, PAGE, 1, immutable=1)
    snp.write(snp.buffer, struct.pack("<QI4xQBBBB4x", gctx, 1 << 1, page, 0, 0, 0, 0))
    parked = snp.ask("call", cmdresp=0x0A1 << 16, lo=snp.buffer, hi=0, park=True)
    assert parked["ok"] == {"parked": True}
    snp.write(snp.buffer + 0x10, struct.pack("<Q", other))
    assert snp.ok("resume", call=parked["id"])["cmdresp"] == hex(1 << 31 | 0x0A1 << 16)
    assert snp.entry(page)[0] >> 62 & 1 == 1
    assert snp.entry(other)[0] >> 62 & 1 == 0
