"""A level below without memory, and calls that meet: the guest host gets an answer of the architecture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nested_host import IMAGE_AT, MIB, Guest, NestedHost
from nested_invariants import check

from protocol.arch.s390.compose import compose
from protocol.arch.s390.guest import Read, Touch
from protocol.arch.s390.instructions import PREFIX
from protocol.arch.s390.machine.sie import BAD_FORMAT
from protocol.arch.s390.nesting import Nested, Strategy, memory
from protocol.arch.s390.nesting.entry import NO_SHADOW, NORMAL_SPACES
from protocol.arch.s390.profiles import PROFILES
from protocol.arch.s390.structs import (
    BUSY,
    EXECUTED,
    HANDLE_GADDR,
    HANDLE_OUT,
    PADDR,
    SECURE,
    SIE_MSL,
    SIE_SDF,
    U64,
    CreateCpu,
    SieExit,
    block,
)
from protocol.arch.s390.tables import GuestTable
from protocol.effects import Fault, Park, run
from protocol.memory.store import PAGE, PAGE_SHIFT
from protocol.nesting.guest_host import TABLE

NO_MORE_CONFIGS, STORAGE, VALIDITY, WAIT = 0x0103, 0x0105, 0x20, 0x1C


class Tight:
    """A host on a level that has no frame to spare, as soon as `squeeze` was called."""

    def __init__(self, **words: str) -> None:
        self.host = NestedHost(compose(PROFILES["small"], 1, strategy=Strategy(**words)))
        run(self.host.init())
        self.guest: Guest = run(self.host.boot(mib=4))
        level = self.host.seat.level
        assert isinstance(level, Nested)
        self.level = level
        self.l0 = self.host.rig.chain[0]
        self.taken: list[int] = []

    def squeeze(self, leave: int = 0) -> None:
        self.taken += self.l0.pool.take_singles(self.l0.pool.free - self.l0.promised - leave)

    def release(self) -> None:
        self.l0.pool.give(self.taken)
        self.taken.clear()
        check(self.host.rig)


@pytest.fixture
def tight() -> Iterator[Tight]:
    made = Tight()
    yield made
    made.release()


@pytest.mark.parametrize("leave", [0, 15, 16, 20, 22, 24, 30])
def test_a_configuration_that_cannot_be_paid_for_is_refused_and_nothing_changes(
    tight: Tight, leave: int
) -> None:
    tight.squeeze(leave)
    free = tight.l0.pool.free
    with pytest.raises(AssertionError, match=f"rc={NO_MORE_CONFIGS}"):
        run(tight.host.create())
    assert tight.l0.pool.free == free
    assert len(tight.level.configs) == 1


@pytest.mark.parametrize("leave", [0, 1, 2])
def test_a_cpu_that_cannot_be_paid_for_is_refused_and_nothing_changes(tight: Tight, leave: int) -> None:
    tight.squeeze(leave)
    free = tight.l0.pool.free
    with pytest.raises(AssertionError, match=f"rc={STORAGE}"):
        run(tight.host.create_cpu(tight.guest, 5))
    assert tight.l0.pool.free == free


@pytest.mark.parametrize("leave", [0, 1])
def test_where_nothing_is_owed_a_cpu_may_still_lack_its_shadow(leave: int) -> None:
    """There is room for what is lent, and none for the shadow block with its data page."""
    tight = Tight(donation="off")
    assert not tight.l0.promised
    lent = tight.host.rig.profile.cpu_len >> PAGE_SHIFT
    tight.squeeze(lent + leave)
    with pytest.raises(AssertionError, match=f"rc={STORAGE}"):
        run(tight.host.create_cpu(tight.guest, 5))
    assert tight.l0.pool.free == lent + leave
    tight.release()


def test_a_level_needs_a_cpu_for_its_own_work() -> None:
    level = Tight().level
    with pytest.raises(ValueError, match="3 CPUs of the level below: 4 are needed"):
        Nested(level.below, [], level.cpus, level.cpus, level.calls, level.profile, level.ledger)


@pytest.mark.parametrize("which", ["a page table", "the uppermost"])
def test_a_table_that_becomes_a_page_of_its_own_guest_maps_nothing_any_more(tight: Tight, which: str) -> None:
    host, guest = tight.host, tight.guest
    table = guest.table.occupied()[-1] if which == "a page table" else guest.table.root >> PAGE_SHIFT
    guest.table.map(0x30, table)
    space = tight.level.configs[guest.handle].space
    assert space.frame_of(0) is not None
    assert run(host.convert(guest, 0x30)).rc == EXECUTED
    assert host.is_secure(table << PAGE_SHIFT)
    assert space.frame_of(0) is None and not tight.level.attention_of(table) & TABLE
    left = run(host.enter(guest))
    assert isinstance(left, SieExit) and left.code == PREFIX, "no walk can read the table"
    check(host.rig)


def test_a_table_that_is_its_own_lower_table_is_forgotten_once(tight: Tight) -> None:
    """Both levels read the same frames with another index; as a page of the guest they are no table."""
    host, guest = tight.host, run(tight.host.create(mib=4))
    root, pages, frame = guest.table.root, host.pool.take() << PAGE_SHIFT, host.pool.take()
    for at, entry in (
        (root, root | 1 << 2 | 3),  # the first entry of the region-third table: a full table, itself
        (root + 8 * 3, pages),  # as a segment table it has one for the fourth MiB
        (pages + 8 * 7, frame << PAGE_SHIFT),
        (pages + 8 * 8, root),
    ):
        host.write(at, U64.pack(entry))
    assert run(host.convert(guest, 0x307)).rc == EXECUTED
    space = tight.level.configs[guest.handle].space
    assert [table.origin for table in space.upper] == [root, root]
    assert tight.level.attention_of(root >> PAGE_SHIFT) & TABLE
    assert run(host.convert(guest, 0x308)).rc == EXECUTED
    assert host.is_secure(root)
    assert space.frame_of(0x307) is None and not space.upper and not any(space.page_tables.values())
    for table in (root, root + 3 * PAGE, pages):
        assert not tight.level.attention_of(table >> PAGE_SHIFT) & TABLE
    check(host.rig)


def test_a_page_that_its_host_write_protects_comes_back_for_a_load_and_takes_no_store(tight: Tight) -> None:
    host, guest = tight.host, tight.guest
    frame = host.map(guest, 0x30) >> PAGE_SHIFT
    assert run(host.convert(guest, 0x30)).rc == EXECUTED
    run(host.enter(guest, Touch(0x30 << PAGE_SHIFT, True, b"kept")))
    guest.table.map(0x30, frame, protect=True)
    assert run(memory.swap(tight.level, frame))
    host.results(guest)
    assert isinstance(run(host.enter(guest, Read(0x30 << PAGE_SHIFT, 4))), SieExit)
    assert host.results(guest) == [{"hex": b"kept".hex()}]
    left = run(host.enter(guest, Touch(0x30 << PAGE_SHIFT, True, b"lost")))
    assert isinstance(left, Fault) and (left.code, left.write) == (0x04, True)


def test_a_frame_that_holds_a_page_which_is_away_is_not_imported_as_another_page(tight: Tight) -> None:
    """As one whose page is there: it belongs to its guest already."""
    host, guest = tight.host, tight.guest
    frame = guest.pages[IMAGE_AT >> PAGE_SHIFT]
    guest.table.map(0x30, frame)
    before = run(host.convert(guest, 0x30))
    assert run(memory.swap(tight.level, frame))
    assert run(host.convert(guest, 0x30)) == before
    assert before.rc == 0x0103, "not importable"
    assert frame not in tight.level.away
    check(host.rig)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_frame_that_its_host_donated_is_no_page_of_its_guest(depth: int) -> None:
    """An import and an unpin say what they say on the machine."""
    host = NestedHost(compose(PROFILES["small"], depth))
    run(host.init())
    guest = run(host.boot())
    guest.table.map(0x30, guest.base >> PAGE_SHIFT)
    assert run(host.unpin(guest, 0x30)).rc == 0x0105, "not shared"
    assert run(host.convert(guest, 0x30)).rc == 0x0103, "not importable"


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("form", [1, 3, 0xFF])
def test_a_block_of_another_format_is_no_block_at_any_depth(depth: int, form: int) -> None:
    host = NestedHost(compose(PROFILES["small"], depth))
    run(host.init())
    guest = run(host.boot())
    host.write(guest.vcpus[0].block + SIE_SDF, bytes((form,)))
    left = run(host.enter(guest, Read(IMAGE_AT, 4)))
    assert isinstance(left, SieExit)
    assert (left.code, left.ipb >> 16) == (VALIDITY, BAD_FORMAT)
    host.write(guest.vcpus[0].block + SIE_SDF, bytes((SECURE,)))
    assert isinstance(run(host.enter(guest)), SieExit)
    assert len(host.results(guest)) == 1, "the step was not consumed"


def test_a_page_that_its_host_donates_is_mapped_for_its_guest_no_longer(tight: Tight) -> None:
    host, guest, level = tight.host, tight.guest, tight.level
    frame = host.map(guest, 0x30) >> PAGE_SHIFT
    touch = Touch(0x30 << PAGE_SHIFT, True, b"x")
    left = run(host.enter(guest, touch))
    assert isinstance(left, Fault) and left.code == 0x3E
    space = level.configs[guest.handle].space
    assert space.frame_of(0x30) == frame
    fields = CreateCpu(guest.handle, frame << PAGE_SHIFT, 5, host.some_frame() << PAGE_SHIFT)
    run(host.done(fields.pack(), 0, HANDLE_OUT + 8))
    assert space.frame_of(0x30) is None
    left = run(host.enter(guest))
    assert isinstance(left, Fault) and (left.code, left.address) == (0x3D, 0x30 << PAGE_SHIFT)
    check(host.rig)


def test_a_table_of_which_a_part_lies_behind_the_end_of_memory_maps_what_the_rest_says() -> None:
    rig = compose(PROFILES["small"], 1, memory_bytes=2200 * MIB + MIB // 2)
    host = NestedHost(rig)
    run(host.init())
    guest = run(host.boot())
    table = GuestTable(host.level, host.pool)
    frame = host.pool.take()
    host.write(frame << PAGE_SHIFT, b"here")
    table.map(5, frame)
    last = host.level.size - PAGE
    upper = host.read(table.root, PAGE)
    assert isinstance(upper, bytes)
    host.write(last, upper)
    vcpu = guest.vcpus[0]
    host.write(vcpu.block + SIE_SDF, b"\0")
    host.write(vcpu.block + SIE_MSL, U64.pack(3 * MIB))
    host.cpus[0].cr[1] = last | table.asce & (PAGE - 1)
    vcpu.program.replace()
    vcpu.program.steps.append(Read(5 << PAGE_SHIFT, 4))
    left = run(host.level.enter(host.cpus[0], vcpu.block, vcpu.program, False, 2))
    assert isinstance(left, SieExit) and left.code == WAIT
    assert host.results(guest) == [{"hex": b"here".hex()}]
    host.write(last, bytes(8 * 2))  # the store is seen, and takes away what it mapped
    vcpu.program.steps.append(Read(5 << PAGE_SHIFT, 4))
    assert isinstance(run(host.level.enter(host.cpus[0], vcpu.block, vcpu.program, False, 2)), Fault)
    check(rig)


def test_a_guest_that_was_created_never_lacks_a_shadow(tight: Tight) -> None:
    """All tables that it can need were put aside when it was created."""
    pages = [number * 256 + 7 for number in range(4)]
    for page in pages:
        tight.host.map(tight.guest, page)
        assert run(tight.host.convert(tight.guest, page)).rc == EXECUTED
    tight.squeeze()
    left = run(tight.host.enter(tight.guest, *(Touch(page << 12, True) for page in pages)))
    assert isinstance(left, SieExit) and left.code == WAIT


def test_parameters_and_dumps_need_no_memory_of_the_level_below(tight: Tight) -> None:
    guest = run(tight.host.create(vcpus=1))
    tight.squeeze()
    run(tight.host.load(guest))
    assert isinstance(run(tight.host.enter(guest, Read(IMAGE_AT, 2))), SieExit)


def test_nothing_is_swapped_where_there_is_no_frame(tight: Tight) -> None:
    tight.squeeze()
    frame = tight.guest.pages[IMAGE_AT >> 12]
    assert run(memory.swap(tight.level, frame)) is False
    assert isinstance(run(tight.host.enter(tight.guest, Read(IMAGE_AT, 2))), SieExit)


# -- guests that are not secure -------------------------------------------------------------------


def normal(tight: Tight, table: GuestTable, *pages: int) -> SieExit:
    """A guest that is not secure reads four bytes of each page."""
    vcpu = tight.guest.vcpus[0]
    tight.host.write(vcpu.block + SIE_SDF, b"\0")
    tight.host.write(vcpu.block + SIE_MSL, U64.pack(3 * MIB))
    vcpu.program.replace()
    tight.host.cpus[0].cr[1] = table.asce
    vcpu.program.steps.extend(Read(page << 12, 4) for page in pages)
    left = run(tight.host.level.enter(tight.host.cpus[0], vcpu.block, vcpu.program, False, 2))
    assert tight.l0.pool.free >= tight.l0.promised, "what hosts donated is theirs"
    tight.host.write(vcpu.block + SIE_SDF, bytes((SECURE,)))
    assert isinstance(left, SieExit), left
    return left


def test_a_normal_guest_without_room_for_a_shadow_is_not_entered(tight: Tight) -> None:
    table = GuestTable(tight.host.level, tight.host.pool)
    table.map(5, tight.host.pool.take())
    tight.squeeze()
    left = normal(tight, table, 5)
    assert (left.code, left.ipb >> 16) == (VALIDITY, NO_SHADOW)


def test_a_frame_that_is_mapped_three_times_is_found_wherever_it_still_is_when_it_moves(tight: Tight) -> None:
    host, table = tight.host, GuestTable(tight.host.level, tight.host.pool)
    frame = host.pool.take()
    for page in (5, 6, 7):
        table.map(page, frame)
    assert normal(tight, table, 5, 6, 7).code == WAIT
    table.unmap(6)
    assert run(memory.swap(tight.level, frame))
    host.write(frame << PAGE_SHIFT, b"new!")
    host.results(tight.guest)
    assert normal(tight, table, 7, 5).code == WAIT
    assert told(tight) == [b"new!".hex()] * 2


def test_normal_guests_take_turns_with_the_shadows_that_there_is_room_for(tight: Tight) -> None:
    tables = []
    for number in range(NORMAL_SPACES + 4):
        table = GuestTable(tight.host.level, tight.host.pool)
        frame = tight.host.pool.take()
        tight.host.write(frame << PAGE_SHIFT, number.to_bytes(4, "big"))
        table.map(5, frame)
        tables.append(table)
    for squeezed in (False, True):
        if squeezed:
            tight.squeeze()
        for number, table in enumerate(tables):
            assert normal(tight, table, 5).code == WAIT
            assert tight.host.results(tight.guest) == [{"hex": f"{number:08x}"}]
        assert len(tight.level.shadows.spaces) <= NORMAL_SPACES + 1


def numbered(tight: Tight, first: int, *pages: int) -> GuestTable:
    """A table of a guest whose pages hold `first` and the numbers that follow."""
    table = GuestTable(tight.host.level, tight.host.pool)
    for number, page in enumerate(pages, first):
        frame = tight.host.pool.take()
        tight.host.write(frame << PAGE_SHIFT, number.to_bytes(4, "big"))
        table.map(page, frame)
    return table


def told(tight: Tight) -> list[str]:
    return [str(done["hex"]) for done in tight.host.results(tight.guest)]


def test_a_normal_guest_that_needs_room_for_its_tables_gets_it_from_one_that_is_not_inside(
    tight: Tight,
) -> None:
    one, other = numbered(tight, 1, 5), numbered(tight, 2, 5)
    assert normal(tight, one, 5).code == WAIT
    tight.squeeze()
    spaces = len(tight.level.shadows.spaces)
    for table, number in ((other, 2), (one, 1), (other, 2)):
        tight.host.results(tight.guest)
        assert normal(tight, table, 5).code == WAIT
        assert told(tight) == [f"{number:08x}"]
        assert len(tight.level.shadows.spaces) == spaces


FAR = (5, 0x105, 0x205, 0x6)  # in three segments, and in the first one again


def test_a_normal_guest_that_needs_one_table_more_gets_it_from_one_that_is_not_inside(tight: Tight) -> None:
    one, other = numbered(tight, 1, 5), numbered(tight, 2, *FAR)
    for table in (one, other):
        assert normal(tight, table, 5).code == WAIT
    tight.squeeze()
    tight.host.results(tight.guest)
    assert normal(tight, other, *FAR).code == WAIT
    assert told(tight) == [f"{2 + n:08x}" for n in range(4)]


def test_a_normal_guest_that_is_alone_forgets_its_own_tables_for_the_next(tight: Tight) -> None:
    table = numbered(tight, 1, *FAR)
    assert normal(tight, table, 5).code == WAIT
    tight.squeeze()
    tight.host.results(tight.guest)
    assert normal(tight, table, *FAR, *FAR).code == WAIT
    assert told(tight) == [f"{1 + n:08x}" for n in range(4)] * 2


def test_with_few_frames_a_normal_guest_is_entered_or_not_and_none_is_lost(tight: Tight) -> None:
    """From no frame on until there is room: for the upper tables, and then for that of its page."""
    table = numbered(tight, 1, 5)
    codes = []
    for leave in range(12):
        free = tight.l0.pool.free
        tight.squeeze(leave)
        left = normal(tight, table, 5)
        assert left.code == WAIT or (left.code, left.ipb >> 16) == (VALIDITY, NO_SHADOW)
        codes.append(left.code)
        tight.level.normal.clear()
        tight.release()
        assert tight.l0.pool.free == free
    entered = codes.index(WAIT)
    assert codes == [VALIDITY] * entered + [WAIT] * (12 - entered)
    assert entered > 1, "the room for the upper tables alone is not enough"


def test_the_tables_of_a_normal_guest_that_is_inside_are_left_alone(tight: Tight) -> None:
    spaces = tight.level.normal
    inside, idle = (spaces.take(numbered(tight, 1, 5).asce) for _ in range(2))
    spaces.give(idle)
    assert spaces.recycle()
    assert set(tight.level.shadows.spaces.values()) >= {inside}
    assert idle not in tight.level.shadows.spaces.values()
    assert not spaces.recycle(), "the one that is left is inside"
    spaces.give(inside)
    assert spaces.recycle()


def test_a_page_that_is_away_is_out_of_reach_of_a_normal_guest_as_it_was_in_place(tight: Tight) -> None:
    """Below there is ciphertext by now; to whoever maps the frame it is a page of the secure guest."""
    host, frame = tight.host, tight.guest.pages[IMAGE_AT >> PAGE_SHIFT]
    table = GuestTable(host.level, host.pool)
    table.map(5, frame)
    vcpu = tight.guest.vcpus[0]
    host.write(vcpu.block + SIE_SDF, b"\0")
    host.write(vcpu.block + SIE_MSL, U64.pack(3 * MIB))
    host.cpus[0].cr[1] = table.asce
    found = []
    for _ in range(2):
        vcpu.program.replace()
        vcpu.program.steps.append(Read(5 << PAGE_SHIFT, 4))
        left = run(host.level.enter(host.cpus[0], vcpu.block, vcpu.program, False, 2))
        assert isinstance(left, Fault)
        found.append((left.code, left.address))
        if frame not in tight.level.away:
            assert run(memory.swap(tight.level, frame))
    assert found == [(0x3D, 5 << PAGE_SHIFT)] * 2
    assert frame in tight.level.away, "nobody brought it back for that"


# -- busy -----------------------------------------------------------------------------------------


def test_a_busy_answer_is_contention_and_no_exit(tight: Tight) -> None:
    host, guest = tight.host, tight.guest
    host.map(guest, 0x20)
    uvcb = bytes(block(0x28, 0x0200, HANDLE_GADDR, guest.handle, 0x20 << PAGE_SHIFT))
    for cpu in (0, 1):
        host.write(host.issuers[cpu].scratch, uvcb)
    parked = host.level.call(host.cpus[0], host.issuers[0].scratch, park=True)
    assert next(parked) == Park()
    ledger = host.rig.ledger
    ledger.reset()
    assert run(host.level.call(host.cpus[1], host.issuers[1].scratch)) == BUSY
    assert host.read(host.issuers[1].scratch, 0x28) == uvcb, "the block is as it was"
    assert (ledger.flat(), dict(ledger.contention)) == ({}, {"busy": 1})
    with pytest.raises(StopIteration) as stop:
        next(parked)
    assert stop.value.value == 0
    assert host.is_secure(guest.pages[0x20] << PAGE_SHIFT)


def test_a_frame_that_another_call_names_makes_this_one_busy() -> None:
    """Over a link: an import waits for its answer, another CPU exports the page."""
    rig = compose(PROFILES["small"], 1, apart=True)
    from protocol.crossing import inline

    host = NestedHost(rig)
    inline(host.init(), rig.below(0))
    guest = inline(host.boot(), rig.below(0))
    address = host.map(guest, 0x20)
    level = host.seat.level
    assert isinstance(level, Nested)
    host.write(host.issuers[0].scratch, bytes(block(0x28, 0x0200, HANDLE_GADDR, guest.handle, 0x20 << 12)))
    host.write(host.issuers[1].scratch, bytes(block(0x20, 0x0201, PADDR, address)))
    importing = level.call(host.cpus[0], host.issuers[0].scratch)
    issue = next(importing)
    other = level.call(host.cpus[1], host.issuers[1].scratch)
    with pytest.raises(StopIteration) as stop:
        next(other)
    assert stop.value.value == BUSY
    (server,) = rig.below(0)[-1:]
    with pytest.raises(StopIteration) as stop:
        importing.send(run(server(issue)))
    assert stop.value.value == 0
    check(rig)
    assert level.page_owner[address // PAGE]
