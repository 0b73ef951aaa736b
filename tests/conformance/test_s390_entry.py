"""Entry to a secure CPU: what the Ultravisor accepts, section 5.3 of the fact sheet, and intercept 112.

Nothing of the guest runs at an entry that is refused: put right what was wrong and enter again.
"""

from __future__ import annotations

import pytest
from s390_blocks import KICKED, MIB, PAGE, PREFIX, STOPPED, VALIDITY, WAIT
from s390_field import AddressSpace, Exit, Host
from s390_guest import (
    FULL_TIMER,
    IMAGE_AT,
    SIE_CONFIG_HANDLE,
    SIE_CPU_HANDLE,
    SIE_ICPTCODE,
    SIE_IICTL,
    SIE_IPA,
    SIE_IPB,
    SIE_TIMER,
    Image,
    SecureGuest,
    boot_guest,
)

MARK = {"read": hex(IMAGE_AT), "len": 7}
DONE = [{"hex": b"this is".hex()}]


@pytest.fixture
def guest(host: Host) -> SecureGuest:
    """A started guest with one step to do."""
    made = boot_guest(host)
    made.program(MARK)
    return made


def refused(left: Exit) -> None:
    """A validity intercept with a reason of the Ultravisor, and nothing has run."""
    assert left.code == VALIDITY, left
    assert left.reason & 0xFF00 == 0x2000, left
    assert left.steps == []


def accepted(left: Exit, steps: object = None) -> None:
    assert (left.code, left.steps) == (WAIT, DONE if steps is None else steps), left


# -- handles ----------------------------------------


@pytest.mark.parametrize("field", [SIE_CPU_HANDLE, SIE_CONFIG_HANDLE], ids=["cpu", "config"])
def test_a_handle_that_is_wrong_in_any_bit_is_refused(host: Host, guest: SecureGuest, field: int) -> None:
    right = host.get(guest.sie + field)
    for bit in range(64):
        host.put(guest.sie + field, right ^ 1 << bit)
        refused(guest.enter())
    host.put(guest.sie + field, right)
    accepted(guest.enter())


def test_a_handle_of_zero_is_refused(host: Host, guest: SecureGuest) -> None:
    for field in (SIE_CPU_HANDLE, SIE_CONFIG_HANDLE):
        right = host.get(guest.sie + field)
        host.put(guest.sie + field, 0)
        refused(guest.enter())
        host.put(guest.sie + field, right)
    accepted(guest.enter())


def test_the_handles_of_two_guests_cannot_be_mixed(host: Host, guest: SecureGuest) -> None:
    other = boot_guest(host)
    host.control(cr1=guest.space.asce)
    host.put(guest.sie + SIE_CPU_HANDLE, other.cpus[0].handle)
    refused(guest.enter())
    host.put(guest.sie + SIE_CPU_HANDLE, guest.cpus[0].handle)
    host.put(guest.sie + SIE_CONFIG_HANDLE, other.handle)
    refused(guest.enter())
    host.control(cr1=other.space.asce)
    refused(guest.enter())
    host.control(cr1=guest.space.asce)
    host.put(guest.sie + SIE_CONFIG_HANDLE, guest.handle)
    accepted(guest.enter())


def test_the_two_handles_cannot_change_places(host: Host, guest: SecureGuest) -> None:
    host.put(guest.sie + SIE_CPU_HANDLE, guest.handle)
    host.put(guest.sie + SIE_CONFIG_HANDLE, guest.cpus[0].handle)
    refused(guest.enter())


def test_the_handles_of_what_is_destroyed_are_refused(host: Host, guest: SecureGuest) -> None:
    host.call("destroy_cpu", handle=guest.cpus[0].handle).done()
    refused(guest.enter())
    host.call("destroy_config", handle=guest.handle).done()
    refused(guest.enter())


# -- the guest's address space ----------------------------------------


def test_cr1_holds_the_asce_of_the_configuration(host: Host, guest: SecureGuest) -> None:
    right = guest.space.asce
    for wrong in (0, right ^ 0x80, right ^ 1, right ^ 0x4000, AddressSpace(host).asce):
        host.control(cr1=wrong)
        refused(guest.enter())
    host.control(cr1=right)
    accepted(guest.enter())


def test_an_equal_table_elsewhere_is_another_asce(host: Host, guest: SecureGuest) -> None:
    """The value counts, and not what it leads to."""
    copy = host.alloc(2048 * 8)
    host.write(copy, host.read(guest.space.top, 2048 * 8))
    host.control(cr1=copy | guest.space.asce & 0xFFF)
    refused(guest.enter())
    host.control(cr1=guest.space.asce)
    accepted(guest.enter())


def test_every_cpu_of_the_host_has_its_own_cr1(host: Host, guest: SecureGuest) -> None:
    host.cpu(1, running=True)
    refused(host.enter(guest.sie, cpu=1))
    host.control(1, cr1=guest.space.asce)
    accepted(host.enter(guest.sie, cpu=1))


# -- the CPU timer ----------------------------------------


def with_timer(guest: SecureGuest) -> int:
    """Let the guest set its timer; return what the exit shows of it."""
    left = guest.run({"cpu": {"timer": hex(FULL_TIMER)}})
    accepted(left, [*DONE, {}])
    shown = guest.host.get(guest.sie + SIE_TIMER)
    assert shown == FULL_TIMER, "steps take no guest time"
    guest.program(MARK)
    return shown


def test_the_timer_does_not_matter_at_the_first_entry(host: Host, guest: SecureGuest) -> None:
    """console/s390.md, `enter`."""
    host.put(guest.sie + SIE_TIMER, 0x1234_5678_9ABC_D000)
    accepted(guest.enter())


def test_the_timer_of_the_last_exit_is_accepted(host: Host, guest: SecureGuest) -> None:
    with_timer(guest)
    accepted(guest.enter())


@pytest.mark.parametrize("up", [1, 4096, 1 << 40], ids=["unit", "microsecond", "day"])
def test_a_timer_that_was_moved_up_is_refused_until_it_is_restored(
    host: Host, guest: SecureGuest, up: int
) -> None:
    shown = with_timer(guest)
    host.put(guest.sie + SIE_TIMER, shown + up)
    refused(guest.enter())
    host.put(guest.sie + SIE_TIMER, shown)
    accepted(guest.enter())


def test_a_timer_may_go_down_by_the_time_outside_and_a_margin(host: Host, guest: SecureGuest) -> None:
    """console/s390.md: TOD time since then plus 100 microseconds."""
    shown = with_timer(guest)
    host.put(guest.sie + SIE_TIMER, shown - 100 * 4096)
    accepted(guest.enter())


def test_a_timer_that_went_down_too_far_is_refused_until_it_is_restored(
    host: Host, guest: SecureGuest
) -> None:
    """The requests in between take at most 20 microseconds each: 10 ms is too far."""
    shown = with_timer(guest)
    for down in (10_000 * 4096, 1 << 40, shown):
        host.put(guest.sie + SIE_TIMER, shown - down)
        refused(guest.enter())
    host.put(guest.sie + SIE_TIMER, shown)
    accepted(guest.enter())


def test_time_outside_is_what_the_clock_says(host: Host, guest: SecureGuest) -> None:
    """A timer moved down by exactly the TOD time outside is accepted, however long that was."""
    shown = with_timer(guest)
    before = host.tod()
    for _ in range(200):
        host.tod()
    host.put(guest.sie + SIE_TIMER, shown - (host.tod() - before))
    accepted(guest.enter())


# -- what state the guest is in ----------------------------------------


@pytest.mark.parametrize("stage", ["created", "params", "unpacked"])
def test_a_guest_that_is_not_verified_is_not_entered(host: Host, stage: str) -> None:
    """5.2: nothing of it may run. Which intercept says so is not known."""
    guest = SecureGuest.create(host)
    image = Image.build(host)
    if stage != "created":
        guest.set_params(image.header).done()
    if stage == "unpacked":
        guest.unpack_all(image)
    host.control(cr1=guest.space.asce)
    left = guest.run(MARK)
    assert left.code in (VALIDITY, PREFIX)
    assert left.steps == []


def test_a_cpu_is_inside_once(host: Host, guest: SecureGuest) -> None:
    """5.3: the same CPU already inside SIE on another CPU."""
    host.cpu(1, running=True)
    host.control(1, cr1=guest.space.asce)
    assert host.ok("enter", vcpu=hex(guest.sie), stay=True) == {"running": True}
    left = host.enter(guest.sie, cpu=1)
    assert (left.code, left.reason & 0xFF00) == (VALIDITY, 0x2000)
    left = Exit.read(host.ok("kick", cpu=0))
    assert left.code == KICKED
    assert host.enter(guest.sie, cpu=1).code == WAIT


def test_two_cpus_of_a_guest_are_inside_at_once(host: Host) -> None:
    guest = boot_guest(host, cpus=2)
    host.cpu(1, running=True)
    host.control(1, cr1=guest.space.asce)
    host.ok("enter", vcpu=hex(guest.cpus[0].sie), stay=True)
    guest.program(MARK, cpu=1)
    accepted(host.enter(guest.cpus[1].sie, cpu=1))
    host.ok("kick", cpu=0)


def test_a_cpu_in_a_guest_does_nothing_else(host: Host, guest: SecureGuest) -> None:
    """console.md: it refuses other work with bad_request."""
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    host.error("call", "bad_request", r2="0x100000")
    host.error("enter", "bad_request", vcpu=hex(guest.sie))
    host.error("insn", "bad_request", name="stck")
    assert Exit.read(host.ok("kick", cpu=0)).code == KICKED
    assert "error" in host.ask("kick", cpu=0), "nobody is inside any more"


def test_steps_queued_for_a_cpu_that_stays_run_at_once(host: Host, guest: SecureGuest) -> None:
    host.ok("enter", vcpu=hex(guest.sie), stay=True)
    body = host.ok("guest", vcpu=hex(guest.sie), do=[{"cpu": {"gprs": {"3": 7}}}, MARK])
    assert body["steps"][-2:] == [{}, *DONE]
    assert "exit" not in body
    body = host.ok("guest", vcpu=hex(guest.sie), do=[{"exit": "diag", "code": "0x9c", "r1": 3}])
    assert body["exit"]["icptcode"] == "0x6c"
    assert body["exit"]["gprs"][0] == "0x7"
    assert "error" in host.ask("kick", cpu=0), "the exit ended the stay"
    assert guest.fetch(IMAGE_AT, 7) == b"this is"


def test_replace_empties_the_program_first(host: Host, guest: SecureGuest) -> None:
    guest.program({"touch": "0x20000", "write": False}, {"touch": "0x21000", "write": False})
    host.ok("guest", vcpu=hex(guest.sie), do=[MARK], replace=True)
    accepted(guest.enter())


def test_a_guest_with_nothing_to_do_waits(host: Host, guest: SecureGuest) -> None:
    accepted(guest.enter())
    for _ in range(2):
        accepted(guest.enter(), [])
    accepted(guest.run({"exit": "wait"}, MARK), [{}])
    accepted(guest.enter())


# -- the prefix pages ----------------------------------------


@pytest.mark.parametrize("gaddr", [0, PAGE], ids=["first", "second"])
def test_a_prefix_page_that_is_exported_keeps_the_guest_out_until_it_is_imported(
    host: Host, guest: SecureGuest, gaddr: int
) -> None:
    """Intercept 112: nothing of the guest has run."""
    host.call("convert_from", paddr=guest.space.target(gaddr)).done()
    for _ in range(2):
        left = guest.enter()
        assert (left.code, left.steps) == (PREFIX, [])
    guest.convert_to(gaddr).done()
    accepted(guest.enter())


def test_a_prefix_page_that_is_shared_and_exported_keeps_the_guest_out(
    host: Host, guest: SecureGuest
) -> None:
    """5.5: ownership is not changed by sharing, and export works on shared pages."""
    accepted(guest.enter())
    guest.share(0).done()
    accepted(guest.run(MARK))
    host.call("convert_from", paddr=guest.space.target(0)).done()
    assert guest.run(MARK).code == PREFIX
    guest.convert_to(0).done()
    accepted(guest.enter())


def test_a_prefix_page_that_is_destroyed_keeps_the_guest_out(host: Host, guest: SecureGuest) -> None:
    host.call("destroy_storage", paddr=guest.space.target(PAGE)).done()
    assert guest.enter().code == PREFIX
    guest.convert_to(PAGE).done()
    accepted(guest.enter())


def test_a_new_prefix_has_pages_of_its_own(host: Host, guest: SecureGuest) -> None:
    accepted(guest.enter())
    left = guest.run({"exit": "spx", "prefix": "0x40000"}, MARK)
    assert left.code == 0x6C
    assert guest.enter().code == PREFIX
    guest.secure_page(0x40000)
    assert guest.enter().code == PREFIX
    guest.secure_page(0x41000)
    left = guest.enter()
    assert (left.code, left.steps[-1]) == (WAIT, DONE[0])


# -- the block ----------------------------------------


def test_an_exit_stands_in_the_block_as_well(host: Host, guest: SecureGuest) -> None:
    left = guest.run({"cpu": {"gprs": {"3": 0x77}}}, {"exit": "diag", "code": "0x9c", "r1": 3})
    block = host.read(guest.sie, 0x400)
    assert block[SIE_ICPTCODE] == left.code
    assert int.from_bytes(block[SIE_IPA : SIE_IPA + 2], "big") == left.ipa
    assert int.from_bytes(block[SIE_IPB : SIE_IPB + 4], "big") == left.ipb
    gprs = [int.from_bytes(block[0x380 + 8 * number :][:8], "big") for number in range(16)]
    assert gprs == left.gprs


def test_a_validity_intercept_stands_in_the_block_as_well(host: Host, guest: SecureGuest) -> None:
    host.control(cr1=0)
    left = guest.enter()
    refused(left)
    assert host.get(guest.sie + SIE_ICPTCODE, 1) == VALIDITY
    assert host.get(guest.sie + SIE_IPB, 4) == left.ipb


def test_what_belongs_to_the_ultravisor_is_ignored_in_the_block(host: Host, guest: SecureGuest) -> None:
    """console/s390.md: PSW, prefix, MSO and control registers of a secure CPU."""
    before = host.read(guest.sie, 0x200)
    for at, length in ((0x04, 4), (0x80, 16), (0x90, 0x10)):
        host.fill(guest.sie + at, length, 0xFF)
    accepted(guest.enter())
    assert host.read(guest.sie + SIE_CPU_HANDLE, 16) == before[SIE_CPU_HANDLE : SIE_CPU_HANDLE + 16]


@pytest.mark.parametrize("injection", [2, 3], ids=["external", "io"])
def test_an_interrupt_that_the_guest_is_not_enabled_for_is_refused(
    host: Host, guest: SecureGuest, injection: int
) -> None:
    """5.3: the image's PSW has no interruption enabled."""
    host.put(guest.sie + SIE_IICTL, injection, 1)
    refused(guest.enter())
    host.put(guest.sie + SIE_IICTL, 0, 1)
    accepted(guest.enter())


def test_a_block_outside_memory_is_an_addressing_exception(host: Host, guest: SecureGuest) -> None:
    fault = host.enter_fault(2200 * MIB)
    assert fault.code == 0x05
    assert fault.steps == []


# -- reset of a guest ----------------------------------------

CHAINS = {
    0: ["stop", "unshare_all", "prepare_reset", "cpu_reset_clear", "load"],
    1: ["stop", "unshare_all", "prepare_reset", "cpu_reset_initial", "load"],
}


def chain_step(guest: SecureGuest, name: str) -> None:
    """One step of the reset chain, for every CPU where it is one for CPUs."""
    host = guest.host
    if name == "stop":
        guest.stop_all()
    elif name == "load":
        guest.set_state(5).done()
    elif name == "cpu_reset_initial":
        host.call(name, handle=guest.cpus[0].handle).done()
        for cpu in guest.cpus[1:]:
            host.call("cpu_reset", handle=cpu.handle).done()
    elif name == "cpu_reset_clear":
        for cpu in guest.cpus:
            host.call(name, handle=cpu.handle).done()
    else:
        host.call(name, handle=guest.handle).done()


@pytest.mark.parametrize("subcode", [0, 1])
@pytest.mark.parametrize("done", range(5))
def test_a_guest_in_the_middle_of_a_reset_is_not_entered(host: Host, subcode: int, done: int) -> None:
    """5.2: after diag 308 every incomplete chain ends in a validity intercept; the complete one does not."""
    guest = boot_guest(host)
    left = guest.run(
        {"cpu": {"gprs": {"2": subcode}}}, {"exit": "diag", "code": "0x308", "r1": 0, "r3": 2}, MARK
    )
    assert (left.code, left.gprs[5], left.gprs[2]) == (0x6C, 0x308, subcode)
    chain = CHAINS[subcode]
    for name in chain[:done]:
        chain_step(guest, name)
    refused(guest.enter())
    for name in chain[done:]:
        chain_step(guest, name)
    left = guest.enter()
    assert left.code == WAIT
    assert left.steps[-1:] == DONE


@pytest.mark.parametrize("subcode", [0, 1])
def test_a_reset_guest_runs_again_with_all_its_cpus(host: Host, subcode: int) -> None:
    """Section 6 rows 8 and 9, with two CPUs and a shared page."""
    guest = boot_guest(host, cpus=2)
    page = guest.secure_page(0x20000)
    guest.share(0x20000).done()
    guest.run({"cpu": {"gprs": {"2": subcode}}}, {"exit": "diag", "code": "0x308", "r1": 0, "r3": 2})
    for name in CHAINS[subcode]:
        chain_step(guest, name)
    assert host.is_secure(page), "nothing stays shared over a reset"
    left = guest.run(MARK)
    assert left.steps[-1:] == DONE
    guest.set_state(1, cpu=1).done()
    accepted(guest.run(MARK, cpu=1))


def test_the_second_cpu_stays_out_while_the_guest_resets(host: Host) -> None:
    guest = boot_guest(host, cpus=2)
    guest.run({"cpu": {"gprs": {"2": 0}}}, {"exit": "diag", "code": "0x308", "r1": 0, "r3": 2})
    for name in CHAINS[0][:4]:
        chain_step(guest, name)
    refused(guest.run(MARK, cpu=1))


def test_the_reset_chain_has_an_order(host: Host) -> None:
    """2.3: stop, unshare, prepare. The codes are not known."""
    guest = boot_guest(host)
    host.call("unshare_all", handle=guest.handle).refused()
    host.call("prepare_reset", handle=guest.handle).refused()
    guest.set_state(STOPPED).done()
    host.call("prepare_reset", handle=guest.handle).refused()
    host.call("unshare_all", handle=guest.handle).done()
    host.call("prepare_reset", handle=guest.handle).done()
