"""L0 KVM at work for guest hosts: exits counted by hand, isolation, books that can be wrong, and teardown."""

from __future__ import annotations

import pytest
from sev_nested_host import Host, rig_of

from protocol.arch import load
from protocol.arch.sev.audit import leaks
from protocol.arch.sev.compose import Rig, compose
from protocol.arch.sev.instructions import Registers
from protocol.arch.sev.nesting import Nested
from protocol.arch.sev.profiles import MIB, PROFILES
from protocol.arch.sev.rmp import ASSIGNED, IMMUTABLE
from protocol.arch.sev.structs import FIRMWARE, PAGE, NewState
from protocol.effects import run


def exits(rig: Rig) -> int:
    return sum(n for key, n in rig.ledger.counts().items() if key[0] == "exits")


# -- exits, counted by hand ----------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "wanted"), [(0, 0), (1, 1), (2, 3), (3, 7)])
def test_an_rmpupdate_costs_one_exit_and_twice_that_and_one_for_each_level_more(
    depth: int, wanted: int
) -> None:
    """L(n) traps, L(n-1) issues its own and enters L(n) again; each of both costs what it costs one level
    below.
    """
    host = Host(rig_of(depth))
    page = host.allocate(PAGE, PAGE)
    host.driver.write(host.driver.operand, NewState(0, True, False, False, 1).pack())
    host.rig.ledger.reset()
    result = run(host.hands.instruction(0, "rmpupdate", Registers(rax=page, rcx=host.driver.operand)))
    assert result == {"rax": 0}
    assert exits(host.rig) == wanted


def test_a_page_that_is_only_virtually_the_firmwares_costs_nothing_below() -> None:
    host = Host(rig_of(2))
    page = host.allocate(PAGE, PAGE)
    host.rig.ledger.reset()
    run(host.driver.rmpupdate(page, FIRMWARE))
    assert exits(host.rig) == 2  # the trap, and L1's entry of L2 again
    assert not [key for key in host.rig.ledger.counts() if key[0] == "te_issued"]


def test_a_command_is_four_accesses_of_the_mailbox() -> None:
    host = Host(rig_of(1))
    host.rig.ledger.reset()
    run(host.driver.command("NOP"))
    counts = host.rig.ledger.flat()
    assert counts["exits"] == counts["exits.1.psp.kernel"] == 4
    assert counts["injections.psp_interrupt"] == 1
    assert counts["te_calls.NOP.init.emulated.1"] == 1


def test_machine_commands_of_a_launch_do_not_grow_with_depth() -> None:
    """Every command and every page of a launch reaches the machine once, whatever lies between."""
    seen = []
    for depth in (0, 1, 2):
        host = Host(rig_of(depth))
        host.rig.ledger.reset()
        host.launch(pages=8)
        counts = host.rig.ledger.flat()
        names = (
            "SNP_GCTX_CREATE",
            "SNP_LAUNCH_START",
            "SNP_ACTIVATE",
            "SNP_LAUNCH_UPDATE",
            "SNP_LAUNCH_FINISH",
        )
        seen.append(
            [counts[f"te_issued.{name}.{depth}" if depth < 2 else f"te_issued.{name}.2"] for name in names]
        )
    assert seen[0] == [1, 1, 1, 9, 1]
    assert seen[1:] == [seen[0], seen[0]]


# -- isolation -----------------------------------------------------------------------------------------


def test_siblings_have_their_own_asids_frames_and_handles() -> None:
    rig = rig_of(1, hosts=2)
    one, other = Host(rig, 0), Host(rig, 1)
    first, second = one.launch("sev"), other.launch("sev")
    assert (first.handle, second.handle) == (1, 1)
    assert first.asid == second.asid
    a, b = rig.seats[0].level, rig.seats[1].level
    assert a.real_asid(first.asid) != b.real_asid(second.asid)
    assert {g.real for g in a.platform.guests.values()} != {g.real for g in b.platform.guests.values()}
    assert not set(a.slots.tolist()) & set(b.slots.tolist())


def test_no_real_asid_belongs_to_two_hosts() -> None:
    rig = rig_of(2, hosts=3)
    taken: set[int] = set()
    for seat in rig.seats:
        mine = {seat.level.real_asid(asid) for asid in range(1, 16)}
        assert len(mine) == 15
        assert not mine & taken
        taken |= mine
        assert all((seat.level.real_asid(a) < rig.levels[-1].profile.min_sev_asid) == (a < 8) for a in (7, 8))


def test_a_host_that_dies_takes_nothing_of_its_sibling_along() -> None:
    rig = rig_of(1, hosts=2)
    one, other = Host(rig, 0), Host(rig, 1)
    one.launch()
    kept = other.launch()
    run(rig.kill(0))
    assert list(leaks(rig)) == []
    run(other.guests.attest(kept))
    run(other.guests.destroy(kept))


# -- sudden ends ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_reboot_sweeps_everything_with_the_documented_costs(depth: int) -> None:
    """Pages + V RMPUPDATEs and three commands for an SNP guest, two for a legacy one (7.2)."""
    host = Host(rig_of(depth))
    host.launch(pages=6)
    host.launch("es", pages=2)
    host.rig.ledger.reset()
    run(host.rig.reset(0, "power"))
    counts = host.rig.ledger.flat()
    assert counts[f"te_issued.SNP_DECOMMISSION.{depth}"] == 1
    assert counts[f"te_issued.SNP_PAGE_RECLAIM.{depth}"] == 1  # the context; its response page was never lent
    assert counts[f"te_issued.RMPUPDATE.{depth}"] == 6 + 1 + 1
    assert (counts[f"te_issued.DEACTIVATE.{depth}"], counts[f"te_issued.DECOMMISSION.{depth}"]) == (1, 1)
    machine = host.rig.machines[0]
    inside = [host.rig.machine_frame(0, frame) for frame in range(host.seat.memory_bytes // PAGE)]
    assert not (machine.rmp.flags[inside] & ASSIGNED).any()
    assert not machine.platform.guests
    assert not [frame for frame in machine.platform.contexts if frame in set(inside)]
    assert list(leaks(host.rig)) == []
    assert not host.seat.level.book.records().get("vm_map")
    Host(host.rig).launch()


def test_pages_in_the_firmwares_hands_are_reclaimed_on_a_reboot() -> None:
    host = Host(rig_of(1))
    vm = host.launch(pages=2)
    run(host.guests.attest(vm))  # the response page is lent now
    waiting = host.allocate(PAGE, PAGE)
    run(host.driver.rmpupdate(waiting, NewState(0x9000, True, False, True, vm.asid)))
    host.rig.ledger.reset()
    run(host.rig.reset(0, "power"))
    assert host.rig.ledger.flat()["te_issued.SNP_PAGE_RECLAIM.1"] == 3
    assert list(leaks(host.rig)) == []


def test_without_snp_the_firmware_stores_to_a_page_that_a_guest_had_before() -> None:
    """A fuzzer found that this level could not: the page is still assigned below."""
    host = Host(rig_of(1, profile="azure"))
    vm = host.launch(pages=2)
    run(host.driver.command("SNP_DECOMMISSION", gctx=vm.handle))
    run(host.driver.wbinvd_everywhere())
    run(host.driver.command("SNP_DF_FLUSH"))
    run(host.driver.command("SNP_SHUTDOWN"))
    host.driver.snp = False
    run(host.driver.command("GET_ID", pa=vm.pages[0], len=0x40))
    assert host.driver.read(vm.pages[0], 0x40) == host.seat.level.chip
    run(host.rig.reset(0, "power"))
    assert list(leaks(host.rig)) == []


def test_without_snp_what_the_firmware_stores_to_a_context_that_is_in_use_is_lost() -> None:
    """Below it is a context all the time, and goes with its host."""
    host = Host(rig_of(1, profile="azure"))
    page = host.allocate(PAGE, PAGE)
    run(host.driver.rmpupdate(page, FIRMWARE))
    run(host.driver.command("SNP_GCTX_CREATE", gctx=page))
    run(host.driver.command("SNP_SHUTDOWN"))
    host.driver.snp = False
    before = host.driver.read(page, PAGE)
    run(host.driver.command("GET_ID", pa=page, len=0x40))
    assert host.driver.read(page, PAGE) == before
    assert host.seat.level.real[page // PAGE]
    assert host.rig.machine_frame(0, page // PAGE) in host.rig.machines[0].platform.contexts
    run(host.rig.reset(0, "power"))
    assert list(leaks(host.rig)) == []
    assert not host.seat.level.real.any()


@pytest.mark.parametrize("at", [0, 0x9FFFF, 0xA0000, 0xFFFFF, 0x100000, 64 * MIB - 1, 64 * MIB, 1 << 40])
def test_an_access_to_nothing_is_judged_by_its_address_at_every_depth(at: int) -> None:
    found = []
    for depth in (0, 1, 2):
        level = compose(PROFILES["small"], depth, 1, 64 * MIB).seats[0].level
        found.append((level.peek(at, 0), level.poke(at, b"")))
    assert found[0] == found[1] == found[2]


# -- large pages -----------------------------------------------------------------------------------------


def test_a_large_page_is_split_by_the_trapping_msr() -> None:
    """At the level below as well, whose entries the guest meets."""
    host = Host(rig_of(1))
    block = host.allocate(2 * MIB, 2 * MIB)
    run(host.driver.rmpupdate(block, NewState(0, True, True, False, 1)))
    asked = {"rcx": 0xC001F002, "rax": block}
    assert run(host.hands.instruction(0, "wrmsr", Registers(**asked)))["rax"] == 0
    level, machine = host.seat.level, host.rig.machines[0]
    frame = block // PAGE
    inside = host.rig.machine_frame(0, frame + 5)
    assert (level.rmp.large(frame), machine.rmp.large(host.rig.machine_frame(0, frame))) == (False, False)
    assert level.rmp.gpa_of(frame + 5) == machine.rmp.gpa_of(inside) == 5 * PAGE
    assert run(host.hands.instruction(0, "wrmsr", Registers(**asked)))["rax"], "it is none any more"


# -- books that can be wrong ---------------------------------------------------------------------------


def test_the_audit_finds_what_only_one_book_has() -> None:
    rig = rig_of(1)
    host = Host(rig)
    vm = host.launch(pages=2)
    level, machine = rig.seats[0].level, rig.machines[0]
    assert isinstance(level, Nested)
    lost = rig.machine_frame(0, vm.pages[0] // PAGE)
    machine.rmp.put(lost, 0)
    assert [leak["kind"] for leak in leaks(rig)] == ["page"]
    machine.rmp.put(lost, ASSIGNED, level.real_asid(vm.asid))
    stray = rig.machine_frame(0, 0x1000)
    machine.rmp.put(stray, ASSIGNED | IMMUTABLE)
    assert [leak["id"] for leak in leaks(rig)] == ["0x1000000"]
    machine.rmp.put(stray, 0)
    machine.platform.asids.release(level.real_asid(vm.asid))
    assert [leak["kind"] for leak in leaks(rig)] == ["asid"]


def test_the_audit_finds_guests_that_only_one_book_has() -> None:
    rig = rig_of(1)
    host = Host(rig)
    vm, legacy = host.launch(pages=2), host.launch("es", pages=2)
    level, machine = rig.seats[0].level, rig.machines[0]
    assert list(leaks(rig)) == []
    real = level.platform.guests.pop(legacy.handle).real
    frame = rig.machine_frame(0, vm.handle // PAGE)
    del machine.platform.contexts[frame]
    assert [(leak["kind"], leak["id"]) for leak in leaks(rig)] == [
        ("gctx", hex(frame * PAGE)),
        ("sev_guest", hex(real)),
    ]


# -- shadows -------------------------------------------------------------------------------------------


def test_a_store_to_a_table_that_was_shadowed_traps_and_others_do_not() -> None:
    host = Host(rig_of(1))
    vm = host.launch(pages=2)
    run(host.guests.attest(vm))  # the guest ran: its tables are shadowed
    host.rig.ledger.reset()
    host.driver.write(vm.tables.pages[-1] + 0xFF8, bytes(8))
    assert host.rig.ledger.flat()["exits.1.table_write.kernel"] == 1
    host.driver.write(vm.tables.pages[-1] + 0xFF8, bytes(8))
    assert host.rig.ledger.flat()["exits"] == 1  # nothing depends on it any more
    run(host.guests.attest(vm))


def test_scattered_hosts_have_no_two_neighbours() -> None:
    rig = rig_of(1, profile="scattered")
    slots = rig.seats[0].level.slots
    assert not ((slots[1:] - slots[:-1]) == 1).any()
    Host(rig).launch(pages=4)


def test_what_cannot_be_composed_is_refused_with_what_can() -> None:
    for wrong in ({"depth": 9}, {"hosts": 0}, {"memory_bytes": MIB}, {"cpus": 0}):
        with pytest.raises(ValueError, match="allowed"):
            compose(PROFILES["small"], **wrong)
    with pytest.raises(ValueError, match="profile"):
        load("sev").keyboard(profile="large")
