"""Ways to bring pages in, what is in them, and faults that mean something else."""

from __future__ import annotations

import pytest
from host_bench import SEED, Bench, Size, calls, family

from protocol.arch.s390.guest import Program, Read
from protocol.arch.s390.guest import Touch as TouchStep
from protocol.arch.s390.host.guests import GuestFailed
from protocol.arch.s390.host.load import scenario_image
from protocol.arch.s390.host.memory import backed, frame_of, mapped
from protocol.arch.s390.host.pages import make_accessible, pin
from protocol.arch.s390.host.run import Feed
from protocol.arch.s390.host.run import run as run_guest
from protocol.arch.s390.structs import PADDR
from protocol.effects import run
from protocol.plan.operations import Change, Create, Destroy, Load, Pages, Share, Start, Swap, Touch

SIZE = Size(2, 5, 30, 4, 8)


def started(**options: object) -> Bench:
    bench = Bench(size=SIZE, **options)  # type: ignore[arg-type]
    bench.boot()
    bench.do(Create(0, SIZE.mib, SIZE.vcpus), Load(0), Start(0))
    return bench


def test_merged_faults_cost_one_exit_and_one_call_for_each_page() -> None:
    counts = started(pages="merged_l1").do(Touch(0, 0, SIZE.touch))
    assert calls(counts) == {"convert_to_secure": 30}
    assert family(counts, "exits") == {"1.pgm_11.kernel": 30, "1.wait.kernel": 1}


def test_prefaulting_secures_all_memory_before_the_guest_runs() -> None:
    bench = Bench(size=SIZE, pages="prefault")
    bench.boot()
    bench.do(Create(0, SIZE.mib, SIZE.vcpus), Load(0))
    counts = bench.do(Start(0))
    assert calls(counts) == {"convert_to_secure": 8 * 256 - SIZE.image, "cpu_set_state": 2}
    assert family(counts, "exits") == {"1.icpt_6c.vmm": 1, "1.wait.kernel": 1}
    counts = bench.do(Touch(0, 0, SIZE.touch), Share(0, 0, SIZE.share))
    assert not calls(counts)
    assert family(counts, "exits") == {"1.wait.kernel": 2}


def test_merging_below_is_refused_where_nobody_offers_it() -> None:
    with pytest.raises(ValueError, match=r"merged_l0.*below L1 does not import pages"):
        Bench(1, pages="merged_l0")
    with pytest.raises(ValueError, match="allowed: two_fault, merged_l1, merged_l0, prefault"):
        Bench(pages="all_at_once")


def test_for_l0_itself_merging_below_is_merging() -> None:
    counts = started(pages="merged_l0").do(Touch(0, 0, SIZE.touch))
    assert family(counts, "exits") == {"1.pgm_11.kernel": 30, "1.wait.kernel": 1}


def read(bench: Bench, address: int, length: int, number: int = 0) -> bytes:
    """What the guest finds in its memory."""
    host, guest = bench.host, bench.host.guest(number)
    program = Program()
    program.steps.append(Read(address, length))
    cpu = host.cpu_of(guest)
    cpu.cr[1] = guest.table.asce
    run(host.level.enter(cpu, guest.vcpus[0].sie, program, False, 1))
    return bytes.fromhex(program.collect()[0]["hex"])


def test_the_guest_finds_its_image_and_the_host_does_not() -> None:
    from hashlib import shake_256

    bench = started()
    plain = shake_256(b"image:1").digest(SIZE.image * 4096)
    assert read(bench, 0x10000, SIZE.image * 4096) == plain
    frame = frame_of(bench.level, bench.host.guest(0).table, 16)
    assert frame is not None
    assert not isinstance(bench.level.read(frame << 12, 8), bytes)


def test_a_guest_of_bytes_of_ones_own_finds_them() -> None:
    bench = started()
    data = b"a kernel of one's own"
    bench.host.image = scenario_image(SEED, 1, 99, data)
    counts = bench.do(Create(1, 8, 1), Load(1))
    assert calls(counts)["unpack"] == 1, "and no page is drawn"
    bench.do(Destroy(0), Start(1))
    assert read(bench, 0x10000, len(data), 1) == data


def test_a_page_comes_back_from_swap_as_it_was_and_in_another_frame() -> None:
    bench = started()
    bench.do(Touch(0, 0, SIZE.touch))
    host, guest = bench.host, bench.host.guest(0)
    page = SIZE.touch.first
    store = TouchStep((page << 12) + 8, True, b"a secret of the guest")
    run(run_guest(host, guest, guest.vcpus[0], Feed(iter(((store, False),)))))
    before = frame_of(bench.level, guest.table, page)
    bench.do(Touch(0, 0, Pages(1000, 3, 3)), Swap(0, 0, Pages(page, 6, 6, seed=1)))
    assert read(bench, (page << 12) + 8, 21) == b"a secret of the guest"
    assert not guest.swapped
    assert frame_of(bench.level, guest.table, page) not in (None, before)


def test_what_is_written_out_is_not_what_the_guest_has() -> None:
    bench = started()
    from protocol.arch.s390.host.pages import swap_out

    guest = bench.host.guest(0)
    run(swap_out(bench.host, guest, 16))
    assert guest.swapped is not None
    assert guest.swapped[16] != bytes(4096)
    assert frame_of(bench.level, guest.table, 16) is None


def test_a_shared_page_is_not_swapped() -> None:
    bench = started()
    bench.do(Share(0, 0, SIZE.share))
    with pytest.raises(ValueError, match="is shared"):
        bench.do(Swap(0, 0, Pages(SIZE.share.first, 1, 1)))
    assert bench.level.statistics()["te"]["pins"] == 0


def change(bench: Bench, page: int, *, shared: bool, busy: bool = False) -> None:
    bench.do(Change(0, 0, page, shared=shared, busy=busy))


def test_pages_with_an_io_are_let_go_of_one_by_one_as_the_guest_takes_them_back() -> None:
    bench = started()
    bench.do(Share(0, 0, SIZE.share))
    guest, pages = bench.host.guest(0), SIZE.share.numbers().tolist()
    for page in pages:
        run(pin(bench.host, guest, page))
    assert guest.pinned == set(pages)
    assert bench.level.statistics()["te"]["pins"] == len(pages)
    change(bench, pages[0], shared=False)
    assert guest.pinned == set(pages[1:])
    assert bench.level.statistics()["te"]["pins"] == len(pages) - 1


def test_a_page_that_the_kernel_pinned_for_a_look_is_let_go_of_when_the_guest_takes_it_back() -> None:
    """No I/O is on it, so the host has it on no list of its own."""
    bench = started()
    bench.do(Share(0, 0, SIZE.share))
    guest, page = bench.host.guest(0), SIZE.share.first
    frame = frame_of(bench.level, guest.table, page)
    assert frame is not None
    assert run(make_accessible(bench.host, guest, frame))
    assert bench.level.statistics()["te"]["pins"] == 1
    change(bench, page, shared=False)
    assert bench.level.statistics()["te"]["pins"] == 0
    assert guest.pinned is None
    assert not isinstance(bench.level.read(frame << 12, 8), bytes), "it is the guest's alone"


def test_frames_are_scattered() -> None:
    bench = started()
    bench.do(Touch(0, 0, SIZE.touch))
    _, frames = mapped(bench.level, bench.host.guest(0).table)
    assert abs(frames[1:] - frames[:-1]).min() >= 1
    assert (abs(frames[1:] - frames[:-1]) > 1).mean() > 0.8
    area = bench.host.home.frames(bench.host.guest(0).variable)
    assert len(set(area.tolist())) == len(area)


def test_the_table_is_read_back_as_it_was_written() -> None:
    bench = started()
    bench.do(Touch(0, 0, SIZE.touch))
    table = bench.host.guest(0).table
    pages, frames = mapped(bench.level, table)
    assert pages.tolist() == [0, 1, *range(16, 16 + SIZE.image + 30)]
    asked = pages[::-1]
    assert backed(bench.level, table, asked).tolist() == frames[::-1].tolist()
    assert backed(bench.level, table, asked + 4000).tolist() == [-1] * len(asked)


def test_a_page_that_an_earlier_guest_left_is_destroyed_and_brought_in() -> None:
    """Its frame is still secure, of a configuration that is gone: 0x3D or 0x3F under the guest."""
    bench = started()
    host, first = bench.host, bench.host.guest(0)
    bench.do(Create(1, 8, 1), Load(1), Start(1))
    second = host.guest(1)
    left = frame_of(bench.level, first.table, 17)
    assert left is not None
    second.table.map(500, left)
    counts = bench.do(Touch(1, 0, Pages(500, 1, 1)))
    assert calls(counts) == {"destroy_storage": 1, "convert_to_secure": 1}
    assert family(counts, "exits") == {"1.pgm_3f.kernel": 1, "1.pgm_3e.kernel": 1, "1.wait.kernel": 1}


def test_a_page_of_the_ultravisors_own_ends_the_guest() -> None:
    bench = started()
    guest = bench.host.guest(0)
    guest.table.map(500, guest.base)
    with pytest.raises(GuestFailed, match="page 0x1f4 belongs to somebody else"):
        bench.do(Touch(0, 0, Pages(500, 1, 1)))
    guest.table.unmap(500)
    bench.do(Destroy(0))


def test_tampering_with_a_swapped_page_ends_the_guest() -> None:
    bench = started()
    from protocol.arch.s390.host.pages import swap_out

    guest = bench.host.guest(0)
    run(swap_out(bench.host, guest, 16))
    assert guest.swapped is not None
    guest.swapped[16] = bytes([guest.swapped[16][0] ^ 1]) + guest.swapped[16][1:]
    with pytest.raises(GuestFailed, match="page 0x10 cannot be made secure: rc 0x0106"):
        bench.do(Touch(0, 0, Pages(16, 1, 1)))


def test_a_host_cannot_look_into_a_page_unless_it_exports_it() -> None:
    bench = started()
    guest = bench.host.guest(0)
    frame = frame_of(bench.level, guest.table, 16)
    assert frame is not None
    assert not isinstance(bench.level.read(frame << 12, 4096), bytes)
    run(bench.host.must(bench.host.cpus[0], "convert_from_secure", PADDR, frame << 12))
    assert isinstance(bench.level.read(frame << 12, 4096), bytes)
