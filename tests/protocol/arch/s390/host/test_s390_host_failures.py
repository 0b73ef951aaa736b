"""What a host does when it is refused something, and that nothing is left half done."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from sys import getsizeof
from typing import Any

import pytest
from host_bench import FIRST, Bench, Size, calls, image_of

from protocol.arch.s390.calls import BY_NAME, CALLS
from protocol.arch.s390.guest import Diag, Lctl, Loop, SetCpu, Sigp, Spx
from protocol.arch.s390.guest import Touch as Store
from protocol.arch.s390.host.guests import OPERATING, GuestFailed
from protocol.arch.s390.host.lifecycle import start
from protocol.arch.s390.host.load import scenario_image
from protocol.arch.s390.host.memory import frame_of
from protocol.arch.s390.host.pages import fault_in, unpack
from protocol.arch.s390.host.run import Feed, run
from protocol.arch.s390.machine.entities import PageState
from protocol.arch.s390.profiles import PROFILES
from protocol.errors import OperationFailed, TeRefused
from protocol.memory.pool import OutOfFrames
from protocol.memory.store import PAGE_SHIFT
from protocol.plan.operations import (
    BootHost,
    Change,
    Create,
    Destroy,
    Dump,
    Exits,
    Kill,
    Load,
    Operation,
    Pages,
    Reset,
    Share,
    Shutdown,
    Start,
    Swap,
    Touch,
)


def booted(**options: object) -> Bench:
    bench = Bench(**options)  # type: ignore[arg-type]
    bench.boot()
    return bench


def held(bench: Bench) -> tuple[int, dict[str, Any]]:
    host = bench.host
    return host.pool.free + host.backing.left + host.home.tables, bench.level.statistics()


def test_a_host_that_has_not_booted_says_so() -> None:
    bench = Bench()
    with pytest.raises(ValueError, match="host at level 0 has not booted"):
        bench.do(Create(0, 8, 1))


def test_a_host_boots_once() -> None:
    bench = booted()
    with pytest.raises(ValueError, match="booted already"):
        bench.do(BootHost())


def test_initialising_below_two_gib_is_refused_and_leaves_the_host_down() -> None:
    bench = Bench(memory_mib=512)
    with pytest.raises(TeRefused, match="init: rc 0x0108"):
        bench.boot()
    assert bench.host.query is None


def test_a_machine_without_an_ultravisor_leaves_the_host_without_secure_guests() -> None:
    bench = Bench()
    bench.level.calls = {}
    with pytest.raises(TeRefused, match="query: rc 0x0002"):
        bench.boot()
    assert bench.host.query is None
    bench.level.calls = dict(CALLS)
    bench.boot()


def test_memory_behind_the_donation_is_the_guests_too() -> None:
    """What is donated begins at a whole MiB."""
    even, odd = booted(), booted(memory_mib=2200.5)
    assert odd.host.pool.free == even.host.pool.free + 128


def test_a_cpu_too_many_undoes_the_whole_guest() -> None:
    bench = booted()
    before = held(bench)
    with pytest.raises(TeRefused, match="create_cpu: rc 0x0103"):
        bench.do(Create(0, 8, 9))
    assert held(bench) == before
    assert not bench.host.guests
    bench.do(Create(0, 8, 8))


def test_a_configuration_too_many_undoes_itself() -> None:
    bench = booted()
    for number in range(8):
        bench.do(Create(number, 2, 1))
    before = held(bench)
    with pytest.raises(TeRefused, match="create_config: rc 0x0103"):
        bench.do(Create(8, 2, 1))
    assert held(bench) == before


def test_too_little_memory_undoes_the_guest() -> None:
    bench = booted()
    host = bench.host
    host.pool.take_many(host.pool.free - 60)
    before = held(bench)
    with pytest.raises(OutOfFrames):
        bench.do(Create(0, 64, 2))
    assert held(bench) == before


@pytest.mark.parametrize("frames", [0, 15, 17, 21])
def test_wherever_memory_ends_while_a_guest_is_made_all_comes_back(frames: int) -> None:
    """Not even the configuration's base, then not its variable storage, not its table, not its SCA."""
    bench = booted()
    host = bench.host
    host.pool.take_many(host.pool.free - frames)
    before = held(bench)
    with pytest.raises(OutOfFrames):
        bench.do(Create(0, 8, 1))
    assert held(bench) == before
    assert not host.guests


def test_running_out_of_memory_under_a_guest_is_an_operation_that_failed() -> None:
    bench = booted()
    bench.do(Create(0, 8, 1), Load(0), Start(0))
    host = bench.host
    host.pool.take_many(host.pool.free)
    host.backing.take(host.backing.left)
    with pytest.raises(OperationFailed):
        bench.do(Touch(0, 0, Pages(100, 4, 4)))
    bench.do(Destroy(0))


def test_an_image_for_another_machine_is_refused_and_the_guest_can_be_destroyed() -> None:
    bench = booted()
    bench.host.image = scenario_image(99, 1, 3)
    bench.do(Create(0, 8, 1))
    with pytest.raises(TeRefused, match="set_params: rc 0x0108, rrc 0x0005"):
        bench.do(Load(0))
    assert calls(bench.do(Destroy(0))) == {"destroy_cpu": 1, "destroy_config": 1}


def test_an_image_larger_than_its_guest_is_not_loaded_and_the_guest_can_be_destroyed() -> None:
    bench = booted(size=Size(1, 300, 0, 0, 1))
    bench.do(Create(0, 1, 1))
    with pytest.raises(GuestFailed, match="guest 0: its image has pages outside its memory, or one twice"):
        bench.do(Load(0))
    assert calls(bench.do(Destroy(0))) == {"destroy_cpu": 1, "destroy_config": 1}, (
        "no page of it was unpacked"
    )


def test_a_changed_image_is_found_by_verify() -> None:
    bench = booted()
    image = image_of(3)
    page = image.pages[1]
    changed = replace(page, data=page.data[:-1] + bytes([page.data[-1] ^ 1]))
    bench.host.image = replace(image, pages=(image.pages[0], changed, image.pages[2]))
    bench.do(Create(0, 8, 1))
    with pytest.raises(TeRefused, match="verify: rc 0x0102, rrc 0x001b"):
        bench.do(Load(0))
    bench.do(Destroy(0))
    assert bench.level.statistics()["secure_pages"] == 0


@pytest.mark.parametrize(
    ("operation", "says"),
    [
        (Create(0, 8, 1), "has a guest 0 already"),
        (Load(7), "has no guest 7"),
        (Touch(0, 5, Pages(100, 1, 1)), "has 1 CPUs, no number 5"),
        (Exits(0, 0, "hypercall", "vmm", 1), "no exit of an s390 guest: 'hypercall'; allowed: diag_notify"),
        (Shutdown(), r"guests \[0\] are still there"),
        (Change(0, 0, 99, shared=False, busy=True), "page 0x63 of guest 0 is not there"),
        (Swap(0, 0, Pages(99, 1, 1)), "page 0x63 of guest 0 is not there"),
        (Operation(), "no operation of an s390 host"),
    ],
)
def test_an_operation_that_makes_no_sense_says_why_and_changes_nothing(
    operation: Operation, says: str
) -> None:
    bench = booted()
    bench.do(Create(0, 8, 1), Load(0), Start(0))
    before = held(bench)
    with pytest.raises(ValueError, match=says):
        bench.do(operation)
    assert held(bench) == before
    bench.do(Share(0, 0, Pages(100, 2, 2)))


def test_a_host_without_an_image_loads_nothing() -> None:
    bench = booted()
    bench.host.image = None
    bench.do(Create(0, 8, 1))
    with pytest.raises(ValueError, match="without an image"):
        bench.do(Load(0))


def deep(value: object, seen: set[int]) -> int:
    """Bytes of an object and all that it alone refers to."""
    if id(value) in seen or isinstance(value, type):
        return 0
    seen.add(id(value))
    size = getsizeof(value)
    if isinstance(value, dict):
        size += sum(deep(each, seen) for item in value.items() for each in item)
    elif isinstance(value, list | tuple | set):
        size += sum(deep(each, seen) for each in value)
    names = [*getattr(value, "__dict__", {}), *getattr(type(value), "__slots__", ())]
    size += deep(value.__dict__, seen) if hasattr(value, "__dict__") else 0
    return size + sum(deep(getattr(value, name), seen) for name in names if hasattr(value, name))


def test_a_guest_that_does_nothing_takes_less_than_four_kilobytes() -> None:
    bench = booted(size=Size(2, 64, 128, 16, 8))
    bench.bring_up()
    guest, host = bench.host.guest(0), bench.host
    theirs = {id(host.level), id(host.pool)}
    assert deep(guest, theirs) < 4096


def test_a_page_whose_table_has_no_frame_gives_its_own_back() -> None:
    """The guest has 8 MiB: a page of another segment needs another table."""
    bench = booted()
    bench.do(Create(0, 8, 1))
    host, guest = bench.host, bench.host.guest(0)
    for page in (0, 0x100):  # two tables lie in one frame
        fault_in(host, guest, page)
    taken, left = host.pool.take_many(host.pool.free), host.backing.left
    assert left, "there are frames for pages"
    with pytest.raises(OutOfFrames):
        fault_in(host, guest, 0x200)
    assert host.backing.left + host.pool.free == left
    host.pool.give(taken)
    fault_in(host, guest, 0x200)
    assert host.backing.left + host.pool.free == left + len(taken) - 2, "the page, and the frame of its table"


# -- what a guest leaves for, and what its host makes of it ---------------------------------------------


def test_a_guest_that_enables_an_interruption_goes_on() -> None:
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    guest = bench.host.guest(0)
    counts = bench.count(run(bench.host, guest, guest.vcpus[0], Feed([(Lctl(6), True), (Lctl(14), True)])))
    left = {key[2]: n for key, n in counts.items() if key[0] == "exits"}
    assert left == {"icpt_64": 1, "icpt_60": 1, "wait": 1}


@pytest.mark.parametrize(("code", "intercept"), [(0x308, "icpt_6c"), (0x258, "icpt_68")])
def test_a_diagnose_that_asks_nothing_of_its_host_is_finished_and_no_more(code: int, intercept: str) -> None:
    """Subcode 5 of 0x308 is no reset; of another diagnose the guest's registers are none of the host's."""
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    guest = bench.host.guest(0)
    feed = Feed([(SetCpu(((2, 5),)), False), (Diag(code, 0, 2), True)])
    counts = bench.count(run(bench.host, guest, guest.vcpus[0], feed))
    left = {key[2]: n for key, n in counts.items() if key[0] == "exits"}
    assert left == {intercept: 1, "wait": 1}
    assert not calls(counts), "nothing was reset"
    (secure,) = bench.rig.machines[0].secure_cpus.values()
    assert secure.gprs[2] == 5


@pytest.mark.parametrize(("order", "address"), [(1, 0), (6, 7)])
def test_an_order_that_changes_no_cpu_of_the_guest_is_heard_and_no_more(order: int, address: int) -> None:
    """SENSE changes no state, and there is no CPU 7 to restart."""
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    guest = bench.host.guest(0)
    states = [vcpu.state for vcpu in guest.vcpus]
    counts = bench.count(run(bench.host, guest, guest.vcpus[0], Feed([(Sigp(order, address), True)])))
    assert not calls(counts), "no state was set"
    assert [vcpu.state for vcpu in guest.vcpus] == states


def test_a_guest_that_moves_its_prefix_has_it_brought_in_where_it_is_now() -> None:
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    guest = bench.host.guest(0)
    vcpu = guest.vcpus[0]
    counts = bench.count(run(bench.host, guest, vcpu, Feed([(Spx(0x200000), True)])))
    assert vcpu.prefix == 0x200000
    left = {key[2]: n for key, n in counts.items() if key[0] == "exits"}
    assert left == {"icpt_6c": 1, "icpt_70": 1, "wait": 1}
    assert all(frame_of(bench.host.level, guest.table, 0x200 + n) is not None for n in (0, 1))


def test_a_guest_that_stores_behind_its_memory_is_given_up() -> None:
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    guest = bench.host.guest(0)
    with pytest.raises(GuestFailed, match=r"the program of CPU 0 failed: .*0x05"):
        bench.count(run(bench.host, guest, guest.vcpus[0], Feed([(Store(8 << 20, True, b"x"), True)])))
    bench.do(Destroy(0))
    assert not any(bench.rig.remains().values())


def test_a_table_that_leads_behind_the_memory_of_its_host_gives_its_guest_up() -> None:
    """Bringing the page in would not help."""
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    guest = bench.host.guest(0)
    guest.table.map(0x20, bench.level.size >> PAGE_SHIFT)
    with pytest.raises(GuestFailed, match="addressing at "):
        bench.do(Touch(0, 0, Pages(0x20, 1, 1)))


def test_a_guest_that_loops_for_ever_is_given_up_and_can_be_destroyed() -> None:
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    guest = bench.host.guest(0)
    with pytest.raises(GuestFailed, match="intercept 0x08"):
        bench.count(run(bench.host, guest, guest.vcpus[0], Feed([(Loop(), True)])))
    bench.do(Destroy(0))
    assert not any(bench.rig.remains().values())


def test_a_cpu_that_would_not_go_keeps_what_it_and_its_configuration_were_given() -> None:
    """To the Ultravisor it is still in SIE, so both stay donated for ever; the guest's pages come back."""
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    before, machine = held(bench)[0], bench.rig.machines[0]
    bench.bring_up()
    machine.secure_cpus[bench.host.guest(0).vcpus[0].handle].inside = True
    assert calls(bench.do(Destroy(0)))["destroy_cpu"] == 1, "its configuration is not even asked for"
    assert not bench.host.guests
    donated = bench.rig.remains()
    assert (donated["configs"], donated["cpus"]) == (1, 1)
    assert bench.level.statistics()["secure_pages"] == 0
    assert bench.host.leaked == before - held(bench)[0] > 0


# -- a dump, an image, a reset --------------------------------------------------------------------------


def test_a_dump_that_is_refused_says_which_call_and_gives_its_area_back() -> None:
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    machine, free = bench.rig.machines[0], bench.host.pool.free
    (secure,) = machine.secure_cpus.values()
    secure.inside = True
    with pytest.raises(TeRefused, match="dump_cpu: rc 0x0101"):
        bench.do(Dump(0))
    assert bench.host.pool.free == free
    secure.inside = False
    bench.do(Destroy(0))
    assert not any(bench.rig.remains().values())


def test_a_page_that_cannot_be_read_ends_the_dump() -> None:
    bench = Bench(0, Size(1, 3, 4, 2, 8))
    bench.boot()
    bench.bring_up()
    frame = frame_of(bench.host.level, bench.host.guest(0).table, FIRST)
    assert frame is not None
    states = bench.rig.machines[0].state
    states[frame] = PageState.DONATED
    with pytest.raises(GuestFailed, match="of guest 0 cannot be exported"):
        bench.do(Dump(0))
    states[frame] = PageState.SECURE
    bench.do(Destroy(0))
    assert not any(bench.rig.remains().values())


def test_an_image_without_its_parameters_is_not_unpacked() -> None:
    bench = booted()
    bench.do(Create(0, 8, 1))
    host, image = bench.host, image_of(3)
    with pytest.raises(TeRefused, match="unpack: rc 0x0003"):
        bench.count(unpack(host, host.guest(0), image.pages))
    bench.do(Destroy(0))
    assert not any(bench.rig.remains().values())


def test_a_page_of_an_image_that_the_ultravisor_does_not_find_is_given_up_after_three_tries() -> None:
    """The host's own table has it, write-protected: to fault it in again changes nothing."""
    bench = booted()
    bench.do(Create(0, 8, 1))
    guest = bench.host.guest(0)
    guest.table.map(FIRST + 1, bench.host.backing.take_one(), protect=True)
    before = Counter(bench.rig.ledger.counts())
    with pytest.raises(TeRefused, match="unpack: rc 0x010a"):
        bench.do(Load(0))
    asked = Counter(bench.rig.ledger.counts()) - before
    assert calls(asked)["unpack"] == 1 + 3
    bench.do(Destroy(0))
    assert not any(bench.rig.remains().values())


def test_a_reset_stops_no_cpu_that_never_started() -> None:
    """Both resets load the first CPU anew, and start the second as the guest does when it boots."""
    asked = []
    for boots in (start, None):
        bench = Bench(0, Size(2, 3, 0, 0, 8))
        bench.boot()
        bench.do(Create(0, 8, 2), Load(0))
        guest = bench.host.guest(0)
        if boots is None:
            bench.do(Start(0))
        else:
            bench.count(boots(bench.host, guest))
        asked.append(calls(bench.do(Reset(0, clear=True)))["cpu_set_state"])
        assert [vcpu.state for vcpu in guest.vcpus] == [OPERATING, OPERATING]
    assert asked == [3, 4]


# -- an Ultravisor that has no Destroy Secure Configuration Fast ----------------------------------------


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> str:
    small = PROFILES["small"]
    absent = frozenset({BY_NAME["destroy_config_fast"].code})
    monkeypatch.setitem(PROFILES, "older", replace(small, name="older", absent=absent))
    return "older"


def test_without_the_fast_call_a_killed_guest_goes_after_its_pages(older: str) -> None:
    bench = booted(profile=older)
    bench.bring_up()
    done = calls(bench.do(Kill(0)))
    assert "destroy_config_fast" not in done
    assert done["destroy_config"] == 1
    assert not any(bench.rig.remains().values())


@pytest.mark.parametrize("bulk", [False, True])
def test_without_the_fast_call_a_guest_set_aside_goes_with_its_last_page(older: str, bulk: bool) -> None:
    """Its pages go one by one, or in a run, while its configuration is still there."""
    bench = booted(profile=older, memory_mib=4400, bulk=bulk)
    bench.do(Create(0, 2049, 1), Load(0), Start(0), Touch(0, 0, Pages(600, 20, 20)))
    bench.do(Share(0, 0, Pages(700, 10, 10)))
    assert "destroy_config" not in calls(bench.do(Destroy(0, behind=True)))
    assert bench.host.aside is not None
    bench.do(Create(1, 8, 1), Destroy(1), Shutdown())
    assert bench.level.statistics()["secure_pages"] == 0
    assert not any(bench.rig.remains().values())
