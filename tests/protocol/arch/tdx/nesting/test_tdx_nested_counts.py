"""What a guest host's calls cost below: section 7.10, and what a level keeps about it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from tdx_nested_host import ALL, FIELD_PI_DESCRIPTOR, FIELD_SHARED_EPTP, NestedHost

from protocol.arch.tdx import audit
from protocol.arch.tdx.cpu import registers
from protocol.arch.tdx.guest import Program, Read, Touch
from protocol.arch.tdx.locks import Held
from protocol.arch.tdx.machine.access import EPT_MISCONFIGURATION
from protocol.arch.tdx.nesting import Nested, shadow
from protocol.arch.tdx.platform import page_lock
from protocol.arch.tdx.status import R8, RAX, RCX, RDX, Status
from protocol.arch.tdx.structs import U64
from protocol.effects import run
from protocol.memory.store import PAGE

SHARED = 1 << 47
TABLE, LEAF = 7, 7 | 6 << 3 | 1 << 63


@pytest.fixture(params=(1, 2, 3))
def host(request: pytest.FixtureRequest) -> NestedHost:
    made = NestedHost(request.param)
    made.counted()
    return made


def test_bringing_the_module_up_issues_nothing_below(host: NestedHost) -> None:
    host.boot()
    counts = host.counted()
    assert "te_issued" not in counts
    calls = 1 + 2 + 1 + 1 + 1
    assert counts[f"exits.{host.rig.depth}.seamcall.kernel"] == calls
    assert counts["te_calls"] == calls


def test_one_call_is_one_exit_and_one_call_below(host: NestedHost) -> None:
    host.boot()
    tdr = host.td()
    host.counted()
    host.good(38, rcx=tdr)
    counts, depth = host.counted(), host.rig.depth
    assert counts["te_issued"] == 1
    assert counts["exits"] == 2**depth - 1
    assert counts[f"te_issued.mem_track.{depth}"] == 1
    for level in range(1, depth + 1):
        assert counts[f"te_calls.mem_track.memory.passed.{level}"] == 1
        assert counts[f"exits.{level}.seamcall.kernel"] == 1


def test_a_key_is_configured_below_with_the_last_package() -> None:
    host = NestedHost(1, "small-2p").boot()
    tdr = host.page()
    host.good(9, rcx=tdr, rdx=17)
    host.counted()
    host.good(8, 0, rcx=tdr)
    assert "te_issued" not in host.counted()
    host.good(8, 1, rcx=tdr)
    assert host.counted()["te_issued"] == 2


def test_one_cycle_below_serves_all_keys_that_were_written_back() -> None:
    host = NestedHost(1).boot()
    tdrs = [host.page() for _ in range(5)]
    for hkid, tdr in enumerate(tdrs, 17):
        host.good(9, rcx=tdr, rdx=hkid)
        host.good(19, rcx=tdr)
    host.counted()
    host.good(40)
    assert host.counted()["te_issued.phymem_cache_wb.1"] == 1
    host.good(40)
    assert "te_issued" not in host.counted()
    for tdr in tdrs:
        host.good(20, rcx=tdr)
    assert host.counted()["te_issued"] == 5


def test_a_fresh_key_below_is_another_one_and_comes_back() -> None:
    host = NestedHost(2).boot()
    pools = [list(hypervisor.hkids) for hypervisor in host.rig.chain]
    tdr = host.page()
    host.good(9, rcx=tdr, rdx=20)
    assert [len(hypervisor.hkids) for hypervisor in host.rig.chain] == [len(pool) - 1 for pool in pools]
    host.good(19, rcx=tdr)
    host.good(40)
    host.good(20, rcx=tdr)
    assert [sorted(hypervisor.hkids) for hypervisor in host.rig.chain] == [sorted(pool) for pool in pools]


def test_an_access_to_a_page_that_was_given_away_traps_and_is_answered_by_the_machine(
    host: NestedHost,
) -> None:
    host.boot()
    tdr = host.td()
    host.counted()
    assert host.level.read(tdr, 64) == bytes(64)
    counts, depth = host.counted(), host.rig.depth
    assert counts[f"exits.{depth}.ept_violation.kernel"] == 1
    plain = host.page()
    host.level.read(plain, 64)
    assert "exits" not in host.counted()


def test_a_level_keeps_a_record_of_each_td_vcpu_and_page(host: NestedHost) -> None:
    host.boot()
    tdr = host.td()
    host.vcpu(tdr)
    assert host.level.book.records() == {"te_context": 1, "vm_map": 1, "vcpu_map": 1, "donated_run": 13}
    host.rig.chain[0].memory.ledger.reset()
    for hypervisor in host.rig.chain[1:]:
        records = hypervisor.memory.book.records()
        assert records == {"te_context": 1, "vm_map": 1, "vcpu_map": 1, "donated_run": 13}


def test_siblings_never_share_a_frame() -> None:
    host = NestedHost(1, hosts=3)
    gibs = [gib for seat in host.rig.seats if isinstance(seat.level, Nested) for gib in seat.level.gibs]
    assert len(gibs) == len(set(gibs)) == 3 * 4


def test_answers_show_addresses_of_the_guest_hosts_own(host: NestedHost) -> None:
    host.boot()
    tdr = host.td()
    control = host.good(11, rcx=tdr, rdx=0x8010000300000010)[R8]
    assert control == tdr + PAGE | 17 << 46
    assert host.good(11, rcx=tdr, rdx=0x8110000100000001)[R8] == 17
    tdvpr = host.vcpu(tdr)
    assert host.good(26, rcx=tdvpr, rdx=0xA020000300000010)[R8] == tdvpr | 17 << 46
    assert host.good(24, rcx=tdvpr)[RDX] == tdr


def test_a_page_that_does_not_come_back_is_named_and_its_memory_used_when_it_does() -> None:
    host = NestedHost(1)
    host.boot()
    tdr = host.td()
    machine, level = host.rig.machines[0], host.level
    control, stuck = level.frame_below((tdr >> 12) + 1), level.frame_below(tdr >> 12)
    left = host.rig.chain[0].gibs.free

    def compared() -> list[audit.Leak]:
        return audit.compared(machine, level, audit.held(machine, level), 0)

    held = Held(machine.platform.locks)
    assert held.own(page_lock(control, 0))
    run(level.death())
    assert [lost.first for lost in level.quarantine] == [control, stuck]
    assert host.rig.chain[0].gibs.free == left + 3
    assert [leak.kind for leak in compared()] == ["quarantine"] * 2
    held.release_all()
    run(level.death())
    assert list(level.quarantine) == []
    assert host.rig.chain[0].gibs.free == left + 4
    assert compared() == []


# -- shadows of shared EPTs ------------------------------------------------------------------------


class Shared:
    """A runnable TD with a shared EPT whose tables lie in a row from `BUFFER + 1 MiB` on."""

    def __init__(self, host: NestedHost, vcpus: int = 1) -> None:
        self.host = host
        host.boot()
        tdr = host.td()
        self.tdvpr, *self.others = [host.vcpu(tdr) for _ in range(vcpus)]
        host.good(17, rcx=tdr)
        self.tables = [0x100_0000 + PAGE * number for number in range(4)]
        for upper, lower, slot in zip(self.tables, self.tables[1:], (256, 0, 0), strict=False):
            host.write(upper + 8 * slot, U64.pack(lower | TABLE))
        for page in range(512):
            host.write(self.tables[3] + 8 * page, U64.pack(0x110_0000 + PAGE * page | LEAF))
        host.good(43, rcx=self.tdvpr, rdx=FIELD_SHARED_EPTP, r8=self.tables[0], r9=ALL)
        host.counted()

    def read(self, gpa: int) -> Any:
        out, program = self.host.enter(self.tdvpr, Read(SHARED | gpa, 4))
        return out, program.collect()


def test_what_is_shadowed_already_costs_nothing_more(host: NestedHost) -> None:
    shared = Shared(host)
    host.write(0x110_0000, b"page")
    assert shared.read(0)[1] == [{"hex": b"page".hex()}]
    first = host.counted()
    assert first["table_ops.set"] >= 4
    assert shared.read(0)[1] == [{"hex": b"page".hex()}]
    second = host.counted()
    assert "table_ops" not in second
    assert second["te_issued"] == 1


def test_a_store_to_a_table_traps_and_is_seen(host: NestedHost) -> None:
    shared = Shared(host)
    shared.read(0)
    host.counted()
    host.write(shared.tables[3], U64.pack(0x110_5000 | LEAF))
    counts = host.counted()
    assert counts[f"exits.{host.rig.depth}.table_write.kernel"] == 1
    host.write(0x110_5000, b"next")
    assert shared.read(0)[1] == [{"hex": b"next".hex()}]


def test_more_tables_than_the_limit_start_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "LIMIT", 12)
    host = NestedHost(1)
    shared = Shared(host)
    extra = 0x200_0000 - 64 * PAGE
    for number in range(1, 40):
        table = extra + PAGE * number
        host.write(table, U64.pack(0x110_0000 + PAGE * number | LEAF))
        host.write(shared.tables[2] + 8 * number, U64.pack(table | TABLE))
        host.write(0x110_0000 + PAGE * number, bytes([number]) * 4)
        assert shared.read(number << 21)[1] == [{"hex": bytes([number] * 4).hex()}]
        assert len(host.level.shadows) <= 12 + 1
    for number in range(1, 40):
        assert shared.read(number << 21)[1] == [{"hex": bytes([number] * 4).hex()}]


def another_root(shared: Shared, number: int) -> int:
    """A root that maps what the first one maps."""
    root = 0x200_0000 - (100 + number) * PAGE
    shared.host.write(root + 8 * 256, U64.pack(shared.tables[1] | TABLE))
    return root


def test_roots_that_no_vcpu_has_any_more_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each VP.WR may name another one: what that takes of the level's memory has a limit."""
    monkeypatch.setattr(shadow, "LIMIT", 12)
    host = NestedHost(1)
    shared = Shared(host)
    host.write(0x110_0000, b"page")
    for number in range(40):
        root = another_root(shared, number)
        host.good(43, rcx=shared.tdvpr, rdx=FIELD_SHARED_EPTP, r8=root, r9=ALL)
        assert len(host.level.shadows) <= 12 + 1
        assert shared.read(0)[1] == [{"hex": b"page".hex()}]


def test_a_root_that_is_being_written_is_kept_while_others_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow, "LIMIT", 12)
    host = NestedHost(1)
    shared = Shared(host, vcpus=2)
    (other,) = shared.others
    host.good(18, rcx=other)
    host.write(0x110_0000, b"page")
    written = registers(rax=43, rcx=other, rdx=FIELD_SHARED_EPTP, r8=another_root(shared, 0), r9=ALL)
    step = host.level.call(host.seat.cpus[1], written, park=True)
    next(step)
    for number in range(1, 40):  # so many that all tables start anew
        host.good(43, rcx=shared.tdvpr, rdx=FIELD_SHARED_EPTP, r8=another_root(shared, number), r9=ALL)
        shared.read(0)
    assert not run(step)[RAX]
    program = Program(deque([Read(SHARED, 4)]))
    run(host.level.enter(host.seat.cpus[1], registers(rcx=other), program))
    assert program.collect() == [{"hex": b"page".hex()}]


def test_two_fields_of_a_vcpu_may_be_written_at_the_same_time() -> None:
    host = NestedHost(1)
    shared = Shared(host)
    written = registers(rax=43, rcx=shared.tdvpr, rdx=FIELD_PI_DESCRIPTOR, r8=0x110_0040, r9=ALL)
    step = host.level.call(host.seat.cpus[0], written, park=True)
    next(step)
    root = another_root(shared, 0)
    host.good(43, rcx=shared.tdvpr, rdx=FIELD_SHARED_EPTP, r8=root, r9=ALL)
    assert not run(step)[RAX]
    assert host.good(26, rcx=shared.tdvpr, rdx=FIELD_SHARED_EPTP)[R8] == root
    assert host.good(26, rcx=shared.tdvpr, rdx=FIELD_PI_DESCRIPTOR)[R8] == 0x110_0040


def test_an_address_that_could_not_be_written_is_not_remembered() -> None:
    """The VCPU is associated with another LP."""
    host = NestedHost(1)
    shared = Shared(host)
    refused = host.call(43, 1, rcx=shared.tdvpr, rdx=FIELD_SHARED_EPTP, r8=another_root(shared, 0), r9=ALL)
    assert refused[RAX] == Status.VCPU_ASSOCIATED
    assert host.good(26, rcx=shared.tdvpr, rdx=FIELD_SHARED_EPTP)[R8] == shared.tables[0]


def test_a_root_behind_the_end_of_memory_maps_nothing_and_goes_with_the_others() -> None:
    host = NestedHost(1)
    shared = Shared(host)
    free = host.rig.chain[0].pool.free
    beyond = host.level.size + 16 * PAGE
    host.good(43, rcx=shared.tdvpr, rdx=FIELD_SHARED_EPTP, r8=beyond, r9=ALL)
    assert host.rig.chain[0].pool.free == free - 1
    assert shared.read(0)[0][RAX] == EPT_MISCONFIGURATION, "there all bits of an entry are ones"
    list(host.rig.reset(0, "boot"))
    assert host.rig.chain[0].pool.free == free + 1


def test_shadows_go_with_the_guest_host() -> None:
    host = NestedHost(1)
    free = host.rig.chain[0].pool.free
    Shared(host).read(0)
    assert host.rig.chain[0].pool.free < free
    list(host.rig.reset(0, "boot"))
    assert host.rig.chain[0].pool.free == free
    assert not host.level.attention[0x100_0000 >> 12 : 0x101_0000 >> 12].any()


def test_a_page_that_was_a_table_and_is_given_to_a_td_maps_nothing() -> None:
    host = NestedHost(1)
    shared = Shared(host)
    table = host.page()
    host.write(table, U64.pack(0x110_0000 | LEAF))
    host.write(shared.tables[2] + 8, U64.pack(table | TABLE))
    assert shared.read(1 << 21)[1] == [{"hex": "00000000"}]
    host.good(9, rcx=table, rdx=30)
    out, steps = shared.read(1 << 21)
    assert steps == [{"fault": {"code": "0x14", "name": "#VE"}}]
    assert out[RAX] == 1


def test_a_guest_that_misses_what_its_host_did_not_map_leaves_once(host: NestedHost) -> None:
    shared = Shared(host)
    host.write(shared.tables[3] + 8 * 7, U64.pack(1 << 63))
    host.counted()
    out, program = host.enter(shared.tdvpr, Touch(SHARED | 7 * PAGE, write=True))
    assert (out[RAX], out[RCX], out[R8]) == (48, 2, SHARED | 7 * PAGE)
    assert not program.collect()
    counts = host.counted()
    assert counts[f"exits.{host.rig.depth}.seamcall.kernel"] == 1
